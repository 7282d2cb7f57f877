#!/usr/bin/env python3
"""Blade against llama.cpp on this machine: tokens per second of prefill and decode, in turn, with the same weights.

    vs_llama_cpp.py --llama-cpp-python VENV/bin/python [--ik FOLDER] [options]

The peers must be built beforehand, for this machine: `pip install llama-cpp-python gguf` compiles upstream llama.cpp;
--ik is a checkout of ik_llama.cpp with its build in build/; --llama-cpp-build is one of upstream with its build in
build/, for other flags than pip's. peer.c is compiled against each and speaks the lines of `blade bench --stdin`.

Weights are random, made once by models.py for each configuration in configs/, and kept under --work. All programs are
loaded at once and measured in turn, round by round, in alternating order. A figure is the median of the rounds; a ratio
is the median of each round's ratio; a share is of what the machine's limit, measured in that round, allows: reading the
weights and the KV cache once, or the peak of the instruction, whichever takes longer.
"""
import argparse
import array
import base64
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import report

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
KV_BYTES = 2  # of a number in the KV cache: bf16, f16
TOP = 5       # tokens whose logits are compared


def note(text):
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def fail(text):
    raise SystemExit(f"vs_llama_cpp.py: {text}")


def output(*command, **options):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, **options)
    if done.returncode:
        fail(f"{' '.join(map(str, command))} failed:\n{done.stderr[-2000:]}")
    return done.stdout.strip()


# ---- the programs --------------------------------------------------------------------------------------------------


class Peer:
    """A build of llama.cpp, and peer.c compiled against it."""

    def __init__(self, name, version, include, libraries, flags, work):
        self.name, self.version = name, version
        folders = sorted({str(p.parent) for lib in libraries for p in lib})
        if not all(libraries):
            fail(f"{name}: its libraries were not found; is it built?")
        self.program = work / ("peer-" + "".join(c if c.isalnum() else "-" for c in name))
        paths = [f"-L{f}" for f in folders] + [f"-Wl,-rpath,{f}" for f in folders]
        names = [f"-l{lib[0].name[3:].split('.')[0]}" for lib in libraries]
        output("cc", "-O2", "-std=gnu11", HERE / "peer.c", *flags, *(f"-I{i}" for i in include), "-o", self.program,
               *paths, *names)

    def command(self, folder, weights, o, seqs, context):
        extra = [] if o.flash_attention else ["--no-flash-attention"]
        return [self.program, folder / f"{weights}.gguf", "--threads", o.threads, "--seqs", seqs, "--context", context,
                "--steps", o.steps, *extra]


def find(folder, *names):
    """One list of files for each library; a library that is not there has an empty one."""
    return [sorted(Path(folder).rglob(f"lib{name}.so")) for name in names]


def from_package(python, work):
    place = Path(output(python, "-c", "import llama_cpp as l; print(l.__path__[0])"))
    version = output(python, "-c", "import llama_cpp as l; print(l.__version__)")
    if not (place.parent / "include/llama.h").exists():
        fail(f"{place.parent}/include has no llama.h; use --llama-cpp-build with a checkout")
    return Peer("llama.cpp", f"llama-cpp-python {version}", [place.parent / "include"],
                find(place / "lib", "llama", "ggml", "ggml-base"), [], work)


def from_checkout(name, folder, names, flags, work):
    folder = Path(folder)
    try:
        version = output("git", "-C", folder, "log", "-1", "--format=%h of %cs")
    except SystemExit:
        version = folder.name
    include = [folder / "include", folder / "ggml/include"]
    return Peer(name, version, include, find(folder / "build", *names), flags, work)


