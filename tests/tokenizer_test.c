/* tokenizer: against the ids and texts of the reference libraries, line by line; the blob against damage; streams against wholes.
 * The cases of gpt2, llama2, bert and t5 lie in the tree; those of families with larger vocabularies are read from
 * ../shared/tokenizers (QUERN_TOKENIZERS names another folder) where it exists. */
#include "tokenizer/blob.h"

#include "tests/tokenizer_cases.h"

#include <unistd.h>

static const char *const of_json[] = { "cases.jsonl", "decode_cases.jsonl", NULL };
static const char *const of_ranks[] = { "cases_tiktoken.jsonl", NULL };
static const char *const of_model[] = { "cases_sentencepiece.jsonl", "decode_cases_sentencepiece.jsonl", NULL };

static const char *const found_json[] = { "found_cases.jsonl", NULL }; /* by random texts, see tests/tools/tokenizer_diff.py */
static const char *const found_model[] = { "found_cases_sentencepiece.jsonl", NULL };

static int check_family(const char *folder, const char *vocabulary, const char *const *files) {
    return check_against(folder, vocabulary, folder, files);
}

static void test_fixtures(void **state) {
    (void)state;
    int wrong = check_family(FIXTURES "/gpt2", "tokenizer.json", of_json);
    wrong += check_family(FIXTURES "/llama2", "tokenizer.json", of_json);
    wrong += check_family(FIXTURES "/llama2", "tokenizer.model", of_model);
    wrong += check_family(FIXTURES "/bert", "tokenizer.json", of_json);
    wrong += check_family(FIXTURES "/t5", "tokenizer.json", of_json);
    wrong += check_family(FIXTURES "/t5", "spiece.model", of_model);
    wrong += check_family(FIXTURES "/t5", "tokenizer.json", found_json);
    wrong += check_family(FIXTURES "/t5", "spiece.model", found_model);
    wrong += check_family(FIXTURES "/llama2", "tokenizer.model", found_model);
    assert_int_equal(wrong, 0);
}

/* ---- streams against wholes ---- */

static uint32_t next_random(uint32_t *state) {
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

/* QUERN_STREAMS=N: so many random lists of ids for each vocabulary, where the usual number is not enough. */
static int stream_rounds(void) {
    const char *n = getenv("QUERN_STREAMS");
    return n ? atoi(n) : 1500;
}

static void check_streams(const tokenizer *t, int rounds) {
    uint32_t seed = 7;
    for (int round = 0; round < rounds; round++) {
        ids v = { 0 };
        buf whole = { 0 }, stream = { 0 };
        err e = { 0 };
        detok d;
        bool skip = round & 1, low = round % 3 == 0; /* low ids are the bytes of most vocabularies */
        for (uint32_t n = next_random(&seed) % 200; n--;)
            ids_add(&v, (int32_t)(next_random(&seed) % (low ? 270 : (uint32_t)tokenizer_size(t) + 3)) - 1);
        assert_int_equal(tokenizer_decode(t, v.p, v.n, skip, &whole, &e), 0);
        detok_begin(&d, t, skip);
        for (size_t i = 0; i < v.n; i++) {
            size_t had = stream.n;
            detok_token(&d, v.p[i], &stream);
            for (size_t k = had; k < stream.n;) { /* what was added is whole characters */
                int len;
                assert_true(utf8_decode(stream.p + k, stream.n - k, &len) >= 0);
                k += (size_t)len;
            }
        }
        detok_end(&d, &stream);
        assert_int_equal(stream.n, whole.n);
        if (whole.n) assert_memory_equal(stream.p, whole.p, whole.n);
        ids_free(&v);
        buf_free(&whole);
        buf_free(&stream);
    }
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
        if (getenv("QUERN_STREAMS")) {
            tokenizer *t = load(folder, "tokenizer.json");
            check_streams(t, stream_rounds());
            tokenizer_free(t);
        }
        snprintf(path, sizeof path, "%s/cases_sentencepiece.jsonl", folder);
        if (file_exists(path)) wrong += check_family(folder, "tokenizer.model", of_model);
        snprintf(path, sizeof path, "%s/cases_tiktoken.jsonl", folder);
        if (file_exists(path)) wrong += check_family(folder, "tokenizer.model", of_ranks);
    }
    assert_int_equal(wrong, 0);
}

