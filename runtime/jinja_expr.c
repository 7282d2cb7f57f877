/* jinja_expr.c - owns the token stream, the making of nodes, and the grammar of expressions. One function a rule, the
 * rule above it.
 *
 * The tree's height is bounded (MAX_NESTING), so the evaluator's recursion on one expression is bounded too. */
#include <stdio.h>

#include "jinja_int.h"

#define MAX_NESTING 200

static Node *parse_unary(Parse *p, bool with_filter);
static Node *parse_primary(Parse *p, bool namespace_ok);
static Node *parse_or(Parse *p);
static Node *parse_sum(Parse *p);

void parse_fail(Parse *p, int line, const char *format, ...)
{
    char message[1024];
    va_list ap;
    va_start(ap, format);
    vsnprintf(message, sizeof message, format, ap);
    va_end(ap);
    err_set(p->err, "line %d: %.*s", line, (int)utf8_complete(message, strlen(message)), message);
    longjmp(p->escape, 1);
}

/* ---- token stream ------------------------------------------------------------------------------------------------ */

const Token *parse_now(const Parse *p)
{
    return &p->tokens.at[p->at];
}

static const Token *after(const Parse *p)
{
    return &p->tokens.at[MIN(p->at + 1, p->tokens.len - 1)];
}

const Token *parse_take(Parse *p)
{
    const Token *t = parse_now(p);
    if (t->type != T_EOF)
        p->at++;
    return t;
}

bool parse_is(const Parse *p, int type)
{
    return parse_now(p)->type == type;
}

bool parse_is_word(const Parse *p, const char *word)
{
    return parse_now(p)->type == T_NAME && text_is(parse_now(p)->text, word);
}

bool parse_skip(Parse *p, int type)
{
    bool yes = parse_is(p, type);
    p->at += yes;
    return yes;
}

bool parse_skip_word(Parse *p, const char *word)
{
    bool yes = parse_is_word(p, word);
    p->at += yes;
    return yes;
}

void parse_fail_expected(Parse *p, const char *what)
{
    const Token *t = parse_now(p);
    parse_fail(p, t->line, "expected %s, found '%.*s'", what, TEXT_ARG(t->text));
}

const Token *parse_expect(Parse *p, int type, const char *what)
{
    if (!parse_is(p, type))
        parse_fail_expected(p, what);
    return parse_take(p);
}

void parse_enter(Parse *p)
{
    if (++p->nesting > MAX_NESTING)
        parse_fail(p, parse_now(p)->line, "the template is nested more than %d deep", MAX_NESTING);
}

void parse_leave(Parse *p)
{
    p->nesting--;
}

/* ---- nodes ------------------------------------------------------------------------------------------------------- */

static NodeList seal(Parse *p, Node **at, size_t n)
{
    NodeList list = {arena_array(p->arena, Node *, n), n};
    if (n)
        memcpy(list.at, at, n * sizeof *at);
    return list;
}

/* Children are collected on a stack: from = parse_mark(p), parse_push(p, child)..., parse_collect(p, from). */
size_t parse_mark(const Parse *p)
{
    return p->pending.len;
}

void parse_push(Parse *p, Node *n)
{
    vec_push(&p->pending, n);
}

NodeList parse_collect(Parse *p, size_t from)
{
    size_t n = p->pending.len - from;
    NodeList list = seal(p, n ? p->pending.at + from : NULL, n);
    p->pending.len = from;
    return list;
}

static int height(const Node *n)
{
    return n ? n->depth : 0;
}

/* Recomputes the height after all children are set. */
static Node *sized(Parse *p, Node *n)
{
    int h = MAX(MAX(height(n->a), height(n->b)), height(n->c));
    for (size_t i = 0; i < n->list.n; i++)
        h = MAX(h, height(n->list.at[i]));
    if (h >= MAX_NESTING)
        parse_fail(p, n->line, "an expression has more than %d nested operations", MAX_NESTING);
    n->depth = (uint16_t)(h + 1);
    return n;
}

Node *parse_node(Parse *p, NodeKind kind, int line)
{
    Node *n = arena_alloc(p->arena, sizeof *n);
    n->kind = (uint8_t)kind;
    n->line = line;
    n->depth = 1;
    return n;
}

Node *parse_node2(Parse *p, NodeKind kind, int line, Node *a, Node *b)
{
    Node *n = parse_node(p, kind, line);
    n->a = a;
    n->b = b;
    return sized(p, n);
}

