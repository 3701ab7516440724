/* tokenizer_parts: what a tokenizer.json can say, one component at a time: small tokenizers with the ids and texts that HuggingFace
 * tokenizers gives for them, and what must be refused by its name (tests/tools/make_tokenizer_parts.py wrote them). Each line of
 * parts.jsonl names one of the models and has the other members of the file as text. */
#include "tests/tokenizer_cases.h"

#include <unistd.h>

#define PARTS "tests/fixtures/tokenizer_parts"

static char path[64];

static int load_part(const json *part, tokenizer **t, err *e) {
    char model_path[256];
    const json *rules = json_get(part, "rules");
    buf model = { 0 };
    err read = { 0 };
    snprintf(model_path, sizeof model_path, PARTS "/model_%s.json", json_get(part, "model")->s);
    if (read_file(model_path, 0, &model, &read)) fail_msg("%s", read.msg);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_true(fprintf(f, "{\"model\":%s%s%s}", model.p, rules->n ? "," : "", rules->s) > 0);
    assert_int_equal(fclose(f), 0);
    buf_free(&model);
    int rc = tokenizer_load(t, NULL, path, e);
    remove(path);
    return rc;
}

static bool check_part(const json *part, size_t *cases) {
    const json *why = json_get(part, "refused");
    const char *name = json_get(part, "name")->s;
    tokenizer *t;
    err e = { 0 };
    int rc = load_part(part, &t, &e);
    if (why && rc && strstr(e.msg, why->s)) return true;
    if (why) return print_message("%s: %s\n", name, rc ? e.msg : "accepted"), tokenizer_free(t), false;
    if (rc) return print_message("%s: %s\n", name, e.msg), false;
    bool good = true;
    size_t line = 0;
    for (const json *j = json_get(part, "cases")->child; j; j = j->next) {
        bool shown = json_get(j, "decoded_special") != NULL;
        line++;
        good &= check_ids(t, j, name, line) & check_text(t, j, "decoded", true, name, line);
        good &= check_text(t, j, shown ? "decoded_special" : "decoded", !shown, name, line);
        ++*cases;
    }
    tokenizer_free(t);
    return good;
}

static void test_parts(void **state) {
    buf text = { 0 };
    err e = { 0 };
    size_t parts = 0, wrong = 0, cases = 0;
    (void)state;
    assert_int_equal(read_file(PARTS "/parts.jsonl", 0, &text, &e), 0);
    for (char *p = text.p; *p; parts++) {
        char *end = strchr(p, '\n');
        arena a = { 0 };
        json *part;
        assert_non_null(end);
        assert_int_equal(json_parse(&a, p, (size_t)(end - p), &part, &e), 0);
        wrong += !check_part(part, &cases);
        arena_free(&a);
        p = end + 1;
    }
    print_message("%zu tokenizers, %zu cases\n", parts, cases);
    assert_true(parts > 150 && cases > 2000);
    assert_int_equal(wrong, 0);
    buf_free(&text);
}

int main(void) {
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_parts) };
    snprintf(path, sizeof path, "build/tokenizer_parts.%d.json", (int)getpid());
    return cmocka_run_group_tests(tests, NULL, NULL);
}
