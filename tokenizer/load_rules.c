/* load_rules: the normalizer, pre_tokenizer, post_processor and decoder of a tokenizer.json, brought to the few rules of parts.h.
 * Each component is checked member by member: what is not understood is refused by its name, never passed over. */
#include "tokenizer/build.h"
#include "tokenizer/older_unicode.h"
#include "tokenizer/patterns.h"

/* \w+|[^\w\s]+ of another library: its \w has the joiners and lacks the superscripts and fractions of Latin-1, as a class here */
#define RUST_WORDS "[\\w\\x{200c}\\x{200d}]+|[^\\w\\s\\x{200c}\\x{200d}]+"

static struct slice slice_of(const json *j) { return (struct slice){ j->s, j->n }; }
static struct slice literal(const char *s) { return (struct slice){ s, strlen(s) }; }

/* Is the member's name one of these words? */
static bool among(const json *m, const char *words) {
    for (size_t n; *words; words += n + (words[n] == ' ')) {
        n = strcspn(words, " ");
        if (n == m->key_n && memcmp(words, m->key, n) == 0) return true;
    }
    return false;
}

int json_only(const json *j, const char *names, const char *where, err *e) {
    for (const json *m = j->child; m; m = m->next)
        if (!among(m, names)) return BAD_JSON(e, "%s has \"%s\", which is not supported", where, m->key);
    return 0;
}

int json_bool(const json *j, const char *key, bool otherwise, bool *out, const char *where, err *e) {
    const json *m = json_get(j, key);
    *out = m ? m->type == JSON_TRUE : otherwise;
    if (!m || m->type == JSON_TRUE || m->type == JSON_FALSE) return 0;
    return fail_code(e, ERR_INPUT, "%s: \"%s\" is %s, expected true or false", where, key, json_type_name(m));
}

static int get_string(const json *j, const char *key, struct slice *out, const char *where, err *e) {
    const json *m = json_get(j, key);
    if (!m || m->type != JSON_STRING) return BAD_JSON(e, "%s: \"%s\" is %s, expected a string", where, key, json_type_name(m));
    *out = slice_of(m);
    return 0;
}

static const char *type_of(const json *j) {
    const json *type = json_get(j, "type");
    return type && type->type == JSON_STRING ? type->s : "";
}

static int unsupported(const json *j, const char *what, err *e) {
    if (!j || j->type != JSON_OBJECT) return BAD_JSON(e, "a %s is %s, expected an object", what, json_type_name(j));
    return BAD_JSON(e, "%s \"%s\" is not supported", what, type_of(j));
}

/* Applies one loader to the members of a Sequence, or to the component itself. */
typedef int component(struct build *b, const json *j, err *e);

static int each(struct build *b, const json *j, const char *list, component *one, const char *what, err *e) {
    const json *items = json_get(j, list);
    if (json_only(j,
                  strcmp(list, "normalizers") == 0     ? "type normalizers"
                  : strcmp(list, "pretokenizers") == 0 ? "type pretokenizers"
                  : strcmp(list, "processors") == 0    ? "type processors"
                                                       : "type decoders",
                  what, e))
        return -1;
    if (!items || items->type != JSON_ARRAY) return BAD_JSON(e, "%s Sequence without \"%s\"", what, list);
    for (const json *k = items->child; k; k = k->next)
        if (one(b, k, e)) return -1;
    return 0;
}

/* {"String": ...} or {"Regex": ...} */
static int get_pattern(const json *j, struct rule *r, const char *where, err *e) {
    const json *p = json_get(j, "pattern"), *text = json_get(p, "String"), *re = json_get(p, "Regex");
    const json *one = text ? text : re;
    if (!one || one->type != JSON_STRING || p->n != 1)
        return BAD_JSON(e, "%s: \"pattern\" is %s, expected {\"String\": ...} or {\"Regex\": ...}", where, json_type_name(p));
    r->a = slice_of(one);
    r->flags = text ? RULE_LITERAL : 0;
    if (!r->a.n) return BAD_JSON(e, "%s: an empty pattern is not supported", where);
    if (text) return 0;
    regex *compiled;
    err inner = { 0 };
    if (regex_compile(&compiled, re->s, re->n, &inner)) return fail_code(e, inner.code, "tokenizer.json: %s: %s", where, inner.msg);
    bool nothing = regex_may_be_empty(compiled);
    regex_free(compiled);
    return nothing ? BAD_JSON(e, "%s: the pattern \"%.200s\" can match nothing, which is not supported", where, re->s) : 0;
}

