/* tokenizer_files: the vocabularies other than tokenizer.json and SentencePiece: vocab.json with merges.txt, vocab.txt, rank files,
 * tekken.json, and the files beside them that name special tokens. The large ones are written from the fixtures' tokenizer.json, so
 * that the recorded cases of the reference libraries hold for them; small ones are written out here. */
#include "tests/tokenizer_cases.h"

#include <sys/stat.h>
#include <unistd.h>

static char folder[128];

static void put_file(const char *name, const char *text, size_t n) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static void put(const char *name, const char *text) { put_file(name, text, strlen(text)); }

static void put_buf(const char *name, buf *b) {
    assert_false(b->failed);
    put_file(name, b->p, b->n);
    buf_free(b);
}

static void empty_folder(void) {
    static const char *const names[] = {
        "tokenizer.json", "tokenizer.model", "spiece.model",          "tekken.json",       "qwen.tiktoken",           "vocab.json",
        "merges.txt",     "vocab.txt",       "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json", "config.json"
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[256];
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        remove(path);
    }
}

static const json *model_of(arena *a, const char *family, buf *text) {
    char path[256];
    err e = { 0 };
    json *root;
    snprintf(path, sizeof path, FIXTURES "/%s/tokenizer.json", family);
    assert_int_equal(read_file(path, 0, text, &e), 0);
    assert_int_equal(json_parse(a, text->p, text->n, &root, &e), 0);
    return json_get(root, "model");
}

static const char *const cases[] = { "cases.jsonl", "decode_cases.jsonl", NULL };

/* ---- vocab.json, merges.txt ---- */

static void add_vocab(const json *vocab, buf *out) {
    buf_byte(out, '{');
    for (const json *k = vocab->child; k; k = k->next) {
        if (k != vocab->child) buf_byte(out, ',');
        buf_json(out, k->key, k->key_n);
        buf_fmt(out, ":%s", k->s);
    }
    buf_byte(out, '}');
}

static void test_vocab_json(void **state) {
    arena a = { 0 };
    buf text = { 0 }, vocab = { 0 }, merges = { 0 };
    const json *model = model_of(&a, "gpt2", &text);
    (void)state;
    empty_folder();
    add_vocab(json_get(model, "vocab"), &vocab);
    buf_str(&merges, "#version: 0.2\n");
    for (const json *k = json_get(model, "merges")->child; k; k = k->next) {
        buf_add(&merges, k->s, k->n);
        buf_byte(&merges, '\n');
    }
    put_buf("vocab.json", &vocab);
    put_buf("merges.txt", &merges);
    assert_int_equal(check_against(folder, NULL, FIXTURES "/gpt2", cases), 0); /* as old checkpoints are: nothing says GPT-2 */
    put("tokenizer_config.json", "{\"tokenizer_class\":\"GPT2TokenizerFast\",\"add_prefix_space\":false}");
    assert_int_equal(check_against(folder, "vocab.json", FIXTURES "/gpt2", cases), 0);
    assert_int_equal(check_against(folder, "merges.txt", FIXTURES "/gpt2", cases), 0);
    arena_free(&a);
    buf_free(&text);
}

/* ---- vocab.txt ---- */

static void test_vocab_txt(void **state) {
    arena a = { 0 };
    buf text = { 0 }, out = { 0 };
    const json *vocab = json_get(model_of(&a, "bert", &text), "vocab");
    const json **line = calloc(vocab->n, sizeof *line);
    (void)state;
    empty_folder();
    for (const json *k = vocab->child; k; k = k->next) {
        int64_t id;
        assert_true(!json_int(k, &id) && id < vocab->n);
        line[id] = k;
    }
    for (uint32_t i = 0; i < vocab->n; i++) {
        buf_add(&out, line[i]->key, line[i]->key_n);
        buf_byte(&out, '\n');
    }
    put_buf("vocab.txt", &out);
    put("config.json", "{\"model_type\":\"bert\"}");
    assert_int_equal(check_against(folder, NULL, FIXTURES "/bert", cases), 0);
    free(line);
    arena_free(&a);
    buf_free(&text);
}

/* ---- tekken.json and the order of ranks ---- */

