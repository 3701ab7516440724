/* plan: what a run will need, from the file's header alone: memory by kind for a full context, and the speed that the memory's
 * bandwidth allows. Nothing is computed, and no weight is read. */
#include <stdarg.h>

#include "tools/run/run.h"

/* The program itself: its code, the C library, stacks of the threads, output buffers. Measured on x86-64 Linux with glibc. */
static const uint64_t PROGRAM_BYTES = 3200000;

static void line(const char *what, uint64_t bytes, const char *fmt, ...) PRINTF_LIKE(3, 4);

static void line(const char *what, uint64_t bytes, const char *fmt, ...) {
    va_list args;
    printf("%-9s %10.1f MB  ", what, (double)bytes / 1e6);
    va_start(args, fmt);
    vprintf(fmt, args);
    va_end(args);
    printf("\n");
}

static void print_memory(const engine *g) {
    engine_memory m = engine_plan(g);
    const engine_info *i = engine_about(g);
    uint64_t own = m.kv + m.scratch + m.tables + PROGRAM_BYTES, peak = own + m.weights - m.looked_up;
    line("weights", m.weights, "mapped from the file, %.1f MB read for each token", (double)i->decode_bytes / 1e6);
    if (m.looked_up)
        line("lookups", m.looked_up, "of these weights stay in the file: a token reads %.1f kB of them, which are not kept",
             (double)m.looked_up_row / 1e3);
    line("cache", m.kv, "%s, %d session%s of %d positions, %.1f kB a position%s", m.kv_type, i->max_sessions, i->max_sessions == 1 ? "" : "s", i->ctx,
         (double)m.kv_position / 1e3, i->max_sessions == 1 ? "" : "; what they have in common they share, so this is the most");
    line("buffers", m.scratch, "a forward pass of up to %d tokens", i->max_rows);
    line("program", m.tables + PROGRAM_BYTES, "code, tables, threads");
    line("peak", peak, "of which %.1f MB are the process's own and the rest is the file's, shared and given back on demand", (double)own / 1e6);
    line("machine", m.machine, "%s", own > m.machine ? "TOO LITTLE: the process's own memory does not fit; use a smaller --ctx"
                               : peak > m.machine    ? "the file will be read again and again: it does not fit beside the rest"
                                                     : "enough");
}

static int print_speed(engine *g, err *e) {
    const engine_info *i = engine_about(g);
    double rate, n = i->max_sessions, full = (double)i->decode_bytes + (double)engine_plan(g).kv_position * i->ctx * n;
    if (engine_memory_rate(g, 0.2, &rate, e)) return -1;
    printf("speed     at most %.1f tokens/s, %.1f with a full context%s: memory is read at %.1f GB/s just now, on %d thread%s\n",
           n * rate / (double)i->decode_bytes, n * rate / full, i->max_sessions > 1 ? ", all sessions together" : "", rate / 1e9, i->threads,
           i->threads == 1 ? "" : "s");
    return 0;
}

int run_plan(const run_opts *o, err *e) {
    engine *g;
    if (engine_open(&g, &o->engine, e)) return -1;
    const engine_info *i = engine_about(g);
    printf("%s (%s, %s): %s\n", i->name, i->family, i->type, i->ctx_reason);
    print_memory(g);
    int rc = i->has_decoder ? print_speed(g, e) : 0;
    engine_close(g);
    return rc;
}
