/* jinja_int.h - what the files of the Jinja interpreter share: text, syntax tree, values, the state of a render.
 *
 * Memory: a template owns one arena (source, tokens, tree); a render owns another for all its values. Values are
 * immutable once built (the sandbox forbids mutation), except namespaces and iterators, so they are shared freely and a
 * substring is a view of its string. All text is valid UTF-8.
 *
 * Errors: jj_fail leaves the render, and parse_fail the parse, by longjmp; nothing on the way owns more than arena
 * memory.
 */
#ifndef BLADE_JINJA_INT_H
#define BLADE_JINJA_INT_H

#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

#include "jinja.h"

/* ---- text: bytes of valid UTF-8, not NUL-terminated -------------------------------------------------------------- */

typedef struct Text {
    const char *s;
    size_t n; /* bytes */
} Text;

#define TEXT(literal) ((Text){literal, sizeof(literal) - 1})
#define TEXT_ARG(t) (int)utf8_complete((t).s, MIN((t).n, (size_t)200)), (t).s /* for "%.*s" in messages */

static inline bool text_eq(Text a, Text b)
{
    return a.n == b.n && !memcmp(a.s, b.s, a.n);
}

static inline bool text_is(Text a, const char *s)
{
    return a.n == strlen(s) && !memcmp(a.s, s, a.n);
}

/* ---- values ------------------------------------------------------------------------------------------------------ */

typedef enum Kind {
    V_ABSENT,    /* an optional argument that was not given; never seen by a template */
    V_UNDEFINED, /* text: the name, or with tag UNDEF_HINT the whole message */
    V_NONE,
    V_BOOL,
    V_INT,
    V_FLOAT,
    V_STR,       /* tag 1: Markup (result of `safe` and `escape`): what is added to it is escaped */
    V_LIST,
    V_TUPLE,     /* tag 1: an element of `groupby`, with the attributes grouper and list */
    V_DICT,
    V_RANGE,
    V_VIEW,      /* tag: VIEW_KEYS, VIEW_VALUES, VIEW_ITEMS of dict */
    V_ITER,      /* what a generator of Python is here: can be walked once */
    V_NAMESPACE, /* the only mutable value a template can assign into */
    V_LOOP,
    V_MACRO,
    V_FUNC,      /* a builtin function */
    V_METHOD,    /* a method bound to its object */
} Kind;

enum { VIEW_KEYS, VIEW_VALUES, VIEW_ITEMS };
enum { UNDEF_NAME, UNDEF_HINT, UNDEF_ATTR }; /* tags of V_UNDEFINED; ATTR: a name that objects of kind `owner` lack */

typedef struct List List;
typedef struct Dict Dict;
typedef struct Range Range;
typedef struct Iter Iter;
typedef struct Loop Loop;
typedef struct Macro Macro;
typedef struct Builtin Builtin;
typedef struct Method Method;

typedef struct Value {
    uint8_t kind, tag, owner;
    union {
        bool b;
        int64_t i;
        double f;
        Text text;
        const List *list;
        Dict *dict;
        const Range *range;
        Iter *iter;
        Loop *loop;
        const Macro *macro;
        const Builtin *func;
        const Method *method;
    };
} Value;

struct List {
    size_t n;
    Value at[];
};

struct Dict { /* in order of insertion */
    size_t n, cap;
    Value *keys, *values;
    uint32_t *index; /* open addressing, 2*cap slots of position + 1; NULL while n is small */
};

struct Range {
    int64_t start, stop, step;
    size_t n;
};

struct Iter {
    const List *list;
    size_t pos; /* elements before it are consumed */
};

/* ---- syntax tree ------------------------------------------------------------------------------------------------- */

