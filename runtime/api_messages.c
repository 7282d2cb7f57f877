/* api_messages.c - messages and tools of chat requests: their structure checked, and what clients write in several ways
 * brought into the one that chat templates read, as vLLM and transformers do. */
#include <string.h>

#include "api_request_int.h"

#define MAX_TOOLS 1024

/* ---- content ----------------------------------------------------------------------------------------------------- */

/* The text of one part of a content; NULL when it has none. */
static const json_t *part_text(const json_t *part, const char *path, ApiError *e)
{
    static const char *const members[][2] = {
        {"text", "text"}, {"input_text", "text"}, {"output_text", "text"}, {"refusal", "refusal"}};
    const char *type = json_string_value(json_object_get(part, "type"));
    size_t i = 0;
    while (type && i < COUNT(members) && strcmp(type, members[i][0]) != 0)
        i++;
    if (!type) {
        api_expected(e, path, "a part {\"type\": \"text\", \"text\": ...}");
    } else if (i == COUNT(members)) {
        ApiPath at = api_path("%s.type", path);
        api_error_set(e, at.s, "\"%s\" is \"%.64s\": this model takes text only", at.s, type);
    } else if (json_is_string(json_object_get(part, members[i][1]))) {
        return json_object_get(part, members[i][1]);
    } else {
        api_expected(e, api_path("%s.%s", path, members[i][1]).s, "a text");
    }
    return NULL;
}

/* Content in parts becomes one string, the parts' texts with newlines between them. */
static bool join_parts(json_t *message, const json_t *parts, const char *path, ApiError *e)
{
    Buf text = {0};
    buf_reserve(&text, 1);
    for (size_t i = 0; i < json_array_size(parts); i++) {
        const json_t *s = part_text(json_array_get(parts, i), api_path("%s[%zu]", path, i).s, e);
        if (!s) {
            buf_free(&text);
            return false;
        }
        buf_puts(&text, i ? "\n" : "");
        buf_put(&text, json_string_value(s), json_string_length(s));
    }
    json_object_set_new(message, "content", json_stringn_nocheck(text.data, text.len));
    buf_free(&text);
    return true;
}

static bool read_content(json_t *message, const char *role, const char *path, ApiError *e)
{
    static const char *const instead[] = {"tool_calls", "function_call", "reasoning_content", "reasoning"};
    const json_t *content = api_get(message, "content");
    if (json_is_array(content))
        return join_parts(message, content, path, e);
    for (size_t i = 0; i < COUNT(instead) && !content && !strcmp(role, "assistant"); i++)
        if (api_get(message, instead[i]))
            return true;
    return json_is_string(content) || api_expected(e, path, "a text or a list of text parts");
}

/* ---- tool calls of earlier answers ------------------------------------------------------------------------------- */

/* Arguments come as a string of JSON; templates read an object. */
static bool read_arguments(json_t *function, const char *path, size_t *room, ApiError *e)
{
    const json_t *value = api_get(function, "arguments");
    Err err = {0};
    if (json_is_object(value))
        return true;
    if (value && !json_is_string(value))
        return api_expected(e, path, "JSON in a string");
    bool empty = !json_string_length(value);
    json_t *arguments = empty ? json_object() :
                        api_json_parse(json_string_value(value), json_string_length(value), false, room, &err);
    if (!arguments)
        return api_error_set(e, path, "\"%s\": %s", path, err.text);
    if (json_is_object(arguments))
        return !json_object_set_new(function, "arguments", arguments);
    json_decref(arguments);
    return api_expected(e, path, "a JSON object {...} in a string");
}

/* "type" of a tool or a call is "function", or not said. */
static bool is_function(const json_t *o)
{
    const json_t *type = api_get(o, "type");
    return !type || (json_is_string(type) && !strcmp(json_string_value(type), "function"));
}

static bool read_name(const json_t *function, const char *path, ApiError *e)
{
    return json_string_length(json_object_get(function, "name")) ||
           api_expected(e, api_path("%s.name", path).s, "the name of a function");
}

static bool read_calls(json_t *message, const char *path, size_t *room, ApiError *e)
{
    json_t *calls = api_get(message, "tool_calls");
    if (calls && !json_is_array(calls))
        return api_expected(e, path, "a list");
    for (size_t i = 0; i < json_array_size(calls); i++) {
        json_t *call = json_array_get(calls, i), *function = json_object_get(call, "function");
        ApiPath at = api_path("%s[%zu].function", path, i);
        if (!json_is_object(function) || !is_function(call))
            return api_expected(e, at.s, "{\"name\": ..., \"arguments\": ...}, in a call of type \"function\",");
        if (!read_name(function, at.s, e) || !read_arguments(function, api_path("%s.arguments", at.s).s, room, e))
            return false;
    }
    if (calls && !json_array_size(calls)) /* some templates take an empty list for calls */
        json_object_del(message, "tool_calls");
    return true;
}