static Node *constant(Parse *p, int line, Value v)
{
    Node *n = parse_node(p, N_CONST, line);
    n->value = v;
    return n;
}

Text parse_intern(Parse *p, Text t)
{
    char *s = map_get(p->names, t.s, t.n);
    if (!s) {
        s = arena_strndup(p->arena, t.s, t.n);
        map_put(p->names, t.s, t.n, s);
    }
    return (Text){s, t.n};
}

Node *parse_named(Parse *p, NodeKind kind, int line, Text name)
{
    Node *n = parse_node(p, kind, line);
    n->name = parse_intern(p, name);
    return n;
}

/* ---- expressions ------------------------------------------------------------------------------------------------- */

static bool tuple_ends(const Parse *p, const char *end_word)
{
    return parse_is(p, T_PRINT_END) || parse_is(p, T_BLOCK_END) || parse_is(p, ')') ||
           (end_word && parse_is_word(p, end_word));
}

static Node *tuple_item(Parse *p, TupleOf of)
{
    if (of == TUPLE_NO_COND)
        return parse_or(p);
    if (of == TUPLE_FULL)
        return parse_expression(p);
    return parse_primary(p, of == TUPLE_TARGET_NAMESPACE);
}

/* tuple = [ item { "," item } [ "," ] ]     one item without a comma is not a tuple; empty only inside parentheses */
Node *parse_tuple(Parse *p, TupleOf of, const char *end_word, bool parentheses)
{
    int line = parse_now(p)->line;
    size_t from = parse_mark(p);
    bool comma = false;
    while (!tuple_ends(p, end_word)) {
        parse_push(p, tuple_item(p, of));
        if (!parse_skip(p, ','))
            break;
        comma = true;
    }
    NodeList list = parse_collect(p, from);
    if (!comma && list.n == 1)
        return list.at[0];
    if (!comma && !parentheses)
        parse_fail_expected(p, "an expression");
    Node *n = parse_node(p, N_TUPLE, line);
    n->list = list;
    return sized(p, n);
}

/* expression = or { "if" or [ "else" expression ] } */
Node *parse_expression(Parse *p)
{
    parse_enter(p);
    int line = parse_now(p)->line;
    Node *n = parse_or(p);
    while (parse_skip_word(p, "if")) {
        Node *cond = parse_node(p, N_COND, line);
        cond->b = n;
        cond->a = parse_or(p);
        cond->c = parse_skip_word(p, "else") ? parse_expression(p) : NULL;
        n = sized(p, cond);
        line = parse_now(p)->line;
    }
    parse_leave(p);
    return n;
}

/* comparison = sum { ("==" | "!=" | "<" | ">" | "<=" | ">=" | "in" | "not" "in") sum } */
static int comparison_operator(Parse *p)
{
    switch (parse_now(p)->type) {
    case T_EQ: parse_take(p); return OP_EQ;
    case T_NE: parse_take(p); return OP_NE;
    case T_LE: parse_take(p); return OP_LE;
    case T_GE: parse_take(p); return OP_GE;
    case '<':
    case '>': return parse_take(p)->type;
    }
    if (parse_skip_word(p, "in"))
        return OP_IN;
    if (parse_is_word(p, "not") && after(p)->type == T_NAME && text_is(after(p)->text, "in")) {
        p->at += 2;
        return OP_NOT_IN;
    }
    return 0;
}

static Node *parse_comparison(Parse *p)
{
    int line = parse_now(p)->line, op;
    Node *first = parse_sum(p);
    size_t from = parse_mark(p);
    while ((op = comparison_operator(p))) {
        Node *operand = parse_node2(p, N_OPERAND, parse_now(p)->line, parse_sum(p), NULL);
        operand->op = (uint8_t)op;
        parse_push(p, operand);
    }
    if (parse_mark(p) == from)
        return first;
    Node *n = parse_node(p, N_COMPARE, line);
    n->a = first;
    n->list = parse_collect(p, from);
    return sized(p, n);
}

/* not = { "not" } comparison */
static Node *parse_not(Parse *p)
{
    int line = parse_now(p)->line;
    if (!parse_skip_word(p, "not"))
        return parse_comparison(p);
    parse_enter(p);
    Node *n = parse_node2(p, N_NOT, line, parse_not(p), NULL);
    parse_leave(p);
    return n;
}

