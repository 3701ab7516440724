/* schedule_seq: one sequence, from its prompt to its end: which token comes next, what text it makes, whether that was the last. The same
 * order of things as ./run has, so that the same seed gives the same answer. It must not know who else is in the batch. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tools/serve/schedule_parts.h"

/* ---- making one ---- */

static void find_ends(seq *q) {
    const job *j = q->js->j;
    if (j->ignore_eos) return;
    q->ends = ends_of(j->m->info, j->m->tok);
    ends_add(&q->ends, j->turn_end);
}

/* The rules of choosing; what counts from the prompt on sees it. */
static int make_sampler(seq *q, err *e) {
    const job *j = q->js->j;
    const engine_info *i = j->m->info;
    q->rules = j->sample;
    q->rules.seed += (uint64_t)q->choice;
    if (q->rules.min_length < 0) q->rules.min_length = choice_min_length(i, q->n_prompt);
    find_ends(q);
    q->rules.eos = q->ends.id;
    q->rules.n_eos = q->ends.n;
    if (sampler_new(&q->sampler, &q->rules, i->n_vocab, e)) return -1;
    for (int k = 0; k < q->n_prompt; k++) sampler_accept(q->sampler, q->tokens.p[k]);
    sampler_begin(q->sampler);
    return 0;
}

static int make_constraint(seq *q, err *e) {
    const job *j = q->js->j;
    lane *l = q->l;
    size_t bytes = (size_t)j->m->info->n_vocab * sizeof *l->row;
    if (!j->grammar) return 0;
    if (!l->row && !(l->row = alloc_aligned(bytes))) return fail_memory(e, bytes, "a row of logits");
    constraint_opts o = j->constraint;
    o.grammar = j->grammar;
    return constraint_new(&q->constraint, &o, q->ends.id, q->ends.n, e);
}

static int make_rows(seq *q, err *e) {
    const job *j = q->js->j;
    bool echo = j->echo && j->logprobs;
    size_t n = echo ? ECHO_ROWS + 1 : 0, bytes; /* and the last one of the step before */
    if (j->lookup && q->js->width == 1) n = n > 1 + SPECULATE_MOST ? n : 1 + SPECULATE_MOST;
    bytes = n * (size_t)j->m->info->logits_ld * sizeof(float);
    q->pace = speculate_pace_begin();
    if (n && !(q->rows = alloc_aligned(bytes))) return fail_memory(e, bytes, "rows of logits");
    return 0;
}

/* The prompt of the decoder; of an encoder-decoder model the encoder reads the job's. */
static int make_prompt(seq *q, err *e) {
    const job *j = q->js->j;
    const engine_info *i = j->m->info;
    const ids *from = &j->prompts[q->prompt];
    if (i->has_encoder) ids_add(&q->tokens, (int32_t)i->decoder_start);
    else
        for (size_t k = 0; k < from->n; k++) ids_add(&q->tokens, from->p[k]);
    q->n_prompt = (int)q->tokens.n;
    return q->tokens.failed ? fail_memory(e, from->n * sizeof *from->p, "a sequence's tokens") : 0;
}

static int find_session(seq *q, err *e) {
    job_state *js = q->js;
    const job *j = js->j;
    lane *l = q->l;
    if (lane_session(l, q, q->tokens.p, q->n_prompt, !j->cache_prompt, e)) return -1;
    if (l->m->info->has_encoder) {
        if (q->forked) return 0; /* of another choice, with what the encoder made of the text */
        const ids *text = &j->prompts[q->prompt];
        q->reads = true;
        return session_encode_begin(q->s, text->p, (int)text->n, NULL, e);
    }
    return 0;
}

seq *seq_new(lane *l, job_state *js, int unit, err *e) {
    const job *j = js->j;
    int choices = js->width > 1 ? 1 : j->n;
    seq *q = calloc(1, sizeof *q);
    if (!q) return fail_memory(e, sizeof *q, "a sequence"), NULL;
    *q = (seq){ .js = js, .l = l, .prompt = unit / choices, .choice = unit % choices, .stop = { .stops = j->stops, .n = j->n_stops } };
    q->order = l->s->order++;
    q->draft.session = -1;
    q->draft.next_pause = 32;
    hash_begin(&q->logits);
    if (make_prompt(q, e) || make_sampler(q, e) || make_constraint(q, e) || make_rows(q, e) || find_session(q, e)) {
        lane_give_back(l, q->s, false, -1);
        q->s = NULL;
        seq_free(q);
        return NULL;
    }
    detok_begin(&q->d, j->m->tok, true);
    if (j->m->tok && !j->echo) { /* the prompt's last piece decides whether the first one keeps its space */
        for (int k = 0; k < q->n_prompt; k++) detok_token(&q->d, q->tokens.p[k], &q->text);
        q->text.n = 0;
    }
    return q;
}

