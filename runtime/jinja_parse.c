/* jinja_parse.c - owns the second step of jinja_parse: tokens -> syntax tree. One function a grammar rule, the rule above it.
 *
 * The tree's height is bounded (MAX_NESTING), so the evaluator's recursion on one expression is bounded too. */
#include <stdio.h>

#include "jinja_int.h"

#define MAX_NESTING 200

static Node *parse_expression(Parse *p);
static Node *parse_unary(Parse *p, bool with_filter);
static Node *parse_primary(Parse *p, bool namespace_ok);
static NodeList parse_body(Parse *p, const char *const *end_words, bool skip_end);

void parse_fail(Parse *p, int line, const char *format, ...)
{
    char message[1024];
    va_list ap;
    va_start(ap, format);
    vsnprintf(message, sizeof message, format, ap);
    va_end(ap);
    err_set(p->err, "line %d: %s", line, message);
    longjmp(p->escape, 1);
}

/* ---- token stream ------------------------------------------------------------------------------------------------------- */

static const Token *now(const Parse *p)
{
    return &p->tokens.at[p->at];
}

static const Token *after(const Parse *p)
{
    return &p->tokens.at[MIN(p->at + 1, p->tokens.len - 1)];
}

static const Token *take(Parse *p)
{
    const Token *t = now(p);
    if (t->type != T_EOF)
        p->at++;
    return t;
}

static bool is_type(const Parse *p, int type)
{
    return now(p)->type == type;
}

static bool is_word(const Parse *p, const char *word)
{
    return now(p)->type == T_NAME && text_is(now(p)->text, word);
}

static bool skip_type(Parse *p, int type)
{
    bool yes = is_type(p, type);
    p->at += yes;
    return yes;
}

static bool skip_word(Parse *p, const char *word)
{
    bool yes = is_word(p, word);
    p->at += yes;
    return yes;
}

static void fail_expected(Parse *p, const char *what) __attribute__((noreturn));
static void fail_expected(Parse *p, const char *what)
{
    const Token *t = now(p);
    parse_fail(p, t->line, "expected %s, found '%.*s'", what, TEXT_ARG(t->text));
}

static const Token *expect(Parse *p, int type, const char *what)
{
    if (!is_type(p, type))
        fail_expected(p, what);
    return take(p);
}

static void enter(Parse *p)
{
    if (++p->nesting > MAX_NESTING)
        parse_fail(p, now(p)->line, "the template is nested more than %d deep", MAX_NESTING);
}

static void leave(Parse *p)
{
    p->nesting--;
}

/* ---- nodes ---------------------------------------------------------------------------------------------------------------- */

static NodeList seal(Parse *p, Node **at, size_t n)
{
    NodeList list = {arena_array(p->arena, Node *, n), n};
    if (n)
        memcpy(list.at, at, n * sizeof *at);
    return list;
}

/* Children are collected on a stack: from = mark(p), push(p, child)..., collect(p, from). */
static size_t mark(const Parse *p)
{
    return p->pending.len;
}

static void push(Parse *p, Node *n)
{
    vec_push(&p->pending, n);
}

static NodeList collect(Parse *p, size_t from)
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

static Node *node(Parse *p, NodeKind kind, int line)
{
    Node *n = arena_alloc(p->arena, sizeof *n);
    n->kind = (uint8_t)kind;
    n->line = line;
    n->depth = 1;
    return n;
}

static Node *node2(Parse *p, NodeKind kind, int line, Node *a, Node *b)
{
    Node *n = node(p, kind, line);
    n->a = a;
    n->b = b;
    return sized(p, n);
}

static Node *constant(Parse *p, int line, Value v)
{
    Node *n = node(p, N_CONST, line);
    n->value = v;
    return n;
}

static Text intern(Parse *p, Text t)
{
    char *s = map_get(p->names, t.s, t.n);
    if (!s) {
        s = arena_strndup(p->arena, t.s, t.n);
        map_put(p->names, t.s, t.n, s);
    }
    return (Text){s, t.n};
}

static Node *named(Parse *p, NodeKind kind, int line, Text name)
{
    Node *n = node(p, kind, line);
    n->name = intern(p, name);
    return n;
}

/* ---- expressions ------------------------------------------------------------------------------------------------------------ */

