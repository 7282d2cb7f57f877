"""Two promises about time: a long prompt does not stall running streams, and a repeated prefix is computed once.

The first one is about gaps of a few steps. A step of the demo model takes 0.2 ms: less than what the operating system
lets a thread wait now and then, and than reading the keys and values of 6,000 tokens once. So a larger model of random
weights is used, in which weights are most of a step as in real models, on one thread. Whatever else runs on the machine
disturbs such figures: the best of a few attempts counts, all are printed, and the test is skipped when in all of them
other programs had a part of the processors or steps were delayed without any prompt; that the prompt was cut into small
pieces is tested in any case.
"""
import json
import math
import os
import pathlib
import random
import selectors
import shutil
import socket
import statistics
import time

from common import main
from parrot import write_header
from serving import DEMO, Served

STREAMS, LONG_PROMPT, PREFIX, ATTEMPTS, SECONDS = 8, 6000, 2000, 8, 60
DISTURBED = 0.1  # processors taken by other programs


def random_prompt(seed, length):
    draw = random.Random(seed)
    return [draw.randrange(2, 1024) for _ in range(length)]


class Stream:
    """A streamed completion on a socket of its own; notes when how many events came."""

    def __init__(self, port, prompt, max_tokens):
        body = json.dumps({"prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "stream": True,
                           "ignore_eos": True, "add_special_tokens": False}).encode()
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.begin = time.perf_counter()
        self.socket.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
                            b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        self.data, self.times, self.events = bytearray(), [], 0

    def read(self):
        """False at the end."""
        piece = self.socket.recv(1 << 16)
        now = time.perf_counter()
        before = len(self.data)
        self.data += piece
        count = self.data.count(b"\ndata: ", max(0, before - 6))
        if count:
            self.times.append(now)
            self.events += count
        return piece and b"data: [DONE]" not in self.data[max(0, before - 12):]

    def text(self):
        """What the events say; the frames of the chunked transfer lie between them."""
        lines = [line[6:] for line in self.data.split(b"\n") if line.startswith(b"data: {")]
        return "".join(json.loads(line)["choices"][0]["text"] for line in lines)


def write_random_model(folder, hidden=1024, layers=4, mlp=4096, heads=8, kv_heads=2, head_dim=64):
    """A Llama checkpoint of random bf16 weights with the demo model's tokenizer and a context of 8192 tokens."""
    shutil.copytree(DEMO, folder, ignore=shutil.ignore_patterns("model.safetensors", "README.md"))
    config = json.loads((DEMO / "config.json").read_text())
    config.update(hidden_size=hidden, intermediate_size=mlp, num_hidden_layers=layers, num_attention_heads=heads,
                  num_key_value_heads=kv_heads, head_dim=head_dim, max_position_embeddings=8192)
    (folder / "config.json").write_text(json.dumps(config))
    shapes = {"model.embed_tokens.weight": [config["vocab_size"], hidden], "model.norm.weight": [hidden]}
    for i in range(layers):
        for name, shape in (("input_layernorm", [hidden]), ("post_attention_layernorm", [hidden]),
                            ("self_attn.q_proj", [heads * head_dim, hidden]),
                            ("self_attn.k_proj", [kv_heads * head_dim, hidden]),
                            ("self_attn.v_proj", [kv_heads * head_dim, hidden]),
                            ("self_attn.o_proj", [hidden, heads * head_dim]), ("mlp.gate_proj", [mlp, hidden]),
                            ("mlp.up_proj", [mlp, hidden]), ("mlp.down_proj", [hidden, mlp])):
            shapes[f"model.layers.{i}.{name}.weight"] = shape
    sign = bytes(0x3C if b < 128 else 0xBC for b in range(256))  # high byte of a number of size 2^-7 to 2^-5
    draw = random.Random(1)
    with open(folder / "model.safetensors", "wb") as f:
        write_header(f, {name: ("BF16", shape) for name, shape in shapes.items()})
        for shape in shapes.values():
            n = math.prod(shape)
            data = bytearray(2 * n)
            data[0::2] = draw.randbytes(n)
            data[1::2] = draw.randbytes(n).translate(sign)
            f.write(data)


