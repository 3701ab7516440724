/* conversation_file: a conversation in a file and back (conversation.h describes the format). A file may come from anyone: every
 * length is compared with what is there, and nothing of the conversation changes before the whole file has been found sound. */
#include "tools/run/conversation.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct header {
    char magic[8];
    uint32_t version, reserved;
    uint64_t json_bytes, json_hash;
} header;
_Static_assert(sizeof(header) == 32, "header of a saved conversation");

static const char magic[8] = "QUERNCHT";
enum { VERSION = 1 };

/* ---- writing ---- */

static void put_json(const conversation *c, buf *out) {
    const rendering *r = &c->now;
    const mark *m = (const mark *)(const void *)r->marks.p;
    buf_byte(out, '{');
    conversation_put(c, out);
    buf_str(out, ",\"text\":");
    buf_json(out, r->text.p ? r->text.p : "", r->text.n);
    buf_fmt(out, ",\"tokens\":%zu,\"marks\":[", r->tokens.n);
    for (size_t i = 0; i < r->marks.n / sizeof *m; i++) buf_fmt(out, "%s[%zu,%zu]", i ? "," : "", m[i].bytes, m[i].ids);
    buf_str(out, "]}");
}

/* The session holds exactly what the file's JSON says. */
static int bring(conversation *c, session *s, const engine_info *about, err *e) {
    conversation_settle(c, (size_t)about->ctx);
    if (c->now.tokens.n) return session_sync(s, c->now.tokens.p, (int)c->now.tokens.n, e);
    session_truncate(s, 0);
    return 0;
}

static int write_all(const buf *text, const session *s, FILE *f, err *e) {
    header h = { .version = VERSION, .json_bytes = text->n, .json_hash = hash_bytes(text->p, text->n) };
    memcpy(h.magic, magic, sizeof magic);
    if (fwrite(&h, sizeof h, 1, f) != 1 || fwrite(text->p, 1, text->n, f) != text->n) return fail(e, "%s", strerror(errno));
    return session_save(s, f, e);
}

static int write_file(const buf *text, const session *s, const char *path, const char *beside, err *e) {
    FILE *f = fopen(beside, "wb");
    if (!f) return fail(e, "%s: %s", beside, strerror(errno));
    err inner = { 0 };
    int rc = write_all(text, s, f, &inner);
    if (fclose(f) && !rc) rc = fail(&inner, "%s", strerror(errno));
    if (!rc && rename(beside, path)) rc = fail(&inner, "%s", strerror(errno));
    if (!rc) return 0;
    unlink(beside);
    return fail_code(e, inner.code, "%s: %s", path, inner.msg);
}

/* What stands there already may be replaced only by its own kind. */
static int check_place(const char *path, err *e) {
    char found[sizeof magic] = { 0 };
    struct stat st;
    if (stat(path, &st)) return 0;
    FILE *f = S_ISREG(st.st_mode) ? fopen(path, "rb") : NULL;
    bool own = f && fread(found, sizeof found, 1, f) == 1 && memcmp(found, magic, sizeof magic) == 0;
    if (f) fclose(f);
    return own ? 0 : fail(e, "%s: is there already and no saved conversation; choose another name", path);
}

int conversation_save(conversation *c, session *s, const engine_info *about, const char *path, err *e) {
    if (check_place(path, e) || bring(c, s, about, e)) return -1;
    buf text = { 0 }, beside = { 0 };
    put_json(c, &text);
    buf_fmt(&beside, "%s.part", path);
    int rc = text.failed || beside.failed ? fail_memory(e, text.cap, "the conversation") : write_file(&text, s, path, beside.p, e);
    buf_free(&text);
    buf_free(&beside);
    return rc;
}

/* ---- reading ---- */

static int damaged(err *e, const char *what) { return fail_code(e, ERR_INPUT, "the saved conversation is damaged: %s", what); }

static int read_messages(conversation *c, const json *list, err *e) {
    static const char *const roles[] = { "system", "user", "assistant" };
    if (!list || list->type != JSON_ARRAY) return damaged(e, "messages: expected a list");
    for (const json *m = list->child; m; m = m->next) {
        const json *role = json_get(m, "role"), *text = json_get(m, "content");
        const char *known = NULL;
        for (size_t i = 0; i < sizeof roles / sizeof *roles; i++)
            if (role && json_is(role, roles[i])) known = roles[i];
        if (!known || !text || text->type != JSON_STRING) return damaged(e, "messages: expected a role and a content");
        if (conversation_add(c, known, text->s, text->n, e)) return -1;
    }
    return 0;
}

