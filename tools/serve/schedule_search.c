/* schedule_search: beam searches, whose hypotheses are sequences of the batch like others. */
#include <math.h>

#include "tools/serve/schedule_parts.h"

/* Does the answer's text hold a stop string? */
static bool holds_stop(void *arg, const int32_t *answer, int n) {
    const seq *q = arg;
    return choice_holds_stop(&q->d, q->stop.stops, q->stop.n, answer, n);
}

static int begin(seq *q, err *e) {
    const job *j = q->js->j;
    int room = j->m->info->ctx - q->n_prompt + 1; /* the last token needs no position of its own */
    q->beam = j->beams;
    q->beam.max_new = j->max_tokens < 0 ? room : min_int(j->max_tokens, room);
    q->beam.rules = q->rules;
    if (q->stop.n && q->d.t) q->beam.ends = holds_stop, q->beam.arg = q;
    return beam_begin(&q->search, q->l->m->engine, q->s, &q->beam, e);
}

/* The text of one hypothesis, as one choice. */
static void give(seq *q, int choice, const hypothesis *h, job_end end) {
    const job *j = q->js->j;
    const detok after_prompt = q->d;
    double now = now_seconds();
    bool stopped = false;
    q->choice = choice;
    q->n_new = 0;
    q->last_at = now;
    for (size_t i = 0; i < h->tokens.n && !stopped; i++) stopped = seq_take(q, h->tokens.p[i], &(job_event){ .logprob = NAN }, now);
    if (end == END_NONE) end = h->eos >= 0 ? END_EOS : stopped ? END_STOP_STRING : q->beam.max_new == j->max_tokens ? END_LENGTH : END_CONTEXT;
    seq_rest(q, stopped);
    seq_choice_end(q->js, q->prompt, choice, end, end == END_STOP_STRING ? j->stops[q->stop.found] : NULL);
    q->d = after_prompt;
    q->stop.held.n = 0;
}

void search_finish(seq *q, job_end end) {
    beam_result r = { 0 };
    err e = { 0 };
    const hypothesis none = { .eos = -1 };
    beam_end(q->search, end != END_NONE, &r, &e);
    q->search = NULL;
    for (int c = 0; c < q->js->j->n; c++) give(q, c, c < r.n ? &r.best[c] : &none, end);
    beam_result_free(&r);
    q->over = true;
}

int search_advance(seq *q) {
    err e = { 0 };
    if (!q->search && begin(q, &e)) return job_fail_err(q->js, "decode", &e), -1;
    int more = beam_next(q->search, &q->beam_steps, &q->n_beam_steps, &e);
    if (more < 0) return job_fail_err(q->js, "decode", &e), -1;
    if (!more) search_finish(q, END_NONE);
    return 0;
}