/* ---- normalizers ---- */

static int load_replace(struct build *b, const json *j, int list, err *e) {
    struct rule r = { .op = RULE_REPLACE };
    if (json_only(j, "type pattern content", "Replace", e) || get_pattern(j, &r, "Replace", e) ||
        get_string(j, "content", &r.b, "Replace", e))
        return -1;
    build_rule(b, list, r);
    return 0;
}

static void replace_by(struct build *b, const char *pattern, const char *content) {
    build_rule(b, LIST_NORMALIZER, (struct rule){ .op = RULE_REPLACE, .a = literal(pattern), .b = literal(content) });
}

/* Nmt: control characters go, what can be taken for a space becomes one (SentencePiece's rule set of that name). */
static int load_nmt(struct build *b, const json *j, err *e) {
    if (json_only(j, "type", "Nmt", e)) return -1;
    replace_by(b, "[\\x{1}-\\x{8}\\x{b}\\x{e}-\\x{1f}\\x{7f}\\x{8f}\\x{9f}]", "");
    replace_by(b, "[\\t\\n\\f\\r\\x{1680}\\x{200b}-\\x{200f}\\x{2028}\\x{2029}\\x{2581}\\x{feff}\\x{fffd}]", " ");
    return 0;
}

/* BertNormalizer, in its order. strip_accents unset means: as lowercase is. */
static int load_bert(struct build *b, const json *j, err *e) {
    bool clean, chinese, accents, lower;
    const json *strip = json_get(j, "strip_accents");
    const char *where = "BertNormalizer";
    if (json_only(j, "type clean_text handle_chinese_chars strip_accents lowercase", where, e) ||
        json_bool(j, "clean_text", true, &clean, where, e) || json_bool(j, "handle_chinese_chars", true, &chinese, where, e) ||
        json_bool(j, "lowercase", true, &lower, where, e))
        return -1;
    if (!strip || strip->type == JSON_NULL) accents = lower;
    else if (json_bool(j, "strip_accents", true, &accents, where, e)) return -1;
    if (clean) {
        replace_by(b, BERT_CONTROL, "");
        replace_by(b, "\\s", " ");
    }
    if (chinese) build_rule(b, LIST_NORMALIZER, (struct rule){ .op = RULE_BERT_CHINESE });
    if (accents) {
        build_rule(b, LIST_NORMALIZER, (struct rule){ .op = RULE_NORMALIZE });
        replace_by(b, BERT_ACCENTS, "");
    }
    if (lower) build_rule(b, LIST_NORMALIZER, (struct rule){ .op = RULE_LOWERCASE });
    return 0;
}

/* SentencePiece's character map, in base64. */
static int load_precompiled(struct build *b, const json *j, err *e) {
    struct slice text = { NULL, 0 };
    if (json_only(j, "type precompiled_charsmap", "Precompiled", e) ||
        get_string(j, "precompiled_charsmap", &text, "Precompiled", e))
        return -1;
    if (b->charsmap.n) return BAD_JSON(e, "a second Precompiled normalizer is not supported");
    buf bytes = { 0 };
    int rc = base64_add(&bytes, text) ? 0 : BAD_JSON(e, "Precompiled: precompiled_charsmap is not base64");
    if (!rc && bytes.failed) rc = fail_memory(e, text.n, "a character map");
    size_t n = bytes.n;
    const char *map = rc ? NULL : arena_copy(&b->mem, bytes.p ? bytes.p : "", n);
    buf_free(&bytes);
    if (!map) return rc ? -1 : fail_memory(e, n, "a character map");
    b->charsmap = (struct slice){ map, n };
    if (n) build_rule(b, LIST_NORMALIZER, (struct rule){ .op = RULE_CHARSMAP });
    return 0;
}