/* Marks rise from one to the next, and the last covers the text and the tokens whole. */
static int read_marks(rendering *r, const json *list, size_t n_tokens, err *e) {
    mark last = { 0 };
    if (!list || list->type != JSON_ARRAY) return damaged(e, "marks: expected a list");
    for (const json *j = list->child; j; j = j->next) {
        int64_t text, tokens;
        if (j->type != JSON_ARRAY || j->n != 2 || json_int(j->child, &text) || json_int(j->child->next, &tokens))
            return damaged(e, "marks: expected pairs of numbers");
        if (text < 0 || tokens < 0 || (size_t)text < last.bytes || (size_t)tokens < last.ids) return damaged(e, "marks: expected rising numbers");
        last = (mark){ (size_t)text, (size_t)tokens };
        buf_add(&r->marks, &last, sizeof last);
    }
    return last.bytes == r->text.n && last.ids == n_tokens ? 0 : damaged(e, "its marks do not reach to its end");
}

static int read_object(conversation *c, const json *root, size_t *n_tokens, err *e) {
    const json *text = json_get(root, "text"), *tokens = json_get(root, "tokens");
    int64_t n;
    if (read_messages(c, json_get(root, "messages"), e)) return -1;
    if (!text || text->type != JSON_STRING) return damaged(e, "text: expected a string");
    if (!tokens || json_int(tokens, &n) || n < 0 || n > INT32_MAX) return damaged(e, "tokens: expected a number");
    *n_tokens = (size_t)n;
    buf_add(&c->now.text, text->s, text->n);
    if (read_marks(&c->now, json_get(root, "marks"), (size_t)n, e)) return -1;
    return c->now.text.failed || c->now.marks.failed ? fail_memory(e, text->n, "a saved conversation") : 0;
}

int conversation_read(conversation *c, const char *json_text, size_t n, size_t *n_tokens, err *e) {
    conversation fresh = { .tok = c->tok, .shape = c->shape };
    arena mem = { 0 };
    json *root;
    int rc = json_parse(&mem, json_text, n, &root, e);
    if (!rc) rc = read_object(&fresh, root, n_tokens, e);
    if (!rc) {
        conversation old = *c;
        *c = fresh;
        fresh = old;
    }
    conversation_free(&fresh);
    arena_free(&mem);
    return rc;
}

static int read_json(FILE *f, uint64_t size, buf *text, err *e) {
    header h;
    if (fread(&h, sizeof h, 1, f) != 1 || memcmp(h.magic, magic, sizeof magic)) return fail(e, "no saved conversation");
    if (h.version != VERSION) return fail(e, "a saved conversation of version %u, this program reads version %d", h.version, VERSION);
    if (h.json_bytes > size - sizeof h) return damaged(e, "it is cut short");
    char *p = malloc(h.json_bytes + 1);
    if (!p) return fail_memory(e, h.json_bytes, "a saved conversation");
    *text = (buf){ .p = p, .n = h.json_bytes, .cap = h.json_bytes + 1 };
    if (fread(p, 1, text->n, f) != text->n) return damaged(e, "it is cut short");
    return h.reserved == 0 && hash_bytes(p, text->n) == h.json_hash ? 0 : damaged(e, "its hash does not match");
}

static int read_session(conversation *c, session *s, const engine_info *about, size_t n_tokens, FILE *f, err *e) {
    if (session_load(s, f, e)) return -1;
    if (fgetc(f) != EOF) return damaged(e, "there is more than it should hold");
    if ((size_t)session_len(s) != n_tokens) return damaged(e, "its text and its tokens do not belong together");
    for (size_t i = 0; i < n_tokens; i++) {
        int32_t id = session_tokens(s)[i];
        if (id < 0 || id >= about->n_vocab) return damaged(e, "a token that this model does not have");
        ids_add(&c->now.tokens, id);
    }
    return c->now.tokens.failed ? fail_memory(e, n_tokens * sizeof(int32_t), "a saved conversation") : 0;
}

int conversation_load(conversation *c, session *s, const engine_info *about, const char *path, err *e) {
    conversation fresh = { .tok = c->tok, .shape = c->shape };
    buf text = { 0 };
    err inner = { 0 };
    size_t n_tokens;
    struct stat st;
    bool there = stat(path, &st) == 0;
    if (there && !S_ISREG(st.st_mode)) return fail(e, "%s: no file that can be read", path);
    FILE *f = there ? fopen(path, "rb") : NULL;
    if (!f) return fail(e, "%s: %s", path, strerror(errno));
    int rc = read_json(f, (uint64_t)st.st_size, &text, &inner);
    if (!rc) rc = conversation_read(&fresh, text.p, text.n, &n_tokens, &inner);
    if (!rc) rc = read_session(&fresh, s, about, n_tokens, f, &inner);
    fclose(f);
    buf_free(&text);
    if (rc) {
        session_truncate(s, 0);
        fail_code(e, inner.code, "%s: %s", path, inner.msg);
    } else {
        conversation old = *c;
        *c = fresh;
        fresh = old;
    }
    conversation_free(&fresh);
    return rc;
}
