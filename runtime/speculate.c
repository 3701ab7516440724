/* speculate: proposals and what became of them (speculate.h). It owns the rows of logits that were computed ahead and decides
 * how many tokens are worth proposing; it must not know how a token is picked from logits, nor how they are computed. */
#include "runtime/speculate.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/sample.h"
#include "tokenizer/tokenizer.h"

struct speculation {
    engine *g, *draft_engine;
    session *s, *draft;
    bool lookup;
    ids tokens;                      /* of the session: those taken */
    float *rows;                     /* [1 + SPECULATE_MOST][logits_ld] after the last token taken by a step, and its proposals */
    int32_t ahead[SPECULATE_MOST];   /* proposals behind it */
    int n_ahead, at;                 /* how many, and how many of them were taken */
    speculate_pace pace;
    speculation_figures figures;
};

int speculate_lookup(const int32_t *tok, int n, int32_t *out, int most) {
    enum { SHORTEST = 2, LONGEST = 4 };
    int best = SHORTEST - 1, at = 0;
    for (int end = n - 2; end >= SHORTEST - 1 && best < LONGEST; end--) { /* a run that ends here, before the last one */
        int same = 0;
        while (same < LONGEST && same <= end && tok[end - same] == tok[n - 1 - same]) same++;
        if (same > best) best = same, at = end + 1;
    }
    if (best < SHORTEST) return 0;
    for (int i = 0; i < most; i++) out[i] = at + i < n ? tok[at + i] : out[i - (n - at)]; /* past the end the text goes round, as LZ77's copies do */
    return max_int(most, 0);
}

enum { SHORT_PAUSE = 32, LONGEST_PAUSE = 1024, ENOUGH_TRIED = 8 };

speculate_pace speculate_pace_begin(void) { return (speculate_pace){ .length = SPECULATE_MOST / 2, .next_pause = SHORT_PAUSE }; }

int speculate_pace_next(speculate_pace *p, int room) {
    if (room < 1) return 0;
    return p->pause > 0 ? p->pause--, 0 : min_int(p->length, room);
}

void speculate_pace_learn(speculate_pace *p, int proposed, int accepted, double pays) {
    if (!proposed) return;
    p->gain += (accepted - p->gain) / (++p->tried < ENOUGH_TRIED ? p->tried : ENOUGH_TRIED);
    p->length = accepted == proposed ? min_int(p->length + 4, SPECULATE_MOST) : max_int(accepted + 2, 4);
    if (accepted > 2) p->next_pause = SHORT_PAUSE;
    if (p->tried < ENOUGH_TRIED || p->gain >= pays) return;
    p->pause = p->next_pause;
    p->next_pause = min_int(2 * p->next_pause, LONGEST_PAUSE);
    p->tried = 0;
    p->gain = 0;
}

int speculate_check(const engine_info *model, const engine_info *draft, err *e) {
    if (!draft->has_decoder) return fail_code(e, ERR_INPUT, "%s cannot propose: it is an encoder, it does not generate", draft->name);
    if (draft->has_encoder) return fail_code(e, ERR_INPUT, "%s cannot propose: it is an encoder-decoder model", draft->name);
    err why = { 0 };
    int rc = model->n_vocab == draft->n_vocab ? 0 : fail_code(&why, ERR_INPUT, "logits of %d and %d tokens", model->n_vocab, draft->n_vocab);
    if (!rc) rc = tokenizer_same_ids(model->tokenizer, model->tokenizer_bytes, draft->tokenizer, draft->tokenizer_bytes, &why);
    if (rc && why.code == ERR_MEMORY) return fail_code(e, ERR_MEMORY, "%s", why.msg);
    return rc ? fail_code(e, ERR_INPUT, "%s cannot propose for %s: their tokenizers differ: %s; a draft must be a smaller model of the same family",
                          draft->name, model->name, why.msg) : 0;
}