static void add_base64(buf *out, const uint8_t *s, size_t n) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < n; i += 3) {
        uint32_t v = (uint32_t)s[i] << 16 | (i + 1 < n ? (uint32_t)s[i + 1] << 8 : 0) | (i + 2 < n ? s[i + 2] : 0);
        for (size_t k = 0; k < 4; k++) buf_byte(out, k > n - i ? '=' : digits[v >> (18 - 6 * k) & 63]);
    }
}

/* GPT-2's vocabulary is in the order of its merges: as ranks it must give the same tokens, special tokens in front. */
static void test_tekken(void **state) {
    enum { SPECIAL = 30, RANKS = 50256 };
    tokenizer *gpt2 = load(FIXTURES "/gpt2", "tokenizer.json"), *tekken;
    buf out = { 0 }, text = { 0 };
    err e = { 0 };
    (void)state;
    empty_folder();
    buf_fmt(&out,
            "{\"config\":{\"default_num_special_tokens\":%d,\"default_vocab_size\":%d,\"version\":\"v3\",\"pattern\":", SPECIAL,
            SPECIAL + RANKS);
    buf_str(&out,
            "\"'s|'t|'re|'ve|'m|'ll|'d| ?\\\\p{L}+| ?\\\\p{N}+| ?[^\\\\s\\\\p{L}\\\\p{N}]+|\\\\s+(?!\\\\S)|\\\\s+\"},\"vocab\":[");
    for (int32_t id = 0; id < RANKS; id++) {
        buf bytes = { 0 };
        assert_int_equal(tokenizer_decode_bytes(gpt2, &id, 1, false, &bytes, &e), 0);
        buf_fmt(&out, "%s{\"rank\":%d,\"token_bytes\":\"", id ? "," : "", id);
        add_base64(&out, (uint8_t *)bytes.p, bytes.n);
        buf_str(&out, "\",\"token_str\":null}");
        buf_free(&bytes);
    }
    buf_str(&out, ",{\"rank\":50256,\"token_bytes\":\"/////w==\"}]}"); /* beyond the model's vocabulary */
    put_buf("tekken.json", &out);
    tekken = load(folder, NULL);
    assert_int_equal(tokenizer_size(tekken), SPECIAL + RANKS);
    assert_int_equal(tokenizer_id(tekken, "[INST]", 6), 3);
    assert_int_equal(tokenizer_id(tekken, "<SPECIAL_29>", 12), 29);
    assert_int_equal(tokenizer_bos(tekken), 1);
    assert_int_equal(read_file(FIXTURES "/gpt2/cases.jsonl", 0, &text, &e), 0);
    size_t compared = 0;
    for (char *p = text.p; *p; p = strchr(p, '\n') + 1) {
        arena a = { 0 };
        json *j;
        ids want = { 0 }, got = { 0 };
        assert_int_equal(json_parse(&a, p, (size_t)(strchr(p, '\n') - p), &j, &e), 0);
        const json *s = json_get(j, "text");
        if (s) {
            assert_int_equal(tokenizer_encode(gpt2, s->s, s->n, 0, &want, &e) | tokenizer_encode(tekken, s->s, s->n, 0, &got, &e),
                             0);
            for (size_t i = 0; i < want.n; i++) want.p[i] += SPECIAL;
            assert_int_equal(want.n, got.n);
            if (want.n) assert_memory_equal(want.p, got.p, want.n * sizeof *want.p);
            compared++;
        }
        ids_free(&want);
        ids_free(&got);
        arena_free(&a);
    }
    assert_true(compared > 1000);
    buf_free(&text);
    tokenizer_free(gpt2);
    tokenizer_free(tekken);
}

/* ---- rank files: Llama 3's, made up: its bytes, then entries that no text has ---- */

static void add_ranks(buf *out, int n) {
    for (int i = 0; i < n; i++) {
        uint8_t s[3] = { (uint8_t)i };
        if (i == 256) memcpy(s, "ab", 2);
        if (i == 257) memcpy(s, "abc", 3);
        if (i > 257) s[0] = 0xfd, s[1] = (uint8_t)(i >> 8), s[2] = (uint8_t)i;
        if (i >= 65536) s[0] = 0xfe;
        add_base64(out, s, i < 256 ? 1 : i == 256 ? 2 : 3);
        buf_fmt(out, " %d\n", i);
    }
}

