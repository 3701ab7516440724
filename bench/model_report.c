/* The report of bench/model as text, JSON and CSV, and the arithmetic of its shares. It measures nothing. */
#include "bench/model.h"

#include <string.h>

/* ---- limits and shares ---- */

double bench_read_limit(const bench_subject *s) { return s->weights > s->limits.read ? s->weights : s->limits.read; }

const char *bench_peak_name(const bench_report *r, const bench_subject *s) {
    bool quantised = strcmp(s->info->type, "q8") == 0 || strcmp(s->info->type, "q4") == 0;
    return quantised && !r->exact ? "int8" : strcmp(s->info->type, "bf16") == 0 ? "bf16" : "f32";
}

double bench_peak(const bench_report *r, const bench_subject *s) {
    const char *name = bench_peak_name(r, s);
    return strcmp(name, "int8") == 0 ? s->limits.int8 : strcmp(name, "bf16") == 0 ? s->limits.bf16 : s->limits.f32;
}

/* The file's name, with its folder where two files have the same; the threads where these differ. */
static void label(const bench_report *r, bench_subject *s) {
    const char *slash = strrchr(s->path, '/'), *name = slash ? slash + 1 : s->path;
    for (int i = 0; i < r->n_subjects; i++) {
        const char *path = r->subjects[i].path, *other = strrchr(path, '/');
        if (strcmp(path, s->path) && strcmp(other ? other + 1 : path, name) == 0) name = s->path;
    }
    size_t n = strlen(name);
    if (n > 72) name += n - 72; /* the end tells more */
    snprintf(s->label, sizeof s->label, "%s", r->many_files ? name : "");
    n = strlen(s->label);
    const char *comma = n ? ", " : "", *plural = s->info->threads == 1 ? "" : "s";
    if (r->many_threads) snprintf(s->label + n, sizeof s->label - n, "%s%d thread%s", comma, s->info->threads, plural);
}

void bench_report_finish(bench_report *r) {
    for (int i = 0; i < r->n_subjects; i++) label(r, &r->subjects[i]);
    for (int i = 0; i < r->n_rows; i++) {
        bench_row *row = &r->rows[i];
        const bench_subject *s = &r->subjects[row->subject];
        double memory = row->bytes / row->seconds / bench_read_limit(s), compute = row->ops / row->seconds / bench_peak(r, s);
        row->share = memory >= compute ? memory : compute;
        row->bound = memory >= compute ? "memory" : "compute";
    }
}

void bench_row_name(const bench_row *row, char name[32]) {
    static const char *const names[ROW_KINDS] = { "pp", "tg", "verify", "start-warm", "start-cold" };
    bool start = row->kind == ROW_WARM || row->kind == ROW_COLD;
    if (start) snprintf(name, 32, "%s", names[row->kind]);
    else snprintf(name, 32, "%s%d", names[row->kind], row->size);
}

/* ---- text ---- */

/* Three digits and a unit: "6.24 MB", "0.70 GB". */
static void add_size(buf *out, double n, const char *unit) {
    double giga = n / 1e9, mega = n / 1e6;
    if (giga >= 0.1) buf_fmt(out, "%.*f G%s", giga >= 100 ? 0 : giga >= 10 ? 1 : 2, giga, unit);
    else buf_fmt(out, "%.*f M%s", mega >= 10 ? 1 : 2, mega, unit);
}

static void add_speed(buf *out, double tokens_per_s) { buf_fmt(out, "%.*f", tokens_per_s < 100 ? 1 : 0, tokens_per_s); }

static const bench_subject *subject_of(const bench_report *r, const bench_row *row) { return &r->subjects[row->subject]; }

static void add_label(const bench_report *r, const bench_row *row, buf *out) {
    const char *name = subject_of(r, row)->label;
    if (*name) buf_fmt(out, "%s: ", name);
}

