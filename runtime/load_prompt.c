/* load_prompt.c - the requests of a load test: random prompts of a wanted length, or those of a data set; see load.h.
 *
 * Lengths come out exactly where the server has /tokenize: as lists of token ids where it takes them, else as text that
 * is cut and filled until the count is right. Without /tokenize two small requests show how many tokens a word has. The
 * random prompts are words of a list, or their token ids: every server's tokenizer knows them.
 */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "load.h"

#define MAX_LINE (64u << 20) /* bytes of a data set's line */
#define FITTING_ROUNDS 8     /* corrections of a text's length, at most */

static const char *const words[] = {
    "able", "about", "above", "across", "after", "again", "age", "air", "all", "also", "and", "animal", "answer",
    "apple", "arm", "art", "as", "at", "away", "back", "bag", "ball", "bank", "base", "be", "bear", "bed", "been",
    "bell", "best", "big", "bird", "black", "blue", "boat", "body", "book", "both", "box", "boy", "bread", "bring",
    "brown", "build", "bus", "but", "call", "came", "can", "car", "cat", "chair", "city", "clean", "close", "cloud",
    "cold", "come", "cook", "corn", "country", "cup", "cut", "dark", "day", "deep", "did", "dinner", "do", "dog",
    "door", "down", "draw", "dream", "drop", "dry", "each", "ear", "early", "earth", "east", "eat", "egg", "end",
    "even", "every", "eye", "face", "fall", "farm", "fast", "father", "field", "fire", "first", "fish", "five",
    "floor", "flower", "fly", "foot", "for", "four", "free", "friend", "from", "full", "game", "garden", "gave",
    "girl", "give", "glass", "go", "gold", "good", "grass", "green", "ground", "grow", "hair", "hand", "happy",
    "hard", "hat", "have", "head", "hear", "help", "her", "high", "hill", "him", "home", "horse", "hot", "house",
    "how", "ice", "idea", "in", "is", "it", "jump", "just", "keep", "kind", "king", "know", "lake", "land", "large",
    "last", "laugh", "leaf", "learn", "left", "leg", "letter", "life", "light", "like", "line", "little", "long",
    "look", "love", "low", "made", "make", "man", "many", "map", "milk", "mind", "moon", "more", "morning",
    "mother", "mountain", "mouth", "move", "music", "name", "near", "new", "night", "north", "not", "number", "of",
    "old", "on", "one", "open", "or", "other", "our", "out", "over", "page", "paper", "park", "part", "people",
    "picture", "place", "plant", "play", "rain", "read", "red", "rest", "river", "road", "rock", "room", "round",
    "run", "salt", "sand", "saw", "school", "sea", "see", "seed", "she", "ship", "shoe", "short", "side", "silver",
    "sing", "sister", "sky", "sleep", "slow", "small", "snow", "some", "song", "soon", "south", "star", "stone",
    "story", "street", "strong", "summer", "sun", "table", "tail", "take", "talk", "tall", "tell", "ten", "that",
    "the", "them", "there", "thing", "three", "time", "tree", "two", "under", "up", "very", "voice", "walk", "wall",
    "warm", "was", "water", "way", "we", "west", "what", "wheel", "white", "wide", "wind", "window", "winter",
    "wood", "word", "work", "world", "year", "yellow", "you", "young",
};

typedef enum Kind { BY_DATASET, BY_IDS, BY_COUNTING, BY_WORDS, BY_GUESS } Kind;

struct LoadPrompts {
    const LoadWorkload *workload;
    LoadServer *server;
    LoadRng rng;
    Kind kind;
    LoadIds pool;               /* BY_IDS: ids to draw from */
    double per_word, overhead;  /* tokens of a text: overhead + per_word * words */
    VEC(json_t *) lines;        /* BY_DATASET */
    size_t next_line;
};

const char *load_prompts_kind(const LoadPrompts *p)
{
    static const char *const names[] = {
        [BY_DATASET] = "data set", [BY_IDS] = "random token ids", [BY_COUNTING] = "random words, counted by /tokenize",
        [BY_WORDS] = "random words, length by a sample", [BY_GUESS] = "random words, length guessed",
    };
    return names[p->kind];
}

/* ---- bodies ---------------------------------------------------------------------------------------------------- */

/* Puts a member into the body; `value` is released. */
static void set(json_t *body, const char *key, json_t *value)
{
    json_object_set_new(body, key, value);
}

static void apply_extra(json_t *body, json_t *extra)
{
    const char *key;
    json_t *value;
    json_object_foreach(extra, key, value) {
        if (json_is_null(value))
            json_object_del(body, key);
        else
            json_object_set(body, key, value);
    }
}