int speculation_new(speculation **out, engine *g, session *s, const speculate_opts *o, err *e) {
    const engine_info *i = engine_about(g);
    if (o->draft && speculate_check(i, engine_about(o->draft), e)) return -1;
    speculation *p = calloc(1, sizeof *p);
    *out = p;
    if (!p) return fail_memory(e, sizeof *p, "speculation");
    *p = (speculation){ .g = g, .draft_engine = o->draft, .s = s, .lookup = o->lookup, .pace = speculate_pace_begin() };
    for (int j = 0; j < session_len(s); j++) ids_add(&p->tokens, session_tokens(s)[j]);
    size_t bytes = (1 + SPECULATE_MOST) * (size_t)i->logits_ld * sizeof(float);
    int rc = p->tokens.failed ? fail_memory(e, p->tokens.cap * sizeof(int32_t), "tokens") : 0;
    if (!rc && (o->lookup || o->draft) && !(p->rows = alloc_aligned(bytes))) rc = fail_memory(e, bytes, "rows of logits");
    if (!rc && o->draft) rc = session_new(&p->draft, o->draft, e);
    if (!rc) return 0;
    speculation_free(p);
    *out = NULL;
    return -1;
}

void speculation_free(speculation *p) {
    if (!p) return;
    session_free(p->draft);
    free_aligned(p->rows);
    ids_free(&p->tokens);
    free(p);
}

speculation_figures speculation_about(const speculation *p) { return p->figures; }

/* The draft's own continuation, as long as it has room. */
static int propose_draft(speculation *p, int32_t *out, int most, err *e) {
    const engine_info *i = engine_about(p->g);
    int n = (int)p->tokens.n, found = 0;
    if (n + most > engine_about(p->g)->ctx) return 0;
    err full = { 0 }; /* a draft whose context is smaller only stops proposing */
    if (session_sync(p->draft, p->tokens.p, n, &full)) return full.code == ERR_CONTEXT ? 0 : fail_code(e, full.code, "the draft: %s", full.msg);
    for (p->figures.draft_steps++; found < most;) {
        int32_t id = sample_argmax(session_logits(p->draft), i->n_vocab);
        if (id < 0) break;
        out[found++] = id;
        if (found == most || engine_step(p->draft_engine, &(step){ p->draft, &id, 1, NULL }, 1, &full)) break;
        p->figures.draft_steps++;
    }
    return found;
}

static int propose(speculation *p, int32_t *out, err *e) {
    int n = (int)p->tokens.n, most = p->rows ? speculate_pace_next(&p->pace, engine_about(p->g)->ctx - n) : 0, found = 0;
    if (!most) return 0;
    if (p->lookup) found = speculate_lookup(p->tokens.p, n, out, most);
    return found == 0 && p->draft ? propose_draft(p, out, most, e) : found;
}

void speculation_end(speculation *p) {
    session_truncate(p->s, (int)p->tokens.n);
    p->n_ahead = p->at = 0;
}

const float *speculation_next(speculation *p, int32_t id, err *e) {
    ids_add(&p->tokens, id);
    if (p->tokens.failed) return fail_memory(e, p->tokens.cap * sizeof id, "tokens"), NULL;
    if (p->at < p->n_ahead && p->ahead[p->at] == id) {
        p->figures.accepted++;
        return p->rows + (size_t)++p->at * (size_t)engine_about(p->g)->logits_ld;
    }
    speculate_pace_learn(&p->pace, p->n_ahead, p->at, p->draft ? SPECULATE_DRAFT_PAYS : SPECULATE_LOOKUP_PAYS);
    session_truncate(p->s, (int)p->tokens.n - 1);
    int32_t tok[1 + SPECULATE_MOST] = { id };
    p->at = 0;
    p->n_ahead = propose(p, tok + 1, e);
    if (p->n_ahead < 0) return p->n_ahead = 0, NULL;
    memcpy(p->ahead, tok + 1, (size_t)p->n_ahead * sizeof *tok);
    p->figures.steps++;
    p->figures.proposed += p->n_ahead;
    if (engine_step(p->g, &(step){ p->s, tok, 1 + p->n_ahead, p->n_ahead ? p->rows : NULL }, 1, e)) return NULL;
    return p->n_ahead ? p->rows : session_logits(p->s);
}
