/* reply.h - a model's answer taken apart as it arrives: reasoning between <think> and </think>, calls of tools,
 * content.
 *
 * Tool calls are recognised in the styles of
 *   REPLY_HERMES  Qwen 2.5, Qwen 3, Hermes 2 Pro: <tool_call>{"name": ..., "arguments": {...}}</tool_call>, any number
 *   REPLY_LLAMA3  Llama 3.1 - 3.3: the whole answer is {"name": ..., "parameters": {...}}, or several joined by ';',
 *                 perhaps behind <|python_tag|>
 * What looks like a call and is not one is handed out as content, nothing is lost. Text that may become a tag is held
 * back until it is certain. What comes out does not depend on how the text was cut into pieces.
 *
 * A call is certain once its name is known and its arguments have begun; they are then handed out as they come, in the
 * model's own words, so they are as unfinished or malformed as what the model wrote. Not handed out: tags, what is in
 * the object of a call beside name and arguments, and white space next to <think>, </think> and calls.
 */
#ifndef BLADE_REPLY_H
#define BLADE_REPLY_H

#include "base.h"

typedef enum ReplyStyle { REPLY_PLAIN, REPLY_HERMES, REPLY_LLAMA3, REPLY_STYLES } ReplyStyle;
extern const char *const reply_style_names[REPLY_STYLES]; /* "none", "hermes", "llama3_json" */

/* How a model with this chat template writes tool calls, from the marks in the template; REPLY_PLAIN when unknown or
 * NULL. */
ReplyStyle reply_style_of(const char *chat_template);

typedef struct ReplyOptions {
    ReplyStyle style;   /* REPLY_PLAIN: tool calls are not looked for */
    bool reasoning;     /* <think> ... </think> at the beginning is reasoning */
    bool in_reasoning;  /* the prompt ends inside it: the template wrote <think> */
} ReplyOptions;

typedef enum ReplyKind {
    REPLY_CONTENT,   /* text */
    REPLY_REASONING, /* text */
    REPLY_CALL,      /* a tool call begins: name */
    REPLY_ARGUMENTS, /* text: a further piece of its arguments, JSON; "{}" for a call without any */
} ReplyKind;

typedef struct ReplyPart {
    ReplyKind kind;
    int call;         /* REPLY_CALL, REPLY_ARGUMENTS: number of the call, from 0 */
    const char *name; /* REPLY_CALL; not empty */
    const char *text; /* never empty but for REPLY_CALL */
    size_t len;
} ReplyPart;

typedef void ReplyFn(void *context, const ReplyPart *part);

typedef struct ReplyParser ReplyParser;
ReplyParser *reply_new(const ReplyOptions *o);
void reply_free(ReplyParser *r); /* NULL is allowed */

/* Calls fn for what has become certain with this further piece of text. */
void reply_push(ReplyParser *r, const char *text, size_t len, ReplyFn *fn, void *context);
/* Hands out what was held back; nothing may be pushed afterwards. */
void reply_finish(ReplyParser *r, ReplyFn *fn, void *context);
int reply_calls(const ReplyParser *r); /* tool calls so far */

#endif
