/* load_files: the files that checkpoints had before tokenizer.json: vocab.json with merges.txt (byte-level BPE), vocab.txt
 * (WordPiece), and what lies beside any vocabulary and names its special tokens (tokenizer_config.json, special_tokens_map.json,
 * added_tokens.json). The rules that such files leave to a class of transformers are said here as its tokenizer.json would say
 * them. It must not know how rules work. */
#include "tokenizer/build.h"
#include "tokenizer/patterns.h"

#include <stdlib.h>

static struct slice slice_of(const json *j) { return (struct slice){ j->s, j->n }; }
static struct slice literal(const char *s) { return (struct slice){ s, strlen(s) }; }

/* ---- classes ---- */

enum { BOS, EOS, UNK, SEP, PAD, CLS, MASK, NAMES }; /* in the order in which new ones get their ids */
static const char *const keys[NAMES] = {
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"
};

static const struct style {
    const char *classes, *models; /* tokenizer_class without "Fast"; model_type of config.json, where no class is named */
    enum { FORM_GPT2, FORM_ROBERTA, FORM_QWEN2, FORM_BERT } form;
    const char *names[NAMES];
} styles[] = {
    { "GPT2Tokenizer CodeGenTokenizer",
      "gpt2 gpt_neo gptj codegen opt phi",
      FORM_GPT2,
      { "<|endoftext|>", "<|endoftext|>", "<|endoftext|>" } },
    { "RobertaTokenizer BartTokenizer LongformerTokenizer LEDTokenizer MvpTokenizer",
      "roberta bart longformer led mvp",
      FORM_ROBERTA,
      { "<s>", "</s>", "<unk>", "</s>", "<pad>", "<s>", "<mask>" } },
    { "Qwen2Tokenizer",
      "qwen2 qwen2_moe qwen3 qwen3_moe",
      FORM_QWEN2,
      { NULL, "<|endoftext|>", "<|endoftext|>", NULL, "<|endoftext|>" } },
    { "BertTokenizer DistilBertTokenizer ElectraTokenizer MobileBertTokenizer ConvBertTokenizer SqueezeBertTokenizer",
      "bert distilbert electra mobilebert convbert squeezebert",
      FORM_BERT,
      { NULL, NULL, "[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]" } },
};
enum { N_STYLES = sizeof styles / sizeof *styles };

static bool among(const char *words, const char *name, size_t n) {
    for (size_t len; *words; words += len + (words[len] == ' ')) {
        len = strcspn(words, " ");
        if (len == n && memcmp(words, name, n) == 0) return true;
    }
    return false;
}

static bool is_style(const struct style *s, bool wordpiece) { return (s->form == FORM_BERT) == wordpiece; }

/* By the class, else by the model's type, else the oldest of its kind (GPT-2, BERT): they came without a configuration. */
static const struct style *style_of(const struct beside *by, bool wordpiece, const char *file, err *e) {
    const json *class = json_get(by->config, "tokenizer_class"), *type = json_get(by->model, "model_type");
    bool named = class && class->type == JSON_STRING, typed = !named && type && type->type == JSON_STRING;
    size_t n = named ? class->n : 0;
    if (n > 4 && memcmp(class->s + n - 4, "Fast", 4) == 0) n -= 4;
    for (int i = 0; i < N_STYLES; i++) {
        const struct style *s = styles + i;
        if (!is_style(s, wordpiece)) continue;
        if (named ? among(s->classes, class->s, n) : !typed || among(s->models, type->s, type->n)) return s;
    }
    fail_code(e, ERR_INPUT, "%s: the rules of %s \"%.60s\" are not known; use the model's tokenizer.json", file,
              named ? "the tokenizer_class" : "the model_type", named ? class->s : type->s);
    return NULL;
}

/* ---- special and added tokens ---- */

/* What a key of special tokens names: a string, or an object with "content"; NULL: nothing. */
static const json *named(const struct beside *by, const char *key) {
    const json *j = json_get(by->config, key);
    if (!j || j->type == JSON_NULL) j = json_get(by->map, key);
    return j && j->type != JSON_NULL ? j : NULL;
}

static struct slice content_of(const json *j) {
    if (j && j->type == JSON_OBJECT) j = json_get(j, "content");
    return j && j->type == JSON_STRING ? slice_of(j) : (struct slice){ NULL, 0 };
}

