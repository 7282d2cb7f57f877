#!/usr/bin/env python3
"""Makes tests/golden/operators: rotary tables and rotations, RMSNorm and LayerNorm, as transformers and torch compute
them in float32. See operators/README.md for the form of the files.

    pip install -r scripts/requirements-golden.txt
    python tests/golden/make_operators.py
"""

import json
import pathlib

import torch
import transformers
from transformers import GlmConfig, LlamaConfig, PhiConfig
from transformers.models.glm import modeling_glm
from transformers.models.llama import modeling_llama
from transformers.models.phi import modeling_phi

FOLDER = pathlib.Path(__file__).parent / "operators"
POSITIONS = [0, 1, 2, 31, 511, 4095, 131071]
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}

# name -> (head_dim, max_position_embeddings, rope_parameters)
TABLES = {
    "default": (64, 4096, {"rope_type": "default", "rope_theta": 10000.0}),
    "default, head_dim 16, theta 1e6": (16, 4096, {"rope_type": "default", "rope_theta": 1e6}),
    "default, half of the head": (64, 4096, {"rope_type": "default", "rope_theta": 10000.0,
                                             "partial_rotary_factor": 0.5}),
    "default, 0.4 of 80": (80, 2048, {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.4}),
    "linear": (64, 16384, {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}),
    "linear, 2.5, half of the head": (64, 4096, {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.5,
                                                 "partial_rotary_factor": 0.5}),
    "llama3 (Llama-3.1-8B)": (128, 131072, LLAMA3 | {"rope_theta": 500000.0}),
    "llama3 (Llama-3.2-1B)": (64, 131072, LLAMA3 | {"rope_theta": 500000.0, "factor": 32.0}),
    "llama3, short original context": (16, 256, LLAMA3 | {"rope_theta": 10000.0,
                                                          "original_max_position_embeddings": 64}),
    "yarn (Qwen3)": (128, 131072, YARN | {"rope_theta": 1e6}),
    "yarn, short original context": (16, 256, YARN | {"rope_theta": 10000.0, "original_max_position_embeddings": 64}),
    "yarn, attention_factor": (64, 131072, YARN | {"rope_theta": 10000.0, "attention_factor": 0.75}),
    "yarn, mscale (DeepSeek-V2-Lite)": (64, 163840, YARN | {
        "rope_theta": 10000.0, "factor": 40.0, "original_max_position_embeddings": 4096, "beta_fast": 32,
        "beta_slow": 1, "mscale": 0.707, "mscale_all_dim": 0.707}),
    "yarn, mscale over another mscale_all_dim": (64, 163840, YARN | {
        "rope_theta": 10000.0, "factor": 40.0, "original_max_position_embeddings": 4096, "mscale": 1.0,
        "mscale_all_dim": 0.5}),
    "yarn, not truncated (gpt-oss)": (64, 131072, YARN | {
        "rope_theta": 150000.0, "factor": 32.0, "original_max_position_embeddings": 4096, "beta_fast": 32.0,
        "beta_slow": 1.0, "truncate": False}),
    "yarn, betas": (128, 65536, YARN | {"rope_theta": 10000.0, "factor": 2.0, "beta_fast": 16, "beta_slow": 2}),
    "yarn, half of the head": (64, 131072, YARN | {"rope_theta": 10000.0, "partial_rotary_factor": 0.5}),
}


def floats(x):
    """Nested lists of numbers with nine digits, which name each float32 uniquely."""
    return json.loads(json.dumps(x.tolist()), parse_float=lambda s: float(f"{float(s):.9g}"))


def write_json(name, head, cases):
    """One case a line, so that a change shows in a diff."""
    lines = ",\n".join("    " + json.dumps(c) for c in cases)
    made_with = f"transformers {transformers.__version__}, torch {torch.__version__}, float32"
    text = json.dumps(head | {"reference": made_with})[:-1] + f', "cases": [\n{lines}\n]}}\n'
    json.loads(text)
    (FOLDER / name).write_text(text, encoding="utf-8")


def rotary(head_dim, context, parameters):
    """The rotary embedding module for these parameters; Phi's is the one that knows partial_rotary_factor (and whose
    default for it is 0.5)."""
    config = PhiConfig(hidden_size=2 * head_dim, num_attention_heads=2, max_position_embeddings=context,
                       rope_parameters={"partial_rotary_factor": 1.0} | parameters)
    config.head_dim = head_dim
    return modeling_phi.PhiRotaryEmbedding(config)


