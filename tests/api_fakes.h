/* api_fakes: HTTP, models and scheduler as far as the server's dialects need them: exchanges that keep what was written, one model with the
 * demo checkpoint's tokenizer and template, and a scheduler that keeps the job for the test to play its events. */
#ifndef QUERN_TEST_API_FAKES_H
#define QUERN_TEST_API_FAKES_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tools/serve/guard.h"
#include "tools/serve/messages.h"
#include "tools/serve/metrics.h"
#include "tools/serve/server.h"

struct exchange {
    http_request h;
    http_header header[4];
    int status;
    char type[80], extra[256];
    buf body;
    bool begun, ended, whole;
    void (*closed)(void *arg);
    void *closed_arg;
};

static struct {
    engine_info info;
    model m;
    server s;
    int held;          /* of the model, less its releases */
    double keep_alive; /* of the last release */
    job *submitted;
    job_failure refuse; /* code: what schedule_submit says instead */
    int cancelled;
    model_adapter defaults[16];
    int n_defaults;
} fake;

const http_request *exchange_request(const exchange *x) { return &x->h; }
const char *exchange_header(const exchange *x, const char *name) {
    for (int i = 0; i < x->h.n_headers; i++)
        if (strcmp(x->header[i].name, name) == 0) return x->header[i].value;
    return NULL;
}
static void fake_begin(exchange *x, int status, const char *type, const char *extra) {
    if (x->begun || x->ended) abort();
    x->begun = true;
    x->status = status;
    snprintf(x->type, sizeof x->type, "%s", type ? type : "");
    snprintf(x->extra, sizeof x->extra, "%s", extra ? extra : "");
}
void exchange_reply(exchange *x, int status, const char *type, const char *extra, const char *body, size_t n) {
    fake_begin(x, status, type, extra);
    buf_add(&x->body, body, n);
    x->ended = x->whole = true;
}
void exchange_begin(exchange *x, int status, const char *type, const char *extra) { fake_begin(x, status, type, extra); }
void exchange_write(exchange *x, const char *bytes, size_t n) {
    if (!x->begun || x->ended) abort();
    buf_add(&x->body, bytes, n);
}
void exchange_end(exchange *x) {
    if (x->ended) abort();
    x->ended = true;
}
void exchange_on_close(exchange *x, void (*closed)(void *arg), void *arg) {
    x->closed = closed;
    x->closed_arg = arg;
}
bool exchange_is_closed(const exchange *x) { (void)x; return false; }
size_t exchange_pending(const exchange *x) { (void)x; return 0; }
http_counts http_about(const http *h) { (void)h; return (http_counts){ .open = 1 }; }

static bool fake_named(const char *name) { return !name || !*name || strcmp(name, "pip") == 0 || strcmp(name, "pip:latest") == 0; }
int models_hold(models *v, const char *name, model **m, err *e) {
    (void)v;
    if (!fake_named(name)) return fail_code(e, MODELS_NOT_FOUND, "no such model");
    fake.held++;
    *m = &fake.m;
    return 0;
}
void models_release(models *v, model *m, double keep_alive) {
    (void)v;
    if (m != &fake.m || --fake.held < 0) abort();
    fake.keep_alive = keep_alive;
}
int models_list(models *v, model **list, int *n, err *e) {
    (void)v;
    *n = 1;
    *list = malloc(sizeof **list);
    if (!*list) return fail_memory(e, sizeof **list, "a list");
    **list = fake.m;
    return 0;
}
int models_describe(models *v, const char *name, bool *open, model *copy, err *e) {
    (void)v;
    if (!fake_named(name)) return fail_code(e, MODELS_NOT_FOUND, "no such model");
    *open = true;
    *copy = fake.m;
    return 0;
}
int models_adapters(models *v, lora_file **list, int *n, err *e) {
    (void)v;
    *n = 2;
    *list = malloc(2 * sizeof **list);
    if (!*list) return fail_memory(e, 2 * sizeof **list, "a list");
    (*list)[0] = (lora_file){ "polite", "models/polite.lora" };
    (*list)[1] = (lora_file){ "terse", "models/terse.lora" };
    return 0;
}
int models_hold_adapted(models *v, model *m, const model_adapter *adapters, int n, model **adapted, err *e) {
    (void)v;
    for (int i = 0; i < n; i++)
        if (strcmp(adapters[i].name, "polite") && strcmp(adapters[i].name, "terse"))
            return fail_code(e, MODELS_NOT_FOUND, "adapter '%s' not found", adapters[i].name);
    fake.held++;
    *adapted = m;
    return 0;
}
int models_set_default_adapters(models *v, model *m, const model_adapter *list, int n, err *e) {
    (void)v;
    (void)m;
    (void)e;
    for (int i = 0; i < n; i++) fake.defaults[i] = (model_adapter){ strcmp(list[i].name, "terse") ? "polite" : "terse", list[i].scale };
    fake.n_defaults = n;
    return 0;
}
int models_default_adapters(models *v, const model *m, model_adapter **list, int *n, err *e) {
    (void)v;
    (void)m;
    *n = fake.n_defaults;
    *list = malloc(sizeof fake.defaults);
    if (!*list) return fail_memory(e, sizeof fake.defaults, "a list");
    memcpy(*list, fake.defaults, sizeof fake.defaults);
    return 0;
}

