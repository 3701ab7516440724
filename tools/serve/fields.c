/* fields: the table's checks, its warnings and its documentation. The rows stand in fields_table.c. It must not know what a field
 * does. */
#include "tools/serve/fields.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

const field *fields_find(uint32_t group, const char *name, size_t n) {
    for (int i = 0; i < fields_n; i++) {
        const field *f = &fields_table[i];
        if ((f->groups & group) && strlen(f->name) == n && memcmp(f->name, name, n) == 0) return f;
    }
    return NULL;
}

void fields_warn(field_report *r, const char *fmt, ...) {
    char text[640];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (!r->warnings) return;
    if (++r->n_warnings > 32) return; /* a body of a million unknown names is not worth a million lines */
    if (r->warnings->n) buf_byte(r->warnings, ',');
    buf_json(r->warnings, text, strlen(text));
}

static int refuse(field_report *r, bool unsupported, const char *prefix, const char *name, size_t n, const char *fmt, ...) PRINTF_LIKE(6, 7);
static int refuse(field_report *r, bool unsupported, const char *prefix, const char *name, size_t n, const char *fmt, ...) {
    char text[400];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    snprintf(r->param, sizeof r->param, "%s%.*s", prefix, (int)(n < 60 ? n : 60), name);
    snprintf(r->msg, sizeof r->msg, "%s: %s", r->param, text);
    r->unsupported = unsupported;
    return -1;
}

static const struct { int bit; const char *name; } type_names[] = {
    { T_BOOL, "true or false" }, { T_INT, "a whole number" }, { T_NUM, "a number" }, { T_STR, "a string" },
    { T_ARR, "an array" }, { T_OBJ, "an object" },
};

static void name_types(int types, char out[120]) {
    out[0] = 0;
    for (size_t i = 0; i < sizeof type_names / sizeof *type_names; i++)
        if (types & type_names[i].bit) {
            size_t n = strlen(out);
            snprintf(out + n, 120 - n, "%s%s", n ? " or " : "", type_names[i].name);
        }
}

static bool type_fits(const json *j, int types) {
    int64_t whole;
    switch (j->type) {
    case JSON_TRUE: case JSON_FALSE: return types & T_BOOL;
    case JSON_NUMBER: return (types & T_NUM) || ((types & T_INT) && json_int(j, &whole) == 0);
    case JSON_STRING: return types & T_STR;
    case JSON_ARRAY: return types & T_ARR;
    case JSON_OBJECT: return types & T_OBJ;
    default: return false;
    }
}

/* What was found, for a message: numbers and short strings as they stand. */
static void show(const json *j, char out[80]) {
    if (j->type == JSON_NUMBER) snprintf(out, 80, "%.40s", j->s);
    else if (j->type == JSON_STRING && j->n < 40) snprintf(out, 80, "the string \"%s\"", j->s);
    else snprintf(out, 80, "%s", json_type_name(j));
}

static int check_number(const field *f, const json *j, const char *prefix, field_report *r) {
    double x;
    char found[80];
    if (j->type != JSON_NUMBER || json_num(j, &x)) return 0;
    show(j, found);
    if (!(x >= -1e300 && x <= 1e300)) return refuse(r, false, prefix, f->name, strlen(f->name), "%s is not a finite number", found);
    if (f->min > f->max || (x >= f->min && x <= f->max)) return 0;
    if (f->fate == FIELD_NEUTRAL)
        return refuse(r, true, prefix, f->name, strlen(f->name), "not supported (%s): leave it out or send %g, found %s", f->help, f->min, found);
    if (f->max >= 1e15 && x > f->max) return refuse(r, false, prefix, f->name, strlen(f->name), "expected at most %.15g, found %s", f->max, found);
    if (f->max >= 1e15) return refuse(r, false, prefix, f->name, strlen(f->name), "expected at least %.15g, found %s", f->min, found);
    return refuse(r, false, prefix, f->name, strlen(f->name), "expected %.15g to %.15g, found %s", f->min, f->max, found);
}

/* Texts are taken with their length; everything else is a name or a word, and would end at a NUL. */
static int check_string(const field *f, const json *j, const char *prefix, field_report *r) {
    bool text = f->key == F_PROMPT || f->key == F_INPUT || f->key == F_CONTENT || f->key == F_INPUT_PREFIX || f->key == F_INPUT_SUFFIX;
    if (j->type != JSON_STRING || text || !memchr(j->s, 0, j->n)) return 0;
    return refuse(r, false, prefix, f->name, strlen(f->name), "a NUL character (\\u0000) cannot stand here");
}

