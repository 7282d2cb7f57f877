#!/usr/bin/env python3
"""Random weights of a configuration, for Blade and for llama.cpp: the same numbers as a Hugging Face checkpoint in bf16
and as GGUF files. Runs in the Python of llama-cpp-python; needs numpy and gguf.

    models.py CONFIG.json FOLDER w4 w8 bf16

writes FOLDER/{config.json,tokenizer.json,model.safetensors} and FOLDER/{bf16,w8,w4}.gguf, those that are not there yet.
w8 and w4 are what llama-quantize makes of BF16 as Q8_0 and Q4_0, by the same function of libllama.
"""
import ctypes
import json
import math
import os
import shutil
import sys
from pathlib import Path

import gguf
import numpy as np

FTYPES = {"w4": gguf.LlamaFileType.MOSTLY_Q4_0, "w8": gguf.LlamaFileType.MOSTLY_Q8_0}


class Config:
    """What is needed of config.json, under the names of this file."""

    def __init__(self, path):
        self.json = c = json.loads(Path(path).read_text())
        self.type = c["model_type"]
        if self.type not in ("llama", "qwen2", "qwen3"):
            raise SystemExit(f"models.py: {path}: model_type {self.type} is not one of llama, qwen2, qwen3")
        if not c["tie_word_embeddings"]:
            raise SystemExit(f"models.py: {path}: only models with tied embeddings are written")
        self.hidden, self.ffn, self.layers = c["hidden_size"], c["intermediate_size"], c["num_hidden_layers"]
        self.heads, self.kv_heads = c["num_attention_heads"], c["num_key_value_heads"]
        self.head = c.get("head_dim") or self.hidden // self.heads
        self.vocab = c["vocab_size"]


def tensors(c):
    """(name in the checkpoint, name in GGUF, shape, heads whose rows GGUF holds in another order or 0)."""
    yield "model.embed_tokens.weight", "token_embd.weight", (c.vocab, c.hidden), 0
    swap = c.type == "llama"  # llama.cpp rotates neighbours there, not halves
    for i in range(c.layers):
        hf, name = f"model.layers.{i}.", f"blk.{i}."
        yield hf + "input_layernorm.weight", name + "attn_norm.weight", (c.hidden,), 0
        for short, heads in (("q", c.heads), ("k", c.kv_heads), ("v", c.kv_heads)):
            order = heads if swap and short != "v" else 0
            yield f"{hf}self_attn.{short}_proj.weight", f"{name}attn_{short}.weight", (heads * c.head, c.hidden), order
            if c.type == "qwen2":
                yield f"{hf}self_attn.{short}_proj.bias", f"{name}attn_{short}.bias", (heads * c.head,), 0
            if c.type == "qwen3" and short != "v":
                yield f"{hf}self_attn.{short}_norm.weight", f"{name}attn_{short}_norm.weight", (c.head,), 0
        yield hf + "self_attn.o_proj.weight", name + "attn_output.weight", (c.hidden, c.heads * c.head), 0
        yield hf + "post_attention_layernorm.weight", name + "ffn_norm.weight", (c.hidden,), 0
        yield hf + "mlp.gate_proj.weight", name + "ffn_gate.weight", (c.ffn, c.hidden), 0
        yield hf + "mlp.up_proj.weight", name + "ffn_up.weight", (c.ffn, c.hidden), 0
        yield hf + "mlp.down_proj.weight", name + "ffn_down.weight", (c.hidden, c.ffn), 0
    yield "model.norm.weight", "output_norm.weight", (c.hidden,), 0


def random_bf16(rng, name, shape):
    """Norms around 1, the rest around 0, as bf16 bits."""
    x = rng.standard_normal(shape, dtype=np.float32)
    x *= np.float32(0.02)
    if "norm" in name:
        x += np.float32(1)
    bits = x.view(np.uint32)
    bits += ((bits >> 16) & 1) + np.uint32(0x7FFF)
    return (bits >> 16).astype(np.uint16)


def write_checkpoint(c, path):
    header, at, rng = {}, 0, np.random.default_rng(1)
    for name, _, shape, _ in tensors(c):
        size = 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for name, _, shape, _ in tensors(c):
            out.write(random_bf16(rng, name, shape).tobytes())


def read_checkpoint(path):
    """Name -> bits (uint16) in the mapped file."""
    data = np.memmap(path, np.uint8, "r")
    size = int(data[:8].view(np.uint64)[0])
    header = json.loads(bytes(data[8:8 + size]))
    data = data[8 + size:]
    return {name: data[slice(*t["data_offsets"])].view(np.uint16).reshape(t["shape"]) for name, t in header.items()}


# ---- a tokenizer for random text: bytes, and words that only a model says ------------------------------------------


