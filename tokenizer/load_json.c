/* load_json: a tokenizer.json of HuggingFace: the model's vocabulary and merges, and the added tokens (the rules around them are
 * load_rules.c). What is not understood is refused by its name. It must not know how any of it is used. */
#include "tokenizer/build.h"

static struct slice slice_of(const json *j) { return (struct slice){ j->s, j->n }; }

static bool empty(const json *j) { return !j || j->type == JSON_NULL || (j->type == JSON_STRING && !j->n); }

/* The kind of model; older files leave it to its members. */
static const char *model_kind(const json *model) {
    const json *type = json_get(model, "type"), *vocab = json_get(model, "vocab");
    if (type && type->type == JSON_STRING) return type->s;
    if (json_get(model, "merges")) return "BPE";
    if (vocab && vocab->type == JSON_ARRAY) return "Unigram";
    return json_get(model, "max_input_chars_per_word") ? "WordPiece" : "WordLevel";
}

int load_vocab(struct build *b, const json *vocab, uint64_t most, const char *where, err *e) {
    if (!vocab || vocab->type != JSON_OBJECT)
        return fail_code(e, ERR_INPUT, "%s is %s, expected an object", where, json_type_name(vocab));
    for (const json *k = vocab->child; k; k = k->next) {
        int64_t id;
        if (json_int(k, &id))
            return fail_code(e, ERR_INPUT, "%s: the id of \"%.60s\" is %s, expected a whole number", where, k->key,
                             json_type_name(k));
        if (id < 0 || (uint64_t)id >= most)
            return fail_code(e, ERR_INPUT, "%s: the id of \"%.60s\" is %lld, expected 0 to %llu", where, k->key, (long long)id,
                             (unsigned long long)most - 1);
        if (build_piece(b, id, (struct slice){ k->key, k->key_n }, PIECE_MODEL, 0, e)) return -1;
    }
    return build_index(b, e);
}

/* "left right", or ["left", "right"]. */
static bool merge_sides(const json *k, struct slice *left, struct slice *right) {
    if (k->type == JSON_ARRAY && k->n == 2 && k->child->type == JSON_STRING && k->child->next->type == JSON_STRING)
        return *left = slice_of(k->child), *right = slice_of(k->child->next), true;
    const char *space = k->type == JSON_STRING ? memchr(k->s, ' ', k->n) : NULL;
    if (!space || memchr(space + 1, ' ', (size_t)(k->s + k->n - space - 1))) return false;
    *left = (struct slice){ k->s, (size_t)(space - k->s) };
    *right = (struct slice){ space + 1, k->n - left->n - 1 };
    return true;
}

static int load_merges(struct build *b, const json *merges, err *e) {
    buf both = { 0 };
    uint32_t rank = 0;
    int rc =
        merges && merges->type == JSON_ARRAY ? 0 : BAD_JSON(e, "model.merges is %s, expected an array", json_type_name(merges));
    for (const json *k = rc ? NULL : merges->child; k && !rc; k = k->next, rank++) {
        struct slice left, right;
        if (!merge_sides(k, &left, &right)) {
            rc = BAD_JSON(e, "model.merges[%u] is not a pair of entries", rank);
            break;
        }
        rc = build_join(b, left, right, rank, &both, e);
        if (rc > 0) rc = BAD_JSON(e, "model.merges[%u]: \"%.60s\" is not in the vocabulary", rank, both.p);
    }
    buf_free(&both);
    return rc;
}

