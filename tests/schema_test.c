/* JSON schemas: which texts a schema's grammar allows, what is refused and where, masks against trying every token. */
#include <math.h>

#include "runtime/schema.h"
#include "tests/byte_vocabulary.h"
#include "tests/test.h"

enum { EOS = 300, IDS };
static const int32_t eos[] = { EOS };

static vocabulary *make_vocabulary(void) {
    static const char *const words[] = { "{\"", "\":", "\": ", ", \"", "\",", "\"}", "a\":1,\"b", "a\"", "b", "ab\":", "foo", "fo", "\",\"",
                                         "1,", "]}", "}}", "\": \"", "true", "10", "\xc3\xa9", "\\n", "x\": {\"", "oo\":1", "\n  ", ":[", "0.5" };
    static vocabulary *v;
    if (!v) v = byte_vocabulary(words, (int)(sizeof words / sizeof *words), IDS);
    return v;
}

static grammar *compile(const char *schema) {
    grammar *g;
    err e = { 0 };
    if (schema_compile(&g, make_vocabulary(), schema, strlen(schema), &e)) fail_msg("%s\n%s", schema, e.msg);
    return g;
}

static grammar_state *begin(grammar *g) {
    grammar_state *s;
    err e = { 0 };
    if (grammar_state_new(&s, g, eos, 1, &e)) fail_msg("%s", e.msg);
    return s;
}

static bool allows(grammar *g, const char *text) {
    grammar_state *s = begin(g);
    bool good = grammar_accept_bytes(s, text, strlen(text), &(err){ 0 }) == 0 && grammar_may_end(s);
    grammar_state_free(s);
    return good;
}

