/* jinja_exec.c - owns statements: scopes and variables, loops, macros, and the entry jinja_render.
 *
 * A scope is opened by each turn of a loop, a macro call, `with`, a block set and `generation`; `if` opens none. An
 * assignment goes to the innermost scope, so it is gone when the scope ends: templates carry state out of a loop with a
 * namespace. */
#include "jinja_int.h"

typedef enum Flow { FLOW_NEXT, FLOW_BREAK, FLOW_CONTINUE } Flow;

static Flow exec_all(Render *r, NodeList list);

/* ---- variables --------------------------------------------------------------------------------------------------- */

Env *jj_scope(Render *r, Env *up)
{
    Env *e = jj_alloc(r, sizeof *e);
    e->up = up;
    return e;
}

void jj_define(Render *r, Env *env, Text name, Value v)
{
    for (size_t i = 0; i < env->n; i++)
        if (env->vars[i].name == name.s) {
            env->vars[i].value = v;
            return;
        }
    if (env->n == env->cap) {
        size_t cap = env->cap ? env->cap * 2 : 4;
        Var *vars = jj_alloc(r, cap * sizeof *vars);
        if (env->n)
            memcpy(vars, env->vars, env->n * sizeof *vars);
        env->vars = vars;
        env->cap = cap;
    }
    env->vars[env->n++] = (Var){name.s, v};
}

Value jj_lookup(Render *r, Text name)
{
    for (const Env *e = r->env; e; e = e->up) {
        jj_spend(r, e->n);
        for (size_t i = 0; i < e->n; i++)
            if (e->vars[i].name == name.s)
                return e->vars[i].value;
    }
    const Value *v = jj_dict_find(r, r->variables, name);
    if (v)
        return *v;
    const Builtin *function = jj_function(name);
    if (function)
        return (Value){.kind = V_FUNC, .func = function};
    return (Value){.kind = V_UNDEFINED, .tag = UNDEF_NAME, .text = name};
}

static void assign_attribute(Render *r, const Node *target, Value v)
{
    Value object = jj_lookup(r, target->name);
    if (object.kind != V_NAMESPACE)
        jj_fail(r, "cannot assign to an attribute of '%.*s', which is not a namespace", TEXT_ARG(target->name));
    if (target->value.text.s[0] == '_')
        jj_fail(r, "the name of a namespace's attribute must not start with an underscore");
    jj_dict_set(r, object.dict, target->value, v);
}

static void assign(Render *r, const Node *target, Value v)
{
    if (target->kind == N_NAME) {
        jj_define(r, r->env, target->name, v);
        return;
    }
    if (target->kind == N_NSREF) {
        assign_attribute(r, target, v);
        return;
    }
    const List *parts = jj_items(r, v);
    if (parts->n != target->list.n)
        jj_fail(r, "cannot unpack %zu values into %zu names", parts->n, target->list.n);
    for (size_t i = 0; i < parts->n; i++)
        assign(r, target->list.at[i], parts->at[i]);
}

/* ---- blocks ------------------------------------------------------------------------------------------------------ */

/* Runs statements in `scope`. */
static Flow exec_in(Render *r, Env *scope, NodeList list)
{
    Env *outer = r->env;
    r->env = scope;
    Flow flow = exec_all(r, list);
    r->env = outer;
    return flow;
}

/* Runs statements in `scope` and gives what they print. */
static Text capture(Render *r, Env *scope, NodeList list, Flow *flow)
{
    Out o = {.r = r}, *outer = r->out;
    r->out = &o;
    *flow = exec_in(r, scope, list);
    r->out = outer;
    return out_done(&o);
}

static Flow exec_set_block(Render *r, const Node *n)
{
    Flow flow;
    Text text = capture(r, jj_scope(r, r->env), n->body, &flow);
    if (flow != FLOW_NEXT)
        return flow;
    r->captured = text;
    assign(r, n->a, n->b ? jj_eval(r, n->b) : v_str(text));
    return FLOW_NEXT;
}

static Flow exec_filter_block(Render *r, const Node *n)
{
    Flow flow;
    Text text = capture(r, jj_scope(r, r->env), n->body, &flow);
    if (flow != FLOW_NEXT)
        return flow;
    r->captured = text;
    jj_print(r->out, jj_eval(r, n->b));
    return FLOW_NEXT;
}

static Flow exec_with(Render *r, const Node *n)
{
    Env *scope = jj_scope(r, r->env), *outer = r->env;
    for (size_t i = 0; i < n->list.n; i += 2) {
        Value v = jj_eval(r, n->list.at[i + 1]); /* all values see the outer scope */
        r->env = scope;
        assign(r, n->list.at[i], v);
        r->env = outer;
    }
    return exec_in(r, scope, n->body);
}

