/* schedule_step: one step of one model: all sequences that decode, each with its next token, and pieces of prompts up to a budget that
 * follows the measured speed. Prompts are cut by users' shares: whoever has had least comes first. If a step fails, its parts are
 * computed one by one, so that only the one at fault fails. */
#include "tools/serve/schedule_text.h"

enum { FIRST_BUDGET = 64, LEAST_BUDGET = 8, MOST_BUDGET = 8192 };

typedef struct planned {
    int n;                   /* steps of the lane */
    int n_decode, n_prompt;  /* sequences that decode; tokens of prompts */
    int rows;                /* tokens of those that decode, with what is proposed */
} planned;

static int due(const seq *q) { return (int)q->tokens.n - session_len(q->s); }

bool seq_decodes(const seq *q) { return q->search || (q->begun && due(q) == 1); }

static void add(lane *l, planned *p, seq *q, step st) {
    l->whose[p->n] = q;
    l->steps[p->n++] = st;
}

static void add_decode(lane *l, planned *p, seq *q) {
    if (q->search) {
        for (int i = 0; i < q->n_beam_steps; i++) add(l, p, q, q->beam_steps[i]);
        q->n_step = q->n_beam_steps;
    } else {
        q->n_step = 1 + q->n_ahead;
        if (q->n_ahead) add(l, p, q, (step){ q->s, q->ahead, q->n_step, q->rows });
        else add(l, p, q, (step){ q->s, &q->tokens.p[q->tokens.n - 1], 1, NULL });
    }
    p->rows += q->n_step;
}

static void plan_decodes(lane *l, planned *p) {
    int rows;
    for (int k = 0; k < l->n_slots; k++) {
        seq *q = l->slot[k];
        if (q) q->n_step = 0;
        if (q && seq_decodes(q)) p->n_decode += q->search ? q->n_beam_steps : 1;
    }
    rows = p->n_decode;
    for (int k = 0; k < l->n_slots; k++) {
        seq *q = l->slot[k];
        if (!q || q->search || !seq_decodes(q)) continue;
        seq_propose(q, SPECULATE_MOST / p->n_decode); /* rows are nearly free only while they are few */
        rows += q->n_ahead;
    }
    drafts_propose(l, p->n_decode, rows);
    for (int k = 0; k < l->n_slots; k++)
        if (l->slot[k] && seq_decodes(l->slot[k])) add_decode(l, p, l->slot[k]);
}

/* ---- prompts ---- */

/* Seconds of a step that prompts may take, theirs and their drafts'. */
static double target_of(const lane *l) { return l->s->o.max_delay * 0.6 / max_int(l->s->n_lanes, 1); }

/* What the sequences that decode leave of it. */
static double room_of(const lane *l, const planned *p) { return target_of(l) - (p->n_decode ? l->base + l->drafts.spent : 0); }

int lane_budget(const lane *l, double room) {
    if (!(l->per_token > 0)) return FIRST_BUDGET;
    double fits = room / l->per_token;
    int most = min_int(2 * max_int(l->last_budget, FIRST_BUDGET / 2), MOST_BUDGET);
    return fits >= most ? most : max_int((int)fits, LEAST_BUDGET);
}

/* Has it a prompt to compute? */
static bool has_prompt(const seq *q) { return q && !q->reads && !q->loads && !seq_decodes(q); }

static int most_of(const seq *q) {
    bool all_rows = q->js->j->echo && q->js->j->logprobs && !q->begun;
    int left = due(q) - q->n_step;
    return all_rows ? min_int(left, ECHO_ROWS - q->n_step) : left;
}

/* The sequence whose prompt comes next, of those with less than `whole` of them in this step: the least served user's, the first come. */
static seq *next_prompt(const lane *l, bool begun_too) {
    seq *best = NULL;
    for (int k = 0; k < l->n_slots; k++) {
        seq *q = l->slot[k];
        if (!has_prompt(q) || most_of(q) <= 0 || (!begun_too && q->n_step)) continue;
        if (!best || q->js->u->served < best->js->u->served || (q->js->u == best->js->u && q->order < best->order)) best = q;
    }
    return best;
}

static int users_with_prompts(const lane *l) {
    int n = 0;
    for (int k = 0; k < l->n_slots; k++) {
        const seq *q = l->slot[k];
        bool counts = has_prompt(q);
        for (int i = 0; i < k && counts; i++) counts = !has_prompt(l->slot[i]) || l->slot[i]->js->u != q->js->u;
        n += counts;
    }
    return n;
}

static void take_piece(planned *p, seq *q, int n) {
    q->n_step += n;
    q->js->u->served += n;
    p->n_prompt += n;
}

static void plan_prompts(lane *l, planned *p) {
    int users = users_with_prompts(l), left = users ? lane_budget(l, room_of(l, p)) : 0, share = users ? max_int(left / users, LEAST_BUDGET) : 0;
    for (seq *q; left > 0 && (q = next_prompt(l, false));) { /* a share for each */
        int n = min_int(min_int(most_of(q), share), left);
        take_piece(p, q, n);
        left -= n;
    }
    for (seq *q; left > 0 && (q = next_prompt(l, true));) { /* and what is left */
        int n = min_int(most_of(q), left);
        take_piece(p, q, n);
        left -= n;
    }
    for (int k = 0; k < l->n_slots; k++) {
        seq *q = l->slot[k];
        if (!has_prompt(q) || !q->n_step) continue;
        bool all_rows = q->js->j->echo && q->js->j->logprobs && !q->begun;
        add(l, p, q, (step){ q->s, q->tokens.p + session_len(q->s), q->n_step, all_rows ? q->rows : NULL });
    }
}

