/* load_gguf: a vocabulary as llama.cpp's files have it. Byte-level BPE comes with merges and the name of its pre-tokenizer, which
 * stands for the rules of some tokenizer.json: the table here says them, and a name that is not in it is refused. SentencePiece
 * comes with scores; WordPiece with U+2581 at the beginnings of words, where the model has ## inside them. It owns what llama.cpp
 * takes for granted where a file is silent. It must not know where the parts come from. */
#include "tokenizer/load_gguf.h"

#include "tokenizer/build.h"
#include "tokenizer/patterns.h"

#define BAD(e, ...) fail_code(e, ERR_INPUT, "tokenizer: " __VA_ARGS__)

enum { TYPE_NORMAL = 1, TYPE_UNKNOWN, TYPE_CONTROL, TYPE_USER, TYPE_UNUSED, TYPE_BYTE };

/* ---- pre-tokenizers: the names, and what tokenizer.json says of these models ---- */

#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define CASED(after, digits)                                                                                                       \
    "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+" after "|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER "*" after "|" digits              \
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define CONTRACTION "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"

enum { PRE_NFC = 1, PRE_IGNORE_MERGES = 2, PRE_BOS = 4 }; /* BOS is added where the file does not say */
enum { MAX_SPLITS = 4 };
static const struct pre {
    const char *name;
    int flags;
    const char *split[MAX_SPLITS]; /* one after another; what matches stands alone */
} pres[] = {
    { "gpt-2", 0, { WORDS_GPT2 } },
    { "phi-2", 0, { WORDS_GPT2 } },
    { "mpt", 0, { WORDS_GPT2 } },
    { "olmo", 0, { WORDS_GPT2 } },
    { "jais", 0, { WORDS_GPT2 } },
    { "llama-bpe", PRE_IGNORE_MERGES | PRE_BOS, { WORDS_LLAMA3 } },
    { "llama3", PRE_IGNORE_MERGES | PRE_BOS, { WORDS_LLAMA3 } },
    { "llama-v3", PRE_IGNORE_MERGES | PRE_BOS, { WORDS_LLAMA3 } },
    { "falcon3", PRE_IGNORE_MERGES | PRE_BOS, { WORDS_LLAMA3 } },
    { "dbrx", 0, { WORDS_LLAMA3 } },
    { "smaug-bpe", 0, { WORDS_LLAMA3 } },
    { "qwen2", PRE_NFC, { WORDS_QWEN2 } },
    { "deepseek-r1-qwen", PRE_NFC, { WORDS_QWEN2 } },
    { "smollm", 0, { "\\p{N}", WORDS_GPT2 } },
    { "starcoder", 0, { "\\p{N}", WORDS_GPT2 } },
    { "refact", 0, { "\\p{N}", WORDS_GPT2 } },
    { "command-r", PRE_NFC, { "\\p{N}", WORDS_GPT2 } },
    { "tekken", PRE_IGNORE_MERGES | PRE_BOS, { CASED("", "\\p{N}") } },
    { "gpt-4o", 0, { CASED(CONTRACTION, "\\p{N}{1,3}") } },
    /* What llama.cpp does with files that do not say: for no model in particular. */
    { "default", 0, { "[\\p{P}\\$\\+<=>\\^~\\|]+", WORDS_GPT2, "\\p{N}+", "[0-9][0-9][0-9]" } },
};
enum { N_PRES = sizeof pres / sizeof *pres };

static bool is(gguf_string s, const char *text) { return s.p && s.n == strlen(text) && memcmp(s.p, text, s.n) == 0; }

/* As it may be shown: cut, and nothing that a terminal would act on. */
static const char *shown(gguf_string s, char out[64]) {
    size_t n = s.n < 60 ? s.n : 60;
    for (size_t i = 0; i < n; i++) out[i] = s.p[i] > ' ' && s.p[i] < 0x7f ? s.p[i] : '?';
    out[n] = 0;
    return out;
}

static const struct pre *find_pre(gguf_string name, err *e) {
    char text[64];
    buf known = { 0 };
    for (int i = 0; i < N_PRES; i++) {
        if (is(name, pres[i].name) || (!name.p && strcmp(pres[i].name, "default") == 0)) return buf_free(&known), &pres[i];
        buf_fmt(&known, "%s%s", i ? ", " : "", pres[i].name);
    }
    BAD(e, "the pre-tokenizer \"%s\" is not known; known: %s; --tokenizer takes the original checkpoint's tokenizer.json",
        shown(name, text), known.p ? known.p : "");
    buf_free(&known);
    return NULL;
}

