/* reply.c - a model's answer taken apart as it arrives. One pass over the bytes, one state machine.
 *
 *     BEGIN -> REASONING_BEGIN -> REASONING -> ANSWER_BEGIN -> ANSWER <-> CALL -> CALL_END -> GAP -> ANSWER
 *
 * What may turn out to be something else (white space in front of a tag, a part of a tag, a call whose name has not
 * come) waits in `held`. What is certain collects in `ready` until the push ends or something of another kind comes.
 *
 * A call is announced once its name is known and its arguments have begun. From then on it stays a call: what the model
 * writes between the braces of its arguments is handed out unchecked, as every client has to parse it anyway.
 */
#include "reply.h"

#include <assert.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

const char *const reply_style_names[REPLY_STYLES] = {"none", "hermes", "llama3_json"};

static const char think_begin[] = "<think>", think_end[] = "</think>", call_begin[] = "<tool_call>",
                  call_end[] = "</tool_call>", python_tag[] = "<|python_tag|>";

typedef enum State {
    BEGIN,           /* white space, then perhaps <think> */
    REASONING_BEGIN, /* white space behind <think> is dropped */
    REASONING,
    ANSWER_BEGIN,    /* Llama 3: white space, then perhaps <|python_tag|> */
    PYTHON,          /* Llama 3: behind that: a call, or anything else, which is content */
    ANSWER,          /* content; Hermes: perhaps <tool_call> */
    CALL,            /* in the JSON object of a call */
    CALL_END,        /* Hermes: behind it, </tool_call> should come */
    GAP,             /* white space behind a call is dropped; Llama 3: ';' announces another one */
    NEXT,            /* Llama 3: behind ';' */
    FINISHED,
} State;

/* Where in {"key": value, ...} the scanner is. */
typedef enum Place {
    OPEN,
    KEY,    /* a key or the end should come */
    IN_KEY,
    COLON,
    VALUE,  /* a value should come */
    STRING, /* in a string: the name, or of no interest */
    NESTED, /* in an object or array: the arguments, or of no interest */
    SCALAR,
    AFTER,  /* ',' or the end should come */
} Place;

typedef enum Key { KEY_OTHER, KEY_NAME, KEY_ARGUMENTS } Key;

typedef struct Call {
    Place place;
    Key key;
    size_t mark;            /* where in `held` the key or the name begins */
    size_t depth;           /* of braces and brackets in a nested value */
    bool in_string, escape; /* in a nested value; `escape` also in keys and strings */
    char *name;
    size_t arguments, arguments_len; /* in `held`, when they came before the name */
    bool has_arguments, announced;
} Call;

struct ReplyParser {
    ReplyOptions o;
    State state;
    bool drop_space; /* ANSWER_BEGIN: behind </think> */
    Buf held;
    size_t matched;  /* bytes of a tag at the end of `held` */
    Call call;
    int calls;
    Buf ready;
    ReplyKind ready_kind;
    ReplyFn *fn;
    void *context;
};

static void step(ReplyParser *r, char c);

/* ---- styles ------------------------------------------------------------------------------------------------------ */

/* Templates show the model what a call looks like. <tool_call> is also used by models that write XML inside. */
ReplyStyle reply_style_of(const char *chat_template)
{
    const char *t = chat_template;
    if (!t)
        return REPLY_PLAIN;
    if (strstr(t, call_begin) && strstr(t, "arguments") && !strstr(t, "<function=") && !strstr(t, "<arg_key>"))
        return REPLY_HERMES;
    if (strstr(t, "<|start_header_id|>") && strstr(t, "\"parameters\""))
        return REPLY_LLAMA3;
    return REPLY_PLAIN;
}

/* ---- output ------------------------------------------------------------------------------------------------------ */

static void flush(ReplyParser *r)
{
    if (r->ready.len) {
        ReplyPart part = {.kind = r->ready_kind, .text = r->ready.data, .len = r->ready.len};
        part.call = part.kind == REPLY_ARGUMENTS ? r->calls - 1 : 0;
        r->fn(r->context, &part);
    }
    r->ready.len = 0;
}

static void emit(ReplyParser *r, ReplyKind kind, const char *text, size_t len)
{
    if (kind != r->ready_kind)
        flush(r);
    r->ready_kind = kind;
    buf_put(&r->ready, text, len);
}