/* ---- computing ---- */

static bool is_there(const lane *l, const seq *q) {
    for (int k = 0; k < l->n_slots; k++)
        if (l->slot[k] == q) return true;
    return false;
}

/* Where q's sessions stood before the step. A failed step leaves them so, but for those whose window has moved on: they are empty. */
static bool stands(const seq *q, const step *st) {
    if (q->search) return session_len(st->s) > 0;
    return q->tokens.p + session_len(q->s) == st->tok || (q->n_ahead && due(q) == 1);
}

/* One by one: only the job that cannot be computed fails. A sequence that lost its cache computes its tokens anew, a search cannot. */
static void compute_apart(lane *l, const planned *p) {
    for (int i = 0; i < p->n; i++) {
        seq *q = l->whose[i];
        err e = { 0 };
        if (!is_there(l, q)) continue;
        bool sound = stands(q, &l->steps[i]);
        if (!sound && !q->search) {
            q->n_step = q->n_ahead = 0;
            continue;
        }
        if (!sound) fail_code(&e, ERR_MEMORY, "out of memory: a beam search lost its cache");
        else if (engine_step(l->m->engine, &l->steps[i], 1, &e) == 0) continue;
        job_fail_err(q->js, q->begun ? "decode" : "prompt", &e);
    }
}

void lane_learn(lane *l, int tokens, double seconds) {
    double per = seconds / tokens;
    if (l->per_token > 0 && per > 4 * l->per_token) per = 4 * l->per_token; /* the machine was away for a moment */
    if (tokens >= LEAST_BUDGET || !(l->per_token > 0)) l->per_token = l->per_token > 0 ? 0.5 * l->per_token + 0.5 * per : per;
    l->last_budget = tokens;
}

static void measure(lane *l, const planned *p, double seconds) {
    schedule *s = l->s;
    double prompt = 0;
    if (!p->n_prompt) l->base = l->base > 0 ? 0.8 * l->base + 0.2 * (seconds < 4 * l->base ? seconds : 4 * l->base) : seconds;
    else {
        double own = p->n_decode ? (l->base < seconds / 2 ? l->base : seconds / 2) : 0;
        prompt = seconds - own;
        lane_learn(l, p->n_prompt, prompt);
    }
    if (!p->n_prompt) drafts_time(l, p->rows, seconds);
    pthread_mutex_lock(&s->lock);
    s->figures.steps++;
    s->figures.busy_sequences += p->n;
    s->figures.prompt_tokens += p->n_prompt;
    s->figures.prompt_seconds += prompt;
    s->figures.decode_seconds += seconds - prompt + l->drafts.spent;
    pthread_mutex_unlock(&s->lock);
}

/* Pages of the file are gone: all jobs of the model fail, and what hangs on it goes with it. */
static bool fail_all(lane *l, const err *e) {
    for (job_state *js = l->first, *next; js; js = next) {
        next = js->next;
        job_fail_err(js, "decode", e);
    }
    return true;
}

/* What prompts leave of a step to their drafts. Where a step alone takes longer than all of it, a quarter: else no draft would ever begin. */
static double room_for_drafts(const lane *l, const planned *p) {
    double target = target_of(l), room = target - l->base - l->drafts.spent;
    return (room > target / 4 ? room : target / 4) - p->n_prompt * l->per_token;
}

/* The text that this step gives its room to; NULL: prompts get it. The least served user's goes first, of equals who came first. */
static seq *text_of_step(const lane *l) {
    seq *text = text_next(l), *prompt = next_prompt(l, true);
    if (!text || !prompt) return text;
    double t = text->js->u->served, p = prompt->js->u->served;
    return t < p || (t == p && text->order < prompt->order) ? text : NULL;
}

/* What the lane's sequences get of this step. */
static void compute(lane *l, const planned *p) {
    err e = { 0 };
    if (p->n_decode) drafts_follow(l, room_for_drafts(l, p));
    double start = now_seconds();
    if (engine_step(l->m->engine, l->steps, p->n, &e)) compute_apart(l, p);
    if (!lane_sound(l, &e)) return;
    double now = now_seconds();
    measure(l, p, now - start);
    for (int k = 0; k < l->n_slots; k++) {
        seq *q = l->slot[k];
        if (!q || !q->n_step || seq_advance(q, now)) continue;
        if (q->js->lost) job_fail(q->js, JOB_MEMORY, "decode", "out of memory: the answer's events");
        else if (q->over) seq_close(q);
    }
}

bool lane_step(lane *l) {
    planned p = { 0 };
    err hurt = { 0 };
    if (!lane_sound(l, &hurt)) return fail_all(l, &hurt);
    plan_decodes(l, &p);
    seq *text = text_of_step(l);
    if (!text) plan_prompts(l, &p);
    if (!p.n && !text && !lane_loads(l)) return false;
    double room = room_of(l, &p);
    if (p.n) compute(l, &p);
    if (text && lane_sound(l, &hurt) && (text = text_next(l)) != NULL) text_step(l, text, room); /* asked again: its job may be gone */
    if (lane_sound(l, &hurt)) lane_load(l, target_of(l) / 2);
    return lane_sound(l, &hurt) || fail_all(l, &hurt);
}
