/* compare_logits.c - how far a device's logits are from the host's: two files that `blade logits --all` printed for the
 * same token ids.
 *
 * usage: compare_logits HOST DEVICE TOLERANCE
 *
 * For each row the error is |device - host| / |host| (Euclidean norms). Prints the rows, the largest error, and
 * how many rows have the host's greedy token; where one has not, the host's own lead of its token tells how near
 * a tie it was. The status is 0 when no error is above TOLERANCE and the greedy token is another only where the
 * difference of the two rows explains it. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"

enum { MOST_BYTES = 1 << 28 };

typedef struct Rows {
    float *at;
    int64_t rows, columns;
} Rows;

typedef struct Total {
    int64_t rows, same;
    double error, lead; /* the largest; of the host's token where another was chosen */
    bool unexplained;
} Total;

static int digit(char c)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *at = c ? strchr(digits, c) : NULL;
    return at ? (int)(at - digits) : -1;
}

/* Decodes base64 into `bytes` bytes; false when the text has fewer. */
static bool decode(const char *text, void *out, size_t bytes)
{
    uint8_t *p = out;
    uint32_t bits = 0;
    int have = 0;
    for (size_t n = 0; n < bytes;) {
        int v = digit(*text++);
        if (v < 0)
            return false;
        bits = bits << 6 | (uint32_t)v;
        have += 6;
        if (have >= 8)
            p[n++] = (uint8_t)(bits >> (have -= 8));
    }
    return true;
}

static bool read_rows(const char *line, size_t n, const char *path, Rows *r, Err *err)
{
    json_t *o = json_parse(line, n, path, err);
    const json_t *shape = json_object_get(o, "shape");
    const char *text = json_string_value(json_object_get(o, "logits_b64"));
    r->rows = json_integer_value(json_array_get(shape, 0));
    r->columns = json_integer_value(json_array_get(shape, 1));
    bool ok = o && text && r->rows > 0 && r->columns > 0 && r->rows <= MOST_BYTES / 4 / r->columns;
    r->at = ok ? xcalloc((size_t)(r->rows * r->columns), sizeof *r->at) : NULL;
    ok = ok && decode(text, r->at, (size_t)(r->rows * r->columns) * sizeof *r->at);
    json_decref(o);
    return ok || (err->text[0] ? false : err_set(err, "%s: a line without logits", path));
}

static int64_t highest(const float *row, int64_t n)
{
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++)
        if (row[i] > row[best])
            best = i;
    return best;
}

static void compare_row(const float *want, const float *got, int64_t n, Total *t)
{
    double square = 0, norm = 0, most = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = (double)got[i] - want[i];
        square += d * d;
        norm += (double)want[i] * want[i];
        most = MAX(most, fabs(d));
    }
    double error = sqrt(square / MAX(norm, 1e-30));
    t->error = error <= t->error ? t->error : error; /* NaN stays */
    int64_t host = highest(want, n), device = highest(got, n);
    double lead = (double)want[host] - want[device];
    t->rows++;
    t->same += host == device;
    t->lead = MAX(t->lead, lead);
    t->unexplained = t->unexplained || !(lead <= 2 * most);
}

static bool compare(const Buf *host, const Buf *device, char *const *paths, Total *t, Err *err)
{
    const char *a = host->data, *b = device->data;
    while (a && b && *a && *b) {
        size_t n = strcspn(a, "\n"), m = strcspn(b, "\n");
        Rows want = {0}, got = {0};
        bool ok = read_rows(a, n, paths[0], &want, err) && read_rows(b, m, paths[1], &got, err);
        if (ok && (want.rows != got.rows || want.columns != got.columns))
            ok = err_set(err, "%s: %lld rows, the host has %lld", paths[1], (long long)got.rows, (long long)want.rows);
        for (int64_t i = 0; ok && i < want.rows; i++)
            compare_row(want.at + i * want.columns, got.at + i * got.columns, want.columns, t);
        free(want.at);
        free(got.at);
        if (!ok)
            return false;
        a += n + (a[n] != 0);
        b += m + (b[m] != 0);
    }
    return (a && b && !*a && !*b && t->rows) || err_set(err, "%s: not as many sequences as the host has", paths[1]);
}

int main(int argc, char **argv)
{
    Err err = {0};
    Buf host = {0}, device = {0};
    Total t = {0};
    if (argc != 4) {
        fputs("usage: compare_logits HOST DEVICE TOLERANCE\n", stderr);
        return 2;
    }
    bool ok = file_read(&host, argv[1], MOST_BYTES, &err) && file_read(&device, argv[2], MOST_BYTES, &err) &&
              compare(&host, &device, argv + 1, &t, &err);
    buf_free(&host);
    buf_free(&device);
    if (!ok) {
        printf("%s\n", err.text);
        return 1;
    }
    printf("%lld rows, largest error %.2g, %lld with the host's token%s", (long long)t.rows, t.error, (long long)t.same,
           t.same < t.rows ? "" : "\n");
    if (t.same < t.rows)
        printf(" (where not, it led by at most %.2g)\n", t.lead);
    return !(t.error <= atof(argv[3])) || t.unexplained;
}
