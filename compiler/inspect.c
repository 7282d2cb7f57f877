/* inspect.c - see inspect.h. A pack's texts are JSON of any content: what is not as expected shows as zero or nothing,
 * never as a crash. */
#include "inspect.h"

#include <stdlib.h>
#include <string.h>

#include "json.h"
#include "pack.h"

typedef struct KernelRow {
    const char *name; /* operator, parameters, settings; with blanks between */
    int64_t bytes, scratch;
    int64_t threads, shared, registers, spills, stack, occupancy; /* GPU; registers 0: unknown */
    uint64_t hash; /* of the object code */
    Buf users;     /* "step<=1 step<=4", "load", "sampling" */
    bool paired;   /* for diff: found in the other pack */
} KernelRow;

typedef struct Part { /* one target, its plan read */
    json_t *plan;
    json_t *figures; /* what -> text */
    KernelRow *rows;
    size_t count;
} Part;

typedef struct Opened {
    Pack pack;
    json_t *origin; /* an object, perhaps empty */
    Part parts[PACK_MAX_TARGETS];
} Opened;

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "?";
}

/* A value that should be a text. */
static const char *shown(const json_t *value)
{
    return json_is_string(value) ? json_string_value(value) : "...";
}

static long long number_of(const json_t *object, const char *key)
{
    return json_integer_value(json_object_get(object, key));
}

static void set_text(json_t *object, const char *key, const char *format, ...) PRINTF(3, 4);
static void set_text(json_t *object, const char *key, const char *format, ...)
{
    char text[256];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    json_object_set_new(object, key, json_string(text));
}

/* ---- reading ---------------------------------------------------------------------------------------------------- */

static void read_kernels(Part *p, const PackPart *from)
{
    const json_t *kernels = json_object_get(p->plan, "kernels");
    p->count = json_array_size(kernels);
    p->rows = xcalloc(p->count, sizeof *p->rows);
    for (size_t i = 0; i < p->count; i++) {
        const json_t *k = json_array_get(kernels, i);
        uint64_t at = (uint64_t)number_of(k, "offset"), n = (uint64_t)number_of(k, "size");
        KernelRow *row = &p->rows[i];
        *row = (KernelRow){.name = text_of(k, "name"), .bytes = (int64_t)n, .scratch = number_of(k, "scratch"),
                           .threads = number_of(k, "threads"), .shared = number_of(k, "shared"),
                           .registers = number_of(k, "registers"), .spills = number_of(k, "spills"),
                           .stack = number_of(k, "stack"), .occupancy = number_of(k, "occupancy")};
        if (at <= from->code_len && n <= from->code_len - at)
            row->hash = hash_bytes(HASH_SEED, from->code + at, n);
    }
}

/* Notes on every kernel of a launch list who runs it. */
static void note_users(Part *p, const json_t *launches, const char *user)
{
    size_t i;
    json_t *launch;
    json_array_foreach((json_t *)launches, i, launch) {
        const json_t *kernel = json_object_get(launch, "kernel");
        size_t k = (size_t)json_integer_value(kernel);
        if (!json_is_integer(kernel) || k >= p->count)
            continue;
        Buf *users = &p->rows[k].users;
        size_t n = strlen(user);
        if (users->len < n || strcmp(users->data + users->len - n, user))
            buf_printf(users, "%s%s", users->len ? " " : "", user);
    }
}

static void read_launches(Part *p)
{
    size_t i;
    json_t *step;
    json_array_foreach(json_object_get(p->plan, "steps"), i, step) {
        long long most = number_of(step, "max_tokens");
        const json_t *launches = json_object_get(step, "launches");
        char user[32] = "step", what[64] = "launches of a step of more tokens";
        if (most) {
            snprintf(user, sizeof user, "step<=%lld", most);
            snprintf(what, sizeof what, "launches of a step of at most %lld tokens", most);
        }
        note_users(p, launches, user);
        set_text(p->figures, what, "%zu", json_array_size(launches));
    }
    note_users(p, json_object_get(p->plan, "sample"), "sampling");
    note_users(p, json_object_get(p->plan, "load"), "load");
    note_users(p, json_object_get(p->plan, "limits"), "limit");
    set_text(p->figures, "launches of sampling", "%zu", json_array_size(json_object_get(p->plan, "sample")));
    set_text(p->figures, "steps that load weights", "%zu", json_array_size(json_object_get(p->plan, "load")));
}

