/* load_ranks: vocabularies as tiktoken has them: an entry is bytes and a rank; two neighbours join where together they are an
 * entry, the lowest rank first. A rank file (a line is base64 and a number: Llama 3's tokenizer.model, qwen.tiktoken) says neither
 * its pattern nor its special tokens: the table here does, by family. tekken.json says both. It must not know other formats. */
#include "tokenizer/build.h"
#include "tokenizer/patterns.h"

enum { MAX_ENTRY = 1024, MAX_SPECIAL = 1 << 16 }; /* bytes of an entry; special tokens of a tekken.json */

static struct slice slice_of(const json *j) { return (struct slice){ j->s, j->n }; }
static struct slice literal(const char *s) { return (struct slice){ s, strlen(s) }; }

/* ---- families of rank files ---- */

static const char *const llama3_special[] = { "<|begin_of_text|>",   "<|end_of_text|>",   NULL, NULL,        NULL, NULL,
                                              "<|start_header_id|>", "<|end_header_id|>", NULL, "<|eot_id|>" };
static const char *const qwen_special[] = { "<|endoftext|>", "<|im_start|>", "<|im_end|>" };

/* Known by the number of ranks. Special tokens follow the ranks: the named ones, and in the gaps and behind them MORE0|>, ... */
static const struct family {
    const char *name;
    size_t ranks;
    const char *pattern;
    bool nfc, add_bos;
    const char *const *special;
    int n_named, n_special;
    const char *more;
    int bos, eos; /* among the special tokens; -1: none */
} families[] = {
    { "Llama 3", 128000, WORDS_LLAMA3, false, true, llama3_special, 10, 256, "<|reserved_special_token_", 0, 1 },
    { "Qwen", 151643, WORDS_QWEN2, true, false, qwen_special, 3, 208, "<|extra_", -1, 0 },
};
enum { N_FAMILIES = sizeof families / sizeof *families };

/* ---- entries ---- */

bool base64_add(buf *out, struct slice text) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint32_t held = 0;
    while (text.n && text.p[text.n - 1] == '=') text.n--;
    for (size_t i = 0; i < text.n; i++) {
        const char *p = text.p[i] ? strchr(digits, text.p[i]) : NULL;
        if (!p) return false;
        held = held << 6 | (uint32_t)(p - digits);
        if (i % 4) buf_byte(out, (int)(held >> (6 - 2 * (i % 4)) & 0xff));
    }
    return text.n % 4 != 1;
}

/* An entry of any bytes, kept as text in the byte-level alphabet. */
static int add_entry(struct build *b, int64_t id, struct slice base64, const char *where, err *e) {
    buf bytes = { 0 }, text = { 0 };
    int rc = 0;
    if (!base64_add(&bytes, base64) || !bytes.n || bytes.n > MAX_ENTRY)
        rc = fail_code(e, ERR_INPUT, "%s: entry %lld is not base64 of 1 to %d bytes", where, (long long)id, MAX_ENTRY);
    for (size_t i = 0; i < bytes.n && !rc; i++) buf_char(&text, byte_to_char((uint8_t)bytes.p[i]));
    const char *copy = rc || text.failed ? NULL : arena_copy(&b->mem, text.p, text.n);
    if (!rc && !copy) rc = fail_memory(e, base64.n, "a vocabulary");
    if (!rc) rc = build_piece(b, id, (struct slice){ copy, text.n }, PIECE_MODEL, 0, e);
    buf_free(&bytes);
    buf_free(&text);
    return rc;
}

static int add_special(struct build *b, int64_t id, struct slice text, err *e) {
    const char *copy = arena_copy(&b->mem, text.p, text.n);
    if (!copy) return fail_memory(e, text.n, "a special token");
    if (build_piece(b, id, (struct slice){ copy, text.n }, PIECE_SPECIAL, 0, e)) return -1;
    return build_added(b, (int32_t)id, ADDED_SPECIAL, e);
}

/* ---- joins ---- */

