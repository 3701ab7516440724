/* conversation: messages, their rendering and its ids (conversation.h). It owns the rule by which ids of earlier turns stay as they
 * are. It must not know terminals, commands or how tokens are chosen. */
#include "tools/run/conversation.h"

#include <stdlib.h>
#include <string.h>

/* ---- messages ---- */

static void rendering_clear(rendering *r) {
    r->text.n = r->marks.n = r->tokens.n = 0;
    r->text.failed = r->marks.failed = r->tokens.failed = r->apart = false;
}

static void rendering_free(rendering *r) {
    buf_free(&r->text);
    buf_free(&r->marks);
    ids_free(&r->tokens);
}

void conversation_free(conversation *c) {
    while (c->n) conversation_drop(c);
    free(c->m);
    rendering_free(&c->now);
    rendering_free(&c->next);
    *c = (conversation){ 0 };
}

static int insert(conversation *c, int at, const char *role, const char *text, size_t n, err *e) {
    buf copy = { 0 };
    buf_add(&copy, text, n);
    if (c->n == c->cap && !copy.failed) {
        int cap = max_int(16, 2 * c->cap);
        message *m = realloc(c->m, (size_t)cap * sizeof *m);
        if (m) c->m = m, c->cap = cap;
    }
    if (copy.failed || c->n == c->cap) {
        buf_free(&copy);
        return fail_memory(e, n, "a message");
    }
    memmove(c->m + at + 1, c->m + at, (size_t)(c->n - at) * sizeof *c->m);
    c->m[at] = (message){ role, copy };
    c->n++;
    return 0;
}

int conversation_add(conversation *c, const char *role, const char *text, size_t n, err *e) { return insert(c, c->n, role, text, n, e); }

static void drop_at(conversation *c, int at) {
    buf_free(&c->m[at].text);
    c->n--;
    memmove(c->m + at, c->m + at + 1, (size_t)(c->n - at) * sizeof *c->m);
}

void conversation_drop(conversation *c) { drop_at(c, c->n - 1); }

const char *conversation_role(const conversation *c, int i) { return i >= 0 && i < c->n ? c->m[i].role : ""; }

static bool has_system(const conversation *c) { return strcmp(conversation_role(c, 0), "system") == 0; }

void conversation_clear(conversation *c) {
    while (c->n > has_system(c)) conversation_drop(c);
    rendering_clear(&c->now);
}

int conversation_system(conversation *c, const char *text, size_t n, err *e) {
    bool had = has_system(c);
    if (n && insert(c, 0, "system", text, n, e)) return -1;
    if (had) drop_at(c, n ? 1 : 0);
    return 0;
}

/* ---- rendering ---- */

void conversation_put(const conversation *c, buf *out) {
    buf_str(out, "\"messages\":[");
    for (int i = 0; i < c->n; i++) {
        buf_fmt(out, "%s{\"role\":\"%s\",\"content\":", i ? "," : "", c->m[i].role);
        buf_json(out, c->m[i].text.p ? c->m[i].text.p : "", c->m[i].text.n);
        buf_byte(out, '}');
    }
    buf_byte(out, ']');
}

int conversation_render(const conversation *c, bool prompt, chat_prompt *out, err *e) {
    buf text = { 0 };
    arena mem = { 0 };
    json *root;
    *out = (chat_prompt){ 0 };
    buf_byte(&text, '{');
    conversation_put(c, &text);
    buf_byte(&text, '}');
    int rc = text.failed ? fail_memory(e, text.cap, "the messages") : json_parse(&mem, text.p, text.n, &root, e);
    if (!rc) rc = chat_render(c->shape, &(chat_request){ .messages = json_get(root, "messages"), .add_generation_prompt = prompt }, out, e);
    arena_free(&mem);
    buf_free(&text);
    return rc;
}

/* ---- ids ---- */

static size_t n_marks(const rendering *r) { return r->marks.n / sizeof(mark); }
static mark *mark_at(const rendering *r, size_t i) { return (mark *)(void *)r->marks.p + i; }
static void add_mark(rendering *r) { buf_add(&r->marks, &(mark){ r->text.n, r->tokens.n }, sizeof(mark)); }