/* Bytes of the buffers of a kind whose size depends on nothing. */
static double constant_bytes(const json_t *plan, const char *kind)
{
    double bytes = 0;
    size_t i, k;
    json_t *buffer, *term;
    json_array_foreach(json_object_get(plan, "buffers"), i, buffer)
        if (!strcmp(text_of(buffer, "kind"), kind))
            json_array_foreach(json_object_get(buffer, "bytes"), k, term)
                if (!json_object_get(term, "size"))
                    bytes += (double)number_of(term, "n");
    return bytes;
}

static void read_figures(Part *p, const PackPart *from)
{
    const json_t *plan = p->plan, *model = json_object_get(plan, "model");
    set_text(p->figures, "model", "%s, %lld layers, hidden %lld, vocabulary %lld, context %lld, weights %s",
             text_of(model, "architecture"), number_of(model, "layers"), number_of(model, "hidden"),
             number_of(model, "vocab"), number_of(model, "context"), text_of(model, "weights"));
    set_text(p->figures, "numerics", "%u", from->numerics);
    set_text(p->figures, "kernels", "%zu, %zu bytes of code", p->count, from->code_len);
    set_text(p->figures, "weights", "%.1f MiB packed, %.1f MiB used where they lie in the checkpoint",
             constant_bytes(plan, "weight") / 1048576, constant_bytes(plan, "mapped") / 1048576);
    set_text(p->figures, "buffers", "%zu; pages of %lld tokens", json_array_size(json_object_get(plan, "buffers")),
             number_of(plan, "page_tokens"));
    read_launches(p);
    json_t *rest = json_copy((json_t *)plan);
    json_object_del(rest, "kernels"); /* compared one by one */
    char *text = json_dumps(rest, JSON_COMPACT | JSON_SORT_KEYS);
    set_text(p->figures, "plan", "%016llx", (unsigned long long)hash_str(HASH_SEED, text ? text : ""));
    free(text);
    json_decref(rest);
}

static bool read_part(Part *p, const PackPart *from, const char *path, Err *err)
{
    p->plan = json_parse(from->plan, from->plan_len, path, err);
    if (!p->plan)
        return false;
    p->figures = json_object();
    read_kernels(p, from);
    read_figures(p, from);
    return true;
}

static bool open_it(Opened *o, const char *path, Err *err)
{
    *o = (Opened){0};
    if (!pack_open(path, &o->pack, err))
        return false;
    o->origin = json_parse(o->pack.origin, o->pack.origin_len, path, NULL);
    if (!o->origin)
        o->origin = json_object();
    for (int i = 0; i < o->pack.parts_count; i++)
        if (!read_part(&o->parts[i], &o->pack.parts[i], path, err))
            return false;
    return true;
}

static void close_it(Opened *o)
{
    for (int i = 0; i < o->pack.parts_count; i++) {
        Part *p = &o->parts[i];
        for (size_t k = 0; k < p->count; k++)
            buf_free(&p->rows[k].users);
        free(p->rows);
        json_decref(p->figures);
        json_decref(p->plan);
    }
    json_decref(o->origin);
    pack_close(&o->pack);
}

/* ---- inspect ---------------------------------------------------------------------------------------------------- */

static void print_header(const Opened *o, const char *path, Buf *out)
{
    const Pack *p = &o->pack;
    buf_printf(out, "%s: pack format %d, %zu bytes, checksum %016llx is right\n", path, PACK_VERSION, p->file.size,
               (unsigned long long)p->checksum);
    buf_printf(out, "built for checkpoint %016llx, weights %s, under signature %016llx\n",
               (unsigned long long)p->header.fingerprint, p->header.weights, (unsigned long long)p->header.signature);
    if (json_object_size(o->origin))
        buf_printf(out, "built by bladegen %s, generator %s, %zu source files, settings tuned for %s (%s)\n",
                   text_of(o->origin, "version"), text_of(o->origin, "generator"),
                   json_object_size(json_object_get(o->origin, "sources")), text_of(o->origin, "device"),
                   text_of(o->origin, "tuned"));
}