static int load_bpe(struct build *b, const json *model, uint64_t most, err *e) {
    const json *dropout = json_get(model, "dropout"), *unk = json_get(model, "unk_token");
    double x;
    bool fuse, fallback, ignore;
    if (json_only(
            model,
            "type dropout unk_token continuing_subword_prefix end_of_word_suffix fuse_unk byte_fallback ignore_merges vocab merges",
            "model BPE", e))
        return -1;
    if (!empty(dropout) && (json_num(dropout, &x) || x != 0)) return BAD_JSON(e, "model.dropout is not supported");
    if (!empty(json_get(model, "continuing_subword_prefix")))
        return BAD_JSON(e, "model.continuing_subword_prefix is not supported");
    if (!empty(json_get(model, "end_of_word_suffix"))) return BAD_JSON(e, "model.end_of_word_suffix is not supported");
    if (json_bool(model, "fuse_unk", false, &fuse, "model", e) || json_bool(model, "byte_fallback", false, &fallback, "model", e) ||
        json_bool(model, "ignore_merges", false, &ignore, "model", e))
        return -1;
    b->model = MODEL_BPE;
    b->flags |= (fuse ? TOK_FUSE_UNK : 0) | (fallback ? TOK_BYTE_FALLBACK : 0) | (ignore ? TOK_IGNORE_MERGES : 0);
    if (load_vocab(b, json_get(model, "vocab"), most, "tokenizer.json: model.vocab", e) ||
        load_merges(b, json_get(model, "merges"), e))
        return -1;
    if (empty(unk)) return 0;
    b->unk = unk->type == JSON_STRING ? build_find(b, slice_of(unk)) : -1;
    return b->unk < 0 ? BAD_JSON(e, "model.unk_token is not in the vocabulary") : 0;
}

static int load_wordpiece(struct build *b, const json *model, uint64_t most, err *e) {
    const json *unk = json_get(model, "unk_token"), *prefix = json_get(model, "continuing_subword_prefix");
    const json *longest = json_get(model, "max_input_chars_per_word");
    int64_t max_chars = 100;
    if (json_only(model, "type unk_token continuing_subword_prefix max_input_chars_per_word vocab", "model WordPiece", e))
        return -1;
    if (longest && (json_int(longest, &max_chars) || max_chars < 0 || max_chars > 100000))
        return BAD_JSON(e, "model.max_input_chars_per_word is not a number from 0 to 100000");
    if (!unk || unk->type != JSON_STRING || (prefix && prefix->type != JSON_STRING))
        return BAD_JSON(e, "model WordPiece without \"unk_token\" or with a \"continuing_subword_prefix\" that is no string");
    b->model = MODEL_WORDPIECE;
    b->max_chars = (uint32_t)max_chars;
    b->prefix_inside = prefix ? slice_of(prefix) : (struct slice){ "##", 2 };
    if (load_vocab(b, json_get(model, "vocab"), most, "tokenizer.json: model.vocab", e)) return -1;
    b->unk = build_find(b, slice_of(unk));
    return b->unk < 0 ? BAD_JSON(e, "model.unk_token is not in the vocabulary") : 0;
}

/* A score as the reference reads it (serde_json without exact rounding: the digits as a whole number, then one division), because
 * segmentations of equal score are decided by the last bit. Anything unusual is read exactly. */
static int read_score(const json *j, double *out) {
    uint64_t digits = 0;
    double power = 1;
    bool fraction = false;
    if (json_num(j, out)) return -1;
    for (const char *p = j->s + (*j->s == '-'); *p; p++) {
        if (*p == '.' && !fraction) fraction = true;
        else if (*p < '0' || *p > '9' || digits > UINT64_MAX / 10 - 1) return 0;
        else {
            digits = digits * 10 + (uint64_t)(*p - '0');
            power *= fraction ? 10 : 1; /* exact up to 1e22 */
        }
    }
    *out = (double)digits / power * (*j->s == '-' ? -1 : 1);
    return 0;
}