/* "decode reads 0.70 GB a token; 44.1 GB/s allow 63 tok/s; you got 60 (95 %)" */
static void add_speed_sentence(const bench_report *r, const bench_row *row, buf *out) {
    const bench_subject *s = subject_of(r, row);
    double speed = row->tokens / row->seconds;
    const char *what = row->kind == ROW_DECODE ? "decode" : "a prompt";
    if (strcmp(row->bound, "memory") == 0) {
        buf_fmt(out, "%s reads ", what);
        add_size(out, row->bytes / row->tokens, "B");
        buf_fmt(out, " a token; %.1f GB/s allow ", bench_read_limit(s) / 1e9);
    } else {
        buf_fmt(out, "%s computes ", what);
        add_size(out, row->ops / row->tokens, "op");
        buf_fmt(out, " a token; %.0f Gop/s (%s) allow ", bench_peak(r, s) / 1e9, bench_peak_name(r, s));
    }
    add_speed(out, speed / row->share);
    buf_str(out, " tok/s; you got ");
    add_speed(out, speed);
    buf_fmt(out, " (%.0f %%)", 100 * row->share);
    if (row->read_share > 0) buf_fmt(out, ", and %.0f %% of the rate at which the weights alone were read in turns with it", 100 * row->read_share);
    if (row->depth) buf_fmt(out, ", after %d tokens", row->depth);
    if (row->batch > 1) buf_fmt(out, ", %d sequences at once", row->batch);
    buf_byte(out, '\n');
}

static void add_ms(buf *out, double seconds) { buf_fmt(out, "%.*f ms", seconds < 0.01 ? 2 : seconds < 0.1 ? 1 : 0, 1e3 * seconds); }

static void add_start_sentence(const bench_report *r, const bench_row *row, buf *out) {
    bool cold = row->kind == ROW_COLD;
    buf_fmt(out, "a fresh process has its first token, after a prompt of %d, in ", row->size);
    add_ms(out, row->seconds);
    buf_str(out, cold ? ", the file not in memory\n" : ", the file in memory\n");
    if (!cold || row->kept < 0.02) return;
    add_label(r, row, out);
    buf_fmt(out,
            "  not quite cold: asked to drop the file, the system kept up to %.0f %% of it in memory (another program maps it, or it lies "
            "on a file system in memory)\n",
            100 * row->kept);
}

static void add_sentence(const bench_report *r, const bench_row *row, buf *out) {
    add_label(r, row, out);
    if (row->kind == ROW_WARM || row->kind == ROW_COLD) add_start_sentence(r, row, out);
    else if (row->kind != ROW_VERIFY) add_speed_sentence(r, row, out);
    else {
        buf_fmt(out, "a step that checks %d drafted token%s takes %.2f times a step of 1 token: ", row->size, row->size == 1 ? "" : "s",
                row->one_ratio);
        add_ms(out, row->seconds);
        buf_str(out, " and ");
        add_ms(out, row->one);
        if (row->depth) buf_fmt(out, ", after %d tokens", row->depth);
        buf_byte(out, '\n');
    }
}

static void add_limits(const bench_report *r, const bench_subject *s, buf *out) {
    const limits *l = &s->limits;
    if (*s->label) buf_fmt(out, "%s: %s, %s\n", s->label, s->info->name, s->info->type);
    buf_fmt(out, "limits: memory is read at %.1f GB/s (a buffer of %zu MiB); these weights (", l->read / 1e9, l->buffer >> 20);
    add_size(out, (double)s->info->decode_bytes, "B");
    buf_fmt(out, " a step) at %.1f GB/s%s\n", s->weights / 1e9, s->weights > 1.15 * l->read ? ", faster, because caches hold them" : "");
    buf_fmt(out, "        dot products: f32 %.0f, int8 %.0f, bf16 %.0f Gop/s; this model uses %s\n", l->f32 / 1e9, l->int8 / 1e9,
            l->bf16 / 1e9, bench_peak_name(r, s));
    if (s->cpu_share < 0.9)
        buf_fmt(out, "        the threads got %.0f %% of their time (other programs, or too few CPUs): figures are low and uneven\n",
                100 * s->cpu_share);
    buf_byte(out, '\n');
}

