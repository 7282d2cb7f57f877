/* Bodies of API requests: every field's values, what is refused and under which name, messages made ready for the chat
 * template, hostile JSON. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api_request.h"
#include "test.h"

/* a b c, a blank, " a" and "ab" as tokens. */
static const char tokenizer_json[] =
    "{\"model\":{\"type\":\"BPE\",\"merges\":[\"\\u0120 a\",\"a b\"],"
    "\"vocab\":{\"a\":0,\"b\":1,\"c\":2,\"\\u0120\":3,\"\\u0120a\":4,\"ab\":5}},"
    "\"decoder\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":true,\"use_regex\":true},"
    "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":true}}";

static const char *const names[] = {"first", "second", NULL};
static ApiModel model = {.names = names, .vocab = 100, .max_model_len = 1000, .has_template = true};

static int setup(void **state)
{
    (void)state;
    Err err;
    Tokenizer *t = tok_parse(tokenizer_json, sizeof tokenizer_json - 1, NULL, 0, &err);
    model.tokenizer = t;
    model.defaults = sampling_defaults();
    model.defaults.temperature = 0.6;
    model.defaults.top_k = 20;
    return t ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    tok_free((Tokenizer *)model.tokenizer);
    return 0;
}

static ApiRequest read_ok(ApiKind kind, const char *body)
{
    ApiRequest r;
    ApiError e;
    if (!api_request_read(kind, body, strlen(body), &model, &r, &e))
        fail_msg("%s: %s", body, e.err.text);
    return r;
}

/* The error of a body that must be refused, under the name `param`. */
static ApiError read_error(ApiKind kind, const char *body, size_t len, const char *param)
{
    ApiRequest r;
    ApiError e;
    if (api_request_read(kind, body, len, &model, &r, &e))
        fail_msg("%.300s was accepted", body);
    if (strcmp(e.param, param) != 0 || !e.err.text[0] || e.status < 400 || !e.type)
        fail_msg("%.300s: \"%s\" and not \"%s\" is wrong: %s", body, e.param, param, e.err.text);
    return e;
}

#define HELLO "\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}]"

/* A minimal body of each kind, for further members behind it. */
static const char *const minimal[] = {
    [API_CHAT] = "{" HELLO,          [API_COMPLETION] = "{\"prompt\":\"a\"",  [API_EMBEDDING] = "{\"input\":\"a\"",
    [API_TOKENIZE] = "{\"prompt\":\"a\"", [API_DETOKENIZE] = "{\"tokens\":[1]",
};

/* The minimal body with `members`, e.g. "\"n\":2". */
static const char *with(ApiKind kind, const char *members)
{
    static char body[4096];
    snprintf(body, sizeof body, "%s,%s}", minimal[kind], members);
    return body;
}

/* ---- what is accepted -------------------------------------------------------------------------------------------- */

static void chat_defaults(void **state)
{
    (void)state;
    ApiRequest r = read_ok(API_CHAT, "{" HELLO "}"), other;
    assert_string_equal(r.model, "first");
    assert_true(r.params.params.temperature == 0.6 && r.params.params.top_k == 20);
    assert_true(r.params.params.max_tokens == -1 && r.params.params.logprobs == -1 && !r.has_seed);
    assert_true(r.n == 1 && r.prompt_logprobs == -1 && r.truncate == -1 && r.priority == 0 && r.salt == 0);
    assert_true(!r.stream && !r.echo && !r.keep_special && !r.add_special && !r.tools && r.parallel_calls);
    assert_true(r.include_reasoning && !r.echo_text && !r.request_id && r.prompts.len == 0);
    assert_true(json_is_true(json_object_get(r.body, "add_generation_prompt")));
    other = read_ok(API_CHAT, "{" HELLO "}");
    assert_true(r.params.params.seed != other.params.params.seed);
    api_request_free(&r);
    api_request_free(&other);
}