static Flow exec_if(Render *r, const Node *n)
{
    for (;; n = n->c) {
        if (jj_truth(r, jj_eval(r, n->a)))
            return exec_all(r, n->body);
        if (!n->c)
            return exec_all(r, n->orelse);
    }
}

/* ---- loops ------------------------------------------------------------------------------------------------------- */

/* The filter `if` of a loop sees its elements one by one, just before their turn, or when loop.last and the like look
 * ahead. */
struct Loop {
    const Node *filter, *target;
    Env *env;          /* outside of the loop */
    const List *items;
    size_t next;       /* first element of items that was not looked at */
    bool looked;       /* `ahead` holds the next element */
    Value ahead, current, previous;
    int64_t index0;
    int64_t length;    /* -1: not known */
    Value changed;     /* last arguments of loop.changed() */
};

static bool passes(Render *r, Loop *l, Value v)
{
    if (!l->filter)
        return true;
    Env *outer = r->env;
    r->env = jj_scope(r, l->env);
    assign(r, l->target, v);
    bool yes = jj_truth(r, jj_eval(r, l->filter));
    r->env = outer;
    return yes;
}

static bool look_ahead(Render *r, Loop *l)
{
    while (!l->looked && l->next < l->items->n) {
        l->ahead = l->items->at[l->next++];
        l->looked = passes(r, l, l->ahead);
    }
    return l->looked;
}

static bool advance(Render *r, Loop *l)
{
    if (!look_ahead(r, l))
        return false;
    l->looked = false;
    l->previous = l->current;
    l->current = l->ahead;
    l->index0++;
    return true;
}

/* Counting the elements of a filtered loop means to filter them all now. */
static int64_t loop_length(Render *r, Loop *l)
{
    if (l->length < 0) {
        List *rest = jj_list(r, l->items->n);
        rest->n = 0;
        while (look_ahead(r, l)) {
            rest->at[rest->n++] = l->ahead;
            l->looked = false;
        }
        l->items = rest;
        l->next = 0;
        l->filter = NULL;
        l->length = l->index0 + 1 + (int64_t)rest->n;
    }
    return l->length;
}

static Value loop_cycle(Render *r, Value self, const Args *args)
{
    if (!args->n)
        jj_fail(r, "loop.cycle() needs values");
    return args->at[(size_t)self.loop->index0 % args->n];
}

static Value loop_changed(Render *r, Value self, const Args *args)
{
    List *l = jj_list(r, args->n);
    if (l->n)
        memcpy(l->at, args->at, l->n * sizeof *l->at);
    bool same = self.loop->changed.kind == V_TUPLE && jj_equal(r, self.loop->changed, v_tuple(l));
    self.loop->changed = v_tuple(l);
    return v_bool(!same);
}

static Value loop_method(Render *r, Loop *l, Text name)
{
    static const Builtin methods[] = {{"cycle", loop_cycle, NULL}, {"changed", loop_changed, NULL}};
    const Builtin *def = jj_find_builtin(methods, COUNT(methods), name);
    if (!def)
        return v_absent();
    Method *m = jj_alloc(r, sizeof *m);
    *m = (Method){def, {.kind = V_LOOP, .loop = l}};
    return (Value){.kind = V_METHOD, .method = m};
}

Value jj_loop_attr(Render *r, Loop *l, Text name)
{
    if (text_is(name, "index"))
        return v_int(l->index0 + 1);
    if (text_is(name, "index0"))
        return v_int(l->index0);
    if (text_is(name, "first"))
        return v_bool(l->index0 == 0);
    if (text_is(name, "last"))
        return v_bool(!look_ahead(r, l));
    if (text_is(name, "length"))
        return v_int(loop_length(r, l));
    if (text_is(name, "revindex"))
        return v_int(loop_length(r, l) - l->index0);
    if (text_is(name, "revindex0"))
        return v_int(loop_length(r, l) - l->index0 - 1);
    if (text_is(name, "previtem"))
        return l->index0 > 0 ? l->previous : v_hint("there is no previous item");
    if (text_is(name, "nextitem"))
        return look_ahead(r, l) ? l->ahead : v_hint("there is no next item");
    if (text_is(name, "depth") || text_is(name, "depth0"))
        return v_int(name.n == 5);
    return loop_method(r, l, name);
}

/* A scope for the next turn: the last one, emptied, unless a macro holds on to it. */
static Env *turn_scope(Render *r, Env *last, Env *up)
{
    if (!last || last->kept)
        return jj_scope(r, up);
    last->n = 0;
    return last;
}

