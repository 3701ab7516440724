/* beam: owns the live hypotheses, each in a session, the candidates of a step and the hypotheses that ended. Its one idea: a
 * hypothesis that lives on in several continuations is forked, which shares its pages, and all live ones go through one
 * engine_step, so that the weights are read once a step however many there are. Scores are sums in double; of equal ones the
 * earlier hypothesis and the lower id comes first. It must not know text, nor how a session computes. */
#include "runtime/beam.h"

#include <math.h>
#include <stdlib.h>

typedef struct live {
    session *s;
    double score; /* sum of log-probabilities */
    ids tok;      /* the prompt and the answer so far; the last one is not in s yet while a step is due */
} live;

typedef struct candidate { /* a live hypothesis and one more token */
    double score;
    int parent;
    int32_t id;
} candidate;

struct beam_run {
    engine *g;
    const beam_opts *o;
    int n_prompt, n_vocab;
    int len;              /* tokens of the live hypotheses' answers */
    session **sessions;   /* [n_sessions] of the live ones, and those waiting for one; the first is the caller's */
    int n_sessions;
    live *now, *next;     /* [beams] best first */
    int n_live;
    candidate *c;         /* [most] best first */
    int n_c, most;
    hypothesis *done;     /* [beams + 1] best first */
    int n_done, steps;
    step *batch;          /* [beams] */
    float *row;           /* [n_vocab] log-probabilities */
    int *count;           /* [n_vocab] zeros, for sample_look_back */
};
typedef struct beam_run search;

/* ---- memory ---- */

static int check(const beam_opts *o, const session *s, err *e) {
    if (o->beams < 1 || o->beams > BEAM_MOST) return fail_code(e, ERR_INPUT, "beams: expected 1 to %d, found %d", BEAM_MOST, o->beams);
    if (!isfinite(o->length_penalty)) return fail_code(e, ERR_INPUT, "length-penalty: expected a number, found %g", (double)o->length_penalty);
    if (o->max_new < 1) return fail_code(e, ERR_INPUT, "a beam search of %d tokens: expected at least 1", o->max_new);
    if (!session_logits(s)) return fail_code(e, ERR_INPUT, "a beam search needs a prompt of at least one token");
    return sample_check(&o->rules, e);
}

static int allocate(search *x, session *s, err *e) {
    size_t n = (size_t)x->o->beams, v = (size_t)x->n_vocab;
    x->most = x->o->beams * (1 + max_int(x->o->rules.n_eos, 1)); /* each may end in n_eos ways: as many as beams are left to live on */
    x->sessions = calloc(n, sizeof(session *));
    x->now = calloc(n, sizeof *x->now);
    x->next = calloc(n, sizeof *x->next);
    x->c = calloc((size_t)x->most, sizeof *x->c);
    x->done = calloc(n + 1, sizeof *x->done);
    x->batch = calloc(n, sizeof *x->batch);
    x->row = calloc(v, sizeof *x->row);
    x->count = calloc(v, sizeof *x->count);
    if (!x->sessions || !x->now || !x->next || !x->c || !x->done || !x->batch || !x->row || !x->count)
        return fail_memory(e, (n + v) * 64, "a beam search");
    x->sessions[x->n_sessions++] = s;
    return 0;
}

static void release(search *x) {
    for (int i = 1; i < x->n_sessions; i++) session_free(x->sessions[i]); /* the first is the caller's */
    for (int i = 0; i < x->o->beams; i++) {
        if (x->now) ids_free(&x->now[i].tok);
        if (x->next) ids_free(&x->next[i].tok);
    }
    free(x->sessions);
    free(x->now);
    free(x->next);
    free(x->c);
    free(x->batch);
    free(x->row);
    free(x->count);
}

static int copy_tokens(ids *to, const int32_t *tok, size_t n, err *e) {
    to->n = 0;
    for (size_t i = 0; i < n; i++) ids_add(to, tok[i]);
    return to->failed ? fail_memory(e, n * sizeof *tok, "a hypothesis") : 0;
}

/* ---- candidates ---- */

