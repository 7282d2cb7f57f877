/* jinja_eval.c - owns expressions: evaluation of the tree, calls and the binding of their arguments. */
#include "jinja_int.h"

/* ---- arguments --------------------------------------------------------------------------------------------------- */

const Value *jj_named_arg(const Args *args, const char *name)
{
    for (size_t i = 0; i < args->n_named; i++)
        if (text_is(args->names[i], name))
            return &args->named[i];
    return NULL;
}

static void add_named(Render *r, Args *args, Text name, Value v)
{
    for (size_t i = 0; i < args->n_named; i++)
        if (text_eq(args->names[i], name))
            jj_fail(r, "the argument '%.*s' is given twice", TEXT_ARG(name));
    args->names[args->n_named] = name;
    args->named[args->n_named++] = v;
}

/* Room for all arguments once * and ** are spread out. The lists are evaluated on the way, in order. */
typedef struct Spread {
    size_t positional, named;
    const Value *values; /* of the nodes */
} Spread;

static Spread evaluate_nodes(Render *r, NodeList list)
{
    Value *values = jj_alloc(r, list.n * sizeof *values);
    Spread s = {.values = values};
    for (size_t i = 0; i < list.n; i++) {
        const Node *n = list.at[i];
        bool plain = n->kind != N_KEYWORD && n->kind != N_STAR && n->kind != N_STAR_STAR;
        values[i] = jj_eval(r, plain ? n : n->a);
        if (n->kind == N_STAR) {
            values[i] = v_list(jj_items(r, values[i]));
            s.positional += values[i].list->n;
        } else if (n->kind == N_STAR_STAR) {
            if (values[i].kind != V_DICT)
                jj_fail(r, "the argument after ** must be a dict, not %s", jj_type(values[i]));
            s.named += values[i].dict->n;
        }
        s.positional += plain;
        s.named += n->kind == N_KEYWORD;
    }
    return s;
}

static void spread_dict(Render *r, Args *args, const Dict *d)
{
    for (size_t i = 0; i < d->n; i++) {
        if (d->keys[i].kind != V_STR)
            jj_fail(r, "the names of arguments must be strings");
        add_named(r, args, d->keys[i].text, d->values[i]);
    }
}

Args jj_eval_args(Render *r, NodeList list)
{
    Spread s = evaluate_nodes(r, list);
    Args args = {.at = jj_alloc(r, s.positional * sizeof *args.at), .names = jj_alloc(r, s.named * sizeof *args.names),
                 .named = jj_alloc(r, s.named * sizeof *args.named)};
    for (size_t i = 0; i < list.n; i++) {
        const Node *n = list.at[i];
        if (n->kind == N_KEYWORD) {
            add_named(r, &args, n->name, s.values[i]);
        } else if (n->kind == N_STAR_STAR) {
            spread_dict(r, &args, s.values[i].dict);
        } else if (n->kind == N_STAR) {
            for (size_t k = 0; k < s.values[i].list->n; k++)
                args.at[args.n++] = s.values[i].list->at[k];
        } else {
            args.at[args.n++] = s.values[i];
        }
    }
    return args;
}

/* The next name of a parameter list "a,b?"; false at its end. */
static bool next_param(const char **params, Text *name, bool *optional)
{
    size_t n = strcspn(*params, ",");
    if (!n)
        return false;
    *optional = (*params)[n - 1] == '?';
    *name = (Text){*params, n - *optional};
    *params += n + ((*params)[n] == ',');
    return true;
}

/* Arguments by position and name -> one value a parameter. */
static Args bind_args(Render *r, const Builtin *b, const Args *args)
{
    enum { MAX_PARAMS = 4 };
    Args bound = {.at = jj_alloc(r, MAX_PARAMS * sizeof *bound.at)};
    const char *params = b->params;
    size_t used = 0;
    Text name;
    for (bool optional; next_param(&params, &name, &optional); bound.n++) {
        const Value *named = NULL;
        for (size_t i = 0; i < args->n_named; i++)
            if (text_eq(args->names[i], name))
                named = &args->named[i];
        if (named && bound.n < args->n)
            jj_fail(r, "%s: the argument '%.*s' is given twice", b->name, TEXT_ARG(name));
        if (!named && bound.n >= args->n && !optional)
            jj_fail(r, "%s: the argument '%.*s' is missing", b->name, TEXT_ARG(name));
        bound.at[bound.n] = bound.n < args->n ? args->at[bound.n] : named ? *named : v_absent();
        used += named != NULL;
    }
    if (args->n > bound.n)
        jj_fail(r, "%s takes at most %zu arguments, %zu are given", b->name, bound.n, args->n);
    if (used < args->n_named)
        jj_fail(r, "%s: unexpected keyword argument", b->name);
    return bound;
}

Value jj_call_builtin(Render *r, const Builtin *b, Value self, const Args *args)
{
    jj_spend(r, 0);
    if (!b->params)
        return b->call(r, self, args);
    Args bound = bind_args(r, b, args);
    return b->call(r, self, &bound);
}

Value jj_call(Render *r, Value callee, const Args *args)
{
    switch (callee.kind) {
    case V_FUNC: return jj_call_builtin(r, callee.func, v_none(), args);
    case V_METHOD: return jj_call_builtin(r, callee.method->def, callee.method->self, args);
    case V_MACRO: return jj_call_macro(r, callee.macro, args);
    case V_UNDEFINED: jj_fail_undefined(r, callee);
    case V_LOOP: jj_fail(r, "recursive loops are not supported");
    }
    jj_fail(r, "'%s' is not callable", jj_type(callee));
}