void seq_free(seq *q) {
    if (!q) return;
    if (q->search) beam_end(q->search, false, NULL, &(err){ 0 });
    drafts_let_go(q);
    sampler_free(q->sampler);
    constraint_free(q->constraint);
    ids_free(&q->tokens);
    stop_free(&q->stop);
    buf_free(&q->text);
    buf_free(&q->out);
    free_aligned(q->rows);
    free_aligned(q->embedding);
    free(q);
}

/* ---- probabilities ---- */

enum { MOST_TOP = 100 };

/* The n likeliest, by insertion: nearly all are turned away by the first comparison. Of equals the lower id first. */
static int likeliest(const float *logits, int n_vocab, double sum, int n, job_token_prob *top) {
    int have = 0;
    for (int i = 0; i < n_vocab; i++) {
        if (have == n && !(logits[i] > top[n - 1].logprob)) continue;
        int at = have < n ? have++ : n - 1;
        for (; at > 0 && logits[i] > top[at - 1].logprob; at--) top[at] = top[at - 1];
        top[at] = (job_token_prob){ i, logits[i] };
    }
    for (int i = 0; i < have; i++) top[i].logprob = (float)((double)top[i].logprob - sum);
    return have;
}

/* What an event says of id, by the model's own logits: before penalties, temperature and filters. */
static void say_probs(const job *j, const float *logits, int32_t id, job_token_prob *top, job_event *v) {
    v->logprob = NAN;
    if (!j->logprobs || !logits) return;
    double sum = sample_logsumexp(logits, j->m->info->n_vocab);
    v->logprob = (float)((double)logits[id] - sum);
    v->n_top = j->n_top ? likeliest(logits, j->m->info->n_vocab, sum, min_int(j->n_top, min_int(MOST_TOP, j->m->info->n_vocab)), top) : 0;
    v->top = top;
}

/* ---- text ---- */

static void post_piece(seq *q, job_event *v, int32_t id) {
    v->kind = EVENT_PIECE;
    v->prompt = q->prompt;
    v->choice = q->choice;
    v->id = id;
    v->text = q->out.p;
    v->n = q->out.n;
    post(q->js, v);
    q->out.n = 0;
    if (q->out.failed || q->text.failed || q->stop.held.failed) q->js->lost = true;
}

int seq_echo(seq *q) {
    const job *j = q->js->j;
    int first = q->reported, end = min_int(session_len(q->s), q->n_prompt), row0 = session_len(q->s) - q->n_step;
    size_t ld = (size_t)j->m->info->logits_ld;
    job_token_prob top[MOST_TOP];
    for (int i = first; i < end; i++) {
        /* Row k of a step holds the logits after its token k: those of the next one. */
        const float *logits = !j->logprobs || i == 0 ? NULL : q->rows + (size_t)(i - 1 >= row0 ? i - 1 - row0 : ECHO_ROWS) * ld;
        job_event v = { .of_prompt = true };
        if (logits && !isfinite(sample_logsumexp(logits, j->m->info->n_vocab)))
            return job_fail(q->js, JOB_NOT_FINITE, "prompt",
                            "the model's logits are not finite after %d tokens: the weights or the file are damaged (inspect --verify)", i), -1;
        say_probs(j, logits, q->tokens.p[i], top, &v);
        if (q->d.t) detok_token(&q->d, q->tokens.p[i], &q->out);
        post_piece(q, &v, q->tokens.p[i]);
    }
    q->reported = end > q->reported ? end : q->reported;
    if (j->logprobs && q->n_step) memcpy(q->rows + ECHO_ROWS * ld, q->rows + (size_t)(q->n_step - 1) * ld, ld * sizeof(float));
    return 0;
}

/* Special tokens are no text, but those that the job wants to see. */
static void take_text(seq *q, int32_t id) {
    const job *j = q->js->j;
    q->d.skip_special = true;
    for (int i = 0; i < j->n_shown; i++)
        if (j->shown[i] == id) q->d.skip_special = false;
    detok_token(&q->d, id, &q->text);
}