/* ---- what both kinds have ---- */

static int type_of(const gguf_vocabulary *v, size_t id) { return v->type ? v->type[id] : TYPE_NORMAL; }

static int check_token(const gguf_vocabulary *v, size_t id, err *e) {
    gguf_string s = v->token[id];
    int type = type_of(v, id);
    if (type < TYPE_NORMAL || type > TYPE_BYTE) return BAD(e, "token %zu has type %d; expected 1 to 6", id, type);
    return utf8_valid(s.p, s.n) ? 0 : BAD(e, "token %zu is not UTF-8", id);
}

static int one_id(const gguf_vocabulary *v, int64_t id, const char *what, int32_t *out, err *e) {
    if (id < -1 || id >= (int64_t)v->n_tokens)
        return BAD(e, "the %s token has id %lld, but there are %zu tokens", what, (long long)id, v->n_tokens);
    return *out = (int32_t)id, 0;
}

static int name_ids(struct build *b, const gguf_vocabulary *v, bool bos, bool eos, err *e) {
    if (one_id(v, v->bos, "BOS", &b->bos, e) || one_id(v, v->eos, "EOS", &b->eos, e) || one_id(v, v->unk, "unknown", &b->unk, e))
        return -1;
    if (bos && b->bos >= 0) ids_add(&b->prefix, b->bos);
    if (eos && b->eos >= 0) ids_add(&b->suffix, b->eos);
    if (v->chat_template.n) b->chat_template = (struct slice){ v->chat_template.p, v->chat_template.n };
    if (v->tool_template.n) b->tool_template = (struct slice){ v->tool_template.p, v->tool_template.n };
    return 0;
}

static bool otherwise(int said, bool silent) { return said < 0 ? silent : said; }

/* ---- byte-level BPE ---- */

/* Control and user-defined tokens are found in the text, the model knows them not. */
static int bpe_token(struct build *b, const gguf_vocabulary *v, size_t id, err *e) {
    struct slice s = { v->token[id].p, v->token[id].n };
    int type = type_of(v, id);
    bool added = s.n && (type == TYPE_CONTROL || type == TYPE_USER || type == TYPE_UNKNOWN), special = type != TYPE_USER;
    if (check_token(v, id, e)) return -1;
    uint8_t flags = added ? special ? PIECE_SPECIAL : 0 : type == TYPE_UNUSED || !s.n ? 0 : PIECE_MODEL;
    if (build_piece(b, (int64_t)id, s, flags, 0, e)) return -1;
    return added ? build_added(b, (int32_t)id, special ? ADDED_SPECIAL : 0, e) : 0;
}

static int bpe_merge(struct build *b, const gguf_vocabulary *v, size_t i, buf *both, err *e) {
    struct slice s = { v->merge[i].p, v->merge[i].n };
    const char *space = s.n > 1 ? memchr(s.p + 1, ' ', s.n - 1) : NULL;
    char text[64];
    if (!space) return BAD(e, "merge %zu, \"%s\", is not a pair of tokens", i, shown(v->merge[i], text));
    struct slice left = { s.p, (size_t)(space - s.p) }, right = { space + 1, s.n - left.n - 1 };
    both->n = 0;
    buf_add(both, left.p, left.n);
    buf_add(both, right.p, right.n);
    if (both->failed) return fail_memory(e, s.n, "a tokenizer");
    int32_t l = build_find(b, left), r = build_find(b, right), to = build_find(b, (struct slice){ both->p, both->n });
    if (l < 0 || r < 0 || to < 0)
        return BAD(e, "merge %zu, \"%s\", is of or makes no token of the vocabulary", i, shown(v->merge[i], text));
    return build_merge(b, l, r, (uint32_t)i, to, e);
}

