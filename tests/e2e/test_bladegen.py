"""The generator's command line: every stage can be shown, other targets are generated, and mistakes in schedules are
reported with file, line and reason."""
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("BLADE_BUILD", ROOT / "build" / "release"))
BLADEGEN = BUILD / "bin" / "bladegen"
if not BLADEGEN.exists():
    sys.exit(77)


def run(*args):
    done = subprocess.run([str(BLADEGEN), *args], capture_output=True, text=True, errors="replace", timeout=600)
    if done.returncode < 0 or "Sanitizer" in done.stderr:
        raise AssertionError(f"crashed: {args}\n{done.stderr[-2000:]}")
    return done


GPUS = {"sm_80": ".target sm_80", "sm_86": ".target sm_86", "sm_89": ".target sm_89", "sm_90a": ".target sm_90a",
        "sm_100a": ".target sm_100a", "gfx90a": "gfx90a", "gfx942": "gfx942", "gfx1100": "gfx1100"}


def has_tool(target):
    """What makes code for a GPU out of LLVM's output; where it is missing, checks of that code are left out."""
    names = ("ptxas", "/usr/local/cuda/bin/ptxas") if target.startswith("sm_") else ("ld.lld-19", "ld.lld", "/usr/lib/llvm-19/bin/ld.lld")
    return any(shutil.which(name) for name in names)


def operators(family):
    """Those that `bladegen list` has a schedule of for the targets of a family, "host" or "gpu"."""
    rows = [line.split() for line in run("list", "--target", "host" if family == "host" else "sm_80").stdout.splitlines()]
    return sorted({row[0] for row in rows if len(row) > 1 and row[1] == family})


class Stages(unittest.TestCase):
    def test_list_names_every_operator(self):
        out = run("list").stdout
        for spec in (ROOT / "templates").glob("*.lua"):
            if "return operator" in spec.read_text():
                self.assertIn(spec.stem, out)

    def test_every_stage_of_a_kernel(self):
        expect = {"spec": "arguments:", "tile": "gemm", "llvm": "define void @kernel", "asm": "kernel:"}
        for stage, text in expect.items():
            done = run("show", "matmul", "--set", "w=f32", "--stage", stage)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn(text, done.stdout)

    def test_a_setting_changes_the_kernel(self):
        one, two = (run("show", "matmul", "--set", "w=f32", "--set", f"rows={r}").stdout for r in (1, 4))
        self.assertNotEqual(one, two)

    def test_vector_code_of_each_target(self):
        expect = {"x86-64-v4-bf16": "vdpbf16ps", "x86-64-v4": "zmm", "x86-64-v3": "vfmadd", "x86-64": "mulps", "aarch64": "fmla"}
        for target, text in expect.items():
            done = run("show", "matmul", "--target", target, "--set", "w=bf16", "--stage", "asm")
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn(text, done.stdout, target)

    def test_every_operator_is_generated_for_aarch64(self):
        for operator in operators("host"):
            done = run("show", operator, "--target", "aarch64", "--stage", "asm")
            self.assertEqual(done.returncode, 0, f"{operator}: {done.stderr}")
            self.assertIn("ret", done.stdout)

    def test_code_and_resources_of_every_gpu(self):
        for target, text in GPUS.items():
            asm = run("show", "rmsnorm", "--target", target, "--stage", "asm")
            self.assertEqual(asm.returncode, 0, asm.stderr)
            self.assertIn(text, asm.stdout)
            if not has_tool(target):
                continue
            done = run("show", "rmsnorm", "--target", target, "--stage", "resources")
            self.assertEqual(done.returncode, 0, done.stderr)
            head, row = done.stdout.splitlines()
            figures = dict(zip(head.split(), row.split()))
            self.assertEqual((figures["target"], figures["spills"], figures["stack"]), (target, "0", "0"))
            self.assertGreaterEqual(int(figures["registers"]), 8)
            self.assertRegex(row, r" \d+%  (threads|registers|shared|blocks) +rmsnorm eps=.*, \d+ bytes$")

    def test_instructions_of_a_gpu(self):
        if has_tool("gfx90a"):
            done = run("show", "rmsnorm", "--target", "gfx90a", "--stage", "sass")
            self.assertIn("s_endpgm", done.stdout)
        done = run("show", "rmsnorm", "--target", "sm_80", "--stage", "sass")
        self.assertTrue("EXIT" in done.stdout or "nvdisasm" in done.stderr or "ptxas" in done.stderr, done.stderr)

    def test_every_operator_passes_the_gates(self):
        for target in ("sm_80", "gfx90a"):
            for operator in operators("gpu") if has_tool(target) else ():
                done = run("show", operator, "--target", target, "--stage", "resources")
                self.assertEqual(done.returncode, 0, f"{operator} for {target}: {done.stderr}")

    def test_a_source_body_is_a_schedule(self):
        self.assertRegex(run("list", "--target", "sm_80").stdout, r"(?m)^sample +gpu +source .*source=sampler.cu$")
        done = run("show", "sample", "--target", "simt:sm_80", "--stage", "resources")
        self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_usage_errors(self):
        for args, text in (((), "bladegen build"), (("nonsense",), "unknown command"), (("show", "nonsense"), "unknown operator"),
                           (("show", "matmul", "--stage", "x"), "unknown stage"), (("list", "--target", "x"), "unknown target"),
                           (("show", "matmul", "--set", "width=3"), "no setting 'width'"),
                           (("build", "/nonexistent"), "/nonexistent"), (("build",), "which model")):
            done = run(*args)
            self.assertNotEqual(done.returncode, 0, args)
            self.assertIn(text, done.stderr, args)