/* Is the text one of those that some file names as special? */
static bool named_special(const struct beside *by, struct slice text) {
    for (int i = 0; i < NAMES; i++)
        if (slice_equal(content_of(named(by, keys[i])), text)) return true;
    const json *more = named(by, "additional_special_tokens");
    for (const json *k = more && more->type == JSON_ARRAY ? more->child : NULL; k; k = k->next)
        if (slice_equal(content_of(k), text)) return true;
    return false;
}

/* The id of any entry with this text, also of one that the model does not look up. */
static int32_t any_id(const struct build *b, struct slice text) {
    int32_t id = build_id(b, text);
    for (size_t i = 0; id < 0 && i < b->n_piece; i++)
        if ((b->piece[i].flags & PIECE_PRESENT) && slice_equal(b->piece[i].text, text)) id = (int32_t)i;
    return id;
}

static int add_token(struct build *b, int64_t id, struct slice text, uint32_t flags, err *e) {
    if (id > (int64_t)b->n_piece + 65536)
        return fail_code(e, ERR_INPUT, "the added token \"%.60s\" has id %lld, but the vocabulary has %zu entries", text.p,
                         (long long)id, b->n_piece);
    if (build_piece(b, id, text, flags & ADDED_SPECIAL ? PIECE_SPECIAL : 0, 0, e)) return -1;
    return build_added(b, (int32_t)id, flags, e);
}

/* A token that a file names under a key: an entry of the vocabulary, or a new one behind it. */
static int add_named(struct build *b, const json *j, uint32_t flags, bool only_new, err *e) {
    struct slice text = content_of(j);
    if (!text.n) return 0;
    int32_t id = any_id(b, text);
    if (j->type == JSON_OBJECT && added_flags(j, &flags, e)) return -1;
    if (id >= 0 && (only_new || build_has_added(b, id))) return 0;
    return add_token(b, id < 0 ? (int64_t)b->n_piece : id, text, flags | ADDED_SPECIAL, e);
}

/* "added_tokens_decoder": {"id": {"content": ..., flags}}. */
static int add_decoder(struct build *b, const json *list, bool only_new, err *e) {
    for (const json *k = list->child; k; k = k->next) {
        struct slice text = content_of(k);
        uint32_t flags = 0;
        char *end;
        long long id = k->key_n && k->key_n < 10 && *k->key >= '0' && *k->key <= '9' ? strtoll(k->key, &end, 10) : -1;
        if (id < 0 || *end || k->type != JSON_OBJECT || !text.n)
            return fail_code(e, ERR_INPUT, "tokenizer_config.json: added_tokens_decoder: \"%.60s\" is not an id with a token",
                             k->key);
        if (added_flags(k, &flags, e)) return -1;
        if (only_new && any_id(b, text) >= 0) continue;
        if (add_token(b, id, text, flags, e)) return -1;
    }
    return 0;
}

/* added_tokens.json: {"text": id}. */
static int add_list(struct build *b, const struct beside *by, bool only_new, err *e) {
    for (const json *k = by->added->child; k; k = k->next) {
        struct slice text = { k->key, k->key_n };
        int64_t id;
        if (json_int(k, &id) || id < 0 || !text.n)
            return fail_code(e, ERR_INPUT, "added_tokens.json: the id of \"%.60s\" is %s, expected a whole number", k->key,
                             json_type_name(k));
        if (only_new && any_id(b, text) >= 0) continue;
        if (add_token(b, id, text, named_special(by, text) ? ADDED_SPECIAL : 0, e)) return -1;
    }
    return 0;
}

/* T5's sentinels stand behind the vocabulary in falling order. */
static int add_t5_extra(struct build *b, const struct beside *by, err *e) {
    int64_t n = 100;
    const json *j = json_get(by->config, "extra_ids");
    if (j && (json_int(j, &n) || n < 0 || n > 10000))
        return fail_code(e, ERR_INPUT, "tokenizer_config.json: \"extra_ids\" is no number from 0 to 10000");
    for (int64_t i = n; i-- > 0;) {
        char text[40];
        int len = snprintf(text, sizeof text, "<extra_id_%lld>", (long long)i);
        const char *copy = arena_copy(&b->mem, text, (size_t)len);
        if (!copy) return fail_memory(e, (size_t)len, "a special token");
        struct slice one = { copy, (size_t)len };
        if (any_id(b, one) < 0 && add_token(b, (int64_t)b->n_piece, one, ADDED_SPECIAL, e)) return -1;
    }
    return 0;
}