/* ---- the demo checkpoint ---- */

static void test_demo(void **state) {
    (void)state;
    tokenizer *t = load("weights/pip-stories", "tokenizer.json");
    buf text = { 0 };
    err e = { 0 };
    size_t lines = 0, n;
    assert_int_equal(read_file("tests/fixtures/demo_expected.jsonl", 0, &text, &e), 0);
    for (char *p = text.p; *p; lines++) {
        char *end = strchr(p, '\n');
        arena a = { 0 };
        json *j;
        ids want = { 0 }, got = { 0 };
        buf out = { 0 };
        if (!end) end = p + strlen(p);
        assert_int_equal(json_parse(&a, p, (size_t)(end - p), &j, &e), 0);
        const json *rendered = json_get(j, "rendered"), *said = json_get(j, "text"), *stop = json_get(j, "stop");
        json_ids(json_get(j, "prompt_ids"), &want);
        assert_int_equal(tokenizer_encode(t, rendered->s, rendered->n, TOK_PARSE_SPECIAL, &got, &e), 0);
        assert_int_equal(got.n, want.n);
        assert_memory_equal(got.p, want.p, want.n * sizeof *want.p);
        if (json_is(json_get(j, "kind"), "plain")) { /* by rule: BOS in front of plain text */
            const json *prompt = json_get(j, "prompt");
            got.n = 0;
            assert_int_equal(tokenizer_encode(t, prompt->s, prompt->n, TOK_SPECIAL, &got, &e), 0);
            assert_int_equal(got.n, want.n);
            assert_memory_equal(got.p, want.p, want.n * sizeof *want.p);
        }
        json_ids(json_get(j, "ids"), &got);
        if (stop->type == JSON_NULL) {
            assert_int_equal(tokenizer_decode(t, got.p, got.n, true, &out, &e), 0);
            assert_int_equal(out.n, said->n);
            assert_memory_equal(out.p, said->s, said->n);
        }
        ids_free(&want);
        ids_free(&got);
        buf_free(&out);
        arena_free(&a);
        p = *end ? end + 1 : end;
    }
    assert_int_equal(lines, 20);
    assert_int_equal(tokenizer_size(t), 4096);
    assert_int_equal(tokenizer_bos(t), 0);
    assert_int_equal(tokenizer_eos(t), 5);
    assert_true(tokenizer_is_special(t, 3) && !tokenizer_is_special(t, 300) && !tokenizer_is_special(t, -1) &&
                !tokenizer_is_special(t, 4096));
    assert_int_equal(tokenizer_id(t, "<|end|>", 7), 5);
    const char *piece = tokenizer_piece(t, 559, &n);
    assert_int_equal(tokenizer_id(t, piece, n), 559);
    assert_null(tokenizer_piece(t, 4096, &n));
    assert_int_equal(tokenizer_id(t, "no such entry", 13), -1);
    assert_true(tokenizer_template(t, false, &n) && n > 100);
    buf_free(&text);
    tokenizer_free(t);
}

/* ---- small tokenizers, written out here ---- */

#define BYTES "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}"
#define VOCAB                                                                                                                      \
    "\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\"\u0120\":3,\"<unk>\":4,\"c\":5,\"abc\":6,\"1\":7},\"merges\":[\"a b\",\"ab c\"]"

static int load_text(tokenizer **t, const char *text, err *e) {
    char path[64];
    snprintf(path, sizeof path, "build/tokenizer_test.%d.json", (int)getpid());
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
    e->code = 0;
    int rc = tokenizer_load(t, NULL, path, e);
    remove(path);
    return rc;
}

static void refused(const char *text, const char *why) {
    tokenizer *t;
    err e = { 0 };
    if (!load_text(&t, text, &e)) fail_msg("accepted: %s", text);
    assert_null(t);
    if (!strstr(e.msg, why)) fail_msg("%s\n  refused with \"%s\", expected \"%s\"", text, e.msg, why);
}

