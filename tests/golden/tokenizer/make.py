"""Writes the golden files of this folder: small tokenizers, and what the `tokenizers` package makes of hard text.

    pip install tokenizers==0.23.3
    python make.py TRAINING_TEXT [MODEL_DIR]

TRAINING_TEXT is any English text; the committed files come from tiny-shakespeare. MODEL_DIR holds the tokenizer.json of
tinystories-260k.
"""
import copy
import json
import pathlib
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

HERE = pathlib.Path(__file__).parent
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace("{1,3}", "")
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
FOREIGN = [
    "Größe, façade, naïve café — «déjà vu»…", "Привет, мир! Как дела?", "你好，世界！我们学习机器学习。", "こんにちは世界。カタカナも。",
    "안녕하세요 세계", "مرحبا بالعالم", "שלום עולם", "नमस्ते दुनिया", "สวัสดีชาวโลก", "👍🏽 👨‍👩‍👧‍👦 🇩🇪 ❤️ 😀😀😀",
    "x = [1, 2, 3]\n\tif x:\n\t\treturn {'a': 1.5e-3}\n", "1234567890 3.14159 1,000,000 ½ ² Ⅷ ٣٤", "I'm you're HE'LL we'D it'S don’t",
]

TEXTS = [
    "", " ", "  ", "\n", "\r\n", "a", " a", "a ", "Hello, world!", "  leading and trailing  ", "tabs\tand\t\tmore\t",
    "line\nline\r\nline\rline\n\n\n", "   \n   \n  x", "spaces      inside    words", " \t \t x \t ",
    "First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\nSpeak, speak.",
    "I'm you're he's we'll they'd I've don't CAN'T It'S y'all'd've 'tis 's 'T", "'ſ 'S 'ﬆ Kelvin: 'K K",
    "12345678901234567890", "1 12 123 1234 12.5 -7 1,000,000 0x1F 1e-9 ٠١٢٣ ½¾ ²³ Ⅻ ① १२३", "3.14159abc123def4567",
    "!!!??? ... --- ___ ### $$$ @user #tag a_b c-d e/f \\ | ~ ^ ` { } [ ] ( ) < >", "foo.bar();// comment\n\tint x=0;\n",
    "你好，世界！这是一个测试。", "こんにちは、世界。カタカナとひらがな漢字", "안녕하세요 세계! 한국어", "مرحبا بالعالم كيف حالك؟ ١٢٣",
    "שָׁלוֹם עוֹלָם", "नमस्ते दुनिया क्या हाल है", "สวัสดีชาวโลก", "Ελληνικά κείμενο", "Привет, мир! Ёлка", "Ünïcödé ßtraße ǅ ŉ İstanbul ıI",
    "👍 👍🏽 👨‍👩‍👧‍👦 🏳️‍🌈 🇩🇪🇫🇷 ❤️ 😀😀😀😀 ☃️ 🧑🏿‍💻", "e\u0301 é a\u030a\u0323 \u1e9b\u0323 ﬁ ﬀ ① Ａ ㎏ ½ \u2126 \u212b ﷺ",
    "\u0344\u0385 \u1100\u1161\u11a8 각 \u0f73 \u0958 \u2adc", "q\u0307\u0323\u0327\u0301 " + "a" + "\u0301\u0323" * 20,
    "\u00a0nbsp\u00a0 \u2003em\u2003 \u3000ideographic\u3000 \u200bzero\u200b \u180emvs\u180e \u2028ls\u2029ps\u0085nel \ufeffbom",
    "\u200d\u200c joiner a\u200db \u00ad soft", "\x00\x01\x02 \x1b[0m \x7f", "\U0001f9ff\U000e0001\U00010ffff\uffff\ufffd\ue000",
    "\U00031350\U0002ebf0\U00010d4a\u1c8a\u2c2f \U00016d40 \U0001ccf0\U0001e5f1 new in Unicode 15 and 16", "𝕳𝖊𝖑𝖑𝖔 𝟙𝟚𝟛 𐍈𐌰",
    "<s>", "</s>", "<s>Hello</s>", "a<s>b</s>c", "<s> Hello </s> world", " <s>  x", "<unk>", "<0x41><0xFF>", "▁under▁bar ▁ ▁▁",
    "<|im_start|>user\nHi!<|im_end|>\n<|im_start|>assistant\n", "<|im_end|><|im_end|>", "<|im_start", "<|im_start|", "<<|im_start|>>",
    "x <|lstrip|> y", "x  \n<|lstrip|>y", "x <|rstrip|>  \t\ny", "x <|both|> y <|both|>  <|both|> z", "<|lstrip|>", "  <|lstrip|>",
    "<|rstrip|>  ", "  <|both|>  ", "<|rstrip|> <|lstrip|>", "single solo solos asolo a.solo solo. solo solo_ ésolo soloé solo1 1solo (solo)",
    "solo", "solosolo", "\u200dsolo solo\u200c ²solo", "norm NORM Norm xnormx nOrM", "nested <|im_start|>norm<|im_end|>solo <|lstrip|>norm",
    "longest longest-token longest-token-of-all longest-tok", "Ａdded", "caf\u00e9 cafe\u0301 CAF\u00c9", "two words here: two words",
    "the quick brown fox", "Speak", " Speak", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "abcabcabcabcabcabc" * 8,
    "supercalifragilisticexpialidocious antidisestablishmentarianism", "\n\n\n\n\n\n\n\n\n\n\t\t\t\t\t          ",
    "\n".join(FOREIGN),
]
BROKEN = ["ff", "80", "c3", "c328", "e282", "e28261", "e2828261", "f09f98", "f09f9861", "eda080", "f0808080", "f4908080", "c080", "61ff62fe63",
          "e28261e282", "f8888080", "c3a9c3", "20ff20", "3c733eff3c2f733e", "e0a061", "ed9f", "f48f61", "61c2", "ffffffffff"]
