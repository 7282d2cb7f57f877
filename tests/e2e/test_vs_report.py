"""Tables and curves of tests/bench/vs_llama_cpp.py from figures whose ratios are known; nothing is measured."""
import json
import subprocess
import sys
import xml.dom.minidom

from common import ROOT, Case, main


def result(point, tokens, rounds, **amounts):
    limits = {"read_bytes_per_second": 40e9, "peak_operations_per_second": 1e12}
    return {"model": "toy", "weights": "w4", "point": point, "tokens": tokens, **amounts,
            "rounds": [{"limits": limits, "Blade": b, "llama.cpp": p} for b, p in rounds]}


DATA = {
    "machine": "Toy", "threads": 2, "date": "2026-01-02", "target": "x86-64-v3",
    "sides": [{"name": "Blade", "version": "blade 1"}, {"name": "llama.cpp", "version": "<b2>"}],
    "results": [
        # limit: 0.5 s of operations
        result("prefill 100", 100, [(1.0, 2.0), (0.8, 2.4), (2.0, 2.0)], operations=0.5e12),
        # limit: 0.1 s of reads, though the operations take 0.02 s
        result("decode 4 128", 4, [(0.2, 0.15)] * 3, operations=0.02e12, bytes=4e9),
        result("decode 8 1024", 8, [(0.125, 0.25)] * 3, operations=0.1e12, bytes=2e9),
    ],
}


class Report(Case):
    def report(self, *args):
        source = self.temporary() / "figures.json"
        source.write_text(json.dumps(DATA))
        command = [sys.executable, ROOT / "tests/bench/vs_llama_cpp.py", "--from", source, *args]
        return subprocess.run([str(c) for c in command], capture_output=True, text=True, check=True).stdout

    def test_tables(self):
        text = self.report()
        self.assertIn("| 100 | 100 | 50 % | 2.00 |", text)
        self.assertIn("| 4 | 20 | 50 % | 0.75 | - | - | - |", text)
        self.assertIn("| 8 | - | - | - | 64 | 80 % | 2.00 |", text)
        self.assertIn("The lowest ratio is 0.75: toy, w4, decode 4 128, llama.cpp.", text)
        self.assertIn("Blade's code for x86-64-v3", text)

    def test_curves(self):
        out = self.temporary() / "curves.svg"
        self.report("--svg", out)
        tree = xml.dom.minidom.parse(str(out))
        self.assertEqual(len(tree.getElementsByTagName("circle")), 6)
        self.assertEqual(len(tree.getElementsByTagName("polyline")), 9)
        places = [float(c.getAttribute("cy")) for c in tree.getElementsByTagName("circle")]
        self.assertLess(places[0], places[1])  # the faster one is higher


if __name__ == "__main__":
    main()
