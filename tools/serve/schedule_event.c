/* schedule_event: events on their way from the inference thread to a job's receiver: a list of each job, and a task that the
 * workers run while it is not empty. Answers that come in pieces have workers of their own: at the others a prompt of megabytes is
 * tokenised for half a second. (What comes in one piece, and can be as large, is given out at those: embeddings, a slot's bytes.)
 * So the thread never waits for a receiver, calls for one job come one at a time and in order, and what a slow receiver has not
 * taken is no more than its own answer. The last event's memory is there from the beginning. */
#include <stdlib.h>
#include <string.h>

#include "tools/serve/schedule_parts.h"

enum { AT_A_TIME = 32 }; /* events of one job, before the worker looks after others */

static posted *next_event(job_state *js) {
    pthread_mutex_lock(&js->lock);
    posted *p = js->first;
    if (p) js->first = p->next;
    else js->running = false;
    pthread_mutex_unlock(&js->lock);
    return p;
}

/* On a worker. After the last event neither the job nor its state may be touched: the receiver may have freed them. */
static void deliver(work_task *t) {
    job_state *js = (job_state *)(void *)t;
    for (int i = 0; i < AT_A_TIME; i++) {
        posted *p = next_event(js);
        if (!p) return;
        bool last = p->v.last;
        js->j->take(js->j, &p->v);
        free(p);
        if (last) return;
    }
    work_post(js->workers, t); /* it is still marked as running: nobody else posts it */
}

job_state *state_new(schedule *s, job *j) {
    job_state *js = calloc(1, sizeof *js);
    if (!js) return NULL;
    js->ready = calloc((size_t)max_int(j->n_prompts, 1), sizeof *js->ready);
    js->final = calloc(1, sizeof *js->final + 1); /* and its empty text */
    if (!js->ready || !js->final) {
        free(js->ready);
        free(js->final);
        free(js);
        return NULL;
    }
    pthread_mutex_init(&js->lock, NULL);
    js->task.run = deliver;
    js->workers = s->o.events && (j->kind == JOB_GENERATE || j->kind == JOB_LOAD) ? s->o.events : s->o.workers;
    js->j = j;
    js->s = s;
    js->width = j->kind == JOB_GENERATE ? j->beams.beams : 1;
    js->n_units = j->kind == JOB_LOAD || j->kind == JOB_SLOT ? 0 : j->kind == JOB_GENERATE && js->width == 1 ? j->n_prompts * j->n : j->n_prompts;
    js->submitted = now_seconds();
    js->t.load = j->load_seconds;
    for (int p = 0; p < j->n_prompts && j->kind != JOB_LOAD; p++) js->t.n_prompt += (int)j->prompts[p].n;
    if (j->m->info->has_encoder) js->t.n_encoder = js->t.n_prompt;
    return js;
}

void state_free(job_state *js) {
    for (posted *p = js->first, *next; p; p = next) {
        next = p->next;
        free(p);
    }
    pthread_mutex_destroy(&js->lock);
    free(js->ready);
    free(js->final);
    free(js);
}

static void put(job_state *js, posted *p) {
    pthread_mutex_lock(&js->lock);
    if (js->first) js->last->next = p;
    else js->first = p;
    js->last = p;
    bool run = !js->running;
    js->running = true;
    work *workers = js->workers;
    work_task *t = &js->task;
    pthread_mutex_unlock(&js->lock);
    if (run) work_post(workers, t);
}

/* The event with all that it points to in one piece. */
void post(job_state *js, const job_event *v) {
    size_t top = (size_t)v->n_top * sizeof *v->top, vec = (size_t)v->n_embedding * sizeof(float);
    posted *p = malloc(sizeof *p + top + vec + v->n + 1);
    if (!p) {
        js->lost = true;
        return;
    }
    p->v = *v;
    p->next = NULL;
    char *at = p->data;
    if (top) memcpy(at, v->top, top);
    p->v.top = top ? (const job_token_prob *)(void *)at : NULL;
    at += top;
    if (vec) memcpy(at, v->embedding, vec);
    p->v.embedding = vec ? (const float *)(void *)at : NULL;
    at += vec;
    if (v->n) memcpy(at, v->text, v->n);
    at[v->n] = 0;
    p->v.text = at;
    put(js, p);
}

void post_last(job_state *js, const job_failure *f) {
    posted *p = js->final;
    js->final = NULL;
    p->v = (job_event){ .kind = f ? EVENT_FAILED : EVENT_END, .last = true, .id = -1, .timings = js->t, .text = p->data };
    if (f) {
        p->failure = *f;
        p->v.failure = &p->failure;
    }
    p->next = NULL;
    put(js, p);
}
