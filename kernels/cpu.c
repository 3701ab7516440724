/* cpu: asks the processor and the system what can run here, and keeps the one table that this process uses.
 * It owns the list of tables and the choice among them; it must not know what the tables compute. */
#include "kernels/kernels.h"

#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

/* What a table needs; a bit a feature. */
enum { HAS_AVX2 = 1, HAS_AVXVNNI = 2, HAS_AVX512 = 4, HAS_AVX512VNNI = 8, HAS_NEON = 16, HAS_DOTPROD = 32 };

static const struct { int bit; const char *name; } features[] = {
    { HAS_AVX2, "avx2 fma f16c" }, { HAS_AVXVNNI, "avxvnni" }, { HAS_AVX512, "avx512" }, { HAS_AVX512VNNI, "avx512vnni" },
    { HAS_NEON, "neon" }, { HAS_DOTPROD, "dotprod" },
};

extern const kernels kernels_scalar;
#if defined(__x86_64__)
extern const kernels kernels_avx2, kernels_avxvnni, kernels_avx512, kernels_avx512vnni;
static const kernels *const tables[] = { &kernels_scalar, &kernels_avx2, &kernels_avxvnni, &kernels_avx512, &kernels_avx512vnni,
                                         NULL };
static const int needs[] = { 0, HAS_AVX2, HAS_AVX2 | HAS_AVXVNNI, HAS_AVX2 | HAS_AVX512, HAS_AVX2 | HAS_AVX512 | HAS_AVX512VNNI };

/* The registers that the system saves for us: a CPU's feature is of no use without (Intel SDM volume 1, 13.2). */
static uint32_t saved_state(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

static int probe(void) {
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE)) return 0;
    uint32_t saved = saved_state();
    bool ymm = (saved & 6) == 6, zmm = (saved & 0xe6) == 0xe6;
    bool fma = c & bit_FMA, f16c = c & bit_F16C, avx = c & bit_AVX;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
    int has = 0;
    if (ymm && avx && fma && f16c && (b & bit_AVX2)) has |= HAS_AVX2;
    if (zmm && (b & bit_AVX512F) && (b & bit_AVX512BW) && (b & bit_AVX512VL) && (b & bit_AVX512DQ)) has |= HAS_AVX512;
    if (c & bit_AVX512VNNI) has |= HAS_AVX512VNNI;
    if (__get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1u << 4)) has |= HAS_AVXVNNI;
    return has;
}

/* The brand string of CPUID leaves 0x80000002 to 4. */
static void cpu_name(char name[49]) {
    unsigned v[12] = { 0 };
    for (unsigned i = 0; i < 3; i++) __get_cpuid(0x80000002 + i, &v[4 * i], &v[4 * i + 1], &v[4 * i + 2], &v[4 * i + 3]);
    memcpy(name, v, 48);
    name[48] = 0;
    if (!name[0]) strcpy(name, "x86-64");
}
#elif defined(__aarch64__)
extern const kernels kernels_neon, kernels_dotprod;
static const kernels *const tables[] = { &kernels_scalar, &kernels_neon, &kernels_dotprod, NULL };
static const int needs[] = { 0, HAS_NEON, HAS_NEON | HAS_DOTPROD };

static int probe(void) {
#if defined(__linux__)
    return HAS_NEON | (getauxval(AT_HWCAP) & 1ul << 20 ? HAS_DOTPROD : 0); /* HWCAP_ASIMDDP */
#elif defined(__ARM_FEATURE_DOTPROD)
    return HAS_NEON | HAS_DOTPROD;
#else
    return HAS_NEON;
#endif
}

static void cpu_name(char name[49]) { strcpy(name, "aarch64"); }
#else
static const kernels *const tables[] = { &kernels_scalar, NULL };
static const int needs[] = { 0 };
static int probe(void) { return 0; }
static void cpu_name(char name[49]) { strcpy(name, "unknown CPU"); }
#endif

const kernels *const *kernels_all(void) { return tables; }

bool kernels_usable(const kernels *k) {
    for (int i = 0; tables[i]; i++)
        if (tables[i] == k) return (probe() & needs[i]) == needs[i];
    return false;
}

const kernels *kernels_named(const char *name) {
    for (int i = 0; tables[i]; i++)
        if (strcmp(tables[i]->name, name) == 0) return tables[i];
    return NULL;
}

static const kernels *chosen; /* set once, before threads start */

static int refuse(const char *name, bool compiled_in, err *e) {
    char usable[256] = "";
    for (int i = 0; tables[i]; i++) {
        size_t at = strlen(usable);
        if (kernels_usable(tables[i])) snprintf(usable + at, sizeof usable - at, "%s%s", at ? ", " : "", tables[i]->name);
    }
    return fail_code(e, ERR_INPUT, "kernels '%.64s' %s; usable here: %s (QUERN_KERNELS chooses)", name,
                     compiled_in ? "need instructions that this CPU or system lacks" : "are unknown", usable);
}

int kernels_init(const char *want, err *e) {
    if (!want) want = getenv("QUERN_KERNELS");
    const kernels *k = NULL;
    if (want && *want) {
        k = kernels_named(want);
        if (!k || !kernels_usable(k)) return refuse(want, k != NULL, e);
    } else {
        for (int i = 0; tables[i]; i++)
            if (kernels_usable(tables[i])) k = tables[i];
    }
    chosen = k;
    return 0;
}

const kernels *kernels_get(void) { return chosen; }

void cpu_describe(char *out, size_t n) {
    char name[49];
    cpu_name(name);
    int has = probe();
    size_t at = 0, size = n;
    const char *start = name + strspn(name, " ");
    at += (size_t)snprintf(out, size, "%s (", start);
    bool any = false;
    for (size_t i = 0; i < sizeof features / sizeof *features; i++)
        if (has & features[i].bit && at < n) {
            at += (size_t)snprintf(out + at, n - at, "%s%s", any ? " " : "", features[i].name);
            any = true;
        }
    if (at < n) snprintf(out + at, n - at, "%s)", any ? "" : "no vector instructions used");
}
