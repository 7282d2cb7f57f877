"""bladetune from end to end on a small model: tuning, its database and text, faults, interruptions, and the offline way.

TUNE_KILLS is the number of times that a tuning run is killed (default 8).
"""
import json
import os
import pathlib
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import time
import xml.dom.minidom

from common import BLADE, BLADEGEN, BUILD, GOLDEN, ROOT, Case, main

BLADETUNE = BUILD / "bin" / "bladetune"
CONFIG = GOLDEN / "llama-f32" / "config.json"
KILLS = int(os.environ.get("TUNE_KILLS", 8))
IDENTITY = ("target", "operator", "parameters", "bucket")


class TuneCase(Case):
    """Every test has a home of its own, so that nothing of the user's is read or written."""

    def setUp(self):
        self.home = self.temporary()
        self.environment = {**os.environ, "XDG_DATA_HOME": str(self.home), "HOME": str(self.home)}
        self.db = self.home / "blade" / "tune.db"

    def run_it(self, program, *args, code=0, timeout=900):
        done = subprocess.run([str(program), *map(str, args)], capture_output=True, text=True, timeout=timeout,
                              env=self.environment, stdin=subprocess.DEVNULL)
        self.assertEqual(done.returncode, code, f"{args}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
        self.assertNotIn("Sanitizer", done.stderr)
        return done

    def tune(self, *args, **options):
        return self.run_it(BLADETUNE, "--config", CONFIG, "--weights", "w4", *args, **options).stdout

    def rows(self):
        """Identity and settings of the rows of the database."""
        with sqlite3.connect(self.db) as connection:
            self.assertEqual(connection.execute("PRAGMA integrity_check").fetchone()[0], "ok")
            return {row[:4]: row[4:] for row in
                    connection.execute(f"SELECT {', '.join(IDENTITY)}, settings, date FROM results")}

    def texts(self):
        return [json.loads(p.read_text()) for p in (self.home / "blade" / "tuned").glob("*.json")]


class Tuning(TuneCase):
    def test_tune_show_export_import(self):
        out = self.tune("--operator", "attention", "--budget", "10m")
        cases = int(re.search(r"threads, (\d+) cases", out).group(1))
        self.assertIn(f"[{cases}/{cases}]", out)
        self.assertRegex(out, r"mean rank correlation of the cost model -?\d")
        self.assertNotIn("rejected {", out)
        rows = self.rows()
        self.assertEqual(len(rows), cases)
        [text] = self.texts()
        self.assertEqual({tuple(e[k] for k in IDENTITY) for e in text["entries"]}, set(rows))
        for e in text["entries"]:
            self.assertLessEqual(e["measured"], 16)
            if e["settings"] == e["default_settings"]:
                self.assertEqual(e["gain"], 1)
            else:
                self.assertGreaterEqual(e["gain"], 1.02)
        self.shown(cases, text)
        self.again(cases)

    def shown(self, cases, text):
        svg = self.home / "x.svg"
        shipped = ROOT / "autotune" / "results" / (text["device"] + ".json")
        shown = cases + (len(json.loads(shipped.read_text())["entries"]) if shipped.exists() else 0)
        out = self.run_it(BLADETUNE, "show", "--svg", svg).stdout
        self.assertIn("device " + text["device"], out)
        self.assertEqual(len(re.findall(r"^(?:matmul|attention) ", out, re.M)), shown)
        drawing = xml.dom.minidom.parse(str(svg))
        self.assertEqual(len(drawing.getElementsByTagName("rect")), 1 + 2 * shown)
        exported = self.home / "x.json"
        self.run_it(BLADETUNE, "export", exported)
        self.assertEqual(json.loads(exported.read_text()), text)
        self.assertEqual(len(exported.read_text().splitlines()), cases + 2)
        other = self.home / "other" / "tune.db"
        self.run_it(BLADETUNE, "import", exported, "--db", other)
        self.assertEqual(json.loads((other.parent / "tuned" / (text["device"] + ".json")).read_text()), text)
        self.assertIn(f"{shown} cases", self.run_it(BLADETUNE, "show", "--db", other).stdout)

    def again(self, cases):
        out = self.tune("--operator", "attention", "--resume")
        self.assertIn(f"{cases} cases, {cases} of them finished already", out)
        self.assertNotIn("[1/", out)
        before = self.rows()
        out = self.tune("--operator", "attention", "--budget", "10m")
        same = int(re.search(rf"(\d+) of {cases} as before", out).group(1))
        self.assertEqual(same, sum(row[0] == before[key][0] for key, row in self.rows().items()))
        self.assertRegex(self.run_it(BLADETUNE, "compare", "--config", CONFIG, "--weights", "w4").stdout,
                         r"geometric mean of default / tuned \d")

    def test_winners_reach_the_pack(self):
        """An entry as bladetune writes it changes the kernels that are built, and the results do not change."""
        pack, other = self.home / "a.pack", self.home / "b.pack"
        build = ["build", CONFIG, "--weights", "f32"]
        self.run_it(BLADEGEN, *build, "-o", pack)
        self.run_it(BLADETUNE, "--config", CONFIG, "--weights", "f32", "--operator", "matmul", "--budget", "1s")
        path = next((self.home / "blade" / "tuned").glob("*.json"))
        text = json.loads(path.read_text())
        self.assertGreater(len(text["entries"]), 0)
        for e in text["entries"]:
            e["settings"]["rows"] = 3 if e["settings"]["rows"] == 2 else 2
        path.write_text(json.dumps(text))
        done = self.run_it(BLADEGEN, *build, "-o", other)
        self.assertEqual(done.stderr, "")
        self.assertNotEqual(pack.read_bytes(), other.read_bytes())
        self.run_it(BLADEGEN, *build, "-o", other, "--device", "none")
        self.assertEqual(self.kernels(pack), self.kernels(other))
        for e in text["entries"]:
            e["schedule"] = "default@00000000"
        path.write_text(json.dumps(text))
        done = self.run_it(BLADEGEN, *build, "-o", other)
        self.assertIn("the schedule has changed since the tuning of matmul", done.stderr)
        self.assertEqual(self.kernels(pack), self.kernels(other))
        path.write_text("{")
        done = self.run_it(BLADEGEN, *build, "-o", other)
        self.assertIn("the tuned settings in it are not used", done.stderr)

    def kernels(self, pack):
        return re.findall(rb'"name":"(\w+ [^"]*=[^"]*)"', pack.read_bytes())

    def test_generate_is_the_same_and_built_anew(self):
        model, cache = ROOT / "models" / "shakespeare-llama", self.home / "cache"
        command = [BLADE, "generate", model, "-p", "To be", "-n", 12, "--temperature", 0, "--cache", cache]
        before = self.run_it(*command).stdout
        pack = next(cache.glob("*.pack"))
        built = pack.stat().st_mtime_ns
        self.run_it(*command)
        self.assertEqual(pack.stat().st_mtime_ns, built)
        self.run_it(BLADETUNE, model, "--budget", "6s")
        self.assertEqual(self.run_it(*command).stdout, before)
        self.assertGreater(pack.stat().st_mtime_ns, built)

    def test_faults_are_rejected_and_reported(self):
        out = self.tune("--operator", "matmul", "--budget", "3s", "--inject-faults")
        cases = len(re.findall(r"^\[\d+/\d+\]", out, re.M))
        self.assertGreater(cases, 0)
        self.assertEqual(len(re.findall(r'^    rejected \{.*"fault":"wrong".*: wrong: y\[.*relative error', out, re.M)), cases)
        self.assertEqual(len(re.findall(r'^    rejected \{.*"fault":"bit".*: not bit-equal to the default', out, re.M)), cases)
        for settings, _ in self.rows().values():
            self.assertNotIn("fault", settings)

    def test_mistakes(self):
        out = self.run_it(BLADETUNE, "show").stdout
        self.assertRegex(out, r"nothing was tuned here|\d cases, geometric mean")
        self.assertFalse(self.db.exists())
        for args, text in (([], "give either"), (["--config", "/no/such.json"], "/no/such.json"),
                           (["--config", CONFIG, "--budget", "never"], "--budget"), (["import"], "which file"),
                           (["import", CONFIG], "not results"), (["measure", CONFIG, "-o", "/tmp/x"], "not a pack"),
                           (["build", "--config", CONFIG], "-o FILE"), ([CONFIG, "--operator", "nothing"], "nothing to tune"),
                           ([CONFIG, "--device", "gpu"], "--device"), ([CONFIG, "--device", "cuda:77"], "--device cuda:77"), ([CONFIG, "--db", "/proc/x/y.db"], "/proc/x")):
            done = subprocess.run([str(BLADETUNE), *map(str, args)], capture_output=True, text=True, timeout=60,
                                  env=self.environment)
            self.assertIn(done.returncode, (1, 2), args)
            self.assertIn(text, done.stderr, args)


class Interruptions(TuneCase):
    def start(self):
        return subprocess.Popen([str(BLADETUNE), "--config", str(CONFIG), "--weights", "w4", "--resume"],
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self.environment)

    def test_ctrl_c_keeps_what_is_finished(self):
        process = self.start()
        lines = [process.stdout.readline() for _ in range(3)]
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        out = "".join(lines) + out
        self.assertEqual(process.returncode, 130, out + err)
        self.assertIn("--resume goes on from here", out)
        self.assertEqual(len(self.rows()), len(re.findall(r"^\[\d+/\d+\]", out, re.M)))

    def test_kill_loses_nothing(self):
        generator, seen, printed = random.Random(7), {}, 0
        for _ in range(KILLS):
            process = self.start()
            time.sleep(generator.uniform(0.05, 1.5))
            process.kill()
            out, _ = process.communicate()
            printed += len(re.findall(r"^\[\d+/\d+\].*\n", out, re.M))
            if self.db.exists():
                rows = self.rows() if self.has_table() else {}
                self.assertGreaterEqual(len(rows), printed)
                for key, row in seen.items():
                    self.assertEqual(rows.get(key), row)
                seen = rows
            for text in self.texts():
                self.assertTrue({tuple(e[k] for k in IDENTITY) for e in text["entries"]} <= set(seen))
        out = self.tune("--operator", "attention", "--resume", "--budget", "10m")
        rows = self.rows()
        for key, row in seen.items():
            self.assertEqual(rows.get(key), row)
        self.assertGreaterEqual(len(rows), int(re.search(r"threads, (\d+) cases", out).group(1)))
        self.assertEqual(len(self.texts()[0]["entries"]), len(rows))
        self.assertEqual([p.name for p in (self.home / "blade" / "tuned").iterdir() if ".tmp." not in p.name],
                         [self.texts()[0]["device"] + ".json"])

    def has_table(self):
        with sqlite3.connect(self.db) as connection:
            return bool(connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'results'").fetchone())


class Offline(TuneCase):
    def test_round_trip(self):
        """Candidates built here, measured by a bladetune that has no generator, imported, and used in a pack."""
        candidates, results = self.home / "c.pack", self.home / "r.json"
        self.run_it(BLADETUNE, "build", "--target", "host", "--config", CONFIG, "--weights", "w8", "--operator", "attention",
                    "-o", candidates)
        alone = self.home / "alone" / "bin"
        alone.mkdir(parents=True)
        shutil.copy(BLADETUNE, alone)
        thin = alone / "bladetune"
        done = self.run_it(thin, "--config", CONFIG, code=1)
        self.assertIn("libbladegen.so is needed", done.stderr)
        out = self.run_it(thin, "measure", candidates, "-o", results, "--budget", "10m").stdout
        text = json.loads(results.read_text())
        self.assertEqual(len(text["entries"]), len(re.findall(r"^\[\d+/\d+\]", out, re.M)))
        self.assertFalse(self.db.exists())
        before = results.read_text()
        self.run_it(thin, "measure", candidates, "-o", results, "--resume")
        self.assertEqual(results.read_text(), before)
        self.run_it(BLADETUNE, "import", results)
        rows = self.rows()
        self.assertEqual(len(rows), len(text["entries"]))
        pack = self.home / "m.pack"
        done = self.run_it(BLADEGEN, "build", CONFIG, "--weights", "w8", "-o", pack)
        self.assertEqual(done.stderr, "")
        code = pack.read_bytes().decode("latin-1")
        for e in text["entries"]:
            s = ",".join(f"{k}={str(v).lower()}" for k, v in sorted(e["settings"].items()))
            self.assertIn(f'{e["operator"]} {e["parameters"]} {s}'.split(" ", 1)[1], code)
        self.assertEqual(self.tune_again(), len(rows))

    def tune_again(self):
        """What was imported counts as finished."""
        out = self.run_it(BLADETUNE, "--config", CONFIG, "--weights", "w8", "--operator", "attention", "--resume").stdout
        return int(re.search(r"(\d+) of them finished already", out).group(1))

    def test_round_trip_of_a_gpu(self):
        """The same for a GPU, by the stand-in driver; measured, imported, and used by whoever has that device."""
        model, candidates, results = ROOT / "models" / "shakespeare-llama", self.home / "c.pack", self.home / "r.json"
        text = self.generated(model)
        built = self.run_it(BLADETUNE, "build", model, "--target", "simt:sm_80", "--operator", "matmul", "--candidates", 2,
                            "--inject-faults", "-o", candidates).stdout
        cases = int(re.search(r"(\d+) cases", built).group(1))
        self.environment.update(self.standin())
        out = self.run_it(BLADETUNE, "measure", candidates, "-o", results, "--device", "cuda", "--budget", "6s").stdout
        entries = self.with_other_winners(results, out)
        self.assertLessEqual(len(entries), cases)
        self.run_it(BLADETUNE, "import", results)
        self.assertIn("device simt-sm-80", self.run_it(BLADETUNE, "show", "--device", "cuda").stdout)
        self.assertIn("device simt-sm-80", self.run_it(BLADETUNE, "show", "--device", "simt-sm-80").stdout)
        plain, tuned = self.home / "plain.pack", self.home / "tuned.pack"
        build = ["build", model, "--target", "simt:sm_80"]
        self.run_it(BLADEGEN, *build, "-o", plain)
        self.assertEqual(self.run_it(BLADEGEN, *build, "--device", "simt-sm-80", "-o", tuned).stderr, "")
        inspected = [self.run_it(BLADEGEN, "inspect", pack).stdout for pack in (plain, tuned)]
        for e in entries:
            settings = ",".join(f"{k}={str(v).lower()}" for k, v in sorted(e["settings"].items()))
            self.assertRegex(inspected[1], f"(?m)^.*{re.escape(settings)}")
        self.assertNotEqual(self.kernels_of(plain), self.kernels_of(tuned))
        self.assertEqual(self.generated(model), text)
        [cached] = (self.home / "cache").glob("*.pack")
        self.assertEqual(self.kernels_of(cached), self.kernels_of(tuned))

    def standin(self):
        path = os.environ.get("LD_LIBRARY_PATH", "")
        return {"LD_LIBRARY_PATH": f"{BUILD / 'standin'}:{path}" if path else str(BUILD / "standin"),
                "BLADE_STANDIN_TARGET": "sm_80"}

    def generated(self, model):
        before = dict(self.environment)
        self.environment.update(self.standin())
        done = self.run_it(BLADE, "generate", model, "-p", "To be", "-n", 6, "--temperature", 0, "--device", "cuda", "--cache",
                           self.home / "cache")
        self.environment = before
        return done.stdout

    def kernels_of(self, pack):
        return set(re.findall(rb'"name":"(\w+ [^"]*=[^"]*)"', pack.read_bytes()))

    def with_other_winners(self, results, out):
        """Faults are rejected; of the others the one that is not the default wins each case, however fast a stand-in is."""
        root = json.loads(results.read_text())
        self.assertEqual(root["device"], "simt-sm-80")
        self.assertGreater(len(root["entries"]), 0)
        for e in root["entries"]:
            self.assertEqual((e["target"], e["driver"].split()[0], e["rejected"]), ("simt:sm_80", "cuda", 2))
            self.assertEqual([d["verdict"] for d in e["details"][-2:]], ["rejected"] * 2)
            self.assertGreater(e["default_seconds"], 0)
            self.assertTrue(all(1e-6 < d["predicted"] < 1e-2 for d in e["details"]))
            e["settings"] = e["details"][1]["settings"]
            self.assertNotEqual(e["settings"], e["default_settings"])
        for fault, why in (("wrong", "wrong: y"), ("bit", "not bit-equal")):
            self.assertEqual(len(re.findall(rf'^    rejected .*"fault":"{fault}".*: {why}', out, re.M)), len(root["entries"]))
        results.write_text(json.dumps(root))
        return root["entries"]

    def test_a_gpu_that_fails(self):
        """What fails on the device ends the run with its message; results so far stay, and nothing wrong wins."""
        candidates, results = self.home / "c.pack", self.home / "r.json"
        self.run_it(BLADETUNE, "build", "--config", CONFIG, "--target", "simt:sm_80", "--weights", "w4", "--operator", "matmul",
                    "--candidates", 2, "-o", candidates)
        self.environment.update(self.standin(), BLADE_STANDIN_FAIL="launch:40")
        done = self.run_it(BLADETUNE, "measure", candidates, "-o", results, "--device", "cuda", "--budget", "20s", code=1)
        self.assertRegex(done.stderr, "matmul .*launching kernel")
        self.assertEqual(json.loads(results.read_text())["entries"], [])
        done = self.run_it(BLADETUNE, "measure", candidates, "-o", results, "--device", "host", code=1)
        self.assertIn("built for simt:sm_80", done.stderr)

    def test_other_targets_and_foreign_packs(self):
        candidates = self.home / "c.pack"
        self.run_it(BLADETUNE, "build", "--target", "aarch64", "--config", CONFIG, "--operator", "attention", "-o", candidates)
        done = self.run_it(BLADETUNE, "measure", candidates, "-o", self.home / "r.json", code=1)
        self.assertIn("built for aarch64", done.stderr)
        model = self.home / "m.pack"
        self.run_it(BLADEGEN, "build", CONFIG, "-o", model)
        done = self.run_it(BLADETUNE, "measure", model, "-o", self.home / "r.json", code=1)
        self.assertIn("bladetune build", done.stderr)
        data = candidates.read_bytes()
        (self.home / "cut.pack").write_bytes(data[:-100])
        done = self.run_it(BLADETUNE, "measure", self.home / "cut.pack", "-o", self.home / "r.json", code=1)
        self.assertIn("truncated", done.stderr)


if __name__ == "__main__":
    main()
