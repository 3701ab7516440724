/* trace: jobs as lines (trace.h). It owns the file; a line is written at once and whole, so that lines of several threads do not mix and one
 * that a crash cut short is the last. Numbers are written with as many digits as bring them back bit for bit. */
#define _GNU_SOURCE
#include "tools/serve/trace.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/serve/log.h"
#include "tools/serve/render.h"

struct trace {
    int fd;
    bool told;          /* that it cannot be written */
    pthread_mutex_t lock;
};

int trace_open(struct trace **out, const char *path, err *e) {
    struct trace *t = calloc(1, sizeof *t);
    *out = NULL;
    if (!t) return fail_memory(e, sizeof *t, "the trace");
    t->fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (t->fd < 0) {
        free(t);
        return fail(e, "%s: %s", path, strerror(errno));
    }
    pthread_mutex_init(&t->lock, NULL);
    *out = t;
    return 0;
}

void trace_close(struct trace *t) {
    if (!t) return;
    close(t->fd);
    pthread_mutex_destroy(&t->lock);
    free(t);
}

static void put_ids(const ids *v, buf *b) {
    buf_byte(b, '[');
    for (size_t i = 0; i < v->n; i++) buf_fmt(b, "%s%d", i ? "," : "", v->p[i]);
    buf_byte(b, ']');
}

static void put_sampling(const sample_opts *s, buf *b) {
    buf_fmt(b, ",\"seed\":\"%llu\",\"temperature\":%.9g,\"top_k\":%d,\"top_p\":%.9g,\"min_p\":%.9g,\"typical_p\":%.9g,"
               "\"repeat_penalty\":%.9g,\"frequency_penalty\":%.9g,\"presence_penalty\":%.9g",
            (unsigned long long)s->seed, (double)s->temperature, s->top_k, (double)s->top_p, (double)s->min_p, (double)s->typical_p,
            (double)s->repeat_penalty, (double)s->frequency_penalty, (double)s->presence_penalty);
    buf_fmt(b, ",\"repeat_last_n\":%d,\"no_repeat_ngram_size\":%d,\"min_length\":%d,\"logit_bias\":[", s->repeat_last_n,
            s->no_repeat_ngram, s->min_length);
    for (int i = 0; i < s->n_bias; i++) {
        if (s->bias[i].bias > -1e30f) buf_fmt(b, "%s[%d,%.9g]", i ? "," : "", s->bias[i].id, (double)s->bias[i].bias);
        else buf_fmt(b, "%s[%d,false]", i ? "," : "", s->bias[i].id);
    }
    buf_byte(b, ']');
}

static void put_model(const request *q, const job *j, buf *b) {
    const engine_info *i = j->m->info;
    buf_str(b, "{\"id\":");
    put_quoted(b, j->id);
    buf_fmt(b, ",\"time\":%lld,\"path\":", (long long)q->created);
    put_quoted(b, q->h->path);
    buf_str(b, ",\"model\":");
    put_quoted(b, j->m->name);
    buf_fmt(b, ",\"digest\":\"%s\",\"cache_key\":\"%016llx\",\"kernels\":\"%s\",\"exact\":%s,\"ctx\":%d,\"version\":\"%s\"", j->m->digest,
            (unsigned long long)engine_cache_key(j->m->engine), i->kernels, i->exact ? "true" : "false", i->ctx, QUERN_VERSION);
    if (q->adapters) { /* run --replay finds them in the cache_key; the line says which --lora it wants */
        buf_str(b, ",\"lora\":");
        buf_str(b, q->adapters);
    }
}

static void put_answers(const request *q, const job *j, buf *b) {
    buf_str(b, ",\"choices\":[");
    for (int i = 0; i < q->n_answers; i++) {
        const answer *a = &q->answers[i];
        buf_fmt(b, "%s{\"prompt\":%d,\"choice\":%d", i ? "," : "", i / q->n_each, i % q->n_each);
        if (j->kind == JOB_EMBED)
            buf_fmt(b, ",\"embedding\":\"%016llx\"",
                    (unsigned long long)(a->n_embedding ? hash_bytes(a->embedding, (size_t)a->n_embedding * sizeof(float)) : 0));
        else {
            buf_str(b, ",\"ids\":");
            put_ids(&a->tokens, b);
            buf_fmt(b, ",\"end\":\"%s\",\"logits\":\"%016llx\"", end_name(a->end), (unsigned long long)a->logits);
        }
        buf_byte(b, '}');
    }
    buf_byte(b, ']');
}

/* Whole or not at all: the next line would be read as the rest of one that a full disk has cut. */
static void put_line(struct trace *t, const server *s, const buf *b) {
    struct stat st;
    pthread_mutex_lock(&t->lock);
    bool plain = fstat(t->fd, &st) == 0 && S_ISREG(st.st_mode);
    ssize_t n = b->failed ? -1 : write(t->fd, b->p, b->n);
    const char *why = b->failed ? "out of memory" : n < 0 ? strerror(errno) : strerror(ENOSPC);
    bool lost = b->failed || n != (ssize_t)b->n, tell = lost && !t->told;
    if (n > 0 && lost && plain && ftruncate(t->fd, st.st_size)) tell = true;
    t->told = lost; /* once, until it works again */
    pthread_mutex_unlock(&t->lock);
    if (tell) log_line(s, "the trace: a request is missing from it: %s", why);
}

void trace_job(struct trace *t, const request *q, const job *j) {
    buf b = { 0 };
    if (j->kind != JOB_GENERATE && j->kind != JOB_EMBED) return;
    put_model(q, j, &b);
    buf_fmt(&b, ",\"kind\":\"%s\"", j->kind == JOB_EMBED ? "embed" : "generate");
    if (j->kind == JOB_EMBED) buf_fmt(&b, ",\"pooling\":%d", j->pooling);
    else {
        put_sampling(&j->sample, &b);
        buf_fmt(&b, ",\"max_tokens\":%d,\"ignore_eos\":%s,\"turn_end\":%d,\"grammar\":%s,\"beams\":%d,\"length_penalty\":%.9g,\"early_stopping\":%d",
                j->max_tokens, j->ignore_eos ? "true" : "false", j->turn_end, j->grammar ? "true" : "false", j->beams.beams,
                (double)j->beams.length_penalty, (int)j->beams.stopping);
    }
    buf_str(&b, ",\"prompts\":[");
    for (int p = 0; p < j->n_prompts; p++) {
        if (p) buf_byte(&b, ',');
        put_ids(&j->prompts[p], &b);
    }
    buf_byte(&b, ']');
    put_answers(q, j, &b);
    if (q->failure.code) buf_fmt(&b, ",\"error\":\"%s\"", job_error_name(q->failure.code));
    buf_str(&b, "}\n");
    put_line(t, q->s, &b);
    buf_free(&b);
}
