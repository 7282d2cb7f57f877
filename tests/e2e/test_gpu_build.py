"""GPUs without a GPU: packs of every format and architecture build within the gates where ptxas and ld.lld are found,
the kernels of an 8B model need no more registers than they may, and what runs on the SIMT machine is right."""
import os
import re
import resource
import shutil
import subprocess
import time

from common import BLADEGEN, GOLDEN, ROOT, Case, golden_models, main

DEMO = ROOT / "models" / "shakespeare-llama"
TARGETS = ["sm_80", "sm_90a", "sm_100a", "gfx90a", "gfx942", "gfx1100"]
SIMT = ["sm_80", "sm_90a", "gfx90a", "gfx942", "gfx1100"]
OTHER_FORMATS = ["f32", "f16", "w8", "w4a16", "auto"]
CHECK_SECONDS = 600  # of a processor, for all targets: 5 minutes on 2 cores

# Kernels of a model like Llama 3 8B: operator and parameters.
SHAPES = [
    "rmsnorm n=4096 out=bf16 residual=true", "rmsnorm n=4096 out=s8 group=128", "rmsnorm n=8192 out=s8 group=8192",
    "layernorm n=5120 out=bf16 bias=true", "quantize n=14336 out=s8 group=128", "quantize n=28672 out=s8 group=28672",
    "embedding n=4096 vocab=128256 w=bf16", "logits_scan vocab=128256", "sample vocab=32000", "sample vocab=128256",
    "sample vocab=262144", "limit_read n=65536", "limit_peak m=128 n=128 k=64 w=w8 repeats=64",
    "limit_peak m=128 n=128 k=64 w=bf16 repeats=64",
]


def tool_of(target):
    return "ptxas" if target.startswith("sm_") else "ld.lld-19"


def available(targets=TARGETS):
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/cuda/bin", "/usr/lib/llvm-19/bin"])
    return [t for t in targets if shutil.which(tool_of(t), path=path)]


class Gpu(Case):
    def bladegen(self, *args):
        done = subprocess.run([str(BLADEGEN), *map(str, args)], capture_output=True, text=True, timeout=600)
        command = " ".join(map(str, args))
        self.assertEqual(done.returncode, 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
        return done.stdout

    def targets(self):
        found = available()
        if not found:
            self.skipTest("neither ptxas nor ld.lld-19 is found")
        return found


class Packs(Gpu):
    def setUp(self):
        self.home = self.temporary()

    def build(self, model, target, weights):
        """Builds, and looks at the figures of all kernels."""
        pack = self.home / "a.pack"
        with self.subTest(model=model.name, target=target, weights=weights):
            self.bladegen("build", model, "--target", target, "--weights", weights, "--kernels", self.home / "kernels",
                          "-o", pack)
            rows = re.findall(r"(?m)^ *\d+ +(\d+) +\d+ +(\d+) +(\d+) +(\d+) +(\d+)  .*", self.bladegen("inspect", pack))
            self.assertGreater(len(rows), 15)
            for threads, registers, spills, stack, blocks in rows:
                self.assertTrue(32 <= int(threads) <= 1024 and int(registers) > 0 and int(blocks) > 0)
                self.assertEqual((spills, stack), ("0", "0"))

    def test_every_target(self):
        for target in self.targets():
            for weights in ("bf16", "w4"):
                self.build(DEMO, target, weights)

    def test_every_format(self):
        targets = self.targets()
        for i, weights in enumerate(OTHER_FORMATS):
            self.build(DEMO, targets[(i + 1) % len(targets)], weights)

    def test_every_architecture(self):
        targets = self.targets()
        for i, name in enumerate(golden_models()):
            self.build(GOLDEN / name, targets[i % len(targets)], "auto")


class Resources(Gpu):
    def test_large_shapes(self):
        """The table is the report: threads, registers, on-chip memory, occupancy and what limits it."""
        for target in self.targets():
            for shape in SHAPES:
                operator, *parameters = shape.split()
                with self.subTest(target=target, shape=shape):
                    sets = [word for p in parameters for word in ("--set", p)]
                    shown = self.bladegen("show", operator, *sets, "--target", target, "--stage", "resources")
                    line = shown.splitlines()[-1]
                    print(line)
                    got = re.match(r"\w+ +(\d+) +(\d+) +(\d+) +(\d+) +(\d+) +(\d+) ", line)
                    self.assertTrue(got, line)
                    threads, registers, _, spills, stack, blocks = map(int, got.groups())
                    self.assertEqual((spills, stack), (0, 0))
                    self.assertGreater(blocks, 0, line)
                    if target.startswith("sm_"):
                        self.assertLessEqual(registers * threads, 65536, line)


class Check(Gpu):
    def test_simt(self):
        """The quick tier of all targets, as many at once as there are processors, within its time."""
        waiting, running, before = list(SIMT), {}, resource.getrusage(resource.RUSAGE_CHILDREN)
        while waiting or running:
            while waiting and len(running) < max(2, os.cpu_count() or 2):
                target, log = waiting.pop(0), self.temporary() / "log"
                with open(log, "w") as out:
                    command = [str(BLADEGEN), "check", "--quick", "--target", f"simt:{target}"]
                    running[target] = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT), log
                self.addCleanup(running[target][0].kill)
            time.sleep(0.1)
            for target, (process, log) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[target]
                lines = log.read_text().splitlines() or [""]
                print(f"simt:{target}: {lines[-1]}")
                bad = [line for line in lines if line.startswith("FAIL")]
                self.assertEqual((process.returncode, bad), (0, []), "\n".join(lines[-5:]))
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        print(f"{seconds:.0f} s of a processor")
        self.assertLess(seconds, CHECK_SECONDS)


if __name__ == "__main__":
    main()
