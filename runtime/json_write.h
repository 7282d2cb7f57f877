/* json_write.h - appending JSON text to a buffer, for answers that are written token by token: no tree is built.
 *
 * Only values are written; commas, braces and keys are the caller's own text.
 */
#ifndef BLADE_JSON_WRITE_H
#define BLADE_JSON_WRITE_H

#include "base.h"

/* The characters of a string without quotes, escaped: quote, backslash, control characters. Invalid UTF-8 becomes
 * U+FFFD, byte by byte. U+2028 and U+2029 are escaped too, so that the text is valid JavaScript. */
void json_put_chars(Buf *out, const char *text, size_t len);
/* A whole string, with quotes; NULL is null. */
void json_put_text(Buf *out, const char *text, size_t len);
void json_put_str(Buf *out, const char *text);

void json_put_int(Buf *out, int64_t value);
/* Nine digits: enough for any float. What is not a number is null, infinities are +-1e308. */
void json_put_real(Buf *out, double value);
void json_put_bool(Buf *out, bool value);

#endif
