/* api_fields.c - the fields of requests, one row each: OpenAI's API reference, and vllm/entrypoints/openai. */
#include <stdlib.h>
#include <string.h>

#include "api_request_int.h"

enum {
    CHAT = 1 << API_CHAT,
    TEXT = 1 << API_COMPLETION,
    EMBED = 1 << API_EMBEDDING,
    TOKENIZE = 1 << API_TOKENIZE,
    DETOKENIZE = 1 << API_DETOKENIZE,
    GENERATE = CHAT | TEXT,
    RUN = CHAT | TEXT | EMBED,
    ALL = RUN | TOKENIZE | DETOKENIZE,
};

typedef struct Field {
    const char *name;
    int kinds;
    const char *refusal; /* NULL: it is read elsewhere, or whatever it says changes nothing; else why it is refused */
    const char *neutral; /* values that are not refused, as compact JSON, with blanks between */
} Field;

#define UNCONSTRAINED "not supported yet: constrained decoding is missing"
#define TEXT_ONLY "this model takes and gives text only"

static const Field fields[] = {
    {"model", ALL, NULL, NULL},
    {"messages", CHAT | TOKENIZE, NULL, NULL},
    {"prompt", TEXT | TOKENIZE, NULL, NULL},
    {"input", EMBED, NULL, NULL},
    {"tokens", DETOKENIZE, NULL, NULL},
    /* how many tokens, and which */
    {"max_tokens", GENERATE, NULL, NULL},
    {"max_completion_tokens", GENERATE, NULL, NULL},
    {"min_tokens", GENERATE, NULL, NULL},
    {"n", GENERATE, NULL, NULL},
    {"best_of", GENERATE, NULL, NULL},
    {"seed", GENERATE, NULL, NULL},
    {"temperature", GENERATE, NULL, NULL},
    {"top_p", GENERATE, NULL, NULL},
    {"top_k", GENERATE, NULL, NULL},
    {"min_p", GENERATE, NULL, NULL},
    {"presence_penalty", GENERATE, NULL, NULL},
    {"frequency_penalty", GENERATE, NULL, NULL},
    {"repetition_penalty", GENERATE, NULL, NULL},
    {"logit_bias", GENERATE, NULL, NULL},
    {"allowed_token_ids", GENERATE, NULL, NULL},
    {"bad_words", GENERATE, NULL, NULL},
    {"stop", GENERATE, NULL, NULL},
    {"stop_token_ids", GENERATE, NULL, NULL},
    {"ignore_eos", GENERATE, NULL, NULL},
    {"use_beam_search", GENERATE, "beam search is not supported", "false"},
    {"length_penalty", GENERATE, "it belongs to beam search, which is not supported", "1 1.0"},
    {"early_stopping", GENERATE, "it belongs to beam search, which is not supported", "false"},
    {"logits_processors", GENERATE, "code of requests is not run", "[]"},
    {"repetition_detection", GENERATE, "not supported", NULL},
    {"thinking_token_budget", GENERATE, "not supported", NULL},
    /* constrained decoding */
    {"response_format", GENERATE, UNCONSTRAINED, "{\"type\":\"text\"}"},
    {"structured_outputs", GENERATE, UNCONSTRAINED, "{}"},
    {"guided_json", GENERATE, UNCONSTRAINED, NULL},
    {"guided_regex", GENERATE, UNCONSTRAINED, NULL},
    {"guided_choice", GENERATE, UNCONSTRAINED, NULL},
    {"guided_grammar", GENERATE, UNCONSTRAINED, NULL},
    {"guided_decoding_backend", GENERATE, UNCONSTRAINED, NULL},
    {"guided_whitespace_pattern", GENERATE, UNCONSTRAINED, NULL},
    {"structural_tag", GENERATE, UNCONSTRAINED, NULL},
    /* what the answer looks like */
    {"stream", GENERATE, NULL, NULL},
    {"stream_options", GENERATE, NULL, NULL},
    {"stream_interval", GENERATE, "every token is sent as it comes", "1"},
    {"logprobs", GENERATE, NULL, NULL},
    {"top_logprobs", CHAT, NULL, NULL},
    {"prompt_logprobs", GENERATE, NULL, NULL},
    {"logprob_token_ids", GENERATE, "not supported; use top_logprobs", NULL},
    {"echo", GENERATE, NULL, NULL},
    {"include_stop_str_in_output", GENERATE, NULL, NULL},
    {"skip_special_tokens", GENERATE | DETOKENIZE, NULL, NULL},
    {"spaces_between_special_tokens", GENERATE, "special tokens are not told apart from others", "true"},
    {"return_token_ids", GENERATE, NULL, NULL},
    {"return_tokens_as_token_ids", GENERATE, NULL, NULL},
    {"return_token_strs", TOKENIZE, NULL, NULL},
    {"include_reasoning", CHAT, NULL, NULL},
    {"encoding_format", EMBED, NULL, NULL},
    {"dimensions", EMBED, NULL, NULL},
    {"pooling", EMBED, NULL, NULL},
    {"normalize", EMBED, "embeddings always have length 1", "true"},
    {"use_activation", EMBED, "embeddings always have length 1", "true"},
    {"embed_dtype", EMBED, "embeddings are float32", "\"float32\""},
    {"endianness", EMBED, "embeddings are little-endian", "\"native\" \"little\""},
    {"verbosity", CHAT, "not supported; say it in a message", "\"medium\""},
    {"suffix", TEXT, "inserting before a suffix is not supported", "\"\""},
    /* what the prompt is made of */
    {"add_special_tokens", RUN | TOKENIZE, NULL, NULL},
    {"truncate_prompt_tokens", RUN, NULL, NULL},
    {"truncation_side", RUN, "prompts are cut at their beginning", "\"left\""},
    {"add_generation_prompt", CHAT | TOKENIZE, NULL, NULL},
    {"continue_final_message", CHAT | TOKENIZE, NULL, NULL},
    {"chat_template_kwargs", CHAT | TOKENIZE, NULL, NULL},
    {"chat_template", CHAT | TOKENIZE, "templates of requests are not run; only the server's own is used", NULL},
    {"documents", CHAT | TOKENIZE, NULL, NULL},
    {"reasoning_effort", CHAT | TOKENIZE, NULL, NULL},
    {"tools", CHAT | TOKENIZE, NULL, NULL},
    {"tool_choice", CHAT | TOKENIZE, NULL, NULL},
    {"parallel_tool_calls", CHAT, NULL, NULL},
    {"functions", CHAT, "deprecated and not supported; use tools", "[]"},
    {"function_call", CHAT, "deprecated and not supported; use tool_choice", "\"none\" \"auto\""},
    {"web_search_options", CHAT, "there is no web search", NULL},
    {"modalities", CHAT, TEXT_ONLY, "[\"text\"]"},
    {"audio", CHAT, TEXT_ONLY, NULL},
    {"mm_processor_kwargs", RUN | TOKENIZE, TEXT_ONLY, "{}"},
    {"media_io_kwargs", CHAT | TOKENIZE, TEXT_ONLY, "{}"},
    {"prompt_embeds", GENERATE, "prompts are text or token ids", NULL},
    /* queue and cache */
    {"priority", RUN, NULL, NULL},
    {"request_id", RUN, NULL, NULL},
    {"cache_salt", RUN, NULL, NULL},
    {"kv_transfer_params", GENERATE, "not supported", "{}"},
    {"vllm_xargs", GENERATE, "not supported", "{}"},
    /* notes of the client, hints about price and speed: nothing here depends on them */
    {"user", ALL, NULL, NULL},
    {"metadata", RUN, NULL, NULL},
    {"safety_identifier", RUN, NULL, NULL},
    {"service_tier", RUN, NULL, NULL},
    {"prompt_cache_key", RUN, NULL, NULL},
    {"prompt_cache_retention", RUN, NULL, NULL},
    {"prediction", CHAT, NULL, NULL},
    {"store", GENERATE, "nothing is stored here", "false"},
    {"extra_body", ALL, "it is an argument of the Python client; its members belong to the body itself", "{}"},
};