static void is_encoded(tokenizer *t, const char *text, int flags, const char *want) {
    ids v = { 0 };
    buf found = { 0 };
    err e = { 0 };
    assert_int_equal(tokenizer_encode(t, text, strlen(text), flags, &v, &e), 0);
    ids_text(&v, &found);
    if (strcmp(found.p, want) != 0) fail_msg("\"%s\": found %s, expected %s", text, found.p, want);
    ids_free(&v);
    buf_free(&found);
}

static void encodes(const char *file, const char *text, int flags, const char *want) {
    tokenizer *t = load(folder, file);
    is_encoded(t, text, flags, want);
    tokenizer_free(t);
}

static void test_ranks(void **state) {
    static const int32_t begins[] = { 'a', 0xc3, 128009 };
    buf out = { 0 };
    err e = { 0 };
    (void)state;
    empty_folder();
    add_ranks(&out, 128000);
    put_buf("tokenizer.model", &out);
    tokenizer *t = load(folder, NULL);
    assert_int_equal(tokenizer_size(t), 128256);
    is_encoded(t, "abc abcab", TOK_SPECIAL, "128000 257 32 257 256");
    is_encoded(t, "a<|eot_id|>", TOK_PARSE_SPECIAL, "97 128009");
    is_encoded(t, "\xff\xc3\xa9\xc3 a", 0, "255 195 169 195 32 97"); /* bytes that are no character stay bytes */
    is_encoded(t, "abc\xed\xb2\x80", 0, "257 237 178 128");          /* also those that look like the mark for them */
    assert_int_equal(tokenizer_decode_bytes(t, begins, 3, true, &out, &e), 0);
    assert_int_equal(out.n, 2);
    assert_memory_equal(out.p, "a\xc3", 2);
    out.n = 0;
    assert_int_equal(tokenizer_decode(t, begins, 3, false, &out, &e), 0);
    assert_string_equal((buf_byte(&out, 0), out.p), "a\xef\xbf\xbd<|eot_id|>");
    buf_free(&out);
    tokenizer_free(t);
    put("tokenizer_config.json",
        "{\"added_tokens_decoder\":{\"128000\":{\"content\":\"<go>\",\"special\":true}},\"bos_token\":\"<go>\"}");
    encodes(NULL, "<go>a<|eot_id|>", TOK_SPECIAL | TOK_PARSE_SPECIAL, "128000 128000 97 60 124 101 111 116 95 105 100 124 62");
}

/* ---- the files beside ---- */

#define GPT_VOCAB "{\"a\":0,\"b\":1,\"ab\":2,\"\u0120\":3,\"<s>\":4,\"</s>\":5,\"<unk>\":6,\"<mask>\":7,\"c\":8,\"<\":9}"

static void test_beside(void **state) {
    (void)state;
    empty_folder();
    put("vocab.json", GPT_VOCAB);
    put("merges.txt", "a b\r\n");
    put("tokenizer_config.json", "{\"tokenizer_class\":\"RobertaTokenizer\"}");
    encodes(NULL, "ab ab<mask>", TOK_SPECIAL | TOK_PARSE_SPECIAL, "4 2 3 2 7 5");
    encodes(NULL, "ab  <mask>b", TOK_PARSE_SPECIAL, "2 7 1"); /* the mask takes the spaces before it */
    encodes(NULL, "<a", 0, "9 0");
    put("tokenizer_config.json",
        "{\"tokenizer_class\":\"GPT2Tokenizer\",\"add_prefix_space\":true,\"add_bos_token\":true,\"bos_token\":\"<s>\","
        "\"eos_token\":{\"content\":\"</s>\"}}");
    encodes(NULL, "ab</s>", TOK_SPECIAL | TOK_PARSE_SPECIAL, "4 3 2 5");
    put("added_tokens.json", "{\"bb\":11,\"<x>\":10}");
    put("special_tokens_map.json",
        "{\"pad_token\":\"<pad>\",\"additional_special_tokens\":[\"<x>\",{\"content\":\"</y>\",\"rstrip\":true}]}");
    encodes(NULL, "bb<x></y>  b<pad>", TOK_PARSE_SPECIAL, "11 10 13 3 1 12"); /* new names come behind, in transformers' order */
    encodes(NULL, "bb", 0, "11");                                             /* not special: found in any text */
    put("tokenizer_config.json", "{\"tokenizer_class\":\"Qwen2Tokenizer\",\"eos_token\":\"</s>\"}");
    encodes(NULL, "ab", TOK_SPECIAL, "2");
    empty_folder();
    put("vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nab\n##c\nAB\n\xc3\xa9\ne\n");
    encodes(NULL, "AB abc \xc3\x89", TOK_SPECIAL, "2 5 5 6 9 3");
    put("tokenizer_config.json", "{\"do_lower_case\":false}");
    encodes(NULL, "AB abc \xc3\xa9", TOK_SPECIAL, "2 7 5 6 8 3");
    put("tokenizer_config.json", "{\"strip_accents\":false}");
    encodes(NULL, "AB \xc3\x89", 0, "5 8");
    put("tokenizer_config.json", "{\"cls_token\":\"ab\",\"tokenizer_class\":\"DistilBertTokenizerFast\"}");
    encodes(NULL, "e", TOK_SPECIAL, "5 9 3");
}

