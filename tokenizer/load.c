/* load: a checkpoint's folder to a tokenizer: which file, what kind of file it is, and what tokenizer_config.json adds (the chat
 * template, the names of BOS and EOS, and whether they are added where the vocabulary's file does not say). It must not know the
 * inside of any vocabulary. */
#include "runtime/files.h"
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

static int read_beside(struct build *b, const char *folder, const char *name, const json **out, err *e) {
    struct slice text = { NULL, 0 };
    json *root = NULL;
    err inner = { 0 };
    if (read_optional(b, folder, name, &text, e)) return -1;
    if (!text.p) return 0;
    if (json_parse(&b->mem, text.p, text.n, &root, &inner)) return fail_code(e, inner.code, "%s/%s: %s", folder, name, inner.msg);
    *out = root;
    return 0;
}

/* What vocabularies older than tokenizer.json leave to the files beside them. */
static int read_rest(struct build *b, const char *folder, struct beside *by, err *e) {
    if (folder &&
        (read_beside(b, folder, "special_tokens_map.json", &by->map, e) ||
         read_beside(b, folder, "added_tokens.json", &by->added, e) || read_beside(b, folder, "config.json", &by->model, e)))
        return -1;
    const json *class = json_get(by->config, "tokenizer_class"), *type = json_get(by->model, "model_type");
    bool classed = class && class->type == JSON_STRING;
    by->t5 = classed ? strncmp(class->s, "T5", 2) == 0 : json_is(type, "t5") || json_is(type, "umt5");
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

/* Most files do not say what surrounds a text; their configuration does, or the habit of its class. */
static int surround(struct build *b, const struct beside *by, err *e) {
    bool bos, eos;
    if (json_bool(by->config, "add_bos_token", b->add_bos && !by->t5, &bos, "tokenizer_config.json", e) ||
        json_bool(by->config, "add_eos_token", b->add_eos || by->t5, &eos, "tokenizer_config.json", e))
        return -1;
    if (bos && b->bos >= 0 && !b->prefix.n) ids_add(&b->prefix, b->bos);
    if (eos && b->eos >= 0 && !b->suffix.n) ids_add(&b->suffix, b->eos);
    return 0;
}

/* The newest place wins, whole: files of their own; else tokenizer_config.json; else what older processors of images had. */
static int add_templates(struct build *b, const char *folder, const json *config, err *e) {
    struct slice text = { NULL, 0 }, tools = { NULL, 0 };
    const json *older = NULL;
    if (folder && (read_optional(b, folder, "chat_template.jinja", &text, e) || read_optional(b, folder, "chat_templates/tool_use.jinja", &tools, e)))
        return -1;
    if (text.p || tools.p) {
        b->chat_template = text;
        b->tool_template = tools;
        return 0;
    }
    take_templates(b, config);
    if (b->chat_template.p || b->tool_template.p) return 0;
    if (folder && read_beside(b, folder, "chat_template.json", &older, e)) return -1;
    take_templates(b, older);
    return 0;
}

static int add_config(struct build *b, const char *folder, const struct beside *by, err *e) {
    if (name_ids(b, by->config, folder, e) || (b->ask_config && surround(b, by, e))) return -1;
    return add_templates(b, folder, by->config, e);
}

/* ---- which file, and what it is ---- */

/* The path of another file in the same folder. */
static const char *sibling(struct build *b, const char *path, const char *name) {
    const char *slash = strrchr(path, '/');
    const char *folder = slash ? arena_copy(&b->mem, path, slash == path ? 1 : (size_t)(slash - path)) : ".";
    return folder ? path_join(&b->mem, folder, name) : NULL;
}

/* vocab.json and merges.txt: either may be the file that was asked for. */
static int read_pair(struct build *b, const char *vocab_path, const char *merges_path, const struct beside *by, err *e) {
    buf vocab = { 0 }, merges = { 0 };
    json *root;
    int rc = vocab_path && merges_path ? 0 : fail_memory(e, 0, "a path");
    if (!rc) rc = read_file(vocab_path, MAX_FILE, &vocab, e) || read_file(merges_path, MAX_FILE, &merges, e) ? -1 : 0;
    const char *text = rc ? NULL : arena_copy(&b->mem, merges.p ? merges.p : "", merges.n); /* entries are borrowed from the tree */
    if (!rc && !text) rc = fail_memory(e, merges.n, "merges.txt");
    if (!rc) rc = json_parse(&b->mem, vocab.p, vocab.n, &root, e);
    if (!rc && root->type != JSON_OBJECT)
        rc = fail_code(e, ERR_INPUT, "vocab.json is %s, expected an object", json_type_name(root));
    if (!rc) rc = load_vocab_json(b, root, (struct slice){ text, merges.n }, by, e);
    buf_free(&vocab);
    buf_free(&merges);
    return rc;
}

/* JSON is one of three: a tokenizer.json, a tekken.json, or a vocab.json of texts and their ids. */
static int read_json(struct build *b, const char *path, const buf *text, const struct beside *by, err *e) {
    json *root;
    if (json_parse(&b->mem, text->p, text->n, &root, e)) return -1;
    const json *model = json_get(root, "model"), *vocab = json_get(root, "vocab");
    bool plain = root->child && root->child->type == JSON_NUMBER && !(model && model->type == JSON_OBJECT);
    if (plain) return read_pair(b, path, sibling(b, path, "merges.txt"), by, e);
    if (vocab && vocab->type == JSON_ARRAY && !model) return load_tekken(b, root, e);
    return load_json(b, root, e);
}

static bool ends_in(const char *path, const char *end) {
    size_t n = strlen(path), k = strlen(end);
    return n >= k && strcmp(path + n - k, end) == 0;
}

/* JSON begins like an object, a rank file with a line of one; of the rest the name decides, and a SentencePiece model is none of
 * those. */
static int read_kind(struct build *b, const char *path, const buf *text, const struct beside *by, err *e) {
    struct slice all = { text->p, text->n };
    size_t i = 0;
    while (i < text->n && strchr(" \t\r\n", text->p[i])) i++;
    if (text->n > 20 && memcmp(text->p, "version https://git-", 20) == 0)
        return fail(e, "a git-LFS pointer, not the file itself: fetch it with git lfs pull");
    if (i < text->n && text->p[i] == '{') return read_json(b, path, text, by, e);
    if (ends_in(path, "merges.txt")) return read_pair(b, sibling(b, path, "vocab.json"), path, by, e);
    if (ends_in(path, ".txt")) return load_vocab_txt(b, all, by, e);
    if (!looks_like_ranks(all)) return load_sentencepiece(b, text->p, text->n, e) || add_tokens_beside(b, by, true, e) ? -1 : 0;
    const json *names = json_get(by->config, "added_tokens_decoder");
    return load_ranks(b, all, names && names->n, e) || add_tokens_beside(b, by, true, e) ? -1 : 0;
}

static int read_vocabulary(struct build *b, const char *path, buf *text, const struct beside *by, err *e) {
    err inner = { 0 };
    if (read_file(path, MAX_FILE, text, e)) return -1;
    return read_kind(b, path, text, by, &inner) ? fail_code(e, inner.code, "%s: %s", path, inner.msg) : 0;
}

static const char *choose(struct build *b, const char *folder, const char *file) {
    static const char *const names[] = { "tokenizer.json", "tekken.json", "tokenizer.model", "spiece.model",
                                         "qwen.tiktoken",  "vocab.json",  "vocab.txt" };
    if (file) return file;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *path = path_join(&b->mem, folder, names[i]);
        if (!path || !file_exists(path)) continue;
        const char *pair = strcmp(names[i], "vocab.json") == 0 ? sibling(b, path, "merges.txt") : NULL;
        if (!pair || file_exists(pair)) return path; /* other models have a vocab.json of their own, without merges */
    }
    return NULL;
}

int tokenizer_load(tokenizer **t, const char *folder, const char *file, err *e) {
    struct build b = { .unk = -1, .bos = -1, .eos = -1 };
    struct beside by = { 0 };
    buf text = { 0 };
    *t = NULL;
    const char *path = choose(&b, folder, file);
    int rc = path && folder ? read_beside(&b, folder, "tokenizer_config.json", &by.config, e) : 0;
    if (path && !rc && !ends_in(path, "tokenizer.json")) rc = read_rest(&b, folder, &by, e);
    if (path && !rc) rc = read_vocabulary(&b, path, &text, &by, e);
    if (path && !rc) rc = add_config(&b, folder, &by, e);
    if (path && !rc) rc = build_finish(&b, t, e);
    buf_free(&text);
    build_free(&b);
    return rc;
}