static void chat_fields(void **state)
{
    (void)state;
    ApiRequest r = read_ok(API_CHAT,
        "{\"model\":\"second\"," HELLO ",\"temperature\":0.5,\"top_p\":0.9,\"top_k\":-1,\"min_p\":0.1,\"seed\":-5,"
        "\"n\":3,\"best_of\":3,\"max_tokens\":9,\"max_completion_tokens\":7.0,\"min_tokens\":2,"
        "\"logprobs\":true,\"top_logprobs\":4,\"stop\":[\"x\",\"yz\"],\"stop_token_ids\":[5],"
        "\"ignore_eos\":true,\"logit_bias\":{\"3\":-100},\"allowed_token_ids\":[0,99],\"bad_words\":[\"a\"],"
        "\"presence_penalty\":1,\"frequency_penalty\":-1,\"repetition_penalty\":1.5,\"stream\":true,"
        "\"stream_options\":{\"include_usage\":true,\"continuous_usage_stats\":true,"
        "\"include_obfuscation\":false},\"skip_special_tokens\":false,\"include_stop_str_in_output\":true,"
        "\"return_token_ids\":true,\"return_tokens_as_token_ids\":true,\"truncate_prompt_tokens\":-1,"
        "\"priority\":-3,\"cache_salt\":\"me\",\"request_id\":\"r-1\",\"include_reasoning\":false,"
        "\"parallel_tool_calls\":false,\"add_special_tokens\":true,\"reasoning_effort\":\"low\","
        "\"user\":\"u\",\"metadata\":{\"a\":\"b\"},\"store\":false,\"service_tier\":\"auto\","
        "\"response_format\":{\"type\":\"text\"},\"modalities\":[\"text\"]}");
    const SamplingParams *p = &r.params.params;
    assert_string_equal(r.model, "second");
    assert_string_equal(r.request_id, "r-1");
    assert_true(p->temperature == 0.5 && p->top_p == 0.9 && p->top_k == -1 && p->min_p == 0.1);
    assert_true(r.has_seed && p->seed == (uint64_t)-5 && r.n == 3 && p->max_tokens == 7 && p->min_tokens == 2);
    assert_true(p->logprobs == 4 && r.params.stops.len == 2 && p->stop_tokens.at[0] == 5 && p->ignore_eos);
    assert_true(p->logit_bias.at[0].token == 3 && p->logit_bias.at[0].bias == -100 && p->allowed_tokens.at[1] == 99);
    assert_true(p->bad_words.len == 4 && p->presence_penalty == 1 && p->frequency_penalty == -1);
    assert_true(p->repetition_penalty == 1.5 && r.stream && r.include_usage && r.continuous_usage);
    assert_true(r.keep_special && r.include_stop && r.return_token_ids && r.tokens_as_ids && r.truncate == -2);
    assert_true(r.priority == -3 && r.salt && !r.include_reasoning && !r.parallel_calls && r.add_special);
    const json_t *kwargs = json_object_get(r.body, "chat_template_kwargs");
    assert_string_equal(json_string_value(json_object_get(kwargs, "reasoning_effort")), "low");
    api_request_free(&r);
}

static void completions(void **state)
{
    (void)state;
    ApiRequest r = read_ok(API_COMPLETION, "{\"prompt\":\"a\"}");
    assert_true(r.prompts.len == 1 && r.prompts.at[0].text_len == 1 && !r.prompts.at[0].ids.len);
    assert_true(r.params.params.max_tokens == 16 && r.add_special);
    api_request_free(&r);
    r = read_ok(API_COMPLETION, "{\"prompt\":[\"a\",\"\"],\"max_tokens\":0,\"echo\":true,\"logprobs\":3,"
                                "\"truncate_prompt_tokens\":7}");
    assert_true(r.prompts.len == 2 && r.prompts.at[1].text_len == 0 && r.prompts.at[1].text);
    assert_true(r.params.params.max_tokens == 0 && r.prompt_logprobs == 3 && r.params.params.logprobs == 3);
    assert_true(r.truncate == 7);
    api_request_free(&r);
    r = read_ok(API_COMPLETION, "{\"prompt\":[1,99,0]}");
    assert_true(r.prompts.len == 1 && !r.prompts.at[0].text && r.prompts.at[0].ids.len == 3);
    assert_int_equal(r.prompts.at[0].ids.at[1], 99);
    api_request_free(&r);
    r = read_ok(API_COMPLETION, "{\"prompt\":[[1],[2,3]],\"seed\":-9223372036854775808,\"prompt_logprobs\":0}");
    assert_true(r.prompts.len == 2 && r.prompts.at[1].ids.at[1] == 3 && r.prompt_logprobs == 0);
    assert_true(r.params.params.seed == 1ull << 63);
    api_request_free(&r);
    r = read_ok(API_COMPLETION, "{\"prompt\":\"a\",\"seed\":9223372036854775807}");
    assert_true(r.params.params.seed == INT64_MAX);
    api_request_free(&r);
}

static void other_kinds(void **state)
{
    (void)state;
    ApiRequest r = read_ok(API_EMBEDDING, "{\"input\":[\"a\",\"b\"],\"encoding_format\":\"base64\",\"dimensions\":5,"
                                          "\"pooling\":\"last\"}");
    assert_true(r.prompts.len == 2 && r.base64 && r.dimensions == 5 && r.pooling == POOLING_LAST && r.add_special);
    assert_int_equal(r.params.params.max_tokens, 0);
    api_request_free(&r);
    r = read_ok(API_EMBEDDING, "{\"input\":[3,4],\"add_special_tokens\":false}");
    assert_true(!r.base64 && r.dimensions == 0 && r.pooling == POOLING_NONE && !r.add_special);
    api_request_free(&r);
    r = read_ok(API_TOKENIZE, "{\"prompt\":\"a b\",\"return_token_strs\":true}");
    assert_true(r.prompts.len == 1 && r.return_strings && r.add_special);
    api_request_free(&r);
    r = read_ok(API_TOKENIZE, "{" HELLO ",\"add_generation_prompt\":false}");
    assert_true(r.prompts.len == 0 && !r.add_special);
    assert_true(json_is_false(json_object_get(r.body, "add_generation_prompt")));
    api_request_free(&r);
    r = read_ok(API_DETOKENIZE, "{\"tokens\":[3,4]}");
    assert_true(r.prompts.len == 1 && r.prompts.at[0].ids.len == 2 && r.keep_special);
    api_request_free(&r);
    r = read_ok(API_DETOKENIZE, "{\"tokens\":[],\"skip_special_tokens\":true}");
    assert_true(r.prompts.len == 1 && r.prompts.at[0].ids.len == 0 && !r.keep_special);
    api_request_free(&r);
}