/* ---- refusals ---------------------------------------------------------------------------------------------------- */

/* Whether `value` is one of `neutral`. */
static bool asks_for_nothing(const json_t *value, const char *neutral)
{
    char *text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY | JSON_SORT_KEYS | JSON_REAL_PRECISION(17));
    size_t n = text ? strlen(text) : 0;
    bool found = false;
    for (const char *at = neutral; n && at && *at && !found; at += strcspn(at, " "), at += *at == ' ')
        found = strcspn(at, " ") == n && !memcmp(at, text, n);
    free(text);
    return found;
}

/* Edit distance (Levenshtein 1966) of two short names. */
static size_t distance(const char *a, const char *b)
{
    enum { MOST = 48 };
    size_t row[MOST + 1], n = strlen(a), m = strlen(b);
    if (n > MOST || m > MOST)
        return MOST;
    for (size_t j = 0; j <= m; j++)
        row[j] = j;
    for (size_t i = 1; i <= n; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= m; j++) {
            size_t swap = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            row[j] = MIN(swap, 1 + MIN(row[j], row[j - 1]));
        }
    }
    return row[m];
}

static bool unknown(ApiKind kind, const char *name, ApiError *e)
{
    const char *close = NULL;
    size_t best = MIN(3, strlen(name) / 3 + 1);
    for (size_t i = 0; i < COUNT(fields); i++) {
        size_t d = fields[i].kinds & 1 << kind && !fields[i].refusal ? distance(name, fields[i].name) : best;
        if (d < best) {
            best = d;
            close = fields[i].name;
        }
    }
    api_error_set(e, name, "unknown field \"%.64s\"%s%s%s", name, close ? "; did you mean \"" : "",
                  close ? close : ": take it out of the request", close ? "\"?" : "");
    e->code = "unknown_parameter";
    return false;
}

bool api_fields_check(ApiKind kind, const json_t *body, ApiError *e)
{
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)body, name, value) {
        if (json_is_null(value))
            continue;
        const Field *f = fields, *end = fields + COUNT(fields);
        while (f < end && (strcmp(f->name, name) != 0 || !(f->kinds & 1 << kind)))
            f++;
        if (f == end)
            return unknown(kind, name, e);
        if (!f->refusal || asks_for_nothing(value, f->neutral))
            continue;
        api_error_set(e, name, "\"%s\": %s%s", name, f->refusal, strchr(f->refusal, ';') ? "" : "; leave it out");
        e->code = "unsupported_parameter";
        return false;
    }
    return true;
}