LONG = [  # (unit in hex, times): at least 100 kB each
    ["\n".join(t for t in TEXTS if t).encode().hex(), 26], ["61", 100000], ["20", 100000], ["0a20", 50000], ["20200a09", 25000],
    ["e4bda0e5a5bd", 17000], ["61cc81cca3", 20000], ["f09f918d", 25000], ["ff", 33000], ["3c733e", 33000], ["536f6c6f20736f6c6f20", 10000],
    ["6120", 50000], ["313233", 33334], ["2e", 100000],
]


def fnv(data):
    """FNV-1a, 64 bits."""
    h = 0xCBF29CE484222325
    for b in data:
        h = ((h ^ b) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return f"{h:016x}"


def ids_of(tok, text, add_special, parse_special):
    tok.encode_special_tokens = not parse_special
    return tok.encode(text, add_special_tokens=add_special).ids


def case(tok, raw):
    text = raw.decode("utf-8", errors="replace")
    parsed, plain = ids_of(tok, text, False, True), ids_of(tok, text, False, False)
    return {"ids": parsed, "plain": None if plain == parsed else plain,
            "full": ids_of(tok, text, True, True), "text": tok.decode(parsed, skip_special_tokens=False),
            "skip": tok.decode(parsed, skip_special_tokens=True)}


def long_case(tok, unit, times):
    text = (bytes.fromhex(unit) * times).decode("utf-8", errors="replace")
    ids = ids_of(tok, text, False, True)
    decoded = tok.decode(ids, skip_special_tokens=False).encode()
    return {"unit": unit, "times": times, "count": len(ids), "fnv": fnv(b"".join(i.to_bytes(4, "little") for i in ids)), "bytes": len(decoded), "text_fnv": fnv(decoded)}


def odd_decodes(tok):
    """Id sequences that no encoder makes: each id alone, and a scrambled walk over the vocabulary."""
    n = tok.get_vocab_size()
    walk = [(i * i * 7 + 13 * i) % (n + 3) for i in range(600)]
    low = [(i * 37 + i * i) % 300 for i in range(400)]  # where the byte tokens are
    return [{"ids": ids, "text": tok.decode(ids, skip_special_tokens=False), "skip": tok.decode(ids)}
            for ids in (walk, low, [low[0]], walk[:2])]


def golden(tok, texts, long):
    raws = [t.encode() for t in texts] + [bytes.fromhex(b) for b in BROKEN]
    return {"cases": [case(tok, r) for r in raws], "long": [long_case(tok, *c) for c in long], "decode": odd_decodes(tok)}


def write(name, obj):
    text = json.dumps(obj, ensure_ascii=True, separators=(",", ":"))
    (HERE / name).write_text(text + "\n")


# ---- the tokenizers ------------------------------------------------------------------------------------------------

def special(content, **flags):
    return AddedToken(content, special=True, normalized=False, **flags)


def flagged(tok):
    """Added tokens with every flag."""
    tok.add_special_tokens([special("<s>"), special("</s>"), special("<|im_start|>"), special("<|im_end|>"),
                            special("<|lstrip|>", lstrip=True), special("<|rstrip|>", rstrip=True),
                            special("<|both|>", lstrip=True, rstrip=True)])
    tok.add_tokens([AddedToken("solo", single_word=True, normalized=False), AddedToken("norm", normalized=True),
                    AddedToken("longest", normalized=False), AddedToken("longest-token", normalized=False),
                    AddedToken("longest-token-of-all", normalized=False), AddedToken("two words", normalized=True),
                    AddedToken("caf\u00e9", normalized=True, single_word=True)])


def train(pre, corpus, size, alphabet, normalizer=None, **model):
    tok = Tokenizer(models.BPE(**model))
    tok.pre_tokenizer = pre
    if normalizer:
        tok.normalizer = normalizer
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False,
                                  special_tokens=[model["unk_token"]] if "unk_token" in model else [])
    tok.train_from_iterator(corpus, trainer)
    return json.loads(tok.to_str())