static bool tuple_ends(const Parse *p, const char *end_word)
{
    return is_type(p, T_PRINT_END) || is_type(p, T_BLOCK_END) || is_type(p, ')') || (end_word && is_word(p, end_word));
}

typedef enum TupleOf { TUPLE_FULL, TUPLE_NO_COND, TUPLE_TARGET, TUPLE_TARGET_NAMESPACE } TupleOf;
static Node *parse_or(Parse *p);

static Node *tuple_item(Parse *p, TupleOf of)
{
    if (of == TUPLE_NO_COND)
        return parse_or(p);
    if (of == TUPLE_FULL)
        return parse_expression(p);
    return parse_primary(p, of == TUPLE_TARGET_NAMESPACE);
}

/* tuple = [ item { "," item } [ "," ] ]     one item without a comma is not a tuple; empty only inside parentheses */
static Node *parse_tuple(Parse *p, TupleOf of, const char *end_word, bool parentheses)
{
    int line = now(p)->line;
    size_t from = mark(p);
    bool comma = false;
    while (!tuple_ends(p, end_word)) {
        push(p, tuple_item(p, of));
        if (!skip_type(p, ','))
            break;
        comma = true;
    }
    NodeList list = collect(p, from);
    if (!comma && list.n == 1)
        return list.at[0];
    if (!comma && !parentheses)
        fail_expected(p, "an expression");
    Node *n = node(p, N_TUPLE, line);
    n->list = list;
    return sized(p, n);
}

/* expression = or { "if" or [ "else" expression ] } */
static Node *parse_expression(Parse *p)
{
    enter(p);
    int line = now(p)->line;
    Node *n = parse_or(p);
    while (skip_word(p, "if")) {
        Node *cond = node(p, N_COND, line);
        cond->b = n;
        cond->a = parse_or(p);
        cond->c = skip_word(p, "else") ? parse_expression(p) : NULL;
        n = sized(p, cond);
        line = now(p)->line;
    }
    leave(p);
    return n;
}

/* comparison = sum { ("==" | "!=" | "<" | ">" | "<=" | ">=" | "in" | "not" "in") sum } */
static Node *parse_sum(Parse *p);

static int comparison_operator(Parse *p)
{
    switch (now(p)->type) {
    case T_EQ: take(p); return OP_EQ;
    case T_NE: take(p); return OP_NE;
    case T_LE: take(p); return OP_LE;
    case T_GE: take(p); return OP_GE;
    case '<':
    case '>': return take(p)->type;
    }
    if (skip_word(p, "in"))
        return OP_IN;
    if (is_word(p, "not") && after(p)->type == T_NAME && text_is(after(p)->text, "in")) {
        p->at += 2;
        return OP_NOT_IN;
    }
    return 0;
}

static Node *parse_comparison(Parse *p)
{
    int line = now(p)->line, op;
    Node *first = parse_sum(p);
    size_t from = mark(p);
    while ((op = comparison_operator(p))) {
        Node *operand = node2(p, N_OPERAND, now(p)->line, parse_sum(p), NULL);
        operand->op = (uint8_t)op;
        push(p, operand);
    }
    if (mark(p) == from)
        return first;
    Node *n = node(p, N_COMPARE, line);
    n->a = first;
    n->list = collect(p, from);
    return sized(p, n);
}

/* not = { "not" } comparison */
static Node *parse_not(Parse *p)
{
    int line = now(p)->line;
    if (!skip_word(p, "not"))
        return parse_comparison(p);
    enter(p);
    Node *n = node2(p, N_NOT, line, parse_not(p), NULL);
    leave(p);
    return n;
}

/* and = not { "and" not } */
static Node *parse_and(Parse *p)
{
    Node *n = parse_not(p);
    for (int line = now(p)->line; skip_word(p, "and"); line = now(p)->line)
        n = node2(p, N_AND, line, n, parse_not(p));
    return n;
}

/* or = and { "or" and } */
static Node *parse_or(Parse *p)
{
    Node *n = parse_and(p);
    for (int line = now(p)->line; skip_word(p, "or"); line = now(p)->line)
        n = node2(p, N_OR, line, n, parse_and(p));
    return n;
}

static Node *binary(Parse *p, int line, int op, Node *a, Node *b)
{
    Node *n = node2(p, N_BINARY, line, a, b);
    n->op = (uint8_t)op;
    return n;
}

