"""Bad input: each mistake gives a message that says what is wrong, the right exit status, and leaves nothing behind."""
import json
import os
import shutil
import struct
import subprocess
import unittest

from common import BLADE, CACHE, GOLDEN, Case, blade, good, json_lines, main

MODEL = GOLDEN / "llama-f32"
MISUSE, FAILED = 2, 1


class Errors(Case):
    def fails(self, code, fragments, *args, **options):
        result = blade(*args, **options)
        self.assertEqual(result.code, code, result)
        for fragment in [fragments] if isinstance(fragments, str) else fragments:
            self.assertIn(fragment, result.err, result)
        self.assertTrue(result.err.startswith("blade"), result)
        self.assertEqual(result.out, "", result)
        return result

    def generate_fails(self, fragments, model, *options, code=FAILED, **more):
        return self.fails(code, fragments, "generate", model, "-p", "abc", "-n", 2, *options, **more)

    def copy(self, name="llama-f32"):
        folder = self.temporary() / name
        shutil.copytree(GOLDEN / name, folder)
        return folder

    def edit(self, folder, file="config.json", **changes):
        path = folder / file
        data = json.loads(path.read_text())
        for key, value in changes.items():
            data.pop(key, None)
            if value is not None:
                data[key] = value
        path.write_text(json.dumps(data))
        return folder

    # ---- the command line

    def test_usage(self):
        for args, fragment in (
            ([], "usage: blade COMMAND"),
            (["nonsense"], "there is no command \"nonsense\""),
            (["generate"], "give either a MODEL"),
            (["generate", MODEL], "there is no prompt"),
            (["generate", MODEL, "-p", "x", "--frobnicate"], "unknown option --frobnicate"),
            (["generate", MODEL, "-p", "x", "-n", "0"], "out of range"),
            (["generate", MODEL, "-p", "x", "-n", "many"], "not an integer"),
            (["generate", MODEL, "-p", "x", "--temperature", "-1"], "out of range"),
            (["generate", MODEL, "-p", "x", "--kv-cache-memory", "lots"], "not a size"),
            (["generate", MODEL, "-p"], "needs a value"),
            (["chat"], "an argument is missing"),
            (["tokenize"], "an argument is missing"),
            (["perplexity", MODEL], "an argument is missing"),
            (["plan"], "give either a MODEL"),
            (["bench", MODEL, "--batch", "1,x"], "not an integer"),
        ):
            result = blade(*args, cache=None)
            self.assertEqual(result.code, MISUSE, result)
            self.assertIn(fragment, result.err, result)

    def test_help(self):
        self.assertIn("commands:", good("--help"))
        self.assertRegex(good("--version"), r"^blade \d+\.\d+")
        for command in ("generate", "chat", "tokenize", "perplexity", "plan", "bench"):
            self.assertIn(command, good("--help"))
            self.assertIn(f"usage: blade {command}", good(command, "--help", cache=None))

    # ---- checkpoints

    def test_missing_folder(self):
        self.generate_fails(["no-such-model", "No such file"], "/no-such-model")

    def test_no_checkpoint(self):
        self.generate_fails("config.json", self.temporary())

    def test_no_tokenizer(self):
        folder = self.copy()
        (folder / "tokenizer.json").unlink()
        self.generate_fails("tokenizer.json", folder)

    def test_no_weights(self):
        folder = self.copy()
        (folder / "model.safetensors").unlink()
        self.generate_fails("safetensors", folder)

    def test_broken_config(self):
        folder = self.copy()
        (folder / "config.json").write_text("{\"model_type\": ")
        self.generate_fails(["config.json", "line 1"], folder)

    def test_unsupported_architecture(self):
        folder = self.edit(self.copy(), architectures=["MambaForCausalLM"], model_type="mamba")
        self.generate_fails(["MambaForCausalLM", "LlamaForCausalLM", "Qwen3ForCausalLM"], folder)

    def test_unsupported_quantization(self):
        folder = self.edit(self.copy(), quantization_config={"quant_method": "quip"})
        self.generate_fails(["quip", "gptq", "awq", "compressed-tensors"], folder)

    def test_unsupported_rope(self):
        folder = self.edit(self.copy(), rope_parameters={"rope_type": "spiral", "rope_theta": 1e4})
        self.generate_fails(["spiral", "llama3", "yarn"], folder)

    def test_absurd_config(self):
        for key, value in (("num_hidden_layers", -1), ("num_hidden_layers", 10**9), ("hidden_size", 0),
                           ("num_attention_heads", 7), ("num_key_value_heads", 3), ("vocab_size", "many"),
                           ("intermediate_size", 10**12), ("rms_norm_eps", "tiny"), ("hidden_act", "relu6")):
            folder = self.edit(self.copy(), **{key: value})
            result = blade("generate", folder, "-p", "abc", "-n", 2)
            self.assertEqual(result.code, FAILED, f"{key} {value}: {result}")
            self.assertTrue(result.err.startswith("blade generate: "), f"{key} {value}: {result}")

    def test_unsupported_tokenizer(self):
        folder = self.copy()
        tokenizer = json.loads((folder / "tokenizer.json").read_text())
        tokenizer["model"]["type"] = "Unigram"
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
        self.generate_fails(["Unigram", "BPE"], folder)

    def test_truncated_weights(self):
        for keep in (0, 4, 8, 100, 5000, 100000):
            folder = self.copy()
            path = folder / "model.safetensors"
            path.write_bytes(path.read_bytes()[:keep])
            self.generate_fails("model.safetensors", folder)

    def test_lying_header(self):
        folder = self.copy()
        path = folder / "model.safetensors"
        data = path.read_bytes()
        for length in (1, 1 << 20, 1 << 62, (1 << 64) - 1):
            path.write_bytes(struct.pack("<Q", length) + data[8:])
            self.generate_fails("model.safetensors", folder)
        size = struct.unpack("<Q", data[:8])[0]
        header = json.loads(data[8:8 + size])
        name = next(k for k in header if k != "__metadata__")
        header[name]["data_offsets"] = [0, 1 << 60]
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size:])
        self.generate_fails(["model.safetensors", name], folder)

    def test_missing_tensor(self):
        folder = self.copy()
        path = folder / "model.safetensors"
        data = path.read_bytes()
        text = data.replace(b"model.layers.1.mlp.up_proj", b"model.layers.1.mlp.no_proj", 1)
        path.write_bytes(text)
        self.generate_fails("model.layers.1.mlp.up_proj", folder)

    def test_index_leaves_the_folder(self):
        folder = self.copy("llama-sharded")
        index = json.loads((folder / "model.safetensors.index.json").read_text())
        first = next(iter(index["weight_map"]))
        index["weight_map"][first] = "../../etc/passwd"
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        self.generate_fails("..", folder)

    # ---- requests

    def test_too_long_prompt(self):
        context = json.loads((MODEL / "config.json").read_text())["max_position_embeddings"]
        self.fails(FAILED, ["prompt 1", f"context holds {context} tokens"], "generate", MODEL, "-p", "ab " * context)
        self.generate_fails("the context holds 16 tokens", MODEL, "-p", "a b c d e f g h i j k l m n o p q r s",
                            "--max-model-len", 16)

    def test_too_long_context(self):
        self.generate_fails("--max-model-len", MODEL, "--max-model-len", 10**8)

    def test_prompts_file(self):
        path = self.temporary() / "prompts.jsonl"
        for text, fragments in (
            ("", "there is no prompt"),
            ("\n{\"prompt\": \"x\"", [f"{path} line 2", "not valid JSON"]),
            ("{\"text\": \"x\"}", [f"{path} line 1", "\"prompt\""]),
            ("{\"prompt\": \"x\", \"temperature\": \"hot\"}", "\"temperature\" is a string"),
            ("{\"prompt\": \"x\", \"max_tokens\": -1}", "\"max_tokens\" is -1"),
            ("{\"prompt\": [1, 99999999]}", "beyond the model's vocabulary"),
            ("{\"prompt\": [1, \"a\"]}", "token ids"),
            ("{\"prompt\": \"x\", \"logit_bias\": {\"7\": 1000}}", "logit_bias"),
            ("{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}]}", "template"),
        ):
            path.write_text(text)
            self.fails(FAILED, fragments, "generate", MODEL, "--prompts", path)
        self.fails(FAILED, "No such file", "generate", MODEL, "--prompts", path.parent / "none.jsonl")

    def test_perplexity(self):
        empty = self.temporary() / "empty"
        empty.write_text("")
        self.fails(FAILED, "empty", "perplexity", MODEL, empty)
        self.fails(FAILED, "No such file", "perplexity", MODEL, empty.parent / "none")
        empty.write_text("abc def")
        self.fails(FAILED, "more than the context", "perplexity", MODEL, empty, "--window", 10**6)

    def test_unknown_weights(self):
        self.generate_fails("w5", MODEL, "--weights", "w5")

    def test_unknown_kv_cache(self):
        self.generate_fails("unknown format 'int3' of the KV cache; known: auto, f32, f16, bf16, int8", MODEL, "--kv-cache-dtype",
                            "int3")

    # ---- memory

    def test_too_little_cache_memory(self):
        self.generate_fails("--kv-cache-memory", MODEL, "--kv-cache-memory", 1000)

    def test_too_much_cache_memory(self):
        folder = self.edit(self.copy(), max_position_embeddings=1 << 20)
        self.generate_fails(["not enough memory", "are available"], folder, "--kv-cache-memory", "100T",
                            "--max-num-seqs", 65536)

    # ---- packs and the cache folder

    def test_corrupt_pack_is_rebuilt(self):
        cache = self.temporary()
        expected = good("generate", MODEL, "-p", "abc", "-n", 4, "--temperature", 0, cache=cache)
        packs = list(cache.glob("*.pack"))
        self.assertEqual(len(packs), 1, packs)
        whole = packs[0].read_bytes()
        for damage in (lambda b: b[:len(b) // 2], lambda b: b"", lambda b: b[:-9] + b"x" + b[-8:],
                       lambda b: b"\x7fELF" + b[4:], lambda b: b[:200] + bytes([b[200] ^ 1]) + b[201:]):
            packs[0].write_bytes(damage(whole))
            out = good("generate", MODEL, "-p", "abc", "-n", 4, "--temperature", 0, cache=cache)
            self.assertEqual(out, expected)
            self.assertEqual(packs[0].stat().st_size, len(whole))

    def test_given_pack(self):
        folder = self.temporary()
        pack = folder / "a.pack"
        pack.write_bytes(b"not a pack")
        self.generate_fails("a.pack", MODEL, "--pack", pack)
        self.generate_fails(["none.pack", "No such file"], MODEL, "--pack", folder / "none.pack")
        subprocess.run([str(BLADE.parent / "bladegen"), "build", str(GOLDEN / "qwen3"), "-o", str(pack)], check=True,
                       capture_output=True)
        self.refused("another checkpoint", pack)
        subprocess.run([str(BLADE.parent / "bladegen"), "build", str(MODEL), "-o", str(pack), "--target", "aarch64"],
                       check=True, capture_output=True)
        if os.uname().machine == "x86_64":
            self.refused("a.pack: built for aarch64", pack)
        pack.write_bytes(pack.read_bytes()[:1000])
        self.generate_fails("a.pack: truncated pack", MODEL, "--pack", pack)
        self.refused("a.pack: truncated pack", pack, "--weights", "f32")

    def refused(self, why, pack, *options):
        """The reason is said, and the generator, which is here, makes one that fits."""
        result = blade("generate", MODEL, "-p", "abc", "-n", 2, "--pack", pack, *options)
        self.assertEqual(result.code, 0, result)
        self.assertIn(why, result.err)
        self.assertIn("kernels were generated instead", result.err)

    def test_read_only_cache(self):
        cache = self.temporary() / "cache"
        cache.write_text("a file where a folder should be")
        result = blade("generate", MODEL, "-p", "abc", "-n", 2, cache=cache / "blade")
        self.assertEqual(result.code, 0, result)
        self.assertIn("warning", result.err)

    def test_full_disk(self):
        folder = self.temporary() / "full"
        folder.mkdir()
        if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", folder],
                                               capture_output=True).returncode:
            self.skipTest("a small file system can't be mounted here")
        self.addCleanup(subprocess.run, ["umount", str(folder)], capture_output=True)
        result = blade("generate", MODEL, "-p", "abc", "-n", 2, cache=folder)
        self.assertEqual(result.code, 0, result)
        self.assertIn("warning", result.err)
        left = [p for p in folder.rglob("*") if p.is_file() and p.stat().st_size]
        self.assertEqual(left, [])

    def test_full_output(self):
        if not os.path.exists("/dev/full"):
            self.skipTest("there is no /dev/full")
        with open("/dev/full", "wb") as full:
            done = subprocess.run([str(BLADE), "generate", str(MODEL), "-p", "abc", "-n", "2", "--cache", str(CACHE)],
                                  stdout=full, stderr=subprocess.PIPE)
        self.assertEqual(done.returncode, FAILED)
        self.assertIn(b"cannot write the output", done.stderr)


if __name__ == "__main__":
    main()
