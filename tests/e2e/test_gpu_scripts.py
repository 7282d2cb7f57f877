"""tests/gpu: the scripts that prove and time Blade on a machine with a GPU, on the stand-in drivers (tests/standin) with a
few operators and tiny shapes; and that what is wrong does not pass."""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

from common import BLADEGEN, BUILD, ROOT, main

STANDIN = BUILD / "standin"
SCRIPTS = ROOT / "tests" / "gpu"
RUN_CASES = BUILD / "bin" / "run_cases"
sys.path.insert(0, str(SCRIPTS))
import table  # noqa: E402


def on_standin(target="sm_80", **more):
    path = os.environ.get("LD_LIBRARY_PATH", "")
    return {**os.environ, "LD_LIBRARY_PATH": f"{STANDIN}:{path}" if path else str(STANDIN), "BLADE_STANDIN_TARGET": target,
            **{f"BLADE_STANDIN_{key.upper()}": value for key, value in more.items()}}


def run(*args, env=None, status=0):
    done = subprocess.run([str(a) for a in args], capture_output=True, timeout=600, env=env or os.environ)
    out = done.stdout.decode() + done.stderr.decode()
    if done.returncode != status:
        raise AssertionError(f"{' '.join(map(str, args))}: status {done.returncode}, not {status}\n{out[-3000:]}")
    return out


def cases(folder, target, operators, *more):
    path = pathlib.Path(folder) / "cases.pack"
    run(BLADEGEN, "cases", "--quick", "--target", target, "--operator", operators, "-o", path, *more)
    return path


class Folder(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="blade-gpu-"))
        self.addCleanup(shutil.rmtree, self.folder, True)


class Scripts(Folder):
    def test_prepare_check_bench(self):
        kit, results = self.folder / "kit", self.folder / "results"
        run(SCRIPTS / "prepare.sh", "--build", BUILD, "--out", kit, "--smoke", "simt:sm_80")
        out = run(SCRIPTS / "check.sh", "--kit", kit, "--device", "cuda", "--quick", "--results", results, env=on_standin())
        self.assertRegex(out, r"\n[1-9]\d+ passed, 0 failed\n$")
        for text in ("rmsnorm", "logits near the host's", "alone as in the batch", "steps of 7 tokens", "without graphs"):
            self.assertIn(text, out)
        self.assertIn(" 0 failed", (results / "gpu-cuda-0-SIMT-sm-80-check.txt").read_text())
        out = run(SCRIPTS / "bench.sh", "--kit", kit, "--device", "cuda", "--smoke", "--results", results, env=on_standin())
        report = json.loads((results / "gpu-cuda-0-SIMT-sm-80-bench.json").read_text())
        self.assertEqual(set(report["limits"]), {"read", "copy", "bf16", "int8"})
        for sample in report["samples"]:
            self.assertGreater(sample.get("seconds", 0), 0, sample)
            self.assertEqual(sample["other_bits"], 0, sample)
            self.assertIn(sample["name"], out)
        for kind in ("matmul bf16", "matmul w4a16", "matmul w8", "matmul w4", "paged decode", "prefill", "rmsnorm"):
            self.assertTrue(any(s["name"].startswith(kind) for s in report["samples"]), kind)

    def test_nothing_prepared(self):
        for script in ("check.sh", "bench.sh"):
            self.assertIn("prepare.sh", run(SCRIPTS / script, "--kit", self.folder / "none", status=2))

    def test_no_gpu(self):
        kit = self.folder / "bin"
        kit.mkdir()
        for name in ("blade", "run_cases"):
            shutil.copy(BUILD / "bin" / name, kit)
        env = {**os.environ, "LD_LIBRARY_PATH": "", "BLADE_STANDIN_TARGET": "sm_80"}
        for device in ("cuda:63", "hip:63"):
            for script in ("check.sh", "bench.sh"):
                out = run(SCRIPTS / script, "--kit", self.folder, "--device", device, env=env, status=3)
                self.assertIn("no usable GPU", out)