/* A figure of the GPU's tools, which may not have been there. */
static void put_figure(const KernelRow *k, int64_t value, Buf *out)
{
    if (k->registers)
        buf_printf(out, " %6lld", (long long)value);
    else
        buf_printf(out, " %6s", "-");
}

static void print_row(const KernelRow *k, bool gpu, Buf *out)
{
    const char *users = k->users.len ? k->users.data : "-";
    if (gpu) {
        buf_printf(out, "%8lld %7lld %7lld", (long long)k->bytes, (long long)k->threads, (long long)k->shared);
        put_figure(k, k->registers, out);
        put_figure(k, k->spills, out);
        put_figure(k, k->stack, out);
        put_figure(k, k->occupancy, out);
        buf_printf(out, "  %-32s %s\n", users, k->name);
    } else
        buf_printf(out, "%8lld %8lld  %-32s %s\n", (long long)k->bytes, (long long)k->scratch, users, k->name);
}

static void print_part(const Part *p, const char *target, Buf *out)
{
    const char *what;
    json_t *value;
    bool gpu = p->count && p->rows[0].threads;
    buf_printf(out, "\ntarget %s\n", target);
    json_object_foreach(p->figures, what, value)
        buf_printf(out, "  %-42s %s\n", what, shown(value));
    if (gpu)
        buf_printf(out, "\n%8s %7s %7s %6s %6s %6s %6s  %-32s %s\n", "bytes", "threads", "shared", "regs", "spills",
                   "stack", "blocks", "run by", "kernel, parameters, settings");
    else
        buf_printf(out, "\n%8s %8s  %-32s %s\n", "bytes", "scratch", "run by", "kernel, parameters, settings");
    for (size_t i = 0; i < p->count; i++)
        print_row(&p->rows[i], gpu, out);
}

bool inspect_pack(const char *path, bool sources, Buf *out, Err *err)
{
    Opened o;
    const char *name;
    json_t *hash;
    bool ok = open_it(&o, path, err);
    if (ok) {
        print_header(&o, path, out);
        for (int i = 0; i < o.pack.parts_count; i++)
            print_part(&o.parts[i], o.pack.parts[i].target, out);
        if (sources)
            buf_puts(out, "\nsources\n");
        json_object_foreach(sources ? json_object_get(o.origin, "sources") : NULL, name, hash)
            buf_printf(out, "  %s %s\n", shown(hash), name);
    }
    close_it(&o);
    return ok;
}

/* ---- diff ------------------------------------------------------------------------------------------------------- */

/* Members of two objects of texts that are not the same. */
static void diff_texts(const json_t *a, const json_t *b, const char *indent, Buf *out)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)a, key, value) {
        const json_t *other = json_object_get(b, key);
        if (!other)
            buf_printf(out, "%s- %s: %s\n", indent, key, shown(value));
        else if (json_is_string(value) && !json_equal(value, (json_t *)other))
            buf_printf(out, "%s~ %s: %s -> %s\n", indent, key, shown(value), shown(other));
    }
    json_object_foreach((json_t *)b, key, value)
        if (!json_object_get(a, key))
            buf_printf(out, "%s+ %s: %s\n", indent, key, shown(value));
}

/* Length of "operator parameters" in a kernel's name; its settings follow behind a blank. */
static size_t stem(const char *name)
{
    size_t n = strcspn(name, " ");
    return name[n] ? n + 1 + strcspn(name + n + 1, " ") : n;
}

typedef bool Alike(const KernelRow *a, const KernelRow *b);

static bool same_name(const KernelRow *a, const KernelRow *b)
{
    return !strcmp(a->name, b->name);
}

static bool same_stem(const KernelRow *a, const KernelRow *b)
{
    size_t n = stem(a->name);
    return n == stem(b->name) && !memcmp(a->name, b->name, n);
}