def byte_level(corpus, pattern):
    pre = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"),
                                   pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    return train(pre, corpus, 900, pre_tokenizers.ByteLevel.alphabet())


def sentencepiece(corpus):
    """A vocabulary laid out as SentencePiece does it: <unk>, <s>, </s>, 256 bytes, then pieces."""
    js = train(pre_tokenizers.Metaspace(), corpus, 500, [], unk_token="<unk>")
    model = js["model"]
    names = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    names += [t for t in sorted(model["vocab"], key=model["vocab"].get) if t not in names and (t.isascii() or "▁" in t)]
    model["vocab"] = {t: i for i, t in enumerate(names)}
    model["merges"] = [m for m in model["merges"] if all(t in model["vocab"] for t in (*m, "".join(m)))]
    model.update(byte_fallback=True, fuse_unk=True)
    for key in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        js[key] = None
    js["added_tokens"] = [{"id": i, "content": t, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
                           "special": True} for i, t in enumerate(names[:3])]
    return js


def template(bos=None, eos=None):
    def piece(token):
        return [{"SpecialToken": {"id": token, "type_id": 0}}] if token else []
    return lambda tok: {"type": "TemplateProcessing", "single": piece(bos) + [{"Sequence": {"id": "A", "type_id": 0}}] + piece(eos),
                        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
                        "special_tokens": {t: {"id": t, "ids": [tok.token_to_id(t)], "tokens": [t]} for t in (bos, eos) if t}}


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
SPM_DECODER = [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]
STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}


def split(pattern, behavior="Isolated", invert=False, literal=False):
    return {"type": "Split", "pattern": {"String" if literal else "Regex": pattern}, "behavior": behavior, "invert": invert}


def seq(kind, *parts):
    return {"type": "Sequence", kind: list(parts)}


def space(scheme, cut):
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": cut}


NO_REGEX = dict(BYTES, use_regex=False)
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
DEEPSEEK = ["[\r\n]", r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-Ֆ]+", r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$",
            "[一-龥ࠀ-一가-퟿]+"]
