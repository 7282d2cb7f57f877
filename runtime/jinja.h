/* jinja.h - an interpreter of Jinja templates as Hugging Face chat templates use them.
 *
 * The language is that of jinja2 3.1 (https://jinja.palletsprojects.com/en/stable/templates/) in the environment of
 * transformers' apply_chat_template: immutable sandbox, trim_blocks, lstrip_blocks, loop controls, no autoescape, the
 * filter `tojson`, the functions `raise_exception` and `strftime_now`, and `{% generation %}`, a block that only passes
 * its body on. Values follow Python: printing, truth, comparison, arithmetic (64-bit integers), strings indexed by code
 * point.
 *
 * Refused with an error: include, import, extends, block, recursive loops, integers beyond 64 bits, and the filters and
 * methods that have no use in a prompt (urlize, pprint, random, encode, ...). Filters that give a generator in Python
 * are evaluated at once, so an error in an element that nobody looks at is still an error.
 *
 * Every error says in which line of the template it happened.
 */
#ifndef BLADE_JINJA_H
#define BLADE_JINJA_H

#include <jansson.h>

#include "base.h"

typedef struct Jinja Jinja; /* a parsed template: immutable, may be rendered by several threads at once */

/* Limits of one render; a member that is 0 takes its default. */
typedef struct JinjaLimits {
    long steps;    /* evaluated nodes, plus one for every 64 bytes of text touched; default 20 million */
    int depth;     /* nesting of evaluation, macro calls included; default 1000, which takes 0.5 MB of stack */
    size_t output; /* bytes of the result; default 32 MiB */
    size_t memory; /* bytes of all intermediate values; default 512 MiB */
} JinjaLimits;

/* Parses `len` bytes of UTF-8. NULL with a message on a syntax error. */
Jinja *jinja_parse(const char *text, size_t len, Err *err);
void jinja_free(Jinja *j); /* NULL is allowed */

/* Renders with the members of the JSON object `variables` (NULL: none) and appends the text to `out`. `limits` may be
 * NULL. On an error (also one that the template raises) `out` is as it was before. */
bool jinja_render(const Jinja *j, const json_t *variables, const JinjaLimits *limits, Buf *out, Err *err);

#endif
