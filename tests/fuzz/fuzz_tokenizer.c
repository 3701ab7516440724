/* Fuzzer: tokenizer blobs and vocabularies of every kind. The first byte chooses which; what opens must also encode, decode and
 * write without a fault. Where a vocabulary comes with other files, a byte 0xff parts them. Two blobs that are compared are one and a copy of
 * it with some bytes changed. Seeds lie in seeds/fuzz_tokenizer. */
#include "tokenizer/build.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use(tokenizer *t, const char *text, size_t n) {
    ids v = { 0 };
    buf out = { 0 };
    err e = { 0 };
    detok d;
    tokenizer_encode(t, text, n, TOK_SPECIAL | TOK_PARSE_SPECIAL, &v, &e);
    tokenizer_encode(t, text, n, 0, &v, &e);
    for (int32_t id = -1; id < 64; id++) ids_add(&v, id);
    tokenizer_decode(t, v.p, v.n, true, &out, &e);
    if (!out.failed && out.n && !utf8_valid(out.p, out.n)) abort(); /* the header's promise */
    size_t whole = out.n;
    detok_begin(&d, t, true);
    for (size_t i = 0; i < v.n; i++) detok_token(&d, v.p[i], &out);
    detok_end(&d, &out);
    if (!out.failed && (out.n != 2 * whole || (whole && memcmp(out.p, out.p + whole, whole) != 0))) abort();
    tokenizer_id(t, text, n);
    tokenizer_free(t);
    ids_free(&v);
    buf_free(&out);
}

static struct slice next_part(struct slice *rest) {
    const char *end = memchr(rest->p, 0xff, rest->n);
    struct slice part = { rest->p, end ? (size_t)(end - rest->p) : rest->n };
    rest->p += part.n + (end != NULL);
    rest->n -= part.n + (end != NULL);
    return part;
}

static const json *tree(struct build *b, struct slice text) {
    json *root = NULL;
    return text.n && !json_parse(&b->mem, text.p, text.n, &root, NULL) ? root : NULL;
}

/* vocab.json, merges.txt and what lies beside them; or vocab.txt */
static int load_old(struct build *b, struct slice all, bool wordpiece, err *e) {
    struct slice first = next_part(&all), merges = wordpiece ? (struct slice){ NULL, 0 } : next_part(&all);
    struct beside by = { .config = tree(b, next_part(&all)), .map = tree(b, next_part(&all)) };
    by.added = tree(b, next_part(&all));
    by.model = tree(b, next_part(&all));
    by.t5 = json_is(json_get(by.model, "model_type"), "t5");
    if (wordpiece) return load_vocab_txt(b, first, &by, e);
    const json *vocab = tree(b, first);
    return vocab && vocab->type == JSON_OBJECT ? load_vocab_json(b, vocab, merges, &by, e) : -1;
}

/* How many changes, each a section (0: the header), a place in it (2 bytes) and what is added to the byte there; then the blob. */
static void compare(struct slice s) {
    enum { CHANGE = 4 };
    struct tok_header h;
    size_t n_changes = s.n ? (uint8_t)s.p[0] % 8 : 0, head = 1 + CHANGE * n_changes;
    if (s.n < head + sizeof h) return;
    size_t n = s.n - head;
    char *a = malloc(n), *b = malloc(n);
    if (!a || !b) abort();
    memcpy(a, s.p + head, n);
    memcpy(b, s.p + head, n);
    memcpy(&h, a, sizeof h);
    for (size_t i = 0; i < n_changes; i++) {
        const uint8_t *c = (const uint8_t *)s.p + 1 + CHANGE * i;
        size_t which = c[0] % (SEC_COUNT + 1), at = which ? h.section[which - 1].at : 0, bytes = which ? h.section[which - 1].bytes : sizeof h;
        if (bytes && at < n && (at += (size_t)(c[1] | c[2] << 8) % bytes) < n) b[at] = (char)(b[at] + c[3]);
    }
    err one = { 0 }, other = { 0 };
    if (tokenizer_same_ids(a, n, a, n, &one) || one.code) abort();
    if (tokenizer_same_ids(a, n, b, n, &one) != (one.code ? -1 : 0) || strchr(one.msg, '\n')) abort();
    if (tokenizer_same_ids(b, n, a, n, &other) != (other.code ? -1 : 0) || strchr(other.msg, '\n')) abort();
    free(a);
    free(b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char text[] = " Hello\xe2\x96\x81<s> don't 12345 \xff\xf0\x9f\x98\x80 e\xcc\x81 ab ab\n\n";
    struct build b = { .unk = -1, .bos = -1, .eos = -1 };
    tokenizer *t = NULL;
    err e = { 0 };
    if (!size) return 0;
    struct slice s = { (const char *)data + 1, size - 1 };
    const json *root;
    int rc = -1;
    switch (data[0] % 8) {
    case 0:
        tokenizer_open(&t, s.p, s.n, &e);
        break;
    case 1:
        root = tree(&b, s);
        rc = root ? load_json(&b, root, &e) : -1;
        break;
    case 2:
        rc = load_sentencepiece(&b, s.p, s.n, &e);
        break;
    case 3:
        root = tree(&b, s);
        rc = root ? load_tekken(&b, root, &e) : -1;
        break;
    case 4:
        rc = looks_like_ranks(s) ? load_ranks(&b, s, size % 2, &e) : -1;
        break;
    case 7:
        compare(s);
        break;
    default:
        rc = load_old(&b, s, data[0] % 8 == 6, &e);
    }
    if (!rc) build_finish(&b, &t, &e);
    build_free(&b);
    if (t) use(t, text, sizeof text - 1);
    return 0;
}
