#!/usr/bin/env python3
"""Makes tests/golden/models: small random checkpoints of each architecture and quantized format, and what transformers
computes with them. See models/README.md for the form of golden.json and the versions used.

    pip install -r scripts/requirements-golden.txt
    python tests/golden/make_models.py [NAME...]        all checkpoints, or only those named
    python tests/golden/make_models.py --demo TEXT      models/shakespeare-llama.json, of the trained demo model; TEXT
                                                        is its training text: the excerpt is from the held-out part

Every checkpoint has a fixed seed. Prompts are chosen among random ones so that greedy decoding is not sensitive to
rounding: at each step the best logit leads the second by at least MARGIN of the largest magnitude, and the continuation
is not one token over and over.
"""

import base64
import hashlib
import json
import pathlib
import shutil
import string
import sys

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

import packing

FOLDER = pathlib.Path(__file__).parent / "models"
MARGIN = 0.01
STEPS = 24
LENGTHS = {1: 90, 7: 64, 40: 48, 100: 32}  # prompt length -> how many candidates to choose from
REFERENCE = f"transformers {transformers.__version__}, torch {torch.__version__}, float32, eager attention"
DEMO_PROMPTS = (
    "ROMEO:", "JULIET:\nO", "First Citizen:\n", "KING RICHARD III:\nNow", "To be, or not to be", "My lord,",
    "What light through yonder", "QUEEN MARGARET:\nAnd thou", "The king is", "DUKE VINCENTIO:", "O, ", "Come, sir",
    "I'll tell thee", "Nurse:\n", "GLOUCESTER:\nWhat", "Good morrow", "LADY ANNE:", "Peace,", "Farewell", "Is it")
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
MERGES = [("t", "h"), ("th", "e"), ("Ġ", "t"), ("i", "n"), ("e", "r"), ("Ġ", "a"), ("a", "n"), ("o", "n"), ("r", "e"),
          ("Ġ", "s"), ("in", "g"), ("o", "r"), ("e", "n"), ("a", "t")]
QWEN_SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
              r"|\s+(?!\S)|\s+")

LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
MISTRAL = {"architectures": ["MistralForCausalLM"], "model_type": "mistral"}
QWEN2 = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}
QWEN3 = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}
ROPE = {"rope_theta": 10000.0}


def size(hidden, intermediate, heads=4, kv_heads=2, vocab=272):
    return {"hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": 2, "vocab_size": vocab,
            "num_attention_heads": heads, "num_key_value_heads": kv_heads, "max_position_embeddings": 256,
            "hidden_act": "silu", "rms_norm_eps": 1e-5, "bos_token_id": 0, "eos_token_id": 1}


def compressed(weights, activations=None, fmt="pack-quantized", ignore=("lm_head",)):
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32, "dynamic": False,
               "actorder": None, "block_structure": None, "observer": "minmax", "observer_kwargs": {}} | weights
    group = {"targets": ["Linear"], "weights": weights, "input_activations": activations, "output_activations": None}
    return {"quant_method": "compressed-tensors", "format": fmt, "quantization_status": "compressed",
            "config_groups": {"group_0": group}, "ignore": list(ignore), "kv_cache_scheme": None,
            "global_compression_ratio": None}


def gptq(**keys):
    return {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": True,
            "checkpoint_format": "gptq", "lm_head": False, "damp_percent": 0.01} | keys


INT8_TOKEN = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "group_size": None, "dynamic": True,
              "actorder": None, "block_structure": None, "observer": None, "observer_kwargs": {}}

