/* job: what a request is made of, and its end. It owns the fields' memory; it must not know how a job is worked on. */
#include "tools/serve/job.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *job_error_name(job_error e) {
    static const char *const names[] = { "ok", "invalid_request", "context_length_exceeded", "model_not_found", "queue_full",
                                         "deadline", "cancelled", "out_of_memory", "shutting_down", "unsupported", "not_finite",
                                         "internal_error" };
    return (size_t)e < sizeof names / sizeof *names ? names[e] : "internal_error";
}

job *job_new(void) {
    job *j = calloc(1, sizeof *j);
    if (!j) return NULL;
    j->n = 1;
    j->max_tokens = -1;
    j->turn_end = j->draft_most = -1;
    j->cache_prompt = true;
    j->keep_alive = NAN;
    j->sample = sample_defaults();
    j->beams = (beam_opts){ .beams = 1, .length_penalty = 1 };
    atomic_init(&j->cancelled, false);
    return j;
}

void job_free(job *j) {
    if (!j) return;
    if (j->state) j->state_free(j->state);
    grammars_put(j->grammar);
    if (j->m) models_release(j->m->owner, j->m, j->keep_alive);
    for (int i = 0; i < j->n_prompts; i++) ids_free(&j->prompts[i]);
    arena_free(&j->mem);
    free(j);
}

void job_defaults(job *j) {
    j->beams = choice_defaults(j->m->info);
    j->sample = j->beams.rules;
    j->sample.min_length = -1; /* min_length counts the prompt: known for each prompt only */
}

static const char *const poolings[] = { "", "first", "mean", "last" };

int pooling_named(const char *name) {
    for (int i = 1; i < 4; i++)
        if (strcmp(name, poolings[i]) == 0) return i;
    return strcmp(name, "cls") == 0 ? 1 : -1; /* llama-server's name of the first token's */
}

const char *pooling_name(int pooling) { return poolings[pooling]; }