static void emit_held(ReplyParser *r, ReplyKind kind)
{
    emit(r, kind, r->held.data, r->held.len);
    r->held.len = r->matched = 0;
}

static void drop_held(ReplyParser *r)
{
    r->held.len = r->matched = 0;
}

static void hold(ReplyParser *r, char c)
{
    buf_putc(&r->held, c);
}

static void enter(ReplyParser *r, State state)
{
    drop_held(r);
    r->state = state;
}

/* What was held is read once more in another state: white space and a part of one tag, never more. */
static void replay(ReplyParser *r, State state)
{
    Buf held = r->held;
    r->held = (Buf){0};
    enter(r, state);
    for (size_t i = 0; i < held.len; i++)
        step(r, held.data[i]);
    buf_free(&held);
}

/* ---- tags -------------------------------------------------------------------------------------------------------- */

static bool is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

typedef enum Match { MATCH_NONE, MATCH_PART, MATCH_WHOLE } Match;

/* White space and a tag behind it: holds c when it goes on with them. No tag contains its first byte again, so after
 * MATCH_NONE only c itself can begin one. */
static Match match_tag(ReplyParser *r, const char *tag, char c)
{
    if (!r->matched && is_space(c)) {
        hold(r, c);
        return MATCH_PART;
    }
    if (c != tag[r->matched])
        return MATCH_NONE;
    hold(r, c);
    if (tag[++r->matched])
        return MATCH_PART;
    r->matched = 0;
    return MATCH_WHOLE;
}

/* Text of one kind that goes on until a tag: true when the tag is complete; `held` is it and the white space before. */
static bool text_until(ReplyParser *r, ReplyKind kind, const char *tag, char c)
{
    Match m = match_tag(r, tag, c);
    if (m == MATCH_NONE && r->held.len) {
        emit_held(r, kind);
        m = match_tag(r, tag, c);
    }
    if (m == MATCH_NONE)
        emit(r, kind, &c, 1);
    return m == MATCH_WHOLE;
}

/* ---- calls ------------------------------------------------------------------------------------------------------- */

static void call_start(ReplyParser *r)
{
    free(r->call.name);
    r->call = (Call){.place = OPEN};
    r->matched = 0;
    r->state = CALL;
}

static void announce(ReplyParser *r, const char *arguments, size_t len)
{
    flush(r);
    r->fn(r->context, &(ReplyPart){.kind = REPLY_CALL, .call = r->calls++, .name = r->call.name, .text = ""});
    r->call.announced = true;
    emit(r, REPLY_ARGUMENTS, arguments, len);
    drop_held(r);
}

/* Llama 3 has no tag around a call, so any other key means that this is JSON of another kind. */
static bool key_read(ReplyParser *r)
{
    static const struct { const char *text; Key key; } known[] = {{"name", KEY_NAME}, {"arguments", KEY_ARGUMENTS},
        {"parameters", KEY_ARGUMENTS}, {"type", KEY_OTHER}, {"id", KEY_OTHER}};
    const char *key = r->held.data + r->call.mark;
    size_t len = r->held.len - 1 - r->call.mark;
    for (size_t i = 0; i < COUNT(known); i++)
        if (strlen(known[i].text) == len && !memcmp(known[i].text, key, len)) {
            r->call.key = known[i].key;
            return true;
        }
    r->call.key = KEY_OTHER;
    return r->o.style != REPLY_LLAMA3;
}

/* The name, as its JSON string says; a call whose arguments came first is announced with it. */
static bool name_read(ReplyParser *r)
{
    Call *k = &r->call;
    json_t *name = json_loadb(r->held.data + k->mark - 1, r->held.len + 1 - k->mark, JSON_DECODE_ANY, NULL);
    bool good = name && json_string_length(name) > 0;
    if (good) {
        k->name = xstrdup(json_string_value(name));
        if (k->has_arguments)
            announce(r, r->held.data + k->arguments, k->arguments_len);
    }
    json_decref(name);
    return good;
}

