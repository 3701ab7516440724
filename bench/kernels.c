/* bench/kernels: each usable table's speed against this machine's limits: what memory and arithmetic allow, and what each kernel
 * reaches.
 * It owns its threads and its buffers; it knows kernels and the layout, no models.
 *   bench/kernels [-t THREADS] [-k TABLE] [--mib MIB] */
#define _GNU_SOURCE
#include "kernels/quant.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_THREADS = 64, REPEATS = 5 };

/* One measured piece of work, run by all threads at once: work(arg, thread) returns what it did (bytes, operations). */
typedef double work_fn(void *arg, int thread);
typedef struct task {
    work_fn *work;
    void *arg;
    int thread;
    double amount, seconds;
    pthread_barrier_t *start;
} task;

static void *task_run(void *p) {
    task *t = p;
    pthread_barrier_wait(t->start);
    double begin = now_seconds();
    t->amount = t->work(t->arg, t->thread);
    t->seconds = now_seconds() - begin;
    return NULL;
}

/* The best rate, a second, of REPEATS runs with `threads` threads; of fewer where they take longer than a second. */
static double rate(work_fn *work, void *arg, int threads) {
    double best = 0, begin = now_seconds();
    for (int repeat = 0; repeat < REPEATS && (repeat == 0 || now_seconds() - begin < 1); repeat++) {
        pthread_t id[MAX_THREADS];
        task tasks[MAX_THREADS];
        pthread_barrier_t start;
        pthread_barrier_init(&start, NULL, (unsigned)threads);
        for (int i = 0; i < threads; i++) {
            tasks[i] = (task){ work, arg, i, 0, 0, &start };
            if (i && pthread_create(&id[i], NULL, task_run, &tasks[i])) {
                fprintf(stderr, "bench/kernels: cannot start thread %d of %d\n", i + 1, threads);
                exit(1);
            }
        }
        task_run(&tasks[0]);
        double amount = tasks[0].amount, seconds = tasks[0].seconds;
        for (int i = 1; i < threads; i++) {
            pthread_join(id[i], NULL);
            amount += tasks[i].amount;
            if (tasks[i].seconds > seconds) seconds = tasks[i].seconds;
        }
        pthread_barrier_destroy(&start);
        if (amount / seconds > best) best = amount / seconds;
    }
    return best;
}

/* ---- what is measured ---- */

typedef struct setup {
    const kernels *k;
    int threads;
    char *memory;       /* weights, or pages of a cache */
    size_t bytes;       /* a multiple of 256 for each thread */
    long reps;
    /* matmul */
    wtype type;
    int int8, n, inputs, rounds;
    acts a;
    float *y;
    /* attention */
    kv_type kv;
    int n_q, hd, depth, heads;
} setup;

static double read_work(void *arg, int thread) {
    setup *s = arg;
    size_t part = s->bytes / (size_t)s->threads / 256 * 256;
    volatile uint64_t keep = s->k->probe_read(s->memory + part * (size_t)thread, part);
    (void)keep;
    return (double)part;
}
static double f32_work(void *arg, int thread) { setup *s = arg; (void)thread; return s->k->probe_f32(s->reps); }
static double int8_work(void *arg, int thread) { setup *s = arg; (void)thread; return s->k->probe_int8(s->reps); }
static double bf16_work(void *arg, int thread) { setup *s = arg; (void)thread; return s->k->probe_bf16(s->reps); }

/* Threads share the panels of `rounds` matrices that lie one after another in memory. Returns multiply-adds times 2. */
static double matmul_work(void *arg, int thread) {
    setup *s = arg;
    int panels = s->n / PANEL, p0 = panels * thread / s->threads, p1 = panels * (thread + 1) / s->threads;
    size_t bytes = panel_bytes(s->type, s->inputs) * (size_t)panels;
    for (int i = 0; i < s->rounds; i++) {
        mat w = { s->memory + (size_t)i * bytes % (s->bytes - bytes + 1) / 64 * 64, (uint8_t)s->type, LAYOUT_P16, s->n,
            s->inputs, 1, NULL, NULL };
        s->k->matmul[s->type][s->int8](&w, &s->a, s->y, (size_t)s->n, p0, p1);
    }
    return 2.0 * (p1 - p0) * PANEL * s->inputs * s->a.m * s->rounds;
}

enum { MOST_QUERIES = 128 };