/* Keeps the best: sorted by insertion, for nearly all tokens are turned away by the first comparison. */
static void offer(search *x, candidate c) {
    if (x->n_c == x->most && !(c.score > x->c[x->most - 1].score)) return;
    int i = x->n_c < x->most ? x->n_c++ : x->most - 1;
    for (; i > 0 && c.score > x->c[i - 1].score; i--) x->c[i] = x->c[i - 1];
    x->c[i] = c;
}

static int collect(search *x, err *e) {
    x->n_c = 0;
    for (int b = 0; b < x->n_live; b++) {
        const live *l = &x->now[b];
        const float *logits = session_logits(l->s);
        double sum = sample_logsumexp(logits, x->n_vocab);
        if (!isfinite(sum))
            return fail_code(e, ERR_NOT_FINITE, "the model's logits are not finite after %zu tokens: "
                                                "the weights or the file are damaged (inspect --verify)", l->tok.n);
        for (int i = 0; i < x->n_vocab; i++) x->row[i] = (float)(logits[i] - sum);
        sample_look_back(&x->o->rules, l->tok.p, (int)l->tok.n, x->len, x->row, x->n_vocab, x->count);
        for (int i = 0; i < x->n_vocab; i++)
            if (x->row[i] > -INFINITY) offer(x, (candidate){ l->score + (double)x->row[i], b, i });
    }
    return x->n_c || x->n_done ? 0 : fail_code(e, ERR_INPUT, "after %zu tokens no token is left that the options allow", x->now[0].tok.n);
}

/* ---- hypotheses that end ---- */

static double score_of(const search *x, double sum, int len) { return sum / pow(len, (double)x->o->length_penalty); }

/* tok[0 .. n): an answer, an end of text as its last token if eos >= 0. */
static int finish(search *x, const int32_t *tok, size_t n, int32_t eos, double sum, err *e) {
    hypothesis h = { .eos = eos, .score = score_of(x, sum, (int)n) };
    int i = x->n_done;
    if (i == x->o->beams && !(h.score > x->done[i - 1].score)) return 0;
    if (copy_tokens(&h.tokens, tok, n - (eos >= 0), e)) {
        ids_free(&h.tokens);
        return -1;
    }
    for (; i > 0 && h.score > x->done[i - 1].score; i--) x->done[i] = x->done[i - 1];
    x->done[i] = h;
    if (x->n_done < x->o->beams) x->n_done++;
    else ids_free(&x->done[x->n_done].tokens);
    return 0;
}

static bool is_eos(const search *x, int32_t id) {
    for (int i = 0; i < x->o->rules.n_eos; i++)
        if (x->o->rules.eos[i] == id) return true;
    return false;
}

/* Of the candidates, best first: those among the first N that end are kept as hypotheses, and the first N that do not end live on,
 * for the time being in their parents' sessions. (Those that end further down had been no match for N others.) */
static int sort_out(search *x, err *e) {
    int n = 0, beams = x->o->beams;
    for (int i = 0; i < x->n_c && n < beams; i++) {
        const candidate *c = &x->c[i];
        const live *parent = &x->now[c->parent];
        ids *tok = &x->next[n].tok;
        bool eos = is_eos(x, c->id);
        if (copy_tokens(tok, parent->tok.p, parent->tok.n, e)) return -1;
        ids_add(tok, c->id);
        if (tok->failed) return fail_memory(e, tok->n * sizeof *tok->p, "a hypothesis");
        const int32_t *answer = tok->p + x->n_prompt;
        bool ends = eos || x->len + 1 == x->o->max_new || (x->o->ends && x->o->ends(x->o->arg, answer, x->len + 1));
        if (ends && i < beams && finish(x, answer, (size_t)x->len + 1, eos ? c->id : -1, c->score, e)) return -1;
        if (ends) continue;
        x->next[n].score = c->score;
        x->next[n++].s = parent->s;
    }
    live *old = x->now;
    x->now = x->next;
    x->next = old;
    x->n_live = n;
    x->len++;
    return 0;
}