/* Fields of the references: none is unknown, null is as good as nothing. */
static void known_fields(void **state)
{
    (void)state;
    static const struct {
        ApiKind kind;
        const char *names;
    } rows[] = {
        {API_CHAT, "model audio frequency_penalty function_call functions logit_bias logprobs max_completion_tokens "
                   "max_tokens metadata modalities n parallel_tool_calls prediction presence_penalty prompt_cache_key "
                   "prompt_cache_retention reasoning_effort response_format safety_identifier seed service_tier stop "
                   "store stream stream_options temperature tool_choice tools top_logprobs top_p user verbosity "
                   "web_search_options"},
        {API_CHAT, "use_beam_search top_k min_p repetition_penalty length_penalty stop_token_ids "
                   "include_stop_str_in_output ignore_eos min_tokens skip_special_tokens spaces_between_special_tokens "
                   "truncate_prompt_tokens prompt_logprobs logprob_token_ids allowed_token_ids bad_words echo "
                   "add_generation_prompt continue_final_message add_special_tokens documents chat_template "
                   "chat_template_kwargs mm_processor_kwargs structured_outputs guided_json guided_regex guided_choice "
                   "guided_grammar guided_decoding_backend guided_whitespace_pattern structural_tag priority "
                   "request_id return_token_ids return_tokens_as_token_ids cache_salt kv_transfer_params vllm_xargs "
                   "repetition_detection stream_interval thinking_token_budget include_reasoning logits_processors"},
        {API_COMPLETION, "model best_of echo frequency_penalty logit_bias logprobs max_tokens n presence_penalty seed "
                         "stop stream stream_options suffix temperature top_p user prompt_embeds use_beam_search top_k "
                         "min_p repetition_penalty length_penalty stop_token_ids ignore_eos min_tokens "
                         "add_special_tokens prompt_logprobs allowed_token_ids bad_words response_format "
                         "structured_outputs priority return_token_ids cache_salt truncate_prompt_tokens "
                         "kv_transfer_params vllm_xargs"},
        {API_EMBEDDING, "model dimensions encoding_format user truncate_prompt_tokens add_special_tokens priority "
                        "request_id normalize embed_dtype endianness"},
        {API_TOKENIZE, "model add_special_tokens return_token_strs add_generation_prompt continue_final_message tools "
                       "chat_template chat_template_kwargs mm_processor_kwargs"},
        {API_DETOKENIZE, "model skip_special_tokens"},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        char list[2048], member[100], *save = NULL;
        snprintf(list, sizeof list, "%s", rows[i].names);
        for (char *name = strtok_r(list, " ", &save); name; name = strtok_r(NULL, " ", &save)) {
            ApiRequest r;
            ApiError e;
            snprintf(member, sizeof member, "\"%s\":null", name);
            r = read_ok(rows[i].kind, with(rows[i].kind, member));
            api_request_free(&r);
            snprintf(member, sizeof member, "\"%s\":{\"a\":[\"b\"]}", name); /* hardly ever right */
            const char *body = with(rows[i].kind, member);
            if (api_request_read(rows[i].kind, body, strlen(body), &model, &r, &e))
                api_request_free(&r);
            else if ((e.code && !strcmp(e.code, "unknown_parameter")) || strncmp(e.param, name, strlen(name)) != 0)
                fail_msg("%s: %s (param %s)", name, e.err.text, e.param);
        }
    }
}

/* Values that ask for nothing. */
static void neutral_values(void **state)
{
    (void)state;
    static const char *const members[] = {
        "\"use_beam_search\":false", "\"length_penalty\":1", "\"length_penalty\":1.0", "\"logits_processors\":[]",
        "\"spaces_between_special_tokens\":true", "\"response_format\":{\"type\":\"text\"}", "\"tools\":[]",
        "\"stream_interval\":1", "\"tool_choice\":\"none\"", "\"verbosity\":\"medium\"", "\"structured_outputs\":{}",
        "\"service_tier\":\"flex\"", "\"prediction\":{\"type\":\"content\",\"content\":\"x\"}", "\"top_logprobs\":0",
        "\"function_call\":\"auto\"", "\"stop\":[]", "\"logit_bias\":{}", "\"bad_words\":[]", "\"extra_body\":{}",
    };
    for (size_t i = 0; i < COUNT(members); i++) {
        ApiRequest r = read_ok(API_CHAT, with(API_CHAT, members[i]));
        assert_true(!r.tools && !json_object_get(r.body, "tools"));
        api_request_free(&r);
    }
}

/* ---- what is refused --------------------------------------------------------------------------------------------- */

typedef struct Wrong {
    const char *members, *param, *text; /* text: part of the message, or NULL */
} Wrong;

