"""Checkpoints that say what they are told to: a Llama model of one layer whose weights are a table of what comes next.

Every token is a unit vector, attention and MLP are zero, and row `b` of lm_head is 1 where token `a` comes before `b`.
The scripts are cut into tokens none of which appears twice, so that each has one successor; the last one is followed by
the end-of-sequence token. Prompts consist of single bytes: the last byte of a prompt chooses the script.
"""
import array
import json
import math
import struct

START, END = "<|im_start|>", "<|im_end|>"

# ChatML with tools in the manner of Qwen. `script` and `thinking` come from chat_template_kwargs.
HERMES = (
    "{%- if tools %}<|im_start|>system\n# Tools\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}"
    "For a call write <tool_call>\n{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call>"
    "<|im_end|>\n{% endif %}"
    "{%- for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content or '' }}"
    "{% for call in m.tool_calls or [] %}<tool_call>\n{\"name\": \"{{ call.function.name }}\", "
    "\"arguments\": {{ call.function.arguments | tojson }}}\n</tool_call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{%- if add_generation_prompt %}<|im_start|>assistant\n{{ script }}{% if thinking %}<think>{% endif %}{% endif %}")

LLAMA3 = (
    "{%- if tools %}<|start_header_id|>system\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}"
    "Respond with {\"name\": function name, \"parameters\": dictionary of argument name and its value}.\n{% endif %}"
    "{%- for m in messages %}<|start_header_id|>{{ m.role }}\n{{ m.content }}\n{% endfor %}"
    "{%- if add_generation_prompt %}<|start_header_id|>assistant\n{{ script }}{% endif %}")


def byte_characters():
    """The printable character that stands for each byte in vocabularies of byte-level BPE."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in plain]
    return {**{b: chr(b) for b in plain}, **{b: chr(256 + i) for i, b in enumerate(others)}}


def cut(script, seen):
    """Pieces of at least two bytes, none of which is in `seen`; adds them to it."""
    pieces, at = [], 0
    while at < len(script):
        end = at + 2
        while script[at:end] in seen and end < len(script):
            end += 1
        piece, at = script[at:end], end
        while len(piece) < 2 or piece in seen:  # the end of the script: joined with what comes before
            seen.remove(pieces[-1])
            piece = pieces.pop() + piece
        seen.add(piece)
        pieces.append(piece)
    return pieces


def write_header(file, tensors):
    """The beginning of a safetensors file; the data of {name: (dtype, shape)} follows in that order."""
    header, end = {}, 0
    for name, (dtype, shape) in tensors.items():
        begin, end = end, end + {"F32": 4, "BF16": 2}[dtype] * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(struct.pack("<Q", len(text)) + text)


def write_safetensors(path, tensors):
    """{name: (shape, array of float32)}"""
    with open(path, "wb") as f:
        write_header(f, {name: ("F32", shape) for name, (shape, _) in tensors.items()})
        for _, values in tensors.values():
            f.write(values.tobytes())


def zeros(*shape):
    return list(shape), array.array("f", bytes(4 * math.prod(shape)))


def ones(n):
    return [n], array.array("f", [1.0] * n)


def write_tokenizer(folder, vocab, template):
    added = [{"id": i, "content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
              "special": True} for i, text in enumerate((START, END), len(vocab))]
    bpe = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer = {"version": "1.0", "added_tokens": added, "normalizer": None, "pre_tokenizer": bpe, "decoder": bpe,
                 "post_processor": None, "model": {"type": "BPE", "vocab": vocab, "merges": []}}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    config = {"eos_token": END, "chat_template": template, "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def write_weights(folder, size, follows):
    mlp, head_dim = 64, 64
    table = zeros(size, size)
    for token, following in follows.items():
        table[1][following * size + token] = 1.0
    unit = zeros(size, size)
    for i in range(size):
        unit[1][i * size + i] = 1.0
    layer = "model.layers.0."
    write_safetensors(folder / "model.safetensors", {
        "model.embed_tokens.weight": unit, "lm_head.weight": table, "model.norm.weight": ones(size),
        layer + "input_layernorm.weight": ones(size), layer + "post_attention_layernorm.weight": ones(size),
        **{layer + f"self_attn.{n}_proj.weight": zeros(head_dim, size) for n in "qkv"},
        layer + "self_attn.o_proj.weight": zeros(size, head_dim), layer + "mlp.gate_proj.weight": zeros(mlp, size),
        layer + "mlp.up_proj.weight": zeros(mlp, size), layer + "mlp.down_proj.weight": zeros(size, mlp)})
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": size, "intermediate_size": mlp,
        "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": head_dim,
        "vocab_size": size, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
        "torch_dtype": "float32", "hidden_act": "silu", "tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(config))


def write_parrot(folder, scripts, template):
    """Writes a checkpoint into `folder`. scripts: {character: text}; the text follows a prompt that ends with the
    character. "" is for prompts that end with any other byte."""
    characters = byte_characters()
    vocab = {characters[b]: b for b in range(256)}
    begin, follows, seen = {}, {}, set()
    for character, text in scripts.items():
        before = None
        for piece in cut(text.encode(), seen):
            token = vocab.setdefault("".join(characters[b] for b in piece), len(vocab))
            if before is None:
                begin[character] = token
            else:
                follows[before] = token
            before = token
        follows[before] = None
    end = len(vocab) + 1
    follows = {token: end if following is None else following for token, following in follows.items()}
    for byte in range(256):
        follows[byte] = begin.get(chr(byte), begin[""])
    for special in (len(vocab), end):
        follows[special] = begin[""]
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder, vocab, template)
    write_weights(folder, -(-(len(vocab) + 2) // 64) * 64, follows)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": end}))