static int load_normalizer(struct build *b, const json *j, err *e) {
    static const struct {
        const char *type;
        struct rule r;
    } plain[] = { { "NFD", { .op = RULE_NORMALIZE, .x = 0 } },
                  { "NFC", { .op = RULE_NORMALIZE, .x = UNI_COMPOSE } },
                  { "NFKD", { .op = RULE_NORMALIZE, .x = UNI_COMPAT } },
                  { "NFKC", { .op = RULE_NORMALIZE, .x = UNI_COMPAT | UNI_COMPOSE } },
                  { "Lowercase", { .op = RULE_LOWERCASE } },
                  { "ByteLevel", { .op = RULE_BYTES } },
                  { "StripAccents", { .op = RULE_REPLACE, .a = { ACCENTS, sizeof ACCENTS - 1 } } } };
    const char *type = type_of(j);
    if (j->type == JSON_NULL) return 0;
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
        if (strcmp(type, plain[i].type) == 0) {
            if (json_only(j, "type", type, e)) return -1;
            build_rule(b, LIST_NORMALIZER, plain[i].r);
            return 0;
        }
    if (strcmp(type, "Sequence") == 0) return each(b, j, "normalizers", load_normalizer, "normalizer", e);
    if (strcmp(type, "Replace") == 0) return load_replace(b, j, LIST_NORMALIZER, e);
    if (strcmp(type, "Prepend") == 0) {
        struct rule r = { .op = RULE_PREPEND };
        if (json_only(j, "type prepend", type, e) || get_string(j, "prepend", &r.a, type, e)) return -1;
        build_rule(b, LIST_NORMALIZER, r);
        return 0;
    }
    if (strcmp(type, "Precompiled") == 0) return load_precompiled(b, j, e);
    if (strcmp(type, "BertNormalizer") == 0) return load_bert(b, j, e);
    if (strcmp(type, "Nmt") == 0) return load_nmt(b, j, e);
    if (strcmp(type, "Strip") == 0) {
        bool left, right;
        if (json_only(j, "type strip_left strip_right", type, e) || json_bool(j, "strip_left", true, &left, type, e) ||
            json_bool(j, "strip_right", true, &right, type, e))
            return -1;
        build_rule(b, LIST_NORMALIZER, (struct rule){ .op = RULE_STRIP, .x = (left ? 1 : 0) | (right ? 2 : 0) });
        return 0;
    }
    return unsupported(j, "normalizer", e);
}

/* ---- pre-tokenizers ---- */

static int behaviour_of(const json *j, const char *where, int otherwise, int32_t *out, err *e) {
    static const char *const names[] = { "Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous" };
    const json *m = json_get(j, "behavior");
    *out = otherwise;
    for (int i = 0; m && i < 5; i++)
        if (json_is(m, names[i])) return *out = i, 0;
    if (!m && otherwise >= 0) return 0;
    return BAD_JSON(e, "%s: the behavior %s is not supported", where, m && m->type == JSON_STRING ? m->s : json_type_name(m));
}

static int load_split(struct build *b, const json *j, err *e) {
    struct rule r = { .op = RULE_SPLIT };
    bool invert;
    if (json_only(j, "type pattern behavior invert", "Split", e) || get_pattern(j, &r, "Split", e) ||
        behaviour_of(j, "Split", -1, &r.x, e) || json_bool(j, "invert", false, &invert, "Split", e))
        return -1;
    r.y = invert;
    build_rule(b, LIST_PRETOKENIZER, r);
    return 0;
}

static void split_by(struct build *b, const char *pattern, int behaviour, bool inverted) {
    build_rule(b, LIST_PRETOKENIZER, (struct rule){ .op = RULE_SPLIT, .x = behaviour, .y = inverted, .a = literal(pattern) });
}

static int load_byte_level(struct build *b, const json *j, err *e) {
    bool space, regex_too, unused;
    if (json_only(j, "type add_prefix_space trim_offsets use_regex", "ByteLevel", e) ||
        json_bool(j, "add_prefix_space", true, &space, "ByteLevel", e) ||
        json_bool(j, "use_regex", true, &regex_too, "ByteLevel", e) || json_bool(j, "trim_offsets", true, &unused, "ByteLevel", e))
        return -1;
    if (space) build_rule(b, LIST_PRETOKENIZER, (struct rule){ .op = RULE_PREFIX_SPACE });
    if (regex_too) split_by(b, WORDS_GPT2, SPLIT_ISOLATED, false);
    b->flags |= TOK_BYTES; /* characters become bytes in the model itself */
    b->raw = true;
    return 0;
}

