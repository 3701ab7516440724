/* load: a checkpoint's folder to a tokenizer: which file, and what tokenizer_config.json adds (the chat template, the names of
 * BOS and EOS, and for SentencePiece models whether they are added). It must not know the inside of any vocabulary. */
#include "tokenizer/build.h"

enum { MAX_FILE = 1 << 30, MAX_CONFIG = 1 << 26 };

static struct slice slice_of(const json *j) { return (struct slice){ j->s, j->n }; }

/* "bos_token": a string, or an added token as an object with "content". */
static struct slice token_name(const json *config, const char *key) {
    const json *j = json_get(config, key);
    if (j && j->type == JSON_OBJECT) j = json_get(j, "content");
    return j && j->type == JSON_STRING ? slice_of(j) : (struct slice){ NULL, 0 };
}

/* "chat_template": a string, or a list of {name, template}, of which "default" and "tool_use" count. */
static void take_templates(struct build *b, const json *config) {
    const json *j = json_get(config, "chat_template");
    if (j && j->type == JSON_STRING) b->chat_template = slice_of(j);
    for (const json *k = j && j->type == JSON_ARRAY ? j->child : NULL; k; k = k->next) {
        const json *text = json_get(k, "template");
        if (!text || text->type != JSON_STRING) continue;
        if (json_is(json_get(k, "name"), "default")) b->chat_template = slice_of(text);
        if (json_is(json_get(k, "name"), "tool_use")) b->tool_template = slice_of(text);
    }
}

static int read_optional(struct build *b, const char *folder, const char *name, struct slice *out, err *e) {
    char *path = path_join(&b->mem, folder, name);
    buf text = { 0 };
    if (!path) return fail_memory(e, strlen(folder), "a path");
    if (!file_exists(path)) return 0;
    int rc = read_file(path, MAX_CONFIG, &text, e);
    if (!rc && !(out->p = arena_copy(&b->mem, text.p, text.n))) rc = fail_memory(e, text.n, name);
    if (!rc) out->n = text.n;
    buf_free(&text);
    return rc;
}

static int read_config(struct build *b, const char *folder, const char *name, const json **config, err *e) {
    struct slice text = { NULL, 0 };
    json *root = NULL;
    err inner = { 0 };
    *config = NULL;
    if (!folder || read_optional(b, folder, name, &text, e)) return folder ? -1 : 0;
    if (!text.p) return 0;
    if (json_parse(&b->mem, text.p, text.n, &root, &inner)) return fail_code(e, inner.code, "%s/%s: %s", folder, name, inner.msg);
    *config = root;
    return 0;
}

/* BOS and EOS: as the configuration names them, else what the rules put around a text. */
static int name_ids(struct build *b, const json *config, const char *folder, err *e) {
    const struct {
        const char *key;
        int32_t *id;
        const ids *around;
        bool last;
    } want[] = { { "bos_token", &b->bos, &b->prefix, false }, { "eos_token", &b->eos, &b->suffix, true } };
    for (int i = 0; i < 2; i++) {
        struct slice name = token_name(config, want[i].key);
        const ids *around = want[i].around;
        if (name.p && name.n) {
            int32_t id = build_id(b, name);
            if (id < 0)
                return fail_code(e, ERR_INPUT, "%s/tokenizer_config.json: \"%s\" is \"%s\", which is not in the vocabulary",
                                 folder ? folder : ".", want[i].key, name.p);
            *want[i].id = id;
        } else if (*want[i].id < 0 && around->n) *want[i].id = want[i].last ? around->p[around->n - 1] : around->p[0];
    }
    return 0;
}

/* A SentencePiece model does not say what surrounds a text; its configuration does, or the habit of its class. */
static int surround_model(struct build *b, const json *config, err *e) {
    const json *class = json_get(config, "tokenizer_class");
    bool t5 = class && class->type == JSON_STRING && strncmp(class->s, "T5", 2) == 0, bos, eos;
    if (json_bool(config, "add_bos_token", !t5, &bos, "tokenizer_config.json", e) ||
        json_bool(config, "add_eos_token", t5, &eos, "tokenizer_config.json", e))
        return -1;
    if (bos && b->bos >= 0) ids_add(&b->prefix, b->bos);
    if (eos && b->eos >= 0) ids_add(&b->suffix, b->eos);
    return 0;
}

/* The newest place wins, whole: files of their own; else tokenizer_config.json; else what older processors of images had. */
static int add_templates(struct build *b, const char *folder, const json *config, err *e) {
    struct slice text = { NULL, 0 }, tools = { NULL, 0 };
    const json *older;
    if (folder && (read_optional(b, folder, "chat_template.jinja", &text, e) || read_optional(b, folder, "chat_templates/tool_use.jinja", &tools, e))) return -1;
    if (text.p || tools.p) {
        b->chat_template = text;
        b->tool_template = tools;
        return 0;
    }
    take_templates(b, config);
    if (b->chat_template.p || b->tool_template.p) return 0;
    if (read_config(b, folder, "chat_template.json", &older, e)) return -1;
    take_templates(b, older);
    return 0;
}

static int add_config(struct build *b, const char *folder, err *e) {
    const json *config;
    if (read_config(b, folder, "tokenizer_config.json", &config, e) || name_ids(b, config, folder, e)) return -1;
    if ((b->flags & TOK_SENTENCEPIECE) && surround_model(b, config, e)) return -1;
    return add_templates(b, folder, config, e);
}

/* A file is JSON if it begins like an object; else a SentencePiece model. */
static int read_vocabulary(struct build *b, const char *path, buf *text, err *e) {
    err inner = { 0 };
    if (read_file(path, MAX_FILE, text, e)) return -1;
    size_t i = 0;
    while (i < text->n && strchr(" \t\r\n", text->p[i])) i++;
    bool is_json = i < text->n && text->p[i] == '{';
    int rc;
    if (text->n > 20 && memcmp(text->p, "version https://git-", 20) == 0)
        rc = fail(&inner, "a git-LFS pointer, not the file itself: fetch it with git lfs pull");
    else rc = is_json ? load_json(b, text->p, text->n, &inner) : load_sentencepiece(b, text->p, text->n, &inner);
    return rc ? fail_code(e, inner.code, "%s: %s", path, inner.msg) : 0;
}

static const char *choose(struct build *b, const char *folder, const char *file) {
    static const char *const names[] = { "tokenizer.json", "tokenizer.model", "spiece.model" };
    if (file) return file;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *path = path_join(&b->mem, folder, names[i]);
        if (path && file_exists(path)) return path;
    }
    return NULL;
}

int tokenizer_load(tokenizer **t, const char *folder, const char *file, err *e) {
    struct build b = { .unk = -1, .bos = -1, .eos = -1 };
    buf text = { 0 };
    *t = NULL;
    const char *path = choose(&b, folder, file);
    int rc = path ? read_vocabulary(&b, path, &text, e) : 0;
    if (path && !rc) rc = add_config(&b, folder, e);
    if (path && !rc) rc = build_finish(&b, t, e);
    buf_free(&text);
    build_free(&b);
    return rc;
}
