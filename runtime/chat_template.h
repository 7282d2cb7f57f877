/* chat_template.h - from a conversation to the text of a prompt, with the Jinja template of the model's folder.
 *
 * Follows apply_chat_template of transformers 5
 * (https://huggingface.co/docs/transformers/main/chat_templating): where the template is found, which variables it
 * sees, how the last message is continued. The text contains the special tokens the template writes; encode it without
 * adding any.
 */
#ifndef BLADE_CHAT_TEMPLATE_H
#define BLADE_CHAT_TEMPLATE_H

#include <jansson.h>

#include "base.h"
#include "jinja.h"

typedef struct ChatTemplate ChatTemplate; /* immutable: may be rendered by several threads at once */

/* Reads and parses the template(s) of a model folder. The first of these that exists:
 *   chat_template.jinja, with additional_chat_templates/tool_use.jinja for requests that carry tools;
 *   "chat_template" of tokenizer_config.json: one string, or a list of {"name", "template"} (default, tool_use);
 *   "chat_template" of chat_template.json.
 * bos_token and the like come from tokenizer_config.json, what is missing there from special_tokens_map.json.
 * A folder without a template is an error that says so. */
bool chat_load(ChatTemplate **out, const char *model_dir, Err *err);
/* The same with a template file of the user's instead: it is used for all requests. */
bool chat_load_file(ChatTemplate **out, const char *model_dir, const char *file, Err *err);
void chat_free(ChatTemplate *c); /* NULL is allowed */

/* The text of the template, of both one behind the other when there is one for tools. */
const char *chat_source(const ChatTemplate *c);

/* Appends the prompt for `request` to `out`; on an error `out` is as it was. Members of the request:
 *   messages                array of objects with a role, not empty. Members that are null are dropped. Reasoning under
 *                           one of the names reasoning_content, thinking, reasoning is given to the template as
 *                           reasoning_content and as thinking.
 *   tools, documents        arrays of objects, or null
 *   add_generation_prompt   bool, false when absent: end with the header of an assistant message
 *   continue_final_message  true, or the name of a member of the message: the prompt stops inside the last message,
 *                           after its content. Not together with add_generation_prompt.
 *   chat_template_kwargs    object: further variables for the template (enable_thinking, date_string, ...); it may
 *                           replace special tokens, but none of the members above.
 * Other members are ignored, so the body of a chat completion request can be passed as it is. */
bool chat_render(const ChatTemplate *c, const json_t *request, Buf *out, Err *err);

/* The same under limits other than jinja.h's defaults. */
bool chat_render_limited(const ChatTemplate *c, const json_t *request, const JinjaLimits *limits, Buf *out, Err *err);

#endif