/* Metaspace, also in its older form (add_prefix_space for prepend_scheme); x: PREPEND_ */
static int get_metaspace(const json *j, struct rule *r, bool *split, err *e) {
    static const char *const schemes[] = { "never", "always", "first" };
    const json *scheme = json_get(j, "prepend_scheme"), *rep = json_get(j, "str_rep");
    bool prefix;
    if (json_only(j, "type replacement str_rep add_prefix_space prepend_scheme split", "Metaspace", e) ||
        get_string(j, "replacement", &r->a, "Metaspace", e) || json_bool(j, "add_prefix_space", true, &prefix, "Metaspace", e) ||
        json_bool(j, "split", true, split, "Metaspace", e))
        return -1;
    if (rep && (rep->type != JSON_STRING || !slice_equal(slice_of(rep), r->a)))
        return BAD_JSON(e, "Metaspace: \"str_rep\" differs from \"replacement\"");
    if (!r->a.n || (size_t)utf8_len(r->a.p[0]) != r->a.n) return BAD_JSON(e, "Metaspace: \"replacement\" is not one character");
    r->x = prefix ? PREPEND_ALWAYS : PREPEND_NEVER;
    for (int i = 0; scheme && i < 3; i++)
        if (json_is(scheme, schemes[i])) return r->x = i, 0;
    return scheme ? BAD_JSON(e, "Metaspace: the prepend_scheme is not supported") : 0;
}

static int load_metaspace(struct build *b, const json *j, err *e) {
    struct rule r = { .op = RULE_METASPACE };
    bool split;
    if (get_metaspace(j, &r, &split, e)) return -1;
    build_rule(b, LIST_PRETOKENIZER, r);
    if (split)
        build_rule(b, LIST_PRETOKENIZER, (struct rule){ .op = RULE_SPLIT, .flags = RULE_LITERAL, .x = SPLIT_NEXT, .a = r.a });
    return 0;
}

static int load_delimiter(struct build *b, const json *j, err *e) {
    struct rule r = { .op = RULE_SPLIT, .flags = RULE_LITERAL, .x = SPLIT_REMOVED };
    if (json_only(j, "type delimiter", "CharDelimiterSplit", e) || get_string(j, "delimiter", &r.a, "CharDelimiterSplit", e))
        return -1;
    if (!r.a.n) return BAD_JSON(e, "CharDelimiterSplit: \"delimiter\" is empty");
    build_rule(b, LIST_PRETOKENIZER, r);
    return 0;
}

static int load_pretokenizer(struct build *b, const json *j, err *e) {
    const char *type = type_of(j);
    bool one;
    int32_t behaviour;
    if (j->type == JSON_NULL) return 0;
    if (b->flags & TOK_BYTES) return BAD_JSON(e, "pre_tokenizer \"%s\" behind ByteLevel is not supported", type);
    if (strcmp(type, "Sequence") == 0) return each(b, j, "pretokenizers", load_pretokenizer, "pre_tokenizer", e);
    if (strcmp(type, "ByteLevel") == 0) return load_byte_level(b, j, e);
    if (strcmp(type, "Split") == 0) return load_split(b, j, e);
    if (strcmp(type, "Metaspace") == 0) return load_metaspace(b, j, e);
    if (strcmp(type, "CharDelimiterSplit") == 0) return load_delimiter(b, j, e);
    if (strcmp(type, "Digits") == 0) {
        if (json_only(j, "type individual_digits", type, e) || json_bool(j, "individual_digits", false, &one, type, e)) return -1;
        return split_by(b, NUMBERS, one ? SPLIT_ISOLATED : SPLIT_CONTIGUOUS, false), 0;
    }
    if (strcmp(type, "Punctuation") == 0) {
        if (json_only(j, "type behavior", type, e) || behaviour_of(j, type, SPLIT_ISOLATED, &behaviour, e)) return -1;
        return split_by(b, PUNCTUATION, behaviour, false), 0;
    }
    if (strcmp(type, "Whitespace") == 0 && !json_only(j, "type", type, e)) return split_by(b, RUST_WORDS, SPLIT_REMOVED, true), 0;
    if (strcmp(type, "WhitespaceSplit") == 0 && !json_only(j, "type", type, e)) return split_by(b, "\\s", SPLIT_REMOVED, false), 0;
    if (strcmp(type, "BertPreTokenizer") == 0 && !json_only(j, "type", type, e)) {
        split_by(b, "\\s", SPLIT_REMOVED, false);
        return split_by(b, PUNCTUATION, SPLIT_ISOLATED, false), 0;
    }
    return unsupported(j, "pre_tokenizer", e);
}

