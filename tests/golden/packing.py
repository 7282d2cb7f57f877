"""Quantizes float weights by plain rounding and packs them as GPTQ, AutoAWQ and compressed-tensors checkpoints do.

Weights come and go as float32 numpy arrays of shape (out, in). Each pack_*() returns (tensors, weight): the tensors of
one linear layer by their name's last part, and the float32 weight that they stand for, exactly (q - zero) * scale.
"""

import numpy as np
import torch

AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]  # nibble k of a word holds column 8 * word + AWQ_ORDER[k]


def as_int32(words):
    return torch.from_numpy(words.astype(np.uint32).view(np.int32).copy())


def pack_words(q, bits):
    """(rows, n) unsigned values -> (rows, ceil(n * bits / 32)) words along the last axis, lowest bits first."""
    per_word = 32 // bits
    pad = -q.shape[1] % per_word
    q = np.pad(q, ((0, 0), (0, pad))).astype(np.uint32).reshape(q.shape[0], -1, per_word)
    return np.bitwise_or.reduce(q << (np.arange(per_word, dtype=np.uint32) * np.uint32(bits)), axis=2)


def round_scale(scale, dtype):
    """Rounds scales to the type they are stored in; returns (stored tensor, the same values as float32)."""
    stored = torch.from_numpy(np.maximum(scale, 1e-4).astype(np.float32)).to(dtype)
    return stored, stored.float().numpy()


def quantize(w, groups, bits, symmetric, dtype, lowest_zero=0):
    """Rounds (out, in) weights where column i belongs to group groups[i]. Returns (q, zero, stored scale, weight):
    q (out, in) and zero (out, groups) unsigned, scale (out, groups) of type dtype."""
    levels = 2**bits - 1
    count = groups.max() + 1
    low = np.stack([w[:, groups == g].min(axis=1) for g in range(count)], axis=1)
    high = np.stack([w[:, groups == g].max(axis=1) for g in range(count)], axis=1)
    if symmetric:
        scale = np.maximum(-low, high) / (levels / 2)
        stored, scale = round_scale(scale, dtype)
        zero = np.full(scale.shape, 2 ** (bits - 1))
    else:
        stored, scale = round_scale((np.maximum(high, 0) - np.minimum(low, 0)) / levels, dtype)
        zero = np.clip(np.rint(-np.minimum(low, 0) / scale), lowest_zero, levels).astype(np.int64)
    q = np.clip(np.rint(w / scale[:, groups]) + zero[:, groups], 0, levels).astype(np.int64)
    weight = (q - zero[:, groups]).astype(np.float32) * scale[:, groups]
    return q, zero, stored, weight


def groups_of(columns, group_size, rng=None):
    """Group of each column: consecutive runs of group_size (-1: one group), or in random order when rng is given."""
    groups = np.arange(columns) // (columns if group_size == -1 else group_size)
    return rng.permutation(groups) if rng is not None else groups


def pack_gptq(w, bits=4, group_size=128, symmetric=True, v2=False, desc_act=False, zero_bias=False, rng=None):
    groups = groups_of(w.shape[1], group_size, rng if desc_act else None)
    q, zero, scale, weight = quantize(w, groups, bits, symmetric, torch.float16, lowest_zero=0 if v2 else 1)
    tensors = {
        "qweight": as_int32(pack_words(q, bits).T),
        "qzeros": as_int32(pack_words(zero.T - (0 if v2 else 1), bits)),
        "scales": scale.T.contiguous(),
        "g_idx": torch.from_numpy(groups.astype(np.int32)),
    }
    if zero_bias:
        tensors["bias"] = torch.zeros(w.shape[0], dtype=torch.float16)
    return tensors, weight


def pack_awq(w, group_size=128):
    q, zero, scale, weight = quantize(w, groups_of(w.shape[1], group_size), 4, False, torch.float16)

    def pack(x):
        return as_int32(pack_words(x.T.reshape(x.shape[1], -1, 8)[:, :, AWQ_ORDER].reshape(x.shape[1], -1), 4))

    return {"qweight": pack(q), "qzeros": pack(zero), "scales": scale.T.contiguous()}, weight


def pack_compressed(w, bits=4, group_size=32, symmetric=True, actorder=False, dtype=torch.bfloat16, rng=None):
    """compressed-tensors "pack-quantized"; group_size -1 is strategy "channel"."""
    groups = groups_of(w.shape[1], group_size, rng if actorder else None)
    q, zero, scale, weight = quantize(w, groups, bits, symmetric, dtype)
    tensors = {"weight_packed": as_int32(pack_words(q, bits)), "weight_scale": scale,
               "weight_shape": torch.tensor(w.shape, dtype=torch.int64)}
    if not symmetric:
        tensors["weight_zero_point"] = as_int32(np.ascontiguousarray(pack_words(zero.T, bits).T))
    if actorder:
        tensors["weight_g_idx"] = torch.from_numpy(groups.astype(np.int32))
    return tensors, weight


def pack_int8(w, dtype=torch.bfloat16):
    """compressed-tensors "int-quantized": int8 weights, one scale a row."""
    q, zero, scale, weight = quantize(w, groups_of(w.shape[1], -1), 8, True, dtype)
    return {"weight": torch.from_numpy((q - 128).astype(np.int8)), "weight_scale": scale}, weight