static void test_refusals(void **state) {
    (void)state;
    refused("{\"model\":{\"type\":\"BPE\"," VOCAB ",\"dropout\":0.1}}", "model.dropout");
    refused("{\"model\":{\"type\":\"BPE\"," VOCAB ",\"end_of_word_suffix\":\"</w>\"}}", "end_of_word_suffix");
    refused("{\"model\":{\"type\":\"BPE\"," VOCAB ",\"magic\":1}}", "magic");
    refused("{\"model\":{\"type\":\"WordLevel\",\"vocab\":{}}}", "WordLevel");
    refused("{\"model\":{\"type\":\"BPE\"," VOCAB "},\"extra\":1}", "extra");
    refused("{\"model\":{\"type\":\"BPE\"," VOCAB "},\"normalizer\":{\"type\":\"Other\"}}", "normalizer \"Other\"");
    refused("{\"model\":{\"type\":\"BPE\"," VOCAB "},\"pre_tokenizer\":{\"type\":\"UnicodeScripts\"}}", "UnicodeScripts");
    refused("{\"model\":{\"type\":\"BPE\"," VOCAB "},\"decoder\":{\"type\":\"CTC\"}}", "decoder \"CTC\"");
    refused("{\"model\":{\"type\":\"BPE\"," VOCAB "},\"post_processor\":{\"type\":\"Other\"}}", "post_processor \"Other\"");
    refused("{\"model\":{\"type\":\"BPE\"," VOCAB
            "},\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(a\"},\"behavior\":\"Isolated\"}}",
            "( without )");
    refused("{\"model\":{\"type\":\"BPE\"," VOCAB
            "},\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a*\"},\"behavior\":\"Isolated\"}}",
            "match nothing");
    refused("{\"model\":{\"type\":\"BPE\"," VOCAB
            "},\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"},\"behavior\":\"Sideways\"}}",
            "Sideways");
    refused("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a b\"]}}", "\"b\" is not in the vocabulary");
    refused("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"ab\"]}}", "not a pair");
    refused("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}}", "same id 0");
    refused("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":99999999},\"merges\":[]}}", "99999999");
    refused("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":-1},\"merges\":[]}}", "-1");
    refused("{\"model\":{\"type\":\"BPE\"," VOCAB "},\"added_tokens\":[{\"id\":7,\"content\":\"x\"}]}", "same id 7");
    refused("{\"model\":{\"type\":\"BPE\"," VOCAB "},\"added_tokens\":[{\"id\":7,\"content\":\"a\"}]}", "has id 7, but 0");
    refused("{\"model\":{\"type\":\"BPE\"," VOCAB "},\"\":1}", "not supported");
    refused("{\"model\":{\"type\":\"BPE\"," VOCAB "},\"decoder\":{\"type\":\"Fuse\",\"type\\u0000x\":1}}", "not supported");
    refused("{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",\"b\"]]}}", "vocab[0]");
    refused("{\"model\":{\"type\":\"Unigram\",\"unk_id\":1,\"vocab\":[[\"a\",0]]}}", "unk_id");
    refused("{\"model\":{\"type\":\"WordPiece\",\"unk_token\":\"u\",\"vocab\":{\"a\":0}}}", "unk_token");
    refused("{\"model\":[]}", "an array");
    refused("{", "not JSON");
    refused("SentencePiece?", "not a SentencePiece model");
    refused("version https://git-lfs.github.com/spec/v1\n", "git-LFS");
    tokenizer *t;
    err e = { 0 };
    assert_int_equal(tokenizer_load(&t, "tests", NULL, &e), 0); /* a folder without any */
    assert_null(t);
}

static void encodes(const char *rules, const char *text, const char *want) {
    tokenizer *t;
    err e = { 0 };
    buf file = { 0 }, found = { 0 };
    ids v = { 0 };
    buf_fmt(&file, "{\"model\":{\"type\":\"BPE\"," VOCAB "},%s}", rules);
    if (load_text(&t, file.p, &e)) fail_msg("%s: %s", rules, e.msg);
    assert_int_equal(tokenizer_encode(t, text, strlen(text), TOK_SPECIAL, &v, &e), 0);
    ids_text(&v, &found);
    if (strcmp(found.p, want) != 0) fail_msg("%s of \"%s\": found %s, expected %s", rules, text, found.p, want);
    tokenizer_free(t);
    ids_free(&v);
    buf_free(&file);
    buf_free(&found);
}

