"""Logits and greedy tokens of every golden checkpoint against transformers.

With --weights f32 nothing is rounded: 1e-4 of the largest logit. As stored, weights and activations are what the format
says, and the observed error is printed; W8A8 is compared with the reference that quantizes activations too.
"""
import json
import os
import subprocess
import unittest

from common import (BLADEGEN, GOLDEN, ROOT, Case, blade, floats, golden, golden_models, good, ids_text, json_lines, main,
                    row_error)

TOLERANCE_F32 = 1e-4
TOLERANCE_STORED = 0.1  # activations in bf16 or int8 against float32; observed errors are printed


def run(name, prompts, weights, *options):
    args = [a for p in prompts for a in ("--ids", ids_text(p["ids"]))]
    args += ["--all", "-n", len(prompts[0]["greedy"]), "--weights", weights, *options]
    return json_lines(good("logits", GOLDEN / name, *args))


def errors(prompts, results, key="logits_b64"):
    """Of every row that golden.json has."""
    out = []
    for prompt, result in zip(prompts, results):
        rows = floats(result["logits_b64"], result["shape"])
        assert result["positions"] == list(range(len(rows)))
        expected = floats(prompt[key], prompt["logits_shape"])
        out += [row_error(rows[p], want) for p, want in zip(prompt["logit_positions"], expected)]
    return out


class Golden(Case):
    def check_f32(self, name):
        prompts = golden(name)["prompts"]
        results = run(name, prompts, "f32")
        worst = max(errors(prompts, results))
        print(f"{name}: --weights f32: largest error {worst:.2e} (tolerance {TOLERANCE_F32:.0e})")
        self.assertLess(worst, TOLERANCE_F32)
        for prompt, result in zip(prompts, results):
            self.assertEqual(result["token_ids"], prompt["greedy"], f"{name}: greedy tokens of \"{prompt['text']}\"")

    def check_stored(self, name):
        prompts = golden(name)["prompts"]
        results = run(name, prompts, "auto")
        key = "logits_a8_b64" if "logits_a8_b64" in prompts[0] else "logits_b64"
        all_errors = sorted(errors(prompts, results, key))
        worst, median = all_errors[-1], all_errors[len(all_errors) // 2]
        same = sum(r["token_ids"] == p["greedy_a8" if key == "logits_a8_b64" else "greedy"]
                   for p, r in zip(prompts, results))
        print(f"{name}: as stored: largest error {worst:.2e}, median {median:.2e}, "
              f"greedy tokens equal for {same} of {len(prompts)} prompts")
        self.assertLess(worst, TOLERANCE_STORED)


class DemoModel(Case):
    """The trained model of the repository: from text to text, and perplexity, against transformers in float32."""

    def setUp(self):
        self.folder = ROOT / "models" / "shakespeare-llama"
        file = GOLDEN / "shakespeare-llama.json"
        if not file.exists() or not (self.folder / "model.safetensors").exists():
            self.skipTest("the demo model is not there")
        self.golden = json.loads(file.read_text())

    def test_text(self):
        prompts = self.golden["prompts"]
        args = [a for p in prompts for a in ("-p", p["text"])]
        args += ["-n", len(prompts[0]["greedy"]), "--temperature", 0, "--json", "--weights", "f32"]
        for prompt, result in zip(prompts, json_lines(good("generate", self.folder, *args)), strict=True):
            self.assertEqual(result["prompt_tokens"], len(prompt["ids"]))
            self.assertEqual(result["token_ids"], prompt["greedy"], prompt["text"])
            self.assertEqual(result["text"], prompt["greedy_text"])

    def test_logits(self):
        for weights, tolerance in (("f32", TOLERANCE_F32), ("auto", TOLERANCE_STORED)):
            prompts = self.golden["prompts"]
            worst = max(errors(prompts, run(self.folder, prompts, weights)))
            print(f"demo model: --weights {weights}: largest error {worst:.2e} (tolerance {tolerance:.0e})")
            self.assertLess(worst, tolerance)

    def test_perplexity(self):
        expected = self.golden["perplexity"]
        path = self.temporary() / "text"
        path.write_text(expected["text"])
        for weights, tolerance in (("f32", 1e-5), ("auto", 1e-2)):
            got = json.loads(good("perplexity", self.folder, path, "--json", "--weights", weights))
            error = got["nll_per_token"] / expected["nats_per_token"] - 1
            print(f"demo model: --weights {weights}: nats per token differ by {error:.1e} (tolerance {tolerance:.0e})")
            self.assertEqual(got["tokens"], expected["tokens"])
            self.assertLess(abs(error), tolerance)


class Targets(Case):
    """Packs for every target that this machine runs, built ahead of time."""

    def check(self, name, weights="auto", tolerance=TOLERANCE_STORED):
        prompts = golden(name)["prompts"]
        key = "logits_a8_b64" if weights == "auto" and "logits_a8_b64" in prompts[0] else "logits_b64"
        pack = self.temporary() / "model.pack"
        for target in ("x86-64", "x86-64-v3", "x86-64-v4", "x86-64-v4-bf16"):
            command = [BLADEGEN, "build", GOLDEN / name, "--target", target, "--weights", weights, "-o", pack]
            subprocess.run(command, check=True, capture_output=True)
            first = blade("logits", GOLDEN / name, "--ids", "1", "--weights", weights, "--pack", pack)
            if f"built for {target}, but this processor lacks" in first.err:
                print(f"{name}: {target}: not run, this processor is older")
                continue
            results = run(name, prompts, weights, "--pack", pack)
            worst = max(errors(prompts, results, key))
            print(f"{name}: --target {target} --weights {weights}: largest error {worst:.2e}")
            self.assertLess(worst, tolerance)

    def test_llama_f32(self):
        self.check("llama-f32", "f32", TOLERANCE_F32)

    def test_qwen3_bf16(self):
        self.check("qwen3")

    def test_gptq(self):
        self.check("llama-gptq4-act")
        self.check("llama-gptq4-act", "f32", TOLERANCE_F32)

    def test_w8a8(self):
        self.check("llama-ct-w8a8")

    def test_half(self):
        self.check("llama-f16-legacy")


def add_tests():
    only = os.environ.get("BLADE_GOLDEN", "").split()
    for name in golden_models():
        if only and name not in only:
            continue
        for kind in ("f32", "stored"):
            def test(self, name=name, kind=kind):
                getattr(self, f"check_{kind}")(name)
            setattr(Golden, f"test_{name.replace('-', '_')}_{kind}", test)


add_tests()
if __name__ == "__main__":
    main()