/* A tokenizer.model of its own, with what other files add to it. */
static void test_beside_sentencepiece(void **state) {
    buf text = { 0 };
    err e = { 0 };
    (void)state;
    empty_folder();
    assert_int_equal(read_file(FIXTURES "/llama2/tokenizer.model", 0, &text, &e), 0);
    put_buf("tokenizer.model", &text);
    put("added_tokens.json", "{\"<pad>\":32000,\"<extra>\":32001}");
    put("special_tokens_map.json", "{\"pad_token\":\"<pad>\",\"bos_token\":\"<s>\",\"unk_token\":\"<unk>\"}");
    encodes(NULL, "a<pad>b<extra>", TOK_SPECIAL | TOK_PARSE_SPECIAL, "1 263 32000 289 32001");
    empty_folder();
    assert_int_equal(read_file(FIXTURES "/t5/spiece.model", 0, &text, &e), 0);
    put_buf("spiece.model", &text);
    put("config.json", "{\"model_type\":\"t5\"}");
    encodes(NULL, "<extra_id_0> a<extra_id_99>", TOK_SPECIAL | TOK_PARSE_SPECIAL, "32099 3 9 32000 1");
}

/* ---- which file counts, and what is refused ---- */

static void test_order(void **state) {
    (void)state;
    empty_folder();
    put("vocab.json", "{\"a\":0}"); /* without merges.txt it is another model's */
    tokenizer *t;
    err e = { 0 };
    assert_int_equal(tokenizer_load(&t, folder, NULL, &e), 0);
    assert_null(t);
    put("vocab.txt", "[UNK]\n[CLS]\n[SEP]\nx\n");
    encodes(NULL, "x", 0, "3");
    put("merges.txt", "#version: 0.2\n");
    encodes(NULL, "a", 0, "0");
    put("tokenizer.json", "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"b\":7,\"a\":9},\"merges\":[]}}");
    encodes(NULL, "a", 0, "9");
    encodes("vocab.txt", "x", 0, "3"); /* unless another is asked for */
}

static void refused(const char *file, const char *why) {
    tokenizer *t;
    err e = { 0 };
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, file);
    if (!tokenizer_load(&t, folder, path, &e)) fail_msg("accepted: %s; expected \"%s\"", file, why);
    assert_null(t);
    if (!strstr(e.msg, why) || !strstr(e.msg, file)) fail_msg("%s\n  refused with \"%s\", expected \"%s\"", file, e.msg, why);
    assert_null(strchr(e.msg, '\n'));
}

static void refused_text(const char *file, const char *text, const char *why) {
    put(file, text);
    refused(file, why);
}

