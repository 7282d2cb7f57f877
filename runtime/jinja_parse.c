/* jinja_parse.c - owns the second step of jinja_parse: tokens -> syntax tree, here the grammar of statements. */
#include "jinja_int.h"

static NodeList parse_body(Parse *p, const char *const *end_words, bool skip_end);

/* ---- statements -------------------------------------------------------------------------------------------------- */

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
    Node *n = parse_node(p, N_FOR, parse_take(p)->line);
    n->a = parse_target(p, TUPLE_TARGET, "in");
    if (n->a->kind == N_NAME && text_is(n->a->name, "loop"))
        parse_fail(p, n->line, "the loop variable cannot be called 'loop'");
    if (!parse_skip_word(p, "in"))
        parse_fail_expected(p, "'in'");
    n->b = parse_tuple(p, TUPLE_NO_COND, "recursive", false);
    if (parse_skip_word(p, "if"))
        n->c = parse_expression(p);
    if (parse_is_word(p, "recursive"))
        parse_fail(p, n->line, "recursive loops are not supported; use a macro that calls itself");
    p->loops++;
    n->body = parse_body(p, end_or_else, false);
    p->loops--;
    if (parse_skip_word(p, "else"))
        n->orelse = parse_body(p, end, true);
    else
        parse_take(p);
    return n;
}

static Node *parse_if(Parse *p)
{
    static const char *const branches[] = {"elif", "else", "endif", NULL}, *const end[] = {"endif", NULL};
    Node *first = NULL, **link = &first;
    do {
        Node *n = parse_node(p, N_IF, parse_take(p)->line);
        n->a = parse_tuple(p, TUPLE_NO_COND, NULL, false);
        n->body = parse_body(p, branches, false);
        *link = n;
        link = &n->c;
        if (parse_skip_word(p, "else")) {
            n->orelse = parse_body(p, end, true);
            return first;
        }
    } while (parse_is_word(p, "elif"));
    parse_take(p);
    return first;
}

/* "set" target "=" tuple     or     "set" target { "|" filter } ... "endset" */
static Node *parse_set(Parse *p)
{
    static const char *const end[] = {"endset", NULL};
    int line = parse_take(p)->line;
    Node *target = parse_target(p, TUPLE_TARGET_NAMESPACE, NULL);
    if (parse_skip(p, '='))
        return parse_node2(p, N_SET, line, target, parse_tuple(p, TUPLE_FULL, NULL, false));
    Node *n = parse_node(p, N_SET_BLOCK, line);
    n->a = target;
    if (parse_is(p, '|'))
        n->b = parse_filters(p, parse_node(p, N_CAPTURED, line));
    n->body = parse_body(p, end, true);
    return n;
}

static Node *parse_filter_block(Parse *p)
{
    static const char *const end[] = {"endfilter", NULL};
    Node *n = parse_node(p, N_FILTER_BLOCK, parse_take(p)->line);
    n->b = parse_filters(p, parse_filter(p, parse_node(p, N_CAPTURED, n->line)));
    n->body = parse_body(p, end, true);
    return n;
}

static Node *parse_with(Parse *p)
{
    static const char *const end[] = {"endwith", NULL};
    Node *n = parse_node(p, N_WITH, parse_take(p)->line);
    size_t from = parse_mark(p);
    while (!parse_is(p, T_BLOCK_END)) {
        if (parse_mark(p) != from)
            parse_expect(p, ',', "',' or '%}'");
        Node *target = parse_target(p, TUPLE_TARGET, NULL);
        parse_expect(p, '=', "'='");
        parse_push(p, target);
        parse_push(p, parse_expression(p));
    }
    n->list = parse_collect(p, from);
    n->body = parse_body(p, end, true);
    return n;
}

/* "(" [ name [ "=" expression ] { "," ... } ] ")" */
static void parse_signature(Parse *p, Node *macro)
{
    Node **link = &macro->b;
    size_t from = parse_mark(p);
    parse_expect(p, '(', "'('");
    while (!parse_is(p, ')')) {
        if (parse_mark(p) != from)
            parse_expect(p, ',', "',' or ')'");
        const Token *t = parse_expect(p, T_NAME, "the name of a parameter");
        parse_push(p, parse_named(p, N_NAME, t->line, t->text));
        if (parse_skip(p, '=')) {
            *link = parse_node2(p, N_KEYWORD, t->line, parse_expression(p), NULL);
            link = &(*link)->c;
        } else if (macro->b) {
            parse_fail(p, t->line, "a parameter without a default follows one with a default");
        }
    }
    parse_take(p);
    macro->list = parse_collect(p, from);
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
    int line = parse_take(p)->line;
    Node *n = parse_named(p, N_MACRO, line, parse_expect(p, T_NAME, "the name of a macro")->text);
    parse_signature(p, n);
    parse_macro_body(p, n, "endmacro");
    return n;
}

