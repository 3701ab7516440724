/* tokenizer_cases: recorded cases of the reference libraries against a tokenizer, line by line; for the tokenizers' tests. */
#ifndef QUERN_TESTS_TOKENIZER_CASES_H
#define QUERN_TESTS_TOKENIZER_CASES_H

#include "tokenizer/tokenizer.h"
#include "tokenizer/unicode.h"

#include "runtime/files.h"
#include "tests/test.h"

#define FIXTURES "tests/fixtures/tokenizers"

static void print_bad(const char *where, size_t line, const char *what, const char *text, const char *found) {
    print_message("%s line %zu: %s\n  expected %.300s\n  found    %.300s\n", where, line, what, text, found);
}

static void ids_text(const ids *v, buf *out) {
    out->n = 0;
    buf_add(out, "", 0);
    for (size_t i = 0; i < v->n; i++) buf_fmt(out, "%s%d", i ? " " : "", v->p[i]);
}

static void json_ids(const json *list, ids *v) {
    v->n = 0;
    for (const json *k = list->child; k; k = k->next) {
        int64_t id;
        assert_int_equal(json_int(k, &id), 0);
        ids_add(v, (int32_t)id);
    }
}

static void from_hex(const json *hex, buf *out) {
    for (uint32_t i = 0; i + 1 < hex->n; i += 2) {
        unsigned byte;
        char pair[3] = { hex->s[i], hex->s[i + 1], 0 };
        assert_int_equal(sscanf(pair, "%x", &byte), 1);
        buf_byte(out, (int)byte);
    }
}

static bool flag(const json *j, const char *key, bool otherwise) {
    const json *k = json_get(j, key);
    return k ? k->type == JSON_TRUE : otherwise;
}

static bool check_ids(const tokenizer *t, const json *j, const char *where, size_t line) {
    const json *text = json_get(j, "text"), *hex = json_get(j, "bytes_hex");
    ids want = { 0 }, got = { 0 };
    buf bytes = { 0 }, a = { 0 }, b = { 0 };
    err e = { 0 };
    if (!text && !hex) return true;
    if (hex) from_hex(hex, &bytes);
    else buf_add(&bytes, text->s, text->n);
    json_ids(json_get(j, "ids"), &want);
    int flags = (flag(j, "add_special", false) ? TOK_SPECIAL : 0) | (flag(j, "parse_special", false) ? TOK_PARSE_SPECIAL : 0);
    assert_int_equal(tokenizer_encode(t, bytes.p ? bytes.p : "", bytes.n, flags, &got, &e), 0);
    bool same = want.n == got.n && (!want.n || memcmp(want.p, got.p, want.n * sizeof *want.p) == 0);
    ids_text(&want, &a);
    ids_text(&got, &b);
    if (!same) print_bad(where, line, bytes.p ? bytes.p : "", a.p, b.p);
    ids_free(&want);
    ids_free(&got);
    buf_free(&bytes);
    buf_free(&a);
    buf_free(&b);
    return same;
}

/* Decodes whole and as a stream. Each piece of the stream is whole characters. */
static bool check_text(const tokenizer *t, const json *j, const char *key, bool skip, const char *where, size_t line) {
    const json *want = json_get(j, key);
    ids v = { 0 };
    buf whole = { 0 }, stream = { 0 };
    err e = { 0 };
    detok d;
    if (!want) return true;
    json_ids(json_get(j, "ids"), &v);
    assert_int_equal(tokenizer_decode(t, v.p, v.n, skip, &whole, &e), 0);
    detok_begin(&d, t, skip);
    for (size_t i = 0; i < v.n; i++) {
        detok_token(&d, v.p[i], &stream);
        assert_int_equal(utf8_incomplete_tail(stream.p ? stream.p : "", stream.n), 0);
    }
    detok_end(&d, &stream);
    bool same = whole.n == want->n && memcmp(whole.p ? whole.p : "", want->s, want->n) == 0;
    bool streams = stream.n == whole.n && memcmp(stream.p ? stream.p : "", whole.p ? whole.p : "", whole.n) == 0;
    if (!same) print_bad(where, line, skip ? "decoded" : "decoded_special", want->s, whole.p ? whole.p : "");
    if (!streams) print_bad(where, line, "as a stream", whole.p ? whole.p : "", stream.p ? stream.p : "");
    ids_free(&v);
    buf_free(&whole);
    buf_free(&stream);
    return same && streams;
}