static bool is_over(const search *x) {
    const beam_opts *o = x->o;
    if (x->n_live == 0) return true;
    if (x->n_done < o->beams) return false;
    if (o->stopping == BEAM_AT_ONCE) return true;
    int len = o->stopping == BEAM_NEVER && o->length_penalty > 0 ? o->max_new : x->len;
    return !(score_of(x, x->now[0].score, len) > x->done[x->n_done - 1].score);
}

/* ---- the next step ---- */

static bool in_use(const search *x, const session *s, int n) {
    for (int i = 0; i < n; i++)
        if (x->now[i].s == s) return true;
    return false;
}

/* A session that no live hypothesis comes from: one that waits, else a new one. */
static session *waiting(search *x, err *e) {
    for (int i = 0; i < x->n_sessions; i++)
        if (!in_use(x, x->sessions[i], x->n_live)) return x->sessions[i];
    session *s;
    if (session_new(&s, x->g, e)) return NULL;
    return x->sessions[x->n_sessions++] = s;
}

/* The first continuation of a hypothesis keeps its session, the others get copies. */
static int place(search *x, err *e) {
    for (int i = 1; i < x->n_live; i++) {
        if (!in_use(x, x->now[i].s, i)) continue;
        session *s = waiting(x, e);
        if (!s || session_fork(s, x->now[i].s, e)) return -1;
        x->now[i].s = s;
    }
    return 0;
}

/* Told to stop: what lives is as good as ended. */
static int finish_live(search *x, err *e) {
    for (int i = 0; i < x->n_live; i++)
        if (finish(x, x->now[i].tok.p + x->n_prompt, (size_t)x->len, -1, x->now[i].score, e)) return -1;
    return 0;
}

int beam_begin(beam_run **out, engine *g, session *s, const beam_opts *o, err *e) {
    *out = NULL;
    if (check(o, s, e)) return -1;
    search *x = calloc(1, sizeof *x);
    if (!x) return fail_memory(e, sizeof *x, "a beam search");
    *x = (search){ .g = g, .o = o, .n_prompt = session_len(s), .n_vocab = engine_about(g)->n_vocab, .n_live = 1 };
    int rc = allocate(x, s, e);
    if (!rc) {
        x->now[0].s = s;
        rc = copy_tokens(&x->now[0].tok, session_tokens(s), (size_t)x->n_prompt, e);
    }
    *out = x;
    if (!rc) return 0;
    beam_end(x, false, NULL, e);
    *out = NULL;
    return -1;
}

int beam_next(beam_run *x, const step **steps, int *n, err *e) {
    if (collect(x, e) || sort_out(x, e)) return -1;
    if (is_over(x)) return 0;
    if (place(x, e)) return -1;
    for (int i = 0; i < x->n_live; i++) x->batch[i] = (step){ x->now[i].s, &x->now[i].tok.p[x->now[i].tok.n - 1], 1, NULL };
    *steps = x->batch;
    *n = x->n_live;
    x->steps++;
    return 1;
}

int beam_end(beam_run *x, bool cut, beam_result *out, err *e) {
    int rc = cut && x->len ? finish_live(x, e) : 0;
    beam_result r = { x->done, x->n_done, x->steps };
    release(x);
    free(x);
    if (out) *out = r;
    else beam_result_free(&r);
    return rc;
}

int beam_search(engine *g, session *s, const beam_opts *o, beam_result *r, err *e) {
    const step *steps;
    beam_run *x;
    int n, more;
    *r = (beam_result){ 0 };
    if (beam_begin(&x, g, s, o, e)) return -1;
    while ((more = beam_next(x, &steps, &n, e)) == 1)
        if ((more = engine_step(g, steps, n, e))) {
            x->steps--; /* it was none */
            break;
        }
    err second = { 0 };
    int rc = beam_end(x, more && e->code == ERR_STOPPED, r, &second);
    return rc ? fail_code(e, second.code, "%s", second.msg) : more;
}

void beam_result_free(beam_result *r) {
    for (int i = 0; i < r->n; i++) ids_free(&r->best[i].tokens);
    free(r->best);
    *r = (beam_result){ 0 };
}