static void check_wrong(ApiKind kind, const Wrong *rows, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const char *body = with(kind, rows[i].members);
        ApiError e = read_error(kind, body, strlen(body), rows[i].param);
        if (rows[i].text && !strstr(e.err.text, rows[i].text))
            fail_msg("%s: \"%s\" is not in \"%s\"", body, rows[i].text, e.err.text);
        assert_int_equal(e.status, strcmp(e.param, "model") || !e.code ? 400 : 404);
    }
}

static void wrong_generation(void **state)
{
    (void)state;
    static const Wrong rows[] = {
        {"\"temperature\":-0.1", "temperature", "from 0 to 100"}, {"\"temperature\":\"hot\"", "temperature", NULL},
        {"\"temperature\":1e300", "temperature", NULL},      {"\"top_p\":0", "top_p", "above 0"},
        {"\"top_p\":1.01", "top_p", NULL},                   {"\"top_k\":-2", "top_k", NULL},
        {"\"top_k\":1.5", "top_k", NULL},                    {"\"min_p\":2", "min_p", NULL},
        {"\"max_tokens\":0", "max_tokens", NULL},            {"\"max_tokens\":-1", "max_tokens", NULL},
        {"\"max_tokens\":1e30", "max_tokens", "an integer"}, {"\"max_tokens\":9223372036854775808", "max_tokens", NULL},
        {"\"max_tokens\":123456789012345678901234567890", "max_tokens", NULL}, {"\"n\":0", "n", NULL},
        {"\"max_completion_tokens\":0", "max_completion_tokens", NULL}, {"\"n\":129", "n", "from 1 to 128"},
        {"\"n\":\"1\"", "n", NULL},                          {"\"n\":2,\"best_of\":3", "best_of", "equal to n"},
        {"\"n\":true", "n", NULL},                           {"\"best_of\":2", "best_of", NULL},
        {"\"min_tokens\":5,\"max_tokens\":4", "min_tokens", NULL}, {"\"min_tokens\":-1", "min_tokens", NULL},
        {"\"min_tokens\":1001", "min_tokens", NULL},         {"\"seed\":1.5", "seed", NULL},
        {"\"seed\":9223372036854775808", "seed", NULL},      {"\"stop\":\"\"", "stop", NULL},
        {"\"stop\":[\"a\",\"\"]", "stop", NULL},             {"\"stop\":5", "stop", NULL},
        {"\"stop\":[1,2,3,4,5,6,7,8,9,0,1,2,3,4,5,6,7]", "stop", NULL},
        {"\"stop\":[\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\",\"0\",\"1\",\"2\",\"3\",\"4\",\"5\",\"6\","
         "\"7\"]", "stop", "at most 16"},
        {"\"stop_token_ids\":[100]", "stop_token_ids", "no token 100"},
        {"\"stop_token_ids\":[-1]", "stop_token_ids", NULL},
        {"\"allowed_token_ids\":[100]", "allowed_token_ids", "no token 100"},
        {"\"allowed_token_ids\":[]", "allowed_token_ids", NULL},
        {"\"allowed_token_ids\":[18446744073709551615]", "allowed_token_ids", NULL},
        {"\"logit_bias\":{\"100\":1}", "logit_bias", "no token 100"},
        {"\"logit_bias\":{\"1\":101}", "logit_bias", NULL},
        {"\"logit_bias\":{\"-1\":1}", "logit_bias", NULL},   {"\"logit_bias\":[1]", "logit_bias", NULL},
        {"\"bad_words\":[\"\"]", "bad_words", NULL},         {"\"bad_words\":\"a\"", "bad_words", NULL},
        {"\"presence_penalty\":2.5", "presence_penalty", NULL}, {"\"frequency_penalty\":-3", "frequency_penalty", NULL},
        {"\"repetition_penalty\":0", "repetition_penalty", NULL}, {"\"ignore_eos\":1", "ignore_eos", NULL},
        {"\"stream\":\"yes\"", "stream", NULL},              {"\"stream_options\":{}", "stream_options", "\"stream\""},
        {"\"stream\":true,\"stream_options\":1", "stream_options", NULL},
        {"\"stream\":true,\"stream_options\":{\"usage\":true}", "stream_options.usage", "unknown"},
        {"\"stream\":true,\"stream_options\":{\"include_usage\":1}", "stream_options.include_usage", NULL},
        {"\"prompt_logprobs\":21", "prompt_logprobs", NULL}, {"\"prompt_logprobs\":-1", "prompt_logprobs", NULL},
        {"\"stream\":true,\"prompt_logprobs\":1", "prompt_logprobs", "stream"},
        {"\"truncate_prompt_tokens\":0", "truncate_prompt_tokens", NULL},
        {"\"truncate_prompt_tokens\":1001", "truncate_prompt_tokens", NULL},
        {"\"priority\":2147483648", "priority", NULL},       {"\"cache_salt\":\"\"", "cache_salt", NULL},
        {"\"cache_salt\":1", "cache_salt", NULL},            {"\"request_id\":\"a b\"", "request_id", NULL},
        {"\"model\":\"third\"", "model", "\"third\" does not exist"}, {"\"model\":5", "model", NULL},
        {"\"response_format\":{\"type\":\"json_object\"}", "response_format", "constrained decoding"},
        {"\"guided_json\":{}", "guided_json", "constrained decoding is missing; leave it out"},
        {"\"structured_outputs\":{\"regex\":\"a\"}", "structured_outputs", "constrained decoding"},
        {"\"use_beam_search\":true", "use_beam_search", "beam search"},
        {"\"length_penalty\":2", "length_penalty", NULL},
        {"\"prompt_embeds\":\"AA==\"", "prompt_embeds", NULL}, {"\"logits_processors\":[1]", "logits_processors", NULL},
        {"\"store\":true", "store", NULL},                   {"\"extra_body\":{\"a\":1}", "extra_body", NULL},
        {"\"temprature\":1", "temprature", "did you mean \"temperature\"?"},
        {"\"max_token\":1", "max_token", "did you mean \"max_tokens\"?"}, {"\"zzz\":1", "zzz", "unknown field"},
        {"\"Temperature\":1", "Temperature", "did you mean \"temperature\"?"}, {"\"\":1", "", "unknown field"},
        {"\"n\":1,\"n\":1", "", "duplicate"},
    };
    check_wrong(API_CHAT, rows, COUNT(rows));
    check_wrong(API_COMPLETION, rows, COUNT(rows));
}

