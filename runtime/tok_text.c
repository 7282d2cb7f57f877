/* tok_text.c - characters and bytes: repairing UTF-8, white space, GPT-2's byte alphabet. See tok.h. */
#include "tok.h"

#include <string.h>

static bool is_ascii8(const char *s)
{
    uint64_t w;
    memcpy(&w, s, 8);
    return !(w & 0x8080808080808080ull);
}

/* Bytes of the longest valid prefix. */
static size_t valid_length(const char *s, size_t n)
{
    size_t i = 0;
    while (i < n) {
        if (n - i >= 8 && is_ascii8(s + i)) {
            i += 8;
            continue;
        }
        uint32_t cp;
        size_t len = utf8_decode(s + i, n - i, &cp);
        if (cp == 0xFFFD && len == 1)
            break;
        i += len;
    }
    return i;
}

bool tok_is_utf8(const char *s, size_t n)
{
    return valid_length(s, n) == n;
}

/* Length of the maximal part at s that begins a character and does not complete one (Unicode 3.9, table 3-7); at
 * least 1. *cut tells that the text ended before a byte was wrong. */
static size_t invalid_length(const char *s, size_t n, bool *cut)
{
    const uint8_t *p = (const uint8_t *)s;
    uint8_t lead = p[0];
    size_t len = lead < 0xC2 || lead > 0xF4 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    uint8_t lo = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    uint8_t hi = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    size_t i = 1;
    for (; i < len && i < n && p[i] >= lo && p[i] <= hi; i++)
        lo = 0x80, hi = 0xBF;
    *cut = len > 1 && i == n;
    return i;
}

size_t tok_sanitize(Buf *out, const char *s, size_t n, bool tail)
{
    buf_reserve(out, n);
    for (size_t i = 0;;) {
        size_t good = valid_length(s + i, n - i);
        buf_put(out, s + i, good);
        i += good;
        if (i == n)
            return n;
        bool cut;
        size_t bad = invalid_length(s + i, n - i, &cut);
        if (cut && tail)
            return i;
        buf_puts(out, "\xEF\xBF\xBD");
        i += bad;
    }
}

bool tok_is_space(uint32_t cp)
{
    return (cp >= 9 && cp <= 13) || cp == ' ' || cp == 0x85 || cp == 0xA0 || cp == 0x1680 ||
           (cp >= 0x2000 && cp <= 0x200A) || cp == 0x2028 || cp == 0x2029 || cp == 0x202F || cp == 0x205F ||
           cp == 0x3000;
}

void tok_put_char(Buf *out, uint32_t cp)
{
    char c[4];
    buf_put(out, c, utf8_encode(cp, c));
}

/* ---- GPT-2's byte alphabet: printable bytes stand for themselves, the others for U+0100, U+0101, ... in order  */

#define PRINTABLE(b) (((b) >= '!' && (b) <= '~') || ((b) >= 0xA1 && (b) != 0xAD))

static uint32_t byte_to_char(uint8_t b)
{
    if (PRINTABLE(b))
        return b;
    /* 00..20 -> 100..120, 7F..A0 -> 121..142, AD -> 143 */
    return b <= 0x20 ? 0x100u + b : b <= 0xA0 ? 0x121u + b - 0x7F : 0x143u;
}

int tok_char_to_byte(uint32_t cp)
{
    if (cp < 0x100)
        return PRINTABLE(cp) ? (int)cp : -1;
    if (cp <= 0x120)
        return (int)cp - 0x100;
    return cp <= 0x142 ? (int)cp - 0x121 + 0x7F : cp == 0x143 ? 0xAD : -1;
}

void tok_bytes_to_chars(Buf *out, const char *s, size_t n)
{
    buf_reserve(out, 2 * n);
    char *p = out->data + out->len;
    for (size_t i = 0; i < n; i++) {
        uint32_t cp = byte_to_char((uint8_t)s[i]);
        if (cp < 0x80) {
            *p++ = (char)cp;
        } else {
            *p++ = (char)(0xC0 | cp >> 6);
            *p++ = (char)(0x80 | (cp & 0x3F));
        }
    }
    *p = 0;
    out->len = (size_t)(p - out->data);
}
