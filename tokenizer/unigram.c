/* unigram: the segmentation of the best total score (Kudo 2018), by Viterbi's algorithm over the entries that begin at each
 * character. The entries lie in sorted order in the blob; a walk narrows them byte by byte. HuggingFace adds scores as doubles,
 * SentencePiece keeps its sums as floats: ties and near ties follow the file's own library. It must not know where words come from.
 */
#include "tokenizer/parts.h"

#include <stdlib.h>

struct step {
    double score;
    int32_t id, from; /* from -1: not reached */
};

static const double UNKNOWN_PENALTY = 10;

/* The first of [low, high) whose byte at `depth` is at least `byte`. A hostile order may be no order: lengths are checked. */
static uint32_t bound(const tokenizer *t, uint32_t low, uint32_t high, size_t depth, unsigned byte) {
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        struct slice s = text_of(t, (int32_t)t->order[mid]);
        if (s.n <= depth || (uint8_t)s.p[depth] < byte) low = mid + 1;
        else high = mid;
    }
    return low;
}

static void reach(const tokenizer *t, struct step *to, double score, int32_t id, size_t from) {
    if (t->h.flags & TOK_SENTENCEPIECE) score = (double)(float)score;
    if (to->from < 0 || score > to->score) *to = (struct step){ score, id, (int32_t)from };
}

static double score_of(const tokenizer *t, int32_t id, size_t n) {
    return t->piece[id] & PIECE_USER ? (double)n * t->h.max_score - 0.1 : t->score[id];
}

/* Every entry that begins at `at`, and unknown if none of them is just one character. */
static void leave(const tokenizer *t, struct slice w, struct step *step, size_t at) {
    unsigned first = (uint8_t)w.p[at];
    uint32_t low = t->order_from[first], high = t->order_from[first + 1];
    size_t one = (size_t)utf8_len(w.p[at]);
    bool single = false;
    for (size_t depth = 1; low < high; depth++) {
        for (; low < high && text_of(t, (int32_t)t->order[low]).n == depth; low++) {
            int32_t id = (int32_t)t->order[low];
            if (at + depth < w.n && ((uint8_t)w.p[at + depth] & 0xc0) == 0x80)
                continue; /* a hostile entry that ends inside a character */
            reach(t, step + at + depth, step[at].score + score_of(t, id, depth), id, at);
            single |= depth == one;
        }
        if (at + depth == w.n) break;
        unsigned byte = (uint8_t)w.p[at + depth];
        low = bound(t, low, high, depth, byte);
        high = bound(t, low, high, depth, byte + 1);
    }
    if (!single) reach(t, step + at + one, step[at].score + t->h.min_score - UNKNOWN_PENALTY, -1, at);
}

static void add_unknown(struct encoder *x, struct slice s) {
    const tokenizer *t = x->t;
    bool fall = t->h.flags & TOK_BYTE_FALLBACK;
    for (size_t i = 0; i < s.n && fall; i++) fall = t->byte_id[(uint8_t)s.p[i]] >= 0;
    for (size_t i = 0; i < s.n && fall; i++) ids_add(x->out, t->byte_id[(uint8_t)s.p[i]]);
    if (!fall && t->h.unk >= 0) ids_add(x->out, t->h.unk);
}

int unigram_encode(struct encoder *x, struct slice w) {
    const tokenizer *t = x->t;
    if (w.n >= INT32_MAX) return fail_memory(x->e, w.n * sizeof(struct step), "a word of the text");
    struct step *step = malloc((w.n + 1) * sizeof *step);
    if (!step) return fail_memory(x->e, w.n * sizeof *step, "a word of the text");
    for (size_t i = 0; i <= w.n; i++) step[i].from = -1;
    step[0] = (struct step){ 0, -1, 0 };
    for (size_t at = 0; at < w.n; at += (size_t)utf8_len(w.p[at])) leave(t, w, step, at);
    int32_t next = -1; /* the chain of best steps, turned round: step[i].from becomes where the step that begins at i ends */
    for (int32_t at = (int32_t)w.n, from; at >= 0; at = from) {
        from = at ? step[at].from : -1;
        step[at].from = next;
        next = at;
    }
    for (size_t at = 0; at < w.n;) {
        size_t end = (size_t)step[at].from, until = end;
        if (step[end].id >= 0) ids_add(x->out, step[end].id);
        else {
            while (until < w.n && step[step[until].from].id < 0) until = (size_t)step[until].from; /* unknown ones are one */
            add_unknown(x, (struct slice){ w.p + at, until - at });
        }
        at = until;
    }
    free(step);
    return 0;
}
