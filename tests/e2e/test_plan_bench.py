"""blade plan and blade bench: sums add up, limits follow the options, what does not fit is said before it is loaded."""
import json

from common import CACHE, GOLDEN, Case, blade, good, main

MODEL = GOLDEN / "llama-f32"

# About 70 billion parameters: too many for any machine that runs tests, in float32.
HUGE = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8192, "intermediate_size": 28672,
    "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 128256,
    "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "torch_dtype": "float32",
    "hidden_act": "silu", "tie_word_embeddings": False,
}


def plan(*args):
    return json.loads(good("plan", *args, "--json", "--cache", CACHE))


class Plan(Case):
    def test_sums(self):
        p = plan(MODEL)
        b = p["bytes"]
        self.assertEqual(b["total"], sum(b[k] for k in ("weights", "kv_cache", "working", "scratch", "code")))
        self.assertEqual(b["peak"], b["total"] + b["temporary"])
        tensors = (MODEL / "model.safetensors").stat().st_size
        self.assertGreater(b["weights"] + b["mapped"], 0.9 * tensors)
        text = good("plan", MODEL, "--cache", CACHE)
        for word in ("weights", "KV cache", "working memory", "total", str(b["total"])):
            self.assertIn(word, text)

    def test_options(self):
        usual = plan(MODEL)
        more = plan(MODEL, "--max-num-seqs", 128, "--max-num-batched-tokens", 1024)
        self.assertEqual(more["max_num_seqs"], 128)
        self.assertEqual(more["kv_pages"], 2 * usual["kv_pages"])
        self.assertGreater(more["bytes"]["working"], usual["bytes"]["working"])
        short = plan(MODEL, "--max-model-len", 32)
        self.assertEqual(short["max_model_len"], 32)
        self.assertLess(short["bytes"]["kv_cache"], usual["bytes"]["kv_cache"])
        page = usual["bytes"]["kv_cache"] // usual["kv_pages"]
        few = plan(MODEL, "--kv-cache-memory", 2 * page)
        self.assertLessEqual(few["kv_pages"], 2)
        self.assertEqual(few["max_model_len"], few["kv_pages"] * few["page_tokens"])

    def test_what_does_not_fit(self):
        config = self.temporary() / "config.json"
        config.write_text(json.dumps(HUGE))
        result = blade("plan", "--config", config, "--weights", "f32", "--cache", CACHE)
        self.assertEqual(result.code, 1, result)
        self.assertIn("this does not fit", result.err)
        self.assertIn("KV cache", result.out)
        result = blade("bench", "--config", config, "--weights", "f32", "--cache", CACHE, "--batch", 1)
        self.assertEqual(result.code, 1, result)
        self.assertIn("not enough memory", result.err)


class Bench(Case):
    def check(self, out, batches, prompt):
        self.assertEqual([r["batch"] for r in out["results"]], batches)
        self.assertEqual(out["prompt"], prompt)
        self.assertGreater(out["limits"]["read_bytes_per_second"], 1e8)
        self.assertGreater(out["limits"]["peak_operations_per_second"], 1e8)
        for r in out["results"]:
            self.assertGreater(r["prefill_tokens_per_second"], 0)
            self.assertAlmostEqual(r["decode_tokens_per_second"] * r["decode_step_seconds"], r["batch"], delta=1e-3)
            for share in ("prefill_share_of_peak", "decode_share_of_peak"):
                self.assertGreater(r[share], 0)
                self.assertLess(r[share], 20)  # far off when the limit was measured at a bad moment

    def test_model(self):
        out = json.loads(good("bench", MODEL, "--prompt", 20, "--decode", 5, "--batch", "1,3,8", "--json", "--cache", CACHE))
        self.check(out, [1, 3, 8], 20)
        text = good("bench", MODEL, "--prompt", 20, "--decode", 5, "--batch", "2", "--cache", CACHE)
        self.assertIn("GB/s read", text)

    def test_configuration_with_random_weights(self):
        for weights, peak in (("w4", "int8"), ("bf16", "bf16"), ("f32", "f32")):
            out = json.loads(good("bench", "--config", MODEL / "config.json", "--weights", weights, "--prompt", 12,
                                  "--decode", 3, "--batch", "1,4", "--json", "--cache", CACHE))
            self.check(out, [1, 4], 12)
            self.assertEqual(out["limits"]["peak"], peak)
            self.assertEqual(out["weights"], weights)

    def test_lines_on_standard_input(self):
        args = ["bench", MODEL, "--decode", 3, "--batch", 4, "--max-model-len", 64, "--stdin", "--cache", CACHE]
        out = [json.loads(line) for line in good(*args, stdin=b"limits\nprefill 20\ndecode 4 16\n").splitlines()]
        self.assertGreater(out[0]["read_bytes_per_second"], 1e8)
        self.assertGreater(out[0]["peak_operations_per_second"], 1e8)
        self.assertEqual([o["tokens"] for o in out[1:]], [20, 4])
        for o in out[1:]:
            self.assertGreater(o["seconds"], 0)
            self.assertGreater(o["operations"], 0)
        self.assertGreater(out[2]["bytes"], 0)
        kernels = json.loads(good(*args, "--profile", stdin=b"decode 1 1"))["kernels"]
        self.assertGreater(min(kernels.values()), 0)
        for line, text in ((b"decode 4", "expected 'limits'"), (b"prefill 0", "expected 'limits'"),
                           (b"prefill 5 6", "expected 'limits'"), (b"decode 4 9999999999999", "expected 'limits'"),
                           (b"decode 4 4096", "do not fit the KV cache")):
            result = blade(*args, stdin=line)
            self.assertEqual(result.code, 1, result)
            self.assertIn(text, result.err)

    def test_bad_sizes(self):
        for args, text in (
            (["--prompt", 1 << 20], "more than the model's context"),
            (["--kv-cache-memory", 1, "--batch", 4, "--prompt", 20, "--decode", 5], "can't hold one sequence"),
        ):
            result = blade("bench", MODEL, "--cache", CACHE, *args)
            self.assertEqual(result.code, 1, result)
            self.assertIn(text, result.err)


if __name__ == "__main__":
    main()