static Flow exec_for(Render *r, const Node *n)
{
    Loop *l = jj_alloc(r, sizeof *l);
    Value iterable = jj_eval(r, n->b);
    r->line = n->line;
    *l = (Loop){.filter = n->c, .target = n->a, .env = r->env, .items = jj_items(r, iterable), .index0 = -1};
    l->length = n->c ? -1 : (int64_t)l->items->n;
    Env *scope = NULL, *outer = r->env;
    Flow flow = FLOW_NEXT;
    bool completed = false; /* a turn ran to its end: jinja2 runs the else also when all turns were cut short */
    while (flow != FLOW_BREAK && advance(r, l)) {
        jj_spend(r, 0);
        r->env = scope = turn_scope(r, scope, outer);
        jj_define(r, scope, r->template->loop, (Value){.kind = V_LOOP, .loop = l});
        assign(r, n->a, l->current);
        flow = exec_all(r, n->body);
        r->env = outer;
        completed |= flow == FLOW_NEXT;
    }
    return !completed ? exec_in(r, jj_scope(r, outer), n->orelse) : FLOW_NEXT;
}

/* ---- macros ------------------------------------------------------------------------------------------------------ */

static Value make_macro(Render *r, const Node *n)
{
    Macro *m = jj_alloc(r, sizeof *m);
    *m = (Macro){n, r->env};
    for (Env *e = r->env; e && !e->kept; e = e->up)
        e->kept = true;
    return (Value){.kind = V_MACRO, .macro = m};
}

static bool is_param(const Node *macro, Text name)
{
    for (size_t i = 0; i < macro->list.n; i++)
        if (text_eq(macro->list.at[i]->name, name))
            return true;
    return false;
}

/* Keyword arguments that are no parameters: `caller`, members of `kwargs`, or an error. */
static void bind_extra_named(Render *r, const Node *macro, Env *scope, const Args *args)
{
    Dict *kwargs = jj_dict(r);
    Value caller = v_hint("no caller defined");
    for (size_t i = 0; i < args->n_named; i++) {
        Text name = args->names[i];
        bool bound = false; /* to a parameter that no positional argument took */
        for (size_t k = args->n; k < macro->list.n; k++)
            bound = bound || text_eq(macro->list.at[k]->name, name);
        if (bound)
            continue;
        if (text_is(name, "caller") && (macro->flags & MACRO_CALLER) && !is_param(macro, name))
            caller = args->named[i];
        else if (macro->flags & MACRO_KWARGS)
            jj_dict_set(r, kwargs, v_str(name), args->named[i]);
        else
            jj_fail(r, "macro '%.*s' takes no keyword argument '%.*s'", TEXT_ARG(macro->name), TEXT_ARG(name));
    }
    if ((macro->flags & MACRO_CALLER) && !is_param(macro, r->template->caller))
        jj_define(r, scope, r->template->caller, caller);
    if ((macro->flags & MACRO_KWARGS) && !is_param(macro, r->template->kwargs))
        jj_define(r, scope, r->template->kwargs, v_dict(kwargs));
}

static void bind_extra_positional(Render *r, const Node *macro, Env *scope, const Args *args)
{
    size_t n = args->n > macro->list.n ? args->n - macro->list.n : 0;
    if (macro->flags & MACRO_VARARGS) {
        List *l = jj_list(r, n);
        if (n)
            memcpy(l->at, args->at + macro->list.n, n * sizeof *l->at);
        jj_define(r, scope, r->template->varargs, v_tuple(l));
    } else if (n) {
        jj_fail(r, "macro '%.*s' takes not more than %zu arguments", TEXT_ARG(macro->name), macro->list.n);
    }
}

/* Defines the parameters: given ones first, then defaults, which see all of them. */
static void bind_params(Render *r, const Node *macro, Env *scope, const Args *args)
{
    size_t n = macro->list.n, defaults = 0, next;
    bool *given = jj_alloc(r, n);
    for (size_t i = 0; i < n; i++) {
        Text name = macro->list.at[i]->name;
        const Value *v = i < args->n ? &args->at[i] : NULL;
        for (size_t k = 0; !v && k < args->n_named; k++)
            v = text_eq(args->names[k], name) ? &args->named[k] : NULL;
        given[i] = v != NULL;
        jj_define(r, scope, name, v ? *v : v_hint("a parameter of the macro was not provided"));
    }
    for (const Node *d = macro->b; d; d = d->c)
        defaults++;
    next = n - defaults;
    for (const Node *d = macro->b; d; d = d->c, next++)
        if (!given[next])
            jj_define(r, scope, macro->list.at[next]->name, jj_eval(r, d->a));
}

