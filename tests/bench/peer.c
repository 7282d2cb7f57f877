/* peer.c - llama.cpp measured as `blade bench --stdin` measures Blade: a line in, a line of JSON out.
 *
 *     peer MODEL.gguf --threads N --seqs N --context N --steps N [--no-flash-attention]
 *
 *     prefill TOKENS         one prompt, logits of its last token
 *     decode BATCH CONTEXT   median of the steps in which each of BATCH sequences with CONTEXT tokens gets another one
 *     logits ID ID ...       the five most likely tokens after these
 *
 * One source for upstream llama.cpp and for ik_llama.cpp (-DPEER_IK), built by vs_llama_cpp.py against the peer's own
 * llama.h. Weights are repacked and flash attention is on; sampling is left out, in the peer's favour. A context is
 * computed once, as a prompt, and copied to the other sequences.
 */
#include <llama.h>

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { BATCH = 2048, UBATCH = 512, MOST_STEPS = 4096, MOST_SAVED = 64 };

typedef struct Options {
    const char *model;
    int threads, seqs, context, steps;
    bool flash_attention;
} Options;

/* The KV cache of one sequence of so many tokens, to be copied. */
typedef struct Saved {
    int context;
    size_t bytes;
    uint8_t *data;
} Saved;

static struct llama_context *ctx;
static const struct llama_vocab *vocab;
static struct llama_batch batch;
static Saved saved[MOST_SAVED];
static int saved_count;

