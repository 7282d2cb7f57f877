/* jinja_number.c - owns arithmetic with Python's rules and numbers from text. Integers have 64 bits; overflow is an
 * error. */
#include <math.h>
#include <stdio.h>

#include "jinja_int.h"

/* ---- from text --------------------------------------------------------------------------------------------------- */

static int digit_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 32;
    return c >= 'a' && c <= 'z' ? c - 'a' + 10 : 99;
}

/* Drops a prefix 0x, 0o or 0b that fits `base` (0: any) and returns the base to use. */
static int drop_prefix(Text *t, int base)
{
    static const struct { char letter; int base; } prefixes[] = {{'x', 16}, {'o', 8}, {'b', 2}};
    for (size_t i = 0; t->n > 2 && t->s[0] == '0' && i < COUNT(prefixes); i++)
        if ((t->s[1] | 32) == prefixes[i].letter && (base == 0 || base == prefixes[i].base)) {
            *t = (Text){t->s + 2, t->n - 2};
            if (t->s[0] == '_')
                *t = (Text){t->s + 1, t->n - 1};
            return prefixes[i].base;
        }
    return base ? base : 10;
}

/* int(text, base): white space around, a sign, underscores between digits. False when malformed or beyond 64 bits. */
bool jj_parse_int(Text t, int base, int64_t *i)
{
    t = jj_strip(t, NULL, true, true);
    bool minus = t.n && t.s[0] == '-', after_digit = false;
    if (t.n && (t.s[0] == '-' || t.s[0] == '+'))
        t = (Text){t.s + 1, t.n - 1};
    base = drop_prefix(&t, base);
    int64_t value = 0;
    for (size_t k = 0; k < t.n; k++) {
        int digit = digit_value(t.s[k]);
        if (t.s[k] == '_' && after_digit) {
            after_digit = false;
            continue;
        }
        if (digit >= base || __builtin_mul_overflow(value, base, &value) ||
            __builtin_sub_overflow(value, digit, &value)) /* negative, where the range is larger */
            return false;
        after_digit = true;
    }
    if (!after_digit || (!minus && value == INT64_MIN))
        return false;
    *i = minus ? value : -value;
    return true;
}

/* Appends digits without their underscores; false when there is none or an underscore is misplaced. */
static bool take_digits(Text *t, char *out, size_t *n)
{
    size_t first = *n;
    bool after_digit = false;
    for (; t->n; *t = (Text){t->s + 1, t->n - 1}) {
        if (t->s[0] >= '0' && t->s[0] <= '9') {
            out[(*n)++] = t->s[0];
            after_digit = true;
        } else if (t->s[0] == '_' && after_digit) {
            after_digit = false;
        } else {
            break;
        }
    }
    return *n == first || after_digit;
}

static bool is_word(Text t, const char *word)
{
    return t.n == strlen(word) && !strncasecmp(t.s, word, t.n);
}

/* float(text): white space around, underscores between digits, inf, infinity, nan. */
bool jj_parse_float(Text t, double *f)
{
    char number[512];
    size_t n = 0;
    t = jj_strip(t, NULL, true, true);
    if (t.n >= sizeof number || !t.n)
        return false;
    bool minus = t.s[0] == '-';
    if (t.s[0] == '-' || t.s[0] == '+')
        t = (Text){t.s + 1, t.n - 1};
    if (is_word(t, "inf") || is_word(t, "infinity") || is_word(t, "nan")) {
        *f = (t.s[0] | 32) == 'n' ? NAN : minus ? -INFINITY : INFINITY;
        return true;
    }
    if (!take_digits(&t, number, &n))
        return false;
    if (t.n && t.s[0] == '.') {
        number[n++] = '.';
        t = (Text){t.s + 1, t.n - 1};
        if ((t.n && t.s[0] == '_') || !take_digits(&t, number, &n))
            return false;
    }
    if (n == 0 || (n == 1 && number[0] == '.'))
        return false;
    if (t.n && (t.s[0] | 32) == 'e') {
        number[n++] = 'e';
        t = (Text){t.s + 1, t.n - 1};
        if (t.n && (t.s[0] == '-' || t.s[0] == '+')) {
            number[n++] = t.s[0];
            t = (Text){t.s + 1, t.n - 1};
        }
        size_t exponent = n;
        if (!take_digits(&t, number, &n) || n == exponent)
            return false;
    }
    number[n] = 0;
    *f = minus ? -strtod(number, NULL) : strtod(number, NULL);
    return t.n == 0;
}

/* ---- arithmetic -------------------------------------------------------------------------------------------------- */

