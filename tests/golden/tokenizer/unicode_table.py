"""Writes runtime/tok_unicode.inc: the general categories (and script Han) of the characters that the `tokenizers` package's
regex engine knows and PCRE2 10.42 (Unicode 14) does not. Asks the package itself, and libpcre2-8 for what it has unassigned.

    pip install tokenizers==0.23.3
    python unicode_table.py > ../../../runtime/tok_unicode.inc
"""
import ctypes

from tokenizers import Regex, pre_tokenizers

CATEGORIES = "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cf".split()
BLOCK = 4096
UTF, UCP = 0x00080000, 0x00020000  # PCRE2_UTF, PCRE2_UCP


def blocks():
    for base in range(0, 0x110000, BLOCK):
        yield [c for c in range(base, base + BLOCK) if not 0xD800 <= c < 0xE000]


def known_to_package(name):
    """Code points that \\p{name} matches: a split that removes them leaves the others."""
    split, found = pre_tokenizers.Split(Regex(r"\p{%s}" % name), "removed"), set()
    for block in blocks():
        kept = set()
        for _, (start, end) in split.pre_tokenize_str("".join(map(chr, block))):
            kept.update(range(start, end))
        found.update(c for i, c in enumerate(block) if i not in kept)
    return found


def unassigned_in_pcre2():
    lib = ctypes.CDLL("libpcre2-8.so.0")
    for f in ("pcre2_compile_8", "pcre2_match_data_create_8"):
        getattr(lib, f).restype = ctypes.c_void_p
    error, offset = ctypes.c_int(), ctypes.c_size_t()
    code = lib.pcre2_compile_8(rb"\p{Cn}", ctypes.c_size_t(6), UTF | UCP, ctypes.byref(error), ctypes.byref(offset), None)
    data = lib.pcre2_match_data_create_8(1, None)
    found = set()
    for block in blocks():
        for c in block:
            s = chr(c).encode()
            if lib.pcre2_match_8(ctypes.c_void_p(code), s, ctypes.c_size_t(len(s)), ctypes.c_size_t(0), 0,
                                 ctypes.c_void_p(data), None) > 0:
                found.add(c)
    return found


def ranges(chars):
    out = []
    for c in sorted(chars):
        if out and out[-1][1] == c - 1:
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


def main():
    new = unassigned_in_pcre2()
    rows = sorted((a, b, name) for name in CATEGORIES for a, b in ranges(known_to_package(name) & new))
    rows += [(a, b, "Han") for a, b in ranges(known_to_package("Han") & new)]
    print("/* Characters assigned in Unicode 15 and 16, which PCRE2 10.42 (Unicode 14) does not know: first, last, general category; then\n"
          " * those of script Han. Written by tests/golden/tokenizer/unicode_table.py from the tokenizers package 0.23.3. */")
    line = "   "
    for a, b, name in rows:
        entry = f' {{0x{a:X}, 0x{b:X}, "{name}"}},'
        if len(line) + len(entry) > 118:
            print(line)
            line = "   "
        line += entry
    print(line)


main()