static Node *parse_call_block(Parse *p)
{
    int line = parse_take(p)->line;
    Node *caller = parse_named(p, N_MACRO, line, TEXT("caller"));
    if (parse_is(p, '('))
        parse_signature(p, caller);
    Node *call = parse_expression(p);
    if (call->kind != N_CALL)
        parse_fail(p, line, "a call block needs a call");
    parse_macro_body(p, caller, "endcall");
    Node *n = parse_node(p, N_CALL_BLOCK, line);
    n->a = call;
    n->b = caller;
    return n;
}

/* {% generation %} marks what the model said; it only opens a scope. */
static Node *parse_generation(Parse *p)
{
    Node *n = parse_node(p, N_SCOPE, parse_take(p)->line), *macro = p->macro;
    parse_macro_body(p, n, "endgeneration");
    if (macro)
        macro->flags |= n->flags;
    return n;
}

static Node *parse_print(Parse *p)
{
    int line = parse_take(p)->line;
    size_t from = parse_mark(p);
    while (!parse_is(p, T_BLOCK_END)) {
        if (parse_mark(p) != from)
            parse_expect(p, ',', "','");
        parse_push(p, parse_node2(p, N_PRINT, line, parse_expression(p), NULL));
    }
    Node *n = parse_node(p, N_WITH, line);
    n->body = parse_collect(p, from);
    return n;
}

static Node *parse_loop_control(Parse *p)
{
    const Token *t = parse_take(p);
    if (!p->loops)
        parse_fail(p, t->line, "'%.*s' outside of a loop", TEXT_ARG(t->text));
    return parse_node(p, text_is(t->text, "break") ? N_BREAK : N_CONTINUE, t->line);
}

static Node *parse_unsupported(Parse *p)
{
    parse_fail(p, parse_now(p)->line, "'%.*s' is not supported in chat templates", TEXT_ARG(parse_now(p)->text));
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
        if (parse_is_word(p, statements[i].word)) {
            parse_enter(p);
            Node *n = statements[i].parse(p);
            parse_leave(p);
            return n;
        }
    parse_fail_expected(p, "the name of a statement");
}

static bool at_end_word(const Parse *p, const char *const *end_words)
{
    for (; end_words && *end_words; end_words++)
        if (parse_is_word(p, *end_words))
            return true;
    return false;
}

/* Statements up to the tag of one of `end_words`; NULL: up to the end of the template. Stops on the word. */
static NodeList parse_statements(Parse *p, const char *const *end_words)
{
    size_t from = parse_mark(p);
    while (!parse_is(p, T_EOF)) {
        const Token *t = parse_take(p);
        if (t->type == T_DATA) {
            Node *n = parse_node(p, N_DATA, t->line);
            n->value = v_str(t->text);
            parse_push(p, n);
        } else if (t->type == T_PRINT_BEGIN) {
            parse_push(p, parse_node2(p, N_PRINT, t->line, parse_tuple(p, TUPLE_FULL, NULL, false), NULL));
            parse_expect(p, T_PRINT_END, "'}}'");
        } else {
            if (at_end_word(p, end_words))
                return parse_collect(p, from);
            parse_push(p, parse_statement(p));
            parse_expect(p, T_BLOCK_END, "'%}'");
        }
    }
    if (end_words)
        parse_fail(p, parse_now(p)->line, "the template ends before '%s'", end_words[0]);
    return parse_collect(p, from);
}

/* The rest of the opening tag and the body that follows it. */
static NodeList parse_body(Parse *p, const char *const *end_words, bool skip_end)
{
    parse_skip(p, ':');
    parse_expect(p, T_BLOCK_END, "'%}'");
    NodeList body = parse_statements(p, end_words);
    if (skip_end)
        parse_take(p);
    return body;
}

/* ---- entry ------------------------------------------------------------------------------------------------------- */

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
    j->loop = parse_intern(&p, TEXT("loop"));
    j->varargs = parse_intern(&p, TEXT("varargs"));
    j->kwargs = parse_intern(&p, TEXT("kwargs"));
    j->caller = parse_intern(&p, TEXT("caller"));
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
