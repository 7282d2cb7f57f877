"""Packs from end to end: several targets in one file, inspect and diff, kernels kept between builds, edits of schedules,
processes that start at once, builds that are killed or find no room, and where the time of a start goes.

PACKS_KILLS is the number of times that a build and a first load are killed (default 8 each).
"""
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import time

from common import BLADE, BLADEGEN, GENERATOR, GOLDEN, ROOT, Case, main

MODEL = GOLDEN / "llama-f32"
CONFIG = MODEL / "config.json"
KILLS = int(os.environ.get("PACKS_KILLS", 8))


class PackCase(Case):
    """Every test has a home of its own, so that nothing of the user's is read or written."""

    def setUp(self):
        self.home = self.temporary()
        self.cache = self.home / "cache"
        self.environment = {**os.environ, "XDG_DATA_HOME": str(self.home), "HOME": str(self.home)}

    def run_it(self, program, *args, code=0, **options):
        done = subprocess.run([str(program), *map(str, args)], capture_output=True, text=True, errors="replace", timeout=300,
                              env=self.environment, stdin=subprocess.DEVNULL, **options)
        self.assertEqual(done.returncode, code, f"{args}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
        self.assertNotIn("Sanitizer", done.stderr)
        return done

    def build(self, name, *args, model=CONFIG, **options):
        pack = self.home / name
        self.run_it(BLADEGEN, "build", model, "-o", pack, *args, **options)
        return pack

    def diff(self, a, b):
        done = subprocess.run([str(BLADEGEN), "diff", str(a), str(b)], capture_output=True, text=True, timeout=60)
        self.assertIn(done.returncode, (0, 1), done.stderr)
        self.assertEqual(done.returncode == 0, done.stdout == "")
        return done.stdout

    def generate(self, *args, program=BLADE, cache=None, **options):
        return self.run_it(program, "generate", MODEL, "-p", "the quick brown", "-n", 6, "--cache", cache or self.cache, *args,
                           **options)

    def assert_clean(self, folder):
        self.assertEqual([p for p in folder.rglob("*") if ".tmp." in p.name or p.suffix == ".lock" or ".room" in p.name], [])


class Offline(PackCase):
    def test_several_targets(self):
        pack = self.build("m.pack", "--target", "aarch64", "--target", "x86-64", "--target", "host", "--target", "host",
                          model=MODEL)
        out = self.run_it(BLADEGEN, "inspect", pack).stdout
        targets = re.findall(r"^target (\S+)$", out, re.M)
        self.assertEqual(targets[:2], ["aarch64", "x86-64"])
        self.assertEqual(len(targets), 3 if targets[-1] != "x86-64" else 2)
        plan = json.loads(self.run_it(BLADE, "plan", MODEL, "--pack", pack, "--json").stdout)
        self.assertEqual(plan["target"], targets[-1])
        self.assertEqual(self.generate("--pack", pack).stdout, self.generate().stdout)

    def test_unknown_targets(self):
        done = self.run_it(BLADEGEN, "build", CONFIG, "--target", "host", "--target", "z80", "-o", self.home / "x", code=1)
        self.assertIn("unknown target 'z80'", done.stderr)
        self.assertFalse((self.home / "x").exists())

    def test_inspect(self):
        pack = self.build("a.pack", "--weights", "w8")
        out = self.run_it(BLADEGEN, "inspect", pack, "--sources").stdout
        for text in (f"{pack.stat().st_size} bytes", "weights w8", "LlamaForCausalLM", "launches of sampling", "step<=1",
                     "schedules/host/matmul.lua"):
            self.assertIn(text, out)
        self.assertRegex(out, r"(?m)^ +\d+ +\d+ +step\S*.* matmul \S*w=w8\S* \S*rows=\d+")

    def test_inspect_refuses(self):
        pack = self.build("a.pack")
        data = pack.read_bytes()
        for damaged, why in ((data[:-1], "truncated"), (data[:500] + b"x" + data[501:], "corrupt"), (b"GGUF", "not a pack"),
                             (data[:8] + b"\1" + data[9:], "format version 1")):
            pack.write_bytes(damaged)
            done = self.run_it(BLADEGEN, "inspect", pack, code=2)
            self.assertIn(why, done.stderr)

    def test_equal_builds_are_equal_files(self):
        a, b = self.build("a.pack"), self.build("b.pack", "--threads", 1)
        self.assertEqual(a.read_bytes(), b.read_bytes())
        self.assertEqual(self.diff(a, b), "")

    def test_diff_of_weights_and_targets(self):
        a = self.build("a.pack", "--target", "x86-64", "--target", "aarch64")
        b = self.build("b.pack", "--target", "x86-64", "--weights", "w8", "--target", "x86-64-v3")
        out = self.diff(a, b)
        for text in ("~ weights: auto -> w8", "- target aarch64", "+ target x86-64-v3", "target x86-64\n"):
            self.assertIn(text, out)
        self.assertRegex(out, r"(?m)^  \+ matmul \S*w=w8")


class Edits(PackCase):
    """An installation of its own, whose schedules may be edited."""

    def setUp(self):
        super().setUp()
        self.program = self.home / "bin" / "blade"
        self.share = self.home / "share" / "blade"
        for file, folder in ((BLADE, "bin"), (BLADEGEN, "bin"), (GENERATOR, "lib")):
            (self.home / folder).mkdir(exist_ok=True)
            shutil.copy2(file, self.home / folder)
        for part in ("compiler/lua", "templates", "schedules"):
            shutil.copytree(ROOT / part, self.share / part)

    def edit(self, name, old, new):
        file = self.share / name
        text = file.read_text()
        self.assertIn(old, text)
        file.write_text(text.replace(old, new))

    def kept(self):
        return {p.name for p in (self.cache / "kernels").iterdir()}

    def test_an_edited_setting_is_used_by_the_next_run(self):
        first = self.generate("--timing", program=self.program)
        pack, kernels = next(self.cache.glob("*.pack")), self.kept()
        before = self.home / "before.pack"
        shutil.copy(pack, before)
        self.assertIn("build pack", first.stderr)
        self.assertIn("find pack", self.generate("--timing", program=self.program).stderr)
        self.edit("schedules/host/matmul.lua", "chunk = 96, ahead", "chunk = 64, ahead")
        again = self.generate("--timing", program=self.program)
        self.assertIn("build pack", again.stderr)
        self.assertEqual(again.stdout, first.stdout)
        out = self.diff(before, pack)
        self.assertRegex(out, r"(?m)^~ schedules/host/matmul.lua: [0-9a-f]{16} -> [0-9a-f]{16}$")
        self.assertRegex(out, r"(?m)^  ~ matmul \S+: settings .*chunk=96.* -> .*chunk=64")
        self.assertEqual(len(re.findall("^~", out, re.M)), 1, out)
        changed = len(re.findall("(?m)^  ~ matmul", out))
        self.assertEqual(len(self.kept() - kernels), changed)  # the others were not compiled again

    def test_a_comment_rebuilds_the_pack_but_no_kernel(self):
        self.generate(program=self.program)
        pack, kernels = next(self.cache.glob("*.pack")), self.kept()
        code = pack.read_bytes()
        self.edit("schedules/host/rmsnorm.lua", "return schedule", "-- a comment\nreturn schedule")
        self.assertIn("build pack", self.generate("--timing", program=self.program).stderr)
        self.assertEqual(self.kept(), kernels)
        self.assertNotEqual(pack.read_bytes(), code)  # its sources are others

    def test_a_broken_schedule_is_reported_and_leaves_the_pack(self):
        self.generate(program=self.program)
        pack = next(self.cache.glob("*.pack"))
        whole = pack.read_bytes()
        self.edit("schedules/host/rmsnorm.lua", "k:tiles(norm_rows(p))", "k:tiles(")
        done = self.generate(program=self.program, code=1)
        self.assertIn("schedules/host/rmsnorm.lua", done.stderr)
        self.assertEqual(pack.read_bytes(), whole)
        self.assert_clean(self.cache)


class KeptKernels(PackCase):
    def test_models_share_kernels(self):
        kernels = self.home / "kernels"
        plain = self.build("plain.pack")
        self.assertEqual(self.build("a.pack", "--kernels", kernels).read_bytes(), plain.read_bytes())
        kept = {p: p.stat().st_ino for p in kernels.iterdir()}
        self.assertGreater(len(kept), 10)
        config = json.loads(CONFIG.read_text())
        config["num_hidden_layers"] += 3
        other = self.home / "config.json"
        other.write_text(json.dumps(config))
        self.assertEqual(self.build("b.pack", "--kernels", kernels, model=other).read_bytes(),
                         self.build("c.pack", model=other).read_bytes())
        self.assertEqual({p: p.stat().st_ino for p in kernels.iterdir()}, kept)

    def test_damaged_and_foreign_files_are_compiled_again(self):
        kernels = self.home / "kernels"
        whole = self.build("a.pack", "--kernels", kernels).read_bytes()
        files = sorted(kernels.iterdir())
        files[0].write_bytes(b"")
        files[1].write_bytes(files[1].read_bytes()[:-3])
        files[2].write_bytes(files[3].read_bytes())  # whole, but of another kernel
        damaged = bytearray(files[4].read_bytes())
        damaged[len(damaged) // 2] ^= 1
        files[4].write_bytes(damaged)
        (kernels / "0.kernel.tmp.999999999.0").write_text("left behind")
        self.assertEqual(self.build("b.pack", "--kernels", kernels).read_bytes(), whole)
        self.assertEqual(sorted(kernels.iterdir()), files)

    def test_a_folder_that_can_not_be_made_is_no_hindrance(self):
        (self.home / "file").write_text("")
        self.assertEqual(self.build("a.pack", "--kernels", self.home / "file" / "k").read_bytes(),
                         self.build("b.pack").read_bytes())


class GpuPacks(PackCase):
    """Packs for GPUs: figures of every kernel, and the tools that made it. Without the tools, parts are left out."""

    def rows(self, pack):
        """{kernel: (threads, shared, registers, spills, stack, blocks)} as texts"""
        out = self.run_it(BLADEGEN, "inspect", pack).stdout
        rows = re.findall(r"(?m)^ *\d+ +(\d+) +(\d+) +(\d+|-) +(\d+|-) +(\d+|-) +(\d+|-)  (?:(?:step\S*|load|sampling|limit) )+ *(\w+ .*)$", out)
        return {row[-1]: row[:-1] for row in rows}

    def test_figures(self):
        for target, tool in (("sm_80", "ptxas"), ("gfx90a", "ld.lld-19")):
            if not shutil.which(tool):
                continue
            rows = self.rows(self.build("a.pack", "--target", target))
            self.assertGreater(len(rows), 15)
            for name, (threads, shared, registers, spills, stack, blocks) in rows.items():
                self.assertTrue(32 <= int(threads) <= 1024 and int(registers) > 0 and int(blocks) > 0, name)
                self.assertEqual((spills, stack), ("0", "0"), name)

    def test_shapes_of_a_model_of_8_billion(self):
        """What a small model's shapes don't show: every default setting keeps its registers."""
        config = {**json.loads(CONFIG.read_text()), "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 1,
                  "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128256}
        model = self.home / "config.json"
        model.write_text(json.dumps(config))
        for target, tool in (("sm_90a", "ptxas"), ("gfx1100", "ld.lld-19")):
            for weights in ("bf16", "w8", "w4a16") if shutil.which(tool) else ():
                rows = self.rows(self.build("a.pack", "--target", target, "--weights", weights, model=model))
                self.assertEqual({row[3:5] for row in rows.values()}, {("0", "0")}, f"{target} {weights}")

    def test_without_ptxas_the_driver_compiles(self):
        self.environment["BLADE_PTXAS"] = "/no/such/ptxas"
        pack = self.build("a.pack", "--target", "sm_90a")
        self.assertIn(b".target sm_90a", pack.read_bytes())
        self.assertEqual({row[2:] for row in self.rows(pack).values()}, {("-", "-", "-", "-")})

    def test_a_missing_linker_is_told(self):
        self.environment["BLADE_LLD"] = "/no/such/lld"
        done = self.run_it(BLADEGEN, "build", CONFIG, "--target", "gfx90a", "-o", self.home / "x", code=1)
        self.assertIn("install lld-19", done.stderr)
        self.assertFalse((self.home / "x").exists())

    def test_kernels_are_kept_with_their_tools(self):
        if not shutil.which("ptxas"):
            self.skipTest("no ptxas")
        kernels, tool = self.home / "kernels", self.home / "ptxas"
        self.environment["BLADE_PTXAS"] = str(tool)
        counts = []
        for text in ("# one", "# one", "# another"):
            if not tool.exists() or text not in tool.read_text():
                tool.write_text(f"#!/bin/sh\n{text}\nexec {shutil.which('ptxas')} \"$@\"\n")
                tool.chmod(0o755)
            self.build("a.pack", "--target", "sm_80", "--kernels", kernels)
            counts.append(len(list(kernels.iterdir())))
        self.assertGreater(counts[0], 15)
        self.assertEqual(counts, [counts[0], counts[0], 2 * counts[0]])


class Concurrency(PackCase):
    def test_processes_that_start_at_once_build_once(self):
        command = [BLADE, "generate", MODEL, "-p", "the quick brown", "-n", 6, "--timing", "--cache", self.cache]
        running = [subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                    env=self.environment) for _ in range(6)]
        results = [p.communicate(timeout=300) for p in running]
        self.assertEqual([p.returncode for p in running], [0] * 6, results)
        self.assertEqual(len({out for out, _ in results}), 1)
        self.assertEqual(sum("build pack" in err for _, err in results), 1)
        self.assert_clean(self.cache)


class Interruptions(PackCase):
    def kill_at_random(self, command, moments, check):
        """Runs the command and kills it, so many times, at moments spread over the time that it takes when left alone."""
        draw = random.Random(7)
        seconds, killed = 2, 0
        while killed < moments:
            arguments = list(map(str, command()))
            start = time.monotonic()
            running = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=self.environment)
            try:
                self.assertEqual(running.wait(timeout=draw.uniform(0, seconds)), 0)
                seconds = 1.1 * (time.monotonic() - start)
            except subprocess.TimeoutExpired:
                running.send_signal(signal.SIGKILL)
                running.wait()
                killed += 1
                seconds *= 1.1
            check()

    def test_killed_builds_leave_the_old_pack_or_the_new_one(self):
        pack, kernels = self.home / "a.pack", self.home / "kernels"
        a, b = (self.build(f"{w}.pack", "--weights", w).read_bytes() for w in ("f32", "w8"))
        pack.write_bytes(a)
        turn = [0]

        def command():
            turn[0] += 1
            if turn[0] % 3 == 0:
                shutil.rmtree(kernels, ignore_errors=True)
            return [BLADEGEN, "build", CONFIG, "--weights", ("w8", "f32")[turn[0] % 2], "--kernels", kernels, "-o", pack]

        self.kill_at_random(command, KILLS, lambda: self.assertIn(pack.read_bytes(), (a, b)))
        self.build("a.pack", "--weights", "w8", "--kernels", kernels)
        self.assertEqual(pack.read_bytes(), b)
        self.assert_clean(self.home)

    def test_killed_first_loads_do_no_harm(self):
        expected = self.generate(cache=self.home / "other").stdout

        def command():
            for old in self.cache.glob("*.pack"):
                old.unlink()
            if random.random() < 0.7:
                shutil.rmtree(self.cache / "kernels", ignore_errors=True)
            return [BLADE, "generate", MODEL, "-p", "the quick brown", "-n", 6, "--cache", self.cache]

        def check():
            done = self.generate()
            self.assertEqual(done.stdout, expected)
            self.assertEqual(done.stderr, "")
            self.assert_clean(self.cache)

        self.kill_at_random(command, KILLS, check)

    def no_room(self, size):
        def limit():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        return limit

    def test_a_disk_that_is_full(self):
        pack = self.build("a.pack")
        whole = pack.read_bytes()
        for size in (0, 1000, 4096, len(whole) // 2, len(whole) - 1):
            done = self.run_it(BLADEGEN, "build", CONFIG, "--weights", "w8", "-o", pack, "--kernels", self.home / "k", code=1,
                               preexec_fn=self.no_room(size))
            self.assertIn("cannot write", done.stderr)
            self.assertEqual(pack.read_bytes(), whole)
            self.assert_clean(self.home)
        done = self.generate(code=1, preexec_fn=self.no_room(4096))
        self.assertIn("no room to build a pack", done.stderr)
        self.assert_clean(self.cache)
        self.generate()

    def test_what_killed_writers_left_is_removed(self):
        pack = self.build("a.pack")
        left = [self.home / "a.pack.tmp.999999999.0", self.home / "a.pack.tmp.999999999.1"]
        kept = [self.home / f"a.pack.tmp.{os.getpid()}.0", self.home / "a.pack.tmp.x", self.home / "b.pack.tmp.999999999.0"]
        for file in left + kept:
            file.write_text("")
        self.build("a.pack")
        self.assertEqual([f.exists() for f in left + kept], [False, False, True, True, True])
        self.assertTrue(pack.exists())


class Start(PackCase):
    PHASES = ["open checkpoint", "find pack", "plan, threads", "load code", "allocate", "read and repack weights", "engine",
              "ready", "first token", "since the start"]

    def phases(self, text):
        return {m[0]: float(m[1]) for m in re.findall(r"(?m)^  (\S.*?) +(\d+\.\d) ms", text)}

    def test_timing_of_generate(self):
        self.generate()
        done = self.generate("--timing")
        times = self.phases(done.stderr)
        self.assertEqual([name for name in times if name in self.PHASES], self.PHASES)
        self.assertRegex(done.stderr, r"read and repack weights +\S+ ms +\S+ MB, \d+\.\d\d GB/s")
        parts = sum(ms for name, ms in times.items() if name not in ("ready", "first token", "since the start"))
        self.assertAlmostEqual(parts, times["ready"], delta=1.5)
        self.assertAlmostEqual(parts + times["first token"], times["since the start"], delta=1.5)
        self.assertEqual(self.generate().stderr, "")

    def test_timing_of_bench(self):
        done = self.run_it(BLADE, "bench", MODEL, "--prompt", 4, "--decode", 2, "--batch", 1, "--timing", "--cache", self.cache)
        self.assertIn("ready", self.phases(done.stderr))

    def test_timing_of_serve(self):
        command = [BLADE, "serve", MODEL, "--port", 0, "--timing", "--log-level", "error", "--cache", self.cache]
        running = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                   env=self.environment)
        self.assertIn("serving", running.stdout.readline())
        running.send_signal(signal.SIGTERM)
        times = self.phases(running.communicate(timeout=60)[1])
        self.assertEqual(running.returncode, 0)
        self.assertEqual(list(times)[-3:], ["engine", "listen", "ready"])

    def test_generate_without_a_checkpoint(self):
        args = ["generate", "--config", CONFIG, "-p", "ab", "-n", 3, "--ignore-eos", "--cache", self.cache]
        text = self.run_it(BLADE, *args).stdout
        self.assertRegex(text, r"^ab \d+ \d+ \d+\n$")
        line = json.loads(self.run_it(BLADE, *args, "--json", "--logprobs", 1).stdout)
        self.assertEqual(line["text"], text[2:-1])
        self.assertEqual(line["prompt_tokens"], 2)
        prompts = self.home / "prompts.jsonl"
        prompts.write_text(json.dumps({"prompt": [97, 98]}))
        line = json.loads(self.run_it(BLADE, "generate", "--config", CONFIG, "--prompts", prompts, "-n", 3, "--ignore-eos",
                                      "--json", "--cache", self.cache).stdout)
        self.assertEqual((line["prompt"], line["text"]), (" 97 98", text[2:-1]))
        for more, why in ((["--stop", "x"], "stop strings need a tokenizer"), ([MODEL], "give either a MODEL or --config")):
            done = self.run_it(BLADE, *args, *more, code=1 if why.startswith("stop") else 2)
            self.assertIn(why, done.stderr)


if __name__ == "__main__":
    main()