static int load_bpe(struct build *b, const gguf_vocabulary *v, err *e) {
    const struct pre *pre = find_pre(v->pre, e);
    buf both = { 0 };
    int rc = pre ? 0 : -1;
    if (!rc && v->n_merges > INT32_MAX) rc = BAD(e, "%zu merges are too many", v->n_merges);
    b->model = MODEL_BPE;
    b->flags = TOK_BYTES | (pre && pre->flags & PRE_IGNORE_MERGES ? TOK_IGNORE_MERGES : 0);
    b->raw = true;
    for (size_t id = 0; id < v->n_tokens && !rc; id++) rc = bpe_token(b, v, id, e);
    if (!rc) rc = build_index(b, e);
    for (size_t i = 0; i < v->n_merges && !rc; i++) rc = bpe_merge(b, v, i, &both, e);
    buf_free(&both);
    if (rc) return -1;
    if (pre->flags & PRE_NFC) build_rule(b, LIST_NORMALIZER, (struct rule){ .op = RULE_NORMALIZE, .x = UNI_COMPOSE });
    for (int i = 0; i < MAX_SPLITS && pre->split[i]; i++)
        build_rule(b, LIST_PRETOKENIZER,
                   (struct rule){ .op = RULE_SPLIT, .x = SPLIT_ISOLATED, .a = { pre->split[i], strlen(pre->split[i]) } });
    build_rule(b, LIST_DECODER, (struct rule){ .op = RULE_BYTE_LEVEL });
    return name_ids(b, v, otherwise(v->add_bos, pre->flags & PRE_BOS), otherwise(v->add_eos, false), e);
}

/* ---- SentencePiece ---- */

/* Files have the spaces of user-defined tokens as spaces, where the model has U+2581. */
static int mark_spaces(struct build *b, struct slice *s, err *e) {
    buf out = { 0 };
    if (!memchr(s->p, ' ', s->n)) return 0;
    for (size_t i = 0; i < s->n; i++) {
        if (s->p[i] == ' ') buf_str(&out, "\xe2\x96\x81");
        else buf_byte(&out, (uint8_t)s->p[i]);
    }
    const char *copy = out.failed ? NULL : arena_copy(&b->mem, out.p, out.n);
    *s = (struct slice){ copy, out.n };
    buf_free(&out);
    return copy ? 0 : fail_memory(e, s->n, "a tokenizer");
}

static int add_spm_pieces(struct build *b, const gguf_vocabulary *v, bool *bytes, err *e) {
    *bytes = false;
    for (size_t id = 0; id < v->n_tokens; id++) {
        struct slice s = { v->token[id].p, v->token[id].n };
        int type = type_of(v, id);
        double score = v->score ? v->score[id] : 0;
        if (check_token(v, id, e) || (type == TYPE_USER && s.n && mark_spaces(b, &s, e))) return -1;
        if (!(score > -1e30 && score < 1e30)) return BAD(e, "the score of token %zu is out of range", id);
        *bytes |= type == TYPE_BYTE;
        uint8_t flags = type == TYPE_UNUSED || !s.n ? 0 : sentencepiece_flags((uint64_t)type);
        if (build_piece(b, (int64_t)id, s, flags, score, e)) return -1;
    }
    return 0;
}

/* Ids where the file is silent: llama.cpp's habits; -1: none. */
static gguf_vocabulary with_habits(const gguf_vocabulary *v, int64_t unk, int64_t bos, int64_t eos) {
    gguf_vocabulary known = *v;
    const int64_t habit[] = { unk, bos, eos };
    int64_t *const id[] = { &known.unk, &known.bos, &known.eos };
    for (int i = 0; i < 3; i++)
        if (*id[i] < 0 && habit[i] < (int64_t)v->n_tokens) *id[i] = habit[i];
    return known;
}

/* T5's: segments of the best total score, an EOS behind them. */
static int load_unigram(struct build *b, const gguf_vocabulary *v, err *e) {
    gguf_vocabulary known = with_habits(v, 2, -1, 1);
    bool bytes;
    if (!v->score) return BAD(e, "the model \"t5\" without scores");
    if (add_spm_pieces(b, v, &bytes, e) || name_ids(b, &known, otherwise(v->add_bos, false), otherwise(v->add_eos, true), e)) return -1;
    const char *map = v->charsmap.n ? arena_copy(&b->mem, v->charsmap.p, v->charsmap.n) : "";
    if (!map) return fail_memory(e, v->charsmap.n, "a character map");
    b->charsmap = (struct slice){ map, v->charsmap.n };
    b->model = MODEL_UNIGRAM;
    return finish_sentencepiece(b, bytes, otherwise(v->add_space_prefix, true), otherwise(v->collapse_spaces, true), e);
}