static void wrong_chat(void **state)
{
    (void)state;
    static const Wrong rows[] = {
        {"\"logprobs\":1", "logprobs", "true or false"},     {"\"top_logprobs\":3", "top_logprobs", "\"logprobs\""},
        {"\"logprobs\":true,\"top_logprobs\":21", "top_logprobs", NULL},
        {"\"tools\":{}", "tools", NULL},                     {"\"tools\":[1]", "tools[0].function", NULL},
        {"\"tools\":[{\"type\":\"web\",\"function\":{\"name\":\"a\"}}]", "tools[0].function", NULL},
        {"\"tools\":[{\"function\":{}}]", "tools[0].function.name", NULL},
        {"\"tools\":[{\"function\":{\"name\":\"a\",\"parameters\":[]}}]", "tools[0].function.parameters", NULL},
        {"\"tool_choice\":\"auto\"", "tool_choice", "tools"}, {"\"tool_choice\":\"required\"", "tool_choice", "forced"},
        {"\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"a\"}}", "tool_choice", "forced"},
        {"\"tool_choice\":\"any\"", "tool_choice", NULL},    {"\"functions\":[{\"name\":\"a\"}]", "functions", "tools"},
        {"\"modalities\":[\"text\",\"audio\"]", "modalities", "text only"}, {"\"audio\":{}", "audio", "text only"},
        {"\"chat_template\":\"{{ x }}\"", "chat_template", "not run"},
        {"\"chat_template_kwargs\":[]", "chat_template_kwargs", NULL},
        {"\"reasoning_effort\":\"some\"", "reasoning_effort", NULL}, {"\"documents\":[1]", "documents[0]", NULL},
        {"\"add_generation_prompt\":true,\"continue_final_message\":true", "continue_final_message", "exclude"},
        {"\"prompt\":\"a\"", "prompt", "unknown"},           {"\"verbosity\":\"low\"", "verbosity", NULL},
    };
    check_wrong(API_CHAT, rows, COUNT(rows));
}

static void wrong_completions(void **state)
{
    (void)state;
    static const Wrong rows[] = {
        {"\"logprobs\":true", "logprobs", "an integer"},     {"\"logprobs\":21", "logprobs", NULL},
        {"\"stream\":true,\"echo\":true,\"logprobs\":1", "logprobs", "stream"},
        {"\"suffix\":\"x\"", "suffix", "inserting"},         {"\"messages\":[]", "messages", "unknown"},
        {"\"max_tokens\":0", "max_tokens", "unless echo"},   {"\"tools\":[]", "tools", "unknown"},
    };
    check_wrong(API_COMPLETION, rows, COUNT(rows));
    static const struct {
        ApiKind kind;
        const char *body, *param;
    } bodies[] = {
        {API_COMPLETION, "{}", "prompt"},                    {API_COMPLETION, "{\"prompt\":null}", "prompt"},
        {API_COMPLETION, "{\"prompt\":[]}", "prompt"},       {API_COMPLETION, "{\"prompt\":{}}", "prompt"},
        {API_COMPLETION, "{\"prompt\":5}", "prompt"},        {API_COMPLETION, "{\"prompt\":[1,\"a\"]}", "prompt[1]"},
        {API_COMPLETION, "{\"prompt\":[1,100]}", "prompt[1]"}, {API_COMPLETION, "{\"prompt\":[-1]}", "prompt[0]"},
        {API_COMPLETION, "{\"prompt\":[[1],[]]}", "prompt[1]"},
        {API_COMPLETION, "{\"prompt\":[[1],[2,100]]}", "prompt[1][1]"},
        {API_COMPLETION, "{\"prompt\":[\"a\",5]}", "prompt[1]"},
        {API_COMPLETION, "{\"prompt\":[[[1]]]}", "prompt[0][0]"},
        {API_COMPLETION, "{\"prompt\":[1e30]}", "prompt[0]"}, {API_CHAT, "{}", "messages"},
        {API_CHAT, "{\"messages\":[]}", "messages"},         {API_CHAT, "{\"messages\":\"hi\"}", "messages"},
        {API_EMBEDDING, "{}", "input"},
        {API_EMBEDDING, "{\"input\":\"a\",\"dimensions\":0}", "dimensions"},
        {API_EMBEDDING, "{\"input\":\"a\",\"encoding_format\":\"hex\"}", "encoding_format"},
        {API_EMBEDDING, "{\"input\":\"a\",\"pooling\":\"max\"}", "pooling"},
        {API_EMBEDDING, "{\"input\":\"a\",\"temperature\":1}", "temperature"},
        {API_EMBEDDING, "{\"input\":\"a\",\"normalize\":false}", "normalize"}, {API_TOKENIZE, "{}", "prompt"},
        {API_TOKENIZE, "{\"prompt\":[1]}", "prompt"},        {API_TOKENIZE, "{\"prompt\":\"a\"," HELLO "}", "prompt"},
        {API_DETOKENIZE, "{}", "tokens"},                    {API_DETOKENIZE, "{\"tokens\":\"a\"}", "tokens"},
        {API_DETOKENIZE, "{\"tokens\":[0,100]}", "tokens[1]"}, {API_DETOKENIZE, "{\"tokens\":[1.5]}", "tokens[0]"},
    };
    for (size_t i = 0; i < COUNT(bodies); i++)
        read_error(bodies[i].kind, bodies[i].body, strlen(bodies[i].body), bodies[i].param);
}

