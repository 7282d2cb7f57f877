/* json_write.c - implementation of json_write.h; see there. */
#include "json_write.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* Whether a byte can be copied as it is: ASCII, no control character, quote or backslash. */
static bool plain(unsigned char c)
{
    return c >= 0x20 && c < 0x7F && c != '"' && c != '\\';
}

static void put_escaped(Buf *out, uint32_t cp)
{
    static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt";
    const char *at = cp && cp < 0x80 ? strchr(from, (int)cp) : NULL;
    if (at)
        buf_put(out, (char[]){'\\', to[at - from]}, 2);
    else
        buf_printf(out, "\\u%04" PRIx32, cp);
}

void json_put_chars(Buf *out, const char *text, size_t len)
{
    for (size_t i = 0; i < len;) {
        size_t from = i;
        while (i < len && plain((unsigned char)text[i]))
            i++;
        buf_put(out, text + from, i - from);
        if (i == len)
            return;
        uint32_t cp;
        char bytes[4];
        i += utf8_decode(text + i, len - i, &cp);
        if (cp < 0x20 || cp == 0x7F || cp == '"' || cp == '\\' || cp == 0x2028 || cp == 0x2029)
            put_escaped(out, cp);
        else
            buf_put(out, bytes, utf8_encode(cp, bytes));
    }
}

void json_put_text(Buf *out, const char *text, size_t len)
{
    if (!text) {
        buf_put(out, "null", 4);
        return;
    }
    buf_putc(out, '"');
    json_put_chars(out, text, len);
    buf_putc(out, '"');
}

void json_put_str(Buf *out, const char *text)
{
    json_put_text(out, text, text ? strlen(text) : 0);
}

void json_put_int(Buf *out, int64_t value)
{
    char digits[24];
    buf_put(out, digits, (size_t)snprintf(digits, sizeof digits, "%" PRId64, value));
}

void json_put_real(Buf *out, double value)
{
    char digits[40];
    if (isnan(value))
        buf_put(out, "null", 4);
    else if (isinf(value))
        buf_puts(out, value > 0 ? "1e308" : "-1e308");
    else
        buf_put(out, digits, (size_t)snprintf(digits, sizeof digits, "%.9g", value));
}

void json_put_bool(Buf *out, bool value)
{
    buf_puts(out, value ? "true" : "false");
}