#define CLOSED "\"additionalProperties\":false"
static const struct { const char *schema, *good[8], *bad[8]; } cases[] = {
    { "true", { "1", "null", "[]", "{\"a\": [true, \"x\"]}", "-1.5e10", "\n  \"x\"" }, { "", "{a:1}", "[1,]", "01", "   1" } },
    { "{\"type\":\"object\"}", { "{}", "{\"a\":1,\"b\":2}", "{\n  \"a\": {\n    \"b\": []\n  }\n}" }, { "[]", "{\"a\":1,\"a\":2}", "{\"a\":1,}" } },
    { "{\"properties\":{\"a\":{\"type\":\"integer\"},\"b\":{\"type\":\"boolean\"}},\"required\":[\"b\"],\"type\":\"object\"," CLOSED "}",
      { "{\"b\":true}", "{\"a\":1,\"b\":false}", "{\"b\":false,\"a\":-12}" },
      { "{}", "{\"a\":1}", "{\"b\":true,\"b\":true}", "{\"b\":1}", "{\"b\":true,\"c\":1}" } },
    { "{\"properties\":{\"a\":{\"type\":\"integer\"}},\"additionalProperties\":{\"type\":\"string\"},\"type\":\"object\"}",
      { "{}", "{\"a\":1,\"ab\":\"x\",\"\":\"y\"}", "{\"ab\":\"x\",\"a\":1}" },
      { "{\"a\":\"x\"}", "{\"ab\":1}", "{\"x\":\"1\",\"x\":\"2\"}", "{\"\\u0061\":\"x\"}" } },
    { "{\"type\":\"object\",\"minProperties\":1,\"maxProperties\":2,\"required\":[\"k\"]}", { "{\"k\":1}", "{\"x\":2,\"k\":1}" },
      { "{}", "{\"x\":1}", "{\"x\":1,\"y\":2}", "{\"k\":1,\"x\":1,\"y\":2}" } },
    { "{\"properties\":{\"a\":false},\"type\":\"object\"}", { "{}", "{\"b\":1}", "{\"aa\":1}" }, { "{\"a\":1}" } },
    { "{\"properties\":{\"x\\\"y\":{\"type\":\"null\"}},\"required\":[\"x\\\"y\"]," CLOSED ",\"type\":\"object\"}",
      { "{\"x\\\"y\":null}" }, { "{}", "{\"x\":null}" } },
    { "{\"type\":\"array\",\"items\":{\"type\":\"integer\"},\"minItems\":1,\"maxItems\":3}",
      { "[1]", "[1, 2,3]", "[\n  1,\n  2\n]" }, { "[]", "[1,2,3,4]", "[\"a\"]" } },
    { "{\"type\":\"array\",\"prefixItems\":[{\"const\":1},{\"const\":\"a\"}],\"items\":false}", { "[]", "[1]", "[1,\"a\"]" },
      { "[\"a\"]", "[1,\"a\",2]" } },
    { "{\"type\":\"array\",\"prefixItems\":[{\"const\":1}],\"items\":{\"type\":\"null\"},\"minItems\":3}",
      { "[1,null,null]", "[1,null,null,null]" }, { "[1,null]", "[null,null,null]" } },
    { "{\"type\":\"array\",\"maxItems\":0}", { "[]" }, { "[1]" } },
    { "{\"type\":\"integer\",\"minimum\":-3,\"maximum\":12}", { "-3", "-1", "0", "9", "10", "12" }, { "-4", "13", "100", "-0", "1.0", "00" } },
    { "{\"type\":\"integer\",\"exclusiveMinimum\":99,\"exclusiveMaximum\":1010}", { "100", "999", "1009" }, { "99", "1010", "9", "2000" } },
    { "{\"type\":\"integer\",\"multipleOf\":7,\"minimum\":0}", { "0", "7", "14", "70007" }, { "1", "8", "-7" } },
    { "{\"type\":\"number\",\"minimum\":0.5,\"exclusiveMaximum\":1.25}", { "0.5", "0.50", "1", "1.2", "1.249999" },
      { "0.4", "0.49999", "0", "1.25", "1.3", "2", "1e0" } },
    { "{\"type\":\"number\",\"exclusiveMinimum\":-2.5,\"maximum\":-0.25}", { "-2.4", "-1", "-0.25", "-0.250" },
      { "-2.5", "-2.51", "-0.2", "0", "-3" } },
    { "{\"type\":\"number\",\"minimum\":1e2}", { "100", "100.0", "99999" }, { "99.9", "-100" } },
    { "{\"type\":\"string\",\"minLength\":2,\"maxLength\":3}", { "\"ab\"", "\"\xc3\xa9\xf0\x9f\x98\x80\"", "\"\\n\\u0001\\\"\"" },
      { "\"a\"", "\"abcd\"", "\"\\u0061b\"" } },
    { "{\"type\":\"string\",\"pattern\":\"^[a-c]+$\"}", { "\"abc\"" }, { "\"\"", "\"abd\"" } },
    { "{\"type\":\"string\",\"pattern\":\"b\"}", { "\"b\"", "\"abc\"", "\"\\n\xc3\xa9" "b\"" }, { "\"\"", "\"ac\"" } },
    { "{\"type\":\"string\",\"pattern\":\"^a|b$\",\"maxLength\":3}", { "\"ax\"", "\"xb\"", "\"a\"" }, { "\"xa\"", "\"bx\"", "\"axxx\"" } },
    { "{\"type\":\"string\",\"pattern\":\"^(\\\\d{2}-){1,2}\\\\w$\"}", { "\"12-a\"", "\"12-34-_\"" }, { "\"12-\"", "\"1-a\"", "\"12-34-56-a\"" } },
    { "{\"type\":\"string\",\"pattern\":\"\\\"\\\\\\\\\\\\n\"}", { "\"\\\"\\\\\\n\"" }, { "\"n\"" } },
    { "{\"type\":\"string\",\"format\":\"date\"}", { "\"2024-02-29\"", "\"1900-12-31\"" },
      { "\"2023-02-29\"", "\"1900-02-29\"", "\"2024-13-01\"", "\"2024-04-31\"", "\"0000-01-01\"" } },
    { "{\"type\":\"string\",\"format\":\"date-time\"}", { "\"2024-02-29T23:59:59Z\"", "\"2024-01-01T00:00:00.5+01:00\"" },
      { "\"2024-01-01\"", "\"2024-01-01T24:00:00Z\"" } },
    { "{\"type\":\"string\",\"format\":\"ipv6\"}", { "\"::\"", "\"1::2\"", "\"1:2:3:4:5:6:7:8\"" }, { "\"1:2\"", "\"1::2::3\"" } },
    { "{\"type\":\"string\",\"format\":\"uuid\"}", { "\"123e4567-e89b-12d3-a456-426614174000\"" }, { "\"123e4567\"" } },
    { "{\"enum\":[1,\"a\",null,{\"k\":[1,2],\"l\":0},-2.0]}",
      { "1", "\"a\"", "null", "{\"k\":[1,2],\"l\":0}", "{\"l\":0,\"k\": [1, 2]}", "-2.0", "-2" },
      { "2", "{}", "{\"k\":[1,2]}", "{\"k\":[1,2],\"l\":0,\"l\":0}" } },
    { "{\"enum\":[1,2,\"a\",50],\"type\":\"integer\",\"minimum\":2}", { "2", "50" }, { "1", "\"a\"" } },
    { "{\"const\":\"x\\ny\"}", { "\"x\\ny\"" }, { "\"x\"" } },
    { "{\"anyOf\":[{\"type\":\"integer\"},{\"type\":\"string\",\"maxLength\":1}],\"minimum\":5}", { "5", "\"a\"" }, { "4", "\"ab\"", "null" } },
    { "{\"oneOf\":[{\"type\":\"object\",\"properties\":{\"t\":{\"const\":\"a\"},\"v\":{\"type\":\"integer\"}},"
      "\"required\":[\"t\",\"v\"]," CLOSED "},{\"type\":\"object\",\"properties\":{\"t\":{\"const\":\"b\"}},\"required\":[\"t\"]," CLOSED "}]}",
      { "{\"t\":\"a\",\"v\":1}", "{\"v\":1,\"t\":\"a\"}", "{\"t\":\"b\"}" }, { "{\"t\":\"a\"}", "{\"t\":\"b\",\"v\":1}", "{\"t\":\"c\"}" } },
    { "{\"oneOf\":[{\"type\":\"integer\",\"maximum\":3},{\"type\":\"number\",\"exclusiveMinimum\":3},{\"type\":\"null\"}]}",
      { "3", "4", "3.5", "null" }, { "2.5" } },
    { "{\"allOf\":[{\"properties\":{\"a\":{\"type\":\"integer\"}},\"required\":[\"a\"]},{\"properties\":{\"a\":{\"minimum\":3},"
      "\"b\":{\"type\":\"null\"}}}],\"type\":\"object\"}", { "{\"a\":3}", "{\"b\":null,\"a\":4}" }, { "{\"a\":2}", "{}", "{\"a\":3,\"b\":1}" } },
    { "{\"allOf\":[{\"type\":\"object\",\"properties\":{\"a\":true}," CLOSED "},{\"properties\":{\"b\":true}}]}",
      { "{}", "{\"a\":1}" }, { "{\"b\":1}" } },
    { "{\"$ref\":\"#/$defs/n\",\"$defs\":{\"n\":{\"type\":\"object\",\"properties\":{\"v\":{\"type\":\"integer\"},"
      "\"next\":{\"anyOf\":[{\"$ref\":\"#/$defs/n\"},{\"type\":\"null\"}]}},\"required\":[\"v\",\"next\"]," CLOSED "}}}",
      { "{\"v\":1,\"next\":null}", "{\"next\":{\"v\":2,\"next\":null},\"v\":1}" }, { "{\"v\":1}", "{\"v\":1,\"next\":{}}" } },
    { "{\"$ref\":\"#/$defs/a~1b%25\",\"$defs\":{\"a/b%\":{\"type\":\"null\"}}}", { "null" }, { "1" } },
    { "{\"type\":[\"string\",\"null\"],\"maxLength\":1}", { "null", "\"a\"" }, { "\"ab\"", "1" } },
    { "{\"type\":\"array\",\"uniqueItems\":true,\"maxItems\":1,\"items\":{\"type\":\"null\"}}", { "[]", "[null]" }, { "[null,null]" } },
    { "{\"type\":\"object\",\"propertyNames\":{\"type\":\"string\"},\"additionalProperties\":{\"type\":\"null\",\"not\":false}}",
      { "{}", "{\"a\":null}" }, { "{\"a\":1}" } },
    { "{\"pattern\":\"^[^\\\\s]$\"}", { "\"a\"", "\"\\u001b\"" }, { "\" \"", "\"\\t\"", "\"\\u001f\"" } }, /* Python calls that space */
    { "{\"type\":\"integer\",\"nullable\":true}", { "1", "null" }, { "\"a\"" } },
    { "{\"title\":\"t\",\"description\":\"d\",\"default\":1,\"examples\":[1],\"$comment\":\"c\",\"x-more\":{},\"type\":\"null\","
      "\"$schema\":\"https://json-schema.org/draft/2020-12/schema\"}", { "null" }, { "1" } },
};