static size_t same_bytes(const buf *a, const buf *b) {
    size_t i = 0;
    while (i < a->n && i < b->n && a->p[i] == b->p[i]) i++;
    return i;
}

/* How many marks of old still hold in text: up to one from which the rest can be made into ids by itself. */
static size_t marks_kept(const conversation *c, const rendering *old, const buf *text, const text_ranges *user) {
    size_t same = same_bytes(&old->text, text);
    for (size_t i = n_marks(old); i > 0; i--) {
        size_t at = mark_at(old, i - 1)->bytes;
        if (at <= same && (at == text->n || chat_special_at(c->shape, text, at, user) >= 0)) return i;
    }
    return 0;
}

static void copy_marked(rendering *to, const rendering *from, size_t kept) {
    if (!kept) return;
    buf_add(&to->marks, from->marks.p, kept * sizeof(mark));
    for (size_t i = 0; i < mark_at(from, kept - 1)->ids; i++) ids_add(&to->tokens, from->tokens.p[i]);
}

/* Ids of the text from a byte on. Special tokens are the template's alone. */
static int encode(const conversation *c, const chat_prompt *p, size_t from, ids *out, err *e) {
    text_range *user = malloc((p->user.n + 1) * sizeof *user);
    size_t n = 0;
    if (!user) return fail_memory(e, p->user.n * sizeof *user, "a conversation's parts");
    for (size_t i = 0; i < p->user.n && !c->parse_special; i++) {
        text_range r = p->user.p[i];
        if (r.end > from) user[n++] = (text_range){ r.begin > from ? r.begin - from : 0, r.end - from };
    }
    int rc = tokenizer_encode_parts(c->tok, p->text.p + from, p->text.n - from, TOK_PARSE_SPECIAL, user, n, out, e);
    free(user);
    return rc;
}

int conversation_prompt(conversation *c, err *e) {
    rendering *r = &c->next;
    chat_prompt p;
    rendering_clear(r);
    if (conversation_render(c, true, &p, e)) return -1;
    size_t kept = marks_kept(c, &c->now, &p.text, &p.user), from = kept ? mark_at(&c->now, kept - 1)->bytes : 0;
    copy_marked(r, &c->now, kept);
    buf_add(&r->text, p.text.p ? p.text.p : "", p.text.n);
    int rc = from < p.text.n ? encode(c, &p, from, &r->tokens, e) : 0;
    add_mark(r);
    if (!rc && (r->text.failed || r->marks.failed || r->tokens.failed)) rc = fail_memory(e, p.text.n, "the conversation's token ids");
    chat_prompt_free(&p);
    return rc;
}

void conversation_begin(conversation *c) {
    rendering r = c->now;
    c->now = c->next;
    c->next = r;
}

void conversation_token(conversation *c, int32_t id, const char *text, size_t n, bool whole) {
    rendering *r = &c->now;
    ids_add(&r->tokens, id);
    buf_add(&r->text, text, n);
    /* A special token left no text: the template will not write it again, so from here on text and ids are apart. */
    if (tokenizer_is_special(c->tok, id)) r->apart = true;
    if (whole && !r->apart) add_mark(r);
}

void conversation_settle(conversation *c, size_t most) {
    chat_prompt p;
    err none = { 0 };
    rendering *r = &c->now;
    size_t same = conversation_render(c, false, &p, &none) ? 0 : same_bytes(&r->text, &p.text), kept = n_marks(r);
    while (kept && (mark_at(r, kept - 1)->bytes > same || mark_at(r, kept - 1)->ids > most)) kept--;
    r->marks.n = kept * sizeof(mark);
    r->text.n = kept ? mark_at(r, kept - 1)->bytes : 0;
    r->tokens.n = kept ? mark_at(r, kept - 1)->ids : 0;
    chat_prompt_free(&p);
}

int32_t conversation_turn_end(const conversation *c) { return chat_turn_end(c->shape); }