/* Members used by each kind. `list` are children in order; `body`, `orelse` are statements. */
typedef enum NodeKind {
    /* statements */
    N_DATA,        /* value: text that is printed as it is */
    N_PRINT,       /* a */
    N_IF,          /* a: condition; body; c: the elif that follows (an N_IF), or orelse */
    N_FOR,         /* a: target, b: iterable, c: filter or NULL; body; orelse */
    N_SET,         /* a: target, b: value */
    N_SET_BLOCK,   /* a: target, b: filters applied to the body (over N_CAPTURED) or NULL; body */
    N_FILTER_BLOCK,/* b: filters over N_CAPTURED; body */
    N_WITH,        /* list: target, value, target, value...; body */
    N_MACRO,       /* name; list: parameters (N_NAME); b: defaults of the last ones, chained by c; body; flags */
    N_CALL_BLOCK,  /* a: the N_CALL, b: N_MACRO that becomes `caller` */
    N_SCOPE,       /* body, in a scope of its own ({% generation %}) */
    N_BREAK,
    N_CONTINUE,
    /* expressions */
    N_CONST,       /* value */
    N_NAME,        /* name */
    N_NSREF,       /* name, value: attribute text; only as a target */
    N_TUPLE, N_LIST, /* list */
    N_DICT,        /* list: key, value, key, value... */
    N_ATTR,        /* a . name */
    N_ITEM,        /* a [b] */
    N_SLICE,       /* a [b : c : list[0]], each may be NULL */
    N_CALL,        /* a ( list ) */
    N_FILTER,      /* a | name ( list ) */
    N_TEST,        /* a is name ( list ) */
    N_KEYWORD,     /* in a call: name = a */
    N_STAR,        /* in a call: *a */
    N_STAR_STAR,   /* in a call: **a */
    N_COND,        /* b if a else c (c may be NULL) */
    N_AND, N_OR,   /* a, b */
    N_NOT,         /* a */
    N_NEG, N_POS,  /* a */
    N_BINARY,      /* op: + - * / % or OP_FLOORDIV, OP_POW; a, b */
    N_CONCAT,      /* list joined by ~ */
    N_COMPARE,     /* a, then list of N_OPERAND */
    N_OPERAND,     /* op: < > or OP_EQ..., a */
    N_CAPTURED,    /* the text that a block just produced */
} NodeKind;

enum { OP_FLOORDIV = 1, OP_POW, OP_EQ, OP_NE, OP_LE, OP_GE, OP_IN, OP_NOT_IN };
enum { MACRO_VARARGS = 1, MACRO_KWARGS = 2, MACRO_CALLER = 4 }; /* the body mentions varargs, kwargs, caller */

typedef struct Node Node;
typedef struct NodeList {
    Node **at;
    size_t n;
} NodeList;

struct Node {
    uint8_t kind, op, flags;
    uint16_t depth; /* height of an expression, bounded by the parser */
    int line;
    Text name;      /* interned: equal names have equal pointers */
    Node *a, *b, *c;
    NodeList list, body, orelse;
    Value value;
    const Builtin *builtin; /* N_FILTER, N_TEST; NULL when there is none of that name */
};

struct Jinja {
    Arena *arena;
    NodeList body;
    Text loop, varargs, kwargs, caller; /* interned names of the variables that the language itself defines */
};

/* ---- tokens ------------------------------------------------------------------------------------------------------ */

/* Operators of one character are their character; the others follow. */
typedef enum TokenType {
    T_EOF = 128, T_DATA, T_PRINT_BEGIN, T_PRINT_END, T_BLOCK_BEGIN, T_BLOCK_END, T_NAME, T_STRING, T_INT, T_FLOAT,
    T_POW, T_FLOORDIV, T_EQ, T_NE, T_LE, T_GE,
} TokenType;

typedef struct Token {
    uint8_t type;
    int line;
    Text text; /* data; name; contents of a string, unescaped; spelling of anything else */
    Value value; /* of numbers */
} Token;

typedef struct Parse Parse;
struct Parse {
    Arena *arena;
    Err *err;
    jmp_buf escape;
    VEC(Token) tokens;
    size_t at;       /* current token */
    VEC(Node *) pending; /* children of unfinished nodes: a stack shared by all rules */
    Map *names;      /* interned names */
    int nesting;     /* expressions and statements being parsed */
    int loops;       /* loops around the current statement, in this macro */
    Node *macro;     /* macro being parsed */
};