/* power = unary { "**" unary }     from left to right, unlike Python */
static Node *parse_power(Parse *p)
{
    Node *n = parse_unary(p, true);
    for (int line = now(p)->line; skip_type(p, T_POW); line = now(p)->line)
        n = binary(p, line, OP_POW, n, parse_unary(p, true));
    return n;
}

/* product = power { ("*" | "/" | "//" | "%") power } */
static Node *parse_product(Parse *p)
{
    Node *n = parse_power(p);
    while (is_type(p, '*') || is_type(p, '/') || is_type(p, T_FLOORDIV) || is_type(p, '%')) {
        const Token *t = take(p);
        n = binary(p, t->line, t->type == T_FLOORDIV ? OP_FLOORDIV : t->type, n, parse_power(p));
    }
    return n;
}

/* concat = product { "~" product } */
static Node *parse_concat(Parse *p)
{
    int line = now(p)->line;
    Node *first = parse_product(p);
    if (!is_type(p, '~'))
        return first;
    size_t from = mark(p);
    push(p, first);
    while (skip_type(p, '~'))
        push(p, parse_product(p));
    Node *n = node(p, N_CONCAT, line);
    n->list = collect(p, from);
    return sized(p, n);
}

/* sum = concat { ("+" | "-") concat } */
static Node *parse_sum(Parse *p)
{
    Node *n = parse_concat(p);
    while (is_type(p, '+') || is_type(p, '-')) {
        const Token *t = take(p);
        n = binary(p, t->line, t->type, n, parse_concat(p));
    }
    return n;
}

/* argument = "*" expression | "**" expression | name "=" expression | expression */
static Node *parse_argument(Parse *p)
{
    int line = now(p)->line;
    if (skip_type(p, '*'))
        return node2(p, N_STAR, line, parse_expression(p), NULL);
    if (skip_type(p, T_POW))
        return node2(p, N_STAR_STAR, line, parse_expression(p), NULL);
    if (!is_type(p, T_NAME) || after(p)->type != '=')
        return parse_expression(p);
    Node *n = named(p, N_KEYWORD, line, take(p)->text);
    take(p);
    n->a = parse_expression(p);
    return sized(p, n);
}

/* arguments = "(" [ argument { "," argument } [ "," ] ] ")"     positional ones first, ** last */
static NodeList parse_arguments(Parse *p)
{
    static const NodeKind order[] = {N_CONST, N_KEYWORD, N_STAR, N_STAR_STAR};
    int line = expect(p, '(', "'('")->line;
    size_t from = mark(p);
    uint8_t seen = 0; /* bit i: an argument of kind order[i] came */
    while (!is_type(p, ')')) {
        if (mark(p) != from) {
            expect(p, ',', "',' or ')'");
            if (is_type(p, ')'))
                break;
        }
        Node *n = parse_argument(p);
        int rank = n->kind == order[1] ? 1 : n->kind == order[2] ? 2 : n->kind == order[3] ? 3 : 0;
        static const uint8_t not_after[] = {1 << 1 | 1 << 2 | 1 << 3, 1 << 3, 1 << 2 | 1 << 3, 1 << 3};
        if (seen & not_after[rank])
            parse_fail(p, line, "the arguments of a call are in the wrong order");
        seen |= (uint8_t)(1 << rank);
        push(p, n);
    }
    take(p);
    return collect(p, from);
}

static Node *parse_call(Parse *p, Node *callee)
{
    Node *n = node(p, N_CALL, now(p)->line);
    n->a = callee;
    n->list = parse_arguments(p);
    return sized(p, n);
}

/* subscript = expression | [ expression ] ":" [ expression ] [ ":" [ expression ] ] */
static Node *parse_subscript(Parse *p, Node *object)
{
    int line = now(p)->line;
    Node *start = is_type(p, ':') ? NULL : parse_expression(p);
    if (!skip_type(p, ':'))
        return node2(p, N_ITEM, line, object, start);
    Node *n = node(p, N_SLICE, line), *step = NULL;
    n->a = object;
    n->b = start;
    if (!is_type(p, ':') && !is_type(p, ']'))
        n->c = parse_expression(p);
    if (skip_type(p, ':') && !is_type(p, ']'))
        step = parse_expression(p);
    n->list = seal(p, &step, step != NULL);
    return sized(p, n);
}