def table(name, head_dim, context, parameters):
    rope = rotary(head_dim, context, parameters)
    if "partial_rotary_factor" not in parameters:
        llama = modeling_llama.LlamaRotaryEmbedding(LlamaConfig(
            hidden_size=2 * head_dim, num_attention_heads=2, head_dim=head_dim, max_position_embeddings=context,
            rope_parameters=dict(parameters)))
        assert torch.equal(llama.inv_freq, rope.inv_freq) and llama.attention_scaling == rope.attention_scaling
    cos, sin = rope(torch.zeros(1), torch.tensor([POSITIONS]))
    half = len(rope.inv_freq)
    return {"name": name, "head_dim": head_dim, "max_position_embeddings": context, "rope_parameters": parameters,
            "rotary_dim": 2 * half, "attention_scaling": rope.attention_scaling, "inv_freq": floats(rope.inv_freq),
            "cos": floats(cos[0, :, :half]), "sin": floats(sin[0, :, :half])}


def rotation(name, style, head_dim, fraction, positions, gen):
    """Rotates x (tokens, heads 2, head_dim); style "halves" as Llama and Phi, "interleaved" as GLM."""
    parameters = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": fraction}
    x = torch.randn(1, 2, len(positions), head_dim, generator=gen)
    if style == "interleaved":
        config = GlmConfig(hidden_size=2 * head_dim, num_attention_heads=2, head_dim=head_dim,
                           rope_parameters=parameters)
        cos, sin = modeling_glm.GlmRotaryEmbedding(config)(x, torch.tensor([positions]))
        y, _ = modeling_glm.apply_rotary_pos_emb(x, x, cos, sin)
    else:
        cos, sin = rotary(head_dim, 4096, parameters)(x, torch.tensor([positions]))
        rotated, _ = modeling_phi.apply_rotary_pos_emb(x[..., : cos.shape[-1]], x[..., : cos.shape[-1]], cos, sin)
        y = torch.cat([rotated, x[..., cos.shape[-1] :]], dim=-1)
    return {"name": name, "style": style, "head_dim": head_dim, "heads": 2, "rotary_dim": int(head_dim * fraction),
            "rope_theta": 10000.0, "positions": positions, "x": floats(x[0].transpose(0, 1).contiguous()),
            "y": floats(y[0].transpose(0, 1).contiguous())}


def norm(name, kind, x, eps, gen):
    """RMSNorm or LayerNorm of the rows of x (rows, n)."""
    n = x.shape[1]
    weight, bias = 1 + 0.3 * torch.randn(n, generator=gen), 0.3 * torch.randn(n, generator=gen)
    case = {"name": name, "kind": kind, "eps": eps, "x": floats(x), "weight": floats(weight)}
    if kind == "rmsnorm":
        module = modeling_llama.LlamaRMSNorm(n, eps)
        module.weight.data = weight
        return case | {"y": floats(module(x))}
    return case | {"bias": floats(bias), "y": floats(torch.nn.functional.layer_norm(x, (n,), weight, bias, eps))}


def norm_inputs(gen):
    """(name, x, eps)"""
    yield "64 columns", torch.randn(3, 64, generator=gen), 1e-5
    yield "one column", torch.randn(4, 1, generator=gen), 1e-5
    yield "7 columns", torch.randn(2, 7, generator=gen), 1e-6
    yield "100 columns, large", 1e4 * torch.randn(2, 100, generator=gen), 1e-6
    yield "48 columns, small: eps decides", 1e-4 * torch.randn(2, 48, generator=gen), 1e-5
    yield "33 columns around 100", 100 + torch.randn(2, 33, generator=gen), 1e-5
    yield "zeros", torch.zeros(1, 16), 1e-5


@torch.no_grad()
def main():
    torch.set_num_threads(1)
    FOLDER.mkdir(exist_ok=True)
    gen = torch.Generator().manual_seed(20)
    write_json("rope_tables.json", {"positions": POSITIONS}, [table(name, *case) for name, case in TABLES.items()])
    write_json("rope_rotations.json", {}, [
        rotation("halves", "halves", 16, 1.0, [0, 1, 5, 100], gen),
        rotation("halves, half of the head", "halves", 16, 0.5, [3, 4], gen),
        rotation("halves, 0.4 of 20", "halves", 20, 0.4, [7, 2], gen),
        rotation("interleaved", "interleaved", 16, 1.0, [0, 1, 5, 100], gen),
        rotation("interleaved, half of the head", "interleaved", 16, 0.5, [3, 4], gen)])
    write_json("norms.json", {}, [norm(name, kind, x, eps, gen) for kind in ("rmsnorm", "layernorm")
                                  for name, x, eps in norm_inputs(gen)])


if __name__ == "__main__":
    main()