/* jinja_expr.c: tokens */
void parse_fail(Parse *p, int line, const char *format, ...) PRINTF(3, 4) __attribute__((noreturn));
void parse_fail_expected(Parse *p, const char *what) __attribute__((noreturn));
const Token *parse_now(const Parse *p);
const Token *parse_take(Parse *p); /* the current token, and goes on */
bool parse_is(const Parse *p, int type);
bool parse_is_word(const Parse *p, const char *word);
bool parse_skip(Parse *p, int type); /* takes the token if it is of this type */
bool parse_skip_word(Parse *p, const char *word);
const Token *parse_expect(Parse *p, int type, const char *what);
void parse_enter(Parse *p); /* one level deeper; fails when that is too deep */
void parse_leave(Parse *p);

/* jinja_expr.c: nodes. Children are collected on a stack: from = mark, push..., collect(from). */
size_t parse_mark(const Parse *p);
void parse_push(Parse *p, Node *n);
NodeList parse_collect(Parse *p, size_t from);
Node *parse_node(Parse *p, NodeKind kind, int line);
Node *parse_node2(Parse *p, NodeKind kind, int line, Node *a, Node *b);
Node *parse_named(Parse *p, NodeKind kind, int line, Text name);
Text parse_intern(Parse *p, Text t);

/* jinja_expr.c: rules. `end_word` ends a tuple, may be NULL; `operand` is what the first filter applies to. */
typedef enum TupleOf { TUPLE_FULL, TUPLE_NO_COND, TUPLE_TARGET, TUPLE_TARGET_NAMESPACE } TupleOf;
Node *parse_tuple(Parse *p, TupleOf of, const char *end_word, bool parentheses);
Node *parse_expression(Parse *p);
Node *parse_filter(Parse *p, Node *operand);  /* one, after the '|' */
Node *parse_filters(Parse *p, Node *operand); /* any number, each with its '|' */

/* jinja_lex.c */
void jj_lex(Parse *p, Text source);
Text jj_normalize_newlines(Arena *a, Text t);

/* ---- render ------------------------------------------------------------------------------------------------------ */

/* Text that grows in the arena of a render. */
typedef struct Render Render;
typedef struct Out {
    Render *r;
    char *s;
    size_t n, cap;
} Out;

typedef struct Var {
    const char *name; /* interned */
    Value value;
} Var;

/* One scope of variables. */
typedef struct Env Env;
struct Env {
    Env *up;
    Var *vars;
    size_t n, cap;
    bool kept; /* a macro refers to it */
};

struct Render {
    Arena *arena;
    Err *err;
    jmp_buf escape;
    const Jinja *template;
    JinjaLimits limits;
    long steps;      /* left */
    size_t memory;   /* left */
    int depth, line; /* line: of the node being evaluated */
    Dict *variables; /* the caller's, under all scopes */
    Env *env;        /* innermost scope */
    Out *out;        /* where {{ }} prints */
    Text captured;   /* for N_CAPTURED */
};

struct Macro {
    const Node *node;
    Env *env; /* where it was defined */
};

/* Arguments of a call. After binding to the parameters of a builtin: at[i] is the i-th parameter or V_ABSENT. */
typedef struct Args {
    Value *at;
    size_t n;
    Text *names; /* of keyword arguments */
    Value *named;
    size_t n_named;
} Args;

/* A function, filter, test or method. `params`: names with commas, an optional one ends in '?'; NULL: args as they
 * came. */
struct Builtin {
    const char *name;
    Value (*call)(Render *r, Value self, const Args *args);
    const char *params;
};

struct Method {
    const Builtin *def;
    Value self;
};