int add_tokens_beside(struct build *b, const struct beside *by, bool only_new, err *e) {
    const json *decoder = json_get(by->config, "added_tokens_decoder");
    if (decoder && decoder->type == JSON_OBJECT) {
        if (add_decoder(b, decoder, only_new, e)) return -1;
    } else {
        if (by->added && by->added->type == JSON_OBJECT && add_list(b, by, only_new, e)) return -1;
        if (by->t5 && add_t5_extra(b, by, e)) return -1;
    }
    for (int i = 0; i < NAMES; i++)
        if (named(by, keys[i]) && add_named(b, named(by, keys[i]), 0, only_new, e)) return -1;
    const json *more = named(by, "additional_special_tokens");
    for (const json *k = more && more->type == JSON_ARRAY ? more->child : NULL; k; k = k->next)
        if (add_named(b, k, 0, only_new, e)) return -1;
    return 0;
}

/* The class's own names, where no file gives another and the vocabulary has them. A mask takes the space before it along. */
static int add_habits(struct build *b, const struct style *s, const struct beside *by, int32_t id[NAMES], err *e) {
    for (int i = 0; i < NAMES; i++) {
        const json *j = named(by, keys[i]);
        struct slice text = j ? content_of(j) : s->names[i] ? literal(s->names[i]) : (struct slice){ NULL, 0 };
        id[i] = text.n ? any_id(b, text) : -1;
        bool lstrip = i == MASK && s->form == FORM_ROBERTA;
        if (!j && id[i] >= 0 && !build_has_added(b, id[i]) &&
            add_token(b, id[i], text, ADDED_SPECIAL | (lstrip ? ADDED_LSTRIP : 0), e))
            return -1;
    }
    b->bos = id[BOS];
    b->eos = id[EOS];
    return 0;
}

/* ---- rules, as a tokenizer.json says them ---- */

static const char *yes_no(bool on) { return on ? "true" : "false"; }

static int add_rules(struct build *b, const buf *text, err *e) {
    json *root;
    if (text->failed) return fail_memory(e, text->cap, "a tokenizer");
    return json_parse(&b->mem, text->p, text->n, &root, e) || load_rules(b, root, e) ? -1 : 0;
}