/* ---- messages ---------------------------------------------------------------------------------------------------- */

static bool read_role(const json_t *message, const char *path, const char **role, ApiError *e)
{
    static const char *const roles[] = {"system", "developer", "user", "assistant", "tool", "function"};
    *role = json_string_value(json_object_get(message, "role"));
    for (size_t i = 0; i < COUNT(roles) && *role; i++)
        if (!strcmp(*role, roles[i]))
            return true;
    return api_expected(e, path, "system, developer, user, assistant or tool");
}

static bool read_message(json_t *message, const char *path, size_t *room, ApiError *e)
{
    static const char *const strings[] = {"name", "tool_call_id", "reasoning_content", "reasoning", "refusal"};
    const char *role;
    if (!json_is_object(message))
        return api_expected(e, path, "an object {\"role\": ..., \"content\": ...}");
    if (!read_role(message, api_path("%s.role", path).s, &role, e) ||
        !read_content(message, role, api_path("%s.content", path).s, e))
        return false;
    for (size_t i = 0; i < COUNT(strings); i++)
        if (api_get(message, strings[i]) && !json_is_string(json_object_get(message, strings[i])))
            return api_expected(e, api_path("%s.%s", path, strings[i]).s, "a string");
    if (api_get(message, "audio"))
        return api_error_set(e, api_path("%s.audio", path).s, "\"%s.audio\": this model takes text only", path);
    return read_calls(message, api_path("%s.tool_calls", path).s, room, e);
}

bool api_messages_read(json_t *body, ApiError *e)
{
    json_t *messages = api_get(body, "messages");
    size_t room = API_MAX_VALUES; /* for the arguments of all calls together */
    if (!json_array_size(messages))
        return api_expected(e, "messages", "a list of at least one message");
    for (size_t i = 0; i < json_array_size(messages); i++)
        if (!read_message(json_array_get(messages, i), api_path("messages[%zu]", i).s, &room, e))
            return false;
    return true;
}

/* ---- tools ------------------------------------------------------------------------------------------------------- */

static bool read_tool(const json_t *tool, const char *path, ApiError *e)
{
    const json_t *function = json_object_get(tool, "function");
    if (!json_is_object(function) || !is_function(tool))
        return api_expected(e, path, "{\"name\": ..., \"parameters\": {...}}, in a tool of type \"function\",");
    const json_t *parameters = api_get(function, "parameters"), *about = api_get(function, "description");
    if (!read_name(function, path, e))
        return false;
    if (parameters && !json_is_object(parameters))
        return api_expected(e, api_path("%s.parameters", path).s, "a JSON schema {...}");
    return !about || json_is_string(about) || api_expected(e, api_path("%s.description", path).s, "a string");
}

/* Sets *none when no tool is to be used. */
static bool read_choice(const json_t *body, bool *none, ApiError *e)
{
    const json_t *choice = api_get(body, "tool_choice");
    const char *said = choice ? json_string_value(choice) : "auto";
    *none = said && !strcmp(said, "none");
    if (json_is_object(choice) || (said && !strcmp(said, "required"))) {
        api_error_set(e, "tool_choice", "\"tool_choice\": calls cannot be forced yet, constrained decoding is missing; "
                      "use \"auto\" or \"none\"");
        e->code = "unsupported_parameter";
        return false;
    }
    if (!said || (!*none && strcmp(said, "auto") != 0))
        return api_expected(e, "tool_choice", "\"auto\" or \"none\"");
    if (choice && !*none && !json_array_size(api_get(body, "tools")))
        return api_error_set(e, "tool_choice", "\"tool_choice\" needs \"tools\"");
    return true;
}

bool api_tools_read(json_t *body, bool *offered, ApiError *e)
{
    bool none;
    const json_t *tools = api_get(body, "tools");
    size_t n = json_array_size(tools);
    *offered = false;
    if ((tools && !json_is_array(tools)) || n > MAX_TOOLS)
        return api_error_set(e, "tools", "\"tools\": a list of at most %d tools was expected", MAX_TOOLS);
    for (size_t i = 0; i < n; i++)
        if (!read_tool(json_array_get(tools, i), api_path("tools[%zu].function", i).s, e))
            return false;
    if (!read_choice(body, &none, e))
        return false;
    *offered = n && !none;
    if (!*offered)
        json_object_del(body, "tools");
    return true;
}