static int check_one(const field *f, const json *j, const char *prefix, bool strict, const json **v, field_report *r) {
    size_t n = strlen(f->name);
    if (f->fate == FIELD_REFUSE) return refuse(r, true, prefix, f->name, n, "not supported: %s", f->help);
    if (!type_fits(j, f->types)) {
        char wanted[120], found[80];
        name_types(f->types, wanted);
        show(j, found);
        if (j->type == JSON_NUMBER && strspn(j->s, "-0123456789") == strlen(j->s))
            return refuse(r, false, prefix, f->name, n, "%s is too large: expected at most 63 bits", found);
        if (*prefix) return refuse(r, false, prefix, f->name, n, "option \"%s\" must be of type %s, found %s", f->name, wanted, found);
        return refuse(r, false, prefix, f->name, n, "expected %s, found %s", wanted, found);
    }
    if (check_number(f, j, prefix, r) || check_string(f, j, prefix, r)) return -1;
    if (f->fate == FIELD_INERT) {
        if (strict) return refuse(r, true, prefix, f->name, n, "has no effect here (%s); the server runs with --strict", f->help);
        fields_warn(r, "%s%s: accepted, has no effect: %s", prefix, f->name, f->help);
    }
    if (f->key != F_NONE) v[f->key] = j;
    return 0;
}

int fields_check(uint32_t group, const json *body, const char *prefix, bool strict, const json **v, field_report *r) {
    for (const json *j = body->child; j; j = j->next) {
        if (j->type == JSON_NULL) continue; /* as if it were absent: clients send their whole class */
        const field *f = fields_find(group, j->key, j->key_n);
        if (f) {
            if (check_one(f, j, prefix, strict, v, r)) return -1;
        } else if (strict) return refuse(r, false, prefix, j->key, j->key_n,
                                         "unknown field; the server runs with --strict (serve --help-fields lists what there is)");
        else fields_warn(r, "%s%.*s: unknown field, ignored", prefix, (int)(j->key_n < 60 ? j->key_n : 60), j->key);
    }
    return 0;
}

/* ---- documentation ---- */

static const struct { uint32_t bit; const char *title, *about; } groups[] = {
    { FIELDS_CHAT, "POST /v1/chat/completions", "OpenAI's chat, with quern's extensions (`extra_body` of openai-python)." },
    { FIELDS_COMPLETIONS, "POST /v1/completions", "OpenAI's older completions; several prompts, `echo` and the old shape of `logprobs`." },
    { FIELDS_EMBEDDINGS, "POST /v1/embeddings", "" },
    { FIELDS_RESPONSES, "POST /v1/responses", "A minimal form of OpenAI's responses; nothing is stored." },
    { FIELDS_MESSAGES, "POST /v1/messages", "Anthropic's messages, minimal." },
    { FIELDS_COUNT_TOKENS, "POST /v1/messages/count_tokens", "" },
    { FIELDS_GENERATE, "POST /api/generate", "Ollama's; `stream` is true unless said otherwise." },
    { FIELDS_OLLAMA_CHAT, "POST /api/chat", "Ollama's; `stream` is true unless said otherwise." },
    { FIELDS_EMBED, "POST /api/embed", "" },
    { FIELDS_OLD_EMBEDDINGS, "POST /api/embeddings", "" },
    { FIELDS_OPTIONS, "`options` of the Ollama paths", "" },
    { FIELDS_SHOW, "POST /api/show", "" },
    { FIELDS_NAMED, "POST /api/pull, DELETE /api/delete", "" },
    { FIELDS_COPY, "POST /api/copy", "" },
    { FIELDS_COMPLETION, "POST /completion", "llama-server's; also `/completions`." },
    { FIELDS_INFILL, "POST /infill", "llama-server's; the fields of /completion as well. Only for models with fill-in-the-middle tokens." },
    { FIELDS_TOKENIZE, "POST /tokenize", "" },
    { FIELDS_DETOKENIZE, "POST /detokenize", "" },
    { FIELDS_TEMPLATE, "POST /apply-template", "" },
    { FIELDS_SLOT, "POST /slots/{id}?action=save, restore, erase",
      "What was last worked on in a slot, to and from a file of `--kv-dir` (its bytes count against `--kv-disk`), "
      "or forgotten. The prefix cache needs none of it." },
};
static const char *const fates[] = { "honoured", "accepted, no effect, named in `warnings`",
                                     "only with the value that changes nothing", "refused with 400" };

static void range_of(const field *f, char out[64]) {
    if (!(f->types & (T_INT | T_NUM)) || f->min > f->max) snprintf(out, 64, "-");
    else if (f->max >= 1e15) snprintf(out, 64, "from %g", f->min);
    else snprintf(out, 64, "%g to %g", f->min, f->max);
}

static void cell(buf *out, const char *s) { /* a bar would end the cell */
    for (; *s; s++) {
        if (*s == '|') buf_byte(out, '\\');
        buf_byte(out, *s);
    }
}

static void markdown_row(const field *f, buf *out) {
    char types[120], range[64];
    name_types(f->types, types);
    range_of(f, range);
    buf_fmt(out, "| `%s` | %s | %s | ", f->name, types, range);
    cell(out, f->otherwise);
    buf_fmt(out, " | %s | ", fates[f->fate]);
    cell(out, f->help);
    buf_str(out, " |\n");
}

