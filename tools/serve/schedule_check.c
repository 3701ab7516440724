/* schedule_check: what is refused before it is queued, with both numbers where there are two. It computes nothing. */
#include <math.h>
#include <stdarg.h>
#include <string.h>

#include "tools/serve/schedule_parts.h"

int failed(job_failure *f, job_error code, const char *phase, const char *param, const char *fmt, ...) {
    va_list args;
    *f = (job_failure){ .code = code, .phase = phase, .param = param };
    va_start(args, fmt);
    vsnprintf(f->msg, sizeof f->msg, fmt, args);
    va_end(args);
    return -1;
}

int lane_slots(const schedule *s, const model *m) {
    return s->o.slots > 0 ? min_int(s->o.slots, m->info->max_sessions) : m->info->max_sessions;
}

static int check_prompts(const job *j, job_failure *f) {
    const engine_info *i = j->m->info;
    if (j->n_prompts < 1) return failed(f, JOB_INVALID, "parse", "prompt", "a prompt is needed");
    for (int p = 0; p < j->n_prompts; p++) {
        const ids *v = &j->prompts[p];
        if (v->failed) return failed(f, JOB_MEMORY, "parse", "prompt", "out of memory: the prompt's tokens");
        if (v->n == 0)
            return failed(f, JOB_INVALID, "parse", "prompt", "an empty prompt: this model adds no token of its own, so there is nothing to continue");
        if (v->n > (size_t)i->ctx) {
            failed(f, JOB_CONTEXT, "parse", "prompt", "context_length_exceeded: the prompt has %zu tokens, the "
                                                      "context holds %d (the model's own is %d)", v->n, i->ctx, i->model_ctx);
            f->n_prompt = (int64_t)v->n;
            f->n_ctx = i->ctx;
            return -1;
        }
        for (size_t k = 0; k < v->n; k++)
            if (v->p[k] < 0 || v->p[k] >= i->n_vocab)
                return failed(f, JOB_INVALID, "parse", "prompt", "token id %d at position %zu: this model's ids are 0 to %d",
                              v->p[k], k, i->n_vocab - 1);
    }
    return 0;
}

static int check_beams(const schedule *s, const job *j, job_failure *f) {
    int slots = lane_slots(s, j->m), beams = j->beams.beams;
    if (beams < 1 || beams > BEAM_MOST) return failed(f, JOB_INVALID, "parse", "beams", "beams: expected 1 to %d, found %d", BEAM_MOST, beams);
    if (beams == 1) return 0;
    if (beams > slots)
        return failed(f, JOB_INVALID, "parse", "beams", "beams: %d beams need as many slots, this server has %d for a model", beams, slots);
    if (j->n > beams) return failed(f, JOB_INVALID, "parse", "n", "n: a search of %d beams has no %d answers", beams, j->n);
    if (!isfinite(j->beams.length_penalty)) return failed(f, JOB_INVALID, "parse", "length_penalty", "length_penalty: expected a number");
    if (j->logprobs || j->lookup || j->echo || j->grammar)
        return failed(f, JOB_UNSUPPORTED, "parse", "beams",
                      "a beam search gives no log-probabilities and no echo, and takes no look-up and no grammar");
    return 0;
}

static int check_generate(const schedule *s, const job *j, job_failure *f) {
    const engine_info *i = j->m->info;
    err e = { 0 };
    sample_opts o = j->sample;
    o.min_length = max_int(o.min_length, 0); /* -1: the checkpoint's */
    if (!i->has_decoder) return failed(f, JOB_UNSUPPORTED, "parse", "model", "%s is an encoder: it gives embeddings, it does not generate", i->name);
    if (i->has_encoder && i->decoder_start < 0)
        return failed(f, JOB_UNSUPPORTED, "parse", "model", "%s does not say with which token its decoder begins", i->name);
    if (i->has_encoder && j->echo)
        return failed(f, JOB_UNSUPPORTED, "parse", "echo",
                      "echo: the prompt of %s goes into an encoder, it is no part of the answer's text", i->name);
    if (j->n < 1 || j->n > 1024) return failed(f, JOB_INVALID, "parse", "n", "n: expected 1 to 1024, found %d", j->n);
    if (j->max_tokens < -1)
        return failed(f, JOB_INVALID, "parse", "max_tokens", "max_tokens: expected -1 (until the context is full), 0 or more, found %d",
                      j->max_tokens);
    if (j->n_top < 0 || j->n_top > 100) return failed(f, JOB_INVALID, "parse", "top_logprobs", "top_logprobs: expected 0 to 100, found %d", j->n_top);
    for (int k = 0; k < j->n_stops; k++)
        if (!j->stops[k] || !*j->stops[k]) return failed(f, JOB_INVALID, "parse", "stop", "stop: an empty string would stop everything");
    if (sample_check(&o, &e)) return failed(f, JOB_INVALID, "parse", NULL, "%s", e.msg);
    for (int k = 0; k < o.n_bias; k++)
        if (o.bias[k].id < 0 || o.bias[k].id >= i->n_vocab || isnan(o.bias[k].bias))
            return failed(f, JOB_INVALID, "parse", "logit_bias", "logit_bias: id %d is not in the vocabulary of %d, or its bias is no number",
                          o.bias[k].id, i->n_vocab);
    return check_beams(s, j, f);
}

static int check_embed(const job *j, job_failure *f) {
    const engine_info *i = j->m->info;
    if (j->pooling < 0 || j->pooling > 3) return failed(f, JOB_INVALID, "parse", "pooling", "pooling: expected first, mean or last");
    if (!j->pooling && !i->pooling)
        return failed(f, JOB_UNSUPPORTED, "parse", "pooling",
                      "%s does not say how its hidden states become an embedding: choose a pooling (first, mean "
                      "or last) in the request, or for all with serve --pooling", i->name);
    return 0;
}

/* Adapters make another engine of the same file; it takes the model's place in the job. */
static int adapt(const schedule *s, job *j, job_failure *f) {
    err e = { 0 };
    model *m;
    if (!j->n_adapters) return 0;
    if (models_hold_adapted(s->o.models, j->m, j->adapters, j->n_adapters, &m, &e))
        return failed(f, e.code == MODELS_NO_MEMORY || e.code == ERR_MEMORY ? JOB_MEMORY : JOB_INVALID, "load", "lora", "%s", e.msg);
    models_drop(j->m);
    j->m = m;
    return 0;
}

int schedule_check(const schedule *s, job *j, job_failure *f) {
    if (!j->m) return failed(f, JOB_FAILED, "parse", "model", "a job without a model");
    if (adapt(s, j, f)) return -1;
    if (j->kind == JOB_LOAD || j->kind == JOB_SLOT) return 0;
    if (check_prompts(j, f)) return -1;
    return j->kind == JOB_EMBED ? check_embed(j, f) : check_generate(s, j, f);
}