/* The body of a streamed request; `prompt` (text, ids or messages) is released. */
static LoadRequest make_request(const LoadPrompts *p, json_t *prompt, int64_t prompt_tokens, int64_t output_len)
{
    const LoadWorkload *w = p->workload;
    json_t *body = json_object();
    set(body, "model", json_string(p->server->model));
    if (p->server->chat && json_is_string(prompt)) {
        set(body, "messages", json_pack("[{s:s, s:o}]", "role", "user", "content", prompt));
    } else {
        set(body, p->server->chat ? "messages" : "prompt", prompt);
    }
    set(body, "max_tokens", json_integer(output_len));
    set(body, "temperature", json_integer(0));
    set(body, "stream", json_true());
    set(body, "stream_options", json_pack("{s:b}", "include_usage", 1));
    if (w->ignore_eos)
        set(body, "ignore_eos", json_true());
    apply_extra(body, w->extra);
    LoadRequest r = {.body = json_dumps(body, JSON_COMPACT), .prompt_tokens = prompt_tokens};
    r.len = strlen(r.body);
    json_decref(body);
    return r;
}

void load_requests_free(LoadRequests *r)
{
    for (size_t i = 0; i < r->len; i++)
        free(r->at[i].body);
    vec_free(r);
}

/* ---- random prompts -------------------------------------------------------------------------------------------- */

/* The shared beginning is the same stream of random numbers for every prompt. */
static LoadRng shared_rng(const LoadPrompts *p)
{
    return (LoadRng){~p->workload->seed};
}

static int64_t shared_of(const LoadPrompts *p, int64_t n)
{
    return (int64_t)(p->workload->prefix_share * (double)n);
}

static json_t *random_ids(LoadPrompts *p, int64_t n)
{
    LoadRng shared = shared_rng(p);
    int64_t common = shared_of(p, n), last = (int64_t)p->pool.len - 1;
    json_t *ids = json_array();
    for (int64_t i = 0; i < n; i++)
        json_array_append_new(ids, json_integer(p->pool.at[load_between(i < common ? &shared : &p->rng, 0, last)]));
    return ids;
}

static const char *random_word(LoadRng *rng)
{
    return words[load_between(rng, 0, COUNT(words) - 1)];
}

static void put_words(Buf *text, int64_t n, int64_t common, LoadRng shared, LoadRng *rng)
{
    for (int64_t i = 0; i < n; i++)
        buf_printf(text, "%s%s", text->len ? " " : "", random_word(i < common ? &shared : rng));
}

static void drop_words(Buf *text, int64_t n)
{
    while (n > 0 && text->len > 1) {
        text->len--;
        if (text->data[text->len] == ' ')
            n--;
    }
    text->data[text->len] = 0;
}

/* Drops or appends words until the text has `target` tokens; returns how many it has in the end. The words appended
 * are short ones, a token each as a rule, and random beyond the first few missing. */
static int64_t fit_text(LoadPrompts *p, Buf *text, int64_t target)
{
    int64_t count = load_count_tokens(p->server, text->data);
    for (int round = 0; round < FITTING_ROUNDS && count >= 0 && count != target; round++) {
        int64_t missing = target - count;
        if (missing < 0)
            drop_words(text, (int64_t)ceil((double)-missing / p->per_word));
        else if ((double)missing > 4 * p->per_word)
            put_words(text, (int64_t)((double)missing / p->per_word), 0, (LoadRng){0}, &p->rng);
        else
            for (int64_t i = 0; i < missing; i++)
                buf_puts(text, " a");
        count = load_count_tokens(p->server, text->data);
    }
    return count;
}

static LoadRequest random_request(LoadPrompts *p)
{
    const LoadWorkload *w = p->workload;
    int64_t n = load_between(&p->rng, w->prompt_len.lo, w->prompt_len.hi);
    int64_t output_len = load_between(&p->rng, w->output_len.lo, w->output_len.hi);
    if (p->kind == BY_IDS)
        return make_request(p, random_ids(p, n), n, output_len);
    int64_t count = (int64_t)fmax(1, round(((double)n - p->overhead) / p->per_word));
    Buf text = {0};
    put_words(&text, count, shared_of(p, count), shared_rng(p), &p->rng);
    int64_t tokens = p->kind == BY_WORDS ? n : -1;
    if (p->kind == BY_COUNTING)
        tokens = fit_text(p, &text, n);
    LoadRequest r = make_request(p, json_string(text.data), tokens, output_len);
    buf_free(&text);
    return r;
}

/* ---- how the server counts ------------------------------------------------------------------------------------- */

static int64_t count_sample(LoadPrompts *p, int64_t n)
{
    Buf text = {0};
    LoadRng rng = {1};
    put_words(&text, n, 0, rng, &rng);
    int64_t count = load_count_tokens(p->server, text.data);
    buf_free(&text);
    return count;
}

/* Two samples, the longer one beginning with the shorter one, give the slope and the overhead. */
static void learn_length(LoadPrompts *p)
{
    enum { FEW = 8, MANY = 48 };
    int64_t few = count_sample(p, FEW), many = count_sample(p, MANY);
    p->kind = p->server->tokenizes ? BY_COUNTING : BY_WORDS;
    if (few < 0 || many <= few) {
        p->kind = BY_GUESS;
        p->per_word = 1.3; /* English in the vocabularies of today */
        return;
    }
    p->per_word = (double)(many - few) / (MANY - FEW);
    p->overhead = fmax(0, (double)few - p->per_word * FEW);
}

