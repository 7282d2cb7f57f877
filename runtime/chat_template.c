/* chat_template.c - owns the way from a model folder to its chat template, and from a request to the variables of the
 * template. */
#include "chat_template.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "jinja_int.h"
#include "json.h"

#define MAX_FILE ((size_t)64 << 20)

struct ChatTemplate {
    Jinja *main, *tool_use; /* tool_use: NULL when the model has one template for all */
    char *main_name, *tool_use_name; /* where each came from, for messages */
    char *source;           /* text of both, to see which members of a message are read */
    json_t *tokens;         /* object: bos_token, eos_token, ... */
};

/* ---- loading ----------------------------------------------------------------------------------------------------- */

static void path_in(char path[4096], const char *dir, const char *file)
{
    snprintf(path, 4096, "%s/%s", dir, file);
}

/* Parses one template and remembers where it came from. */
static bool add_template(ChatTemplate *c, bool tool_use, const char *where, const char *text, size_t len, Err *err)
{
    Jinja **slot = tool_use ? &c->tool_use : &c->main;
    char **name = tool_use ? &c->tool_use_name : &c->main_name;
    if (*slot)
        return err_set(err, "%s: a second template of the same name", where);
    *slot = jinja_parse(text, len, err);
    if (!*slot)
        return err_prefix(err, "%s", where);
    *name = xstrdup(where);
    Buf both = {0};
    buf_puts(&both, c->source ? c->source : "");
    buf_put(&both, text, len);
    free(c->source);
    c->source = both.data;
    return true;
}

/* A template in a file of its own. */
static bool load_path(ChatTemplate *c, const char *path, bool tool_use, Err *err)
{
    Buf text = {0};
    bool ok = file_read(&text, path, MAX_FILE, err) &&
              add_template(c, tool_use, path, text.data ? text.data : "", text.len, err);
    buf_free(&text);
    return ok;
}

/* The same in the model's folder; true also when there is no such file. */
static bool load_file(ChatTemplate *c, const char *dir, const char *file, bool tool_use, Err *err)
{
    char path[4096];
    path_in(path, dir, file);
    return !file_exists(path) || load_path(c, path, tool_use, err);
}

static bool load_named(ChatTemplate *c, const json_t *list, const char *where, Err *err)
{
    size_t i;
    json_t *item;
    json_array_foreach(list, i, item) {
        const char *name = json_string_value(json_object_get(item, "name"));
        const json_t *text = json_object_get(item, "template");
        if (!name || !json_is_string(text))
            return err_set(err, "%s: element %zu of \"chat_template\" needs the strings \"name\" and \"template\"",
                           where, i);
        bool tool_use = !strcmp(name, "tool_use");
        if ((tool_use || !strcmp(name, "default")) &&
            !add_template(c, tool_use, where, json_string_value(text), json_string_length(text), err))
            return false;
    }
    if (!c->main)
        return err_set(err, "%s: \"chat_template\" is a list without a template named \"default\"", where);
    return true;
}

/* The member "chat_template" of a JSON file; true also when there is none. */
static bool load_member(ChatTemplate *c, const json_t *config, const char *where, Err *err)
{
    const json_t *member = json_object_get(config, "chat_template");
    char label[4200];
    snprintf(label, sizeof label, "%s: chat_template", where);
    if (!member || json_is_null(member))
        return true;
    if (json_is_array(member))
        return load_named(c, member, where, err);
    if (!json_is_string(member))
        return err_set(err, "%s: \"chat_template\" must be a string or a list of named templates", where);
    return add_template(c, false, label, json_string_value(member), json_string_length(member), err);
}

/* Reads a JSON file that may be missing: then *out is NULL. */
static bool read_optional(const char *dir, const char *file, char path[4096], json_t **out, Err *err)
{
    *out = NULL;
    path_in(path, dir, file);
    return !file_exists(path) || (*out = json_read(path, MAX_FILE, err)) != NULL;
}

/* Takes over the members named ..._token: strings, or objects with the string "content". */
static void add_tokens(json_t *tokens, const json_t *config)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)config, key, value) {
        size_t n = strlen(key);
        const json_t *text = json_is_object(value) ? json_object_get(value, "content") : value;
        if (n > 6 && !strcmp(key + n - 6, "_token") && json_is_string(text) && !json_object_get(tokens, key))
            json_object_set(tokens, key, (json_t *)text);
    }
}

