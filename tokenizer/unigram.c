/* unigram: the segmentation of the best total score (Kudo 2018), by Viterbi's algorithm over the entries that begin at each
 * character. The entries lie in a trie in the blob. HuggingFace adds scores as doubles, SentencePiece keeps its sums as floats:
 * ties and near ties follow the file's own library. It must not know where words come from. */
#include "tokenizer/encode.h"

#include <stdlib.h>

static const double UNKNOWN_PENALTY = 10;

static void reach(const tokenizer *t, struct reached *to, double score, int32_t id, size_t from) {
    if (t->h.flags & TOK_SENTENCEPIECE) score = (double)(float)score;
    if (to->from < 0 || score > to->score) *to = (struct reached){ score, id, (int32_t)from };
}

static double score_of(const tokenizer *t, int32_t id, size_t n) {
    return t->piece[id] & PIECE_USER ? (double)((float)n * (float)t->h.max_score) - 0.1 : t->score[id];
}

static double unknown_score(const tokenizer *t, double before) {
    if (!(t->h.flags & TOK_SENTENCEPIECE)) return before + (t->h.min_score - UNKNOWN_PENALTY);
    return (double)((float)before + (float)(t->h.min_score - UNKNOWN_PENALTY));
}

/* Every entry that begins at `at`, and unknown if none of them is just one character. */
static void leave(const tokenizer *t, struct slice w, struct reached *step, size_t at) {
    size_t one = (size_t)utf8_len(w.p[at]), most = w.n - at < t->longest ? w.n - at : t->longest;
    double before = step[at].score;
    bool single = false;
    uint32_t node = 0;
    for (size_t n = 1; n <= most && (node = trie_next(t, node, (uint8_t)w.p[at + n - 1])); n++) {
        int32_t id = t->trie[node].id;
        if (id < 0 || (at + n < w.n && ((uint8_t)w.p[at + n] & 0xc0) == 0x80))
            continue; /* a hostile entry may end inside a character */
        reach(t, step + at + n, before + score_of(t, id, n), id, at);
        single |= n == one;
    }
    if (!single) reach(t, step + at + one, unknown_score(t, before), -1, at);
}

static void add_unknown(struct encoder *x, struct slice s) {
    const tokenizer *t = x->t;
    bool fall = t->h.flags & TOK_BYTE_FALLBACK;
    for (size_t i = 0; i < s.n && fall; i++) fall = t->byte_id[(uint8_t)s.p[i]] >= 0;
    for (size_t i = 0; i < s.n && fall; i++) ids_add(x->out, t->byte_id[(uint8_t)s.p[i]]);
    if (!fall && t->h.unk >= 0) ids_add(x->out, t->h.unk);
}

static int begin_steps(struct encoder *x, size_t n) {
    if (n >= INT32_MAX) return fail_memory(x->e, n * sizeof *x->step, "a word of the text");
    if (n + 1 > x->cap_step) {
        size_t cap = n + 1 > 256 ? n + 1 : 256;
        free(x->step);
        x->cap_step = 0;
        x->step = malloc(cap * sizeof *x->step);
        if (!x->step) return fail_memory(x->e, cap * sizeof *x->step, "a word of the text");
        x->cap_step = cap;
    }
    for (size_t i = 0; i <= n; i++) x->step[i].from = -1;
    x->step[0] = (struct reached){ 0, -1, 0 };
    return 0;
}

/* The chain of best steps, turned round: step[i].from becomes where the step that begins at i ends. */
static void turn_round(struct reached *step, size_t n) {
    int32_t next = -1;
    for (int32_t at = (int32_t)n, from; at >= 0; at = from) {
        from = at ? step[at].from : -1;
        step[at].from = next;
        next = at;
    }
}

/* Neighbours that are unknown are one; the text of the unknown entry itself, written out, counts as such too. */
int unigram_encode(struct encoder *x, struct slice w) {
    const tokenizer *t = x->t;
    if (begin_steps(x, w.n)) return -1;
    struct reached *step = x->step;
    for (size_t at = 0; at < w.n; at += (size_t)utf8_len(w.p[at])) leave(t, w, step, at);
    turn_round(step, w.n);
    for (size_t at = 0; at < w.n;) {
        size_t until = (size_t)step[at].from, n = 1;
        int32_t id = step[until].id;
        if (id < 0 || id == t->h.unk)
            for (int32_t more; until < w.n && ((more = step[step[until].from].id) < 0 || more == t->h.unk); n++)
                until = (size_t)step[until].from;
        if (id >= 0 && n == 1) ids_add(x->out, id);
        else add_unknown(x, (struct slice){ w.p + at, until - at });
        at = until;
    }
    return 0;
}
