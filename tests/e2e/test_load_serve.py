"""`blade load` against `blade serve`: lengths as asked, the commands of the README, and a server that stays responsive
at four times its capacity.

The server under load runs a model of random weights whose step takes some milliseconds, so that its steps are measured
and not the machine's scheduler. Other programs on the machine disturb such figures, so the best of a few attempts
counts; all of them are printed.
"""
import json
import random
import shutil
import struct
import subprocess

from common import BLADE, BUILD, ROOT, Result, main
from serving import DEMO, Served

LOAD = BUILD / "bin" / "blade-load"
ATTEMPTS = 6

SHAPE = {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 8, "num_attention_heads": 12,
         "num_key_value_heads": 4, "head_dim": 64, "max_position_embeddings": 2048}


def load(url, *args):
    command = [str(LOAD), url, "--json", "-", *map(str, args)]
    result = Result(command, subprocess.run(command, capture_output=True, timeout=300))
    if result.code:
        raise AssertionError(result)
    return json.loads(result.out)


def tensor_shapes(c):
    h, i, d = c["hidden_size"], c["intermediate_size"], c["head_dim"]
    q, kv = c["num_attention_heads"] * d, c["num_key_value_heads"] * d
    yield "model.embed_tokens.weight", (c["vocab_size"], h)
    yield "model.norm.weight", (h,)
    for n in range(c["num_hidden_layers"]):
        for name, shape in (("input_layernorm", (h,)), ("post_attention_layernorm", (h,)), ("self_attn.q_proj", (q, h)),
                            ("self_attn.k_proj", (kv, h)), ("self_attn.v_proj", (kv, h)), ("self_attn.o_proj", (h, q)),
                            ("mlp.gate_proj", (i, h)), ("mlp.up_proj", (i, h)), ("mlp.down_proj", (h, i))):
            yield f"model.layers.{n}.{name}.weight", shape


def random_model(folder):
    """A checkpoint of SHAPE: bfloat16 weights of about +-0.03, in which the same megabyte comes again and again."""
    shutil.copytree(DEMO, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = {**json.loads((folder / "config.json").read_text()), **SHAPE}
    (folder / "config.json").write_text(json.dumps(config))
    header, end = {}, 0
    for name, shape in tensor_shapes(config):
        size = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    draw = random.Random(1)
    block = b"".join(struct.pack("<H", draw.choice((0x3c00, 0xbc00)) + draw.randrange(256)) for _ in range(1 << 19))
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(folder / "model.safetensors", "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for left in range(end, 0, -len(block)):
            f.write(block[:left])
    return folder


class Lengths(Served):
    args = ("--threads", 1)

    def test_as_asked(self):
        for endpoint, kind in (("completions", "random token ids"), ("chat", "random words, counted by /tokenize")):
            result = load(self.server.url, "--endpoint", endpoint, "-n", 12, "--prompt-len", 300, "--output-len", 20,
                          "--rate", 50)
            one = result["runs"][0]
            self.assertEqual(result["workload"]["prompts"], kind)
            self.assertEqual((one["completed"], one["failed"], one["requests_without_usage"]), (12, 0, 0))
            self.assertEqual((one["total_input_tokens"], one["total_output_tokens"]), (3600, 240))


class Readme(Served):
    """The commands of the README's chapter as they stand there; only program, address and folder are the test's."""

    def test_as_written(self):
        chapter = (ROOT / "README.md").read_text().split("\n## Load-test\n")[1].split("\n## ")[0]
        lines = [line.strip() for line in chapter.splitlines() if line.startswith("    ")]
        self.assertGreaterEqual(len(lines), 4)
        folder = self.temporary()
        for line in lines:
            line = line.replace("build/release/bin/blade", str(BLADE)).replace("http://127.0.0.1:8000", self.server.url)
            result = Result([line], subprocess.run(line, shell=True, cwd=folder, capture_output=True, timeout=300))
            self.assertEqual(result.code, 0, result)
            self.assertNotRegex(result.out, r"Failed requests: +[1-9]")
        for name in ("ours-ttft.svg", "ours-itl.svg", "both-ttft.svg", "both-itl.svg", "ours.json"):
            self.assertTrue((folder / name).exists(), name)


class Overload(Served):
    """Done when: at 4 x capacity the 99th percentile of the gaps between tokens of admitted requests stays within twice
    that of an uncongested server, and the rest is refused."""

    args = ("--weights", "w8", "--threads", 1, "--max-num-seqs", 4, "--max-queued-requests", 4,
            "--max-num-batched-tokens", 64)
    work = ("--prompt-len", 64, "--output-len", 32, "-n", 40)

    @classmethod
    def write_model(cls, folder):
        return random_model(folder / "random")

    def attempt(self, seed):
        closed = load(self.server.url, *self.work, "--concurrency", 4, "--seed", seed)
        capacity = closed["runs"][0]["request_throughput"]
        half, full = load(self.server.url, *self.work, "--rate", f"{capacity / 2},{capacity * 4}", "--seed", seed + 100,
                          "--details")["runs"]
        self.assertEqual(half["completed"] + half["refused"], 40, half["failures"])
        self.assertGreater(half["completed"], 30)  # a burst may fill the queue for a moment
        self.assertGreater(full["refused"], 10)
        self.assertEqual(full["completed"] + full["refused"], 40, full["failures"])
        for failure in full["failures"]:
            self.assertIn(failure["status"], (429, 503))
            self.assertGreaterEqual(failure["retry_after_min"], 1)
        self.assertTrue(all(r["output_tokens"] == 32 for r in full["requests"] if r["outcome"] == "ok"))
        ratio = full["p99_itl_ms"] / half["p99_itl_ms"]
        print(f"capacity {capacity:.1f} requests/s; p99 ITL at half of it {half['p99_itl_ms']:.1f} ms, at 4 x "
              f"{full['p99_itl_ms']:.1f} ms: {ratio:.2f}; {full['refused']} of 40 refused", flush=True)
        return ratio

    def test_four_times_capacity(self):
        ratios = []
        while len(ratios) < ATTEMPTS and not any(r <= 2 for r in ratios):
            ratios.append(self.attempt(len(ratios)))
        self.assertLessEqual(min(ratios), 2, ratios)


if __name__ == "__main__":
    main()