static bool load_tokens(ChatTemplate *c, const char *dir, const json_t *config, Err *err)
{
    char path[4096];
    json_t *map;
    if (!read_optional(dir, "special_tokens_map.json", path, &map, err))
        return false;
    c->tokens = json_object();
    add_tokens(c->tokens, config);
    add_tokens(c->tokens, map);
    json_decref(map);
    return true;
}

/* `file`: the template, or NULL to look for one. */
static bool load_all(ChatTemplate *c, const char *dir, const char *file, Err *err)
{
    char config_path[4096], legacy_path[4096];
    json_t *config, *legacy = NULL;
    if (!read_optional(dir, "tokenizer_config.json", config_path, &config, err))
        return false;
    bool ok = load_tokens(c, dir, config, err) &&
              (file ? load_path(c, file, false, err) : load_file(c, dir, "chat_template.jinja", false, err));
    if (ok && c->main && !file)
        ok = load_file(c, dir, "additional_chat_templates/tool_use.jinja", true, err);
    if (ok && !c->main)
        ok = load_member(c, config, config_path, err);
    if (ok && !c->main)
        ok = read_optional(dir, "chat_template.json", legacy_path, &legacy, err) &&
             load_member(c, legacy, legacy_path, err);
    json_decref(config);
    json_decref(legacy);
    if (ok && !c->main)
        return err_set(err, "%s: the model has no chat template (neither chat_template.jinja nor \"chat_template\" in "
                            "tokenizer_config.json); use plain prompts, or add a chat_template.jinja", dir);
    return ok;
}

bool chat_load_file(ChatTemplate **out, const char *model_dir, const char *file, Err *err)
{
    if (strlen(model_dir) > 3900)
        return err_set(err, "%.200s...: path too long", model_dir);
    ChatTemplate *c = xcalloc(1, sizeof *c);
    if (!load_all(c, model_dir, file, err)) {
        chat_free(c);
        return false;
    }
    *out = c;
    return true;
}

bool chat_load(ChatTemplate **out, const char *model_dir, Err *err)
{
    return chat_load_file(out, model_dir, NULL, err);
}

const char *chat_source(const ChatTemplate *c)
{
    return c->source ? c->source : "";
}

void chat_free(ChatTemplate *c)
{
    if (!c)
        return;
    jinja_free(c->main);
    jinja_free(c->tool_use);
    free(c->main_name);
    free(c->tool_use_name);
    free(c->source);
    json_decref(c->tokens);
    free(c);
}

/* ---- messages ---------------------------------------------------------------------------------------------------- */

static const char *const reasoning_fields[] = {"reasoning_content", "thinking", "reasoning"};

/* Gives reasoning the names that templates read. */
static void alias_reasoning(json_t *message)
{
    json_t *reasoning = NULL;
    for (size_t i = 0; i < COUNT(reasoning_fields) && !reasoning; i++)
        reasoning = json_object_get(message, reasoning_fields[i]);
    if (!reasoning)
        return;
    if (!json_object_get(message, "thinking"))
        json_object_set(message, "thinking", reasoning);
    json_object_set(message, "reasoning_content", reasoning);
}

/* A copy of a message, shallow, without members that are null. */
static json_t *copy_message(const json_t *message)
{
    json_t *copy = json_object(), *value;
    const char *key;
    json_object_foreach((json_t *)message, key, value)
        if (!json_is_null(value))
            json_object_set(copy, key, value);
    alias_reasoning(copy);
    return copy;
}

static json_t *copy_messages(const json_t *messages, Err *err)
{
    if (!json_is_array(messages) || !json_array_size(messages)) {
        err_set(err, "\"messages\" must be an array with at least one message");
        return NULL;
    }
    json_t *copy = json_array(), *message;
    size_t i;
    json_array_foreach(messages, i, message) {
        if (!json_is_object(message) || !json_is_string(json_object_get(message, "role"))) {
            err_set(err, "messages[%zu] must be an object with the string \"role\"", i);
            json_decref(copy);
            return NULL;
        }
        json_array_append_new(copy, copy_message(message));
    }
    return copy;
}

/* ---- continuing the last message: a tag goes behind its text, and the prompt is cut where the tag comes out ------ */