static const char *op_name(int op)
{
    switch (op) {
    case '+': return "+";
    case '-': return "-";
    case '*': return "*";
    case '/': return "/";
    case '%': return "%";
    case OP_FLOORDIV: return "//";
    }
    return "**";
}

static void fail_operands(Render *r, int op, Value a, Value b) __attribute__((noreturn));
static void fail_operands(Render *r, int op, Value a, Value b)
{
    if (a.kind == V_UNDEFINED || b.kind == V_UNDEFINED)
        jj_fail_undefined(r, a.kind == V_UNDEFINED ? a : b);
    jj_fail(r, "unsupported operands for %s: '%s' and '%s'", op_name(op), jj_type(a), jj_type(b));
}

static void fail_overflow(Render *r) __attribute__((noreturn));
static void fail_overflow(Render *r)
{
    jj_fail(r, "the result of an integer operation does not fit in 64 bits");
}

/* base ** exponent, exponent >= 0. */
static int64_t int_power(Render *r, int64_t base, int64_t exponent)
{
    int64_t result = 1;
    while (exponent > 0) {
        if ((exponent & 1) && __builtin_mul_overflow(result, base, &result))
            fail_overflow(r);
        exponent >>= 1;
        if (exponent && __builtin_mul_overflow(base, base, &base))
            fail_overflow(r);
    }
    return result;
}

static Value int_divide(Render *r, int op, int64_t a, int64_t b)
{
    if (b == 0)
        jj_fail(r, "division by zero");
    if (b == -1) { /* a / -1 traps for the smallest integer */
        if (op == '%')
            return v_int(0);
        if (a == INT64_MIN)
            fail_overflow(r);
        return v_int(-a);
    }
    int64_t q = a / b, m = a % b;
    bool down = m != 0 && (m < 0) != (b < 0); /* towards minus infinity; the remainder has the sign of b */
    return v_int(op == '%' ? m + (down ? b : 0) : q - down);
}

static Value int_binary(Render *r, int op, int64_t a, int64_t b)
{
    int64_t c = 0;
    bool overflow = false;
    switch (op) {
    case '+': overflow = __builtin_add_overflow(a, b, &c); break;
    case '-': overflow = __builtin_sub_overflow(a, b, &c); break;
    case '*': overflow = __builtin_mul_overflow(a, b, &c); break;
    case OP_POW: c = int_power(r, a, b); break;
    default: return int_divide(r, op, a, b);
    }
    if (overflow)
        fail_overflow(r);
    return v_int(c);
}

static double float_mod(double a, double b)
{
    double m = fmod(a, b);
    if (m == 0)
        return copysign(0, b);
    return (m < 0) != (b < 0) ? m + b : m;
}

static double float_floor_div(double a, double b)
{
    double m = fmod(a, b), q = (a - m) / b;
    if (m != 0 && (m < 0) != (b < 0))
        q -= 1;
    if (q == 0)
        return copysign(0, a / b);
    double whole = floor(q);
    return q - whole > 0.5 ? whole + 1 : whole;
}

static double float_power(Render *r, double a, double b)
{
    if (a == 0 && b < 0)
        jj_fail(r, "0.0 cannot be raised to a negative power");
    if (a < 0 && isfinite(a) && isfinite(b) && b != floor(b))
        jj_fail(r, "a fractional power of a negative number is not real");
    double c = pow(a, b);
    if (isinf(c) && isfinite(a) && isfinite(b))
        jj_fail(r, "the result of ** is too large");
    return c;
}

static Value float_binary(Render *r, int op, double a, double b)
{
    if ((op == '/' || op == '%' || op == OP_FLOORDIV) && b == 0)
        jj_fail(r, "division by zero");
    switch (op) {
    case '+': return v_float(a + b);
    case '-': return v_float(a - b);
    case '*': return v_float(a * b);
    case '/': return v_float(a / b);
    case '%': return v_float(float_mod(a, b));
    case OP_FLOORDIV: return v_float(float_floor_div(a, b));
    }
    return v_float(float_power(r, a, b));
}

/* ---- sequences --------------------------------------------------------------------------------------------------- */

/* Markup + text escapes the text. */
static Value concat_text(Render *r, Value a, Value b)
{
    if (a.tag != b.tag)
        *(a.tag ? &b.text : &a.text) = jj_escape_html(r, a.tag ? b.text : a.text);
    char *s = jj_alloc(r, a.text.n + b.text.n);
    memcpy(mempcpy(s, a.text.s, a.text.n), b.text.s, b.text.n);
    Value v = v_str((Text){s, a.text.n + b.text.n});
    v.tag = a.tag | b.tag;
    if (v.text.n > r->limits.output)
        jj_fail(r, "the template makes a string of more than %zu bytes (limit `output`)", r->limits.output);
    return v;
}