# name -> config.json; "dtype" and "rope_parameters" are transformers 5's spelling, "torch_dtype", "rope_theta" and
# "rope_scaling" the older one. Both are in use, so both occur here.
MODELS = {
    "llama-f32": LLAMA | size(64, 64) | {"dtype": "float32", "tie_word_embeddings": True,
                                         "rope_parameters": ROPE | {"rope_type": "default"}},
    "llama-bf16-untied": LLAMA | size(64, 96) | {"torch_dtype": "bfloat16", "tie_word_embeddings": False,
                                                 "rope_scaling": None, "rope_theta": 500000.0},
    "llama-f16-legacy": LLAMA | size(32, 64, 2, 1) | {"torch_dtype": "float16", "tie_word_embeddings": False, **ROPE},
    "llama-sharded": LLAMA | size(32, 64, 2, 2) | {"torch_dtype": "bfloat16", "tie_word_embeddings": False, **ROPE},
    "llama-rope-llama3": LLAMA | size(64, 96) | {
        "torch_dtype": "bfloat16", "tie_word_embeddings": True, "rope_theta": 10000.0,
        "rope_scaling": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                         "original_max_position_embeddings": 64, "rope_type": "llama3"}},
    "llama-rope-linear": LLAMA | size(32, 64, 2, 1) | {
        "torch_dtype": "bfloat16", "tie_word_embeddings": True, "rope_theta": 10000.0,
        "rope_scaling": {"factor": 4.0, "type": "linear"}},
    "llama-bias": LLAMA | size(32, 64, 2, 1) | {
        "dtype": "bfloat16", "tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True,
        "rope_parameters": ROPE | {"rope_type": "default"}},
    "llama-head-dim": LLAMA | size(32, 64) | {"torch_dtype": "bfloat16", "tie_word_embeddings": True, "head_dim": 32,
                                              **ROPE},
    "llama-odd": LLAMA | size(40, 108, 5, 1, 263) | {"torch_dtype": "bfloat16", "tie_word_embeddings": False, **ROPE},
    "mistral-window": MISTRAL | size(64, 64) | {"torch_dtype": "float32", "tie_word_embeddings": True,
                                                "sliding_window": 8, **ROPE},
    "mistral-full": MISTRAL | size(32, 64, 2, 1) | {"dtype": "bfloat16", "tie_word_embeddings": False, "head_dim": 16,
                                              "sliding_window": None,
                                              "rope_parameters": ROPE | {"rope_type": "default"}},
    "qwen2-tied": QWEN2 | size(32, 64, 2, 1) | {
        "torch_dtype": "bfloat16", "tie_word_embeddings": True, "rope_theta": 1000000.0, "sliding_window": 8,
        "use_sliding_window": False, "max_window_layers": 2},
    "qwen2-yarn": QWEN2 | size(32, 64, 2, 1) | {
        "torch_dtype": "bfloat16", "tie_word_embeddings": False, "rope_theta": 10000.0, "use_sliding_window": False,
        "rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 64, "type": "yarn"}},
    "qwen3": QWEN3 | size(32, 64) | {"torch_dtype": "bfloat16", "tie_word_embeddings": True, "head_dim": 32,
                                     "attention_bias": False, "rope_scaling": None, "rope_theta": 1000000.0},
    "qwen3-yarn": QWEN3 | size(32, 64, 2, 1) | {
        "dtype": "bfloat16", "tie_word_embeddings": False, "head_dim": 16,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "yarn", "factor": 4.0,
                            "original_max_position_embeddings": 64, "attention_factor": 1.2}},

    "llama-gptq4-g128": LLAMA | size(128, 128) | {
        "torch_dtype": "float16", "tie_word_embeddings": True, **ROPE, "quantization_config": gptq(group_size=128)},
    "llama-gptq4-g32-asym": LLAMA | size(96, 160, 6) | {
        "torch_dtype": "float16", "tie_word_embeddings": True, **ROPE, "quantization_config": gptq(sym=False)},
    "llama-gptq4-v2-g32-asym": LLAMA | size(64, 96) | {
        "torch_dtype": "float16", "tie_word_embeddings": True, **ROPE,
        "quantization_config": gptq(sym=False, checkpoint_format="gptq_v2")},
    "llama-gptq4-act": LLAMA | size(96, 160, 6) | {
        "torch_dtype": "float16", "tie_word_embeddings": True, **ROPE, "quantization_config": gptq(desc_act=True)},
    "llama-gptq4-column": LLAMA | size(64, 96) | {  # its quantization_config stands in quantize_config.json only
        "torch_dtype": "float16", "tie_word_embeddings": True, **ROPE,
        "quantization_config": {"bits": 4, "group_size": -1, "desc_act": False, "sym": True, "damp_percent": 0.01}},
    "llama-gptq8-g32": LLAMA | size(64, 96) | {
        "torch_dtype": "float16", "tie_word_embeddings": True, **ROPE, "quantization_config": gptq(bits=8)},
    "qwen2-gptq4-g32": QWEN2 | size(64, 128) | {
        "torch_dtype": "float16", "tie_word_embeddings": False, **ROPE, "use_sliding_window": False,
        "quantization_config": gptq()},
    "llama-awq-g32": LLAMA | size(96, 160, 6) | {
        "torch_dtype": "float16", "tie_word_embeddings": True, **ROPE, "quantization_config": {
            "quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm",
            "modules_to_not_convert": None}},
    "qwen3-awq-g64": QWEN3 | size(64, 128) | {
        "torch_dtype": "float16", "tie_word_embeddings": False, "head_dim": 32, **ROPE, "quantization_config": {
            "quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True, "version": "gemm",
            "modules_to_not_convert": ["down_proj"]}},
    "llama-ct-w4-g32": LLAMA | size(64, 96) | {
        "torch_dtype": "bfloat16", "tie_word_embeddings": True, **ROPE, "quantization_config": compressed({})},
    "llama-ct-w4-channel": LLAMA | size(72, 172, 3, 1) | {
        "torch_dtype": "float32", "tie_word_embeddings": True, **ROPE,
        "quantization_config": compressed({"strategy": "channel", "group_size": None})},
    "llama-ct-w4-g32-asym": LLAMA | size(64, 96) | {
        "torch_dtype": "bfloat16", "tie_word_embeddings": True, **ROPE,
        "quantization_config": compressed({"symmetric": False})},
    "llama-ct-w4-act": LLAMA | size(96, 160, 6) | {
        "torch_dtype": "bfloat16", "tie_word_embeddings": True, **ROPE,
        "quantization_config": compressed({"actorder": "group"})},
    "llama-ct-w8-channel": LLAMA | size(64, 96) | {
        "torch_dtype": "float16", "tie_word_embeddings": True, **ROPE,
        "quantization_config": compressed({"num_bits": 8, "strategy": "channel", "group_size": None})},
    "llama-ct-w8a8": LLAMA | size(64, 96) | {
        "torch_dtype": "bfloat16", "tie_word_embeddings": True, **ROPE,
        "quantization_config": compressed({"num_bits": 8, "strategy": "channel", "group_size": None}, INT8_TOKEN,
                                          "int-quantized")},
    "qwen2-ct-w8a8": QWEN2 | size(64, 128) | {
        "torch_dtype": "bfloat16", "tie_word_embeddings": False, **ROPE, "use_sliding_window": False,
        "quantization_config": compressed({"num_bits": 8, "strategy": "channel", "group_size": None}, INT8_TOKEN,
                                          "int-quantized", ["lm_head", "model.layers.0.mlp.down_proj"])},
}


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def stored_dtype(config):
    return getattr(torch, config.get("dtype") or config["torch_dtype"])