Value jj_call_macro(Render *r, const Macro *m, const Args *args)
{
    const Node *macro = m->node;
    Env *scope = jj_scope(r, m->env), *outer = r->env;
    Flow flow;
    jj_enter(r);
    r->env = scope;
    bind_params(r, macro, scope, args);
    bind_extra_named(r, macro, scope, args);
    bind_extra_positional(r, macro, scope, args);
    r->env = outer;
    Text text = capture(r, scope, macro->body, &flow);
    r->depth--;
    return v_str(text);
}

/* {% call(args) macro(...) %}: the body becomes the macro `caller`. */
static Flow exec_call_block(Render *r, const Node *n)
{
    Value callee = jj_eval(r, n->a->a);
    Args args = jj_eval_args(r, n->a->list), with_caller = args;
    with_caller.names = jj_alloc(r, (args.n_named + 1) * sizeof *args.names);
    with_caller.named = jj_alloc(r, (args.n_named + 1) * sizeof *args.named);
    for (size_t i = 0; i < args.n_named; i++) {
        with_caller.names[i] = args.names[i];
        with_caller.named[i] = args.named[i];
    }
    with_caller.names[args.n_named] = r->template->caller;
    with_caller.named[with_caller.n_named++] = make_macro(r, n->b);
    r->line = n->line;
    jj_print(r->out, jj_call(r, callee, &with_caller));
    return FLOW_NEXT;
}

/* ---- statements -------------------------------------------------------------------------------------------------- */

static Flow exec(Render *r, const Node *n)
{
    switch ((NodeKind)n->kind) {
    case N_DATA: out_text(r->out, n->value.text); return FLOW_NEXT;
    case N_PRINT: jj_print(r->out, jj_eval(r, n->a)); return FLOW_NEXT;
    case N_IF: return exec_if(r, n);
    case N_FOR: return exec_for(r, n);
    case N_SET: assign(r, n->a, jj_eval(r, n->b)); return FLOW_NEXT;
    case N_SET_BLOCK: return exec_set_block(r, n);
    case N_FILTER_BLOCK: return exec_filter_block(r, n);
    case N_WITH: return exec_with(r, n);
    case N_MACRO: jj_define(r, r->env, n->name, make_macro(r, n)); return FLOW_NEXT;
    case N_CALL_BLOCK: return exec_call_block(r, n);
    case N_SCOPE: return exec_in(r, jj_scope(r, r->env), n->body);
    case N_BREAK: return FLOW_BREAK;
    case N_CONTINUE: return FLOW_CONTINUE;
    default: break;
    }
    jj_fail(r, "this is not a statement");
}

static Flow exec_all(Render *r, NodeList list)
{
    Flow flow = FLOW_NEXT;
    jj_enter(r);
    for (size_t i = 0; i < list.n && flow == FLOW_NEXT; i++) {
        jj_spend(r, 0);
        r->line = list.at[i]->line;
        flow = exec(r, list.at[i]);
    }
    r->depth--;
    return flow;
}

/* ---- entry ------------------------------------------------------------------------------------------------------- */

static bool run(Render *r, const json_t *variables, Out *out)
{
    if (setjmp(r->escape))
        return false;
    Value v = variables ? jj_from_json(r, variables) : v_dict(jj_dict(r));
    if (v.kind != V_DICT)
        jj_fail(r, "the variables of a template must be a JSON object");
    r->variables = v.dict;
    r->env = jj_scope(r, NULL);
    r->out = out;
    exec_all(r, r->template->body);
    out_done(out);
    return true;
}

static JinjaLimits with_defaults(const JinjaLimits *given)
{
    JinjaLimits l = given ? *given : (JinjaLimits){0};
    l.steps = l.steps ? l.steps : 20000000;
    l.depth = l.depth ? l.depth : 1000;
    l.output = l.output ? l.output : (size_t)32 << 20;
    l.memory = l.memory ? l.memory : (size_t)512 << 20;
    return l;
}

bool jinja_render(const Jinja *j, const json_t *variables, const JinjaLimits *limits, Buf *out, Err *err)
{
    Render r = {.arena = arena_new(), .err = err, .template = j, .limits = with_defaults(limits), .line = 1};
    Out text = {.r = &r};
    r.steps = r.limits.steps;
    r.memory = r.limits.memory;
    bool ok = run(&r, variables, &text);
    if (ok)
        buf_put(out, text.n ? text.s : "", text.n);
    arena_free(r.arena);
    return ok;
}