/* Each thread takes its share of the KV heads, `depth` positions of each. Returns bytes of K and V. */
static double attention_work(void *arg, int thread) {
    setup *s = arg;
    const size_t k_bytes = kv_block_bytes(s->kv, s->hd, false), head = k_bytes + kv_block_bytes(s->kv, s->hd, true);
    const void *page[64];
    attn_query query[MOST_QUERIES];
    float *q = s->y + (size_t)thread * 65536, *out = q + 32768;
    for (int h = thread; h < s->heads; h += s->threads)
        for (int t = 0; t < s->depth; t += ATTN_SEGMENT) {
            for (int i = 0; i < s->depth / KV_PAGE; i++) page[i] = s->memory + ((size_t)i * (size_t)s->heads + (size_t)h) * head;
            for (int i = 0; i < s->n_q; i++)
                query[i] = (attn_query){ q + (size_t)i * (size_t)s->hd, NULL, t, t + ATTN_SEGMENT, out + (size_t)i * (size_t)(s->hd + 16) };
            s->k->attention(&(attn_job){ query, s->n_q, s->hd, page, 0, k_bytes, s->kv, 0 });
        }
    return (double)((s->heads - thread + s->threads - 1) / s->threads) * s->depth / KV_PAGE * (double)head;
}

/* ---- the report ---- */

typedef struct limits { double read, f32, int8, bf16; } limits;

static long calibrate(setup *s, work_fn *work) {
    s->reps = 1000;
    double begin, seconds;
    do {
        s->reps *= 4;
        begin = now_seconds();
        work(s, 0);
        seconds = now_seconds() - begin;
    } while (seconds < 0.02);
    return s->reps;
}

static limits measure_limits(setup *s) {
    limits l = { 0 };
    l.read = rate(read_work, s, s->threads);
    calibrate(s, f32_work), l.f32 = rate(f32_work, s, s->threads);
    calibrate(s, int8_work), l.int8 = rate(int8_work, s, s->threads);
    calibrate(s, bf16_work), l.bf16 = rate(bf16_work, s, s->threads);
    printf("%-12s limits: read %.1f GB/s, f32 %.1f GFLOP/s, int8 %.1f GOP/s, bf16 %.1f GFLOP/s\n", s->k->name, l.read / 1e9,
        l.f32 / 1e9, l.int8 / 1e9, l.bf16 / 1e9);
    return l;
}

static void bench_matmul(setup *s, const limits *l, wtype type, int int8) {
    static const int rows[] = { 1, 8, 64, 512 };
    s->type = type, s->int8 = int8;
    acts whole = s->a;
    if (!int8) s->a.q = NULL;
    size_t bytes = panel_bytes(type, s->inputs) * (size_t)(s->n / PANEL);
    printf("%-12s matmul %-4s x %-4s", s->k->name, wtype_name(type), int8 ? "int8" : "f32");
    for (int i = 0; i < 4; i++) {
        s->a.m = rows[i];
        s->rounds = rows[i] == 1 ? (int)(s->bytes / bytes) : 1;
        double ops = rate(matmul_work, s, s->threads), peak = int8 ? l->int8 : type == W_BF16 ? l->bf16 : l->f32;
        double gb = ops / (2.0 * s->n * s->inputs * rows[i]) * (double)bytes;
        if (rows[i] == 1) printf("  1: %5.1f GB/s %3.0f %%", gb / 1e9, 100 * gb / l->read);
        else printf("  %d: %6.1f GOP/s %3.0f %%", rows[i], ops / 1e9, 100 * ops / peak);
        fflush(stdout);
    }
    printf("\n");
    s->a = whole;
}

/* Few queries are bound by reading the cache, a prompt's by arithmetic: 2 products of hd multiply-adds a query and position. */
static void bench_attention(setup *s, const limits *l, kv_type kv) {
    static const int queries[] = { 1, 3, 4, 8, 16, MOST_QUERIES };
    s->kv = kv, s->hd = 128, s->depth = 4096, s->heads = 8;
    const double position = (double)(kv_block_bytes(kv, s->hd, false) + kv_block_bytes(kv, s->hd, true)) / KV_PAGE;
    const int copies = (int)((double)s->bytes / (position * s->depth * s->heads));
    printf("%-12s attention %s, depth 4096, hd 128", s->k->name, kv == KV_Q8 ? "q8" : "f16");
    s->heads *= min_int(copies, 8); /* past the last cache */
    for (int i = 0; i < 6; i++) {
        s->n_q = queries[i];
        double bytes = rate(attention_work, s, s->threads), ops = bytes / position * s->n_q * 4 * s->hd;
        if (s->n_q < MOST_QUERIES) printf("  n_q %d: %.1f GB/s %.0f %%", s->n_q, bytes / 1e9, 100 * bytes / l->read);
        else printf("  n_q %d: %.1f GOP/s %.0f %%", s->n_q, ops / 1e9, 100 * ops / (kv == KV_Q8 ? l->int8 : l->f32));
        fflush(stdout);
    }
    printf("\n");
}