static void test_patterns(void **state) { /* each split is seen by what it keeps from merging */
    (void)state;
#define SPLIT(re, how)                                                                                                             \
    "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" re                 \
    "\"},\"behavior\":\"" how "\"}," BYTES "]}"
    encodes("\"pre_tokenizer\":" BYTES, "abcab", "6 2");
    encodes(SPLIT("b", "Isolated"), "abc", "0 1 5");
    encodes(SPLIT("b", "Removed"), "abc", "0 5");
    encodes(SPLIT("b", "MergedWithPrevious"), "abc", "2 5");
    encodes(SPLIT("b", "MergedWithNext"), "abc", "0 1 5");
    encodes(SPLIT("[^c]+", "Isolated"), "abcabc", "2 5 2 5");
    encodes(SPLIT("(?i:B)|c(?!a)", "Removed"), "abca1c", "0 5 0 7");
    encodes(SPLIT("\\\\p{N}{1,2}", "Isolated"), "11111", "7 7 7 7 7");
    encodes(SPLIT("a(?=b)|\\\\s+(?!\\\\S)", "Isolated"), "ab  ab", "0 1 3 3 0 1");
    encodes(SPLIT("(?:ab){2,}", "Removed"), "abababc1", "5 7");
    encodes(SPLIT("a+?b|(?<=b)c", "Removed"), "aabcab1", "7");
    encodes(SPLIT("[a-b&]++c", "Removed"), "abcab", "2");
    encodes("\"normalizer\":{\"type\":\"Lowercase\"},\"pre_tokenizer\":" BYTES, "ABC", "6");
    encodes("\"normalizer\":{\"type\":\"NFKC\"},\"pre_tokenizer\":" BYTES, "\xef\xbd\x81\xef\xbd\x82", "2");
    encodes("\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"String\":\"xx\"},\"content\":\"b\"},\"pre_tokenizer\":" BYTES,
            "axxc", "6");
    encodes("\"normalizer\":{\"type\":\"Strip\"},\"pre_tokenizer\":" BYTES,
            " \xe2\x80\x83"
            "ab\n",
            "2");
    encodes("\"pre_tokenizer\":{\"type\":\"ByteLevel\"}", "ab", "3 2"); /* a space in front unless told otherwise */
    encodes("\"post_processor\":{\"type\":\"BertProcessing\",\"cls\":[\"1\",7],\"sep\":[\"c\",5]}", "ab", "7 2 5");
    encodes("\"added_tokens\":[{\"id\":6,\"content\":\"abc\",\"lstrip\":true,\"rstrip\":true}],\"pre_tokenizer\":" BYTES,
            "a  abc  b", "0 6 1");
    encodes("\"added_tokens\":[{\"id\":6,\"content\":\"abc\",\"single_word\":true}],\"pre_tokenizer\":{\"type\":\"Split\","
            "\"pattern\":{\"String\":\"b\"},\"behavior\":\"Removed\"}",
            "aabc abc", "0 0 5 6");
}

/* A pattern that backtracks without end is stopped with a message; no text makes a usual one do so. */
static void test_bounded_work(void **state) {
    tokenizer *t;
    err e = { 0 };
    ids v = { 0 };
    buf text = { 0 };
    (void)state;
    for (int i = 0; i < 200000; i++) buf_byte(&text, 'a');
    assert_int_equal(load_text(&t, "{\"model\":{\"type\":\"BPE\"," VOCAB "}," SPLIT("(?:a+)+1", "Isolated") "}", &e), 0);
    assert_int_equal(tokenizer_encode(t, text.p, text.n, 0, &v, &e), -1);
    assert_non_null(strstr(e.msg, "takes too long"));
    tokenizer_free(t);
    t = load(FIXTURES "/gpt2", "tokenizer.json");
    static const char *const units[] = { "a", " ", "\n", "'", "\xcc\x81", "\xff", "\xe2\x96\x81", "ab\n", " \n" };
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        text.n = v.n = 0;
        while (text.n < 1000000) buf_str(&text, units[i]);
        e.code = 0;
        double start = now_seconds();
        assert_int_equal(tokenizer_encode(t, text.p, text.n, 0, &v, &e), 0);
        if (now_seconds() - start > 10) fail_msg("a megabyte of unit %zu took %.1f s", i, now_seconds() - start);
    }
    tokenizer_free(t);
    ids_free(&v);
    buf_free(&text);
}

/* ---- normalization against the conformance cases that matter most (UAX 15) ---- */