def make_tokenizer(config):
    """Byte-level BPE with two special tokens and as many merges as fill the vocabulary; it adds no BOS, so that any
    text is a prompt of exactly its tokens. Qwen's have their own pre-tokenizer pattern."""
    vocab = {"<|begin|>": 0, "<|end|>": 1}
    for ch in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocab[ch] = len(vocab)
    merges = MERGES[: config["vocab_size"] - len(vocab)]
    for a, b in merges:
        vocab[a + b] = len(vocab)
    assert len(vocab) == config["vocab_size"]
    tok = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    if config["model_type"].startswith("qwen"):
        tok.normalizer = normalizers.NFC()
        tok.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    else:
        tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    tok.add_special_tokens(["<|begin|>", "<|end|>"])
    return PreTrainedTokenizerFast(tokenizer_object=tok, bos_token="<|begin|>", eos_token="<|end|>",
                                   model_max_length=config["max_position_embeddings"])


def random_state(config, seed):
    """Random float32 weights, large enough that attention and MLP decide the output, rounded to the stored type."""
    plain = {k: v for k, v in config.items() if k != "quantization_config"}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**plain), dtype=torch.float32)
    gen = torch.Generator().manual_seed(seed)
    state = {}
    for name, p in sorted(model.named_parameters()):
        x = torch.randn(p.shape, generator=gen)
        if "norm" in name:
            x = 1 + 0.2 * x
        elif name.endswith("bias"):
            x = 0.3 * x
        elif "embed_tokens" in name:
            x = 0.5 * x
        else:
            x = 1.5 * x / p.shape[1] ** 0.5
        state[name] = x.to(stored_dtype(config)).float()
    return state