/* "decoded_hex": what the ids stand for, whole characters or not. */
static bool check_bytes(const tokenizer *t, const json *j, const char *where, size_t line) {
    const json *hex = json_get(j, "decoded_hex");
    ids v = { 0 };
    buf want = { 0 }, found = { 0 };
    err e = { 0 };
    if (!hex) return true;
    from_hex(hex, &want);
    json_ids(json_get(j, "ids"), &v);
    assert_int_equal(tokenizer_decode_bytes(t, v.p, v.n, false, &found, &e), 0);
    bool same = want.n == found.n && memcmp(want.p, found.p, want.n) == 0;
    if (!same) print_bad(where, line, "as bytes", want.p, found.p);
    ids_free(&v);
    buf_free(&want);
    buf_free(&found);
    return same;
}

/* Lines of a file as objects; gives how many were right, and counts all in *lines. */
static size_t check_cases(const tokenizer *t, const char *path, size_t *lines) {
    buf text = { 0 };
    err e = { 0 };
    size_t good = 0;
    *lines = 0;
    if (read_file(path, 0, &text, &e)) fail_msg("%s", e.msg);
    for (char *p = text.p; *p;) {
        char *end = strchr(p, '\n');
        arena a = { 0 };
        json *j;
        if (!end) end = p + strlen(p);
        assert_int_equal(json_parse(&a, p, (size_t)(end - p), &j, &e), 0);
        size_t line = ++*lines;
        bool special_shown = json_get(j, "decoded_special") != NULL;
        bool ok = check_ids(t, j, path, line) & check_text(t, j, "decoded", true, path, line) &
                  check_bytes(t, j, path, line);
        ok &= check_text(t, j, special_shown ? "decoded_special" : "decoded", special_shown ? false : true, path, line);
        good += ok;
        arena_free(&a);
        p = *end ? end + 1 : end;
    }
    buf_free(&text);
    return good;
}

/* From a file of a folder, or NULL: from what the folder has. */
static tokenizer *load(const char *folder, const char *file) {
    tokenizer *t;
    err e = { 0 };
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", folder, file ? file : "");
    if (tokenizer_load(&t, folder, file ? path : NULL, &e)) fail_msg("%s", e.msg);
    assert_non_null(t);
    return t;
}

/* The same tokenizer, written as a blob and opened again; *blob must outlive it. */
static tokenizer *reopened(tokenizer *t, buf *blob) {
    tokenizer *again;
    err e = { 0 };
    assert_int_equal(tokenizer_write(t, blob), 0);
    tokenizer_free(t);
    if (tokenizer_open(&again, blob->p, blob->n, &e)) fail_msg("%s", e.msg);
    return again;
}

/* The vocabulary of one folder against the cases of another; gives how many of the files had a wrong line. */
static inline int check_against(const char *folder, const char *vocabulary, const char *cases, const char *const *files) {
    buf blob = { 0 };
    tokenizer *t = reopened(load(folder, vocabulary), &blob);
    int wrong = 0;
    for (; *files; files++) {
        char path[1024];
        size_t lines, good;
        snprintf(path, sizeof path, "%s/%s", cases, *files);
        good = check_cases(t, path, &lines);
        print_message("%s: %zu of %zu equal\n", path, good, lines);
        wrong += good != lines || !lines;
    }
    tokenizer_free(t);
    buf_free(&blob);
    return wrong;
}

#endif