/* An entry taken apart: part i is text[at[i] .. at[i + 1]); join[i] is the entry that it makes with the next one, or -1. */
struct parts {
    struct slice text;
    size_t n;
    uint32_t at[MAX_ENTRY + 1];
    int32_t join[MAX_ENTRY];
};

static int32_t entry_of(const struct build *b, const struct parts *p, size_t first, size_t last) {
    return build_find(b, (struct slice){ p->text.p + p->at[first], p->at[last] - p->at[first] });
}

static void join_at(const struct build *b, struct parts *p, size_t i) { p->join[i] = i + 1 < p->n ? entry_of(b, p, i, i + 2) : -1; }

/* Joins inside an entry until two parts are left; false if they do not get there. */
static bool join_all_but_last(const struct build *b, struct parts *p) {
    for (size_t i = 0; i < p->n; i++) join_at(b, p, i);
    while (p->n > 2) {
        size_t best = p->n;
        for (size_t i = 0; i + 1 < p->n; i++)
            if (p->join[i] >= 0 && (best == p->n || p->join[i] < p->join[best])) best = i;
        if (best == p->n) return false;
        p->n--;
        memmove(p->at + best + 1, p->at + best + 2, (p->n - best) * sizeof *p->at);
        memmove(p->join + best + 1, p->join + best + 2, (p->n - best - 1) * sizeof *p->join);
        if (best) join_at(b, p, best - 1);
        join_at(b, p, best);
    }
    return p->n == 2;
}

/* One merge for each entry: the last join of its own bytes. No text makes an entry in another way, because until then nothing has
 * joined across its ends; an entry that its bytes do not lead to is found as a whole word or never. */
static int make_merges(struct build *b, err *e) {
    struct parts p;
    for (size_t id = 0; id < b->n_piece; id++) {
        if (!(b->piece[id].flags & PIECE_MODEL)) continue;
        p.text = b->piece[id].text;
        p.n = 0;
        for (size_t i = 0; i < p.text.n; i += (size_t)utf8_len(p.text.p[i])) p.at[p.n++] = (uint32_t)i;
        p.at[p.n] = (uint32_t)p.text.n;
        if (p.n > 1 && join_all_but_last(b, &p) &&
            build_merge(b, entry_of(b, &p, 0, 1), entry_of(b, &p, 1, 2), (uint32_t)id, (int32_t)id, e))
            return -1;
    }
    return 0;
}

static int finish(struct build *b, const char *where, struct slice pattern, err *e) {
    b->model = MODEL_BPE;
    b->flags |= TOK_BYTES | TOK_IGNORE_MERGES | TOK_RAW_BYTES;
    b->raw = b->ask_config = true;
    if (build_index(b, e)) return -1;
    for (size_t id = 0; id < b->n_piece; id++)
        if ((b->piece[id].flags & PIECE_MODEL) && build_find(b, b->piece[id].text) != (int32_t)id)
            return fail_code(e, ERR_INPUT, "%s: entry %zu is there twice", where, id);
    for (int byte = 0; byte < 256; byte++) {
        char one[4];
        if (build_find(b, (struct slice){ one, (size_t)utf8_encode(one, byte_to_char((uint8_t)byte)) }) < 0)
            return fail_code(e, ERR_INPUT, "%s: no entry for byte 0x%02x, which every text may need", where, (unsigned)byte);
    }
    build_rule(b, LIST_PRETOKENIZER, (struct rule){ .op = RULE_SPLIT, .x = SPLIT_ISOLATED, .a = pattern });
    build_rule(b, LIST_DECODER, (struct rule){ .op = RULE_BYTE_LEVEL });
    return make_merges(b, e);
}

/* ---- rank files ---- */

struct slice next_line(struct slice *rest) {
    const char *end = memchr(rest->p, '\n', rest->n);
    struct slice line = { rest->p, end ? (size_t)(end - rest->p) : rest->n };
    rest->p += line.n + (end != NULL);
    rest->n -= line.n + (end != NULL);
    if (line.n && line.p[line.n - 1] == '\r') line.n--;
    return line;
}