static List *concat_lists(Render *r, const List *a, const List *b)
{
    List *l = jj_list(r, a->n + b->n);
    memcpy(mempcpy(l->at, a->at, a->n * sizeof *l->at), b->at, b->n * sizeof *l->at);
    return l;
}

static Value repeat(Render *r, Value v, int64_t times)
{
    size_t n = v.kind == V_STR ? v.text.n : v.list->n * sizeof(Value), total;
    if (times < 0 || n == 0)
        times = 0;
    if (__builtin_mul_overflow(n, (size_t)times, &total) || total > r->limits.memory)
        jj_fail(r, "the template repeats a %s into more than %zu bytes (limit `memory`)", jj_type(v), r->limits.memory);
    const char *from = v.kind == V_STR ? v.text.s : (const char *)v.list->at;
    List *l = v.kind == V_STR ? NULL : jj_list(r, v.list->n * (size_t)times);
    char *to = l ? (char *)l->at : jj_alloc(r, total);
    for (int64_t i = 0; i < times; i++)
        memcpy(to + (size_t)i * n, from, n);
    if (!l) {
        v.text = (Text){to, total};
        return v;
    }
    return v.kind == V_LIST ? v_list(l) : v_tuple(l);
}

static bool is_sequence(Value v)
{
    return v.kind == V_STR || v.kind == V_LIST || v.kind == V_TUPLE;
}

Value jj_binary(Render *r, int op, Value a, Value b)
{
    int64_t i, j;
    double f, g;
    bool ai = jj_integer(a, &i), bi = jj_integer(b, &j);
    if (ai && bi && op != '/' && !(op == OP_POW && j < 0))
        return int_binary(r, op, i, j);
    if (jj_number(a, &f) && jj_number(b, &g))
        return float_binary(r, op, f, g);
    if (op == '%' && a.kind == V_STR)
        return v_str(jj_format_percent(r, a.text, b));
    if (op == '*' && is_sequence(a) && bi)
        return repeat(r, a, j);
    if (op == '*' && ai && is_sequence(b))
        return repeat(r, b, i);
    if (op != '+' || a.kind != b.kind || !is_sequence(a))
        fail_operands(r, op, a, b);
    if (a.kind == V_STR)
        return concat_text(r, a, b);
    List *l = concat_lists(r, a.list, b.list);
    return a.kind == V_LIST ? v_list(l) : v_tuple(l);
}

/* -v or +v */
Value jj_negate(Render *r, Value v, bool minus)
{
    int64_t i;
    if (v.kind == V_UNDEFINED)
        jj_fail_undefined(r, v);
    if (jj_integer(v, &i)) {
        if (minus && i == INT64_MIN)
            fail_overflow(r);
        return v_int(minus ? -i : i);
    }
    if (v.kind != V_FLOAT)
        jj_fail(r, "bad operand for a sign: '%s'", jj_type(v));
    return v_float(minus ? -v.f : v.f);
}

/* ---- rounding ---------------------------------------------------------------------------------------------------- */

/* To a multiple of 10 ** -digits, halves to even. */
static Value round_int(Render *r, int64_t i, int64_t digits)
{
    if (digits >= 0)
        return v_int(i);
    if (digits < -18)
        return v_int(0);
    int64_t unit = int_power(r, 10, -digits), rest = i % unit, whole = i / unit;
    int64_t twice = rest < 0 ? -rest : rest; /* compared with unit - twice, which cannot overflow */
    int64_t other = unit - twice;
    if (twice > other || (twice == other && (whole & 1)))
        whole += i < 0 ? -1 : 1;
    int64_t result;
    if (__builtin_mul_overflow(whole, unit, &result))
        fail_overflow(r);
    return v_int(result);
}

static double round_float(double f, int64_t digits)
{
    if (!isfinite(f) || digits > 300)
        return f;
    if (digits < -308)
        return copysign(0, f);
    if (digits < 0) {
        double unit = pow(10, (double)-digits);
        return nearbyint(f / unit) * unit;
    }
    char number[700];
    snprintf(number, sizeof number, "%.*f", (int)digits, f); /* correctly rounded from the exact binary value */
    return strtod(number, NULL);
}

/* round(v, digits) */
Value jj_round(Render *r, Value v, int64_t digits)
{
    int64_t i;
    if (v.kind == V_UNDEFINED)
        jj_fail_undefined(r, v);
    if (jj_integer(v, &i))
        return round_int(r, i, digits);
    if (v.kind != V_FLOAT)
        jj_fail(r, "'%s' cannot be rounded", jj_type(v));
    return v_float(round_float(v.f, digits));
}