/* and = not { "and" not } */
static Node *parse_and(Parse *p)
{
    Node *n = parse_not(p);
    for (int line = parse_now(p)->line; parse_skip_word(p, "and"); line = parse_now(p)->line)
        n = parse_node2(p, N_AND, line, n, parse_not(p));
    return n;
}

/* or = and { "or" and } */
static Node *parse_or(Parse *p)
{
    Node *n = parse_and(p);
    for (int line = parse_now(p)->line; parse_skip_word(p, "or"); line = parse_now(p)->line)
        n = parse_node2(p, N_OR, line, n, parse_and(p));
    return n;
}

static Node *binary(Parse *p, int line, int op, Node *a, Node *b)
{
    Node *n = parse_node2(p, N_BINARY, line, a, b);
    n->op = (uint8_t)op;
    return n;
}

/* power = unary { "**" unary }     from left to right, unlike Python */
static Node *parse_power(Parse *p)
{
    Node *n = parse_unary(p, true);
    for (int line = parse_now(p)->line; parse_skip(p, T_POW); line = parse_now(p)->line)
        n = binary(p, line, OP_POW, n, parse_unary(p, true));
    return n;
}

/* product = power { ("*" | "/" | "//" | "%") power } */
static Node *parse_product(Parse *p)
{
    Node *n = parse_power(p);
    while (parse_is(p, '*') || parse_is(p, '/') || parse_is(p, T_FLOORDIV) || parse_is(p, '%')) {
        const Token *t = parse_take(p);
        n = binary(p, t->line, t->type == T_FLOORDIV ? OP_FLOORDIV : t->type, n, parse_power(p));
    }
    return n;
}

/* concat = product { "~" product } */
static Node *parse_concat(Parse *p)
{
    int line = parse_now(p)->line;
    Node *first = parse_product(p);
    if (!parse_is(p, '~'))
        return first;
    size_t from = parse_mark(p);
    parse_push(p, first);
    while (parse_skip(p, '~'))
        parse_push(p, parse_product(p));
    Node *n = parse_node(p, N_CONCAT, line);
    n->list = parse_collect(p, from);
    return sized(p, n);
}

/* sum = concat { ("+" | "-") concat } */
static Node *parse_sum(Parse *p)
{
    Node *n = parse_concat(p);
    while (parse_is(p, '+') || parse_is(p, '-')) {
        const Token *t = parse_take(p);
        n = binary(p, t->line, t->type, n, parse_concat(p));
    }
    return n;
}

/* argument = "*" expression | "**" expression | name "=" expression | expression */
static Node *parse_argument(Parse *p)
{
    int line = parse_now(p)->line;
    if (parse_skip(p, '*'))
        return parse_node2(p, N_STAR, line, parse_expression(p), NULL);
    if (parse_skip(p, T_POW))
        return parse_node2(p, N_STAR_STAR, line, parse_expression(p), NULL);
    if (!parse_is(p, T_NAME) || after(p)->type != '=')
        return parse_expression(p);
    Node *n = parse_named(p, N_KEYWORD, line, parse_take(p)->text);
    parse_take(p);
    n->a = parse_expression(p);
    return sized(p, n);
}

/* arguments = "(" [ argument { "," argument } [ "," ] ] ")"     positional ones first, ** last */
static NodeList parse_arguments(Parse *p)
{
    static const NodeKind order[] = {N_CONST, N_KEYWORD, N_STAR, N_STAR_STAR};
    int line = parse_expect(p, '(', "'('")->line;
    size_t from = parse_mark(p);
    uint8_t seen = 0; /* bit i: an argument of kind order[i] came */
    while (!parse_is(p, ')')) {
        if (parse_mark(p) != from) {
            parse_expect(p, ',', "',' or ')'");
            if (parse_is(p, ')'))
                break;
        }
        Node *n = parse_argument(p);
        int rank = n->kind == order[1] ? 1 : n->kind == order[2] ? 2 : n->kind == order[3] ? 3 : 0;
        static const uint8_t not_after[] = {1 << 1 | 1 << 2 | 1 << 3, 1 << 3, 1 << 2 | 1 << 3, 1 << 3};
        if (seen & not_after[rank])
            parse_fail(p, line, "the arguments of a call are in the wrong order");
        seen |= (uint8_t)(1 << rank);
        parse_push(p, n);
    }
    parse_take(p);
    return parse_collect(p, from);
}

static Node *parse_call(Parse *p, Node *callee)
{
    Node *n = parse_node(p, N_CALL, parse_now(p)->line);
    n->a = callee;
    n->list = parse_arguments(p);
    return sized(p, n);
}