class Processors:
    """How many processors other programs than this one and the server's have used since it was made."""

    def __init__(self, pid):
        self.pid = pid
        self.begin = time.monotonic(), self.foreign_seconds()

    def foreign_seconds(self):
        tick = os.sysconf("SC_CLK_TCK")
        user, nice, system, _, _, irq, softirq, steal = map(
            int, pathlib.Path("/proc/stat").read_text().split("\n")[0].split()[1:9])
        server = pathlib.Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        own = os.times()
        return ((user + nice + system + irq + softirq + steal - int(server[11]) - int(server[12])) / tick
                - own.user - own.system)

    def used_by_others(self):
        return (self.foreign_seconds() - self.begin[1]) / (time.monotonic() - self.begin[0])


class LongPrompt(Served):
    # A small KV cache: memory that is touched for the first time, which takes a while, is none after two attempts.
    args = ("--max-model-len", 8192, "--threads", 1, "--kv-cache-memory", "48M")

    @classmethod
    def write_model(cls, folder):
        write_random_model(folder / "random")
        return folder / "random"

    def attempt(self, attempt):
        """(median and longest step before the prompt, longest gap while it is computed, seconds to its first token)"""
        streams = [Stream(self.server.port, random_prompt(100 * attempt + i, 4), 8000) for i in range(STREAMS)]
        selector = selectors.DefaultSelector()
        for s in streams:
            selector.register(s.socket, selectors.EVENT_READ, s)
        late = None
        while late is None or not late.times:
            for key, _ in selector.select(timeout=60):
                self.assertTrue(key.data.read() or key.data is late, "a stream ended early")
            if late is None and min(s.events for s in streams) >= 200:
                late = Stream(self.server.port, random_prompt(7000 + attempt, LONG_PROMPT), 1)
                selector.register(late.socket, selectors.EVENT_READ, late)
        self.assertIn(b"200 OK", late.data)
        first = late.times[0]
        for s in [*streams, late]:
            s.socket.close()
        selector.close()
        self.server.wait_idle()
        gaps = [(b, b - a) for s in streams for a, b in zip(s.times[5:], s.times[6:])]
        before = [gap for at, gap in gaps if at < late.begin]
        longest = max(gap for at, gap in gaps if late.begin < at <= first)
        return statistics.median(before), max(before), longest, first - late.begin

    def large_steps(self):
        """Steps of more than 256 tokens so far; an uncut prompt would take 12 of them."""
        m, name = self.server.metrics(), "vllm:iteration_tokens_total"
        return m[name + "_count"] - m[name + '_bucket{le="256.0"}']

    def test_running_streams_are_not_stalled(self):
        best, quiet, begin = None, False, time.monotonic()
        for attempt in range(ATTEMPTS):
            if time.monotonic() - begin > SECONDS:
                break
            processors, large = Processors(self.server.process.pid), self.large_steps()
            step, before, longest, seconds = self.attempt(attempt)
            others = processors.used_by_others()
            self.assertLess(self.large_steps() - large, LONG_PROMPT / 512 / 2)
            print(f"step {1e3 * step:.2f} ms, at most {1e3 * before:.2f} ms before the prompt; longest gap while it "
                  f"was computed {1e3 * longest:.2f} ms = {longest / step:.1f} steps; it took {seconds:.2f} s; "
                  f"others used {others:.2f} processors", flush=True)
            quiet = quiet or (others < DISTURBED and before < 2 * step)
            best = min(best or longest / step, longest / step)
            if best <= 3:
                return
        if not quiet:
            self.skipTest("every attempt was disturbed")
        self.fail(f"the longest gap was {best:.1f} steps at best; 3 are promised")


class Prefix(Served):
    def ask(self, prompt):
        """(seconds to the first token, text)"""
        s = Stream(self.server.port, prompt, 16)
        while s.read():
            pass
        s.socket.close()
        return s.times[0] - s.begin, s.text()

    def test_a_repeated_prefix_is_computed_once(self):
        best = None
        for attempt in range(ATTEMPTS):
            prefix = random_prompt(attempt, PREFIX)
            answers = [self.ask(prefix + tail) for tail in ([5, 6], [5, 6], [7, 8, 9])]
            (first, text), (second, again), (other, _) = answers
            self.assertTrue(text)
            self.assertEqual(again, text)
            share = max(second, other) / first
            print(f"first token after {1e3 * first:.1f} ms, with a known prefix {1e3 * second:.1f} ms and "
                  f"{1e3 * other:.1f} ms: {100 * share:.0f} %", flush=True)
            best = min(best or share, share)
            if best <= 0.25:
                return
        self.fail(f"the second request took {100 * best:.0f} % of the first one's time; 25 % are promised")


if __name__ == "__main__":
    main()