/* The first byte of a value. */
static bool value_begin(ReplyParser *r, char c)
{
    Call *k = &r->call;
    k->escape = k->in_string = false;
    k->depth = 1;
    k->mark = r->held.len;
    k->place = c == '"' ? STRING : c == '{' || c == '[' ? NESTED : SCALAR;
    if (k->key == KEY_NAME)
        return k->place == STRING && !k->name;
    if (k->key == KEY_OTHER)
        return k->place != SCALAR || (c && strchr("-0123456789tfn", c));
    if (c != '{' || k->has_arguments)
        return false;
    k->has_arguments = true;
    k->arguments = r->held.len - 1;
    if (k->name)
        announce(r, "{", 1);
    return true;
}

/* True while c is inside the string that has begun. */
static bool string_step(Call *k, char c)
{
    bool inside = k->escape || c != '"';
    k->escape = c == '\\' && !k->escape;
    return inside;
}

static void nested_step(ReplyParser *r, char c)
{
    Call *k = &r->call;
    if (k->in_string)
        k->in_string = string_step(k, c);
    else if (c == '"')
        k->in_string = true;
    else if (c == '{' || c == '[')
        k->depth++;
    else if ((c == '}' || c == ']') && !--k->depth)
        k->place = AFTER;
    if (k->key != KEY_ARGUMENTS)
        return;
    if (k->announced)
        emit_held(r, REPLY_ARGUMENTS); /* it is c */
    else
        k->arguments_len = r->held.len - k->arguments;
}

typedef enum Progress { CALL_MORE, CALL_DONE, CALL_BAD } Progress;

/* The closing brace. Between tags a call may do without arguments; otherwise this is JSON of another kind. */
static Progress object_end(ReplyParser *r)
{
    if (!r->call.announced) {
        if (!r->call.name || r->o.style == REPLY_LLAMA3)
            return CALL_BAD;
        announce(r, "{}", 2);
    }
    return CALL_DONE;
}

/* White space, or the one byte that should come and leads to `next`. */
static bool punctuation(Call *k, char c, char wanted, Place next)
{
    if (c == wanted)
        k->place = next;
    return c == wanted || is_space(c);
}

static bool is_scalar(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || c == '.' || c == '-' || c == '+' || c == 'E';
}

/* One byte of {"name": ..., "arguments": ...}; it is held already. CALL_BAD: it does not belong there. */
static Progress call_step(ReplyParser *r, char c)
{
    Call *k = &r->call;
    bool good = true;
    if (k->place == SCALAR && !is_scalar(c))
        k->place = AFTER;
    if (c == '}' && (k->place == KEY || k->place == AFTER))
        return object_end(r);
    switch (k->place) {
    case OPEN: good = punctuation(k, c, '{', KEY); break;
    case KEY:
        good = punctuation(k, c, '"', IN_KEY);
        k->mark = r->held.len;
        k->escape = false;
        break;
    case IN_KEY:
        if (!string_step(k, c)) {
            k->place = COLON;
            good = key_read(r);
        }
        break;
    case COLON: good = punctuation(k, c, ':', VALUE); break;
    case VALUE: good = is_space(c) || value_begin(r, c); break;
    case STRING:
        if (!string_step(k, c)) {
            k->place = AFTER;
            good = k->key != KEY_NAME || name_read(r);
        }
        break;
    case NESTED: nested_step(r, c); break;
    case SCALAR: break;
    case AFTER: good = punctuation(k, c, ',', KEY); break;
    }
    return good ? CALL_MORE : CALL_BAD;
}

/* What stops being a call before it was announced is content. Later on the rest of the object is given up. */
static void in_call(ReplyParser *r, char c)
{
    State behind = r->o.style == REPLY_HERMES ? CALL_END : GAP;
    hold(r, c);
    Progress p = call_step(r, c);
    if (p == CALL_MORE)
        return;
    if (p == CALL_BAD && !r->call.announced) {
        r->held.len--;
        emit_held(r, REPLY_CONTENT);
        behind = ANSWER;
    }
    enter(r, behind);
    if (p == CALL_BAD)
        step(r, c);
}

/* ---- states ------------------------------------------------------------------------------------------------------ */

static void at_begin(ReplyParser *r, char c)
{
    Match m = match_tag(r, think_begin, c);
    if (m == MATCH_WHOLE)
        enter(r, REASONING_BEGIN);
    if (m == MATCH_NONE) {
        replay(r, r->o.in_reasoning ? REASONING_BEGIN : ANSWER_BEGIN);
        step(r, c);
    }
}