static void print_pair(const KernelRow *a, const KernelRow *b, Buf *out)
{
    if (!same_name(a, b))
        buf_printf(out, "  ~ %.*s: settings%s ->%s", (int)stem(a->name), a->name, a->name + stem(a->name),
                   b->name + stem(b->name));
    else if (a->hash != b->hash || a->scratch != b->scratch)
        buf_printf(out, "  ~ %s: other code", a->name);
    else
        return;
    buf_printf(out, ", %lld -> %lld bytes", (long long)a->bytes, (long long)b->bytes);
    if (a->registers && b->registers && a->registers != b->registers)
        buf_printf(out, ", registers %lld -> %lld", (long long)a->registers, (long long)b->registers);
    if (a->scratch != b->scratch)
        buf_printf(out, ", scratch %lld -> %lld", (long long)a->scratch, (long long)b->scratch);
    buf_putc(out, '\n');
}

static void pair_rows(Part *a, Part *b, Alike *alike, Buf *out)
{
    for (size_t i = 0; i < a->count; i++)
        for (size_t k = 0; k < b->count && !a->rows[i].paired; k++)
            if (!b->rows[k].paired && alike(&a->rows[i], &b->rows[k])) {
                a->rows[i].paired = b->rows[k].paired = true;
                print_pair(&a->rows[i], &b->rows[k], out);
            }
}

static void diff_parts(Part *a, Part *b, const char *target, Buf *out)
{
    Buf changes = {0};
    diff_texts(a->figures, b->figures, "  ", &changes);
    pair_rows(a, b, same_name, &changes);
    pair_rows(a, b, same_stem, &changes);
    for (size_t i = 0; i < a->count; i++)
        if (!a->rows[i].paired)
            buf_printf(&changes, "  - %s, %lld bytes\n", a->rows[i].name, (long long)a->rows[i].bytes);
    for (size_t i = 0; i < b->count; i++)
        if (!b->rows[i].paired)
            buf_printf(&changes, "  + %s, %lld bytes\n", b->rows[i].name, (long long)b->rows[i].bytes);
    if (changes.len)
        buf_printf(out, "target %s\n%s", target, changes.data);
    buf_free(&changes);
}

static int find_target(const Opened *o, const char *target)
{
    for (int i = 0; i < o->pack.parts_count; i++)
        if (!strcmp(o->pack.parts[i].target, target))
            return i;
    return -1;
}

static void diff_headers(const Opened *a, const Opened *b, Buf *out)
{
    const PackHeader *x = &a->pack.header, *y = &b->pack.header;
    if (x->fingerprint != y->fingerprint)
        buf_printf(out, "~ checkpoint: %016llx -> %016llx\n", (unsigned long long)x->fingerprint,
                   (unsigned long long)y->fingerprint);
    if (strcmp(x->weights, y->weights))
        buf_printf(out, "~ weights: %s -> %s\n", x->weights, y->weights);
    diff_texts(a->origin, b->origin, "", out);
    diff_texts(json_object_get(a->origin, "sources"), json_object_get(b->origin, "sources"), "", out);
    if (!out->len && x->signature != y->signature)
        buf_printf(out, "~ signature: %016llx -> %016llx\n", (unsigned long long)x->signature,
                   (unsigned long long)y->signature);
}

bool inspect_diff(const char *path_a, const char *path_b, Buf *out, bool *same, Err *err)
{
    Opened a, b = {0};
    Buf text = {0};
    bool ok = open_it(&a, path_a, err) && open_it(&b, path_b, err);
    if (ok) {
        diff_headers(&a, &b, &text);
        for (int i = 0; i < a.pack.parts_count; i++) {
            int k = find_target(&b, a.pack.parts[i].target);
            if (k < 0)
                buf_printf(&text, "- target %s\n", a.pack.parts[i].target);
            else
                diff_parts(&a.parts[i], &b.parts[k], a.pack.parts[i].target, &text);
        }
        for (int i = 0; i < b.pack.parts_count; i++)
            if (find_target(&a, b.pack.parts[i].target) < 0)
                buf_printf(&text, "+ target %s\n", b.pack.parts[i].target);
    }
    *same = !text.len;
    buf_put(out, text.data, text.len);
    buf_free(&text);
    close_it(&a);
    close_it(&b);
    return ok;
}