/* "." (name | integer) | "[" subscript "]" */
static Node *parse_member(Parse *p, Node *object)
{
    const Token *t = take(p);
    if (t->type == '[') {
        if (is_type(p, ']'))
            fail_expected(p, "an expression");
        Node *n = parse_subscript(p, object);
        if (is_type(p, ','))
            parse_fail(p, t->line, "a tuple as a subscript is not supported");
        expect(p, ']', "']'");
        return n;
    }
    if (is_type(p, T_INT)) {
        Node *index = constant(p, t->line, now(p)->value);
        take(p);
        return node2(p, N_ITEM, t->line, object, index);
    }
    Node *n = named(p, N_ATTR, t->line, expect(p, T_NAME, "a name or a number after '.'")->text);
    n->a = object;
    return sized(p, n);
}

static Node *parse_postfix(Parse *p, Node *n)
{
    for (;;) {
        if (is_type(p, '.') || is_type(p, '['))
            n = parse_member(p, n);
        else if (is_type(p, '('))
            n = parse_call(p, n);
        else
            return n;
    }
}

/* name { "." name } */
static Text parse_dotted(Parse *p, const char *what)
{
    Text t = expect(p, T_NAME, what)->text;
    while (skip_type(p, '.')) {
        Text part = expect(p, T_NAME, "a name")->text;
        t.n = (size_t)(part.s + part.n - t.s);
    }
    return t;
}

/* filter = name [ arguments ] */
static Node *parse_filter(Parse *p, Node *operand)
{
    int line = now(p)->line;
    Node *n = named(p, N_FILTER, line, parse_dotted(p, "the name of a filter"));
    n->a = operand;
    n->builtin = jj_filter(n->name);
    if (is_type(p, '('))
        n->list = parse_arguments(p);
    return sized(p, n);
}

static Node *parse_filters(Parse *p, Node *operand)
{
    while (skip_type(p, '|'))
        operand = parse_filter(p, operand);
    return operand;
}

static bool starts_test_argument(const Parse *p)
{
    switch (now(p)->type) {
    case T_NAME: return !is_word(p, "else") && !is_word(p, "or") && !is_word(p, "and");
    case T_STRING: case T_INT: case T_FLOAT: case '[': case '{': return true;
    }
    return false;
}

/* test = "is" [ "not" ] name [ arguments | primary postfix ] */
static Node *parse_test(Parse *p, Node *operand)
{
    int line = take(p)->line;
    bool negated = skip_word(p, "not");
    Node *n = named(p, N_TEST, line, parse_dotted(p, "the name of a test"));
    n->a = operand;
    n->builtin = jj_test(n->name);
    if (is_type(p, '(')) {
        n->list = parse_arguments(p);
    } else if (starts_test_argument(p)) {
        if (is_word(p, "is"))
            parse_fail(p, line, "tests cannot be chained with 'is'");
        Node *argument = parse_postfix(p, parse_primary(p, false));
        n->list = seal(p, &argument, 1);
    }
    sized(p, n);
    return negated ? node2(p, N_NOT, line, n, NULL) : n;
}

static Node *parse_filters_and_tests(Parse *p, Node *n)
{
    for (;;) {
        if (skip_type(p, '|'))
            n = parse_filter(p, n);
        else if (is_word(p, "is"))
            n = parse_test(p, n);
        else if (is_type(p, '('))
            n = parse_call(p, n);
        else
            return n;
    }
}