static void too_much(void **state)
{
    (void)state;
    Buf body = {0};
    buf_puts(&body, "{\"prompt\":[\"a\"");
    for (int i = 0; i < API_MAX_PROMPTS; i++)
        buf_puts(&body, ",\"a\"");
    buf_puts(&body, "]}");
    read_error(API_COMPLETION, body.data, body.len, "prompt");
    buf_free(&body);
    buf_puts(&body, "{\"n\":128,\"prompt\":[\"a\"");
    for (int i = 0; i < 16; i++)
        buf_puts(&body, ",\"a\"");
    buf_puts(&body, "]}");
    read_error(API_COMPLETION, body.data, body.len, "n");
    buf_free(&body);
    buf_printf(&body, "{\"prompt\":\"a\",\"stop\":\"%01025d\"}", 0);
    read_error(API_COMPLETION, body.data, body.len, "stop");
    buf_free(&body);
    static const char *const many[] = {",0", ",[]", ",{}"};
    for (size_t k = 0; k < COUNT(many); k++) {
        buf_puts(&body, "{\"prompt\":[0");
        for (int i = 0; i < 1 << 20; i++)
            buf_puts(&body, many[k]);
        buf_puts(&body, "]}");
        ApiError e = read_error(API_COMPLETION, body.data, body.len, "");
        assert_non_null(strstr(e.err.text, "more than 1048576 values"));
        buf_free(&body);
    }
}

/* The arguments of many calls, each one small enough. */
static void too_much_in_strings(void **state)
{
    (void)state;
    Buf body = {0};
    buf_puts(&body, "{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[");
    for (int call = 0; call < 20; call++) {
        buf_printf(&body, "%s{\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"a\\\":[[]", call ? "," : "");
        for (int i = 0; i < 10000; i++)
            buf_puts(&body, ",[]");
        buf_puts(&body, "]}\"}}");
    }
    buf_puts(&body, "]}]}");
    ApiError e = read_error(API_CHAT, body.data, body.len, "messages[0].tool_calls[11].function.arguments");
    assert_non_null(strstr(e.err.text, "more than 1048576 values"));
    buf_free(&body);
}

static void without_template(void **state)
{
    (void)state;
    ApiModel m = model;
    ApiRequest r;
    ApiError e;
    m.has_template = false;
    assert_false(api_request_read(API_CHAT, "{" HELLO "}", strlen("{" HELLO "}"), &m, &r, &e));
    assert_string_equal(e.param, "messages");
    assert_non_null(strstr(e.err.text, "no chat template"));
}

/* ---- messages ---------------------------------------------------------------------------------------------------- */

/* What a member of the body has become, as compact JSON; the caller's to free. */
static char *becomes(const char *body, const char *member, bool *tools)
{
    ApiRequest r = read_ok(API_CHAT, body);
    char *text = json_dumps(json_object_get(r.body, member), JSON_COMPACT | JSON_ENCODE_ANY | JSON_SORT_KEYS);
    *tools = r.tools;
    api_request_free(&r);
    return text;
}