static void add_head(const bench_report *r, buf *out) {
    const engine_info *i = r->subjects[0].info;
    if (!r->many_files) buf_fmt(out, "%s, %s%s, kernels %s\n%s\n", i->name, i->type, r->exact ? " exact" : "", i->kernels, r->cpu);
    else buf_fmt(out, "%d runs in turns%s, kernels %s\n%s\n", r->n_subjects, r->exact ? ", exact" : "", i->kernels, r->cpu);
    if (!r->many_threads) buf_fmt(out, "%s\n", i->threads_reason);
    if (i->n_adapters) {
        buf_fmt(out, "adapters: %d, of ", i->n_adapters);
        add_size(out, (double)i->adapter_bytes, "B a step\n");
    }
    for (int k = 0; k < r->n_subjects; k++) add_limits(r, &r->subjects[k], out);
}

static void add_row(const bench_report *r, const bench_row *row, buf *out) {
    char name[32];
    bench_row_name(row, name);
    double speed = row->tokens / row->seconds;
    buf_fmt(out, "%-10s %7d %6d %10.*f %6.1f %% %8.2f %9.1f %5.0f %%  %-7s", name, row->depth, row->batch, speed < 1000 ? 2 : 0, speed,
            100 * row->spread, row->bytes / row->seconds / 1e9, row->ops / row->seconds / 1e9, 100 * row->share, row->bound);
    if (r->n_subjects > 1) buf_fmt(out, "  %8.3f  %s", row->versus, subject_of(r, row)->label);
    while (out->n && out->p[out->n - 1] == ' ') out->n--;
    buf_byte(out, '\n');
}

void bench_text(const bench_report *r, buf *out) {
    const char *what = r->many_files ? r->many_threads ? "file, threads" : "file" : "threads";
    add_head(r, out);
    buf_fmt(out, "%-10s %7s %6s %10s %8s %8s %9s %7s  %s", "test", "depth", "batch", "tok/s", "spread", "GB/s", "Gop/s", "share", "bound");
    if (r->n_subjects > 1) buf_fmt(out, "    of first  %s", what);
    buf_byte(out, '\n');
    for (int k = 0; k < r->n_rows; k++) add_row(r, &r->rows[k], out);
    buf_byte(out, '\n');
    for (int kind = 0; kind < ROW_KINDS; kind++)
        for (int s = 0; s < r->n_subjects; s++)
            for (int k = 0; k < r->n_rows; k++)
                if ((int)r->rows[k].kind == kind && r->rows[k].subject == s) {
                    add_sentence(r, &r->rows[k], out);
                    if (kind != ROW_VERIFY && r->rows[k].read_share == 0) break; /* the first of each kind; all that took turns with something */
                }
}

/* ---- JSON and CSV ---- */

static void add_json_text(buf *out, const char *key, const char *value) {
    buf_fmt(out, "\"%s\":", key);
    buf_json(out, value, strlen(value));
}

static void json_limits(const bench_subject *s, buf *out) {
    const limits *l = &s->limits;
    buf_fmt(out,
            "\"limits\":{\"read_gb_per_s\":%.6g,\"weights_gb_per_s\":%.6g,\"f32_gflop_per_s\":%.6g,\"int8_gop_per_s\":%.6g,"
            "\"bf16_gflop_per_s\":%.6g}",
            l->read / 1e9, s->weights / 1e9, l->f32 / 1e9, l->int8 / 1e9, l->bf16 / 1e9);
}

/* Without braces: the first subject's stand in the object itself. */
static void json_subject(const bench_subject *s, buf *out) {
    const engine_info *i = s->info;
    add_json_text(out, "file", s->path);
    buf_byte(out, ',');
    add_json_text(out, "model", i->name);
    buf_byte(out, ',');
    add_json_text(out, "type", i->type);
    buf_byte(out, ',');
    add_json_text(out, "kernels", i->kernels);
    buf_fmt(out, ",\"threads\":%d,\"cpu_share\":%.3g,\"decode_bytes\":%llu,\"adapters\":%d,\"adapter_bytes\":%llu,\n", i->threads, s->cpu_share,
            (unsigned long long)i->decode_bytes, i->n_adapters, (unsigned long long)i->adapter_bytes);
    json_limits(s, out);
}

