/* structured: what an answer must look like, and tool calls: the one place for it. This version constrains nothing: what asks for
 * a structure is refused by name, never accepted and ignored. */
#include "tools/serve/messages.h"

#include <string.h>

static int refuse(request *q, const char *param, const char *what) {
    return request_fail(q, JOB_UNSUPPORTED, param, "%s: %s is not supported: this version cannot constrain an answer and will not pretend to", param, what);
}

/* {"type":"text"} or nothing. */
static int only_text(request *q, const json *v, const char *param) {
    const json *type = v ? json_get(v, "type") : NULL;
    if (!v || !v->n || json_is(type, "text")) return 0;
    if (!type || type->type != JSON_STRING) return request_fail(q, JOB_INVALID, param, "%s: expected an object with a \"type\"", param);
    char what[80];
    snprintf(what, sizeof what, "type \"%.40s\"", type->s);
    return refuse(q, param, what);
}

int structured_take(request *q) {
    const json *text = q->v[F_TEXT];
    if (only_text(q, q->v[F_RESPONSE_FORMAT], "response_format")) return -1;
    if (text && only_text(q, json_get(text, "format"), "text.format")) return -1;
    if (q->v[F_FORMAT] && (q->v[F_FORMAT]->type != JSON_STRING || q->v[F_FORMAT]->n)) return refuse(q, "format", "a structure");
    if (q->v[F_GRAMMAR] && q->v[F_GRAMMAR]->n) return refuse(q, "grammar", "a grammar");
    if (q->v[F_JSON_SCHEMA]) return refuse(q, "json_schema", "a schema");
    return 0;
}

int structured_tools(request *q, const json **tools) {
    const json *choice = q->v[F_TOOL_CHOICE];
    const json *type = choice && choice->type == JSON_OBJECT ? json_get(choice, "type") : choice;
    if (json_is(type, "none")) *tools = NULL;
    if (!*tools || !(*tools)->n) {
        *tools = NULL;
        if (!choice || json_is(type, "none") || json_is(type, "auto")) return 0;
        return request_fail(q, JOB_INVALID, "tool_choice", "tool_choice: there are no tools to choose from");
    }
    if (choice && !json_is(type, "auto")) return refuse(q, "tool_choice", "a required call");
    request_warn(q, "tools: the model sees them; a call in its answer is not parsed and comes as text");
    return 0;
}