def byte_letters():
    """The letter that stands for each byte in GPT-2's vocabularies."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in plain]
    letters = {b: chr(b) for b in plain} | {b: chr(256 + i) for i, b in enumerate(rest)}
    return [letters[b] for b in range(256)]


def vocabulary(c):
    """Tokens, and the ids of BOS and EOS among them. An ASCII text is as many tokens as letters."""
    words = byte_letters() + [f"\u0120w{i}" for i in range(256, c.vocab)]  # letter U+0120 stands for a space
    special = {c.json["bos_token_id"]: "<|begin|>", c.json["eos_token_id"]: "<|end|>"}
    for i, text in special.items():
        words[i] = text
    return words, special


def write_tokenizer(c, folder):
    words, special = vocabulary(c)
    ids = {w: i for i, w in enumerate(words)}
    model = {"type": "BPE", "dropout": None, "unk_token": None, "vocab": ids, "merges": []}
    added = [{"id": i, "content": w, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
              "special": True} for i, w in sorted(special.items())]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    whole = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
             "pre_tokenizer": level, "post_processor": None, "decoder": level, "model": model}
    (folder / "tokenizer.json").write_text(json.dumps(whole))


def add_tokenizer(writer, c):
    words, special = vocabulary(c)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(words)
    writer.add_token_types([gguf.TokenType.CONTROL if i in special else gguf.TokenType.NORMAL for i in range(c.vocab)])
    writer.add_token_merges(["\u0120 w256"])  # the list must not be empty; no text is encoded with it
    writer.add_bos_token_id(c.json["bos_token_id"])
    writer.add_eos_token_id(c.json["eos_token_id"])
    writer.add_add_bos_token(False)


# ---- GGUF ----------------------------------------------------------------------------------------------------------


def rope_factors(c):
    """What llama.cpp divides the frequencies by, where the configuration says "llama3"; otherwise None."""
    r = c.json.get("rope_scaling") or {}
    if r.get("rope_type") != "llama3":
        return None
    length = r["original_max_position_embeddings"]
    low, high, factor = r["low_freq_factor"], r["high_freq_factor"], r["factor"]
    wave = 2 * np.pi * c.json["rope_theta"] ** (np.arange(0, c.head, 2) / c.head)
    smooth = (length / wave - low) / (high - low)
    between = 1 / ((1 - smooth) / factor + smooth)
    return np.where(wave < length / high, 1, np.where(wave > length / low, factor, between)).astype(np.float32)


def add_parameters(writer, c):
    writer.add_context_length(c.json["max_position_embeddings"])
    writer.add_embedding_length(c.hidden)
    writer.add_block_count(c.layers)
    writer.add_feed_forward_length(c.ffn)
    writer.add_head_count(c.heads)
    writer.add_head_count_kv(c.kv_heads)
    writer.add_key_length(c.head)
    writer.add_value_length(c.head)
    writer.add_rope_dimension_count(c.head)
    writer.add_rope_freq_base(float(c.json["rope_theta"]))
    writer.add_layer_norm_rms_eps(c.json["rms_norm_eps"])
    writer.add_vocab_size(c.vocab)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)


def to_gguf(bits, heads):
    """A tensor of the checkpoint as GGUF holds it: vectors as float32, halves of heads interleaved for llama."""
    if bits.ndim == 1:
        return (bits.astype(np.uint32) << 16).view(np.float32)
    if heads:
        rows, columns = bits.shape
        bits = bits.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)
    return np.ascontiguousarray(bits)


def write_gguf(c, checkpoint, path):
    stored = read_checkpoint(checkpoint)
    writer = gguf.GGUFWriter(str(path), c.type)
    add_parameters(writer, c)
    add_tokenizer(writer, c)
    factors = rope_factors(c)
    if factors is not None:
        writer.add_tensor_info("rope_freqs.weight", factors.shape, factors.dtype, factors.nbytes)
    for name, there, shape, _ in tensors(c):
        if len(shape) == 1:
            writer.add_tensor_info(there, shape, np.dtype(np.float32), 4 * shape[0])
        else:
            kind = gguf.GGMLQuantizationType.BF16
            writer.add_tensor_info(there, shape, np.dtype(np.uint16), 2 * math.prod(shape), kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    if factors is not None:
        writer.write_tensor_data(factors)
    for name, _, _, heads in tensors(c):
        writer.write_tensor_data(to_gguf(stored[name], heads))
    writer.close()


def quantize(source, target, ftype):
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = int(ftype), os.cpu_count()
    if llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params)):
        raise SystemExit(f"models.py: {source} could not be quantized")


def once(path, write):
    """Writes a file under another name and renames it, so that what is there is whole."""
    if not path.exists():
        print(f"models.py: writing {path}", file=sys.stderr, flush=True)
        part = path.with_name(path.name + ".part")
        write(part)
        part.rename(path)


def main(config, folder, *weights):
    c, folder = Config(config), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(config, folder / "config.json")
    write_tokenizer(c, folder)
    once(folder / "model.safetensors", lambda path: write_checkpoint(c, path))
    once(folder / "bf16.gguf", lambda path: write_gguf(c, folder / "model.safetensors", path))
    for w in weights:
        if w in FTYPES:
            once(folder / f"{w}.gguf", lambda path: quantize(folder / "bf16.gguf", path, FTYPES[w]))
        elif w != "bf16":
            raise SystemExit(f"models.py: weights {w} are not one of w4, w8, bf16")


if __name__ == "__main__":
    if len(sys.argv) < 4:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
