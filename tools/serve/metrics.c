/* metrics: Prometheus' text: llama-server's names, those that dashboards for other servers expect, and histograms of our own. */
#include "tools/serve/metrics.h"

#include <stdlib.h>
#include <string.h>

#include "tools/serve/memo.h"

enum { STATUSES = 6 };

struct metrics {
    pthread_mutex_t lock;
    int64_t by_class[STATUSES]; /* by status / 100 */
    int64_t tokens_max;         /* the longest sequence so far */
    histogram whole;            /* of every HTTP request */
};

struct metrics *metrics_new(void) {
    struct metrics *m = calloc(1, sizeof *m);
    if (m && pthread_mutex_init(&m->lock, NULL)) {
        free(m);
        return NULL;
    }
    return m;
}

void metrics_free(struct metrics *m) {
    if (!m) return;
    pthread_mutex_destroy(&m->lock);
    free(m);
}

static void observe(histogram *h, double seconds) {
    int i = 0;
    while (i < HISTOGRAM_BUCKETS && seconds > histogram_bounds[i]) i++;
    h->count[i]++;
    h->sum += seconds;
    h->n++;
}

void metrics_request(struct metrics *m, int status, double seconds) {
    if (!m) return;
    pthread_mutex_lock(&m->lock);
    m->by_class[status >= 100 && status < 600 ? status / 100 : 0]++;
    observe(&m->whole, seconds);
    pthread_mutex_unlock(&m->lock);
}

void metrics_job(struct metrics *m, const request *q, const job_event *last) {
    int64_t n = last->timings.n_prompt + last->timings.n_decoded;
    if (!m || q->n_answers != 1) return; /* of several sequences the sum says nothing */
    pthread_mutex_lock(&m->lock);
    if (n > m->tokens_max) m->tokens_max = n;
    pthread_mutex_unlock(&m->lock);
}

static void put(buf *b, const char *name, const char *type, const char *help, double v) {
    buf_fmt(b, "# HELP %s %s\n# TYPE %s %s\n%s %.15g\n", name, help, name, type, name, v);
}

/* Counts of buckets are cumulative there. */
static void put_histogram(buf *b, const char *name, const char *help, const histogram *h) {
    int64_t sum = 0;
    buf_fmt(b, "# HELP %s %s\n# TYPE %s histogram\n", name, help, name);
    for (int i = 0; i < HISTOGRAM_BUCKETS; i++) {
        sum += h->count[i];
        buf_fmt(b, "%s_bucket{le=\"%g\"} %lld\n", name, histogram_bounds[i], (long long)sum);
    }
    buf_fmt(b, "%s_bucket{le=\"+Inf\"} %lld\n%s_sum %.9g\n%s_count %lld\n", name, (long long)h->n, name, h->sum, name, (long long)h->n);
}

static double ratio(double a, double b) { return b > 0 ? a / b : 0; }

static void put_llama(const schedule_figures *f, int64_t tokens_max, buf *b) {
    int64_t computed = f->prompt_tokens;
    put(b, "llamacpp:prompt_tokens_total", "counter", "Prompt tokens processed.", (double)computed);
    put(b, "llamacpp:prompt_tokens_cached_total", "counter", "Prompt tokens that a cache had.", (double)f->cached_tokens);
    put(b, "llamacpp:prompt_seconds_total", "counter", "Time spent on prompts.", f->prompt_seconds);
    put(b, "llamacpp:tokens_predicted_total", "counter", "Tokens generated.", (double)f->decoded_tokens);
    put(b, "llamacpp:tokens_predicted_seconds_total", "counter", "Time spent on generating.", f->decode_seconds);
    put(b, "llamacpp:n_decode_total", "counter", "Steps of the engine.", (double)f->steps);
    put(b, "llamacpp:n_tokens_max", "gauge", "Longest sequence so far.", (double)tokens_max);
    put(b, "llamacpp:prompt_tokens_seconds", "gauge", "Prompt tokens a second.", ratio((double)computed, f->prompt_seconds));
    put(b, "llamacpp:predicted_tokens_seconds", "gauge", "Generated tokens a second.", ratio((double)f->decoded_tokens, f->decode_seconds));
    put(b, "llamacpp:requests_processing", "gauge", "Requests being worked on.", f->active);
    put(b, "llamacpp:requests_deferred", "gauge", "Requests that wait.", f->queued);
    put(b, "llamacpp:n_busy_slots_per_decode", "gauge", "Sequences a step, on average.", ratio((double)f->busy_sequences, (double)f->steps));
    put(b, "llamacpp:spec_decode_num_drafts_total", "counter", "Proposals made by lookup or a draft.", (double)f->drafts);
    put(b, "llamacpp:spec_decode_num_draft_tokens_total", "counter", "Their tokens.", (double)f->drafted);
    put(b, "llamacpp:spec_decode_num_accepted_tokens_total", "counter", "Of these tokens, accepted.", (double)f->accepted);
}