static const char intro[] =
    "# Fields of the HTTP API\n\n"
    "Made by `./serve --api-markdown` from the table that the server checks requests with (`tools/serve/fields_table.c`); `api_test` compares.\n\n"
    "JSON `null` counts as absent. A field of a wrong type or out of its range is a 400 that names it, what was expected and what was found. "
    "An unknown field is ignored and named in the reply's `warnings`; with `--strict` it is a 400, as is a field without effect. "
    "Where a default says \"checkpoint\", the model's own generation settings go first. "
    "Nothing is ever cut in silence: a prompt that does not fit is `context_length_exceeded` with both numbers.\n";

static const char structure[] =
    "\n## Structure, calls of tools, thoughts\n\n"
    "`response_format`, `format`, `text.format`, `json_schema` and `grammar` are kept to exactly: tokens that would leave the "
    "schema or the grammar are never drawn. An answer that is complete is valid; one that was cut says `length`. What a schema "
    "cannot be kept to is a 400 with the field and the JSON pointer, a grammar's mistake one with line and column. With `strict: "
    "true` every object of a schema must say `additionalProperties: false`, as OpenAI demands it; without, a schema that leaves it "
    "out is open, as JSON Schema has it. Under a template that knows thinking, thoughts may come first and are not constrained. A "
    "beam search takes no structure.\n\n"
    "Tools are shown by the model's own template, and calls are read in the format that the template contains: `<tool_call>` with "
    "JSON (Hermes, Qwen), `[TOOL_CALLS]` with a list or with `[ARGS]` (Mistral), `<|tool_call|>` (Phi), JSON with `parameters` "
    "(Llama 3), `[f(a=1)]` (pythonic), a `tool_code` block or `<start_function_call>call:f{a:1}` (Gemma), "
    "`<function=f><parameter=a>` (Qwen3-Coder), `<\xef\xbd\x9ctool\xe2\x96\x81" "calls\xe2\x96\x81" "begin\xef\xbd\x9c>` "
    "(DeepSeek), else one JSON object with `name` and `arguments`. A required or named call is constrained from the answer's "
    "beginning. With `auto` the text is free until a call's opening; from there on the call is constrained, so that what is called "
    "has the name of a tool and arguments that validate. Where a tool's schema cannot be kept and no call is required, a warning "
    "says so and calls are read only. A call that cannot be read, or of an unknown function, stays in the text, with a warning. "
    "Arguments are streamed as they come under a grammar, else with the call's end. Formats that write arguments one by one (the "
    "pythonic one, Gemma's, Qwen3-Coder's) keep what the schema says of each argument: what it says of the object besides "
    "`properties` and `required` is refused. Optional arguments come in the schema's order there; where a comma stands between and "
    "none is required, one at most. Text stands in Qwen3-Coder's and Gemma's marks as it is: with a length, a pattern or an enum "
    "without `<`; a value that may be text or something else is written as JSON.\n\n"
    "A template that does not know tools: a required call is a 400, other tools a warning. What is thought (`<think>`, `[THINK]`, "
    "or opened by the template) comes as `reasoning_content` (OpenAI), `thinking` (Ollama, a block of Anthropic's) or a "
    "`reasoning` item (responses), and its tokens are counted in `completion_tokens_details.reasoning_tokens`. `tool_choice` and "
    "`parallel_tool_calls` for `/api/chat` are quern's. Grammars are compiled once and kept, up to 32 a model.\n";

void fields_markdown(buf *out) {
    buf_str(out, intro);
    buf_str(out, structure);
    for (size_t g = 0; g < sizeof groups / sizeof *groups; g++) {
        buf_fmt(out, "\n## %s\n\n", groups[g].title);
        if (groups[g].about[0]) buf_fmt(out, "%s\n\n", groups[g].about);
        buf_str(out, "| field | type | range | default | what happens | |\n|---|---|---|---|---|---|\n");
        for (int i = 0; i < fields_n; i++)
            if (fields_table[i].groups & groups[g].bit) markdown_row(&fields_table[i], out);
    }
}

void fields_help(buf *out) {
    for (size_t g = 0; g < sizeof groups / sizeof *groups; g++) {
        buf_fmt(out, "%s%s\n", g ? "\n" : "", groups[g].title);
        for (int i = 0; i < fields_n; i++) {
            const field *f = &fields_table[i];
            char types[120];
            if (!(f->groups & groups[g].bit)) continue;
            name_types(f->types, types);
            buf_fmt(out, "  %-24s %-28s %s%s%s\n", f->name, types,
                    f->fate == FIELD_REFUSE ? "REFUSED: " : f->fate == FIELD_INERT ? "no effect: " : "", f->help,
                    f->fate == FIELD_NEUTRAL ? " (only its neutral value)" : "");
        }
    }
}