typedef struct Continuation {
    char tag[64];    /* with a blank at its end, which shows whether the template trimmed the text */
    const json_t *text; /* what is continued */
} Continuation;

/* A tag that occurs nowhere in the messages. */
static void choose_tag(Continuation *k, const json_t *messages)
{
    char *all = json_dumps(messages, JSON_COMPACT);
    unsigned n = 0;
    do
        snprintf(k->tag, sizeof k->tag, "CONTINUE_FINAL_MESSAGE_%u ", n++);
    while (all && strstr(all, k->tag));
    free(all);
}

static json_t *tagged(const Continuation *k, const json_t *text)
{
    Buf b = {0};
    buf_put(&b, json_string_value(text), json_string_length(text));
    buf_puts(&b, k->tag);
    json_t *s = json_stringn(b.data, b.len);
    buf_free(&b);
    return s;
}

/* Content in parts: the last part with a text is continued. */
static bool tag_parts(Continuation *k, json_t *message, const char *field, Err *err)
{
    json_t *parts = json_copy(json_object_get(message, field));
    json_object_set_new(message, field, parts);
    for (size_t i = json_array_size(parts); i-- > 0;) {
        const json_t *text = json_object_get(json_array_get(parts, i), "text");
        if (!json_is_string(text))
            continue;
        json_t *part = json_copy(json_array_get(parts, i));
        k->text = text; /* kept alive by the request */
        json_object_set_new(part, "text", tagged(k, text));
        json_array_set_new(parts, i, part);
        return true;
    }
    return err_set(err, "continue_final_message: the last message has no text to continue");
}

/* The names under which the text of `field` stands in a message: all copies of a reasoning, else the field alone. */
static size_t same_fields(const json_t *message, const char *field, const char *names[COUNT(reasoning_fields)])
{
    size_t n = 0;
    bool reasoning = false;
    for (size_t i = 0; i < COUNT(reasoning_fields); i++) {
        reasoning = reasoning || !strcmp(field, reasoning_fields[i]);
        if (json_equal(json_object_get(message, reasoning_fields[i]), json_object_get(message, field)))
            names[n++] = reasoning_fields[i];
    }
    if (!reasoning)
        names[n = 0] = field;
    return reasoning ? n : 1;
}

static bool tag_message(const ChatTemplate *c, Continuation *k, json_t *messages, const char *field, Err *err)
{
    json_t *message = json_array_get(messages, json_array_size(messages) - 1), *value = json_object_get(message, field);
    const char *names[COUNT(reasoning_fields)];
    bool used = false;
    size_t n = same_fields(message, field, names);
    choose_tag(k, messages);
    for (size_t i = 0; i < n; i++)
        used = used || strstr(c->source, names[i]);
    if (!used)
        return err_set(err, "continue_final_message: the chat template does not use \"%s\"", field);
    if (json_is_array(value))
        return tag_parts(k, message, field, err);
    if (!json_is_string(value))
        return err_set(err, "continue_final_message: the last message has no \"%s\" to continue", field);
    k->text = value; /* the request holds it as well */
    json_t *longer = tagged(k, value);
    for (size_t i = 0; i < n; i++)
        json_object_set(message, names[i], longer);
    json_decref(longer);
    return true;
}

/* The last place of `needle` in text[0..len); NULL when there is none. */
static char *find_last(char *text, size_t len, const char *needle)
{
    char *last = NULL, *at = text;
    while ((at = memmem(at, len - (size_t)(at - text), needle, strlen(needle))))
        last = at++;
    return last;
}

/* Cuts the prompt, which starts at `from`, where the last message ended. */
static bool cut(const Continuation *k, Buf *out, size_t from, Err *err)
{
    char bare[sizeof k->tag], *start = out->data + from;
    size_t tag = strlen(k->tag), len = out->len - from;
    Text text = jj_strip((Text){json_string_value(k->text), json_string_length(k->text)}, NULL, true, true);
    snprintf(bare, sizeof bare, "%.*s", (int)tag - 1, k->tag);
    char *at = find_last(start, len, bare);
    if (!at || !memmem(start, len, text.s, text.n))
        return err_set(err, "continue_final_message: the chat template does not write the last message as it is");
    bool trimmed = (size_t)(start + len - at) < tag || memcmp(at, k->tag, tag) != 0;
    Text kept = {start, (size_t)(at - start)};
    out->len = from + (trimmed ? jj_strip(kept, NULL, false, true) : kept).n;
    out->data[out->len] = 0;
    return true;
}