# name -> (base, members replaced, members of "model" replaced, template)
VARIANTS = {
    "gpt2": ("bytes", {"pre_tokenizer": BYTES, "post_processor": BYTES}, {}, None),
    "gpt2-prefix": ("bytes", {"pre_tokenizer": dict(BYTES, add_prefix_space=True)}, {}, None),
    "llama3": ("bytes", {"pre_tokenizer": seq("pretokenizers", split(LLAMA3), NO_REGEX)}, {"ignore_merges": True}, ("<s>", None)),
    "qwen2": ("bytes", {"normalizer": {"type": "NFC"}, "pre_tokenizer": seq("pretokenizers", split(QWEN2), NO_REGEX)}, {}, None),
    "o200k": ("bytes", {"pre_tokenizer": seq("pretokenizers", split(O200K), NO_REGEX)}, {"ignore_merges": True}, ("<s>", "</s>")),
    "deepseek": ("bytes", {"pre_tokenizer": seq("pretokenizers", *map(split, DEEPSEEK), {"type": "Digits", "individual_digits": True},
                                                NO_REGEX)}, {}, ("<s>", None)),
    "starcoder": ("bytes", {"pre_tokenizer": seq("pretokenizers", {"type": "Digits", "individual_digits": True}, BYTES)}, {}, None),
    "falcon": ("bytes", {"pre_tokenizer": seq("pretokenizers", {"type": "Punctuation", "behavior": "Contiguous"}, BYTES,
                                              {"type": "Digits", "individual_digits": False}, split("[0-9][0-9][0-9]"))}, {}, None),
    "lowercase-nfkc": ("bytes", {"normalizer": seq("normalizers", {"type": "NFKC"}, {"type": "Lowercase"}), "pre_tokenizer": BYTES}, {}, None),
    "nfd": ("bytes", {"normalizer": {"type": "NFD"}, "pre_tokenizer": BYTES}, {}, None),
    "nfkd-strip": ("bytes", {"normalizer": seq("normalizers", {"type": "NFKD"}, {"type": "Strip", "strip_left": True, "strip_right": True}),
                             "pre_tokenizer": BYTES}, {}, None),
    "replace-regex": ("bytes", {"normalizer": seq("normalizers", {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
                                                  {"type": "Replace", "pattern": {"Regex": "(?i)citizen|[aeiou]{2}"}, "content": "<é>"}),
                                "pre_tokenizer": BYTES}, {}, None),
    "whitespace": ("bytes", {"pre_tokenizer": seq("pretokenizers", {"type": "Whitespace"}, NO_REGEX)}, {}, None),
    "whitespace-split": ("bytes", {"pre_tokenizer": seq("pretokenizers", {"type": "WhitespaceSplit"}, NO_REGEX)}, {}, None),
    "split-removed": ("bytes", {"pre_tokenizer": seq("pretokenizers", split(r"\w+", "Removed", True), NO_REGEX)}, {}, None),
    "split-previous": ("bytes", {"pre_tokenizer": seq("pretokenizers", split(r"[\s.,]", "MergedWithPrevious"), NO_REGEX)}, {}, None),
    "split-next": ("bytes", {"pre_tokenizer": seq("pretokenizers", split(r"[\s.,]", "MergedWithNext"), NO_REGEX)}, {}, None),
    "split-next-inverted": ("bytes", {"pre_tokenizer": seq("pretokenizers", split(r"\p{L}+", "MergedWithNext", True), NO_REGEX)}, {}, None),
    "split-contiguous": ("bytes", {"pre_tokenizer": seq("pretokenizers", split(r"\w", "Contiguous"), NO_REGEX)}, {}, None),
    "split-empty-matches": ("bytes", {"pre_tokenizer": seq("pretokenizers", split(r"\b|\d*", "Isolated"), NO_REGEX)}, {}, None),
    "split-lines": ("bytes", {"pre_tokenizer": seq("pretokenizers", split(r"^.*$|\D\S"), NO_REGEX)}, {}, None),
    "llama2": ("spm", {"normalizer": seq("normalizers", {"type": "Prepend", "prepend": "▁"}, REPLACE),
                       "decoder": seq("decoders", *SPM_DECODER, STRIP)}, {}, ("<s>", None)),
    "mistral": ("spm", {"pre_tokenizer": space("first", False), "decoder": seq("decoders", *SPM_DECODER, STRIP)}, {}, ("<s>", None)),
    "gemma": ("spm", {"normalizer": REPLACE, "pre_tokenizer": split(" ", "MergedWithPrevious", literal=True),
                      "decoder": seq("decoders", *SPM_DECODER)}, {}, ("<s>", None)),
    "metaspace": ("spm", {"pre_tokenizer": space("always", True), "decoder": space("always", True)},
                  {"byte_fallback": False, "fuse_unk": False}, None),
    "metaspace-never": ("spm", {"pre_tokenizer": space("never", True), "decoder": space("never", True)}, {"byte_fallback": False}, None),
    "strip-first": ("spm", {"normalizer": {"type": "Strip", "strip_left": True, "strip_right": False}, "pre_tokenizer": space("first", True),
                            "decoder": seq("decoders", {"type": "Replace", "pattern": {"Regex": "▁+"}, "content": "_"},
                                           {"type": "Strip", "content": "_", "start": 2, "stop": 0}, {"type": "Fuse"})}, {}, None),
    "no-unk": ("spm", {}, {"byte_fallback": False, "unk_token": None}, None),
    "replace-fused": ("spm", {"decoder": seq("decoders", {"type": "ByteFallback"}, {"type": "Fuse"},
                                             {"type": "Replace", "pattern": {"String": "▁"}, "content": " "})}, {}, None),
}
DEEP = {"gpt2", "llama3", "qwen2", "llama2", "mistral", "gemma"}  # these get all long texts, the others the first


def patched(base, members, model):
    js = copy.deepcopy(base)
    js.update(copy.deepcopy(members))
    js["model"].update(model)
    return js


def extra_words(js):
    """Words that merging would never make: ignore_merges takes them whole."""
    vocab = js["model"]["vocab"]
    for word in ("Ġproceed", "Ġquick", "Speak", "Citizen", "ä½łå¥½", "12"):
        vocab.setdefault(word, len(vocab))
    return js


def strings_as_merges(js):
    js["model"]["merges"] = [a + " " + b for a, b in js["model"]["merges"]]


def main():
    english = pathlib.Path(sys.argv[1]).read_text()[:400000]
    corpus = [english] + FOREIGN * 20
    bases = {"bytes": extra_words(byte_level(corpus, QWEN2)), "spm": sentencepiece(corpus)}
    bases["bytes"]["decoder"] = BYTES
    bases["bytes"]["pre_tokenizer"] = None
    strings_as_merges(bases["bytes"])
    for name, base in bases.items():
        tok = Tokenizer.from_str(json.dumps(base))
        flagged(tok)
        base["added_tokens"] = json.loads(tok.to_str())["added_tokens"]
        write(f"base-{name}.json", base)
    write("texts.json", {"hex": [t.encode().hex() for t in TEXTS] + BROKEN})
    for name, (base, members, model, special_tokens) in VARIANTS.items():
        if special_tokens:
            members = dict(members, post_processor=template(*special_tokens)(Tokenizer.from_str(json.dumps(bases[base]))))
        tok = Tokenizer.from_str(json.dumps(patched(bases[base], members, model)))
        result = golden(tok, TEXTS, LONG if name in DEEP else LONG[:1])
        write(f"{name}.json", {"base": base, "members": members, "model": model, **result})
    if len(sys.argv) > 2:
        write("tinystories.json", golden(Tokenizer.from_file(f"{sys.argv[2]}/tokenizer.json"), TEXTS, LONG))


main()