bool seq_take(seq *q, int32_t id, const job_event *probs, double now) {
    job_state *js = q->js;
    schedule *s = q->l->s;
    job_event v = *probs;
    sampler_accept(q->sampler, id);
    ids_add(&q->tokens, id);
    if (q->tokens.failed) js->lost = true;
    if (q->d.t) take_text(q, id);
    bool stopped = stop_feed(&q->stop, q->text.p, q->text.n, &q->out);
    q->text.n = 0;
    post_piece(q, &v, id);
    q->n_new++;
    js->t.n_decoded++;
    js->u->served++;
    pthread_mutex_lock(&s->lock);
    s->figures.decoded_tokens++;
    if (q->n_new > 1) count_histogram(&s->figures.between_tokens, now - q->last_at);
    if (!js->first_at) count_histogram(&s->figures.first_token, now - js->j->arrived);
    pthread_mutex_unlock(&s->lock);
    if (!js->first_at) js->first_at = now;
    q->last_at = now;
    return stopped;
}

void seq_rest(seq *q, bool stopped) {
    if (!stopped && q->d.t) {
        detok_end(&q->d, &q->text);
        if (!stop_feed(&q->stop, q->text.p, q->text.n, &q->out)) stop_end(&q->stop, &q->out);
        q->text.n = 0;
    }
    if (q->out.n) post_piece(q, &(job_event){ .logprob = NAN }, -1);
}

/* ---- the end ---- */

void seq_choice_end(job_state *js, int prompt, int choice, job_end end, const char *stop) {
    post(js, &(job_event){ .kind = EVENT_CHOICE_END, .prompt = prompt, .choice = choice, .id = -1, .end = end, .stop_string = stop });
}

void seq_close(seq *q) {
    lane *l = q->l;
    job_state *js = q->js;
    l->slot[q->slot] = NULL;
    l->n_used -= js->width;
    js->u->n_active -= js->width;
    if (q->search) beam_end(q->search, false, NULL, &(err){ 0 }), q->search = NULL;
    l->n_sessions -= js->width - 1;
    lane_give_back(l, q->s, js->j->cache_prompt && js->width == 1, q->slot);
    seq_free(q);
    unit_ended(js);
}

static void finish(seq *q, job_end end, const char *stop) {
    seq_rest(q, end == END_STOP_STRING);
    uint64_t logits = q->js->j->traced ? hash_end(&q->logits) : 0;
    post(q->js, &(job_event){ .kind = EVENT_CHOICE_END, .prompt = q->prompt, .choice = q->choice, .id = -1, .end = end,
                              .stop_string = stop, .logits = logits });
    q->over = true;
}

void seq_cut(seq *q, job_end end) {
    if (q->search) {
        search_finish(q, end);
        return;
    }
    for (int c = 1; c < q->js->j->n && q->js->width > 1; c++) seq_choice_end(q->js, q->prompt, c, end, NULL);
    finish(q, end, NULL);
}

/* ---- picking ---- */

static int fail_grammar(seq *q, const err *e) {
    return job_fail(q->js, e->code == ERR_MEMORY ? JOB_MEMORY : JOB_FAILED, "decode",
                    "after %d tokens of the answer its grammar ended: %s", q->n_new, e->msg), -1;
}

/* The logits with what the grammar forbids taken out, in a row of their own: proposals may come back to the model's. */
static const float *allowed(seq *q, const float *logits) {
    err e = { 0 };
    int n = q->l->m->info->n_vocab;
    if (!constraint_on(q->constraint)) return logits;
    memcpy(q->l->row, logits, (size_t)n * sizeof *logits);
    return constraint_mask(q->constraint, q->l->row, n, &e) ? fail_grammar(q, &e), NULL : q->l->row;
}

/* The next token by these logits. */
static int32_t pick(seq *q, const float *logits) {
    const float *row = allowed(q, logits);
    if (!row) return -1;
    int32_t id = sampler_pick(q->sampler, row);
    if (id >= 0) return id;
    int n = (int)q->tokens.n;
    if (isfinite(sample_logsumexp(logits, q->l->m->info->n_vocab)))
        job_fail(q->js, JOB_INVALID, "decode", "after %d tokens no token is left that %s", n,
                 constraint_on(q->constraint) ? "the grammar and the options allow together" : "the options allow");
    else job_fail(q->js, JOB_NOT_FINITE, "decode",
                  "the model's logits are not finite after %d tokens: the weights or the file are damaged (inspect --verify)", n);
    return -1;
}

