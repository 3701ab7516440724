/* beams: what a search looks for, from the command line and the checkpoint, and the search itself: --beams, --length-penalty,
 * --early-stopping, and for every way of generating --no-repeat-ngram and --min-length. generate.c writes what was found. */
#include "tools/run/run.h"

#include <string.h>


static const char *const stopping_names[] = { [BEAM_WHILE_LIKELY] = "false", [BEAM_AT_ONCE] = "true", [BEAM_NEVER] = "never" };

int run_early_stopping(const char *text) {
    for (int i = 0; i < 3; i++)
        if (strcmp(text, stopping_names[i]) == 0) return i;
    return -1;
}

bool run_draws(const run_opts *o) { return o->temperature_given || o->top_k_given || o->top_p_given || o->min_p_given || o->typical_given; }

int run_sessions(const run_opts *o) { return o->beams_given ? o->beams : run_draws(o) ? 1 : -1; }

void run_search_end(run_search *x, int32_t id) {
    ends_add(&x->ends, id);
    x->o.rules.n_eos = x->ends.n;
}

static void describe(const run_search *x, const engine_info *i) {
    const beam_opts *b = &x->o;
    if (b->beams > 1)
        fprintf(stderr, "beam search: %d beams, length penalty %g, early stopping %s, at most %d tokens\n", b->beams,
                (double)b->length_penalty, stopping_names[b->stopping], b->max_new);
    else if (i->num_beams > 1)
        fprintf(stderr, "beam search: the checkpoint's own %d beams are off: the command line says how to choose tokens\n", i->num_beams);
    if (b->rules.no_repeat_ngram) fprintf(stderr, "no run of %d tokens comes twice\n", b->rules.no_repeat_ngram);
    if (b->rules.min_length && b->rules.n_eos) fprintf(stderr, "no end of text before %d tokens\n", b->rules.min_length);
}

int run_search_options(run_search *x, const run_opts *o, const engine_info *i, const tokenizer *t, const sample_opts *sampling,
                       int n_prompt, err *e) {
    int room = i->ctx - n_prompt + 1; /* the last token needs no position of its own */
    beam_opts *b = &x->o;
    beam_opts own = choice_defaults(i);
    *x = (run_search){ .ends.n = 0 };
    if (!o->ignore_eos) x->ends = ends_of(i, t);
    *b = (beam_opts){ .rules = *sampling };
    b->rules.no_repeat_ngram = o->no_repeat_given ? o->sample.no_repeat_ngram : own.rules.no_repeat_ngram;
    b->rules.min_length = o->min_length_given ? o->sample.min_length : choice_min_length(i, n_prompt);
    b->rules.eos = x->ends.id;
    b->rules.n_eos = x->ends.n;
    b->beams = o->beams_given ? o->beams : run_draws(o) ? 1 : own.beams;
    b->length_penalty = o->length_penalty_given ? o->length_penalty : own.length_penalty;
    b->stopping = o->early_stopping ? (beam_stopping)run_early_stopping(o->early_stopping) : own.stopping;
    b->max_new = o->n_predict < 0 ? room : min_int(o->n_predict, room);
    if (b->beams > BEAM_MOST)
        return fail_code(e, ERR_INPUT, "%s asks for a search of %d beams, the most is %d: choose with --beams", i->name, b->beams, BEAM_MOST);
    if (b->beams == 1 && (o->length_penalty_given || o->early_stopping))
        return fail_code(e, ERR_INPUT, "%s belongs to a beam search: give --beams 2 or more",
                         o->length_penalty_given ? "--length-penalty" : "--early-stopping");
    if (o->verbose) describe(x, i);
    return 0;
}

/* ---- the search ---- */

typedef struct watch {
    const run_opts *o;
    detok after_prompt;
} watch;

/* Does the answer's text hold a stop string? */
static bool holds_stop(void *arg, const int32_t *answer, int n) {
    const watch *w = arg;
    return choice_holds_stop(&w->after_prompt, w->o->stop.p, w->o->stop.n, answer, n);
}

int run_search_tokens(const run_search *x, const run_opts *o, engine *g, session *s, const detok *after_prompt, run_found *found, err *e) {
    watch w = { o, *after_prompt };
    beam_opts b = x->o;
    beam_result r;
    if (o->stop.n && after_prompt->t) {
        b.ends = holds_stop;
        b.arg = &w;
    }
    int rc = beam_search(g, s, &b, &r, e);
    bool stopped = rc && e->code == ERR_STOPPED;
    if (stopped) { /* what there is by now */
        *e = (err){ 0 };
        rc = 0;
    }
    found->steps = r.steps;
    if (!rc && r.n) {
        hypothesis *best = &r.best[0];
        found->end = stopped ? "interrupted" : best->eos >= 0 ? "end of text" : (int)best->tokens.n < b.max_new ? "stop string"
                   : b.max_new == o->n_predict ? "-n reached" : "context full";
        found->tokens = best->tokens;
        best->tokens = (ids){ 0 };
    }
    beam_result_free(&r);
    return rc;
}