class Blade:
    name = "Blade"

    def __init__(self, o):
        self.program = Path(o.build) / "bin/blade"
        self.generator = Path(o.build) / "bin/bladegen"
        if not self.program.exists():
            fail(f"{self.program} is missing; build it, or give --build")
        self.version = output(self.program, "--version")

    def pack(self, folder, weights, target):
        path = folder / f"{weights}-{target}.pack"
        output(self.generator, "build", folder, "--weights", weights, "--target", target, "-o", path)
        return ["--pack", path]

    def command(self, folder, weights, o, seqs, context):
        config = json.loads((folder / "config.json").read_text())
        whole = -(-context // 256) * 256  # whole pages, of whatever size
        pack = self.pack(folder, weights, o.target) if o.target else []
        return [self.program, "bench", folder, "--weights", weights, "--threads", o.threads, "--max-num-seqs", seqs,
                "--max-model-len", context, "--kv-cache-memory", seqs * whole * kv_bytes(config), "--decode", o.steps,
                "--stdin", *pack]


class Running:
    """A program that answers a line with a line of JSON."""

    def __init__(self, side, command, log):
        self.name, self.log = side.name, log
        self.process = subprocess.Popen([str(c) for c in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=open(log, "w"), text=True)

    def ask(self, line):
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            self.process.wait()
            tail = Path(self.log).read_text(errors="replace").strip().splitlines()[-3:]
            raise RuntimeError(f"{self.name} ended at '{line}': {' / '.join(tail)}")
        return json.loads(answer)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


# ---- what is measured ----------------------------------------------------------------------------------------------


def kv_bytes(config):
    """Of a token."""
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * head * KV_BYTES


def available():
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    fail("/proc/meminfo does not say how much memory is available")


def sessions(o, folder, weights, sides):
    """(points, sequences, context): the points of a session share buffers, so that those of long contexts, which need
    much memory, are loaded alone. Batches that do not fit are left out."""
    config = json.loads((folder / "config.json").read_text())
    each = 0.85 * available() / sides - 1.2 * (folder / f"{weights}.gguf").stat().st_size - (2 << 30)
    if o.prefill:
        yield [f"prefill {n}" for n in o.prefill], 1, max(o.prefill) + 16
    for context in o.contexts:
        length = context + o.steps + 16
        batches = [b for b in o.batches if b * (length + 256) * kv_bytes(config) < each]
        if len(batches) < len(o.batches):
            left = [b for b in o.batches if b not in batches]
            note(f"{folder.name} {weights}: no memory for batches {left} with {context} tokens each")
        if batches:
            yield [f"decode {b} {context}" for b in batches], max(batches), length


def measure_session(o, sides, folder, weights, points, seqs, context):
    """A list of results, one a point; rounds go over all points, sides in alternating order."""
    results = [{"model": folder.name, "weights": weights, "point": p, "rounds": []} for p in points]
    running = [Running(s, s.command(folder, weights, o, seqs, context), o.work / f"{s.name}.log") for s in sides]
    try:
        for r in running:  # loaded one after the other; what a first run does besides is not measured
            for p in points:
                r.ask(p)
        for n in range(o.rounds):
            for point in results:
                row = {"limits": running[0].ask("limits")}
                for r in running if n % 2 == 0 else running[::-1]:
                    answer = r.ask(point["point"])
                    row[r.name] = answer["seconds"]
                    point.update({k: answer[k] for k in ("tokens", "operations", "bytes") if k in answer})
                point["rounds"].append(row)
            note(f"{folder.name} {weights}: round {n + 1} of {o.rounds}, {points[0]} ... {points[-1]}")
    finally:
        for r in running:
            r.close()
    return results


def check_same(o, blade, peers, folder):
    """The most likely tokens after a few, in bf16: are the two files the same model?"""
    ids = [1000 + 37 * i for i in range(12)]
    text = output(blade.program, "logits", folder, "--weights", "bf16", "--ids", ",".join(map(str, ids)),
                  "--max-model-len", 64, "--max-num-seqs", 1)
    logits = array.array("f", base64.b64decode(json.loads(text)["logits_b64"]))
    best = sorted(range(len(logits)), key=lambda i: -logits[i])[:TOP]
    spread = statistics.pstdev(logits)
    for p in peers:
        r = Running(p, p.command(folder, "bf16", o, 1, 64), o.work / f"{p.name}.log")
        try:
            top = r.ask("logits " + " ".join(map(str, ids)))["top"]
        finally:
            r.close()
        worst = max(abs(value - logits[i]) for i, value in top) / spread
        note(f"{folder.name}: logits of {p.name} and Blade differ by at most {100 * worst:.2f} % of their deviation; "
             f"most likely token {top[0][0]} and {best[0]}")
        if worst > 0.25:
            fail(f"{p.name} and Blade do not compute the same model from {folder}")


# ---- the command ---------------------------------------------------------------------------------------------------


def numbers(text):
    return [int(n) for n in text.split(",") if n]


def words(text):
    return [w for w in text.split(",") if w]


def options():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--llama-cpp-python", metavar="PYTHON", default=os.environ.get("LLAMA_CPP_PYTHON"),
                   help="Python with llama-cpp-python, numpy and gguf (or $LLAMA_CPP_PYTHON)")
    p.add_argument("--ik", metavar="DIR", default=os.environ.get("IK_LLAMA_CPP"),
                   help="checkout of ik_llama.cpp, built in DIR/build (or $IK_LLAMA_CPP)")
    p.add_argument("--llama-cpp-build", metavar="DIR", help="measure this build of upstream instead of the package's")
    p.add_argument("--build", metavar="DIR", default=ROOT / "build/release", help="Blade's build (build/release)")
    p.add_argument("--work", metavar="DIR", type=Path, default=Path.home() / ".cache/blade-vs-llama-cpp",
                   help="where models are kept: 6 GB for Llama-3.2-1B (~/.cache/blade-vs-llama-cpp)")
    p.add_argument("--models", type=words, default=["llama-3.2-1b"], help="names in configs/ (llama-3.2-1b)")
    p.add_argument("--weights", type=words, default=["w4", "w8", "bf16"], help="w4,w8,bf16")
    p.add_argument("--prefill", type=numbers, default=[128, 512, 2048], help="tokens of prompts (128,512,2048)")
    p.add_argument("--batches", type=numbers, default=[1, 2, 4, 8, 16, 32], help="(1,2,4,8,16,32)")
    p.add_argument("--contexts", type=numbers, default=[128, 1024, 4096], help="tokens before decoding (128,1024,4096)")
    p.add_argument("--rounds", type=int, default=5, help="of each point (5)")
    p.add_argument("--steps", type=int, default=8, help="of decoding a round (8)")
    p.add_argument("--threads", type=int, default=os.cpu_count(), help="of every program (one a core)")
    p.add_argument("--target", help="target of Blade's code, e.g. x86-64-v3 (this machine)")
    p.add_argument("--no-flash-attention", dest="flash_attention", action="store_false", help="of the peers")
    p.add_argument("--no-check", dest="check", action="store_false", help="do not compare logits first")
    p.add_argument("--json", metavar="FILE", type=Path, help="all figures; written after every session")
    p.add_argument("--from", dest="source", metavar="FILE", type=Path, help="report this JSON, measure nothing")
    p.add_argument("--markdown", metavar="FILE", type=Path, help="the tables, otherwise on standard output")
    p.add_argument("--svg", metavar="FILE", type=Path, help="curves of one model")
    return p.parse_args()


def sides(o):
    o.work.mkdir(parents=True, exist_ok=True)
    peers = []
    if not o.llama_cpp_python:
        fail("--llama-cpp-python is needed, to write the models at least")
    if o.llama_cpp_build:
        peers.append(from_checkout("llama.cpp", o.llama_cpp_build, ["llama", "ggml", "ggml-base"], [], o.work))
    else:
        peers.append(from_package(o.llama_cpp_python, o.work))
    if o.ik:
        peers.append(from_checkout("ik_llama.cpp", o.ik, ["llama", "ggml"], ["-DPEER_IK"], o.work))
    return [Blade(o), *peers]


def processor():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown processor"


def make_models(o, model, folder):
    """Says what is being written; the library's own words go to a file."""
    command = [o.llama_cpp_python, HERE / "models.py", HERE / f"configs/{model}.json", folder, *o.weights, "bf16"]
    with open(o.work / "models.log", "w") as log:
        if subprocess.run([str(c) for c in command], stderr=log).returncode:
            fail(f"the weights of {model} could not be made; see {log.name}")


def measure(o):
    everyone = sides(o)
    data = {"machine": processor(), "threads": o.threads, "date": time.strftime("%Y-%m-%d"), "target": o.target or "",
            "sides": [{"name": s.name, "version": s.version} for s in everyone], "results": []}
    for model in o.models:
        folder = o.work / model
        note(f"{model}: weights")
        make_models(o, model, folder)
        if o.check:
            check_same(o, everyone[0], everyone[1:], folder)
        for weights in o.weights:
            for points, seqs, context in sessions(o, folder, weights, len(everyone)):
                data["results"] += measure_session(o, everyone, folder, weights, points, seqs, context)
                if o.json:
                    o.json.write_text(json.dumps(data, indent=1) + "\n")
    return data


def main():
    o = options()
    data = json.loads(o.source.read_text()) if o.source else measure(o)
    text = report.markdown(data)
    if o.markdown:
        o.markdown.write_text(text)
    else:
        print(text, end="")
    if o.svg:
        o.svg.write_text(report.svg(data))


if __name__ == "__main__":
    main()
