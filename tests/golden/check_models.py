#!/usr/bin/env python3
"""Checks tests/golden/models against code that is not ours. Run by hand after make_models.py, not by the test run.

    python tests/golden/check_models.py [--awq PACKING_UTILS.py] [--gptq QLINEAR_CUDA.py] [--ct-actorder FOLDER]

- compressed-tensors checkpoints are unpacked by the installed compressed-tensors package. It dropped weight_g_idx, so
  --ct-actorder names an unpacked compressed_tensors 0.9.4 wheel, which still knew it.
- --awq: awq/utils/packing_utils.py of AutoAWQ 0.2.9; --gptq: auto_gptq/nn_modules/qlinear/qlinear_cuda.py of AutoGPTQ
  0.7.1 (it knows v1 only; v2 is checked by turning it into v1: each stored zero minus one).
- The weights found so go into transformers' model, whose logits must be those of golden.json.
- Features matter: with a feature turned off in the config, the logits must change by far more than any tolerance.
"""

import argparse
import base64
import functools
import importlib.util
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

import make_models
from make_models import FOLDER, MODELS, PROJECTIONS

TURNED_OFF = {
    "llama-bias": {"attention_bias": False, "mlp_bias": False},
    "llama-rope-llama3": {"rope_scaling": None},
    "llama-rope-linear": {"rope_scaling": None},
    "llama-bf16-untied": {"rope_theta": 10000.0},
    "mistral-window": {"sliding_window": None},
    "qwen2-tied": {"rope_theta": 10000.0},
    "qwen2-yarn": {"rope_scaling": None},
    "qwen3": {"rope_theta": 10000.0},
    "qwen3-yarn": {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}},
}


@functools.cache
def load_module(path):
    spec = importlib.util.spec_from_file_location("foreign", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def layers_of(stored):
    """Names of the linear layers of the decoder."""
    return sorted({k.rsplit(".", 1)[0] for k in stored if k.rsplit(".", 1)[0].split(".")[-1] in PROJECTIONS})


def unpack_compressed(t, quant):
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationScheme
    scheme = QuantizationScheme.model_validate(quant["config_groups"]["group_0"])
    t = t | {"weight_scale": t["weight_scale"].float()}
    return BaseCompressor.get_value_from_registry(quant["format"]).decompress(t, scheme)["weight"]


# Run in a process of its own, since the old package has the name of the new one.
OLD_COMPRESSED = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from compressed_tensors.compressors.quantized_compressors.pack_quantized import unpack_from_int32
from compressed_tensors.quantization.lifecycle.forward import dequantize
t = torch.load(sys.argv[2])
q = unpack_from_int32(t["weight_packed"], 4, torch.Size(t["weight_shape"].tolist()))
w = dequantize(x_q=q, scale=t["weight_scale"].float(), g_idx=t["weight_g_idx"])
torch.save(w, sys.argv[2])
"""


def unpack_actorder(t, package):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "layer.pt"
        torch.save(t, path)
        subprocess.run([sys.executable, "-c", OLD_COMPRESSED, package, path], check=True)
        return torch.load(path)


def unpack_gptq(t, quant, module):
    bits, zeros = quant["bits"], t["qzeros"]
    if quant.get("checkpoint_format") == "gptq_v2":
        fields = [((zeros >> s) - 1) & (2**bits - 1) for s in range(0, 32, bits)]
        zeros = sum(f << s for f, s in zip(fields, range(0, 32, bits))).to(torch.int32)
    rows, columns = len(t["g_idx"]), t["qweight"].shape[1]
    layer = module.QuantLinear(bits, quant["group_size"], rows, columns, False, weight_dtype=torch.float32)
    layer.qweight, layer.qzeros, layer.g_idx, layer.scales = t["qweight"], zeros, t["g_idx"], t["scales"].float()
    return layer(torch.eye(rows)).T


def unpack_awq(t, quant, module):
    return module.dequantize_gemm(t["qweight"], t["qzeros"], t["scales"].float(), 4, quant["group_size"]).T


def foreign_state(name, config, args):
    """State dict of float32 weights unpacked by code that is not ours; None when the tool for it was not given."""
    quant, method = config["quantization_config"], config["quantization_config"].get("quant_method", "gptq")
    stored = load_file(FOLDER / name / "model.safetensors")
    state = {k: v.float() for k, v in stored.items() if k.endswith((".weight", ".bias")) and v.dtype != torch.int8}
    for layer in layers_of(stored):
        t = {k.removeprefix(layer + "."): v for k, v in stored.items() if k.startswith(layer + ".")}
        if set(t) <= {"weight", "bias"}:
            continue
        if method == "gptq" and args.gptq:
            w = unpack_gptq(t, quant, load_module(args.gptq))
            if not t.get("bias", torch.zeros(1)).any():
                state.pop(layer + ".bias", None)
        elif method == "awq" and args.awq:
            w = unpack_awq(t, quant, load_module(args.awq))
        elif method == "compressed-tensors" and "weight_g_idx" not in t:
            w = unpack_compressed(t, quant)
        elif "weight_g_idx" in t and args.ct_actorder:
            w = unpack_actorder(t, args.ct_actorder)
        else:
            return None
        state[layer + ".weight"] = w
    return state


def difference(model, golden):
    """Largest difference from golden.json's logits, relative to the largest logit of the row."""
    worst = 0.0
    for p in golden["prompts"]:
        want = np.frombuffer(base64.b64decode(p["logits_b64"]), "<f4").reshape(p["logits_shape"])
        got = make_models.logits_of(model, torch.tensor([p["ids"]]))[0, p["logit_positions"]].numpy()
        worst = max(worst, float((np.abs(got - want) / np.abs(want).max(axis=-1, keepdims=True)).max()))
    return worst


def model_with(config, state):
    config = {k: v for k, v in config.items() if k != "quantization_config"}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), dtype=torch.float32,
                                             attn_implementation="eager")
    model.load_state_dict(state, strict=False)
    model.tie_weights()
    return model.eval()


def main():
    ap = argparse.ArgumentParser()
    for tool in ("--awq", "--gptq", "--ct-actorder"):
        ap.add_argument(tool)
    args = ap.parse_args()
    torch.set_num_threads(1)
    failed = 0
    for name, config in MODELS.items():
        golden = json.loads((FOLDER / name / "golden.json").read_text(encoding="utf-8"))
        if "quantization_config" in config:
            state = foreign_state(name, config, args)
            if state is None:
                print(f"{name:26s} not checked: its tool was not given")
                continue
            d = difference(model_with(config, state), golden)
            ok, what = d < 1e-6, "unpacked elsewhere"
        elif name in TURNED_OFF:
            state = load_file(FOLDER / name / "model.safetensors")
            d = difference(model_with(config | TURNED_OFF[name], {k: v.float() for k, v in state.items()}), golden)
            ok, what = d > 0.05, "with the feature turned off"
        else:
            continue
        failed += not ok
        print(f"{name:26s} {'ok' if ok else 'FAILED'}: {what}, logits differ by {d:.1e}")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