static bool learn_ids(LoadPrompts *p)
{
    Buf all = {0};
    for (size_t i = 0; i < COUNT(words); i++)
        buf_printf(&all, "%s%s", i ? " " : "", words[i]);
    bool can = load_token_ids(p->server, all.data, &p->pool) && load_takes_ids(p->server, &p->pool);
    buf_free(&all);
    return can;
}

/* ---- data sets ------------------------------------------------------------------------------------------------- */

static bool check_line(const LoadPrompts *p, const json_t *line, Err *err)
{
    const json_t *prompt = json_object_get(line, "prompt"), *messages = json_object_get(line, "messages");
    if (!prompt && !messages)
        return err_set(err, "neither \"prompt\" nor \"messages\" is there");
    if (prompt && !json_is_string(prompt) && (p->server->chat || !json_is_array(prompt)))
        return err_set(err, "\"prompt\" must be text%s", p->server->chat ? "" : " or a list of token ids");
    if (messages && !json_is_array(messages))
        return err_set(err, "\"messages\" must be a list");
    if (!prompt && !p->server->chat)
        return err_set(err, "\"messages\" need --endpoint chat");
    return true;
}

static bool read_lines(LoadPrompts *p, FILE *f, Err *err)
{
    char *text = NULL;
    size_t cap = 0, number = 0;
    ssize_t n;
    bool ok = true;
    while (ok && (n = getline(&text, &cap, f)) >= 0) {
        number++;
        if (strspn(text, " \t\r\n") == (size_t)n)
            continue;
        json_error_t where = {0};
        json_t *line = (size_t)n <= MAX_LINE ? json_loadb(text, (size_t)n, JSON_ALLOW_NUL, &where) : NULL;
        ok = json_is_object(line) ? check_line(p, line, err)
                                  : err_set(err, "is no JSON object%s%s", *where.text ? ": " : "", where.text);
        if (ok)
            vec_push(&p->lines, line);
        else
            json_decref(line);
    }
    free(text);
    return ok || err_prefix(err, "%s, line %zu", p->workload->dataset, number);
}

static bool read_dataset(LoadPrompts *p, Err *err)
{
    const char *path = p->workload->dataset;
    FILE *f = fopen(path, "r");
    if (!f)
        return err_set(err, "%s: %s", path, strerror(errno));
    bool ok = read_lines(p, f, err);
    fclose(f);
    if (ok && !p->lines.len)
        return err_set(err, "%s: there is no line in it", path);
    return ok;
}

static int64_t wanted_output(LoadPrompts *p, const json_t *line)
{
    static const char *const keys[] = {"output_len", "max_tokens", "max_completion_tokens"};
    for (size_t i = 0; i < COUNT(keys); i++)
        if (json_integer_value(json_object_get(line, keys[i])) > 0)
            return json_integer_value(json_object_get(line, keys[i]));
    return load_between(&p->rng, p->workload->output_len.lo, p->workload->output_len.hi);
}

static LoadRequest dataset_request(LoadPrompts *p)
{
    json_t *line = p->lines.at[p->next_line++ % p->lines.len];
    json_t *messages = p->server->chat ? json_object_get(line, "messages") : NULL;
    json_t *prompt = messages ? messages : json_object_get(line, "prompt");
    int64_t tokens = json_is_array(prompt) && !messages ? (int64_t)json_array_size(prompt) : -1;
    return make_request(p, json_incref(prompt), tokens, wanted_output(p, line));
}

/* ---- the whole ------------------------------------------------------------------------------------------------- */

LoadPrompts *load_prompts_open(const LoadWorkload *w, LoadServer *s, Err *err)
{
    LoadPrompts *p = xcalloc(1, sizeof *p);
    p->workload = w;
    p->server = s;
    p->rng.state = w->seed;
    if (w->dataset) {
        p->kind = BY_DATASET;
        if (!read_dataset(p, err)) {
            load_prompts_close(p);
            return NULL;
        }
    } else if (!s->chat && s->tokenizes && learn_ids(p)) {
        p->kind = BY_IDS;
    } else {
        learn_length(p);
    }
    return p;
}

void load_prompts_make(LoadPrompts *p, size_t n, LoadRequests *out)
{
    for (size_t i = 0; i < n; i++)
        vec_push(out, p->kind == BY_DATASET ? dataset_request(p) : random_request(p));
}

void load_prompts_close(LoadPrompts *p)
{
    if (!p)
        return;
    for (size_t i = 0; i < p->lines.len; i++)
        json_decref(p->lines.at[i]);
    vec_free(&p->lines);
    vec_free(&p->pool);
    free(p);
}