static void messages_normalized(void **state)
{
    (void)state;
    static const char *const rows[][2] = {
        {"{\"content\":[{\"text\":\"a\",\"type\":\"text\"},{\"type\":\"text\",\"text\":\"b\"}],\"role\":\"user\"}",
         "{\"content\":\"a\\nb\",\"role\":\"user\"}"},
        {"{\"content\":[],\"role\":\"tool\"}", "{\"content\":\"\",\"role\":\"tool\"}"},
        {"{\"content\":[{\"type\":\"refusal\",\"refusal\":\"no\"}],\"role\":\"assistant\"}",
         "{\"content\":\"no\",\"role\":\"assistant\"}"},
        {"{\"content\":\"x\",\"role\":\"developer\",\"name\":\"n\"}",
         "{\"content\":\"x\",\"name\":\"n\",\"role\":\"developer\"}"},
        {"{\"content\":null,\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"arguments\":"
         "\"{\\\"a\\\": {\\\"b\\\": 1}, \\\"a\\\": 2}\",\"name\":\"f\"},\"id\":\"1\",\"type\":\"function\"}]}",
         "{\"content\":null,\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"arguments\":{\"a\":2},"
         "\"name\":\"f\"},\"id\":\"1\",\"type\":\"function\"}]}"},
        {"{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"arguments\":\"\",\"name\":\"f\"}},"
         "{\"function\":{\"name\":\"g\"}},{\"function\":{\"arguments\":{\"x\":1},\"name\":\"h\"}}]}",
         "{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"arguments\":{},\"name\":\"f\"}},"
         "{\"function\":{\"arguments\":{},\"name\":\"g\"}},{\"function\":{\"arguments\":{\"x\":1},\"name\":\"h\"}}]}"},
        {"{\"content\":\"x\",\"role\":\"assistant\",\"tool_calls\":[],\"refusal\":null}",
         "{\"content\":\"x\",\"refusal\":null,\"role\":\"assistant\"}"},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        char body[1024], expected[1024];
        bool tools;
        snprintf(body, sizeof body, "{\"messages\":[%s]}", rows[i][0]);
        snprintf(expected, sizeof expected, "[%s]", rows[i][1]);
        char *got = becomes(body, "messages", &tools);
        assert_string_equal(got, expected);
        assert_false(tools);
        free(got);
    }
}

static void wrong_messages(void **state)
{
    (void)state;
    static const char *const rows[][2] = {
        {"5", "messages[1]"},
        {"{\"content\":\"x\"}", "messages[1].role"},
        {"{\"role\":\"boss\",\"content\":\"x\"}", "messages[1].role"},
        {"{\"role\":5,\"content\":\"x\"}", "messages[1].role"},
        {"{\"role\":\"user\"}", "messages[1].content"},
        {"{\"role\":\"assistant\",\"content\":null}", "messages[1].content"},
        {"{\"role\":\"user\",\"content\":5}", "messages[1].content"},
        {"{\"role\":\"user\",\"content\":[\"x\"]}", "messages[1].content[0]"},
        {"{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"\"},{\"type\":\"image_url\",\"image_url\":"
         "{\"url\":\"http://x\"}}]}", "messages[1].content[1].type"},
        {"{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}", "messages[1].content[0].text"},
        {"{\"role\":\"user\",\"content\":\"x\",\"name\":5}", "messages[1].name"},
        {"{\"role\":\"assistant\",\"content\":\"x\",\"audio\":{\"id\":\"a\"}}", "messages[1].audio"},
        {"{\"role\":\"assistant\",\"tool_calls\":5}", "messages[1].tool_calls"},
        {"{\"role\":\"assistant\",\"tool_calls\":[5]}", "messages[1].tool_calls[0].function"},
        {"{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{}}]}", "messages[1].tool_calls[0].function.name"},
        {"{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":\"{\"}}]}",
         "messages[1].tool_calls[0].function.arguments"},
        {"{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":\"[1]\"}}]}",
         "messages[1].tool_calls[0].function.arguments"},
        {"{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":7}}]}",
         "messages[1].tool_calls[0].function.arguments"},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        char body[1024];
        snprintf(body, sizeof body, "{\"messages\":[{\"role\":\"system\",\"content\":\"s\"},%s]}", rows[i][0]);
        read_error(API_CHAT, body, strlen(body), rows[i][1]);
    }
}

#define TOOL "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"strict\":true,\"parameters\":{}}}]"

static void tools(void **state)
{
    (void)state;
    static const struct {
        const char *members;
        bool offered;
    } rows[] = {
        {TOOL, true}, {TOOL ",\"tool_choice\":\"auto\"", true}, {TOOL ",\"tool_choice\":null", true},
        {TOOL ",\"tool_choice\":\"none\"", false}, {"\"tools\":[]", false},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        ApiRequest r = read_ok(API_CHAT, with(API_CHAT, rows[i].members));
        assert_int_equal(r.tools, rows[i].offered);
        assert_int_equal(json_array_size(json_object_get(r.body, "tools")), rows[i].offered);
        api_request_free(&r);
    }
}

static void endings(void **state)
{
    (void)state;
    ApiRequest r = read_ok(API_CHAT, with(API_CHAT, "\"continue_final_message\":true,\"echo\":true"));
    assert_true(json_is_false(json_object_get(r.body, "add_generation_prompt")));
    assert_string_equal(r.echo_text, "hello");
    api_request_free(&r);
    r = read_ok(API_CHAT, with(API_CHAT, "\"echo\":true"));
    assert_null(r.echo_text);
    api_request_free(&r);
    static const char body[] = "{\"continue_final_message\":true,\"messages\":[{\"role\":\"assistant\",\"tool_calls\":"
                               "[{\"function\":{\"name\":\"f\"}}]}]}";
    read_error(API_CHAT, body, strlen(body), "continue_final_message");
    r = read_ok(API_CHAT, with(API_CHAT, "\"reasoning_effort\":\"high\",\"chat_template_kwargs\":{\"reasoning_effort\":"
                                         "\"mine\",\"x\":1}"));
    const json_t *kwargs = json_object_get(r.body, "chat_template_kwargs");
    assert_string_equal(json_string_value(json_object_get(kwargs, "reasoning_effort")), "mine");
    api_request_free(&r);
}