# (what is put in place of the body of schedules/host/embedding.lua, what the message must say)
BROKEN = [
    ("return schedule 'embedding' {} (function(k, a, p) k:tiles('tokens'", ["embedding.lua:1", "expected near"]),
    ("return schedule 'embeding' {} (function() end)", ["embedding.lua:1", "unknown operator 'embeding'"]),
    ("return schedule 'embedding' {} (function(k, a, p)\nk:tiles('tokens')\nk:store(a.y, {k:block(0), 0}, k:col(24):f32())\nend)",
     ["embedding.lua:3", "24 columns"]),
    ("return schedule 'embedding' {} (function(k, a, p)\nk:tiles('tokenz')\nend)", ["unknown size 'tokenz'"]),
    ("return schedule 'embedding' {} (function(k, a, p)\nk:tiles('tokens')\nlocal x = k:load(a.tokens, {0, 1})\nend)",
     ["embedding.lua:3", "'tokens' has 1 dimensions, the view gives 2"]),
    ("return schedule 'embedding' {} (function(k, a, p)\nk:tiles('tokens')\nlocal x = k:load(a.tokens, {k:block(0)})\nlocal y = x + k:load(a.table, {0, 0})\nend)",
     ["embedding.lua:4", "mixes"]),
    ("return schedule 'embedding' {} (function(k, a, p)\nk:tiles('tokens')\nk:store(a.table, {0, 0}, 1)\nend)",
     ["embedding.lua:3", "'table' is an input"]),
    ("return schedule 'embedding' {} (function(k, a, p)\nk:tiles('tokens')\nk:store(a.y, {0, 0}, k:frag('f32', 1, 16))\nend)",
     ["embedding.lua:3", "not set on every path"]),
    ("return schedule 'embedding' {} (function(k, a, p)\nk:tiles('tokens')\nk:store(a.y, {0, 0}, k:frag('f32', 1, 16):set(0))\nend)",
     ["embedding.lua:3", "same elements"]),
    ("return schedule 'embedding' {} (function(k, a, p)\nk:tiles('tokens')\nlocal f = k:frag('f32', 1, 16):set(0)\nk:store(a.y, {k:block(0), 0}, f:sum())\nend)",
     ["embedding.lua:4", "no order for sums"]),
    ("return schedule 'embedding' {} (function(k, a, p)\nk:tiles('tokens')\nlocal x = a.nothing.rows\nend)", ["embedding.lua:3"]),
    ("return schedule 'embedding' {} (function(k, a, p)\nend)", ["no k:tiles"]),
    ("error('given up')", ["embedding.lua:1: given up"]),
    ("while true do local x = 1 end", ["embedding.lua:1", "endless"]),
]


class BrokenSchedules(unittest.TestCase):
    def test_mistakes_name_file_line_and_reason(self):
        with tempfile.TemporaryDirectory() as folder:
            source = pathlib.Path(folder)
            for part in ("compiler/lua", "templates", "schedules"):
                shutil.copytree(ROOT / part, source / part)
            victim = source / "schedules/host/embedding.lua"
            for text, expected in BROKEN:
                victim.write_text(text)
                done = run("show", "embedding", "--source", folder, "--stage", "tile")
                with self.subTest(schedule=text):
                    self.assertEqual(done.returncode, 1, done.stdout[:300])
                    for fragment in expected:
                        self.assertIn(fragment, done.stderr)

    def test_a_schedule_that_computes_the_wrong_thing_fails_the_check(self):
        with tempfile.TemporaryDirectory() as folder:
            source = pathlib.Path(folder)
            for part in ("compiler/lua", "templates", "schedules"):
                shutil.copytree(ROOT / part, source / part)
            victim = source / "schedules/host/rmsnorm.lua"
            text = victim.read_text()
            self.assertIn("/ p.n", text)
            victim.write_text(text.replace("/ p.n", "/ (p.n + 1)"))
            done = run("check", "--operator", "rmsnorm", "--source", folder)
            self.assertEqual(done.returncode, 1)
            self.assertIn("FAIL", done.stdout)
            self.assertIn("reference", done.stdout)


if __name__ == "__main__":
    unittest.main()