/* ---- post-processors: ids before and behind the text ---- */

static void surround(struct build *b, const ids *before, const ids *behind) {
    ids all = { 0 };
    for (size_t i = 0; i < before->n; i++) ids_add(&all, before->p[i]);
    for (size_t i = 0; i < b->prefix.n; i++) ids_add(&all, b->prefix.p[i]);
    all.failed |= before->failed || behind->failed;
    for (size_t i = 0; i < behind->n; i++) ids_add(&b->suffix, behind->p[i]);
    ids_free(&b->prefix);
    b->prefix = all;
}

static int template_ids(struct build *b, const json *root, const json *special, ids *out, err *e) {
    const json *name = json_get(special, "id"), *list = NULL;
    if (name && name->type == JSON_STRING)
        for (const json *k = json_get(root, "special_tokens") ? json_get(root, "special_tokens")->child : NULL; k; k = k->next)
            if (k->key_n == name->n && memcmp(k->key, name->s, name->n) == 0) list = json_get(k, "ids");
    if (!list || list->type != JSON_ARRAY) return BAD_JSON(e, "TemplateProcessing uses a special token that it does not define");
    for (const json *k = list->child; k; k = k->next) {
        int64_t id;
        if (json_int(k, &id) || id < 0 || (uint64_t)id >= b->n_piece)
            return BAD_JSON(e, "TemplateProcessing: \"%s\" has an id that is not in the vocabulary", name->s);
        ids_add(out, (int32_t)id);
    }
    return 0;
}

static int load_template(struct build *b, const json *j, err *e) {
    const json *single = json_get(j, "single");
    ids part[2] = { { 0 }, { 0 } };
    int behind = 0, rc = json_only(j, "type single pair special_tokens", "TemplateProcessing", e);
    if (!rc && (!single || single->type != JSON_ARRAY))
        rc = BAD_JSON(e, "TemplateProcessing: \"single\" is %s, expected an array", json_type_name(single));
    for (const json *k = rc ? NULL : single->child; k && !rc; k = k->next) {
        const json *special = json_get(k, "SpecialToken"), *text = json_get(k, "Sequence");
        if (special) rc = template_ids(b, j, special, part + behind, e);
        else if (text && json_is(json_get(text, "id"), "A") && !behind) behind = 1;
        else rc = BAD_JSON(e, "TemplateProcessing: \"single\" is not special tokens around one text");
    }
    if (!rc && !behind) rc = BAD_JSON(e, "TemplateProcessing: \"single\" has no text");
    if (!rc) surround(b, part, part + 1);
    ids_free(part);
    ids_free(part + 1);
    return rc;
}

/* BertProcessing and RobertaProcessing: "cls": [text, id], "sep": [text, id] */
static int load_cls_sep(struct build *b, const json *j, err *e) {
    const char *const keys[] = { "cls", "sep" };
    ids part[2] = { { 0 }, { 0 } };
    int rc = json_only(j, "type cls sep trim_offsets add_prefix_space", type_of(j), e);
    for (int i = 0; i < 2 && !rc; i++) {
        const json *pair = json_get(j, keys[i]);
        int64_t id;
        if (!pair || pair->type != JSON_ARRAY || pair->n != 2 || json_int(pair->child->next, &id) || id < 0 ||
            (uint64_t)id >= b->n_piece)
            rc = BAD_JSON(e, "%s: \"%s\" is not [text, id]", type_of(j), keys[i]);
        else ids_add(part + i, (int32_t)id);
    }
    if (!rc) surround(b, part, part + 1);
    ids_free(part);
    ids_free(part + 1);
    return rc;
}

static int load_post_processor(struct build *b, const json *j, err *e) {
    const char *type = type_of(j);
    if (j->type == JSON_NULL) return 0;
    if (strcmp(type, "Sequence") == 0) return each(b, j, "processors", load_post_processor, "post_processor", e);
    if (strcmp(type, "ByteLevel") == 0)
        return json_only(j, "type add_prefix_space trim_offsets use_regex", type, e); /* about offsets only */
    if (strcmp(type, "TemplateProcessing") == 0) return load_template(b, j, e);
    if (strcmp(type, "BertProcessing") == 0 || strcmp(type, "RobertaProcessing") == 0) return load_cls_sep(b, j, e);
    return unsupported(j, "post_processor", e);
}

