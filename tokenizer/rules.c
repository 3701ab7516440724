/* rules: the steps around the model as they stand in a blob. Owns their encoding and the checks that every later stage relies on:
 * texts are UTF-8, patterns compile, numbers are in range. It must not know what a step does. */
#include "tokenizer/parts.h"

enum { NORM = 1 << LIST_NORMALIZER, PRE = 1 << LIST_PRETOKENIZER, DEC = 1 << LIST_DECODER };
enum { NEEDS_A = 1, PATTERN = 2, ALONE = 4, FIRST = 8 };

static const struct {
    const char *name;
    uint8_t lists, needs;
    int32_t max_x, max_y;
} known[RULE_COUNT] = {
    [RULE_NORMALIZE] = { "normalize", NORM, 0, 3, 0 },
    [RULE_LOWERCASE] = { "lowercase", NORM, 0, 0, 0 },
    [RULE_STRIP] = { "strip", NORM, 0, 3, 0 },
    [RULE_REPLACE] = { "replace", NORM | DEC, PATTERN, 0, 0 },
    [RULE_PREPEND] = { "prepend", NORM, 0, 0, 0 },
    [RULE_SENTENCEPIECE] = { "sentencepiece", NORM, 0, 15, 0 },
    [RULE_CHARSMAP] = { "charsmap", NORM, 0, 0, 0 },
    [RULE_BERT_CHINESE] = { "bert chinese", NORM, 0, 0, 0 },
    [RULE_BYTES] = { "bytes", NORM, 0, 0, 0 },
    [RULE_SPLIT] = { "split", PRE, PATTERN, SPLIT_CONTIGUOUS, 1 },
    [RULE_PREFIX_SPACE] = { "prefix space", PRE, 0, 0, 0 },
    [RULE_METASPACE] = { "metaspace", PRE, NEEDS_A, PREPEND_FIRST, 0 },
    [RULE_BYTE_LEVEL] = { "byte level", DEC, FIRST, 0, 0 },
    [RULE_BYTE_FALLBACK] = { "byte fallback", DEC, 0, 0, 0 },
    [RULE_FUSE] = { "fuse", DEC, 0, 0, 0 },
    [RULE_UNSTRIP] = { "strip", DEC, NEEDS_A, 1000, 1000 },
    [RULE_UNMETASPACE] = { "metaspace", DEC, NEEDS_A, 1, 0 },
    [RULE_UNWORDPIECE] = { "wordpiece", DEC, 0, 1, 0 },
    [RULE_JOIN] = { "join with spaces", DEC, 0, 0, 0 },
    [RULE_UNSENTENCEPIECE] = { "sentencepiece", DEC, ALONE, 15, 0 },
};

const char *rule_name(uint32_t op) { return op < RULE_COUNT && known[op].name ? known[op].name : "unknown"; }

void rule_write(buf *out, const struct rule *r) {
    buf_u32(out, r->op);
    buf_u32(out, r->flags);
    buf_u32(out, (uint32_t)r->x);
    buf_u32(out, (uint32_t)r->y);
    buf_u32(out, (uint32_t)r->a.n);
    buf_u32(out, (uint32_t)r->b.n);
    buf_add(out, r->a.p, r->a.n);
    buf_add(out, r->b.p, r->b.n);
}

static int check(const struct rules *rs, const struct rule *r, int list, err *e) {
    const char *bad = NULL;
    uint8_t needs = r->op < RULE_COUNT ? known[r->op].needs : 0;
    if (r->op >= RULE_COUNT || !(known[r->op].lists >> list & 1))
        return fail_code(e, ERR_INPUT, "tokenizer: a rule of unknown kind %u", r->op);
    if (r->flags & ~(uint32_t)RULE_LITERAL) bad = "unknown flags";
    else if (r->x < 0 || r->x > known[r->op].max_x || r->y < 0 || r->y > known[r->op].max_y) bad = "a number out of range";
    else if (!utf8_valid(r->a.p, r->a.n) || !utf8_valid(r->b.p, r->b.n)) bad = "text that is not UTF-8";
    else if (((needs & NEEDS_A) || ((needs & PATTERN) && (r->flags & RULE_LITERAL))) && !r->a.n) bad = "an empty text";
    else if ((needs & (ALONE | FIRST)) && r != rs->p) bad = "a place behind another rule";
    else if (r != rs->p && (known[rs->p[0].op].needs & ALONE)) bad = "a place where no other rule may stand";
    return bad ? fail_code(e, ERR_INPUT, "tokenizer: the rule \"%s\" has %s", known[r->op].name, bad) : 0;
}

int rules_read(struct rules *rs, struct slice bytes, int list, err *e) {
    cursor c = { (const uint8_t *)bytes.p, bytes.n, 0, false };
    memset(rs, 0, sizeof *rs);
    while (c.at < c.n) {
        struct rule *r = rs->p + rs->n;
        if (rs->n == MAX_RULES) return fail_code(e, ERR_INPUT, "tokenizer: more than %d rules in one list", MAX_RULES);
        r->op = cursor_u32(&c);
        r->flags = cursor_u32(&c);
        r->x = (int32_t)cursor_u32(&c);
        r->y = (int32_t)cursor_u32(&c);
        r->a.n = cursor_u32(&c);
        r->b.n = cursor_u32(&c);
        r->a.p = cursor_take(&c, r->a.n);
        r->b.p = cursor_take(&c, r->b.n);
        if (c.failed) return fail_code(e, ERR_INPUT, "tokenizer: the list of rules is cut off");
        if (check(rs, r, list, e)) return -1;
        if (known[r->op].needs & PATTERN) {
            int rc = r->flags & RULE_LITERAL ? regex_literal(&r->re, r->a.p, r->a.n, e) : regex_compile(&r->re, r->a.p, r->a.n, e);
            if (rc) return -1;
        }
        rs->n++;
    }
    return 0;
}

void rules_free(struct rules *rs) {
    for (size_t i = 0; i < rs->n; i++) regex_free(rs->p[i].re);
    rs->n = 0;
}
