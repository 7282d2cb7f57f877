/* show.c - `bladetune show`: what is known of a device, as a table and as a drawing. Results are those of the database
 * and those that ship with the sources, the former where both know a case. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tuner.h"

static int by_case(const void *a, const void *b)
{
    const Record *x = a, *y = b;
    int c = strcmp(x->target, y->target);
    c = c ? c : strcmp(x->operator, y->operator);
    c = c ? c : strcmp(x->parameters, y->parameters);
    return c ? c : (x->bucket > y->bucket) - (x->bucket < y->bucket);
}

/* ---- table ------------------------------------------------------------------------------------------------------ */

/* "cols=2 rows=6", the settings that differ from the default's; "default" when none do. */
static const char *changes(Arena *a, const Record *r)
{
    json_t *s = json_loads(r->settings, 0, NULL), *d = json_loads(r->default_settings, 0, NULL), *value;
    const char *key, *text = "";
    json_object_foreach(s, key, value) {
        if (json_equal(value, json_object_get(d, key)))
            continue;
        char *v = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
        text = arena_printf(a, "%s%s%s=%s", text, *text ? " " : "", key, v);
        free(v);
    }
    json_decref(s);
    json_decref(d);
    return *text ? text : "default";
}

static const char *bucket_text(Arena *a, int64_t bucket)
{
    return bucket ? arena_printf(a, "<= %lld", (long long)bucket) : "any";
}

static void print_table(const Known *rows)
{
    size_t wide = strlen("parameters");
    double sum = 0;
    for (size_t i = 0; i < rows->list.len; i++)
        wide = MAX(wide, strlen(rows->list.at[i].parameters));
    printf("%-10s %-*s %6s %11s %11s %7s %16s  %s\n", "operator", (int)wide, "parameters", "tokens", "default us",
           "tuned us", "gain", "of the limit", "settings");
    for (size_t i = 0; i < rows->list.len; i++) {
        const Record *r = &rows->list.at[i];
        printf("%-10s %-*s %6s %11.1f %11.1f %7.3f %5.0f %% of %-6s  %s\n", r->operator, (int)wide, r->parameters,
               bucket_text(rows->arena, r->bucket), 1e6 * r->default_seconds, 1e6 * r->seconds, r->gain, 100 * r->share,
               r->limit_name, changes(rows->arena, r));
        sum += log(MAX(r->gain, 1e-9));
    }
    printf("%zu cases, geometric mean of the gains %.3f\n", rows->list.len, exp(sum / (double)MAX(rows->list.len, 1)));
}

/* ---- drawing ---------------------------------------------------------------------------------------------------- */

enum { PLOT = 420, ROW = 22, TOP = 64, MARGIN = 16 };

static void put_xml(Buf *out, const char *text)
{
    for (; *text; text++) {
        if (*text == '<')
            buf_puts(out, "&lt;");
        else if (*text == '>')
            buf_puts(out, "&gt;");
        else if (*text == '&')
            buf_puts(out, "&amp;");
        else
            buf_putc(out, *text);
    }
}

static const char *row_name(Arena *a, const Record *r)
{
    return arena_printf(a, "%s %s, %s", r->operator, r->parameters, bucket_text(a, r->bucket));
}

/* Bars of the share of the limit: the default's in grey, the tuned one's in front; the gain as a number behind it. */
static void draw_row(Buf *out, Arena *a, const Record *r, int label, int y)
{
    double tuned = MIN(MAX(r->share, 0), 1), before = r->gain > 0 ? MIN(MAX(r->share, 0) / r->gain, 1) : tuned;
    buf_printf(out, "<text x='%d' y='%d' text-anchor='end'>", MARGIN + label - 8, y + 14);
    put_xml(out, row_name(a, r));
    buf_printf(out, "</text><rect x='%d' y='%d' width='%.1f' height='14' fill='#2a78b8'/>"
               "<rect x='%d' y='%d' width='%.1f' height='6' fill='#b9c0c7'/>",
               MARGIN + label, y + 3, PLOT * tuned, MARGIN + label, y + 7, PLOT * before);
    buf_printf(out, "<text x='%.1f' y='%d'>%.0f %%%s</text>\n", MARGIN + label + PLOT * tuned + 6, y + 14,
               100 * r->share, r->gain > 1.0005 ? arena_printf(a, ", %.2f x", r->gain) : "");
}

