/* cpu: asks the processor and the system what can run here, and keeps the one table that this process uses.
 * It owns the list of tables and the choice among them; it must not know what the tables compute. */
#define _GNU_SOURCE
#include "kernels/kernels.h"

#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

/* What a table needs; a bit a feature. */
enum { HAS_AVX2 = 1, HAS_AVXVNNI = 2, HAS_AVX512 = 4, HAS_AVX512VNNI = 8, HAS_AMX = 16, AMX_REFUSED = 32, HAS_NEON = 64,
       HAS_DOTPROD = 128, HAS_I8MM = 256 };

static const struct { int bit; const char *name; } features[] = {
    { HAS_AVX2, "avx2 fma f16c" }, { HAS_AVXVNNI, "avxvnni" }, { HAS_AVX512, "avx512" }, { HAS_AVX512VNNI, "avx512vnni" },
    { HAS_AMX, "amx" }, { AMX_REFUSED, "amx, which the system refuses" },
    { HAS_NEON, "neon" }, { HAS_DOTPROD, "dotprod" }, { HAS_I8MM, "i8mm" },
};

extern const kernels kernels_scalar;
#if defined(__x86_64__)
extern const kernels kernels_avx2, kernels_avxvnni, kernels_avx512, kernels_avx512vnni, kernels_amx;
static const kernels *const tables[] = { &kernels_scalar, &kernels_avx2, &kernels_avxvnni, &kernels_avx512, &kernels_avx512vnni,
                                         &kernels_amx, NULL };
static const int needs[] = { 0, HAS_AVX2, HAS_AVX2 | HAS_AVXVNNI, HAS_AVX2 | HAS_AVX512, HAS_AVX2 | HAS_AVX512 | HAS_AVX512VNNI,
                             HAS_AVX2 | HAS_AVX512 | HAS_AVX512VNNI | HAS_AMX };

/* The registers that the system saves for us: a CPU's feature is of no use without (Intel SDM volume 1, 13.2). */
static uint32_t saved_state(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

/* Linux keeps the tiles' 8 KiB from a process until it asks, once for all its threads (Documentation/arch/x86/xstate.rst). */
static bool may_use_tiles(void) {
#if defined(__linux__) && defined(SYS_arch_prctl)
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
#else
    return false;
#endif
}

static int probe(void) {
    enum { AMX_BF16 = 1 << 22, AMX_TILE = 1 << 24, AMX_INT8 = 1 << 25, AMX = AMX_BF16 | AMX_TILE | AMX_INT8, TILE_STATE = 3 << 17 };
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
    if ((saved & TILE_STATE) == TILE_STATE && (d & AMX) == AMX) has |= may_use_tiles() ? HAS_AMX : AMX_REFUSED;
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
extern const kernels kernels_neon, kernels_dotprod, kernels_i8mm;
static const kernels *const tables[] = { &kernels_scalar, &kernels_neon, &kernels_dotprod, &kernels_i8mm, NULL };
static const int needs[] = { 0, HAS_NEON, HAS_NEON | HAS_DOTPROD, HAS_NEON | HAS_DOTPROD | HAS_I8MM };

static int probe(void) {
    int has = HAS_NEON;
#if defined(__linux__)
    if (getauxval(AT_HWCAP) & 1ul << 20) has |= HAS_DOTPROD; /* HWCAP_ASIMDDP */
    if (getauxval(AT_HWCAP2) & 1ul << 13) has |= HAS_I8MM;   /* HWCAP2_I8MM */
#else
#if defined(__ARM_FEATURE_DOTPROD)
    has |= HAS_DOTPROD;
#endif
#if defined(__ARM_FEATURE_MATMUL_INT8)
    has |= HAS_I8MM;
#endif
#endif
    return has;
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
    if (chosen != k) chosen = k; /* an engine may be opened while another computes */
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