static int load_spm(struct build *b, const gguf_vocabulary *v, err *e) {
    gguf_vocabulary known = with_habits(v, 0, 1, 2);
    bool bytes;
    if (add_spm_pieces(b, v, &bytes, e) || name_ids(b, &known, otherwise(v->add_bos, true), otherwise(v->add_eos, false), e)) return -1;
    b->model = MODEL_BPE;
    return finish_sentencepiece(b, bytes, otherwise(v->add_space_prefix, true), otherwise(v->collapse_spaces, false), e);
}

/* ---- WordPiece ---- */

static const char mark[] = "\xe2\x96\x81", inside[] = "##";

/* A word's beginning has the mark, what is inside a word has none; special tokens are as they are. */
static int wordpiece_token(struct build *b, const gguf_vocabulary *v, size_t id, buf *text, bool *capitals, err *e) {
    struct slice s = { v->token[id].p, v->token[id].n };
    int type = type_of(v, id);
    if (check_token(v, id, e)) return -1;
    bool normal = type == TYPE_NORMAL, begins = s.n > 3 && memcmp(s.p, mark, 3) == 0;
    text->n = 0;
    if (normal && !begins && s.n) buf_str(text, inside);
    buf_add(text, s.p + (normal && begins ? 3 : 0), s.n - (normal && begins ? 3 : 0));
    for (size_t i = 0; i < s.n && normal; i++) *capitals |= s.p[i] >= 'A' && s.p[i] <= 'Z';
    char *copy = text->failed ? NULL : arena_copy(&b->mem, text->n ? text->p : "", text->n);
    if (!copy) return fail_memory(e, s.n, "a tokenizer");
    bool special = s.n && (type == TYPE_CONTROL || type == TYPE_UNKNOWN);
    if (build_piece(b, (int64_t)id, (struct slice){ copy, text->n }, special ? PIECE_SPECIAL : type == TYPE_UNUSED ? 0 : PIECE_MODEL, 0, e))
        return -1;
    return special ? build_added(b, (int32_t)id, ADDED_SPECIAL, e) : 0;
}

/* BERT's rules, as its tokenizer.json has them. A vocabulary with capitals is of a model that knows them. */
static int bert_rules(struct build *b, bool capitals, err *e) {
    static const char text[] = "{\"normalizer\":{\"type\":\"BertNormalizer\",\"lowercase\":%s},\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"},"
                               "\"decoder\":{\"type\":\"WordPiece\",\"prefix\":\"##\",\"cleanup\":true}}";
    char full[sizeof text + 8];
    json *root;
    snprintf(full, sizeof full, text, capitals ? "false" : "true");
    return json_parse(&b->mem, full, strlen(full), &root, e) || load_rules(b, root, e) ? -1 : 0;
}

static int load_bert(struct build *b, const gguf_vocabulary *v, err *e) {
    gguf_vocabulary known = with_habits(v, 100, v->cls >= 0 ? v->cls : 101, v->sep >= 0 ? v->sep : 102);
    buf text = { 0 };
    bool capitals = false;
    int rc = 0;
    for (size_t id = 0; id < v->n_tokens && !rc; id++) rc = wordpiece_token(b, v, id, &text, &capitals, e);
    buf_free(&text);
    b->model = MODEL_WORDPIECE;
    b->max_chars = 100;
    b->prefix_inside = (struct slice){ inside, sizeof inside - 1 };
    if (rc || build_index(b, e) || bert_rules(b, capitals, e)) return -1;
    return name_ids(b, &known, otherwise(v->add_bos, true), otherwise(v->add_eos, true), e);
}

int tokenizer_from_gguf(tokenizer **t, const gguf_vocabulary *v, err *e) {
    struct build b = { .unk = -1, .bos = -1, .eos = -1 };
    char text[64];
    int rc;
    *t = NULL;
    if (!v->n_tokens || v->n_tokens > TOK_MAX_IDS) rc = BAD(e, "%zu tokens: expected 1 to %d", v->n_tokens, TOK_MAX_IDS);
    else if (is(v->model, "gpt2")) rc = load_bpe(&b, v, e);
    else if (is(v->model, "llama")) rc = load_spm(&b, v, e);
    else if (is(v->model, "t5")) rc = load_unigram(&b, v, e);
    else if (is(v->model, "bert")) rc = load_bert(&b, v, e);
    else
        rc = BAD(e,
                 "the model \"%s\" is not supported in GGUF files; known: gpt2, llama, t5, bert; --tokenizer takes the original checkpoint's "
                 "tokenizer.json",
                 shown(v->model, text));
    if (!rc) rc = build_finish(&b, t, e);
    build_free(&b);
    return rc;
}
