/* options.c - implementation of options.h; see there. */
#include "options.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- values ------------------------------------------------------------------------------------------------------ */

static bool check_int(const char *name, int64_t v, const OptRow *row, Err *err)
{
    if (row->lo == 0 && row->hi == 0)
        return true;
    if ((double)v >= row->lo && (double)v <= row->hi)
        return true;
    if (row->hi >= 0x1p53)
        return err_set(err, "%s: %" PRId64 " is out of range: at least %.0f is expected", name, v, row->lo);
    return err_set(err, "%s: %" PRId64 " is out of range: %.0f to %.0f is expected", name, v, row->lo, row->hi);
}

static bool parse_int(const char *name, const char *s, size_t len, const OptRow *row, int64_t *out, Err *err)
{
    char digits[32], *end;
    if (!len || len >= sizeof digits)
        return err_set(err, "%s: \"%.*s\" is not an integer", name, (int)MIN(len, 60), s);
    memcpy(digits, s, len);
    digits[len] = 0;
    errno = 0;
    long long v = strtoll(digits, &end, 10);
    if (*end || errno || strchr(" \t\n\v\f\r", digits[0]))
        return err_set(err, "%s: \"%s\" is not an integer", name, digits);
    *out = v;
    return check_int(name, v, row, err);
}

static bool parse_ints(const char *name, const char *s, const OptRow *row, OptInts *out, Err *err)
{
    out->len = 0;
    for (;;) {
        size_t n = strcspn(s, ",");
        int64_t v;
        if (!parse_int(name, s, n, row, &v, err))
            return false;
        vec_push(out, v);
        if (!s[n])
            return true;
        s += n + 1;
    }
}

static bool parse_number(const char *s, double *out, char **end)
{
    errno = 0;
    *out = strtod(s, end);
    return *end != s && !isnan(*out) && !strchr(" \t\n\v\f\r", s[0]);
}

static bool parse_real(const char *name, const char *s, const OptRow *row, double *out, Err *err)
{
    char *end;
    double v;
    if (!parse_number(s, &v, &end) || *end)
        return err_set(err, "%s: \"%.60s\" is not a number", name, s);
    if ((row->lo != 0 || row->hi != 0) && (v < row->lo || v > row->hi))
        return err_set(err, "%s: %g is out of range: %g to %g is expected", name, v, row->lo, row->hi);
    *out = v;
    return true;
}

/* The power of two that a unit stands for ("", "K", "MiB", "GB", ...); -1 for anything else. */
static int unit_shift(const char *unit)
{
    static const char letters[] = "KMGTkmgt";
    if (!*unit || !strcmp(unit, "B"))
        return 0;
    const char *p = strchr(letters, *unit);
    if (!p || (unit[1] && strcmp(unit + 1, "B") && strcmp(unit + 1, "iB")))
        return -1;
    return 10 * (int)((p - letters) % 4 + 1);
}

static bool parse_bytes(const char *name, const char *s, const OptRow *row, int64_t *out, Err *err)
{
    char *end;
    double v;
    bool ok = parse_number(s, &v, &end);
    int shift = ok ? unit_shift(end) : -1;
    if (shift < 0 || v < 0)
        return err_set(err, "%s: \"%.60s\" is not a size: write bytes, or a number with K, M, G or T", name, s);
    v = ldexp(v, shift);
    if (v >= 0x1p62)
        return err_set(err, "%s: %.60s is more than any machine has", name, s);
    *out = (int64_t)v;
    return check_int(name, *out, row, err);
}

/* ---- one option -------------------------------------------------------------------------------------------------- */

static bool store(const OptRow *row, const char *name, const char *value, Err *err)
{
    switch (row->type) {
    case OPT_INT:
        return parse_int(name, value, strlen(value), row, row->out, err);
    case OPT_REAL:
        return parse_real(name, value, row, row->out, err);
    case OPT_BYTES:
        return parse_bytes(name, value, row, row->out, err);
    case OPT_INTS:
        return parse_ints(name, value, row, row->out, err);
    case OPT_STRING:
        *(const char **)row->out = value;
        return true;
    case OPT_STRINGS:
        vec_push((OptStrings *)row->out, value);
        return true;
    case OPT_FLAG:
        break;
    }
    return err_set(err, "%s takes no value", name);
}

static const OptRow *find_long(const OptRow *rows, const char *name, size_t len)
{
    for (; rows->name; rows++)
        if (strlen(rows->name) == len && !memcmp(rows->name, name, len))
            return rows;
    return NULL;
}

static const OptRow *find_short(const OptRow *rows, char letter)
{
    for (; rows->name; rows++)
        if (rows->letter && rows->letter == letter)
            return rows;
    return NULL;
}

