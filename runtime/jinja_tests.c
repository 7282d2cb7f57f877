/* jinja_tests.c - owns the tests of `is`, `select`, `selectattr`...: each takes the value as self. */
#include "jinja_int.h"

#define KIND_TEST(name, condition)                                              \
    static Value is_##name(Render *r, Value self, const Args *args)             \
    {                                                                           \
        (void)r, (void)args;                                                    \
        return v_bool(condition);                                               \
    }

static bool has_items(Value v)
{
    return v.kind == V_UNDEFINED || v.kind == V_STR || v.kind == V_LIST || v.kind == V_TUPLE || v.kind == V_DICT ||
           v.kind == V_RANGE;
}

static bool is_kind_of_number(Value v)
{
    return v.kind == V_BOOL || v.kind == V_INT || v.kind == V_FLOAT;
}

KIND_TEST(defined, self.kind != V_UNDEFINED)
KIND_TEST(undefined, self.kind == V_UNDEFINED)
KIND_TEST(none, self.kind == V_NONE)
KIND_TEST(boolean, self.kind == V_BOOL)
KIND_TEST(true, self.kind == V_BOOL && self.b)
KIND_TEST(false, self.kind == V_BOOL && !self.b)
KIND_TEST(integer, self.kind == V_INT)
KIND_TEST(float, self.kind == V_FLOAT)
KIND_TEST(number, is_kind_of_number(self))
KIND_TEST(string, self.kind == V_STR)
KIND_TEST(mapping, self.kind == V_DICT)
KIND_TEST(sequence, has_items(self))
KIND_TEST(iterable, jj_iterable(self) || self.kind == V_LOOP)
KIND_TEST(callable, self.kind == V_MACRO || self.kind == V_FUNC || self.kind == V_METHOD || self.kind == V_UNDEFINED ||
                        self.kind == V_LOOP)
KIND_TEST(escaped, self.kind == V_STR && self.tag)
KIND_TEST(sameas, jj_same(self, args->at[0]))
KIND_TEST(filter, self.kind == V_STR && jj_filter(self.text))
KIND_TEST(test, self.kind == V_STR && jj_test(self.text))
KIND_TEST(lower, jj_is_class(jj_str(r, self), "lower"))
KIND_TEST(upper, jj_is_class(jj_str(r, self), "upper"))
KIND_TEST(eq, jj_equal(r, self, args->at[0]))
KIND_TEST(ne, !jj_equal(r, self, args->at[0]))
KIND_TEST(lt, jj_ordered(r, self, '<', args->at[0]))
KIND_TEST(le, jj_ordered(r, self, OP_LE, args->at[0]))
KIND_TEST(gt, jj_ordered(r, self, '>', args->at[0]))
KIND_TEST(ge, jj_ordered(r, self, OP_GE, args->at[0]))
KIND_TEST(in, jj_contains(r, self, args->at[0]))

static bool remainder_is(Render *r, Value v, Value divisor, int64_t expected)
{
    return jj_equal(r, jj_binary(r, '%', v, divisor), v_int(expected));
}

KIND_TEST(odd, remainder_is(r, self, v_int(2), 1))
KIND_TEST(even, remainder_is(r, self, v_int(2), 0))
KIND_TEST(divisibleby, remainder_is(r, self, args->at[0], 0))

static const Builtin tests[] = {
    {"!=", is_ne, "other"}, {"<", is_lt, "other"}, {"<=", is_le, "other"}, {"==", is_eq, "other"},
    {">", is_gt, "other"}, {">=", is_ge, "other"}, {"boolean", is_boolean, ""}, {"callable", is_callable, ""},
    {"defined", is_defined, ""}, {"divisibleby", is_divisibleby, "num"}, {"eq", is_eq, "other"},
    {"equalto", is_eq, "other"}, {"escaped", is_escaped, ""}, {"even", is_even, ""}, {"false", is_false, ""},
    {"filter", is_filter, ""}, {"float", is_float, ""}, {"ge", is_ge, "other"}, {"greaterthan", is_gt, "other"},
    {"gt", is_gt, "other"}, {"in", is_in, "seq"}, {"integer", is_integer, ""}, {"iterable", is_iterable, ""},
    {"le", is_le, "other"}, {"lessthan", is_lt, "other"}, {"lower", is_lower, ""}, {"lt", is_lt, "other"},
    {"mapping", is_mapping, ""}, {"ne", is_ne, "other"}, {"none", is_none, ""}, {"number", is_number, ""},
    {"odd", is_odd, ""}, {"sameas", is_sameas, "other"}, {"sequence", is_sequence, ""}, {"string", is_string, ""},
    {"test", is_test, ""}, {"true", is_true, ""}, {"undefined", is_undefined, ""}, {"upper", is_upper, ""},
};

const Builtin *jj_test(Text name)
{
    return jj_find_builtin(tests, COUNT(tests), name);
}