/* subscript = expression | [ expression ] ":" [ expression ] [ ":" [ expression ] ] */
static Node *parse_subscript(Parse *p, Node *object)
{
    int line = parse_now(p)->line;
    Node *start = parse_is(p, ':') ? NULL : parse_expression(p);
    if (!parse_skip(p, ':'))
        return parse_node2(p, N_ITEM, line, object, start);
    Node *n = parse_node(p, N_SLICE, line), *step = NULL;
    n->a = object;
    n->b = start;
    if (!parse_is(p, ':') && !parse_is(p, ']'))
        n->c = parse_expression(p);
    if (parse_skip(p, ':') && !parse_is(p, ']'))
        step = parse_expression(p);
    n->list = seal(p, &step, step != NULL);
    return sized(p, n);
}

/* "." (name | integer) | "[" subscript "]" */
static Node *parse_member(Parse *p, Node *object)
{
    const Token *t = parse_take(p);
    if (t->type == '[') {
        if (parse_is(p, ']'))
            parse_fail_expected(p, "an expression");
        Node *n = parse_subscript(p, object);
        if (parse_is(p, ','))
            parse_fail(p, t->line, "a tuple as a subscript is not supported");
        parse_expect(p, ']', "']'");
        return n;
    }
    if (parse_is(p, T_INT)) {
        Node *index = constant(p, t->line, parse_now(p)->value);
        parse_take(p);
        return parse_node2(p, N_ITEM, t->line, object, index);
    }
    Node *n = parse_named(p, N_ATTR, t->line, parse_expect(p, T_NAME, "a name or a number after '.'")->text);
    n->a = object;
    return sized(p, n);
}

static Node *parse_postfix(Parse *p, Node *n)
{
    for (;;) {
        if (parse_is(p, '.') || parse_is(p, '['))
            n = parse_member(p, n);
        else if (parse_is(p, '('))
            n = parse_call(p, n);
        else
            return n;
    }
}

/* name { "." name } */
static Text parse_dotted(Parse *p, const char *what)
{
    Text t = parse_expect(p, T_NAME, what)->text;
    while (parse_skip(p, '.')) {
        Text part = parse_expect(p, T_NAME, "a name")->text;
        t.n = (size_t)(part.s + part.n - t.s);
    }
    return t;
}

/* filter = name [ arguments ] */
Node *parse_filter(Parse *p, Node *operand)
{
    int line = parse_now(p)->line;
    Node *n = parse_named(p, N_FILTER, line, parse_dotted(p, "the name of a filter"));
    n->a = operand;
    n->builtin = jj_filter(n->name);
    if (parse_is(p, '('))
        n->list = parse_arguments(p);
    return sized(p, n);
}

Node *parse_filters(Parse *p, Node *operand)
{
    while (parse_skip(p, '|'))
        operand = parse_filter(p, operand);
    return operand;
}

static bool starts_test_argument(const Parse *p)
{
    switch (parse_now(p)->type) {
    case T_NAME: return !parse_is_word(p, "else") && !parse_is_word(p, "or") && !parse_is_word(p, "and");
    case T_STRING: case T_INT: case T_FLOAT: case '[': case '{': return true;
    }
    return false;
}

/* test = "is" [ "not" ] name [ arguments | primary postfix ] */
static Node *parse_test(Parse *p, Node *operand)
{
    int line = parse_take(p)->line;
    bool negated = parse_skip_word(p, "not");
    Node *n = parse_named(p, N_TEST, line, parse_dotted(p, "the name of a test"));
    n->a = operand;
    n->builtin = jj_test(n->name);
    if (parse_is(p, '(')) {
        n->list = parse_arguments(p);
    } else if (starts_test_argument(p)) {
        if (parse_is_word(p, "is"))
            parse_fail(p, line, "tests cannot be chained with 'is'");
        Node *argument = parse_postfix(p, parse_primary(p, false));
        n->list = seal(p, &argument, 1);
    }
    sized(p, n);
    return negated ? parse_node2(p, N_NOT, line, n, NULL) : n;
}

static Node *parse_filters_and_tests(Parse *p, Node *n)
{
    for (;;) {
        if (parse_skip(p, '|'))
            n = parse_filter(p, n);
        else if (parse_is_word(p, "is"))
            n = parse_test(p, n);
        else if (parse_is(p, '('))
            n = parse_call(p, n);
        else
            return n;
    }
}