static void in_reasoning(ReplyParser *r, char c)
{
    if (text_until(r, REPLY_REASONING, think_end, c)) {
        enter(r, ANSWER_BEGIN);
        r->drop_space = true;
    }
}

static void at_answer(ReplyParser *r, char c)
{
    if (r->drop_space && is_space(c))
        return;
    r->drop_space = false;
    if (r->o.style != REPLY_LLAMA3) {
        r->state = ANSWER;
        step(r, c);
        return;
    }
    Match m = match_tag(r, python_tag, c);
    if (m != MATCH_PART)
        r->state = PYTHON;
    if (m == MATCH_NONE)
        step(r, c);
}

/* Llama 3, where a call may begin. `held` goes on with the call; a part of the tag in it means that there is none. */
static void before_call(ReplyParser *r, char c)
{
    if (is_space(c)) {
        hold(r, c);
        return;
    }
    if (c == '{' && !r->matched) {
        call_start(r);
        in_call(r, c);
        return;
    }
    emit_held(r, REPLY_CONTENT);
    enter(r, ANSWER);
    step(r, c);
}

static void in_answer(ReplyParser *r, char c)
{
    if (r->o.style != REPLY_HERMES)
        emit(r, REPLY_CONTENT, &c, 1);
    else if (text_until(r, REPLY_CONTENT, call_begin, c))
        call_start(r);
}

static void at_call_end(ReplyParser *r, char c)
{
    if (c == '}' && !r->matched) /* one too many: small models do that */
        return;
    Match m = match_tag(r, call_end, c);
    if (m == MATCH_WHOLE)
        enter(r, GAP);
    if (m == MATCH_NONE) {
        replay(r, GAP);
        step(r, c);
    }
}

static void in_gap(ReplyParser *r, char c)
{
    if (is_space(c))
        return;
    if (c == ';' && r->o.style == REPLY_LLAMA3) {
        hold(r, c);
        r->state = NEXT;
        return;
    }
    r->state = ANSWER;
    step(r, c);
}

static void step(ReplyParser *r, char c)
{
    switch (r->state) {
    case BEGIN: at_begin(r, c); break;
    case REASONING_BEGIN:
        if (is_space(c))
            break;
        r->state = REASONING; /* fall through */
    case REASONING: in_reasoning(r, c); break;
    case ANSWER_BEGIN: at_answer(r, c); break;
    case ANSWER: in_answer(r, c); break;
    case CALL: in_call(r, c); break;
    case CALL_END: at_call_end(r, c); break;
    case GAP: in_gap(r, c); break;
    case PYTHON:
    case NEXT: before_call(r, c); break;
    case FINISHED: assert(!"reply_push after reply_finish"); break;
    }
}

/* ---- interface --------------------------------------------------------------------------------------------------- */

ReplyParser *reply_new(const ReplyOptions *o)
{
    ReplyParser *r = xcalloc(1, sizeof *r);
    r->o = *o;
    r->state = o->reasoning || o->in_reasoning ? BEGIN : ANSWER_BEGIN;
    return r;
}

void reply_free(ReplyParser *r)
{
    if (!r)
        return;
    free(r->call.name);
    buf_free(&r->held);
    buf_free(&r->ready);
    free(r);
}

void reply_push(ReplyParser *r, const char *text, size_t len, ReplyFn *fn, void *context)
{
    r->fn = fn;
    r->context = context;
    size_t i = 0;
    while (i < len && !(r->state == ANSWER && r->o.style != REPLY_HERMES))
        step(r, text[i++]);
    if (i < len)
        emit(r, REPLY_CONTENT, text + i, len - i);
    flush(r);
}

/* An unfinished tag or call that was not announced is text; what is left of an announced one is only its syntax. */
void reply_finish(ReplyParser *r, ReplyFn *fn, void *context)
{
    r->fn = fn;
    r->context = context;
    bool reasoning = r->state == REASONING || (r->state == BEGIN && r->o.in_reasoning);
    bool syntax = r->state == CALL_END || r->state == NEXT || (r->state == CALL && r->call.announced);
    if (!syntax)
        emit_held(r, reasoning ? REPLY_REASONING : REPLY_CONTENT);
    flush(r);
    enter(r, FINISHED);
}

int reply_calls(const ReplyParser *r)
{
    return r->calls;
}