/* jinja_exec.c: statements, scopes, loops, macros */
Env *jj_scope(Render *r, Env *up);
void jj_define(Render *r, Env *env, Text name, Value v); /* name: interned */
Value jj_lookup(Render *r, Text name);
Value jj_call_macro(Render *r, const Macro *m, const Args *args);
Value jj_loop_attr(Render *r, Loop *loop, Text name); /* V_ABSENT when a loop has no such attribute */

/* jinja_eval.c: expressions, calls */
Value jj_eval(Render *r, const Node *n);
Args jj_eval_args(Render *r, NodeList list);
Value jj_call(Render *r, Value callee, const Args *args);
Value jj_call_builtin(Render *r, const Builtin *b, Value self, const Args *args);
const Value *jj_named_arg(const Args *args, const char *name); /* NULL when absent */

/* jinja_value.c: memory, limits and errors of a render */
void jj_fail(Render *r, const char *format, ...) PRINTF(2, 3) __attribute__((noreturn));
void *jj_alloc(Render *r, size_t size);
void jj_spend(Render *r, size_t bytes); /* counts work on `bytes` bytes of text */
void jj_enter(Render *r);               /* one level deeper; undone by r->depth-- */
void out_put(Out *o, const char *s, size_t n);
void out_text(Out *o, Text t);
void out_puts(Out *o, const char *s);
void out_repeat(Out *o, char c, size_t n);
void out_cp(Out *o, uint32_t cp);
Text out_done(const Out *o);

/* jinja_value.c: constructors */
static inline Value v_none(void) { return (Value){.kind = V_NONE}; }
static inline Value v_absent(void) { return (Value){.kind = V_ABSENT}; }
static inline Value v_bool(bool b) { return (Value){.kind = V_BOOL, .b = b}; }
static inline Value v_int(int64_t i) { return (Value){.kind = V_INT, .i = i}; }
static inline Value v_float(double f) { return (Value){.kind = V_FLOAT, .f = f}; }
static inline Value v_str(Text t) { return (Value){.kind = V_STR, .text = t}; }
static inline Value v_list(const List *l) { return (Value){.kind = V_LIST, .list = l}; }
static inline Value v_tuple(const List *l) { return (Value){.kind = V_TUPLE, .list = l}; }
static inline Value v_dict(Dict *d) { return (Value){.kind = V_DICT, .dict = d}; }
static inline Value v_hint(const char *s) /* an undefined value with a message */
{
    return (Value){.kind = V_UNDEFINED, .tag = UNDEF_HINT, .text = {s, strlen(s)}};
}
List *jj_list(Render *r, size_t n);
Value jj_iter(Render *r, const List *l);
Value jj_pair(Render *r, Value a, Value b);
Dict *jj_dict(Render *r);
void jj_dict_set(Render *r, Dict *d, Value key, Value value);
const Value *jj_dict_get(Render *r, const Dict *d, Value key); /* NULL when absent; fails on an unhashable key */
const Value *jj_dict_find(Render *r, const Dict *d, Text key);
Value jj_from_json(Render *r, const json_t *json);

/* jinja_value.c: what all values can do */
const char *jj_type(Value v); /* the name Python uses in messages */
void jj_fail_undefined(Render *r, Value v) __attribute__((noreturn)); /* an undefined value was used */
bool jj_truth(Render *r, Value v);
bool jj_hashable(Value v);
bool jj_equal(Render *r, Value a, Value b);
bool jj_same(Value a, Value b);            /* Python's `is` */
bool jj_ordered(Render *r, Value a, int op, Value b); /* op: < > OP_LE OP_GE; fails on types that have no order */
bool jj_contains(Render *r, Value item, Value container);
bool jj_iterable(Value v);
const List *jj_items(Render *r, Value v);  /* the elements of anything iterable; fails otherwise */
bool jj_has_length(Value v);
int64_t jj_length(Render *r, Value v);
bool jj_number(Value v, double *f);        /* bool, int, float as a double */
bool jj_integer(Value v, int64_t *i);      /* bool, int */
static inline bool jj_is_str(Value v) { return v.kind == V_STR; }