/* ---- requests ---------------------------------------------------------------------------------------------------- */

/* Copies an array of objects, or null, from the request into the variables. */
static bool set_objects(json_t *variables, const json_t *request, const char *key, Err *err)
{
    json_t *list = json_object_get(request, key), *item;
    size_t i;
    if (list && !json_is_null(list) && !json_is_array(list))
        return err_set(err, "\"%s\" must be an array of objects", key);
    json_array_foreach(list, i, item)
        if (!json_is_object(item))
            return err_set(err, "%s[%zu] must be an object", key, i);
    json_object_set(variables, key, list ? list : json_null());
    return true;
}

static bool set_kwargs(json_t *variables, const json_t *request, Err *err)
{
    static const char *const reserved[] = {"messages", "tools", "documents", "add_generation_prompt",
                                           "continue_final_message", "chat_template"};
    const json_t *kwargs = json_object_get(request, "chat_template_kwargs");
    if (kwargs && !json_is_null(kwargs) && !json_is_object(kwargs))
        return err_set(err, "\"chat_template_kwargs\" must be an object");
    for (size_t i = 0; i < COUNT(reserved); i++)
        if (json_object_get(kwargs, reserved[i]))
            return err_set(err, "chat_template_kwargs: \"%s\" cannot be set here", reserved[i]);
    if (json_is_object(kwargs))
        json_object_update(variables, (json_t *)kwargs);
    return true;
}

/* NULL with a message when the request is not a valid one. Takes over `messages`. */
static json_t *make_variables(const ChatTemplate *c, const json_t *request, json_t *messages, bool prompt, Err *err)
{
    json_t *variables = json_copy(c->tokens);
    bool ok = set_kwargs(variables, request, err) && set_objects(variables, request, "tools", err) &&
              set_objects(variables, request, "documents", err);
    json_object_set_new(variables, "messages", messages);
    json_object_set_new(variables, "add_generation_prompt", json_boolean(prompt));
    if (ok)
        return variables;
    json_decref(variables);
    return NULL;
}

/* continue_final_message: the name of the member to continue, NULL for none. */
static bool continued_field(const json_t *request, bool prompt, const char **field, Err *err)
{
    const json_t *value = json_object_get(request, "continue_final_message");
    *field = json_is_true(value) ? "content" : json_string_value(value);
    if (value && !json_is_null(value) && !json_is_boolean(value) && !*field)
        return err_set(err, "\"continue_final_message\" must be true, false or the name of a member of a message");
    if (*field && prompt)
        return err_set(err, "add_generation_prompt and continue_final_message exclude each other");
    return true;
}

static bool render(const ChatTemplate *c, const json_t *variables, const JinjaLimits *limits, Buf *out, Err *err)
{
    bool tool_use = c->tool_use && !json_is_null(json_object_get(variables, "tools"));
    if (jinja_render(tool_use ? c->tool_use : c->main, variables, limits, out, err))
        return true;
    return err_prefix(err, "%s", tool_use ? c->tool_use_name : c->main_name);
}

bool chat_render_limited(const ChatTemplate *c, const json_t *request, const JinjaLimits *limits, Buf *out, Err *err)
{
    bool prompt;
    const char *field;
    size_t from = out->len;
    Continuation k;
    if (!json_get_bool(request, "add_generation_prompt", false, &prompt, err) ||
        !continued_field(request, prompt, &field, err))
        return false;
    json_t *messages = copy_messages(json_object_get(request, "messages"), err);
    if (!messages)
        return false;
    bool ok = !field || tag_message(c, &k, messages, field, err);
    json_t *variables = make_variables(c, request, messages, prompt, ok ? err : NULL);
    ok = ok && variables && render(c, variables, limits, out, err) && (!field || cut(&k, out, from, err));
    json_decref(variables);
    if (!ok && out->data) {
        out->len = from;
        out->data[from] = 0;
    }
    return ok;
}

bool chat_render(const ChatTemplate *c, const json_t *request, Buf *out, Err *err)
{
    return chat_render_limited(c, request, NULL, out, err);
}