class Cases(Folder):
    def test_hip(self):
        out = run(RUN_CASES, "--device", "hip", cases(self.folder, "simt:gfx942", "rmsnorm,pack_vector"), env=on_standin("gfx942"))
        self.assertRegex(out, r"\n[1-9]\d+ passed, 0 failed\n$")

    def test_host(self):
        out = run(RUN_CASES, "--device", "host", cases(self.folder, "host", "rmsnorm,sample,pack_gptq"))
        self.assertRegex(out, r"\n[1-9]\d+ passed, 0 failed\n$")

    def test_file_for_another_device(self):
        path = cases(self.folder, "simt:gfx942", "pack_vector")
        self.assertIn("for simt:gfx942", run(RUN_CASES, "--device", "cuda", path, env=on_standin(), status=1))
        path.write_bytes(path.read_bytes()[:-1])
        self.assertIn("truncated", run(RUN_CASES, "--device", "cuda", path, env=on_standin(), status=1))

    def faulty(self, old, new):
        """Cases of a rmsnorm whose schedule was changed."""
        source = self.folder / "source"
        for part in ("compiler/lua", "templates", "schedules"):
            shutil.copytree(ROOT / part, source / part)
        path = source / "schedules" / "gpu" / "rmsnorm.lua"
        text = path.read_text()
        self.assertIn(old, text)
        path.write_text(text.replace(old, new))
        return run(RUN_CASES, "--device", "cuda", cases(self.folder, "simt:sm_80", "rmsnorm", "--source", source), env=on_standin(),
                   status=1)

    def test_wrong_results(self):
        self.assertRegex(self.faulty("x[i] * scale *", "x[i] * scale * 1.01 *"), r"FAIL .*reference .*tolerance")

    def test_other_bits(self):
        out = self.faulty("x[i] * scale *", "x[i] * scale * (s.warps == 8 and 1 + 2^-22 or 1.0) *")
        self.assertRegex(out, r"FAIL .*warps=8: not bit-equal to the default")

    def test_forgotten_results(self):
        out = self.faulty("emit_wide(k, a, p, w, wide_map", "emit_wide(k, a, p, { rows = w.rows, n = w.n, row = w.row, first = {} }, wide_map")
        self.assertRegex(out, r"FAIL .* is -?nan, reference")

    def test_lost_device(self):
        path = cases(self.folder, "simt:sm_80", "pack_vector")
        out = run(RUN_CASES, "--device", "cuda", path, env=on_standin(fail="lost:4"), status=1)
        self.assertRegex(out, r"FAIL .*CUDA_ERROR_UNKNOWN")
        self.assertRegex(out, r"\nBROKEN 1\n")
        self.assertIn("\n1 passed, 1 failed\n", out)
        out = run(RUN_CASES, "--device", "cuda", "--from", "2", path, env=on_standin())
        self.assertRegex(out, r"\n1 passed, 0 failed\n$")


class Table(Folder):
    def test_merges(self):
        sample = {"name": "m", "seconds": 2e-6, "default_seconds": 3e-6, "moved": 2e6, "operations": 1e9, "peak": "bf16", "settings": "s",
                  "other_bits": 0}
        ours = {"device": "D", "target": "T", "limits": {"copy": 1e12, "bf16": 1e14}, "samples": [sample, {"name": "n", "failure": "no"}]}
        peer = {"software": "P", "limits": {"copy": 2e12, "bf16": 1e15}, "results": [{"name": "m", "who": "W", "seconds": 1e-6}]}
        report = table.merge(json.loads(json.dumps(ours)), [peer])
        self.assertEqual(report["samples"][0]["limit"], "copy")  # 2e6 B at the better copy: 1 us; 1e9 at the better peak: 1 us
        self.assertAlmostEqual(report["samples"][0]["share"], 0.5)
        text = table.markdown(report)
        self.assertIn("| m | 2.0 | 3.0 | 1000 | 500.0 | 50 % of copy | s | W 1.0 us, 0.50 of its speed |", text)
        self.assertIn("| n | failed: no |", text)
        alone = table.merge(json.loads(json.dumps(ours)), [])
        self.assertEqual(alone["samples"][0]["limit"], "bf16")  # 10 us
        self.assertAlmostEqual(alone["samples"][0]["share"], 5)


if __name__ == "__main__":
    if not (STANDIN / "libcuda.so.1").exists() or not BLADEGEN.exists():
        print("skipped: the stand-in drivers or the generator are not built")
        sys.exit(77)
    main()