static int bpe_rules(struct build *b, const struct style *s, const struct beside *by, err *e) {
    bool space;
    buf text = { 0 };
    if (json_bool(by->config, "add_prefix_space", false, &space, "tokenizer_config.json", e)) return -1;
    if (s->form == FORM_QWEN2) {
        buf_str(&text, "{\"normalizer\":{\"type\":\"NFC\"},\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":["
                       "{\"type\":\"Split\",\"behavior\":\"Isolated\",\"pattern\":{\"Regex\":");
        buf_json(&text, WORDS_QWEN2, sizeof WORDS_QWEN2 - 1);
        buf_fmt(&text, "}},{\"type\":\"ByteLevel\",\"use_regex\":false,\"add_prefix_space\":%s}]}", yes_no(space));
    } else buf_fmt(&text, "{\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":%s}", yes_no(space));
    buf_str(&text, ",\"decoder\":{\"type\":\"ByteLevel\"}}");
    int rc = add_rules(b, &text, e);
    buf_free(&text);
    return rc;
}

static int bert_rules(struct build *b, const struct beside *by, err *e) {
    static const char where[] = "tokenizer_config.json";
    const json *strip = json_get(by->config, "strip_accents"), *never = json_get(by->config, "never_split");
    bool lower, chinese, accents = false, basic, unset = !strip || strip->type == JSON_NULL;
    if (json_bool(by->config, "do_lower_case", true, &lower, where, e) ||
        json_bool(by->config, "tokenize_chinese_chars", true, &chinese, where, e) ||
        json_bool(by->config, "do_basic_tokenize", true, &basic, where, e) ||
        (!unset && json_bool(by->config, "strip_accents", false, &accents, where, e)))
        return -1;
    if (!basic || (never && never->n))
        return fail_code(e, ERR_INPUT, "%s: \"%s\" is not supported", where, basic ? "never_split" : "do_basic_tokenize");
    buf text = { 0 };
    buf_fmt(&text, "{\"normalizer\":{\"type\":\"BertNormalizer\",\"clean_text\":true,\"handle_chinese_chars\":%s,\"lowercase\":%s",
            yes_no(chinese), yes_no(lower));
    buf_fmt(&text, ",\"strip_accents\":%s},\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"}", unset ? "null" : yes_no(accents));
    buf_str(&text, ",\"decoder\":{\"type\":\"WordPiece\",\"prefix\":\"##\",\"cleanup\":true}}");
    int rc = add_rules(b, &text, e);
    buf_free(&text);
    return rc;
}

/* [CLS] text [SEP] */
static int surround(struct build *b, const int32_t id[NAMES], const char *file, err *e) {
    if (id[CLS] < 0 || id[SEP] < 0)
        return fail_code(e, ERR_INPUT, "%s: the %s that stands around a text is not in the vocabulary", file,
                         id[CLS] < 0 ? "cls_token" : "sep_token");
    ids_add(&b->prefix, id[CLS]);
    ids_add(&b->suffix, id[SEP]);
    return 0;
}

/* ---- vocab.json, merges.txt ---- */

static int read_merges(struct build *b, struct slice text, err *e) {
    buf both = { 0 };
    uint32_t rank = 0;
    int rc = 0;
    for (size_t line = 1; text.n && !rc; line++) {
        struct slice one = next_line(&text), side[2];
        if (!one.n || (one.n >= 8 && memcmp(one.p, "#version", 8) == 0)) continue;
        const char *space = memchr(one.p, ' ', one.n);
        if (!space || memchr(space + 1, ' ', (size_t)(one.p + one.n - space - 1))) {
            rc = fail_code(e, ERR_INPUT, "merges.txt: line %zu is not a pair of entries", line);
            break;
        }
        side[0] = (struct slice){ one.p, (size_t)(space - one.p) };
        side[1] = (struct slice){ space + 1, one.n - side[0].n - 1 };
        rc = build_join(b, side[0], side[1], rank++, &both, e);
        if (rc > 0) rc = fail_code(e, ERR_INPUT, "merges.txt: line %zu: \"%.60s\" is not in vocab.json", line, both.p);
    }
    buf_free(&both);
    return rc;
}

int load_vocab_json(struct build *b, const json *vocab, struct slice merges, const struct beside *by, err *e) {
    const struct style *s = style_of(by, false, "vocab.json", e);
    int32_t id[NAMES];
    if (!s) return -1;
    b->model = MODEL_BPE;
    b->ask_config = true;
    if (load_vocab(b, vocab, 2 * (uint64_t)vocab->n + 65536, "vocab.json", e) || read_merges(b, merges, e) ||
        add_tokens_beside(b, by, false, e) || add_habits(b, s, by, id, e) || bpe_rules(b, s, by, e))
        return -1;
    return s->form == FORM_ROBERTA ? surround(b, id, "vocab.json", e) : 0;
}

/* ---- vocab.txt: a line is an entry, its number the id ---- */

int load_vocab_txt(struct build *b, struct slice text, const struct beside *by, err *e) {
    const struct style *s = style_of(by, true, "vocab.txt", e);
    int32_t id[NAMES];
    if (!s) return -1;
    if (!utf8_valid(text.p, text.n)) return fail_code(e, ERR_INPUT, "vocab.txt: not UTF-8");
    while (text.n)
        if (build_piece(b, (int64_t)b->n_piece, next_line(&text), PIECE_MODEL, 0, e)) return -1;
    if (build_index(b, e)) return -1;
    for (size_t i = 0; i < b->n_piece; i++) /* of equal lines the last one counts */
        if (build_find(b, b->piece[i].text) != (int32_t)i) b->piece[i].flags &= (uint8_t)~PIECE_MODEL;
    b->model = MODEL_WORDPIECE;
    b->max_chars = 100;
    b->prefix_inside = (struct slice){ "##", 2 };
    if (add_tokens_beside(b, by, false, e) || add_habits(b, s, by, id, e) || bert_rules(b, by, e)) return -1;
    b->unk = id[UNK];
    if (b->unk < 0) return fail_code(e, ERR_INPUT, "vocab.txt: the unk_token is not in the vocabulary");
    return surround(b, id, "vocab.txt", e);
}
