#!/usr/bin/env python3
"""What others reach on this GPU with the shapes that bench_kernels timed: PyTorch (cuBLAS, SDPA, F.rms_norm) and a
plain W4A16 product in Triton; and the machine's limits as they see them. bench.sh runs each part in a process of its own.

usage: peers.py PART OURS.json OUT.json [--device cuda|cpu]
PART: limits, matmul, int8, w4a16, attention, rmsnorm. OURS.json is what bench_kernels --json wrote. OUT.json gets
{"part", "software", "limits": {name: bytes or operations a second}, "results": [{"name", "who", "seconds" or "failure"}]}.
Without PyTorch it says so, writes nothing, and the status is 0.

A time is the median over replays of a CUDA graph of many calls that go round copies of what a model reads from memory, as
in bench_kernels.c. The decode step of others reads a contiguous KV cache: PyTorch has no paged one."""
import argparse
import json
import statistics
import sys
import time

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

BEYOND_CACHES = 512 << 20
MOST_COPIES = 64
SAMPLE_SECONDS = 4e-3


class Clock:
    """Times calls; on a CPU (for tests of this file) by the wall clock, once."""

    def __init__(self, torch, device):
        self.torch, self.device = torch, device

    def copies(self, tensor):
        """Copies of a tensor that exceed every cache together."""
        size = max(tensor.numel() * tensor.element_size(), 1)
        count = 1 if self.device == "cpu" else max(1, min(MOST_COPIES, -(-BEYOND_CACHES // size)))
        return [tensor] + [tensor.clone() for _ in range(count - 1)]

    def once(self, calls):
        begin, end = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        calls()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) * 1e-3

    def seconds(self, call, rounds=1):
        """`call(i)` does the work on copy number i."""
        if self.device == "cpu":
            start = time.perf_counter()
            call(0)
            return time.perf_counter() - start
        for _ in range(3):
            call(0)
        self.torch.cuda.synchronize()
        one = self.once(lambda: call(0))
        count = max(1, min(256, int(SAMPLE_SECONDS / max(one, 1e-6))))
        count = count if count < rounds else -(-count // rounds) * rounds

        def calls():
            for i in range(count):
                call(i % rounds)
        try:
            graph = self.torch.cuda.CUDAGraph()
            with self.torch.cuda.graph(graph):
                calls()
            run = graph.replay
        except RuntimeError:  # what can't be captured is called one by one
            self.torch.cuda.synchronize()
            run = calls
        run()
        return statistics.median(self.once(run) for _ in range(9)) / count


def matmul(torch, clock, peer):
    m, n, k = peer["m"], peer["n"], peer["k"]
    x = torch.randn(m, k, device=clock.device, dtype=torch.bfloat16)
    weights = clock.copies(torch.randn(n, k, device=clock.device, dtype=torch.bfloat16) * 0.02)
    return clock.seconds(lambda i: torch.nn.functional.linear(x, weights[i]), len(weights))


def int8(torch, clock, peer):
    m, n, k = peer["m"], peer["n"], peer["k"]
    x = torch.randint(-127, 127, (max(m, 32), k), device=clock.device, dtype=torch.int8)  # it takes no fewer than 17 rows
    weights = clock.copies(torch.randint(-127, 127, (n, k), device=clock.device, dtype=torch.int8))
    return clock.seconds(lambda i: torch._int_mm(x, weights[i].t()), len(weights))


if triton:
    @triton.jit
    def w4a16_kernel(x, w, scale, y, M, N, K: tl.constexpr, GROUP: tl.constexpr, R: tl.constexpr, C: tl.constexpr):
        """y = x W: a byte has the codes of a column of the group's first half (low) and second half, with one bf16 scale."""
        rows, columns = tl.program_id(1) * R + tl.arange(0, R), tl.program_id(0) * C + tl.arange(0, C)
        total, half = tl.zeros((R, C), tl.float32), tl.arange(0, GROUP // 2)
        for g in range(0, K // GROUP):
            codes = tl.load(w + (g * (GROUP // 2) + half)[:, None] * N + columns[None, :])
            s = tl.load(scale + g * N + columns).to(tl.float32)
            first = ((codes & 15).to(tl.float32) - 8).to(tl.bfloat16)
            second = ((codes >> 4).to(tl.float32) - 8).to(tl.bfloat16)
            at = x + rows[:, None] * K + g * GROUP + half[None, :]
            a = tl.load(at, mask=rows[:, None] < M, other=0.0)
            b = tl.load(at + GROUP // 2, mask=rows[:, None] < M, other=0.0)
            total += (tl.dot(a, first) + tl.dot(b, second)) * s[None, :]
        tl.store(y + rows[:, None] * N + columns[None, :], total, mask=rows[:, None] < M)


def w4a16(torch, clock, peer):
    if not triton:
        raise RuntimeError("Triton is not here")
    m, n, k, group = peer["m"], peer["n"], peer["k"], 128
    x = torch.randn(m, k, device=clock.device, dtype=torch.bfloat16)
    weights = clock.copies(torch.randint(0, 256, (k // 2, n), device=clock.device, dtype=torch.uint8))
    scale = torch.rand(k // group, n, device=clock.device, dtype=torch.bfloat16) * 0.01
    y = torch.empty(m, n, device=clock.device, dtype=torch.float32)

    def run(rows, columns, warps):
        grid = (triton.cdiv(n, columns), triton.cdiv(m, rows))
        return lambda i: w4a16_kernel[grid](x, weights[i], scale, y, m, n, k, group, rows, columns, num_warps=warps)
    check_w4a16(torch, x, weights[0], scale, y, run(16, 64, 4), group)
    choices = [(16, 32, 2), (16, 64, 4), (16, 128, 4)] if m <= 16 else [(64, 64, 4), (64, 128, 4), (128, 128, 8)]
    return min(clock.seconds(run(*c), len(weights)) for c in choices)


def check_w4a16(torch, x, w, scale, y, run, group):
    """The peer must be right before it is fast: some columns against a plain product."""
    run(0)
    codes = w[:, :64].to(torch.int32).reshape(-1, group // 2, 64)
    whole = (torch.cat([codes & 15, codes >> 4], 1).float() - 8) * scale[:, None, :64].float()
    want, got = x[:8].float() @ whole.reshape(-1, 64), y[:8, :64]
    error = ((got - want).norm() / want.norm()).item()
    if not error < 1e-2:
        raise RuntimeError(f"the Triton kernel is wrong: relative error {error:.2g}")


def attention(torch, clock, peer):
    sdpa = torch.nn.functional.scaled_dot_product_attention
    seqs, tokens, context, d = peer["seqs"], peer["tokens"], peer["context"], peer["head_dim"]
    if tokens not in (1, context):
        raise RuntimeError("SDPA masks from the first position only")

    def random(heads, length):
        return torch.randn(seqs, heads, length, d, device=clock.device, dtype=torch.bfloat16)
    q, k, v = random(peer["heads"], tokens), random(peer["kv_heads"], context), random(peer["kv_heads"], context)
    times = []
    for name in ("FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION", "MATH"):
        try:
            from torch.nn.attention import SDPBackend, sdpa_kernel
            with sdpa_kernel(getattr(SDPBackend, name)):
                times.append(clock.seconds(lambda i: sdpa(q, k, v, is_causal=tokens > 1, enable_gqa=True)))
        except RuntimeError:
            continue
        if name == "CUDNN_ATTENTION" or clock.device == "cpu":
            break
    if not times:
        raise RuntimeError("no backend of SDPA takes these shapes")
    return min(times)


def rmsnorm(torch, clock, peer):
    x = clock.copies(torch.randn(peer["m"], peer["n"], device=clock.device))
    r, w = torch.randn_like(x[0]), torch.ones(peer["n"], device=clock.device)
    norm = torch.nn.functional.rms_norm

    def run(i):
        return norm(x[i].add_(r, alpha=1e-3) if peer.get("residual") else x[i], (peer["n"],), w, 1e-5).bfloat16()
    return clock.seconds(run, len(x))


def limits(torch, clock):
    small = clock.device == "cpu"
    n = 256 if small else 8192
    source = torch.randn((1 << 20 if small else 2 << 30) // 4, device=clock.device)
    to = torch.empty_like(source)
    found = {"copy": 2 * source.numel() * 4 / clock.seconds(lambda i: to.copy_(source))}
    del source, to
    a, b = (torch.randn(n, n, device=clock.device, dtype=torch.bfloat16) for _ in range(2))
    found["bf16"] = 2 * n**3 / clock.seconds(lambda i: a @ b)
    try:
        a, b = (torch.randint(-127, 127, (n, n), device=clock.device, dtype=torch.int8) for _ in range(2))
        found["int8"] = 2 * n**3 / clock.seconds(lambda i: torch._int_mm(a, b.t()))
    except RuntimeError as e:
        print(f"peers: int8: {e}", file=sys.stderr)
    return found


PARTS = {  # name: (kind of sample, formats or None, function, who)
    "matmul": ("matmul", ("bf16",), matmul, "cuBLAS bf16"),
    "int8": ("matmul", ("w8",), int8, "cuBLAS int8 (_int_mm)"),
    "w4a16": ("matmul", ("w4a16",), w4a16, "Triton W4A16"),
    "attention": ("attention", None, attention, "PyTorch SDPA"),
    "rmsnorm": ("rmsnorm", None, rmsnorm, "PyTorch rms_norm"),
}


def run_part(torch, clock, part, samples, report, save):
    if part == "limits":
        report["limits"] = limits(torch, clock)
        return
    kind, formats, function, who = PARTS[part]
    for sample in samples:
        peer = sample.get("peer") or {}
        if peer.get("kind") != kind or (formats and peer["format"] not in formats):
            continue
        row = {"name": sample["name"], "peer": peer, "who": who}
        try:
            row["seconds"] = function(torch, clock, peer)
        except Exception as e:  # whatever a peer can't do is a row of the table, not our failure
            row["failure"] = f"{type(e).__name__}: {e}"[:300]
        report["results"].append(row)
        save()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=["limits", *PARTS])
    parser.add_argument("ours")
    parser.add_argument("out")
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    try:
        import torch
    except ImportError as e:
        print(f"peers: PyTorch is not here ({e}): nothing to compare with")
        return
    if args.device == "cuda" and not torch.cuda.is_available():
        print("peers: PyTorch sees no GPU: nothing to compare with")
        return
    report = {"part": args.part, "software": f"PyTorch {torch.__version__}", "limits": {}, "results": []}

    def save():
        with open(args.out, "w") as f:
            json.dump(report, f, indent=1)
    with open(args.ours) as f:
        samples = json.load(f)["samples"]
    with torch.no_grad():
        run_part(torch, Clock(torch, args.device), args.part, samples, report, save)
    save()


if __name__ == "__main__":
    main()
