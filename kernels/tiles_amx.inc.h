/* tiles_amx: the tile instructions that tiles.inc.h uses, as AMX spells them (Intel SDM volume 2; XED names in comments).
 * A tile is at most 16 rows of 64 bytes. Inline assembly, not intrinsics: gcc 12 declares the configuration too small and drops
 * stores to it, and its tile loads are not ordered behind ordinary stores. t, c, a, b are the numbers of registers, literally. */
#define TILE_CONFIG(p) __asm__ volatile("ldtilecfg %0" : : "m"(*(p)) : "memory") /* all tiles are zero after it */
#define TILE_RELEASE() __asm__ volatile("tilerelease" : : : "memory")            /* nothing to save at a context switch */
#define TILE_ZERO(t) __asm__ volatile("tilezero %%tmm" #t : : : "memory")
#define TILE_LOAD(t, p, stride) \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #t : : "r"((const void *)(p)), "r"((size_t)(stride)) : "memory")
#define TILE_STORE(t, p, stride) \
    __asm__ volatile("tilestored %%tmm" #t ", (%0,%1,1)" : : "r"((void *)(p)), "r"((size_t)(stride)) : "memory")
/* c[m][n] += sum over i < 4 and k of a[m][4k + i] * b[k][4n + i], signed bytes, 32-bit sums */
#define TILE_DOT_INT8(c, a, b) __asm__ volatile("tdpbssd %%tmm" #b ", %%tmm" #a ", %%tmm" #c : : : "memory")
/* c[m][n] += (sum over k of a[m][2k] * b[k][2n]) + (the same of 2k + 1, 2n + 1), bf16, fused in f32, denormals taken as zero */
#define TILE_DOT_BF16(c, a, b) __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #c : : : "memory")
