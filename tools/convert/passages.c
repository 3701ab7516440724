/* passages: what the converter runs to measure a file: a prompt that is always the same, so that certificates can be compared, and
 * blocks of a text where one is given. It owns their token ids. It must not know weights. */
#include <stdlib.h>
#include <string.h>

#include "tools/convert/certify.h"

enum { PROMPT_TOKENS = 128, BLOCK_TOKENS = 512, TEXT_TOKENS = 4096 };

/* "text 1": whoever changes a byte of it gives it the next number. English first: small vocabularies spell out the rest. */
static const char prompt_text[] =
    "Once upon a time there was a miller who lived by the river. Every morning he opened the gate, the water turned the wheel, and "
    "the stones began to grind. \"Why do you work so early?\" asked the little girl. \"Because bread is eaten at breakfast,\" he "
    "said, and gave her a warm roll. In 1854 the mill burned down; it was built again, larger than before, for about $2,300.\n\n"
    "def area(width, height):\n    return width * height  # 3 * 4 == 12\n\nDie M\xc3\xbchle am Bach klappert bei Tag und bei Nacht. "
    "Le moulin tourne, et l'eau court. \xe6\xb0\xb4\xe8\xbd\xa6\xe5\x9c\xa8\xe8\xbd\xac\xe3\x80\x82 "
    "\xd0\x92\xd0\xbe\xd0\xb4\xd0\xb0 \xd1\x82\xd0\xb5\xd1\x87\xd1\x91\xd1\x82.\n";

typedef struct maker {
    passages *s;
    const arch *a;
    int cap;
    err *e;
} maker;

/* Passages keep offsets while the list of ids may still move: fix_pointers makes pointers of them. */
static int add_passage(maker *m, int n_enc, int n) {
    passages *s = m->s;
    if (s->n == m->cap) {
        int cap = m->cap ? 2 * m->cap : 16;
        passage *p = realloc(s->p, (size_t)cap * sizeof *p);
        if (!p) return fail_memory(m->e, (size_t)cap * sizeof *p, "passages");
        s->p = p;
        m->cap = cap;
    }
    s->p[s->n++] = (passage){ .n_enc = n_enc, .n = n };
    s->longest = max_int(s->longest, max_int(n_enc, n));
    return 0;
}

/* One passage of n ids, and prefix (-1: none) before them. Where there are an encoder and a decoder, the first half is read by the
 * one and continued by the other. */
static int add_ids(maker *m, int32_t prefix, const int32_t *id, int n) {
    const arch *a = m->a;
    bool both = a->n_enc_layers && a->n_layers;
    int first = both ? max_int(n / 2, 1) : n;
    ids *all = &m->s->all;
    size_t before = all->n;
    if (prefix >= 0) ids_add(all, prefix);
    for (int i = 0; i < first; i++) ids_add(all, id[i]);
    int n_first = (int)(all->n - before);
    if (both) ids_add(all, a->decoder_start >= 0 ? a->decoder_start : id[0]);
    for (int i = first; i < n && both; i++) ids_add(all, id[i]);
    if (all->failed) return fail_memory(m->e, (size_t)n * sizeof *id, "token ids");
    return add_passage(m, a->n_enc_layers ? n_first : 0, both ? n - first + 1 : a->n_layers ? n_first : 0);
}

static void fix_pointers(passages *s) {
    const int32_t *at = s->all.p;
    for (int i = 0; i < s->n; at += s->p[i].n, i++) {
        s->p[i].enc = at;
        at += s->p[i].n_enc;
        s->p[i].tok = at;
    }
}

/* ---- the prompt ---- */

/* Without a tokenizer: ids by splitmix64 (Steele, Lea and Flood 2014) from 1. */
static int32_t any_id(uint64_t *state, int n_vocab) {
    uint64_t z = *state += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return (int32_t)((z ^ z >> 31) % (uint64_t)n_vocab);
}

static int make_prompt(maker *m, const tokenizer *t) {
    int most = min_int(PROMPT_TOKENS, m->a->n_ctx), n = 0;
    int32_t list[PROMPT_TOKENS];
    ids v = { 0 };
    if (t && tokenizer_encode(t, prompt_text, sizeof prompt_text - 1, TOK_SPECIAL, &v, m->e)) return -1;
    for (size_t i = 0; i < v.n && n < most; i++)
        if (v.p[i] < m->a->n_vocab) list[n++] = v.p[i];
    ids_free(&v);
    bool spoken = n >= min_int(16, most);
    uint64_t state = 1;
    if (!spoken)
        for (n = 0; n < most; n++) list[n] = any_id(&state, m->a->n_vocab);
    snprintf(m->s->prompt, sizeof m->s->prompt, "%s", spoken ? "text 1" : "ids 1");
    return add_ids(m, -1, list, n);
}