def is_quantized(config, name):
    """Whether the weight of that name is stored quantized."""
    quant = config.get("quantization_config")
    layer = name.removesuffix(".weight")
    if not quant or name == layer or layer.split(".")[-1] not in PROJECTIONS:
        return False
    skipped = quant.get("ignore") or quant.get("modules_to_not_convert") or []
    return not any(s in layer for s in skipped)


def pack(config, w, rng):
    """Packs one (out, in) weight as the checkpoint's quantization_config says."""
    quant = config["quantization_config"]
    if quant.get("quant_method") == "awq":
        return packing.pack_awq(w, quant["group_size"])
    if quant.get("quant_method") == "compressed-tensors":
        args = quant["config_groups"]["group_0"]["weights"]
        scale_type = stored_dtype(config)
        if quant["format"] == "int-quantized":
            return packing.pack_int8(w, scale_type)
        return packing.pack_compressed(w, args["num_bits"], args["group_size"] or -1, args["symmetric"],
                                       args["actorder"] == "group", scale_type, rng)
    return packing.pack_gptq(w, quant["bits"], quant["group_size"], quant["sym"],
                             quant.get("checkpoint_format") == "gptq_v2", quant["desc_act"],
                             zero_bias=quant["group_size"] == 128, rng=rng)


def write_checkpoint(name, config, seed):
    """Writes the folder without golden.json; returns the float32 weights that the stored ones stand for."""
    folder = FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    state = random_state(config, seed)
    rng = np.random.default_rng(seed)
    stored, exact = {}, {}
    for key, w in state.items():
        if is_quantized(config, key):
            tensors, weight = pack(config, w.numpy(), rng)
            stored |= {key.removesuffix("weight") + part: t for part, t in tensors.items()}
            exact[key] = torch.from_numpy(weight)
        else:
            stored[key], exact[key] = w.to(stored_dtype(config)), w
    if name == "llama-f16-legacy":  # a buffer that old checkpoints hold and loaders ignore
        for i in range(config["num_hidden_layers"]):
            stored[f"model.layers.{i}.self_attn.rotary_emb.inv_freq"] = 1 / 10000 ** (torch.arange(0, 16, 2) / 16)
    write_weights(folder, stored, shards=3 if name == "llama-sharded" else 1)
    written = dict(config)
    if name == "llama-gptq4-column":
        write_json(folder / "quantize_config.json", written.pop("quantization_config"))
    write_json(folder / "config.json", written)
    write_json(folder / "generation_config.json", {"bos_token_id": 0, "eos_token_id": 1})
    make_tokenizer(config).save_pretrained(folder)
    compact = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    (folder / "tokenizer.json").write_text(json.dumps(compact, ensure_ascii=False) + "\n", encoding="utf-8")
    return exact


def write_weights(folder, stored, shards):
    if shards == 1:
        save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names, where = sorted(stored), {}
    for i in range(shards):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        part = {n: stored[n] for n in names[i * len(names) // shards : (i + 1) * len(names) // shards]}
        save_file(part, folder / file, metadata={"format": "pt"})
        where |= {n: file for n in part}
    total = sum(t.numel() * t.element_size() for t in stored.values())
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": where})


def reference_model(folder, config, exact):
    """transformers' model in float32, eager attention; quantized checkpoints get the exact weights they stand for."""
    if "quantization_config" not in config:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    plain = {k: v for k, v in config.items() if k != "quantization_config"}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**plain), dtype=torch.float32,
                                             attn_implementation="eager")
    missing, unexpected = model.load_state_dict(exact, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}
    model.tie_weights()
    return model.eval()


def quantize_activations(model, config):
    """Makes the quantized linear layers quantize their input per token: scale = amax / 127, round half to even,
    int8 * int8 summed exactly, then scaled; as int-quantized W8A8 is computed by integer kernels."""
    def forward(layer, x):
        scale = x.abs().amax(dim=-1, keepdim=True).clamp_min(1e-10) / 127
        q = torch.round(x / scale).clamp(-128, 127)
        total = q.double() @ layer.q8.double().T
        y = total.float() * scale * layer.q8_scale
        return y if layer.bias is None else y + layer.bias

    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Linear) and is_quantized(config, name + ".weight"):
            layer.forward = forward.__get__(layer)


