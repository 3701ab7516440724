/* fields: ONE table of every field of every request: its name, type, range, default, and what happens with it. The parser, the
 * checks, the warnings, `serve --help-fields` and docs/api.md are made of it. It knows no models and no connections.
 *
 *   fields_check(FIELDS_CHAT, body, NULL, strict, v, &report)       v[F_...]: the values that count, checked
 */
#ifndef QUERN_SERVE_FIELDS_H
#define QUERN_SERVE_FIELDS_H

#include "runtime/base.h"

/* What a body belongs to: one path, or several that share their fields. */
enum {
    FIELDS_CHAT = 1 << 0, FIELDS_COMPLETIONS = 1 << 1, FIELDS_EMBEDDINGS = 1 << 2, FIELDS_RESPONSES = 1 << 3, FIELDS_MESSAGES = 1 << 4,
    FIELDS_COUNT_TOKENS = 1 << 5, FIELDS_GENERATE = 1 << 6, FIELDS_OLLAMA_CHAT = 1 << 7, FIELDS_EMBED = 1 << 8, FIELDS_OLD_EMBEDDINGS = 1 << 9,
    FIELDS_OPTIONS = 1 << 10, FIELDS_SHOW = 1 << 11, FIELDS_NAMED = 1 << 12, FIELDS_COPY = 1 << 13, FIELDS_COMPLETION = 1 << 14,
    FIELDS_INFILL = 1 << 15, FIELDS_TOKENIZE = 1 << 16, FIELDS_DETOKENIZE = 1 << 17, FIELDS_TEMPLATE = 1 << 18, FIELDS_SLOT = 1 << 19
};

/* What a field means, whatever a dialect calls it. */
typedef enum field_key {
    F_NONE, /* nothing reads it */
    F_MODEL, F_MESSAGES, F_PROMPT, F_INPUT, F_SUFFIX, F_SYSTEM, F_INSTRUCTIONS, F_CONTEXT, F_RAW, F_STREAM, F_STREAM_OPTIONS, F_MAX_TOKENS,
    F_MAX_COMPLETION_TOKENS, F_TEMPERATURE, F_TOP_K, F_TOP_P, F_MIN_P, F_TYPICAL_P, F_REPEAT_PENALTY, F_REPEAT_LAST_N, F_FREQUENCY_PENALTY,
    F_PRESENCE_PENALTY, F_SEED, F_STOP, F_LOGIT_BIAS, F_N, F_BEST_OF, F_ECHO, F_LOGPROBS, F_TOP_LOGPROBS, F_IGNORE_EOS, F_MIN_LENGTH,
    F_NO_REPEAT_NGRAM, F_BEAMS, F_LENGTH_PENALTY, F_EARLY_STOPPING, F_RESPONSE_FORMAT, F_GRAMMAR, F_JSON_SCHEMA, F_FORMAT, F_TEXT, F_TOOLS,
    F_TOOL_CHOICE, F_PARALLEL, F_EFFORT, F_THINK, F_TEMPLATE_KWARGS, F_USER, F_METADATA, F_STORE, F_MODALITIES, F_PREVIOUS,
    F_TIMEOUT_MS, F_CACHE_PROMPT, F_LORA, F_LOOKUP, F_DRAFT_MOST, F_PARSE_SPECIAL, F_ADD_SPECIAL, F_WITH_PIECES, F_CONTENT, F_TOKENS,
    F_ENCODING, F_DIMENSIONS, F_TRUNCATE, F_SHIFT, F_POOLING, F_KEEP_ALIVE, F_OPTIONS, F_IMAGES, F_TEMPLATE, F_DEBUG_RENDER,
    F_VERBOSE, F_SOURCE, F_DESTINATION, F_RETURN_TOKENS, F_RETURN_PROGRESS, F_TIMINGS_PER_TOKEN, F_POST_SAMPLING,
    F_INPUT_PREFIX, F_INPUT_SUFFIX, F_INPUT_EXTRA, F_ADD_GENERATION, F_NUM_CTX,
    F_RESPONSE_FIELDS, F_ID_SLOT, F_SAMPLERS, F_DYNATEMP, F_XTC, F_DRY, F_MIROSTAT, F_PING, F_FILENAME, F_COUNT
} field_key;

enum { T_BOOL = 1, T_INT = 2, T_NUM = 4, T_STR = 8, T_ARR = 16, T_OBJ = 32 }; /* T_NUM: whole ones too */

typedef enum field_fate {
    FIELD_HONOUR, FIELD_INERT, /* accepted, does nothing, named in `warnings` */
    FIELD_NEUTRAL,             /* accepted with the one value that changes nothing (min), refused with another */
    FIELD_REFUSE
} field_fate;

typedef struct field {
    const char *name;
    field_key key;
    uint32_t groups;
    int types;
    double min, max;      /* of numbers; min > max: any */
    const char *otherwise; /* the default, as the documentation says it */
    field_fate fate;
    const char *help;
} field;

extern const field fields_table[];
extern const int fields_n;

/* What a check found. On failure param and msg are set, and unsupported tells which kind. */
typedef struct field_report {
    char param[80], msg[512];
    bool unsupported;
    buf *warnings;        /* JSON strings, comma between; NULL: not wanted */
    int n_warnings;
} field_report;

/* Checks an object's members against the table; v [F_COUNT] receives them. prefix: "options." or "". 0 or -1. */
int fields_check(uint32_t group, const json *body, const char *prefix, bool strict, const json **v, field_report *r);
void fields_warn(field_report *r, const char *fmt, ...) PRINTF_LIKE(2, 3);
const field *fields_find(uint32_t group, const char *name, size_t n);

void fields_help(buf *out);     /* for --help-fields */
void fields_markdown(buf *out); /* docs/api.md */

#endif