static void test_cases(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        grammar *g = compile(cases[i].schema);
        for (int k = 0; k < 8 && cases[i].good[k]; k++)
            if (!allows(g, cases[i].good[k])) fail_msg("%s\nrefuses %s", cases[i].schema, cases[i].good[k]);
        for (int k = 0; k < 8 && cases[i].bad[k]; k++)
            if (allows(g, cases[i].bad[k])) fail_msg("%s\nallows %s", cases[i].schema, cases[i].bad[k]);
        grammar_free(g);
    }
}

static const struct { const char *schema, *message; } wrong[] = {
    { "{\"properties\":{\"a\":{\"not\":{}}}}", "JSON schema, #/properties/a/not: `not` cannot be enforced" },
    { "{\"items\":{\"properties\":{\"x/y\":{\"contains\":{}}}}}", "#/items/properties/x~1y/contains: `contains` cannot be enforced" },
    { "{\"properties\":{\"a\\n%~\":{\"not\":{}}}}", "JSON schema, #/properties/a%0A%25~0/not: `not` cannot be enforced" },
    { "{\"if\":{}}", "#/if" },
    { "{\"uniqueItems\":true}", "#/uniqueItems" },
    { "{\"uniqueItems\":true,\"maxItems\":2}", "#/uniqueItems" },
    { "{\"propertyNames\":{\"maxLength\":3}}", "#/propertyNames" },
    { "{\"propertyNames\":{\"type\":\"string\",\"maxLength\":3}}", "#/propertyNames" },
    { "{\"type\":\"strng\"}", "#/type: expected null, boolean" },
    { "{\"pattern\":\"(?=a)\"}", "#/pattern: look-ahead and look-behind cannot be kept" },
    { "{\"pattern\":\"\\\\bx\"}", "#/pattern: word boundaries" },
    { "{\"pattern\":\"(a)\\\\1\"}", "#/pattern: back references" },
    { "{\"pattern\":\"\\\\p{L}\"}", "#/pattern: Unicode classes" },
    { "{\"format\":\"iri\"}", "#/format: \"iri\" cannot be enforced" },
    { "{\"$ref\":\"other.json\"}", "#/$ref" },
    { "{\"$ref\":\"#/$defs/x\"}", "leads nowhere" },
    { "{\"$ref\":\"#\"}", "refers to itself without end" },
    { "{\"type\":\"object\",\"properties\":{\"a\":{\"$ref\":\"#\"}},\"required\":[\"a\"]}", "no value satisfies it" },
    { "false", "no value satisfies it" },
    { "{\"type\":\"integer\",\"minimum\":3,\"maximum\":2}", "no value satisfies it" },
    { "{\"oneOf\":[{\"type\":\"integer\"},{\"type\":\"number\"}]}", "#/oneOf: two of its alternatives may hold for one value" },
    { "{\"oneOf\":[{\"const\":\"a\"},{\"type\":\"string\"}]}", "#/oneOf: two of its alternatives" },
    { "{\"minLength\":-1}", "#/minLength: expected a whole number from 0" },
    { "{\"multipleOf\":0.01}", "#/multipleOf: only whole numbers" },
    { "{\"required\":[1]}", "#/required: expected a list of names" },
    { "[]", "expected a schema" },
    { "{\"a\"", "JSON schema: not JSON" },
};