/* jinja_collect.c: a stable sort of `items` by `keys` (as many; NULL: the items themselves) */
const List *jj_sorted(Render *r, const List *items, const List *keys, bool reverse);

/* jinja_access.c: attributes, items, slices */
Value jj_own_attr(Render *r, Value v, Text name); /* an attribute of the object itself; V_ABSENT when it has none */
Value jj_attr(Render *r, Value v, Text name);  /* v.name */
Value jj_item(Render *r, Value v, Value key);  /* v[key] */
Value jj_slice(Render *r, Value v, Value start, Value stop, Value step);

/* jinja_print.c: str(), repr(), json.dumps() */
Text jj_str(Render *r, Value v);
void jj_print(Out *o, Value v); /* str() */
void jj_repr(Out *o, Value v);
Text jj_float_repr(double f, char buf[40]);
typedef struct JsonStyle {
    bool ensure_ascii, sort_keys, indented;
    Text indent, item_separator, key_separator;
} JsonStyle;
void jj_json(Out *o, Value v, const JsonStyle *style, int level);

/* jinja_number.c: arithmetic, numbers from text */
Value jj_binary(Render *r, int op, Value a, Value b);
Value jj_negate(Render *r, Value v, bool minus);
bool jj_parse_int(Text t, int base, int64_t *i);
bool jj_parse_float(Text t, double *f);
Value jj_round(Render *r, Value v, int64_t digits);

/* jinja_text.c: code points, case, white space */
size_t jj_cp_count(Text t);
size_t jj_cp_offset(Text t, size_t index); /* byte offset of a code point; t.n when beyond the end */
bool jj_is_space(uint32_t cp);
Text jj_strip(Text t, const Text *chars, bool left, bool right);
size_t jj_find(Text t, Text part, size_t from); /* byte offset or SIZE_MAX */
size_t jj_rfind(Render *r, Text t, Text part);
typedef enum Case { CASE_UPPER, CASE_LOWER, CASE_FOLD, CASE_TITLE, CASE_CAPITALIZE, CASE_SWAP } Case;
Text jj_case(Render *r, Text t, Case to);
bool jj_is_class(Text t, const char *class); /* the str.is... methods: "alpha", "digit", ... */
bool jj_is_printable(uint32_t cp);
bool jj_is_word(uint32_t cp); /* \w */
Text jj_reverse(Render *r, Text t); /* by code points */
Text jj_replace(Render *r, Text t, Text old, Text new, int64_t count);
Text jj_escape_html(Render *r, Text t);
const List *jj_split(Render *r, Text t, const Text *sep, int64_t max, bool from_right);
const List *jj_splitlines(Render *r, Text t, bool keep);
Text jj_pad(Render *r, Text t, int64_t width, uint32_t fill, char align); /* align: < > ^ */
Text jj_join(Render *r, Text sep, const List *items, bool strict); /* strict: only strings may be joined */

/* jinja_format.c */
Text jj_format_percent(Render *r, Text format, Value args);
Text jj_format_braces(Render *r, Text format, const Args *args);

/* jinja_methods.c, jinja_filters.c, jinja_collect.c, jinja_tests.c, jinja_functions.c: tables; NULL: no such name */
const Builtin *jj_find_builtin(const Builtin *table, size_t n, Text name);
const Builtin *jj_str_method(Text name);
const Builtin *jj_list_method(Text name);
const Builtin *jj_dict_method(Text name);
bool jj_mutates(Value v, Text name); /* methods that the sandbox refuses: list.append, dict.update, ... */
const Builtin *jj_filter(Text name);
const Builtin *jj_collection_filter(Text name);
const Builtin *jj_test(Text name);
const Builtin *jj_function(Text name);

/* jinja_value.c: reading arguments of builtins */
bool arg_given(const Args *a, size_t i); /* present and not None */
int64_t arg_int(Render *r, const Args *a, size_t i, int64_t otherwise);
bool arg_bool(Render *r, const Args *a, size_t i);
Text arg_str(Render *r, const Args *a, size_t i, const char *otherwise);

#endif