static void put_models(const server *s, buf *b) {
    err e = { 0 };
    model *list;
    int n;
    if (models_list(s->models, &list, &n, &e)) return;
    buf_str(b, "# HELP model_memory_usage_bytes What an open model takes by its plan.\n# TYPE model_memory_usage_bytes gauge\n");
    for (int i = 0; i < n; i++)
        if (model_is_open(&list[i])) {
            buf_str(b, "model_memory_usage_bytes{model=");
            buf_json(b, list[i].name, strlen(list[i].name));
            buf_fmt(b, "} %llu\n", (unsigned long long)list[i].memory);
        }
    free(list);
}

static void put_caches(const server *s, buf *b) {
    if (s->disk) {
        disk_figures d = disk_about(s->disk);
        put(b, "quern_kv_disk_bytes", "gauge", "Bytes of sessions on disk.", (double)d.bytes);
        put(b, "quern_kv_disk_files", "gauge", "Sessions on disk.", (double)d.files);
        put(b, "quern_kv_disk_saved_total", "counter", "Sessions written to disk.", (double)d.saved);
        put(b, "quern_kv_disk_loaded_total", "counter", "Sessions read from disk.", (double)d.loaded);
        put(b, "quern_kv_disk_evicted_total", "counter", "Sessions removed from disk for want of room.", (double)d.evicted);
        put(b, "quern_kv_disk_damaged_total", "counter", "Files found damaged and dropped.", (double)d.damaged);
    }
    if (s->memo) {
        int64_t hits, bytes;
        memo_about(s->memo, &hits, &bytes);
        put(b, "quern_response_cache_hits_total", "counter", "Requests answered from the response cache.", (double)hits);
        put(b, "quern_response_cache_bytes", "gauge", "Bytes of the response cache.", (double)bytes);
    }
}

void metrics_text(const server *s, buf *b) {
    schedule_figures f;
    schedule_about(s->schedule, &f);
    pthread_mutex_lock(&s->metrics->lock);
    struct metrics m = *s->metrics;
    pthread_mutex_unlock(&s->metrics->lock);
    put_llama(&f, m.tokens_max, b);
    int64_t jobs = 0;
    for (int i = 0; i < 12; i++) jobs += f.jobs_done[i];
    put(b, "inference_requests_total", "counter", "Inference requests that ended.", (double)jobs);
    put_histogram(b, "inference_duration_seconds", "Whole time of inference requests.", &f.whole);
    put_histogram(b, "quern_time_to_first_token_seconds", "From arrival to the first token.", &f.first_token);
    put_histogram(b, "quern_inter_token_seconds", "Between two tokens of a sequence.", &f.between_tokens);
    put_histogram(b, "quern_queue_seconds", "Time in the queue.", &f.queue);
    put_histogram(b, "quern_http_request_seconds", "Every HTTP request, from its first byte to its end.", &m.whole);
    buf_str(b, "# HELP quern_jobs_total Inference requests by how they ended.\n# TYPE quern_jobs_total counter\n");
    for (int i = 0; i <= JOB_FAILED; i++)
        buf_fmt(b, "quern_jobs_total{code=\"%s\"} %lld\n", i ? job_error_name((job_error)i) : "ok", (long long)f.jobs_done[i]);
    buf_str(b, "# HELP quern_http_requests_total HTTP requests by status.\n# TYPE quern_http_requests_total counter\n");
    for (int i = 1; i < STATUSES; i++) buf_fmt(b, "quern_http_requests_total{status=\"%dxx\"} %lld\n", i, (long long)m.by_class[i]);
    http_counts h = http_about(s->http);
    put(b, "quern_http_connections_open", "gauge", "Open connections.", h.open);
    put(b, "quern_http_bytes_in_total", "counter", "Bytes received.", (double)h.bytes_in);
    put(b, "quern_http_bytes_out_total", "counter", "Bytes sent.", (double)h.bytes_out);
    put(b, "quern_slots", "gauge", "Sequences at a time.", f.slots);
    put(b, "ollama_health_check_status", "gauge", "1 while the server takes requests.", atomic_load(&s->draining) ? 0 : 1);
    put_caches(s, b);
    put_models(s, b);
}