/* "aGk= 123": false if it is not of that form. */
static bool rank_line(struct slice line, struct slice *base64, int64_t *rank) {
    const char *space = memchr(line.p, ' ', line.n);
    if (!space || space == line.p) return false;
    *base64 = (struct slice){ line.p, (size_t)(space - line.p) };
    const char *p = space + 1, *end = line.p + line.n;
    *rank = 0;
    if (p == end || end - p > 9) return false;
    for (; p < end && *p >= '0' && *p <= '9'; p++) *rank = *rank * 10 + (*p - '0');
    return p == end;
}

bool looks_like_ranks(struct slice text) {
    struct slice base64;
    int64_t rank;
    buf bytes = { 0 };
    bool is = rank_line(next_line(&text), &base64, &rank) && base64.n < 200 && base64_add(&bytes, base64);
    buf_free(&bytes);
    return is;
}

static const struct family *family_of(size_t ranks, err *e) {
    buf known = { 0 };
    for (int i = 0; i < N_FAMILIES; i++) {
        if (families[i].ranks == ranks) return buf_free(&known), &families[i];
        buf_fmt(&known, "%s%s (%zu)", i ? ", " : "", families[i].name, families[i].ranks);
    }
    fail_code(e, ERR_INPUT, "rank file: %zu ranks are of no family whose pattern is known: %s; use the model's tokenizer.json",
              ranks, known.p ? known.p : "");
    buf_free(&known);
    return NULL;
}

static int name_specials(struct build *b, const struct family *f, err *e) {
    for (int i = 0, k = 0; i < f->n_special; i++) {
        char text[64];
        const char *name = i < f->n_named ? f->special[i] : NULL;
        if (!name) snprintf(text, sizeof text, "%s%d|>", f->more, k++);
        if (add_special(b, (int64_t)f->ranks + i, literal(name ? name : text), e)) return -1;
    }
    b->bos = f->bos < 0 ? -1 : (int32_t)f->ranks + f->bos;
    b->eos = (int32_t)f->ranks + f->eos;
    return 0;
}

int load_ranks(struct build *b, struct slice text, bool specials_named, err *e) {
    size_t n = 0, line = 1;
    for (struct slice rest = text; rest.n; line++) {
        struct slice one = next_line(&rest), base64;
        int64_t rank;
        if (!one.n) continue;
        if (!rank_line(one, &base64, &rank)) return fail_code(e, ERR_INPUT, "rank file: line %zu is not base64 and a number", line);
        if (rank > 2 * (int64_t)n + 65536)
            return fail_code(e, ERR_INPUT, "rank file: line %zu has rank %lld, far from the one before", line, (long long)rank);
        if (add_entry(b, rank, base64, "rank file", e)) return -1;
        n++;
    }
    const struct family *f = family_of(n, e);
    if (!f) return -1;
    if (b->n_piece != n) return fail_code(e, ERR_INPUT, "rank file: %zu lines, but ranks up to %zu", n, b->n_piece - 1);
    b->add_bos = f->add_bos;
    if (f->nfc) build_rule(b, LIST_NORMALIZER, (struct rule){ .op = RULE_NORMALIZE, .x = UNI_COMPOSE });
    return finish(b, "rank file", literal(f->pattern), e) || (!specials_named && name_specials(b, f, e)) ? -1 : 0;
}

/* ---- tekken.json ---- */

#define BAD_TEKKEN(e, ...) fail_code(e, ERR_INPUT, "tekken.json: " __VA_ARGS__)

/* What files up to version 7, which do not list them, have in front (mistral-common's tekken.py). */
static const char *const tekken_special[] = { "<unk>",
                                              "<s>",
                                              "</s>",
                                              "[INST]",
                                              "[/INST]",
                                              "[AVAILABLE_TOOLS]",
                                              "[/AVAILABLE_TOOLS]",
                                              "[TOOL_RESULTS]",
                                              "[/TOOL_RESULTS]",
                                              "[TOOL_CALLS]",
                                              "[IMG]",
                                              "<pad>",
                                              "[IMG_BREAK]",
                                              "[IMG_END]",
                                              "[PREFIX]",
                                              "[MIDDLE]",
                                              "[SUFFIX]",
                                              "[SYSTEM_PROMPT]",
                                              "[/SYSTEM_PROMPT]",
                                              "[TOOL_CONTENT]" };
