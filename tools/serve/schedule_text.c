/* schedule_text: texts whose hidden states are wanted: those to embed, and those that an encoder reads for its decoder. They go through the
 * engine in pieces, between which the other sequences get their tokens: one layer of a text that is read both ways, some tokens of one that
 * is read from left to right. A text to embed has a session and no slot; of each user one is under way, and the least served user's
 * comes next. It must not know what an embedding is used for. */
#include <math.h>
#include <stdlib.h>

#include "tools/serve/schedule_text.h"

bool text_embeds(const lane *l, const user *u) {
    for (const seq *q = l->texts; q; q = q->next_text)
        if (q->js->u == u) return true;
    return false;
}

static const ids *text_of(const seq *q) { return &q->js->j->prompts[q->prompt]; }

static void leave(lane *l, seq *q) {
    seq **at = &l->texts;
    while (*at != q) at = &(*at)->next_text;
    *at = q->next_text;
    lane_give_back(l, q->s, false, -1);
    seq_free(q);
}

void text_drop(job_state *js) {
    for (seq *q = js->lane->texts, *next; q; q = next) {
        next = q->next_text;
        if (q->js == js) leave(js->lane, q);
    }
}

void text_begin(lane *l, job_state *js, int unit) {
    err e = { 0 };
    size_t bytes = (size_t)l->m->info->d_embed * sizeof(float);
    seq *q = calloc(1, sizeof *q);
    if (!q) {
        job_fail(js, JOB_MEMORY, "prompt", "out of memory: a text to embed");
        return;
    }
    *q = (seq){ .js = js, .l = l, .prompt = unit, .reads = true, .order = l->s->order++, .draft.session = -1, .next_text = l->texts };
    l->texts = q;
    q->embedding = alloc_aligned(bytes);
    if (!q->embedding) fail_memory(&e, bytes, "an embedding");
    else if (lane_session(l, q, NULL, 0, true, &e) == 0 &&
             session_embed_begin(q->s, text_of(q)->p, (int)text_of(q)->n, js->j->pooling, q->embedding, &e) == 0)
        return;
    job_fail_err(js, "prompt", &e); /* and its text is dropped */
}

static bool comes_before(const seq *a, const seq *b) {
    const user *u = a->js->u, *v = b->js->u;
    return u->served < v->served || (u->served == v->served && a->order < b->order);
}

seq *text_next(const lane *l) {
    seq *best = NULL;
    for (seq *q = l->texts; q; q = q->next_text)
        if (!best || comes_before(q, best)) best = q;
    for (int k = 0; k < l->n_slots; k++) {
        seq *q = l->slot[k];
        if (q && q->reads && (!best || comes_before(q, best))) best = q;
    }
    return best;
}

static void finish_embedding(seq *q) {
    job_state *js = q->js;
    int n = q->l->m->info->d_embed;
    for (int i = 0; i < n; i++)
        if (!isfinite(q->embedding[i])) {
            job_fail(js, JOB_NOT_FINITE, "prompt", "the embedding of text %d is not finite: the weights or the file are damaged (inspect --verify)",
                     q->prompt);
            return;
        }
    if (!js->first_at) js->first_at = js->prompt_at = now_seconds();
    post(js, &(job_event){ .kind = EVENT_EMBEDDING, .prompt = q->prompt, .id = -1, .embedding = q->embedding, .n_embedding = n });
    leave(q->l, q);
    unit_ended(js);
}

static void count(schedule *s, double seconds, size_t tokens) {
    pthread_mutex_lock(&s->lock);
    s->figures.prompt_seconds += seconds;
    s->figures.prompt_tokens += (int64_t)tokens;
    pthread_mutex_unlock(&s->lock);
}

void text_step(lane *l, seq *q, double room) {
    double start = now_seconds(), before = start, last, did;
    bool whole = l->m->info->has_encoder;
    int more;
    err e = { 0 };
    do {
        more = session_piece(q->s, whole ? 1 : lane_budget(l, room), &did, &e);
        double now = now_seconds();
        last = now - before;
        before = now;
        if (more >= 0) q->js->u->served += did;
        if (more >= 0 && !whole) lane_learn(l, (int)did, last);
    } while (more > 0 && before - start + last <= room);
    count(l->s, before - start, more ? 0 : text_of(q)->n);
    if (!lane_sound(l, &(err){ 0 })) return; /* all its jobs fail now */
    q->reads = more > 0;
    if (more < 0) job_fail_err(q->js, "prompt", &e);
    else if (!more && q->embedding) finish_embedding(q);
}