static void test_normalization(void **state) {
    static const struct {
        int form;
        const char *from, *to;
    } cases[] = { { UNI_COMPOSE, "e\xcc\x81", "\xc3\xa9" },
                  { 0, "\xc3\xa9", "e\xcc\x81" },
                  { UNI_COMPOSE, "\xe2\x84\xab", "\xc3\x85" },                             /* angstrom sign */
                  { UNI_COMPOSE, "\xe1\x84\x80\xe1\x85\xa1\xe1\x86\xa8", "\xea\xb0\x81" }, /* Hangul L V T */
                  { 0, "\xea\xb0\x81", "\xe1\x84\x80\xe1\x85\xa1\xe1\x86\xa8" },
                  { UNI_COMPOSE, "a\xcc\x96\xcc\x81", "\xc3\xa1\xcc\x96" }, /* the lower class does not block */
                  { 0, "a\xcc\x81\xcc\x96", "a\xcc\x96\xcc\x81" },          /* canonical order */
                  { UNI_COMPOSE, "a\xcc\x81\xcc\x81", "\xc3\xa1\xcc\x81" },
                  { UNI_COMPOSE, "a\xcc\x93\xcc\x81", "a\xcc\x93\xcc\x81" },   /* the same class does */
                  { UNI_COMPOSE, "\xe0\xa5\x98", "\xe0\xa4\x95\xe0\xa4\xbc" }, /* composition exclusion */
                  { UNI_COMPOSE | UNI_COMPAT, "\xef\xac\x83\xe2\x91\xa0", "ffi1" },
                  { UNI_COMPAT, "\xef\xbe\x8a\xef\xbe\x9f", "\xe3\x83\x8f\xe3\x82\x9a" },
                  { UNI_COMPOSE,
                    "\xcc\x81"
                    "a",
                    "\xcc\x81"
                    "a" },
                  { UNI_COMPOSE, "", "" } };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        buf out = { 0 };
        buf_add(&out, "", 0);
        uni_normalize(cases[i].from, strlen(cases[i].from), cases[i].form, &out);
        assert_string_equal(out.p, cases[i].to);
        buf_free(&out);
    }
    buf marks = { 0 }, out = { 0 }; /* a long run of marks is put in order without quadratic work */
    buf_byte(&marks, 'x');
    for (int i = 0; i < 300000; i++) buf_str(&marks, i % 2 ? "\xcc\x96" : "\xcd\x85");
    uni_normalize(marks.p, marks.n, UNI_COMPOSE, &out);
    assert_int_equal(out.n, marks.n);
    assert_memory_equal(out.p + 1, "\xcc\x96\xcc\x96", 4);
    buf_free(&marks);
    buf_free(&out);
}

static void test_streams(void **state) {
    static const char *const from[][2] = { { "gpt2", "tokenizer.json" },    { "llama2", "tokenizer.json" },
                                           { "llama2", "tokenizer.model" }, { "bert", "tokenizer.json" },
                                           { "t5", "tokenizer.json" },      { "t5", "spiece.model" } };
    (void)state;
    for (size_t i = 0; i < sizeof from / sizeof *from; i++) {
        char folder[200];
        snprintf(folder, sizeof folder, FIXTURES "/%s", from[i][0]);
        tokenizer *t = load(folder, from[i][1]);
        check_streams(t, stream_rounds());
        tokenizer_free(t);
    }
}

/* Ten megabytes in one piece: linear work, and memory of a few times the text (run --tokenize of this is measured in SPEED.md). */
static void test_long_text(void **state) {
    static const char *const from[][2] = { { "gpt2", "tokenizer.json" },
                                           { "llama2", "tokenizer.model" },
                                           { "t5", "tokenizer.json" } };
    static const char part[] =
        "It was a bright cold day in April, 1984; the clocks were striking thirteen \xe2\x80\x94 na\xc3\xafve.\n";
    (void)state;
    for (size_t i = 0; i < sizeof from / sizeof *from; i++) {
        char folder[200];
        buf text = { 0 };
        ids one = { 0 }, all = { 0 };
        err e = { 0 };
        snprintf(folder, sizeof folder, FIXTURES "/%s", from[i][0]);
        tokenizer *t = load(folder, from[i][1]);
        while (text.n < 10000000) buf_add(&text, part, sizeof part - 1);
        double start = now_seconds();
        assert_int_equal(tokenizer_encode(t, text.p, text.n, 0, &all, &e), 0);
        if (now_seconds() - start > 60) fail_msg("%s: 10 MB took %.1f s", from[i][0], now_seconds() - start);
        assert_int_equal(tokenizer_encode(t, part, sizeof part - 1, 0, &one, &e), 0);
        assert_true(all.n > text.n / (sizeof part - 1) * (one.n - 2));
        tokenizer_free(t);
        ids_free(&one);
        ids_free(&all);
        buf_free(&text);
    }
}

