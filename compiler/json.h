/* json.h - reading the JSON files of a checkpoint: parsing with messages, and typed access to keys with range checks.
 *
 * Trees are jansson's. Hugging Face's files are written by Python, whose json module accepts more than the standard
 * does; json_parse takes these forms as well: NaN (becomes null), Infinity and -Infinity (become +-DBL_MAX), integers
 * of 19 digits or more such as 1000000000000000019884624838656 (become reals), and repeated keys (the last one counts).
 */
#ifndef BLADE_JSON_H
#define BLADE_JSON_H

#include <jansson.h>

#include "base.h"

/* Parses one JSON object. `where` (a path, as a rule) begins the error message, which gives the line of the mistake.
 * NULL on failure; the caller owns the result (json_decref). Nesting beyond 2048 levels is an error. */
json_t *json_parse(const char *text, size_t size, const char *where, Err *err);

/* The same for a whole file of at most `limit` bytes. */
json_t *json_read(const char *path, size_t limit, Err *err);

/* Reads a key of an object: *out is its value, or `dflt` when the key is absent or null (or `obj` is NULL).
 * A value of another type or outside lo..hi is an error whose message names the key and the range; put the file in
 * front with err_prefix. An integral real such as 4096.0 is an integer; an integer is a real. Strings live as long as
 * `obj`. */
bool json_get_int(const json_t *obj, const char *key, int64_t lo, int64_t hi, int64_t dflt, int64_t *out, Err *err);
bool json_get_real(const json_t *obj, const char *key, double lo, double hi, double dflt, double *out, Err *err);
bool json_get_bool(const json_t *obj, const char *key, bool dflt, bool *out, Err *err);
bool json_get_str(const json_t *obj, const char *key, const char *dflt, const char **out, Err *err);

#endif
