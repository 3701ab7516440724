/* The report of bench/model as text, JSON and CSV, and the arithmetic of its shares. It measures nothing. */
#include "bench/model.h"

#include <string.h>

/* ---- limits and shares ---- */

double bench_read_limit(const bench_report *r) { return r->weights > r->limits.read ? r->weights : r->limits.read; }

const char *bench_peak_name(const bench_report *r) {
    bool quantised = strcmp(r->info->type, "q8") == 0 || strcmp(r->info->type, "q4") == 0;
    return quantised && !r->exact ? "int8" : strcmp(r->info->type, "bf16") == 0 ? "bf16" : "f32";
}

double bench_peak(const bench_report *r) {
    const char *name = bench_peak_name(r);
    return strcmp(name, "int8") == 0 ? r->limits.int8 : strcmp(name, "bf16") == 0 ? r->limits.bf16 : r->limits.f32;
}

void bench_report_finish(bench_report *r) {
    for (int i = 0; i < r->n_rows; i++) {
        bench_row *row = &r->rows[i];
        double memory = row->bytes / row->seconds / bench_read_limit(r), compute = row->ops / row->seconds / bench_peak(r);
        row->memory_binds = memory >= compute;
        row->share = row->memory_binds ? memory : compute;
    }
}

void bench_row_name(const bench_row *row, char name[32]) { snprintf(name, 32, "%s%d", row->decode ? "tg" : "pp", row->size); }

/* ---- text ---- */

/* Three digits and a unit: "6.24 MB", "0.70 GB". */
static void add_size(buf *out, double n, const char *unit) {
    double giga = n / 1e9, mega = n / 1e6;
    if (giga >= 0.1) buf_fmt(out, "%.*f G%s", giga >= 100 ? 0 : giga >= 10 ? 1 : 2, giga, unit);
    else buf_fmt(out, "%.*f M%s", mega >= 10 ? 1 : 2, mega, unit);
}

static void add_speed(buf *out, double tokens_per_s) { buf_fmt(out, "%.*f", tokens_per_s < 100 ? 1 : 0, tokens_per_s); }

/* "decode reads 0.70 GB a token; 44.1 GB/s allow 63 tok/s; you got 60 (95 %)" */
static void add_sentence(const bench_report *r, const bench_row *row, buf *out) {
    double speed = row->tokens / row->seconds;
    const char *what = row->decode ? "decode" : "a prompt";
    if (row->memory_binds) {
        buf_fmt(out, "%s reads ", what);
        add_size(out, row->bytes / row->tokens, "B");
        buf_fmt(out, " a token; %.1f GB/s allow ", bench_read_limit(r) / 1e9);
    } else {
        buf_fmt(out, "%s computes ", what);
        add_size(out, row->ops / row->tokens, "op");
        buf_fmt(out, " a token; %.0f Gop/s (%s) allow ", bench_peak(r) / 1e9, bench_peak_name(r));
    }
    add_speed(out, speed / row->share);
    buf_str(out, " tok/s; you got ");
    add_speed(out, speed);
    buf_fmt(out, " (%.0f %%)", 100 * row->share);
    if (row->depth) buf_fmt(out, ", after %d tokens", row->depth);
    if (row->batch > 1) buf_fmt(out, ", %d sequences at once", row->batch);
    buf_byte(out, '\n');
}

static void add_limits(const bench_report *r, buf *out) {
    const limits *l = &r->limits;
    buf_fmt(out, "limits: memory is read at %.1f GB/s (a buffer of %zu MiB); these weights (", l->read / 1e9, l->buffer >> 20);
    add_size(out, (double)r->info->decode_bytes, "B");
    buf_fmt(out, " a step) at %.1f GB/s%s\n", r->weights / 1e9,
            r->weights > 1.15 * l->read ? ", faster, because caches hold them" : "");
    buf_fmt(out, "        dot products: f32 %.0f, int8 %.0f, bf16 %.0f Gop/s; this model uses %s\n\n", l->f32 / 1e9, l->int8 / 1e9,
            l->bf16 / 1e9, bench_peak_name(r));
}

