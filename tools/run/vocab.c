/* vocab: --tokenize and --detokenize, as text or as one JSON object a line. Needs only the file's tokenizer. */
#include "runtime/files.h"
#include "tools/run/run.h"

#include <errno.h>
#include <string.h>

int run_put(buf *b, err *e) {
    if (b->failed) return fail_memory(e, b->cap, "the output");
    if (b->n && fwrite(b->p, 1, b->n, stdout) != b->n) return fail(e, "writing to stdout failed: %s", strerror(errno));
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
        if (strspn(pair, "0123456789abcdefABCDEF") != 2 || sscanf(pair, "%x", &byte) != 1)
            return fail_code(e, ERR_INPUT, "bytes_hex: expected pairs of hexadecimal digits");
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

int run_lines(const buf *in, int (*line)(void *arg, const char *s, size_t n, buf *out, err *e), void *arg, err *e) {
    buf out = { 0 };
    int rc = 0;
    size_t number = 1;
    for (size_t at = 0; at < in->n && !rc; number++) {
        const char *end = memchr(in->p + at, '\n', in->n - at);
        size_t n = end ? (size_t)(end - in->p) - at : in->n - at;
        err inner = { 0 };
        if (n && line(arg, in->p + at, n, &out, &inner)) rc = fail_code(e, inner.code, "line %zu: %s", number, inner.msg);
        if (!rc && out.n > 1 << 16) rc = run_put(&out, e);
        at += n + 1;
    }
    if (!rc) rc = run_put(&out, e);
    buf_free(&out);
    return rc;
}

struct vocabulary { const tokenizer *t; const run_opts *o; };

static int code_line(void *arg, const char *s, size_t n, buf *out, err *e) {
    const struct vocabulary *v = arg;
    arena a = { 0 };
    json *j;
    int rc = json_parse(&a, s, n, &j, e);
    if (!rc) rc = json_get(j, "ids") ? decode_object(v->t, j, v->o, out, e) : encode_object(v->t, j, v->o, out, e);
    arena_free(&a);
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
    if (!rc) rc = run_put(&out, e);
    ids_free(&v);
    buf_free(&out);
    return rc;
}

static int code_stdin(const run_opts *o, const tokenizer *t, err *e) {
    buf in = { 0 };
    struct vocabulary v = { t, o };
    int rc = read_stream(stdin, 0, &in, e);
    if (!rc) rc = o->jsonl ? run_lines(&in, code_line, &v, e) : run_plain(t, o, &in, e);
    buf_free(&in);
    return rc;
}

int run_with_tokenizer(const run_opts *o, bool needed, int (*use)(const run_opts *o, const tokenizer *t, err *e), err *e) {
    engine *g;
    tokenizer *t = NULL;
    if (engine_open(&g, &(engine_opts){ .path = o->model, .vocab_only = true }, e)) return -1;
    const engine_info *i = engine_about(g);
    int rc = i->tokenizer_bytes ? tokenizer_open(&t, i->tokenizer, i->tokenizer_bytes, e) : 0;
    if (!rc && !t && needed) rc = fail(e, "%s has no tokenizer: convert again with one (--tokenizer FILE)", o->model);
    if (!rc) rc = use(o, t, e);
    if (!rc && fflush(stdout)) rc = fail(e, "writing to stdout failed: %s", strerror(errno));
    tokenizer_free(t);
    engine_close(g);
    return rc;
}

int run_vocab(const run_opts *o, err *e) { return run_with_tokenizer(o, true, code_stdin, e); }