/* One token by these logits. 0: the answer goes on, 1: it ended, -1: the job failed, and q is gone. */
static int one_token(seq *q, const float *logits, double now) {
    const job *j = q->js->j;
    job_token_prob top[MOST_TOP];
    job_event v = { .logprob = NAN };
    if (j->traced) hash_add(&q->logits, logits, (size_t)j->m->info->n_vocab * sizeof *logits);
    int32_t id = pick(q, logits);
    if (id < 0) return -1;
    if (ends_has(&q->ends, id)) return finish(q, END_EOS, NULL), 1;
    bool whole = false;
    err e = { 0 };
    if (q->constraint && constraint_take(q->constraint, id, &whole, &e)) return fail_grammar(q, &e);
    v.constrained = constraint_on(q->constraint);
    say_probs(j, logits, id, top, &v);
    if (seq_take(q, id, &v, now)) return finish(q, END_STOP_STRING, j->stops[q->stop.found]), 1;
    if (whole) return finish(q, END_GRAMMAR, NULL), 1;
    if (q->n_new == j->max_tokens) return finish(q, END_LENGTH, NULL), 1; /* nothing will ask for its logits */
    if (q->tokens.n > (size_t)j->m->info->ctx) return finish(q, END_CONTEXT, NULL), 1;
    return 0;
}

/* ---- proposals of look-up ---- */

void seq_propose(seq *q, int most) {
    int n = (int)q->tokens.n, room = q->l->m->info->ctx - n, asked = q->js->j->draft_most;
    q->n_ahead = 0;
    q->by_draft = false;
    most = min_int(room, most);
    if (asked >= 0) most = min_int(most, asked);
    if (!q->rows || !q->js->j->lookup || (most = speculate_pace_next(&q->pace, most)) == 0) return;
    q->ahead[0] = q->tokens.p[n - 1];
    q->n_ahead = speculate_lookup(q->tokens.p, n, q->ahead + 1, most);
    q->js->t.n_drafted += q->n_ahead;
    q->js->t.n_drafts += q->n_ahead > 0;
}

/* Tokens as long as they are those that were proposed, whose logits are here already. */
static int take_ahead(seq *q, double now) {
    size_t ld = (size_t)q->l->m->info->logits_ld;
    int at = 0, rc;
    for (;; at++) {
        rc = one_token(q, q->rows + (size_t)at * ld, now);
        if (rc < 0) return -1;
        if (rc || at == q->n_ahead || q->tokens.p[q->tokens.n - 1] != q->ahead[1 + at]) break;
    }
    q->js->t.n_accepted += at;
    if (q->by_draft) drafts_learn(q, at);
    else speculate_pace_learn(&q->pace, q->n_ahead, at, SPECULATE_LOOKUP_PAYS);
    q->n_ahead = 0;
    session_truncate(q->s, (int)q->tokens.n - 1);
    return 0;
}

/* ---- after a step ---- */

static void begin_answer(seq *q, double now) {
    job_state *js = q->js;
    q->begun = true;
    q->last_at = now;
    js->ready[q->prompt] = true;
    if (!js->prompt_at) js->prompt_at = now;
}

static void report(seq *q) {
    int done = min_int(session_len(q->s), q->n_prompt);
    if (!q->js->j->progress || q->begun || q->reported == done) return;
    post(q->js, &(job_event){ .kind = EVENT_PROGRESS, .prompt = q->prompt, .choice = q->choice, .id = -1, .done = done,
                              .total = q->n_prompt, .timings = q->js->t });
    if (!q->js->j->echo) q->reported = done;
}

void seq_ready(seq *q) {
    if (q->choice == 0 && !q->l->m->info->has_encoder) q->js->t.n_cached += session_len(q->s);
    q->reported = q->js->j->echo ? 0 : session_len(q->s);
    if (session_len(q->s) == (int)q->tokens.n && seq_advance(q, now_seconds()) == 0 && q->over) seq_close(q); /* the cache had all of it */
}

int seq_advance(seq *q, double now) {
    const job *j = q->js->j;
    if (q->n_ahead) return take_ahead(q, now);
    if (q->search) return search_advance(q);
    report(q);
    if (j->echo && !q->begun && seq_echo(q)) return -1;
    const float *logits = session_logits(q->s);
    if (session_len(q->s) < (int)q->tokens.n || !logits) return 0;
    if (!q->begun) {
        begin_answer(q, now);
        if (j->max_tokens == 0) return finish(q, END_LENGTH, NULL), 0;
    }
    if (q->js->width > 1) return search_advance(q);
    return one_token(q, logits, now) < 0 ? -1 : 0;
}
