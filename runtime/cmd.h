/* cmd.h - what the commands share: the options that describe how to run a model, and a session with all that is loaded.
 *
 * A command is `int cmd_NAME(int argc, char **argv)` in cmd_NAME.c: argv[0] is the command's name, the result the exit
 * status: 0, 1 after an error (message on standard error), 2 after a mistake on the command line.
 */
#ifndef BLADE_CMD_H
#define BLADE_CMD_H

#include <math.h>

#include "engine.h"
#include "generation.h"
#include "options.h"
#include "timing.h"
#include "tokenizer.h"

int cmd_generate(int argc, char **argv);
int cmd_chat(int argc, char **argv);
int cmd_tokenize(int argc, char **argv);
int cmd_perplexity(int argc, char **argv);
int cmd_logits(int argc, char **argv);
int cmd_plan(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int cmd_serve(int argc, char **argv);
int cmd_load(int argc, char **argv);

typedef struct RunOptions {
    const char *weights, *kv, *pack, *cache; /* NULL: not said */
    const char *device;    /* NULL: auto */
    int64_t threads, max_num_seqs, max_num_batched_tokens, max_model_len, kv_cache_memory;
    int64_t max_outputs;   /* rows of logits a step; set by commands, not by users */
    int64_t shuffle_pages, bucket;
    bool no_prefix_cache;
    bool no_graphs;
    bool random_weights;   /* MODEL is a config.json; set by commands, as queue */
    bool queue;            /* the device runs a step while the next one is prepared; set by commands */
} RunOptions;

#define RUN_OPTIONS_DEFAULT {.bucket = -1}

/* Rows of an option table for a RunOptions `o`. Those without help are for tests. */
#define RUN_OPTION_ROWS(o)                                                                                             \
    {"weights", 0, OPT_STRING, &(o)->weights, "W",                                                                     \
     "auto (as stored), f32, bf16, f16, w8, w4 or w4a16:\nweights are rounded to it while loading"},                   \
    {"kv-cache-dtype", 0, OPT_STRING, &(o)->kv, "T",                                                                   \
     "of the KV cache: auto (what the model computes in),\nf32, f16, bf16 or int8 (half of bf16)"},                    \
    {"device", 0, OPT_STRING, &(o)->device, "D",                                                                       \
     "auto, host, cuda[:N] or hip[:N] (default auto: the first\nNVIDIA GPU, else the first of AMD, else the host)"},   \
    {"no-graphs", 0, OPT_FLAG, &(o)->no_graphs, NULL, "on a GPU: launch the kernels of a step one by one"},            \
    {"threads", 't', OPT_INT, &(o)->threads, "N", "threads (default: one a core)", 1, 1024},                           \
    {"pack", 0, OPT_STRING, &(o)->pack, "FILE", "use this pack; no generator is needed then"},                         \
    {"cache", 0, OPT_STRING, &(o)->cache, "DIR", "folder of built packs (default: ~/.cache/blade)"},                   \
    {"max-num-seqs", 0, OPT_INT, &(o)->max_num_seqs, "N", "sequences that run at once (default 64)", 1, 65536},        \
    {"max-num-batched-tokens", 0, OPT_INT, &(o)->max_num_batched_tokens, "N",                                          \
     "tokens of a step: prompts are computed in pieces\nof at most so many (default 512)", 1, 1 << 20},                \
    {"max-model-len", 0, OPT_INT, &(o)->max_model_len, "N",                                                            \
     "tokens of a sequence, prompt and continuation\n(default: the model's context, or what fits)", 1, INT32_MAX},     \
    {"kv-cache-memory", 0, OPT_BYTES, &(o)->kv_cache_memory, "SIZE", "memory of the KV cache, e.g. 4G", 1, 0x1p62},    \
    {"no-prefix-cache", 0, OPT_FLAG, &(o)->no_prefix_cache, NULL, "compute equal beginnings of prompts again"},        \
    {"timing", 0, OPT_FLAG, &timing_wanted, NULL, "print where the time of the start went"},                           \
    {"shuffle-pages", 0, OPT_INT, &(o)->shuffle_pages, "SEED", NULL},                                                  \
    {"bucket", 0, OPT_INT, &(o)->bucket, "N", NULL}

ModelOptions run_options_apply(const RunOptions *o, const char *model);
/* Loads with progress on a terminal and warnings on standard error; NULL and a message on failure. */
Model *cmd_load_model(ModelOptions o, Err *err);

/* What a command line says about sampling; numbers are NaN or INT64_MIN where it says nothing. */
typedef struct SamplingFlags {
    double temperature, top_p, min_p, repetition, presence, frequency;
    int64_t max_tokens, min_tokens, top_k, seed, logprobs;
    bool ignore_eos;
    OptStrings stops;
} SamplingFlags;

#define SAMPLING_FLAGS_DEFAULT                                                                                         \
    {.temperature = NAN, .top_p = NAN, .min_p = NAN, .repetition = NAN, .presence = NAN, .frequency = NAN,             \
     .top_k = INT64_MIN, .seed = INT64_MIN, .logprobs = -1}

#define SAMPLING_OPTION_ROWS(f)                                                                                        \
    {"temperature", 0, OPT_REAL, &(f)->temperature, "T",                                                               \
     "0: always the most likely token (default: what\ngeneration_config.json says, otherwise 0)", 0, 100},             \
    {"top-k", 0, OPT_INT, &(f)->top_k, "K", "draw from the K most likely tokens; 0: off", -1, INT32_MAX},              \
    {"top-p", 0, OPT_REAL, &(f)->top_p, "P", "draw from the most likely tokens that make up P", 0, 1},                 \
    {"min-p", 0, OPT_REAL, &(f)->min_p, "P", "draw from tokens with P times the best one's probability", 0, 1},        \
    {"seed", 0, OPT_INT, &(f)->seed, "N", "of the draws (default: random)", -0x1p62, 0x1p62},                          \
    {"repetition-penalty", 0, OPT_REAL, &(f)->repetition, "R",                                                         \
     "divides the logits of tokens that are there already", 0.01, 100},                                                \
    {"presence-penalty", 0, OPT_REAL, &(f)->presence, "A", "subtracted for tokens generated already", -2, 2},          \
    {"frequency-penalty", 0, OPT_REAL, &(f)->frequency, "A", "subtracted each time a token was generated", -2, 2},     \
    {"stop", 0, OPT_STRINGS, &(f)->stops, "TEXT", "end where this text appears; may be repeated"}

/* The parameters for requests: the checkpoint's defaults, then the flags; a random seed unless one was given. The
 * result is the caller's to free. */
RequestParams sampling_flags_apply(const SamplingFlags *f, const SamplingParams *defaults);

typedef struct Session {
    char *dir; /* the folder that the checkpoint's files are in */
    Tokenizer *tokenizer; /* NULL for a config.json alone */
    Generation generation; /* the checkpoint's defaults and end-of-sequence tokens */
    Model *model;
    Engine *engine;
} Session;

/* Reads what is read in no time, tokenizer and generation defaults, so that mistakes show before the weights are
 * loaded. */
bool session_begin(Session *s, const char *model_dir, Err *err);
/* The same for a config.json alone, whose weights are then random: there is no tokenizer. */
bool session_begin_config(Session *s, const char *config, Err *err);
/* Then loads model and engine, with progress on a terminal and warnings on standard error. Whether they work or not,
 * session_close cleans up. */
bool session_open(Session *s, const char *model_dir, const RunOptions *o, Err *err);
/* The same with options of the engine's that no command line says. */
bool session_open_engine(Session *s, const char *model_dir, const RunOptions *o, EngineOptions *e, Err *err);
void session_close(Session *s); /* all zero is allowed */

/* Steps the engine until no request is left. */
bool session_run(Session *s, Err *err);

/* Prints "NAME: message" to standard error; returns 1. */
int cmd_fail(const char *name, const Err *err);

/* Flushes standard output; false and a message when it can't be written (a full disk). */
bool cmd_flush(Err *err);

/* Appends text as valid UTF-8: every wrong byte becomes U+FFFD. */
void cmd_put_utf8(Buf *out, const char *text, size_t len);
json_t *cmd_json_text(const char *text, size_t len);
/* Prints on one line, keys in the order of insertion. Releases the value. */
void cmd_print_json(json_t *value);

#endif