def attach_int8(model, folder):
    stored = load_file(folder / "model.safetensors")
    for name, layer in model.named_modules():
        if f"{name}.weight_scale" in stored:
            layer.q8, layer.q8_scale = stored[f"{name}.weight"], stored[f"{name}.weight_scale"].float().flatten()
            assert torch.equal(layer.q8.float() * layer.q8_scale[:, None], layer.weight)


@torch.no_grad()
def logits_of(model, ids):
    """(batch, n) token ids -> (batch, n, vocab) logits, without a KV cache."""
    return model(ids, use_cache=False).logits


@torch.no_grad()
def greedy(model, ids):
    """Continues each row of (batch, n) ids; returns ((batch, STEPS) ids, (batch,) least relative margin)."""
    margin, n = torch.full((len(ids),), torch.inf), ids.shape[1]
    for _ in range(STEPS):
        last = logits_of(model, ids)[:, -1]
        top = last.topk(2, dim=-1)
        margin = torch.minimum(margin, (top.values[:, 0] - top.values[:, 1]) / last.abs().amax(dim=-1))
        ids = torch.cat([ids, top.indices[:, :1]], dim=1)
    return ids[:, n:], margin


def random_prompts(tok, length, count, rng):
    """Distinct random texts of exactly that many tokens, as (count, length) ids that decode to the text and back."""
    alphabet = np.array(list(string.ascii_letters + string.digits + "    ,.;:!?-'\"()\n"))
    found = {}
    for _ in range(100000):
        ids = tok.encode("".join(rng.choice(alphabet, 2 * length)))[:length]
        text = tok.decode(ids)
        if len(ids) == length and tok.encode(text) == ids and text.strip() and text[0] not in " \n":
            found.setdefault(text, ids)
        if len(found) == count or (length == 1 and len(found) == 70):
            break
    return torch.tensor(list(found.values()))


def choose_prompt(runs, ids):
    """Picks the candidate with the widest margin among those whose continuations vary and hold no special token; runs
    is a list of greedy() results. None when no candidate will do."""
    least = torch.stack([margin for _, margin in runs]).amin(dim=0)
    for i in least.argsort(descending=True).tolist():
        rows = [out[i] for out, _ in runs]
        if all(len(set(r.tolist())) >= 8 and r.min() > 1 for r in rows):
            return (ids[i], rows, least[i].item()) if least[i] >= MARGIN else None
    return None


def encode_floats(x):
    return base64.b64encode(x.contiguous().float().numpy().astype("<f4").tobytes()).decode()


