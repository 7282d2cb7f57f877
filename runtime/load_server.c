/* load_server.c - what the load tool has to know of a server, by single requests before the run; see load.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "load.h"
#include "load_sse.h"

#define MAX_ANSWER (64u << 20) /* bytes of an answer to a single request */

/* ---- single requests ------------------------------------------------------------------------------------------- */

const char *load_endpoint_path(const LoadServer *s)
{
    return s->chat ? "/v1/chat/completions" : "/v1/completions";
}

void load_curl_setup(const LoadServer *s, CURL *easy, const char *path)
{
    char *url = xmalloc(strlen(s->base) + strlen(path) + 1);
    sprintf(url, "%s%s", s->base, path);
    curl_easy_setopt(easy, CURLOPT_URL, url);
    free(url);
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, s->headers);
    curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_PROXY, "");
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(easy, CURLOPT_DNS_CACHE_TIMEOUT, -1L);
    curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long)(s->timeout * 1e3));
    curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, s->insecure ? 0L : 1L);
    curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, s->insecure ? 0L : 2L);
}

static size_t keep_answer(char *bytes, size_t size, size_t n, void *context)
{
    Buf *answer = context;
    if (answer->len + size * n > MAX_ANSWER)
        return 0;
    buf_put(answer, bytes, size * n);
    return size * n;
}

bool load_call(LoadServer *s, const char *path, const char *body, Buf *answer, long *status, Err *err)
{
    char detail[CURL_ERROR_SIZE] = "";
    answer->len = 0;
    buf_reserve(answer, 1);
    curl_easy_reset(s->easy);
    load_curl_setup(s, s->easy, path);
    if (body)
        curl_easy_setopt(s->easy, CURLOPT_POSTFIELDS, body);
    curl_easy_setopt(s->easy, CURLOPT_WRITEFUNCTION, keep_answer);
    curl_easy_setopt(s->easy, CURLOPT_WRITEDATA, answer);
    curl_easy_setopt(s->easy, CURLOPT_ERRORBUFFER, detail);
    CURLcode code = curl_easy_perform(s->easy);
    if (code != CURLE_OK)
        return err_set(err, "%s%s: %s", s->base, path, *detail ? detail : curl_easy_strerror(code));
    curl_easy_getinfo(s->easy, CURLINFO_RESPONSE_CODE, status);
    return true;
}

/* POST of a value, which is released. Returns the object that came back with status 200, or NULL. */
static json_t *ask(LoadServer *s, const char *path, json_t *question)
{
    char *body = json_dumps(question, JSON_COMPACT);
    json_decref(question);
    Buf answer = {0};
    long status = 0;
    json_t *result = NULL;
    if (load_call(s, path, body, &answer, &status, NULL) && status == 200)
        result = json_loadb(answer.data, answer.len, JSON_ALLOW_NUL, NULL);
    free(body);
    buf_free(&answer);
    return result;
}

/* ---- tokens ---------------------------------------------------------------------------------------------------- */

/* Puts the text into a body as the endpoint's prompt. */
static json_t *with_prompt(const LoadServer *s, const char *text)
{
    return s->chat ? json_pack("{s:s, s:[{s:s, s:s}]}", "model", s->model, "messages", "role", "user", "content", text)
                   : json_pack("{s:s, s:s}", "model", s->model, "prompt", text);
}

static int64_t count_by_tokenize(LoadServer *s, const char *text)
{
    json_t *question = with_prompt(s, text);
    if (s->chat)
        json_object_set_new(question, "add_generation_prompt", json_true());
    json_t *answer = ask(s, "/tokenize", question);
    const json_t *count = json_object_get(answer, "count");
    int64_t result = json_is_integer(count) && json_integer_value(count) >= 0 ? json_integer_value(count) : -1;
    json_decref(answer);
    return result;
}