static void json_row(const bench_report *r, const bench_row *row, buf *out) {
    const engine_info *i = subject_of(r, row)->info;
    char name[32];
    bench_row_name(row, name);
    buf_fmt(out, "{\"test\":\"%s\",\"depth\":%d,\"batch\":%d,\"threads\":%d,", name, row->depth, row->batch, i->threads);
    add_json_text(out, "kernels", i->kernels);
    buf_fmt(out, ",\"tokens_per_s\":%.6g,\"spread\":%.4g", row->tokens / row->seconds, row->spread);
    buf_fmt(out, ",\"gb_per_s\":%.6g,\"gflop_per_s\":%.6g,\"share\":%.4g,\"bound\":\"%s\",\"seconds\":%.6g,", row->bytes / row->seconds / 1e9,
            row->ops / row->seconds / 1e9, row->share, row->bound, row->seconds);
    add_json_text(out, "type", i->type);
    buf_byte(out, ',');
    add_json_text(out, "model", i->name);
    buf_byte(out, ',');
    add_json_text(out, "file", subject_of(r, row)->path);
    if (r->n_subjects > 1) buf_fmt(out, ",\"ratio_to_first\":%.4g", row->versus);
    if (row->kind == ROW_VERIFY) buf_fmt(out, ",\"one_token_seconds\":%.6g,\"ratio_to_one_token\":%.4g", row->one, row->one_ratio);
    if (row->read_share > 0) buf_fmt(out, ",\"share_of_reading_in_turns\":%.4g", row->read_share);
    if (row->kind == ROW_COLD) buf_fmt(out, ",\"kept_in_memory\":%.4g", row->kept);
    buf_byte(out, '}');
}

void bench_json(const bench_report *r, buf *out) {
    buf_byte(out, '{');
    add_json_text(out, "version", QUERN_VERSION);
    buf_byte(out, ',');
    add_json_text(out, "cpu", r->cpu);
    buf_fmt(out, ",\"exact\":%s,\"repeats\":%d,\n", r->exact ? "true" : "false", r->repeats);
    json_subject(&r->subjects[0], out);
    for (int i = 0; r->n_subjects > 1 && i < r->n_subjects; i++) {
        buf_str(out, i ? ",\n{" : ",\n\"subjects\":[\n{");
        json_subject(&r->subjects[i], out);
        buf_str(out, i + 1 < r->n_subjects ? "}" : "}]");
    }
    buf_str(out, ",\n\"rows\":[");
    for (int k = 0; k < r->n_rows; k++) {
        buf_str(out, k ? ",\n" : "\n");
        json_row(r, &r->rows[k], out);
    }
    buf_str(out, "]}\n");
}

/* RFC 4180: in quotes, and a quote twice. */
static void add_csv_text(buf *out, const char *s) {
    buf_byte(out, '"');
    for (; *s; s++) {
        if (*s == '"') buf_byte(out, '"');
        buf_byte(out, *s);
    }
    buf_byte(out, '"');
}

void bench_csv(const bench_report *r, buf *out) {
    buf_str(out, "test,depth,batch,threads,kernels,tokens_per_s,spread,gb_per_s,gflop_per_s,share,bound,seconds,ratio_to_one_token,type,file\n");
    for (int k = 0; k < r->n_rows; k++) {
        const bench_row *row = &r->rows[k];
        const engine_info *i = subject_of(r, row)->info;
        char name[32];
        bench_row_name(row, name);
        buf_fmt(out, "%s,%d,%d,%d,%s,%.6g,%.4g,%.6g,%.6g,%.4g,%s,%.6g,", name, row->depth, row->batch, i->threads, i->kernels,
                row->tokens / row->seconds, row->spread, row->bytes / row->seconds / 1e9, row->ops / row->seconds / 1e9, row->share,
                row->bound, row->seconds);
        if (row->kind == ROW_VERIFY) buf_fmt(out, "%.4g", row->one_ratio);
        buf_fmt(out, ",%s,", i->type);
        add_csv_text(out, subject_of(r, row)->path);
        buf_byte(out, '\n');
    }
}