/* ---- operators --------------------------------------------------------------------------------------------------- */

static bool compare_one(Render *r, int op, Value a, Value b)
{
    switch (op) {
    case OP_EQ: return jj_equal(r, a, b);
    case OP_NE: return !jj_equal(r, a, b);
    case OP_IN: return jj_contains(r, a, b);
    case OP_NOT_IN: return !jj_contains(r, a, b);
    }
    return jj_ordered(r, a, op, b);
}

/* a < b < c: each operand is evaluated once, and only as long as the chain holds. */
static Value eval_compare(Render *r, const Node *n)
{
    Value left = jj_eval(r, n->a);
    for (size_t i = 0; i < n->list.n; i++) {
        Value right = jj_eval(r, n->list.at[i]->a);
        r->line = n->line;
        if (!compare_one(r, n->list.at[i]->op, left, right))
            return v_bool(false);
        left = right;
    }
    return v_bool(true);
}

static Value eval_binary(Render *r, const Node *n)
{
    Value a = jj_eval(r, n->a), b = jj_eval(r, n->b);
    r->line = n->line;
    return jj_binary(r, n->op, a, b);
}

static Value eval_concat(Render *r, const Node *n)
{
    Out o = {.r = r};
    for (size_t i = 0; i < n->list.n; i++)
        jj_print(&o, jj_eval(r, n->list.at[i]));
    return v_str(out_done(&o));
}

static Value eval_logic(Render *r, const Node *n)
{
    Value a = jj_eval(r, n->a);
    return jj_truth(r, a) == (n->kind == N_AND) ? jj_eval(r, n->b) : a;
}

static Value eval_cond(Render *r, const Node *n)
{
    if (jj_truth(r, jj_eval(r, n->a)))
        return jj_eval(r, n->b);
    return n->c ? jj_eval(r, n->c) : v_hint("the condition of an inline if is false, and it has no else");
}

/* ---- displays, members, calls ------------------------------------------------------------------------------------ */

static const List *eval_list(Render *r, const Node *n)
{
    List *l = jj_list(r, n->list.n);
    for (size_t i = 0; i < l->n; i++)
        l->at[i] = jj_eval(r, n->list.at[i]);
    return l;
}

static Value eval_dict(Render *r, const Node *n)
{
    Dict *d = jj_dict(r);
    for (size_t i = 0; i < n->list.n; i += 2) {
        Value key = jj_eval(r, n->list.at[i]);
        jj_dict_set(r, d, key, jj_eval(r, n->list.at[i + 1]));
    }
    return v_dict(d);
}

static Value eval_item(Render *r, const Node *n)
{
    Value object = jj_eval(r, n->a), key = jj_eval(r, n->b);
    r->line = n->line;
    return jj_item(r, object, key);
}

static Value eval_slice(Render *r, const Node *n)
{
    Value object = jj_eval(r, n->a);
    Value start = n->b ? jj_eval(r, n->b) : v_absent();
    Value stop = n->c ? jj_eval(r, n->c) : v_absent();
    Value step = n->list.n ? jj_eval(r, n->list.at[0]) : v_absent();
    r->line = n->line;
    return jj_slice(r, object, start, stop, step);
}

static Value eval_call(Render *r, const Node *n)
{
    Value callee = jj_eval(r, n->a);
    Args args = jj_eval_args(r, n->list);
    r->line = n->line;
    return jj_call(r, callee, &args);
}

static Value eval_builtin(Render *r, const Node *n)
{
    Value self = jj_eval(r, n->a);
    Args args = jj_eval_args(r, n->list);
    r->line = n->line;
    if (!n->builtin)
        jj_fail(r, "no %s named '%.*s'", n->kind == N_FILTER ? "filter" : "test", TEXT_ARG(n->name));
    return jj_call_builtin(r, n->builtin, self, &args);
}

static Value eval_attr(Render *r, const Node *n)
{
    Value object = jj_eval(r, n->a);
    r->line = n->line;
    return jj_attr(r, object, n->name);
}

static Value eval_node(Render *r, const Node *n)
{
    switch ((NodeKind)n->kind) {
    case N_CONST: return n->value;
    case N_NAME: return jj_lookup(r, n->name);
    case N_TUPLE: return v_tuple(eval_list(r, n));
    case N_LIST: return v_list(eval_list(r, n));
    case N_DICT: return eval_dict(r, n);
    case N_ATTR: return eval_attr(r, n);
    case N_ITEM: return eval_item(r, n);
    case N_SLICE: return eval_slice(r, n);
    case N_CALL: return eval_call(r, n);
    case N_FILTER:
    case N_TEST: return eval_builtin(r, n);
    case N_COND: return eval_cond(r, n);
    case N_AND:
    case N_OR: return eval_logic(r, n);
    case N_NOT: return v_bool(!jj_truth(r, jj_eval(r, n->a)));
    case N_NEG: return jj_negate(r, jj_eval(r, n->a), true);
    case N_POS: return jj_negate(r, jj_eval(r, n->a), false);
    case N_BINARY: return eval_binary(r, n);
    case N_CONCAT: return eval_concat(r, n);
    case N_COMPARE: return eval_compare(r, n);
    case N_CAPTURED: return v_str(r->captured);
    default: break;
    }
    jj_fail(r, "this cannot be evaluated");
}

Value jj_eval(Render *r, const Node *n)
{
    jj_spend(r, 0);
    jj_enter(r);
    r->line = n->line;
    Value v = eval_node(r, n);
    r->depth--;
    return v;
}
