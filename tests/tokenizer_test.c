/* tokenizer: against the ids and texts of the reference libraries, line by line; the blob against damage; streams against wholes.
 * The cases of gpt2 and llama2 lie in the tree; those of families with larger vocabularies are read from ../shared/tokenizers
 * (QUERN_TOKENIZERS names another folder) where it exists. */
#include "tests/test.h"

#include "tokenizer/tokenizer.h"

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
        bool ok = check_ids(t, j, path, line) & check_text(t, j, "decoded", true, path, line);
        ok &= check_text(t, j, special_shown ? "decoded_special" : "decoded", special_shown ? false : true, path, line);
        good += ok;
        arena_free(&a);
        p = *end ? end + 1 : end;
    }
    buf_free(&text);
    return good;
}

static tokenizer *load(const char *folder, const char *file) {
    tokenizer *t;
    err e = { 0 };
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, file);
    if (tokenizer_load(&t, folder, path, &e)) fail_msg("%s", e.msg);
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

static int check_family(const char *folder, const char *vocabulary, const char *const *files) {
    buf blob = { 0 };
    tokenizer *t = reopened(load(folder, vocabulary), &blob);
    int wrong = 0;
    for (; *files; files++) {
        char path[512];
        size_t lines, good;
        snprintf(path, sizeof path, "%s/%s", folder, *files);
        good = check_cases(t, path, &lines);
        print_message("%s: %zu of %zu equal\n", path, good, lines);
        wrong += good != lines || !lines;
    }
    tokenizer_free(t);
    buf_free(&blob);
    return wrong;
}

static const char *const of_json[] = { "cases.jsonl", "decode_cases.jsonl", NULL };
static const char *const of_model[] = { "cases_sentencepiece.jsonl", "decode_cases_sentencepiece.jsonl", NULL };

static void test_fixtures(void **state) {
    (void)state;
    int wrong = check_family(FIXTURES "/gpt2", "tokenizer.json", of_json);
    wrong += check_family(FIXTURES "/llama2", "tokenizer.json", of_json);
    wrong += check_family(FIXTURES "/llama2", "tokenizer.model", of_model);
    assert_int_equal(wrong, 0);
}

static void test_shared(void **state) {
    static const char *const families[] = { "llama3", "qwen2", "gemma", "mistral" };
    const char *shared = getenv("QUERN_TOKENIZERS") ? getenv("QUERN_TOKENIZERS") : "../shared/tokenizers";
    int wrong = 0;
    (void)state;
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        char folder[512], path[600];
        snprintf(folder, sizeof folder, "%s/%s", shared, families[i]);
        if (!is_folder(folder)) {
            print_message("%s is not here: its cases are skipped\n", folder);
            continue;
        }
        wrong += check_family(folder, "tokenizer.json", of_json);
        snprintf(path, sizeof path, "%s/cases_sentencepiece.jsonl", folder);
        if (file_exists(path)) wrong += check_family(folder, "tokenizer.model", of_model);
    }
    assert_int_equal(wrong, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_fixtures), cmocka_unit_test(test_shared) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
