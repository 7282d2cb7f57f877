"""The numerics contract, bit for bit: the logits of a token depend only on the tokens before it. Not on the batch, the
pieces that the prompt was cut into, the number of threads, where its pages lie, what the prefix cache held, or which
launch list ran."""
import json
import random
import unittest

from common import CACHE, GOLDEN, Case, golden_models, good, ids_text, json_lines, main

NEW_TOKENS = 12
# Name, formats of weights and KV cache: one of each kernel family.
MODELS = [("llama-f32", "auto"), ("llama-bf16-untied", "auto"), ("llama-odd", "auto"), ("mistral-window", "auto"),
          ("qwen3", "auto"), ("llama-gptq4-g32-asym", "auto"), ("llama-ct-w8a8", "auto"), ("llama-f32", "w8"),
          ("llama-f32", "w4"), ("qwen3", "w4+kv-int8"), ("mistral-window", "auto+kv-int8")]


def prompts(count, seed):
    """Lengths of all kinds; some share a beginning of several pages."""
    rng = random.Random(seed)
    shared = [rng.randrange(2, 250) for _ in range(80)]
    out = []
    for i in range(count):
        own = [rng.randrange(2, 250) for _ in range([1, 7, 33, 64, 100][i % 5])]
        out.append(shared[:rng.choice([32, 64, 80])] + own if i % 3 == 2 else own)
    return out


def format_options(formats):
    weights, _, kv = formats.partition("+kv-")
    return ["--weights", weights, "--kv-cache-dtype", kv or "auto"]


class Bits(Case):
    def logits(self, model, weights, batch, *options):
        args = [a for ids in batch for a in ("--ids", ids_text(ids))]
        args += ["-n", NEW_TOKENS, *format_options(weights), "--stats"]
        *results, self.stats = json_lines(good("logits", GOLDEN / model, *args, *options))
        self.assertEqual(len(results), len(batch))
        return results

    def same(self, model, weights, reference, batch, what, *options):
        for i, got in enumerate(self.logits(model, weights, batch, *options)):
            want = reference[i]
            self.assertEqual(got["token_ids"], want["token_ids"], f"{model} {weights}: {what}: tokens of prompt {i}")
            if got["logits_b64"] != want["logits_b64"]:
                self.fail(f"{model} {weights}: {what}: logits of prompt {i} differ in some bit")
        return self.stats

    def check(self, model, weights):
        batch = prompts(17, 1)
        alone = [self.logits(model, weights, [ids], "--all", "--threads", 1)[0] for ids in batch[:3]]
        self.same(model, weights, alone, batch[:1], "alone, 2 threads", "--all", "--threads", 2)
        self.same(model, weights, alone, batch[:3], "batch of 3", "--all")
        everyone = self.logits(model, weights, batch, "--all", "--threads", 1)
        for i in range(3):
            self.assertEqual(everyone[i], {**alone[i], "index": i}, f"{model} {weights}: batch of 17, prompt {i}")
        for chunk in (1, 7, 64, 512):
            for threads in (1, 2):
                self.same(model, weights, everyone, batch, f"pieces of {chunk}, {threads} threads", "--all",
                          "--max-num-batched-tokens", chunk, "--threads", threads)
        self.same(model, weights, everyone, batch, "shuffled pages", "--all", "--shuffle-pages", 5)
        self.same(model, weights, everyone, batch, "at most 4 at once", "--all", "--max-num-seqs", 4)
        decode = self.logits(model, weights, batch, "--no-prefix-cache")
        self.assertEqual([d["token_ids"] for d in decode], [e["token_ids"] for e in everyone])
        stats = self.same(model, weights, decode, batch, "prefix cache", "--max-num-seqs", 2)
        self.assertGreater(stats["cached_tokens"], 100)
        self.check_preemption(model, weights, [ids[:30] for ids in batch])

    def check_preemption(self, model, weights, batch):
        """17 sequences that grow to 100 tokens and more in a KV cache of 480 tokens."""
        plan = json.loads(good("plan", GOLDEN / model, *format_options(weights), "--json", "--cache", CACHE))
        page = plan["bytes"]["kv_cache"] // plan["kv_pages"]
        memory = 480 // plan["page_tokens"] * page
        reference = self.logits(model, weights, batch, "-n", 90)
        options = ["-n", 90, "--kv-cache-memory", memory, "--max-model-len", 160]
        for cache in ([], ["--no-prefix-cache"]):
            stats = self.same(model, weights, reference, batch, "preemption", *options, *cache)
            self.assertEqual(reference[0]["shape"][0], 90)
            self.assertGreater(stats["preemptions"], 0)

    def test_buckets(self):
        """Every launch list of the plan gives the same bits."""
        batch = prompts(5, 2)
        reference = self.logits("llama-f32", "auto", batch, "--all")
        tried = 0
        for bucket in range(16):
            try:
                self.same("llama-f32", "auto", reference, batch, f"launch list {bucket}", "--all", "--bucket", bucket)
            except AssertionError as e:
                if "there is no launch list" in str(e):
                    break
                raise
            tried += 1
        print(f"{tried} launch lists")
        self.assertGreater(tried, 1)


def add_tests():
    for model, weights in MODELS:
        if model in golden_models():
            def test(self, model=model, weights=weights):
                self.check(model, weights)
            setattr(Bits, f"test_{model.replace('-', '_')}_{weights.replace('+', '_').replace('-', '_')}", test)


add_tests()
if __name__ == "__main__":
    main()