/* unary = ("-" | "+") unary | primary postfix     then filters and tests, once for the whole */
static Node *parse_unary(Parse *p, bool with_filter)
{
    const Token *t = parse_now(p);
    Node *n;
    if (t->type == '-' || t->type == '+') {
        parse_take(p);
        parse_enter(p);
        n = parse_node2(p, t->type == '-' ? N_NEG : N_POS, t->line, parse_unary(p, false), NULL);
        parse_leave(p);
    } else {
        n = parse_primary(p, false);
    }
    n = parse_postfix(p, n);
    return with_filter ? parse_filters_and_tests(p, n) : n;
}

/* A macro that mentions varargs, kwargs or caller receives them. */
static void note_special(Parse *p, Text name)
{
    static const struct { const char *name; uint8_t flag; } special[] = {
        {"varargs", MACRO_VARARGS}, {"kwargs", MACRO_KWARGS}, {"caller", MACRO_CALLER}};
    for (size_t i = 0; p->macro && i < COUNT(special); i++)
        if (text_is(name, special[i].name))
            p->macro->flags |= special[i].flag;
}

static Node *parse_name(Parse *p, bool namespace_ok)
{
    const Token *t = parse_take(p);
    if (text_is(t->text, "true") || text_is(t->text, "True"))
        return constant(p, t->line, v_bool(true));
    if (text_is(t->text, "false") || text_is(t->text, "False"))
        return constant(p, t->line, v_bool(false));
    if (text_is(t->text, "none") || text_is(t->text, "None"))
        return constant(p, t->line, v_none());
    if (namespace_ok && parse_skip(p, '.')) {
        Node *n = parse_named(p, N_NSREF, t->line, t->text);
        n->value = v_str(parse_intern(p, parse_expect(p, T_NAME, "a name")->text));
        return n;
    }
    note_special(p, t->text);
    return parse_named(p, N_NAME, t->line, t->text);
}

/* Adjacent strings are one. */
static Node *parse_string(Parse *p)
{
    int line = parse_now(p)->line;
    size_t n = 0, first = p->at;
    while (parse_is(p, T_STRING))
        n += parse_take(p)->text.n;
    if (p->at == first + 1)
        return constant(p, line, v_str(p->tokens.at[first].text));
    char *s = arena_alloc(p->arena, n), *end = s;
    for (size_t i = first; i < p->at; i++) {
        Text part = p->tokens.at[i].text;
        end = mempcpy(end, part.s, part.n);
    }
    return constant(p, line, v_str((Text){s, n}));
}

/* list = "[" [ expression { "," expression } [ "," ] ] "]" */
static Node *parse_list(Parse *p)
{
    Node *n = parse_node(p, N_LIST, parse_take(p)->line);
    size_t from = parse_mark(p);
    while (!parse_is(p, ']')) {
        parse_push(p, parse_expression(p));
        if (!parse_skip(p, ','))
            break;
    }
    parse_expect(p, ']', "',' or ']'");
    n->list = parse_collect(p, from);
    return sized(p, n);
}

/* dict = "{" [ expression ":" expression { "," ... } [ "," ] ] "}" */
static Node *parse_dict(Parse *p)
{
    Node *n = parse_node(p, N_DICT, parse_take(p)->line);
    size_t from = parse_mark(p);
    while (!parse_is(p, '}')) {
        parse_push(p, parse_expression(p));
        parse_expect(p, ':', "':'");
        parse_push(p, parse_expression(p));
        if (!parse_skip(p, ','))
            break;
    }
    parse_expect(p, '}', "',' or '}'");
    n->list = parse_collect(p, from);
    return sized(p, n);
}

/* primary = name | string | number | "(" tuple ")" | list | dict */
static Node *parse_primary(Parse *p, bool namespace_ok)
{
    const Token *t = parse_now(p);
    switch (t->type) {
    case T_NAME: return parse_name(p, namespace_ok);
    case T_STRING: return parse_string(p);
    case T_INT:
    case T_FLOAT: return constant(p, t->line, parse_take(p)->value);
    case '[': return parse_list(p);
    case '{': return parse_dict(p);
    case '(': break;
    default: parse_fail_expected(p, "an expression");
    }
    parse_take(p);
    Node *n = parse_tuple(p, TUPLE_FULL, NULL, true);
    parse_expect(p, ')', "')'");
    return n;
}