static void bench_table(const kernels *k, setup *s) {
    s->k = k;
    for (int i = 0; i < s->a.m; i++)
        k->quantize(s->a.x + (size_t)i * s->a.ldx, s->inputs, s->a.q + (size_t)i * s->a.ldx,
            s->a.scale + i * (s->inputs / GROUP), s->a.sum + i * (s->inputs / GROUP));
    limits l = measure_limits(s);
    bench_matmul(s, &l, W_Q4, 1);
    bench_matmul(s, &l, W_Q8, 1);
    bench_matmul(s, &l, W_Q4, 0);
    bench_matmul(s, &l, W_Q8, 0);
    bench_matmul(s, &l, W_BF16, 0);
    bench_matmul(s, &l, W_F32, 0);
    bench_attention(s, &l, KV_F16);
    bench_attention(s, &l, KV_Q8);
}

static void usage(FILE *out) {
    fprintf(out, "usage: bench/kernels [-t THREADS] [-k TABLE] [--mib MIB]\n"
                 "Speed of each kernel table that this machine can run, against the limits measured in the same run.\n");
}

int main(int argc, char **argv) {
    const char *only = NULL;
    setup s = { .threads = (int)sysconf(_SC_NPROCESSORS_ONLN), .bytes = 512u << 20, .n = 2048, .inputs = 2048 };
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0) return usage(stdout), 0;
        if (strcmp(argv[i], "--version") == 0) return puts("quern " QUERN_VERSION), 0;
        if (strcmp(argv[i], "-t") == 0 && i + 1 < argc) s.threads = atoi(argv[++i]);
        else if (strcmp(argv[i], "-k") == 0 && i + 1 < argc) only = argv[++i];
        else if (strcmp(argv[i], "--mib") == 0 && i + 1 < argc) s.bytes = (size_t)max_int(atoi(argv[++i]), 64) << 20;
        else return usage(stderr), 2;
    }
    if (s.threads < 1 || s.threads > MAX_THREADS)
        return fprintf(stderr, "bench/kernels: -t must be from 1 to %d\n", MAX_THREADS), 2;
    err e = { 0 };
    if (only && kernels_init(only, &e)) return fprintf(stderr, "bench/kernels: %s\n", e.msg), 1;
    size_t m = 512, groups = (size_t)s.inputs / GROUP;
    s.memory = alloc_aligned(s.bytes);
    float *x = alloc_aligned(m * (size_t)s.inputs * 4);
    s.a = (acts){ (int)m, s.inputs, x, (size_t)s.inputs, alloc_aligned(m * (size_t)s.inputs), alloc_aligned(m * groups * 4),
        alloc_aligned(m * groups * 4) };
    s.y = alloc_aligned(m * (size_t)s.n * 4 + (size_t)s.threads * 65536 * 4);
    if (!s.memory || !x || !s.a.q || !s.a.scale || !s.a.sum || !s.y)
        return fprintf(stderr, "bench/kernels: out of memory: needs %zu MiB\n", s.bytes >> 20), 1;
    /* modest f16, bf16 and f32 numbers */
    for (size_t i = 0; i < s.bytes / 2; i++) ((uint16_t *)(void *)s.memory)[i] = (uint16_t)(0x2c00 + (i * 2654435761u >> 22));
    for (size_t i = 0; i < m * (size_t)s.inputs; i++) x[i] = (float)(i * 2654435761u % 2001) / 1000 - 1;
    char cpu[160];
    cpu_describe(cpu, sizeof cpu);
    printf("%s, %d threads; matmul %d x %d, best of %d; percent: of the read limit at 1 row "
           "and for attention of few queries, else of the arithmetic's\n", cpu, s.threads, s.n, s.inputs, REPEATS);
    for (int i = 0; kernels_all()[i]; i++)
        if (kernels_usable(kernels_all()[i]) && (!only || kernels_all()[i] == kernels_get())) bench_table(kernels_all()[i], &s);
    void *all[] = { s.memory, x, s.a.q, s.a.scale, s.a.sum, s.y };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free_aligned(all[i]);
    return 0;
}