enum { N_TEKKEN_SPECIAL = sizeof tekken_special / sizeof *tekken_special };

static int number(const json *object, const char *key, int64_t most, int64_t *out, err *e) {
    const json *j = json_get(object, key);
    if (!json_int(j, out) && *out >= 0 && *out <= most) return 0;
    return BAD_TEKKEN(e, "\"%s\" is %s, expected a number from 0 to %lld", key,
                      j && j->type == JSON_NUMBER ? j->s : json_type_name(j), (long long)most);
}

/* The special tokens have the first n ids; those without a name are <SPECIAL_i>. */
static int tekken_specials(struct build *b, const json *list, int64_t n, err *e) {
    int64_t id = 0;
    char text[32];
    if (list && list->type != JSON_ARRAY && list->type != JSON_NULL)
        return BAD_TEKKEN(e, "\"special_tokens\" is %s, expected an array", json_type_name(list));
    bool listed = list && list->type == JSON_ARRAY;
    for (const json *k = listed ? list->child : NULL; k; k = k->next, id++) {
        const json *name = json_get(k, "token_str");
        int64_t rank;
        if (json_int(json_get(k, "rank"), &rank) || rank != id || id >= n || !name || name->type != JSON_STRING || !name->n)
            return BAD_TEKKEN(e, "special_tokens[%lld] has no \"token_str\" or not its place as \"rank\"", (long long)id);
        if (add_special(b, id, slice_of(name), e)) return -1;
    }
    for (; id < n; id++) {
        bool known = !listed && id < N_TEKKEN_SPECIAL;
        if (!known) snprintf(text, sizeof text, "<SPECIAL_%lld>", (long long)id);
        if (add_special(b, id, literal(known ? tekken_special[id] : text), e)) return -1;
    }
    return 0;
}

static int tekken_entries(struct build *b, const json *list, int64_t first, int64_t n, err *e) {
    int64_t i = 0;
    if (!list || list->type != JSON_ARRAY || list->n < (uint64_t)n)
        return BAD_TEKKEN(e, "\"vocab\" is %s with %u entries, expected an array of %lld or more", json_type_name(list),
                          list ? list->n : 0, (long long)n);
    for (const json *k = list->child; k && i < n; k = k->next, i++) { /* the file may have more than the model */
        const json *bytes = json_get(k, "token_bytes");
        int64_t rank;
        if (json_int(json_get(k, "rank"), &rank) || rank != i || !bytes || bytes->type != JSON_STRING)
            return BAD_TEKKEN(e, "vocab[%lld] has no \"token_bytes\" or not its place as \"rank\"", (long long)i);
        if (add_entry(b, first + i, slice_of(bytes), "tekken.json", e)) return -1;
    }
    return 0;
}

int load_tekken(struct build *b, const json *root, err *e) {
    const json *config = json_get(root, "config"), *pattern = json_get(config, "pattern");
    int64_t size, n_special;
    if (number(config, "default_num_special_tokens", MAX_SPECIAL, &n_special, e) ||
        number(config, "default_vocab_size", TOK_MAX_IDS, &size, e))
        return -1;
    if (!pattern || pattern->type != JSON_STRING || !pattern->n)
        return BAD_TEKKEN(e, "\"pattern\" is %s, expected a regular expression", json_type_name(pattern));
    if (size < n_special) return BAD_TEKKEN(e, "%lld ids, but %lld special tokens", (long long)size, (long long)n_special);
    if (tekken_specials(b, json_get(root, "special_tokens"), n_special, e) ||
        tekken_entries(b, json_get(root, "vocab"), n_special, size - n_special, e))
        return -1;
    b->bos = build_id(b, literal("<s>"));
    b->eos = build_id(b, literal("</s>"));
    b->add_bos = true;
    return finish(b, "tekken.json", slice_of(pattern), e);
}
