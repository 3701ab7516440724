/* memo: answers that are given again (memo.h). The key is all that decides an answer: path, query, body, byte for byte, and the model's
 * content; it is compared as a whole, not by a hash. Kept are only answers that came to their own end, of requests that draw nothing or draw
 * with a seed of their own. It must not know what any dialect makes of the events. */
#include "tools/serve/memo.h"

#include <stdlib.h>
#include <string.h>

#include "tools/serve/request.h"

typedef struct noted { /* one event */
    job_event v;
    struct noted *next;
    _Alignas(8) char data[];
} noted;

struct memo_tape { /* of a request that is being answered; then of the cache */
    buf key;
    noted *first, *last;
    size_t bytes;
    bool spoilt;
    int users;         /* that replay it */
    bool out;          /* of the cache: the last user frees it */
    uint64_t used;
    struct memo_tape *next;
};
typedef struct memo_tape tape;

struct memo {
    pthread_mutex_t lock;
    size_t most, bytes;
    tape *tapes;
    uint64_t clock;
    int64_t hits;
};

struct memo *memo_new(size_t most_bytes) {
    struct memo *m = calloc(1, sizeof *m);
    if (!m) return NULL;
    pthread_mutex_init(&m->lock, NULL);
    m->most = most_bytes;
    return m;
}

static void tape_free(tape *t) {
    if (!t) return;
    for (noted *n = t->first, *next; n; n = next) {
        next = n->next;
        free(n);
    }
    buf_free(&t->key);
    free(t);
}

void memo_free(struct memo *m) {
    if (!m) return;
    for (tape *t = m->tapes, *next; t; t = next) {
        next = t->next;
        tape_free(t);
    }
    pthread_mutex_destroy(&m->lock);
    free(m);
}

void memo_about(struct memo *m, int64_t *hits, int64_t *bytes) {
    pthread_mutex_lock(&m->lock);
    *hits = m->hits;
    *bytes = (int64_t)m->bytes;
    pthread_mutex_unlock(&m->lock);
}

/* ---- what may be kept ---- */

static bool repeats(const request *q) {
    const job *j = q->j;
    int64_t seed;
    if (j->n_adapters) return false; /* their files are not part of the model's digest */
    if (j->kind == JOB_EMBED) return true;
    if (j->kind != JOB_GENERATE) return false;
    return j->sample.temperature == 0 || j->beams.beams > 1 ||
           (q->v[F_SEED] && json_int(q->v[F_SEED], &seed) == 0 && (uint64_t)seed == j->sample.seed);
}

static void make_key(const request *q, buf *key) {
    buf_fmt(key, "%s %s %s?%s\n", q->m->digest, q->m->name, q->where->path, q->h->query);
    buf_add(key, q->h->body, q->h->body_n);
}

/* ---- giving again ---- */

static tape *find(struct memo *m, const buf *key) {
    for (tape *t = m->tapes; t; t = t->next)
        if (t->key.n == key->n && memcmp(t->key.p, key->p, key->n) == 0) return t;
    return NULL;
}

static void leave(struct memo *m, tape *t) {
    pthread_mutex_lock(&m->lock);
    bool last = --t->users == 0 && t->out;
    pthread_mutex_unlock(&m->lock);
    if (last) tape_free(t);
}

static void play(request *q, struct memo *m, tape *t) {
    job *j = q->j;
    q->cached = true;
    for (const noted *n = t->first; n; n = n->next) {
        job_event v = n->v;
        if (v.last) { /* what was counted stays, what took time did not */
            double now = now_seconds() - q->h->arrived;
            job_timings then = v.timings;
            v.timings = (job_timings){ .n_prompt = then.n_prompt, .n_cached = then.n_prompt, .n_encoder = then.n_encoder,
                                       .n_decoded = then.n_decoded, .load = q->load_seconds, .first_token = now, .total = now };
        }
        j->take(j, &v); /* after the last one q is gone */
    }
    leave(m, t);
}

bool memo_answers(request *q) {
    struct memo *m = q->s->memo;
    if (!m || !repeats(q)) return false;
    tape *fresh = calloc(1, sizeof *fresh);
    if (!fresh) return false;
    make_key(q, &fresh->key);
    if (fresh->key.failed) return tape_free(fresh), false;
    pthread_mutex_lock(&m->lock);
    tape *t = find(m, &fresh->key);
    if (t) t->users++, t->used = ++m->clock, m->hits++;
    pthread_mutex_unlock(&m->lock);
    if (!t) return q->tape = fresh, false;
    tape_free(fresh);
    play(q, m, t);
    return true;
}

/* ---- recording ---- */

void memo_forget(request *q) {
    tape_free(q->tape);
    q->tape = NULL;
}

static void keep(struct memo *m, tape *t) {
    t->bytes += sizeof *t + t->key.cap;
    pthread_mutex_lock(&m->lock);
    bool fits = t->bytes <= m->most && !find(m, &t->key);
    while (fits && m->bytes + t->bytes > m->most) {
        tape **oldest = &m->tapes;
        for (tape **at = &m->tapes; *at; at = &(*at)->next)
            if ((*at)->used < (*oldest)->used) oldest = at;
        tape *old = *oldest;
        *oldest = old->next;
        m->bytes -= old->bytes;
        old->out = true;
        if (!old->users) tape_free(old);
    }
    if (fits) {
        t->used = ++m->clock;
        t->next = m->tapes;
        m->tapes = t;
        m->bytes += t->bytes;
    }
    pthread_mutex_unlock(&m->lock);
    if (!fits) tape_free(t);
}

/* The event with all that it points to in one piece. */
static void note(tape *t, const job_event *v) {
    size_t top = (size_t)v->n_top * sizeof *v->top, vec = (size_t)v->n_embedding * sizeof(float),
           stop = v->stop_string ? strlen(v->stop_string) + 1 : 0;
    size_t bytes = sizeof(noted) + top + vec + v->n + 1 + stop;
    noted *n = malloc(bytes);
    if (!n) {
        t->spoilt = true;
        return;
    }
    char *at = n->data;
    n->v = *v;
    n->next = NULL;
    if (top) n->v.top = memcpy(at, v->top, top);
    at += top;
    if (vec) n->v.embedding = memcpy(at, v->embedding, vec);
    at += vec;
    if (v->n) memcpy(at, v->text, v->n);
    at[v->n] = 0;
    n->v.text = at;
    at += v->n + 1;
    if (stop) n->v.stop_string = memcpy(at, v->stop_string, stop);
    if (t->last) t->last->next = n;
    else t->first = n;
    t->last = n;
    t->bytes += bytes;
}

static bool own_end(const job_event *v) {
    return v->end == END_EOS || v->end == END_STOP_STRING || v->end == END_LENGTH || v->end == END_CONTEXT || v->end == END_GRAMMAR;
}

void memo_record(request *q, const job_event *v) {
    struct memo *m = q->s->memo;
    tape *t = q->tape;
    if (!t || v->kind == EVENT_STARTED || v->kind == EVENT_PROGRESS) return;
    if (v->kind == EVENT_FAILED || (v->kind == EVENT_CHOICE_END && !own_end(v))) t->spoilt = true;
    if (!t->spoilt && t->bytes < m->most) note(t, v);
    else t->spoilt = true;
    if (!v->last && !t->spoilt) return;
    q->tape = NULL;
    if (t->spoilt) tape_free(t);
    else keep(m, t);
}