/* ---- a text ---- */

/* The id that the tokenizer puts before a text, or -1: each block begins with it, as a prompt would. */
static int first_special(const tokenizer *t, int n_vocab, int32_t *prefix, err *e) {
    ids plain = { 0 }, special = { 0 };
    int rc = tokenizer_encode(t, "the", 3, 0, &plain, e) || tokenizer_encode(t, "the", 3, TOK_SPECIAL, &special, e) ? -1 : 0;
    *prefix = !rc && special.n > plain.n && special.p[0] < n_vocab && (!plain.n || special.p[0] != plain.p[0]) ? special.p[0] : -1;
    ids_free(&plain);
    ids_free(&special);
    return rc;
}

static int check_text(const maker *m, const char *path, const ids *v) {
    if (v->n < 2) return fail_code(m->e, ERR_INPUT, "%s: has %zu tokens; --calibrate needs a text of at least 2, better thousands", path, v->n);
    for (size_t i = 0; i < v->n; i++)
        if (v->p[i] >= m->a->n_vocab)
            return fail_code(m->e, ERR_INPUT, "%s: its token %zu has the id %d, the model only %d; take another text",
                             path, i, v->p[i], m->a->n_vocab);
    return 0;
}

/* Whole blocks, evenly over the text, of TEXT_TOKENS in all at most; a text shorter than one is a block by itself. */
static int cut_text(maker *m, int32_t prefix, const ids *v) {
    passages *s = m->s;
    int ctx = min_int(m->a->n_ctx, BLOCK_TOKENS), block = max_int(ctx - (prefix >= 0), 1);
    int64_t whole = (int64_t)v->n / block, n = whole < TEXT_TOKENS / ctx ? whole : TEXT_TOKENS / ctx;
    int before = s->n;
    if (whole == 0 && add_ids(m, prefix, v->p, (int)v->n)) return -1;
    for (int64_t i = 0; i < n; i++)
        if (add_ids(m, prefix, v->p + i * whole / n * block, block)) return -1;
    for (int i = before; i < s->n; i++)
        s->text_tokens += m->a->n_enc_layers && m->a->n_layers ? s->p[i].n_enc + s->p[i].n : max_int(s->p[i].n_enc, s->p[i].n);
    return 0;
}

static int make_text(maker *m, const tokenizer *t, const char *path) {
    if (!t)
        return fail_code(m->e, ERR_INPUT, "--calibrate %s: the checkpoint has no tokenizer to read a text with; --tokenizer FILE takes one", path);
    buf text = { 0 };
    ids v = { 0 };
    int32_t prefix = -1;
    int rc = read_file(path, 0, &text, m->e);
    if (!rc && text.n == 0) rc = fail_code(m->e, ERR_INPUT, "%s: is empty; --calibrate needs a text", path);
    if (!rc) rc = tokenizer_encode(t, text.p, text.n, TOK_PARSE_SPECIAL, &v, m->e);
    if (!rc) rc = check_text(m, path, &v) || first_special(t, m->a->n_vocab, &prefix, m->e) || cut_text(m, prefix, &v) ? -1 : 0;
    if (!rc) m->s->text_hash = hash_bytes(text.p, text.n);
    ids_free(&v);
    buf_free(&text);
    return rc;
}

int passages_make(passages *s, const arch *a, const buf *blob, const char *text, err *e) {
    *s = (passages){ 0 };
    maker m = { s, a, 0, e };
    tokenizer *t = NULL;
    int rc = blob->n ? tokenizer_open(&t, blob->p, blob->n, e) : 0;
    if (!rc) rc = make_prompt(&m, t) || (text && make_text(&m, t, text)) ? -1 : 0;
    tokenizer_free(t);
    if (rc) passages_free(s);
    else fix_pointers(s);
    return rc;
}

void passages_free(passages *s) {
    ids_free(&s->all);
    free(s->p);
    *s = (passages){ 0 };
}