/* unary = ("-" | "+") unary | primary postfix     then filters and tests, once for the whole */
static Node *parse_unary(Parse *p, bool with_filter)
{
    const Token *t = now(p);
    Node *n;
    if (t->type == '-' || t->type == '+') {
        take(p);
        enter(p);
        n = node2(p, t->type == '-' ? N_NEG : N_POS, t->line, parse_unary(p, false), NULL);
        leave(p);
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
    const Token *t = take(p);
    if (text_is(t->text, "true") || text_is(t->text, "True"))
        return constant(p, t->line, v_bool(true));
    if (text_is(t->text, "false") || text_is(t->text, "False"))
        return constant(p, t->line, v_bool(false));
    if (text_is(t->text, "none") || text_is(t->text, "None"))
        return constant(p, t->line, v_none());
    if (namespace_ok && skip_type(p, '.')) {
        Node *n = named(p, N_NSREF, t->line, t->text);
        n->value = v_str(intern(p, expect(p, T_NAME, "a name")->text));
        return n;
    }
    note_special(p, t->text);
    return named(p, N_NAME, t->line, t->text);
}

/* Adjacent strings are one. */
static Node *parse_string(Parse *p)
{
    int line = now(p)->line;
    size_t n = 0, first = p->at;
    while (is_type(p, T_STRING))
        n += take(p)->text.n;
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
    Node *n = node(p, N_LIST, take(p)->line);
    size_t from = mark(p);
    while (!is_type(p, ']')) {
        push(p, parse_expression(p));
        if (!skip_type(p, ','))
            break;
    }
    expect(p, ']', "',' or ']'");
    n->list = collect(p, from);
    return sized(p, n);
}

/* dict = "{" [ expression ":" expression { "," ... } [ "," ] ] "}" */
static Node *parse_dict(Parse *p)
{
    Node *n = node(p, N_DICT, take(p)->line);
    size_t from = mark(p);
    while (!is_type(p, '}')) {
        push(p, parse_expression(p));
        expect(p, ':', "':'");
        push(p, parse_expression(p));
        if (!skip_type(p, ','))
            break;
    }
    expect(p, '}', "',' or '}'");
    n->list = collect(p, from);
    return sized(p, n);
}

/* primary = name | string | number | "(" tuple ")" | list | dict */
static Node *parse_primary(Parse *p, bool namespace_ok)
{
    const Token *t = now(p);
    switch (t->type) {
    case T_NAME: return parse_name(p, namespace_ok);
    case T_STRING: return parse_string(p);
    case T_INT:
    case T_FLOAT: return constant(p, t->line, take(p)->value);
    case '[': return parse_list(p);
    case '{': return parse_dict(p);
    case '(': break;
    default: fail_expected(p, "an expression");
    }
    take(p);
    Node *n = parse_tuple(p, TUPLE_FULL, NULL, true);
    expect(p, ')', "')'");
    return n;
}

/* ---- statements --------------------------------------------------------------------------------------------------------------- */

static void check_target(Parse *p, const Node *n)
{
    if (n->kind == N_TUPLE) {
        for (size_t i = 0; i < n->list.n; i++)
            check_target(p, n->list.at[i]);
    } else if (n->kind != N_NAME && n->kind != N_NSREF) {
        parse_fail(p, n->line, "cannot assign to this expression");
    }
}

static Node *parse_target(Parse *p, TupleOf of, const char *end_word)
{
    Node *n = parse_tuple(p, of, end_word, false);
    check_target(p, n);
    return n;
}

static Node *parse_for(Parse *p)
{
    static const char *const end_or_else[] = {"endfor", "else", NULL}, *const end[] = {"endfor", NULL};
    Node *n = node(p, N_FOR, take(p)->line);
    n->a = parse_target(p, TUPLE_TARGET, "in");
    if (n->a->kind == N_NAME && text_is(n->a->name, "loop"))
        parse_fail(p, n->line, "the loop variable cannot be called 'loop'");
    if (!skip_word(p, "in"))
        fail_expected(p, "'in'");
    n->b = parse_tuple(p, TUPLE_NO_COND, "recursive", false);
    if (skip_word(p, "if"))
        n->c = parse_expression(p);
    if (is_word(p, "recursive"))
        parse_fail(p, n->line, "recursive loops are not supported; use a macro that calls itself");
    p->loops++;
    n->body = parse_body(p, end_or_else, false);
    p->loops--;
    if (skip_word(p, "else"))
        n->orelse = parse_body(p, end, true);
    else
        take(p);
    return n;
}

static Node *parse_if(Parse *p)
{
    static const char *const branches[] = {"elif", "else", "endif", NULL}, *const end[] = {"endif", NULL};
    Node *first = NULL, **link = &first;
    do {
        Node *n = node(p, N_IF, take(p)->line);
        n->a = parse_tuple(p, TUPLE_NO_COND, NULL, false);
        n->body = parse_body(p, branches, false);
        *link = n;
        link = &n->c;
        if (skip_word(p, "else")) {
            n->orelse = parse_body(p, end, true);
            return first;
        }
    } while (is_word(p, "elif"));
    take(p);
    return first;
}

/* "set" target "=" tuple     or     "set" target { "|" filter } ... "endset" */
static Node *parse_set(Parse *p)
{
    static const char *const end[] = {"endset", NULL};
    int line = take(p)->line;
    Node *target = parse_target(p, TUPLE_TARGET_NAMESPACE, NULL);
    if (skip_type(p, '='))
        return node2(p, N_SET, line, target, parse_tuple(p, TUPLE_FULL, NULL, false));
    Node *n = node(p, N_SET_BLOCK, line);
    n->a = target;
    if (is_type(p, '|'))
        n->b = parse_filters(p, node(p, N_CAPTURED, line));
    n->body = parse_body(p, end, true);
    return n;
}

static Node *parse_filter_block(Parse *p)
{
    static const char *const end[] = {"endfilter", NULL};
    Node *n = node(p, N_FILTER_BLOCK, take(p)->line);
    n->b = parse_filters(p, parse_filter(p, node(p, N_CAPTURED, n->line)));
    n->body = parse_body(p, end, true);
    return n;
}

static Node *parse_with(Parse *p)
{
    static const char *const end[] = {"endwith", NULL};
    Node *n = node(p, N_WITH, take(p)->line);
    size_t from = mark(p);
    while (!is_type(p, T_BLOCK_END)) {
        if (mark(p) != from)
            expect(p, ',', "',' or '%}'");
        Node *target = parse_target(p, TUPLE_TARGET, NULL);
        expect(p, '=', "'='");
        push(p, target);
        push(p, parse_expression(p));
    }
    n->list = collect(p, from);
    n->body = parse_body(p, end, true);
    return n;
}

/* "(" [ name [ "=" expression ] { "," ... } ] ")" */
static void parse_signature(Parse *p, Node *macro)
{
    Node **link = &macro->b;
    size_t from = mark(p);
    expect(p, '(', "'('");
    while (!is_type(p, ')')) {
        if (mark(p) != from)
            expect(p, ',', "',' or ')'");
        const Token *t = expect(p, T_NAME, "the name of a parameter");
        push(p, named(p, N_NAME, t->line, t->text));
        if (skip_type(p, '=')) {
            *link = node2(p, N_KEYWORD, t->line, parse_expression(p), NULL);
            link = &(*link)->c;
        } else if (macro->b) {
            parse_fail(p, t->line, "a parameter without a default follows one with a default");
        }
    }
    take(p);
    macro->list = collect(p, from);
}

/* The body of a macro or call block, in which outer loops cannot be left. */
static void parse_macro_body(Parse *p, Node *macro, const char *end_word)
{
    const char *const end[] = {end_word, NULL};
    Node *outer = p->macro;
    int loops = p->loops;
    p->macro = macro;
    p->loops = 0;
    macro->body = parse_body(p, end, true);
    p->macro = outer;
    p->loops = loops;
}

static Node *parse_macro(Parse *p)
{
    int line = take(p)->line;
    Node *n = named(p, N_MACRO, line, expect(p, T_NAME, "the name of a macro")->text);
    parse_signature(p, n);
    parse_macro_body(p, n, "endmacro");
    return n;
}

static Node *parse_call_block(Parse *p)
{
    int line = take(p)->line;
    Node *caller = named(p, N_MACRO, line, TEXT("caller"));
    if (is_type(p, '('))
        parse_signature(p, caller);
    Node *call = parse_expression(p);
    if (call->kind != N_CALL)
        parse_fail(p, line, "a call block needs a call");
    parse_macro_body(p, caller, "endcall");
    Node *n = node(p, N_CALL_BLOCK, line);
    n->a = call;
    n->b = caller;
    return n;
}

/* {% generation %} marks what the model said; it only opens a scope. */
static Node *parse_generation(Parse *p)
{
    Node *n = node(p, N_SCOPE, take(p)->line), *macro = p->macro;
    parse_macro_body(p, n, "endgeneration");
    if (macro)
        macro->flags |= n->flags;
    return n;
}

static Node *parse_print(Parse *p)
{
    int line = take(p)->line;
    size_t from = mark(p);
    while (!is_type(p, T_BLOCK_END)) {
        if (mark(p) != from)
            expect(p, ',', "','");
        push(p, node2(p, N_PRINT, line, parse_expression(p), NULL));
    }
    Node *n = node(p, N_WITH, line);
    n->body = collect(p, from);
    return n;
}

static Node *parse_loop_control(Parse *p)
{
    const Token *t = take(p);
    if (!p->loops)
        parse_fail(p, t->line, "'%.*s' outside of a loop", TEXT_ARG(t->text));
    return node(p, text_is(t->text, "break") ? N_BREAK : N_CONTINUE, t->line);
}

static Node *parse_unsupported(Parse *p)
{
    parse_fail(p, now(p)->line, "'%.*s' is not supported in chat templates", TEXT_ARG(now(p)->text));
}

static Node *parse_statement(Parse *p)
{
    static const struct {
        const char *word;
        Node *(*parse)(Parse *);
    } statements[] = {
        {"for", parse_for}, {"if", parse_if}, {"set", parse_set}, {"macro", parse_macro}, {"call", parse_call_block},
        {"filter", parse_filter_block}, {"with", parse_with}, {"print", parse_print}, {"generation", parse_generation},
        {"break", parse_loop_control}, {"continue", parse_loop_control}, {"block", parse_unsupported},
        {"extends", parse_unsupported}, {"include", parse_unsupported}, {"import", parse_unsupported},
        {"from", parse_unsupported}, {"autoescape", parse_unsupported},
    };
    for (size_t i = 0; i < COUNT(statements); i++)
        if (is_word(p, statements[i].word)) {
            enter(p);
            Node *n = statements[i].parse(p);
            leave(p);
            return n;
        }
    fail_expected(p, "the name of a statement");
}

static bool at_end_word(const Parse *p, const char *const *end_words)
{
    for (; end_words && *end_words; end_words++)
        if (is_word(p, *end_words))
            return true;
    return false;
}

/* Statements up to the tag of one of `end_words`; NULL: up to the end of the template. Stops on the word. */
static NodeList parse_statements(Parse *p, const char *const *end_words)
{
    size_t from = mark(p);
    while (!is_type(p, T_EOF)) {
        const Token *t = take(p);
        if (t->type == T_DATA) {
            Node *n = node(p, N_DATA, t->line);
            n->value = v_str(t->text);
            push(p, n);
        } else if (t->type == T_PRINT_BEGIN) {
            push(p, node2(p, N_PRINT, t->line, parse_tuple(p, TUPLE_FULL, NULL, false), NULL));
            expect(p, T_PRINT_END, "'}}'");
        } else {
            if (at_end_word(p, end_words))
                return collect(p, from);
            push(p, parse_statement(p));
            expect(p, T_BLOCK_END, "'%}'");
        }
    }
    if (end_words)
        parse_fail(p, now(p)->line, "the template ends before '%s'", end_words[0]);
    return collect(p, from);
}

/* The rest of the opening tag and the body that follows it. */
static NodeList parse_body(Parse *p, const char *const *end_words, bool skip_end)
{
    skip_type(p, ':');
    expect(p, T_BLOCK_END, "'%}'");
    NodeList body = parse_statements(p, end_words);
    if (skip_end)
        take(p);
    return body;
}

/* ---- entry ------------------------------------------------------------------------------------------------------------------------ */

static bool parse_template(Parse *p, Text source, NodeList *body)
{
    if (setjmp(p->escape))
        return false;
    jj_lex(p, source);
    *body = parse_statements(p, NULL);
    return true;
}

Jinja *jinja_parse(const char *text, size_t len, Err *err)
{
    Jinja *j = xcalloc(1, sizeof *j);
    j->arena = arena_new();
    Parse p = {.arena = j->arena, .err = err, .names = map_new()};
    j->loop = intern(&p, TEXT("loop"));
    j->varargs = intern(&p, TEXT("varargs"));
    j->kwargs = intern(&p, TEXT("kwargs"));
    j->caller = intern(&p, TEXT("caller"));
    Text source = {len ? arena_strndup(j->arena, text, len) : "", len};
    bool ok = parse_template(&p, source, &j->body);
    vec_free(&p.tokens);
    vec_free(&p.pending);
    map_free(p.names);
    if (ok)
        return j;
    jinja_free(j);
    return NULL;
}

void jinja_free(Jinja *j)
{
    if (!j)
        return;
    arena_free(j->arena);
    free(j);
}