/* [["piece", score], ...]: the place is the id. */
static int load_unigram(struct build *b, const json *model, err *e) {
    const json *vocab = json_get(model, "vocab"), *unk = json_get(model, "unk_id");
    int64_t id = 0, unk_id = -1;
    bool fallback;
    if (json_only(model, "type unk_id vocab byte_fallback", "model Unigram", e) ||
        json_bool(model, "byte_fallback", false, &fallback, "model", e))
        return -1;
    if (!vocab || vocab->type != JSON_ARRAY) return BAD_JSON(e, "model.vocab is %s, expected an array", json_type_name(vocab));
    for (const json *k = vocab->child; k; k = k->next, id++) {
        double score;
        if (k->type != JSON_ARRAY || k->n != 2 || k->child->type != JSON_STRING || read_score(k->child->next, &score) ||
            !(score > -1e30 && score < 1e30))
            return BAD_JSON(e, "model.vocab[%lld] is not [text, score]", (long long)id);
        if (build_piece(b, id, slice_of(k->child), PIECE_MODEL, score, e)) return -1;
    }
    if (!empty(unk) && (json_int(unk, &unk_id) || unk_id < 0 || unk_id >= id))
        return BAD_JSON(e, "model.unk_id is not in the vocabulary");
    b->model = MODEL_UNIGRAM;
    b->flags |= fallback ? TOK_BYTE_FALLBACK : 0;
    b->unk = (int32_t)unk_id;
    return build_index(b, e);
}

int added_flags(const json *j, uint32_t *out, err *e) {
    static const struct {
        const char *key;
        uint32_t flag;
    } flags[] = { { "special", ADDED_SPECIAL },
                  { "lstrip", ADDED_LSTRIP },
                  { "rstrip", ADDED_RSTRIP },
                  { "single_word", ADDED_SINGLE_WORD },
                  { "normalized", ADDED_NORMALIZED } };
    *out = 0;
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        bool on;
        if (json_bool(j, flags[i].key, false, &on, "an added token", e)) return -1;
        *out |= on ? flags[i].flag : 0;
    }
    return 0;
}

static int load_added(struct build *b, const json *j, uint64_t most, err *e) {
    const json *content = json_get(j, "content");
    int64_t id;
    uint32_t f;
    if (json_int(json_get(j, "id"), &id) || !content || content->type != JSON_STRING || !content->n)
        return BAD_JSON(e, "an added token without \"id\" or \"content\"");
    if (json_only(j, "id content special lstrip rstrip single_word normalized", "an added token", e) || added_flags(j, &f, e))
        return -1;
    int32_t there = build_find(b, slice_of(content));
    if (there >= 0 && there != id)
        return BAD_JSON(e, "the added token \"%s\" has id %lld, but %d in the vocabulary", content->s, (long long)id, there);
    if (id < 0 || (uint64_t)id >= most)
        return BAD_JSON(e, "the added token \"%s\" has id %lld, expected 0 to %llu", content->s, (long long)id,
                        (unsigned long long)most - 1);
    if (build_piece(b, id, slice_of(content), f & ADDED_SPECIAL ? PIECE_SPECIAL : 0, 0, e)) return -1;
    return build_added(b, (int32_t)id, f, e);
}

int load_json(struct build *b, const json *root, err *e) {
    const json *model = json_get(root, "model"), *added = json_get(root, "added_tokens");
    if (!model || model->type != JSON_OBJECT) return BAD_JSON(e, "\"model\" is %s, expected an object", json_type_name(model));
    /* truncation and padding shape batches, not the ids of a text */
    if (json_only(root, "version truncation padding added_tokens normalizer pre_tokenizer post_processor decoder model", "the file",
                  e))
        return -1;
    if (added && added->type != JSON_ARRAY && added->type != JSON_NULL)
        return BAD_JSON(e, "\"added_tokens\" is %s, expected an array", json_type_name(added));
    const json *vocab = json_get(model, "vocab");
    uint64_t most = 2 * ((uint64_t)(vocab ? vocab->n : 0) + (added ? added->n : 0)) + 65536; /* ids may have gaps, within reason */
    const char *kind = model_kind(model);
    int rc = strcmp(kind, "BPE") == 0         ? load_bpe(b, model, most, e)
             : strcmp(kind, "WordPiece") == 0 ? load_wordpiece(b, model, most, e)
             : strcmp(kind, "Unigram") == 0   ? load_unigram(b, model, e)
                                              : BAD_JSON(e, "the model \"%s\" is not supported", kind);
    if (rc) return -1;
    for (const json *k = added ? added->child : NULL; k; k = k->next)
        if (load_added(b, k, most, e)) return -1;
    return load_rules(b, root, e);
}