/* Opens a damaged blob; if that succeeds the tokenizer must still work somehow. */
static bool survives(const char *blob, size_t n) {
    static const char text[] = "Hello <|end|> w\xc3\xb6rld\n\n 123 \xff";
    tokenizer *t;
    err e = { 0 };
    char *copy = malloc(n + 1); /* of its own size: a sanitizer sees every step outside */
    assert_non_null(copy);
    memcpy(copy, blob, n);
    int rc = tokenizer_open(&t, copy, n, &e);
    assert_true((rc != 0) == (e.code != 0) && (rc != 0) == (t == NULL));
    if (!rc) {
        ids v = { 0 };
        buf out = { 0 };
        tokenizer_encode(t, text, sizeof text - 1, TOK_SPECIAL | TOK_PARSE_SPECIAL, &v, &e);
        ids_add(&v, 77);
        tokenizer_decode(t, v.p, v.n, false, &out, &e);
        ids_free(&v);
        buf_free(&out);
        tokenizer_free(t);
    }
    free(copy);
    return rc == 0;
}

static void test_damage(void **state) {
    tokenizer *t = load("weights/pip-stories", "tokenizer.json");
    buf blob = { 0 };
    size_t header = 0;
    (void)state;
    assert_int_equal(tokenizer_write(t, &blob), 0);
    tokenizer_free(t);
    assert_true(survives(blob.p, blob.n));
    for (size_t i = 0; i < 4096 && i < blob.n; i++)
        for (int bit = 0; bit < 3; bit++) {
            static const char flips[] = { 0x01, (char)0x80, (char)0xff };
            blob.p[i] ^= flips[bit];
            header += !survives(blob.p, blob.n);
            blob.p[i] ^= flips[bit];
        }
    assert_true(header > 200); /* a damaged header is seen; a damaged text is another text (the file's own hash covers both) */
    for (size_t i = 4096; i < blob.n; i += 211) {
        blob.p[i] ^= 0x55;
        survives(blob.p, blob.n);
        blob.p[i] ^= 0x55;
    }
    for (size_t n = 0; n < blob.n; n += n < 2048 ? 1 : 499) assert_false(survives(blob.p, n));
    buf_add(&blob, "x", 1);
    assert_false(survives(blob.p, blob.n)); /* bytes behind the end */
    blob.n--;
    char *odd = malloc(blob.n + 1); /* from an address that is no multiple of 16 */
    memcpy(odd + 1, blob.p, blob.n);
    err e = { 0 };
    assert_int_equal(tokenizer_open(&t, odd + 1, blob.n, &e), 0);
    tokenizer_free(t);
    free(odd);
    buf_free(&blob);
}

/* Writes one wrong number into a good blob: it must be refused. */
static void poke(buf *blob, size_t at, uint64_t value, size_t bytes, const char *what) {
    char was[8];
    memcpy(was, blob->p + at, bytes);
    memcpy(blob->p + at, &value, bytes);
    if (survives(blob->p, blob->n)) fail_msg("accepted: %s", what);
    memcpy(blob->p + at, was, bytes);
}