static void test_errors(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        grammar *g;
        err e = { 0 };
        if (schema_compile(&g, make_vocabulary(), wrong[i].schema, strlen(wrong[i].schema), &e) == 0) fail_msg("%s: no error", wrong[i].schema);
        if (!strstr(e.msg, wrong[i].message)) fail_msg("%s:\n  %s\nexpected: %s", wrong[i].schema, e.msg, wrong[i].message);
    }
}

/* ---- masks against trying every token ---- */

static const char *piece_text(int32_t id) {
    static char text[64];
    size_t n;
    const char *piece = vocabulary_bytes(make_vocabulary(), id, &n);
    snprintf(text, sizeof text, "%.*s", (int)n, piece);
    return text;
}

static bool tried(const grammar_state *now, int32_t id) {
    grammar_state *s;
    err e = { 0 };
    if (grammar_state_clone(&s, now, &e)) fail_msg("%s", e.msg);
    size_t n;
    const char *piece = vocabulary_bytes(make_vocabulary(), id, &n);
    bool good = n && grammar_accept_bytes(s, piece, n, &e) == 0;
    grammar_state_free(s);
    return good;
}

/* Along every text that the table allows. */
static void test_masks(void **state) {
    (void)state;
    static float row[IDS];
    err e = { 0 };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        grammar *g = compile(cases[i].schema);
        for (int k = 0; k < 8 && cases[i].good[k]; k++) {
            grammar_state *s = begin(g);
            for (const char *p = cases[i].good[k];; p++) {
                memset(row, 0, sizeof row);
                assert_int_equal(grammar_mask(s, row, IDS, &e), 0);
                for (int32_t id = 0; id < EOS; id++)
                    if (tried(s, id) != !isinf(row[id]))
                        fail_msg("%s\nat \"%s\" of %s: token \"%s\" is %s wrongly", cases[i].schema, p, cases[i].good[k],
                                 piece_text(id), isinf(row[id]) ? "forbidden" : "allowed");
                assert_int_equal(grammar_may_end(s), !isinf(row[EOS]));
                if (!*p) break;
                assert_int_equal(grammar_accept(s, (uint8_t)*p, &e), 0);
            }
            grammar_state_free(s);
        }
        grammar_free(g);
    }
}

/* An object of many keys: any order, none twice, in bounded memory. */
static void test_many_keys(void **state) {
    (void)state;
    grammar *g;
    err e = { 0 };
    assert_int_equal(schema_any_object(&g, make_vocabulary(), &e), 0);
    grammar_state *s = begin(g);
    for (int i = 0; i < 3000; i++) {
        char text[40];
        int n = snprintf(text, sizeof text, "%c\"key%d\":%d", i ? ',' : '{', i * 7, i);
        if (grammar_accept_bytes(s, text, (size_t)n, &e)) fail_msg("key %d: %s", i, e.msg);
    }
    assert_int_equal(grammar_accept_bytes(s, ",\"key7\"", 7, &(err){ 0 }), -1);
    assert_int_equal(grammar_accept_bytes(s, ",\"key6\":1}", 10, &e), 0);
    assert_true(grammar_done(s));
    assert_true(grammar_about(s).state_bytes < 64 << 20);
    grammar_state_free(s);
    grammar_free(g);
}

int main(void) {
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_cases), cmocka_unit_test(test_errors), cmocka_unit_test(test_masks),
                                        cmocka_unit_test(test_many_keys) };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    vocabulary_free(make_vocabulary());
    return failed;
}