def shown_positions(length):
    """All positions of short prompts, a few of the long ones."""
    return list(range(length)) if length <= 8 else [0, 1, length // 2, length - 2, length - 1]


def make_golden(models_, tok, seed):
    """models_ maps a suffix ("" and perhaps "_a8") to a model; returns the value of golden.json, or None when these
    weights have no prompt that is robust enough."""
    rng = np.random.default_rng(seed)
    prompts, worst = [], 1.0
    for length, count in LENGTHS.items():
        candidates = random_prompts(tok, length, count, rng)
        choice = choose_prompt([greedy(m, candidates) for m in models_.values()], candidates)
        if choice is None:
            return None
        ids, rows, margin = choice
        worst = min(worst, margin)
        at = shown_positions(length)
        entry = {"text": tok.decode(ids.tolist()), "ids": ids.tolist(), "logit_positions": at,
                 "logits_shape": [len(at), tok.vocab_size]}
        for (suffix, model), row in zip(models_.items(), rows):
            alone, _ = greedy(model, ids[None])
            assert torch.equal(alone[0], row), "greedy decoding depends on the batch"
            entry[f"greedy{suffix}"] = row.tolist()
            entry[f"logits{suffix}_b64"] = encode_floats(logits_of(model, ids[None])[0, at])
        prompts.append(entry)
    return {"reference": REFERENCE, "min_margin": round(worst, 5), "prompts": prompts}


def float64_error(model, prompts):
    """Largest error of the float32 reference against float64, relative to the largest logit of the row."""
    double, error = model.double(), 0.0
    for p in prompts:
        exact = logits_of(double, torch.tensor([p["ids"]]))[0, p["logit_positions"]].numpy()
        single = np.frombuffer(base64.b64decode(p["logits_b64"]), "<f4").reshape(p["logits_shape"])
        error = max(error, float((np.abs(single - exact) / np.abs(exact).max(axis=-1, keepdims=True)).max()))
    return error


def build(name, config, seed):
    """Writes the checkpoint for that seed; returns (its reference models by suffix, the value of golden.json)."""
    folder = FOLDER / name
    exact = write_checkpoint(name, config, seed)
    models_ = {"": reference_model(folder, config, exact)}
    if config.get("quantization_config", {}).get("format") == "int-quantized":
        models_["_a8"] = reference_model(folder, config, exact)
        attach_int8(models_["_a8"], folder)
        quantize_activations(models_["_a8"], config)
    return models_, make_golden(models_, PreTrainedTokenizerFast.from_pretrained(folder), seed)


def make(name):
    folder, golden, attempt = FOLDER / name, None, 0
    while golden is None:
        seed = int.from_bytes(hashlib.sha256(f"{name}/{attempt}".encode()).digest()[:4], "little")
        models_, golden = build(name, MODELS[name], seed)
        attempt += 1
    (folder / "golden.json").write_text(json.dumps(golden, ensure_ascii=False) + "\n", encoding="utf-8")
    for file in folder.iterdir():
        file.chmod(0o644)
    total = sum(f.stat().st_size for f in folder.iterdir())
    error = float64_error(models_[""], golden["prompts"])
    print(f"{name:26s} seed {attempt - 1}  {total / 1000:4.0f} kB  margin {golden['min_margin']:.4f}  "
          f"float32 error {error:.1e}", flush=True)


def excerpt_loss(model, tok, text):
    """Perplexity as `blade perplexity` defines it: windows of max_position_embeddings tokens, each begun with BOS."""
    ids, room, total = tok.encode(text, add_special_tokens=False), model.config.max_position_embeddings - 1, 0.0
    for at in range(0, len(ids), room):
        row = torch.tensor([[tok.bos_token_id] + ids[at : at + room]])
        logits = logits_of(model, row)[0, :-1].double()
        total += torch.nn.functional.cross_entropy(logits, row[0, 1:], reduction="sum").item()
    return {"text": text, "tokens": len(ids), "nats_per_token": round(total / len(ids), 7)}


def make_demo(training_text):
    """Golden output of the demo model: prompts (ids with BOS) whose greedy continuation is robust, and perplexity."""
    folder = FOLDER.parents[2] / "models" / "shakespeare-llama"
    tok = PreTrainedTokenizerFast.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    prompts, worst = [], 1.0
    for text in DEMO_PROMPTS:
        ids = tok.encode(text)
        row, margin = greedy(model, torch.tensor([ids]))
        if margin.item() < MARGIN / 10:  # a trained model is often of two minds; float32 still tells them apart
            continue
        worst, at = min(worst, margin.item()), [0, len(ids) - 1]
        prompts.append({"text": text, "ids": ids, "greedy": row[0].tolist(), "greedy_text": tok.decode(row[0]),
                        "logit_positions": at, "logits_shape": [2, len(tok)],
                        "logits_b64": encode_floats(logits_of(model, torch.tensor([ids]))[0, at])})
    start = training_text.index("\n\n", len(training_text) * 9 // 10) + 2
    golden = {"reference": REFERENCE, "min_margin": round(worst, 5), "prompts": prompts,
              "perplexity": excerpt_loss(model, tok, training_text[start : start + 4000])}
    path = FOLDER / "shakespeare-llama.json"
    path.write_text(json.dumps(golden, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{path.name}: {len(prompts)} of {len(DEMO_PROMPTS)} prompts, margin {worst:.4f}, "
          f"float32 error {float64_error(model, prompts):.1e}")


def main():
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["--demo"]:
        make_demo(pathlib.Path(sys.argv[2]).read_text(encoding="utf-8"))
        return
    for name in sys.argv[1:] or MODELS:
        make(name)


if __name__ == "__main__":
    main()