static void draw(const Known *rows, const char *device, Buf *out)
{
    int label = 0, height = TOP + ROW * (int)rows->list.len + 2 * MARGIN, bottom = height - MARGIN;
    for (size_t i = 0; i < rows->list.len; i++)
        label = MAX(label, 20 + 13 * (int)strlen(row_name(rows->arena, &rows->list.at[i])) / 2);
    int width = 2 * MARGIN + label + PLOT + 110;
    buf_printf(out, "<svg xmlns='http://www.w3.org/2000/svg' width='%d' height='%d' viewBox='0 0 %d %d' "
               "font-family='sans-serif' font-size='12'>\n<rect width='100%%' height='100%%' fill='white'/>\n"
               "<text x='%d' y='26' font-size='16'>", width, height, width, height, MARGIN);
    put_xml(out, device);
    buf_printf(out, ": share of the machine's limit</text>\n<text x='%d' y='46' fill='#555'>blue: tuned, grey: the "
               "default; the number behind is what tuning gained</text>\n", MARGIN);
    for (int i = 0; i <= 4; i++)
        buf_printf(out, "<line x1='%d' y1='%d' x2='%d' y2='%d' stroke='#ddd'/><text x='%d' y='%d' fill='#555' "
                   "text-anchor='middle'>%d %%</text>\n", MARGIN + label + PLOT * i / 4, TOP - 4,
                   MARGIN + label + PLOT * i / 4, bottom, MARGIN + label + PLOT * i / 4, TOP - 8, 25 * i);
    for (size_t i = 0; i < rows->list.len; i++)
        draw_row(out, rows->arena, &rows->list.at[i], label, TOP + ROW * (int)i);
    buf_puts(out, "</svg>\n");
}

/* ---- the command ------------------------------------------------------------------------------------------------ */

static bool print_devices(Db *db, Arena *a, Err *err)
{
    DbNames names = {0};
    bool ok = db_devices(db, a, &names, err);
    if (names.len)
        printf("devices with results:");
    for (size_t i = 0; i < names.len; i++)
        printf(" %s", names.at[i]);
    printf(names.len ? "\n" : "");
    vec_free(&names);
    return ok;
}

static bool show(const TunerOptions *o, Known *rows, Err *err)
{
    char device[CPU_DEVICE_BYTES];
    Db *db = NULL;
    bool ok = tuner_device(o, device, err);
    if (!ok)
        return false;
    ok = tuner_db_if_there(o, &db, err) && known_read(rows, db, device, err);
    printf("device %s\n", device);
    if (ok && !rows->list.len) {
        printf("nothing was tuned here: kernels use the defaults of their schedules, which are estimates for any "
               "machine of this kind\n`bladetune MODEL` measures what is better\n");
        ok = !db || print_devices(db, rows->arena, err);
    } else if (ok) {
        qsort(rows->list.at, rows->list.len, sizeof *rows->list.at, by_case);
        print_table(rows);
    }
    if (ok && o->svg) {
        Buf svg = {0};
        draw(rows, device, &svg);
        ok = file_write_atomic(o->svg, svg.data, svg.len, err);
        buf_free(&svg);
    }
    db_close(db);
    return ok;
}

int tuner_show(const TunerOptions *o)
{
    Err err = {0};
    Known rows = {0};
    bool ok = show(o, &rows, &err);
    known_free(&rows);
    return ok ? 0 : tuner_fail(&err);
}