static int64_t count_by_request(LoadServer *s, const char *text)
{
    json_t *question = with_prompt(s, text);
    json_object_set_new(question, "max_tokens", json_integer(1));
    json_t *answer = ask(s, load_endpoint_path(s), question);
    const json_t *count = json_object_get(json_object_get(answer, "usage"), "prompt_tokens");
    int64_t result = json_is_integer(count) && json_integer_value(count) > 0 ? json_integer_value(count) : -1;
    json_decref(answer);
    return result;
}

int64_t load_count_tokens(LoadServer *s, const char *text)
{
    return s->tokenizes ? count_by_tokenize(s, text) : count_by_request(s, text);
}

bool load_token_ids(LoadServer *s, const char *text, LoadIds *ids)
{
    json_t *question = json_pack("{s:s, s:s, s:b}", "model", s->model, "prompt", text, "add_special_tokens", 0);
    json_t *answer = ask(s, "/tokenize", question);
    const json_t *tokens = json_object_get(answer, "tokens");
    size_t before = ids->len;
    for (size_t i = 0; i < json_array_size(tokens); i++)
        if (json_is_integer(json_array_get(tokens, i)))
            vec_push(ids, json_integer_value(json_array_get(tokens, i)));
    json_decref(answer);
    return ids->len > before;
}

bool load_takes_ids(LoadServer *s, const LoadIds *ids)
{
    json_t *prompt = json_array();
    for (size_t i = 0; i < MIN(ids->len, 4); i++)
        json_array_append_new(prompt, json_integer(ids->at[i]));
    json_t *answer = ask(s, "/v1/completions",
                         json_pack("{s:s, s:o, s:i}", "model", s->model, "prompt", prompt, "max_tokens", 1));
    bool takes = json_array_size(json_object_get(answer, "choices")) > 0;
    json_decref(answer);
    return takes;
}

/* ---- opening --------------------------------------------------------------------------------------------------- */

/* The URL without a final "/" and "/v1". */
static char *base_of(const char *url)
{
    char *base = xstrdup(url);
    size_t n = strlen(base);
    while (n && base[n - 1] == '/')
        base[--n] = 0;
    if (n >= 3 && !strcmp(base + n - 3, "/v1"))
        base[n - 3] = 0;
    return base;
}

/* The name of the first model that the server lists. */
static bool find_model(LoadServer *s, const char *model, Err *err)
{
    Buf answer = {0};
    long status = 0;
    bool there = load_call(s, "/v1/models", NULL, &answer, &status, err);
    json_t *root = there ? json_loadb(answer.data, answer.len, JSON_ALLOW_NUL, NULL) : NULL;
    const char *first = json_string_value(json_object_get(json_array_get(json_object_get(root, "data"), 0), "id"));
    char text[200];
    if (model || first)
        s->model = xstrdup(model ? model : first);
    else if (there) {
        load_error_text(answer.data, answer.len, text, sizeof text);
        err_set(err, "%s/v1/models names no model (HTTP %ld: %s); give --model", s->base, status, text);
    }
    json_decref(root);
    buf_free(&answer);
    return there && s->model;
}

bool load_server_open(LoadServer *s, const char *url, const char *model, Err *err)
{
    if (strncmp(url, "http://", 7) && strncmp(url, "https://", 8))
        return err_set(err, "\"%.200s\" is no address of a server; an example is http://127.0.0.1:8000", url);
    s->base = base_of(url);
    s->headers = curl_slist_append(s->headers, "Content-Type: application/json");
    s->headers = curl_slist_append(s->headers, "Expect:"); /* send the body at once */
    s->headers = curl_slist_append(s->headers, "User-Agent: blade-load/" BLADE_VERSION);
    if (s->api_key) {
        Buf line = {0};
        buf_printf(&line, "Authorization: Bearer %s", s->api_key);
        s->headers = curl_slist_append(s->headers, line.data);
        buf_free(&line);
    }
    s->easy = curl_easy_init();
    if (!find_model(s, model, err))
        return false;
    s->tokenizes = count_by_tokenize(s, "a") > 0;
    return true;
}

void load_server_close(LoadServer *s)
{
    curl_slist_free_all(s->headers);
    curl_easy_cleanup(s->easy);
    free(s->base);
    free(s->model);
    *s = (LoadServer){0};
}