void bench_text(const bench_report *r, buf *out) {
    const engine_info *i = r->info;
    buf_fmt(out, "%s, %s%s, kernels %s\n%s\n%s\n", i->name, i->type, r->exact ? " exact" : "", i->kernels, r->cpu,
            i->threads_reason);
    if (i->n_adapters) {
        buf_fmt(out, "adapters: %d, of ", i->n_adapters);
        add_size(out, (double)i->adapter_bytes, "B a step\n");
    }
    add_limits(r, out);
    if (r->cpu_share < 0.9)
        buf_fmt(out, "the threads got %.0f %% of their time (other programs, or too few CPUs): figures are low and uneven\n\n",
                100 * r->cpu_share);
    buf_fmt(out, "%-10s %7s %6s %10s %8s %8s %9s %7s  %s\n", "test", "depth", "batch", "tok/s", "spread", "GB/s", "Gop/s", "share",
            "bound");
    for (int k = 0; k < r->n_rows; k++) {
        const bench_row *row = &r->rows[k];
        char name[32];
        bench_row_name(row, name);
        double speed = row->tokens / row->seconds;
        buf_fmt(out, "%-10s %7d %6d %10.*f %6.1f %% %8.2f %9.1f %5.0f %%  %s\n", name, row->depth, row->batch, speed < 1000 ? 2 : 0,
                speed, 100 * row->spread, row->bytes / row->seconds / 1e9, row->ops / row->seconds / 1e9, 100 * row->share,
                row->memory_binds ? "memory" : "compute");
    }
    buf_byte(out, '\n');
    for (int decode = 0; decode < 2; decode++) /* the first of each kind */
        for (int k = 0; k < r->n_rows; k++)
            if (r->rows[k].decode == decode) {
                add_sentence(r, &r->rows[k], out);
                break;
            }
}

/* ---- JSON and CSV ---- */

void bench_json(const bench_report *r, buf *out) {
    const engine_info *i = r->info;
    const limits *l = &r->limits;
    const struct {
        const char *key, *value;
    } texts[] = {
        { "version", QUERN_VERSION }, { "cpu", r->cpu }, { "model", i->name }, { "type", i->type }, { "kernels", i->kernels }
    };
    for (size_t k = 0; k < sizeof texts / sizeof *texts; k++) {
        buf_fmt(out, "%s\"%s\":", k ? "," : "{", texts[k].key);
        buf_json(out, texts[k].value, strlen(texts[k].value));
    }
    buf_fmt(out, ",\"threads\":%d,\"exact\":%s,\"repeats\":%d,\"cpu_share\":%.3g,\"decode_bytes\":%llu", i->threads,
            r->exact ? "true" : "false", r->repeats, r->cpu_share, (unsigned long long)i->decode_bytes);
    buf_fmt(out, ",\"adapters\":%d,\"adapter_bytes\":%llu", i->n_adapters, (unsigned long long)i->adapter_bytes);
    buf_fmt(out,
            ",\n\"limits\":{\"read_gb_per_s\":%.6g,\"weights_gb_per_s\":%.6g,\"f32_gflop_per_s\":%.6g,\"int8_gop_per_s\":%.6g,"
            "\"bf16_gflop_per_s\":%.6g},\n\"rows\":[",
            l->read / 1e9, r->weights / 1e9, l->f32 / 1e9, l->int8 / 1e9, l->bf16 / 1e9);
    for (int k = 0; k < r->n_rows; k++) {
        const bench_row *row = &r->rows[k];
        char name[32];
        bench_row_name(row, name);
        buf_fmt(out,
                "%s\n{\"test\":\"%s\",\"depth\":%d,\"batch\":%d,\"threads\":%d,\"kernels\":\"%s\",\"tokens_per_s\":%.6g,\"spread\":"
                "%.4g",
                k ? "," : "", name, row->depth, row->batch, i->threads, i->kernels, row->tokens / row->seconds, row->spread);
        buf_fmt(out, ",\"gb_per_s\":%.6g,\"gflop_per_s\":%.6g,\"share\":%.4g,\"bound\":\"%s\"}", row->bytes / row->seconds / 1e9,
                row->ops / row->seconds / 1e9, row->share, row->memory_binds ? "memory" : "compute");
    }
    buf_str(out, "]}\n");
}

void bench_csv(const bench_report *r, buf *out) {
    buf_str(out, "test,depth,batch,threads,kernels,tokens_per_s,spread,gb_per_s,gflop_per_s,share,bound\n");
    for (int k = 0; k < r->n_rows; k++) {
        const bench_row *row = &r->rows[k];
        char name[32];
        bench_row_name(row, name);
        buf_fmt(out, "%s,%d,%d,%d,%s,%.6g,%.4g,%.6g,%.6g,%.4g,%s\n", name, row->depth, row->batch, r->info->threads,
                r->info->kernels, row->tokens / row->seconds, row->spread, row->bytes / row->seconds / 1e9,
                row->ops / row->seconds / 1e9, row->share, row->memory_binds ? "memory" : "compute");
    }
}