/* "--no-NAME" of a flag. */
static const OptRow *find_negated(const OptRow *rows, const char *name)
{
    const OptRow *row = strncmp(name, "no-", 3) ? NULL : find_long(rows, name + 3, strlen(name + 3));
    return row && row->type == OPT_FLAG ? row : NULL;
}

static bool unknown(const OptCommand *c, const char *arg, Err *err)
{
    return err_set(err, "unknown option %.100s; see %s --help", arg, c->name);
}

/* Reads the option at argv[*i], and its value, and moves *i to the last word used. */
static bool read_option(const OptCommand *c, int argc, char **argv, int *i, Err *err)
{
    const char *arg = argv[*i], *value = NULL;
    char name[128];
    const OptRow *row;
    if (arg[1] == '-') {
        size_t len = strcspn(arg + 2, "=");
        row = find_long(c->rows, arg + 2, len);
        if (!row && (row = find_negated(c->rows, arg + 2))) {
            *(bool *)row->out = false;
            return true;
        }
        value = arg[2 + len] ? arg + 3 + len : NULL;
        snprintf(name, sizeof name, "%.*s", (int)MIN(len + 2, sizeof name - 1), arg);
    } else {
        row = find_short(c->rows, arg[1]);
        value = arg[2] ? arg + 2 : NULL;
        snprintf(name, sizeof name, "-%c", arg[1]);
    }
    if (!row)
        return unknown(c, arg, err);
    if (row->type == OPT_FLAG && !value) {
        *(bool *)row->out = true;
        return true;
    }
    if (!value && row->type != OPT_FLAG) {
        if (*i + 1 >= argc)
            return err_set(err, "%s needs a value: %s", name, row->value ? row->value : "VALUE");
        value = argv[++*i];
    }
    return store(row, name, value, err);
}

bool opt_read(const OptCommand *c, int argc, char **argv, const char *args[OPT_MAX_ARGS], bool *help, Err *err)
{
    int count = 0;
    bool only_args = false;
    *help = false;
    for (int i = 0; i < OPT_MAX_ARGS; i++)
        args[i] = NULL;
    for (int i = 1; i < argc; i++) {
        const char *arg = argv[i];
        if (!only_args && !strcmp(arg, "--")) {
            only_args = true;
        } else if (only_args || arg[0] != '-' || !arg[1]) {
            if (count >= c->max_args)
                return err_set(err, "\"%.100s\" is one argument too many; usage: %s %s", arg, c->name, c->args);
            args[count++] = arg;
        } else if (!strcmp(arg, "--help") || !strcmp(arg, "-h")) {
            *help = true;
            return true;
        } else if (!read_option(c, argc, argv, &i, err)) {
            return false;
        }
    }
    if (count < c->min_args)
        return err_set(err, "an argument is missing; usage: %s %s (--help lists the options)", c->name, c->args);
    return true;
}

int opt_parse(const OptCommand *c, int argc, char **argv, const char *args[OPT_MAX_ARGS])
{
    Err err = {0};
    bool help;
    if (!opt_read(c, argc, argv, args, &help, &err)) {
        fprintf(stderr, "%s: %s\n", c->name, err.text);
        return 2;
    }
    if (!help)
        return -1;
    Buf text = {0};
    opt_help(c, &text);
    fputs(text.data, stdout);
    buf_free(&text);
    return 0;
}

/* ---- help -------------------------------------------------------------------------------------------------------- */

#define HELP_COLUMN 30

static void help_row(Buf *out, char letter, const char *name, const char *value, const char *help)
{
    size_t start = out->len;
    buf_puts(out, "  ");
    if (letter)
        buf_printf(out, "-%c, ", letter);
    else
        buf_puts(out, "    ");
    buf_printf(out, "--%s", name);
    if (value)
        buf_printf(out, " %s", value);
    size_t column = out->len - start;
    for (const char *line = help;; column = 0) {
        if (column >= HELP_COLUMN - 1) {
            buf_putc(out, '\n');
            column = 0;
        }
        size_t n = strcspn(line, "\n");
        buf_printf(out, "%*s%.*s\n", (int)(HELP_COLUMN - column), "", (int)n, line);
        if (!line[n])
            return;
        line += n + 1;
    }
}

void opt_help(const OptCommand *c, Buf *out)
{
    buf_printf(out, "usage: %s %s [options]\n\n%s\n\noptions:\n", c->name, c->args, c->about);
    for (const OptRow *row = c->rows; row->name; row++)
        if (row->help)
            help_row(out, row->letter, row->name, row->value, row->help);
    help_row(out, 'h', "help", NULL, "print this text");
}
