/* compiler: the two words that kernels need from a compiler beyond C11. Included by every v16_*.inc.h but the scalar one. */
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif
#define INLINE static inline __attribute__((always_inline))
