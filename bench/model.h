/* bench/model: what its files share. model.c measures, model_report.c writes text, JSON and CSV, model_svg.c draws. */
#ifndef QUERN_BENCH_MODEL_H
#define QUERN_BENCH_MODEL_H

#include "runtime/engine.h"
#include "runtime/limits.h"

typedef struct bench_row {
    bool decode;            /* generation (tg), else a prompt (pp) */
    int size;               /* tokens of the prompt, or decode steps */
    int depth, batch;       /* tokens of context before it; sequences at once */
    double tokens;          /* of one repeat, all sequences together */
    double bytes, ops;      /* what one repeat must at least read; 2 x multiply-adds of its matrices */
    double seconds, spread; /* median of the repeats; (largest - smallest) / median speed */
    double share;           /* of the limit that binds: bench_report_finish */
    bool memory_binds;
} bench_row;

typedef struct bench_report {
    const engine_info *info;
    char cpu[256];
    bool exact;
    int repeats;
    limits limits;
    double weights; /* bytes a second at which just these weights can be read */
    double cpu_share; /* of the threads' time, what the system gave while peaks were measured: less than 1 beside other programs */
    bench_row *rows;
    int n_rows;
} bench_report;

double bench_read_limit(const bench_report *r);     /* bytes a second: the better of memory and these weights */
double bench_peak(const bench_report *r);           /* operations a second of what the weights' type computes with */
const char *bench_peak_name(const bench_report *r); /* "int8", "bf16", "f32" */
void bench_report_finish(bench_report *r);          /* shares, once all limits are measured */

void bench_row_name(const bench_row *row, char name[32]); /* "pp512", "tg64" */
void bench_text(const bench_report *r, buf *out);
void bench_json(const bench_report *r, buf *out);
void bench_csv(const bench_report *r, buf *out);
void bench_svg(const bench_report *r, buf *out);

#endif