static void test_refusals(void **state) {
    buf out = { 0 };
    (void)state;
    empty_folder();
    add_ranks(&out, 300);
    put_buf("tokenizer.model", &out);
    refused("tokenizer.model", "300 ranks are of no family");
    refused_text("tokenizer.model", "YQ== 0\nYg== x\n", "line 2 is not base64 and a number");
    refused_text("tokenizer.model", "YQ== 0\nY!== 1\n", "entry 1 is not base64");
    refused_text("tokenizer.model", "YQ== 0\nYg== 900000\n", "line 2 has rank 900000");
    refused_text("tokenizer.model", "YQ== 0\nYg== 0\n", "same id 0");
#define TEKKEN(special, size, vocab)                                                                                               \
    "{\"config\":{\"pattern\":\".\",\"default_num_special_tokens\":" special ",\"default_vocab_size\":" size "},\"vocab\":[" vocab \
    "]}"
    refused_text("tekken.json", TEKKEN("1", "5", "{\"rank\":0,\"token_bytes\":\"YQ==\"}"), "expected an array of 4");
    refused_text("tekken.json", TEKKEN("9", "5", ""), "5 ids, but 9 special");
    refused_text("tekken.json", TEKKEN("-1", "5", ""), "\"default_num_special_tokens\" is -1");
    refused_text("tekken.json", TEKKEN("0", "1", "{\"rank\":1,\"token_bytes\":\"YQ==\"}"), "vocab[0]");
    refused_text("tekken.json", TEKKEN("0", "1", "{\"rank\":0,\"token_bytes\":\"YQ==\"}"), "no entry for byte 0x00");
    refused_text("tekken.json", TEKKEN("0", "2", "{\"rank\":0,\"token_bytes\":\"YQ==\"},{\"rank\":1,\"token_bytes\":\"YQ==\"}"),
                 "there twice");
    refused_text("tekken.json", "{\"config\":{\"default_num_special_tokens\":0,\"default_vocab_size\":0},\"vocab\":[]}",
                 "\"pattern\" is missing");
    put("vocab.json", GPT_VOCAB);
    refused("vocab.json", "merges.txt");
    put("merges.txt", "a b\na x\n");
    refused("vocab.json", "line 2: \"x\" is not in vocab.json");
    put("merges.txt", "a b c\n");
    refused("vocab.json", "line 1 is not a pair");
    put("merges.txt", "a b\n");
    put("tokenizer_config.json", "{\"tokenizer_class\":\"CLIPTokenizer\"}");
    refused("vocab.json", "\"CLIPTokenizer\" are not known");
    put("tokenizer_config.json", "{\"add_prefix_space\":1}");
    refused("vocab.json", "\"add_prefix_space\" is a number");
    put("tokenizer_config.json", "{\"added_tokens_decoder\":{\"x\":{\"content\":\"y\"}}}");
    refused("vocab.json", "\"x\" is not an id");
    put("tokenizer_config.json", "{\"added_tokens_decoder\":{\"0\":{\"content\":\"y\"}}}");
    refused("vocab.json", "same id 0");
    put("tokenizer_config.json", "{\"added_tokens_decoder\":{\"99999999\":{\"content\":\"y\"}}}");
    refused("vocab.json", "has id 99999999");
    put("tokenizer_config.json", "{}");
    put("config.json", "{\"model_type\":\"clip\"}");
    refused("vocab.json", "model_type \"clip\" are not known");
    put("config.json", "{}");
    put("added_tokens.json", "{\"y\":-1}");
    refused("vocab.json", "the id of \"y\"");
    put("added_tokens.json", "{}");
    refused_text("vocab.txt", "a\nb\n", "unk_token");
    refused_text("vocab.txt", "[UNK]\nb\n", "cls_token");
    refused_text("vocab.txt", "[UNK]\n\xff\n", "not UTF-8");
    put("tokenizer_config.json", "{\"do_basic_tokenize\":false}");
    refused_text("vocab.txt", "[UNK]\n[CLS]\n[SEP]\n", "do_basic_tokenize");
    empty_folder();
}

int main(void) {
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_vocab_json), cmocka_unit_test(test_vocab_txt),
                                        cmocka_unit_test(test_tekken),     cmocka_unit_test(test_ranks),
                                        cmocka_unit_test(test_beside),     cmocka_unit_test(test_beside_sentencepiece),
                                        cmocka_unit_test(test_order),      cmocka_unit_test(test_refusals) };
    snprintf(folder, sizeof folder, "build/tokenizer_files.%d", (int)getpid());
    if (mkdir("build", 0777) && !is_folder("build")) return 1;
    if (mkdir(folder, 0777)) return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    empty_folder();
    rmdir(folder);
    return failed;
}
