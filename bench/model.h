/* bench/model: what its files share. model.c is the command line, model_measure.c measures, model_start.c starts fresh processes,
 * model_report.c writes text, JSON and CSV, model_svg.c and model_roofline.c draw, model_compare.c reads two of those JSONs. */
#ifndef QUERN_BENCH_MODEL_H
#define QUERN_BENCH_MODEL_H

#include "runtime/engine.h"
#include "runtime/limits.h"
#include "runtime/options.h"

enum { BENCH_LIST = 32, BENCH_FILES = 8, BENCH_SUBJECTS = 16, BENCH_START_TOKENS = 8 };

typedef struct bench_list {
    int v[BENCH_LIST], n;
} bench_list;

/* What to measure. */
typedef struct bench_plan {
    const char *self; /* this program, for those who start it again */
    const char *files[BENCH_FILES];
    int n_files;
    engine_opts engine; /* its path and threads are those of a subject */
    texts lora;
    bench_list threads, prompts, depths, batches, drafts;
    int steps, repeats;
    bool start, explain;
} bench_plan;

typedef enum { ROW_PROMPT, ROW_DECODE, ROW_VERIFY, ROW_WARM, ROW_COLD, ROW_KINDS } row_kind;

typedef struct bench_row {
    row_kind kind;
    int subject;
    int size;               /* tokens of the prompt, decode steps, or drafted tokens that one step checks */
    int depth, batch;       /* tokens of context before it; sequences at once */
    double tokens;          /* of one repeat, all sequences together */
    double bytes, ops;      /* what one repeat must at least read; 2 x multiply-adds of its matrices */
    double seconds, spread; /* median of the repeats; (largest - smallest) / median speed */
    double one, one_ratio;  /* ROW_VERIFY: seconds of a step of 1 token, in turns with it; median of their ratios */
    double read_share;      /* ROW_DECODE of one sequence: its bytes a second against those of reading the weights alone, in turns with it */
    double versus;          /* speed against the first subject's, in turns with it: median of the repeats' ratios */
    double kept;            /* ROW_COLD: share of the file that the system kept in memory all the same */
    double share;           /* of the limit that binds: bench_report_finish */
    const char *bound;      /* "memory", "compute" */
} bench_row;

/* A file with a number of threads. Limits are its own: they depend on both. */
typedef struct bench_subject {
    const char *path;
    char label[96];       /* what tells it from the others of the report */
    int threads;          /* as asked; 0: the engine chooses */
    const engine_info *info;
    limits limits;
    double weights;       /* bytes a second at which just these weights can be read */
    double cpu_share;     /* of the threads' time, what the system gave while peaks were measured: less than 1 beside other programs */
} bench_subject;

typedef struct bench_report {
    char cpu[256];
    bool exact;
    int repeats;
    bench_subject subjects[BENCH_SUBJECTS];
    int n_subjects;
    bool many_files, many_threads;
    bench_row *rows;
    int n_rows;
    buf explained; /* what --explain says, after the table */
} bench_report;

/* Measures and fills *r; its texts are borrowed from *b, which bench_close frees (also after a failure), with the rows. */
typedef struct bench bench;
int bench_measure(bench **b, const bench_plan *plan, bench_report *r, err *e);
void bench_close(bench *b);

/* The child of start rows: opens the file, and writes the first token after n made-up ones. */
int bench_first_token(const engine_opts *o, int n, err *e);
/* Starts it, and takes the seconds from before the start to the first byte that it writes. */
int bench_time_start(const bench_plan *plan, const bench_subject *s, double *seconds, err *e);
/* Asks the system to forget the file's pages; *kept: the share that it still holds, 1 where that cannot be known. */
int bench_drop_file(const char *path, double *kept, err *e);

double bench_read_limit(const bench_subject *s);     /* bytes a second: the better of memory and these weights */
double bench_peak(const bench_report *r, const bench_subject *s); /* operations a second of what the weights' type computes with */
const char *bench_peak_name(const bench_report *r, const bench_subject *s); /* "int8", "bf16", "f32" */
void bench_report_finish(bench_report *r);           /* labels; shares, once all limits are measured */

void bench_row_name(const bench_row *row, char name[32]); /* "pp512", "tg64", "verify8", "start-warm" */
void bench_text(const bench_report *r, buf *out);
void bench_json(const bench_report *r, buf *out);
void bench_csv(const bench_report *r, buf *out);
void bench_svg(const bench_report *r, buf *out);
int bench_compare(const char *before, const char *after, buf *out, err *e); /* of two JSONs; fails if they do not compare */

/* What the two files of the picture share. */
enum { SVG_WIDTH = 860, SVG_LEFT = 70, SVG_RIGHT = 140 };
int svg_roofline(const bench_report *r, int top, buf *out); /* returns the height used */

#endif
