/* vocab: --tokenize and --detokenize, as text or as one JSON object a line. Needs only the file's tokenizer. */
#include "tools/run/run.h"

#include <errno.h>
#include <string.h>

static int put(buf *b, err *e) {
    if (b->failed) return fail_memory(e, b->cap, "the output");
    if (fwrite(b->p, 1, b->n, stdout) != b->n) return fail(e, "writing to stdout failed: %s", strerror(errno));
    b->n = 0;
    return 0;
}

static void add_hex(buf *b, const char *s, size_t n) {
    for (size_t i = 0; i < n; i++) buf_fmt(b, "%02x", (unsigned char)s[i]);
}

static int parse_hex(const json *j, buf *out, err *e) {
    for (uint32_t i = 0; i + 1 < j->n + 1; i += 2) {
        unsigned byte;
        char pair[3] = { j->s[i], i + 1 < j->n ? j->s[i + 1] : 0, 0 };
        if (strspn(pair, "0123456789abcdefABCDEF") != 2 || sscanf(pair, "%x", &byte) != 1) return fail_code(e, ERR_INPUT, "bytes_hex: expected pairs of hexadecimal digits");
        buf_byte(out, (int)byte);
    }
    return 0;
}

static bool flag(const json *object, const char *key, bool otherwise) {
    const json *j = json_get(object, key);
    return j && (j->type == JSON_TRUE || j->type == JSON_FALSE) ? j->type == JSON_TRUE : otherwise;
}

static int encode_object(const tokenizer *t, const json *in, const run_opts *o, buf *out, err *e) {
    const json *text = json_get(in, "text"), *hex = json_get(in, "bytes_hex");
    buf bytes = { 0 };
    ids v = { 0 };
    int rc = 0;
    if (hex && hex->type == JSON_STRING) rc = parse_hex(hex, &bytes, e);
    else if (text && text->type == JSON_STRING) buf_add(&bytes, text->s, text->n);
    else rc = fail_code(e, ERR_INPUT, "expected \"text\" or \"bytes_hex\"");
    int flags = (flag(in, "add_special", !o->no_special) ? TOK_SPECIAL : 0) | (flag(in, "parse_special", o->parse_special) ? TOK_PARSE_SPECIAL : 0);
    if (!rc) rc = tokenizer_encode(t, bytes.p ? bytes.p : "", bytes.n, flags, &v, e);
    if (!rc) {
        buf_byte(out, '[');
        for (size_t i = 0; i < v.n; i++) buf_fmt(out, "%s%d", i ? "," : "", v.p[i]);
        buf_str(out, "]\n");
    }
    ids_free(&v);
    buf_free(&bytes);
    return rc;
}

static int decode_object(const tokenizer *t, const json *in, const run_opts *o, buf *out, err *e) {
    const json *list = json_get(in, "ids");
    if (!list || list->type != JSON_ARRAY) return fail_code(e, ERR_INPUT, "expected \"ids\": an array of token ids");
    ids v = { 0 };
    buf text = { 0 }, bytes = { 0 };
    int rc = 0;
    for (const json *j = list->child; j && !rc; j = j->next) {
        int64_t id;
        if (json_int(j, &id) || id < 0 || id > INT32_MAX) rc = fail_code(e, ERR_INPUT, "ids: expected whole numbers from 0");
        else ids_add(&v, (int32_t)id);
    }
    bool skip = flag(in, "skip_special", o->no_special);
    if (!rc) rc = tokenizer_decode(t, v.p, v.n, skip, &text, e);
    if (!rc) rc = tokenizer_decode_bytes(t, v.p, v.n, skip, &bytes, e);
    if (!rc) {
        buf_str(out, "{\"text\":");
        buf_json(out, text.p ? text.p : "", text.n);
        buf_str(out, ",\"bytes_hex\":\"");
        add_hex(out, bytes.p, bytes.n);
        buf_str(out, "\"}\n");
    }
    ids_free(&v);
    buf_free(&text);
    buf_free(&bytes);
    return rc;
}

static int run_lines(const tokenizer *t, const run_opts *o, const buf *in, err *e) {
    buf out = { 0 };
    int rc = 0;
    size_t line = 1;
    for (size_t at = 0; at < in->n && !rc; line++) {
        const char *end = memchr(in->p + at, '\n', in->n - at);
        size_t n = end ? (size_t)(end - in->p) - at : in->n - at;
        arena a = { 0 };
        json *j;
        err inner = { 0 };
        if (n) {
            rc = json_parse(&a, in->p + at, n, &j, &inner);
            if (!rc) rc = json_get(j, "ids") ? decode_object(t, j, o, &out, &inner) : encode_object(t, j, o, &out, &inner);
            if (rc) rc = fail_code(e, inner.code, "line %zu: %s", line, inner.msg);
        }
        if (!rc && out.n > 1 << 16) rc = put(&out, e);
        arena_free(&a);
        at += n + 1;
    }
    if (!rc) rc = put(&out, e);
    buf_free(&out);
    return rc;
}

static int run_plain(const tokenizer *t, const run_opts *o, const buf *in, err *e) {
    ids v = { 0 };
    buf out = { 0 };
    int rc;
    if (o->tokenize) {
        int flags = (o->no_special ? 0 : TOK_SPECIAL) | (o->parse_special ? TOK_PARSE_SPECIAL : 0);
        rc = tokenizer_encode(t, in->p, in->n, flags, &v, e);
        for (size_t i = 0; i < v.n; i++) buf_fmt(&out, "%s%d", i ? " " : "", v.p[i]);
        buf_byte(&out, '\n');
    } else {
        rc = ids_parse(&v, in->p, e);
        if (!rc) rc = tokenizer_decode(t, v.p, v.n, o->no_special, &out, e);
    }
    if (!rc) rc = put(&out, e);
    ids_free(&v);
    buf_free(&out);
    return rc;
}

int run_vocab(const run_opts *o, err *e) {
    engine *g;
    tokenizer *t = NULL;
    buf in = { 0 };
    if (engine_open(&g, &(engine_opts){ .path = o->model, .vocab_only = true }, e)) return -1;
    const engine_info *i = engine_about(g);
    int rc = i->tokenizer_bytes ? tokenizer_open(&t, i->tokenizer, i->tokenizer_bytes, e) : fail(e, "%s has no tokenizer: convert again with one (--tokenizer FILE)", o->model);
    if (!rc) rc = read_stream(stdin, 0, &in, e);
    if (!rc) rc = o->jsonl ? run_lines(t, o, &in, e) : run_plain(t, o, &in, e);
    if (!rc && fflush(stdout)) rc = fail(e, "writing to stdout failed: %s", strerror(errno));
    buf_free(&in);
    tokenizer_free(t);
    engine_close(g);
    return rc;
}