static void test_hostile_numbers(void **state) {
    tokenizer *t = load(FIXTURES "/t5", "tokenizer.json");
    buf blob = { 0 };
    struct tok_header h;
    (void)state;
    for (int family = 0; family < 2; family++) {
        blob.n = 0;
        assert_int_equal(tokenizer_write(t, &blob), 0);
        tokenizer_free(t);
        t = load("weights/pip-stories", "tokenizer.json");
        memcpy(&h, blob.p, sizeof h);
#define AT(s) ((size_t)h.section[s].at)
#define HEADER(field, value) poke(&blob, offsetof(struct tok_header, field), (value), sizeof h.field, #field " = " #value)
        HEADER(n_ids, h.n_ids + 1);
        HEADER(n_ids, UINT32_MAX);
        HEADER(n_vocab_slots, UINT32_MAX);
        HEADER(n_merge_slots, h.n_merge_slots + 1);
        HEADER(n_added, h.n_added + 1);
        HEADER(n_trie, h.n_trie + 1);
        HEADER(model, 77);
        HEADER(flags, 1u << 31);
        HEADER(unk, h.n_ids);
        HEADER(eos, (uint32_t)-2);
        for (int s = 0; s < SEC_COUNT; s++) {
            HEADER(section[s].at, UINT64_MAX - 15);
            HEADER(section[s].at, h.section[s].at + 4);
            HEADER(section[s].bytes, UINT64_MAX);
            HEADER(section[s].bytes, blob.n);
        }
        poke(&blob, AT(SEC_TEXT_AT) + 40, UINT32_MAX, 4, "a text that begins outside");
        poke(&blob, AT(SEC_TEXT_AT) + 4 * h.n_ids, UINT32_MAX, 4, "a last text that ends outside");
        poke(&blob, AT(SEC_PIECE) + 9, 0xff, 1, "unknown flags of an entry");
        poke(&blob, AT(SEC_VOCAB), h.n_ids + 1, 4, "a slot with an id that is none");
        poke(&blob, AT(SEC_BYTE) + 4, h.n_ids, 4, "a byte's id that is none");
        poke(&blob, AT(SEC_ADDED), h.n_ids, 4, "an added token that is none");
        poke(&blob, AT(SEC_ADDED) + 8, 0, 4, "added tokens out of order");
        if (h.n_trie) poke(&blob, AT(SEC_TRIE) + 8, h.n_ids, 4, "a trie with an entry that is none");
        for (size_t i = 0; i < h.n_merge_slots; i++) {
            struct merge m;
            size_t at = AT(SEC_MERGE) + i * sizeof m;
            memcpy(&m, blob.p + at, sizeof m);
            if (m.left < 0 || i > 40) continue;
            poke(&blob, at + offsetof(struct merge, left), h.n_ids, 4, "a merge of an entry that is none");
            poke(&blob, at + offsetof(struct merge, right), (uint32_t)-1, 4, "a merge with an entry that is none");
            poke(&blob, at + offsetof(struct merge, result), h.n_ids, 4, "a merge into an entry that is none");
        }
    }
    tokenizer_free(t);
    buf_free(&blob);
}

/* Cut and flipped vocabularies: refused, or read as something else, without a crash. */
static void test_damaged_files(void **state) {
    static const char *const files[] = { FIXTURES "/llama2/tokenizer.model", "weights/pip-stories/tokenizer.json" };
    (void)state;
    for (size_t f = 0; f < 2; f++) {
        buf text = { 0 };
        err e = { 0 };
        assert_int_equal(read_file(files[f], 0, &text, &e), 0);
        uint32_t seed = 3;
        for (int i = 0; i < 40; i++) {
            size_t at = next_random(&seed) % text.n, n = i % 2 ? text.n : at;
            char path[64];
            tokenizer *t;
            snprintf(path, sizeof path, "build/tokenizer_test.%d.damaged", (int)getpid());
            if (i % 2) text.p[at] ^= (char)(1 + next_random(&seed) % 255);
            FILE *out = fopen(path, "wb");
            assert_non_null(out);
            assert_int_equal(fwrite(text.p, 1, n, out), n);
            fclose(out);
            e.code = 0;
            int rc = tokenizer_load(&t, NULL, path, &e);
            assert_true((rc != 0) == (e.code != 0));
            tokenizer_free(t);
            remove(path);
        }
        buf_free(&text);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fixtures),      cmocka_unit_test(test_shared),          cmocka_unit_test(test_demo),
        cmocka_unit_test(test_refusals),      cmocka_unit_test(test_patterns),        cmocka_unit_test(test_bounded_work),
        cmocka_unit_test(test_normalization), cmocka_unit_test(test_streams),         cmocka_unit_test(test_long_text),
        cmocka_unit_test(test_damage),        cmocka_unit_test(test_hostile_numbers), cmocka_unit_test(test_damaged_files)
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