/* ---- bytes ------------------------------------------------------------------------------------------------------- */

static void hostile_json(void **state)
{
    (void)state;
    static const char *const rows[][2] = {
        {"", "the body is empty"},
        {" ", "not valid JSON"},
        {"null", "not valid JSON"},
        {"[]", "a JSON object"},
        {"{\"prompt\":\"a\"} x", "not valid JSON: line 1"},
        {"{\"prompt\":\n\"a\",}", "not valid JSON: line 2"},
        {"{\"prompt\":\"a", "not valid JSON"},
        {"{\"prompt\":\"a\\", "not valid JSON"},
        {"{\"prompt\":\"\xff\"}", "not valid UTF-8: byte 0xff at position 11"},
        {"{\"prompt\":\"\xc0\x80\"}", "not valid UTF-8: byte 0xc0 at position 11"},
        {"{\"prompt\":\"\xed\xa0\x80\"}", "not valid UTF-8: byte 0xed at position 11"},
        {"{\"prompt\":\"\xe2\x82", "not valid UTF-8: byte 0xe2 at position 11"},
        {"{\"prompt\":\"\\ud800\"}", "not valid JSON"},
        {"{\"prompt\":\"a\\u0000b\"}", "\\u0000"},
        {"{\"prompt\":\"a\",\"temperature\":NaN}", "not valid JSON"},
        {"{\"prompt\":\"a\",\"temperature\":Infinity}", "not valid JSON"},
        {"{\"prompt\":\"a\",\"temperature\":1e999}", "not valid JSON"},
        {"{\"prompt\":\"a\",\"prompt\":\"b\"}", "duplicate"},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        ApiError e = read_error(API_COMPLETION, rows[i][0], strlen(rows[i][0]), "");
        if (!strstr(e.err.text, rows[i][1]))
            fail_msg("%s: %s", rows[i][0], e.err.text);
    }
    ApiRequest r = read_ok(API_COMPLETION, "{\"prompt\":\"\\\\u0000 \\ufffd \xef\xbf\xbd\"}"); /* none of it is wrong */
    assert_int_equal(r.prompts.at[0].text_len, 6 + 1 + 3 + 1 + 3);
    api_request_free(&r);
    static const char nul[] = "{\"prompt\":\"a\0\"}";
    read_error(API_COMPLETION, nul, sizeof nul - 1, "");
}

static void depth(void **state)
{
    (void)state;
    static const int levels[] = {127, 128, 10000, 1000000};
    for (size_t i = 0; i < COUNT(levels); i++) {
        Buf body = {0};
        buf_puts(&body, "{\"prompt\":\"a\",\"metadata\":");
        for (int k = 0; k < levels[i]; k++)
            buf_putc(&body, '[');
        for (int k = 0; k < levels[i]; k++)
            buf_putc(&body, ']');
        buf_puts(&body, "}");
        if (levels[i] < 128) {
            ApiRequest r = read_ok(API_COMPLETION, body.data);
            api_request_free(&r);
        } else {
            ApiError e = read_error(API_COMPLETION, body.data, body.len, "");
            assert_non_null(strstr(e.err.text, "128 levels"));
        }
        buf_free(&body);
    }
}

/* Names and values from outside come back cut and clean, as text that is valid in an answer. */
static void clean_errors(void **state)
{
    (void)state;
    for (int shift = 0; shift < 4; shift++) {
        Buf body = {0};
        buf_printf(&body, "{\"prompt\":\"a\",\"%.*s", shift, "xyz");
        for (int i = 0; i < 3000; i++)
            buf_puts(&body, i % 2 ? "\xf0\x9f\x98\x80" : "\\n");
        buf_puts(&body, "\":1}");
        ApiRequest r;
        ApiError e;
        assert_false(api_request_read(API_COMPLETION, body.data, body.len, &model, &r, &e));
        json_t *param = json_string(e.param), *text = json_string(e.err.text);
        assert_true(param && text && !strchr(e.param, '\n') && !strchr(e.err.text, '\n'));
        json_decref(param);
        json_decref(text);
        buf_free(&body);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chat_defaults),
        cmocka_unit_test(chat_fields),
        cmocka_unit_test(completions),
        cmocka_unit_test(other_kinds),
        cmocka_unit_test(known_fields),
        cmocka_unit_test(neutral_values),
        cmocka_unit_test(wrong_generation),
        cmocka_unit_test(wrong_chat),
        cmocka_unit_test(wrong_completions),
        cmocka_unit_test(too_much),
        cmocka_unit_test(too_much_in_strings),
        cmocka_unit_test(without_template),
        cmocka_unit_test(messages_normalized),
        cmocka_unit_test(wrong_messages),
        cmocka_unit_test(tools),
        cmocka_unit_test(endings),
        cmocka_unit_test(hostile_json),
        cmocka_unit_test(depth),
        cmocka_unit_test(clean_errors),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
