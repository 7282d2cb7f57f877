/* fake_bladegen.c - a libbladegen.so for the tests of the pack cache: it "builds" the toy model. What it does is
 * chosen by the content of the file MODEL/behaviour: "ok", "fail", "slow", "unsigned"; each build adds a line to
 * MODEL/log. */
#include "bladegen.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "checkpoint.h"
#include "signature.h"
#include "toy.h"

static const char *behaviour(const char *dir, char *out, int size)
{
    char path[5000];
    snprintf(path, sizeof path, "%s/behaviour", dir);
    FILE *f = fopen(path, "r");
    if (!f || !fgets(out, size, f))
        snprintf(out, (size_t)size, "ok");
    if (f)
        fclose(f);
    return out;
}

static void log_build(const char *dir)
{
    char path[5000];
    snprintf(path, sizeof path, "%s/log", dir);
    FILE *f = fopen(path, "a");
    if (f) {
        fputs("built\n", f);
        fclose(f);
    }
}

int bladegen_build(const BladegenRequest *q, char *err, size_t err_size)
{
    char how[32], dir[4096];
    snprintf(dir, sizeof dir, "%s", q->model);
    char *slash = strstr(dir, "/config.json");
    if (slash)
        *slash = 0;
    behaviour(dir, how, sizeof how);
    log_build(dir);
    if (!strcmp(how, "fail")) {
        snprintf(err, err_size, "schedules/host/matmul.lua:12: no such primitive");
        return 1;
    }
    if (!strcmp(how, "slow"))
        usleep(300000);
    for (int i = 1; q->progress && i <= 3; i++)
        q->progress(q->context, i, 3, "toy kernel");
    Err why = {0};
    Checkpoint *c = slash ? ckpt_open_config(q->model, &why) : ckpt_open(q->model, &why);
    PackHeader h = {.signature = strcmp(how, "unsigned") ? source_signature(q->source, FAKE_PATH, q->device) : 5};
    snprintf(h.target, sizeof h.target, "%s", q->target);
    snprintf(h.weights, sizeof h.weights, "%s", q->weights);
    h.fingerprint = c ? ckpt_fingerprint(c) : 0;
    ckpt_close(c);
    if (toy_pack(q->output, &h, &why))
        return 0;
    snprintf(err, err_size, "%s", why.text);
    return 1;
}

unsigned long long bladegen_signature(const char *source)
{
    return source_signature(source, FAKE_PATH, NULL);
}
