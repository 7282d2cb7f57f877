#!/usr/bin/env python3
"""Perplexity of small models with each kind of weights: what w8, w4 (int4 weights, int8 activations) and w4a16 (int4
weights, bf16 activations) cost against bf16. Prints Markdown; exit status 1 when w4 is not within 1 % of w4a16.

    quality.py MODEL TEXT [MODEL TEXT ...] [--build DIR]
"""
import argparse
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = ["bf16", "w8", "w4a16", "w4"]
MOST = 0.01  # of w4a16's perplexity, between w4 and w4a16


def perplexity(build, model, text, weights):
    command = [Path(build) / "bin/blade", "perplexity", model, text, "--weights", weights, "--json"]
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"quality.py: {done.stderr.strip()}")
    return json.loads(done.stdout)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("pairs", nargs="+", metavar="MODEL TEXT")
    p.add_argument("--build", default=ROOT / "build/release")
    o = p.parse_args()
    if len(o.pairs) % 2:
        p.error("a text for each model")
    far = False
    print("| " + " | ".join(["model, text", "tokens", *WEIGHTS, "w4 / w4a16"]) + " |")
    print("|" + "---|" * (len(WEIGHTS) + 3))
    for model, text in zip(o.pairs[::2], o.pairs[1::2]):
        found = {w: perplexity(o.build, model, text, w) for w in WEIGHTS}
        values = {w: f["perplexity"] for w, f in found.items()}
        change = values["w4"] / values["w4a16"] - 1
        far |= abs(change) > MOST
        cells = [f"{values[w]:.4f} ({100 * (values[w] / values['bf16'] - 1):+.2f} %)" for w in WEIGHTS[1:]]
        print(f"| {Path(model).name}, {Path(text).name} | {found['bf16']['tokens']} | {values['bf16']:.4f} | "
              + " | ".join(cells) + f" | {100 * change:+.2f} % |", flush=True)
    return int(far)


if __name__ == "__main__":
    sys.exit(main())