/* ---- decoders ---- */

static int load_unstrip(struct build *b, const json *j, err *e) {
    struct rule r = { .op = RULE_UNSTRIP };
    int64_t start, stop;
    if (json_only(j, "type content start stop", "Strip", e) || get_string(j, "content", &r.a, "Strip", e)) return -1;
    if (json_int(json_get(j, "start"), &start) || json_int(json_get(j, "stop"), &stop) || start < 0 || start > 1000 || stop < 0 ||
        stop > 1000 || !r.a.n)
        return BAD_JSON(e, "decoder Strip: expected a character and counts from 0 to 1000");
    r.x = (int32_t)start;
    r.y = (int32_t)stop;
    build_rule(b, LIST_DECODER, r);
    return 0;
}

static int load_decoder(struct build *b, const json *j, err *e) {
    const char *type = type_of(j);
    struct rule r = { 0 };
    bool flag;
    if (strcmp(type, "Sequence") == 0) return each(b, j, "decoders", load_decoder, "decoder", e);
    if (strcmp(type, "Replace") == 0) return load_replace(b, j, LIST_DECODER, e);
    if (strcmp(type, "Strip") == 0) return load_unstrip(b, j, e);
    if (strcmp(type, "ByteLevel") == 0) {
        b->raw = true;
        r.op = RULE_BYTE_LEVEL;
        build_rule(b, LIST_DECODER, r);
        return json_only(j, "type add_prefix_space trim_offsets use_regex", type, e);
    }
    if (strcmp(type, "ByteFallback") == 0 || strcmp(type, "Fuse") == 0) {
        r.op = *type == 'F' ? RULE_FUSE : RULE_BYTE_FALLBACK;
        build_rule(b, LIST_DECODER, r);
        return json_only(j, "type", type, e);
    }
    if (strcmp(type, "Metaspace") == 0) {
        if (get_metaspace(j, &r, &flag, e)) return -1;
        r.op = RULE_UNMETASPACE;
        r.x = r.x != PREPEND_NEVER;
        build_rule(b, LIST_DECODER, r);
        return 0;
    }
    if (strcmp(type, "WordPiece") == 0) {
        r.op = RULE_UNWORDPIECE;
        if (json_only(j, "type prefix cleanup", type, e) || get_string(j, "prefix", &r.a, type, e) ||
            json_bool(j, "cleanup", true, &flag, type, e))
            return -1;
        r.x = flag;
        build_rule(b, LIST_DECODER, r);
        return 0;
    }
    return unsupported(j, "decoder", e);
}

/* Behind Fuse, which makes one text of all tokens, a stream can still strip at its beginning, and nothing else. */
static int check_decoders(const struct build *b, err *e) {
    struct rules rs;
    int rc = rules_read(&rs, (struct slice){ b->rules[LIST_DECODER].p, b->rules[LIST_DECODER].n }, LIST_DECODER, e);
    bool fused = false;
    for (size_t i = 0; i < rs.n && !rc; i++) {
        const struct rule *r = rs.p + i;
        if (fused && r->op != RULE_FUSE && (r->op != RULE_UNSTRIP || r->y))
            rc = BAD_JSON(e, "the decoder \"%s\" behind Fuse or ByteLevel is not supported", rule_name(r->op));
        fused |= r->op == RULE_FUSE || r->op == RULE_BYTE_LEVEL;
    }
    rules_free(&rs);
    return rc;
}

int load_rules(struct build *b, const json *root, err *e) {
    const json *normalizer = json_get(root, "normalizer"), *words = json_get(root, "pre_tokenizer");
    const json *post = json_get(root, "post_processor"), *decoder = json_get(root, "decoder");
    if (normalizer && load_normalizer(b, normalizer, e)) return -1;
    if (words && load_pretokenizer(b, words, e)) return -1;
    if (post && load_post_processor(b, post, e)) return -1;
    if (decoder && decoder->type != JSON_NULL) return load_decoder(b, decoder, e) ? -1 : check_decoders(b, e);
    build_rule(b, LIST_DECODER, (struct rule){ .op = RULE_JOIN });
    return 0;
}