int schedule_submit(schedule *s, job *j, job_failure *f) {
    (void)s;
    if (fake.refuse.code) return *f = fake.refuse, -1;
    fake.submitted = j;
    return 0;
}
void schedule_cancel(schedule *s, job *j) {
    (void)s;
    if (j != fake.submitted) abort();
    fake.cancelled++;
}
void schedule_about(schedule *s, schedule_figures *f) {
    (void)s;
    *f = (schedule_figures){ .prompt_tokens = 7, .steps = 3 };
}
int schedule_slots(schedule *s, slot_about *out, int most) {
    (void)s;
    if (most > 0) out[0] = (slot_about){ .id = 0, .n_ctx = 1024 };
    return 1;
}
const double histogram_bounds[HISTOGRAM_BUCKETS] = { .001, .002, .005, .01, .02, .05, .1, .2, .3, .5, .7, 1, 2, 3,
                                                     5, 7, 10, 20, 30, 60, 120, 240, 300, 600 };

/* The server and its one model. 0, or -1 with the reason. */
static int fake_open(err *e) {
    static const int eos[] = { 1, 5 };
    static tokenizer *t;
    static chat *c;
    if (tokenizer_load(&t, "weights/pip-stories", NULL, e) || chat_open(&c, t, NULL, 0, e)) return -1;
    fake.info = (engine_info){ .name = "pip", .family = "llama", .kernels = "scalar", .type = "q8", .ctx = 64, .n_vocab = 4096,
                               .n_layers = 6, .n_heads = 8, .n_kv_heads = 2, .d_model = 4, .max_sessions = 4,
                               .has_decoder = true, .pooling = 2, .d_embed = 4, .bos = 0, .eos = eos, .n_eos = 2,
                               .temperature = 0.7f, .top_p = 0.95f, .min_p = -1, .repeat_penalty = -1,
                               .top_k = -1, .num_beams = 1, .length_penalty = 1 };
    fake.m = (model){ .name = "pip", .path = "models/pip.bin", .file_bytes = 100, .memory = 200, .modified = 1700000000,
                      .digest = "0123456789abcdef", .info = &fake.info,
                      .engine = (engine *)&fake, .tok = t, .chat = c, .turn_end = 5, .expires = INFINITY };
    fake.m.grammars = grammars_new(t);
    fake.s = (server){ .n_slots = 4, .quiet = true, .keep_alive = 300 };
    fake.s.metrics = metrics_new();
    return guard_new(&fake.s.guard, NULL, 0, 0, e);
}

static inline void fake_close(void) {
    grammars_free(fake.m.grammars);
    chat_close(fake.m.chat);
    tokenizer_free(fake.m.tok);
    metrics_free(fake.s.metrics);
    guard_free(fake.s.guard);
}

/* A request to the server; x holds the reply, if there is one already. */
static void fake_ask(exchange *x, const char *method, const char *path, const char *body, size_t n) {
    http_header header[4];
    memcpy(header, x->header, sizeof header);
    int n_headers = x->h.n_headers;
    *x = (exchange){ .h = { .method = method, .path = path, .query = "", .body = body, .body_n = n, .peer = "127.0.0.1",
                            .arrived = now_seconds(), .n_headers = n_headers } };
    memcpy(x->header, header, sizeof header);
    x->h.headers = x->header;
    fake.submitted = NULL;
    server_handle(&fake.s, x);
}

/* An event for the job that was submitted. */
static void fake_event(job_event v) {
    job *j = fake.submitted;
    v.last = v.kind == EVENT_END || v.kind == EVENT_FAILED;
    if (v.last) fake.submitted = NULL;
    j->take(j, &v);
}

static void fake_piece(int prompt, int choice, int32_t id, const char *text) {
    static const job_token_prob top[] = { { 559, -0.5f }, { 560, -1.5f } };
    job *j = fake.submitted;
    fake_event((job_event){ .kind = EVENT_PIECE, .prompt = prompt, .choice = choice, .id = id, .text = text, .n = strlen(text),
                            .logprob = j->logprobs && id >= 0 ? -0.25f : NAN,
                            .top = top, .n_top = j->logprobs ? j->n_top < 2 ? j->n_top : 2 : 0 });
}

#endif
