/* api_request_int.h - what the files of the request reader share; see api_request.h.
 *
 *     api_json.c      bytes to JSON
 *     api_fields.c    which fields there are, for which kind of request, and what can't be honoured
 *     api_messages.c  messages and tools, checked and made ready for the chat template
 *     api_request.c   everything else
 */
#ifndef BLADE_API_REQUEST_INT_H
#define BLADE_API_REQUEST_INT_H

#include "api_request.h"

enum { API_MAX_DEPTH = 128, API_MAX_VALUES = 1 << 20, API_LIST_VALUES = 8 };

/* Integers beyond int64_t become reals; no duplicate keys if `unique`. *room is how many values are allowed, less those
 * of this text afterwards: trees take up to 80 times the memory of their text. NULL on failure. */
json_t *api_json_parse(const char *text, size_t len, bool unique, size_t *room, Err *err);

/* The name of a field within a body: "messages[2].content". */
typedef struct ApiPath {
    char s[96];
} ApiPath;
ApiPath api_path(const char *format, ...) PRINTF(1, 2);

/* The error "PARAM: WHAT was expected"; returns false. */
bool api_expected(ApiError *e, const char *param, const char *what);

/* A member that is there and not null; else NULL. */
json_t *api_get(const json_t *object, const char *key);

/* Every field of the body is known to this kind of request, and those that can't be honoured ask for nothing. */
bool api_fields_check(ApiKind kind, const json_t *body, ApiError *e);

/* Checks "messages" of a body and changes them in place as api_request.h says. */
bool api_messages_read(json_t *body, ApiError *e);
/* The same for "tools" and "tool_choice"; *offered: there are tools for the model to use. */
bool api_tools_read(json_t *body, bool *offered, ApiError *e);

#endif