static void die(const char *what)
{
    fprintf(stderr, "peer: %s\n", what);
    exit(1);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- what differs between the two -------------------------------------------------------------------------------- */

#ifdef PEER_IK
static struct llama_model_params model_params(const Options *o)
{
    struct llama_model_params p = llama_model_default_params();
    p.use_mmap = false;
    p.repack_tensors = true; /* -rtr 1 */
    p.flash_attn = o->flash_attention;
    return p;
}

static void set_flash_attention(struct llama_context_params *p, bool on)
{
    p->flash_attn = on;
}

static void forget(void)
{
    llama_kv_cache_clear(ctx);
}

static size_t state_size(void)
{
    return llama_state_seq_get_size(ctx, 0, 0);
}

static size_t state_get(uint8_t *data, size_t bytes)
{
    return llama_state_seq_get_data(ctx, data, bytes, 0, 0);
}

static size_t state_set(const uint8_t *data, size_t bytes, llama_seq_id seq)
{
    return llama_state_seq_set_data(ctx, data, bytes, seq, 0);
}
#else
static struct llama_model_params model_params(const Options *o)
{
    (void)o;
    return llama_model_default_params(); /* repacks by itself */
}

static void set_flash_attention(struct llama_context_params *p, bool on)
{
    p->flash_attn_type = on ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;
}

static void forget(void)
{
    llama_memory_clear(llama_get_memory(ctx), false);
}

static size_t state_size(void)
{
    return llama_state_seq_get_size(ctx, 0);
}

static size_t state_get(uint8_t *data, size_t bytes)
{
    return llama_state_seq_get_data(ctx, data, bytes, 0);
}

static size_t state_set(const uint8_t *data, size_t bytes, llama_seq_id seq)
{
    return llama_state_seq_set_data(ctx, data, bytes, seq);
}
#endif

/* ---- steps ------------------------------------------------------------------------------------------------------- */

static void add(llama_token token, int position, llama_seq_id seq, bool output)
{
    int i = batch.n_tokens++;
    batch.token[i] = token;
    batch.pos[i] = position;
    batch.n_seq_id[i] = 1;
    batch.seq_id[i][0] = seq;
    batch.logits[i] = output;
}

/* The same tokens as runtime/bench.c. */
static llama_token some_token(int seq, int position)
{
    return (llama_token)(((int64_t)seq * 7919 + (int64_t)position * 104729 + 1) % llama_vocab_n_tokens(vocab));
}

static double decode(void)
{
    double start = now();
    if (llama_decode(ctx, batch))
        die("llama_decode failed");
    llama_synchronize(ctx);
    double seconds = now() - start;
    batch.n_tokens = 0;
    return seconds;
}

/* Seconds of tokens from .. to-1 of sequence 0. */
static double compute_prompt(int from, int to)
{
    double seconds = 0;
    for (int i = from; i < to; i++) {
        add(some_token(0, i), i, 0, i == to - 1);
        if (batch.n_tokens == BATCH || i == to - 1)
            seconds += decode();
    }
    return seconds;
}

static const Saved *find_saved(int context)
{
    for (int i = 0; i < saved_count; i++)
        if (saved[i].context == context)
            return &saved[i];
    return NULL;
}

/* Computes a prompt of this length after the longest one saved that is shorter, and saves it. */
static const Saved *save_prompt(int context)
{
    const Saved *start = NULL;
    for (int i = 0; i < saved_count; i++)
        if (saved[i].context < context && (!start || saved[i].context > start->context))
            start = &saved[i];
    if (saved_count == MOST_SAVED)
        die("too many different contexts");
    forget();
    if (start && !state_set(start->data, start->bytes, 0))
        die("a saved sequence could not be restored");
    compute_prompt(start ? start->context : 0, context);
    Saved *s = &saved[saved_count++];
    *s = (Saved){context, state_size(), NULL};
    s->data = malloc(s->bytes);
    if (!s->data || !state_get(s->data, s->bytes))
        die("a sequence could not be saved");
    return s;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void answer_prefill(int tokens)
{
    forget();
    printf("{\"tokens\":%d,\"seconds\":%.9g}\n", tokens, compute_prompt(0, tokens));
}

static void answer_decode(int seqs, int context, int steps)
{
    const Saved *s = find_saved(context);
    if (!s)
        s = save_prompt(context);
    forget();
    for (int seq = 0; seq < seqs; seq++)
        if (!state_set(s->data, s->bytes, seq))
            die("the sequences do not fit the KV cache");
    static double times[MOST_STEPS];
    for (int i = -1; i < steps; i++) { /* the first one warms up */
        for (int seq = 0; seq < seqs; seq++)
            add(some_token(seq, context + i + 1), context + i + 1, seq, true);
        double seconds = decode();
        if (i >= 0)
            times[i] = seconds;
    }
    qsort(times, (size_t)steps, sizeof *times, by_value);
    printf("{\"tokens\":%d,\"seconds\":%.9g}\n", seqs, times[steps / 2]);
}

/* {"top": [[id, logit], ...]} after the ids in the text. */
static void answer_logits(const char *text)
{
    enum { TOP = 5 };
    int id, used, position = 0, n = llama_vocab_n_tokens(vocab), best[TOP];
    forget();
    for (; sscanf(text, "%d%n", &id, &used) == 1 && batch.n_tokens < BATCH; text += used)
        add(id, position++, 0, false);
    if (!position)
        die("logits of no tokens");
    batch.logits[batch.n_tokens - 1] = true;
    decode();
    const float *logits = llama_get_logits_ith(ctx, -1);
    for (int i = 0; i < TOP; i++) {
        best[i] = -1;
        for (int j = 0; j < n; j++) {
            bool taken = false;
            for (int k = 0; k < i; k++)
                taken |= best[k] == j;
            if (!taken && (best[i] < 0 || logits[j] > logits[best[i]]))
                best[i] = j;
        }
        printf("%s[%d,%.6g]", i ? "," : "{\"top\":[", best[i], logits[best[i]]);
    }
    puts("]}");
}

/* ---- start ------------------------------------------------------------------------------------------------------- */

static void load(const Options *o)
{
    struct llama_model *model = llama_model_load_from_file(o->model, model_params(o));
    if (!model)
        die("the model could not be loaded");
    vocab = llama_model_get_vocab(model);
    struct llama_context_params p = llama_context_default_params();
    p.n_ctx = (uint32_t)(o->seqs * o->context);
    p.n_batch = BATCH;
    p.n_ubatch = UBATCH;
    p.n_seq_max = (uint32_t)o->seqs;
    p.n_threads = p.n_threads_batch = o->threads;
    set_flash_attention(&p, o->flash_attention);
    ctx = llama_init_from_model(model, p);
    if (!ctx)
        die("no context");
    batch = llama_batch_init(BATCH, 0, 1);
}

static Options read_options(int argc, char **argv)
{
    Options o = {.threads = 1, .seqs = 1, .context = 512, .steps = 16, .flash_attention = true};
    for (int i = 1; i < argc; i++) {
        int value = i + 1 < argc ? atoi(argv[i + 1]) : 0;
        int *number = !strcmp(argv[i], "--threads") ? &o.threads : !strcmp(argv[i], "--seqs") ? &o.seqs
                    : !strcmp(argv[i], "--context") ? &o.context : !strcmp(argv[i], "--steps") ? &o.steps : NULL;
        if (number && value > 0) {
            *number = value;
            i++;
        } else if (!strcmp(argv[i], "--no-flash-attention")) {
            o.flash_attention = false;
        } else if (!o.model && argv[i][0] != '-') {
            o.model = argv[i];
        } else {
            die("usage: peer MODEL.gguf --threads N --seqs N --context N --steps N [--no-flash-attention]");
        }
    }
    if (!o.model || o.steps > MOST_STEPS)
        die("a model, and at most 4096 steps");
    return o;
}

int main(int argc, char **argv)
{
    Options o = read_options(argc, argv);
    llama_backend_init();
    load(&o);
    static char line[1 << 16];
    for (int a, b; fgets(line, sizeof line, stdin); fflush(stdout)) {
        if (sscanf(line, "prefill %d", &a) == 1 && a > 0 && a <= o.context)
            answer_prefill(a);
        else if (sscanf(line, "decode %d %d", &a, &b) == 2 && a > 0 && a <= o.seqs && b > 0 && b + o.steps < o.context)
            answer_decode(a, b, o.steps);
        else if (!strncmp(line, "logits ", 7))
            answer_logits(line + 7);
        else
            die("expected 'prefill TOKENS', 'decode BATCH CONTEXT' or 'logits ID ...' within the limits given");
    }
}
