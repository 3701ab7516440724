/* generic: every operation of kernels.h, written once over v16 and compiled once per instruction set by inclusion.
 * A k_*.c file says how its CPU spells 16 floats (v16_*.inc.h) and a group's integer dot product, includes this, and makes
 * its table with KERNELS(name). All tables run this text, which is how they agree to the bit. It must not know instruction
 * sets; whatever rounds is an explicit v16 operation, so no compiler has freedom here.
 *
 *   math.inc.h       exp, tanh, erf, norms, rotations, activations: element by element
 *   matmul.inc.h     the blocked matrix products and the quantisation of activations
 *   attention.inc.h  attention over pages, and the pages' writer */
#define PREFETCH(p) __builtin_prefetch((const void *)(p), 0, 3)
#define PREFETCH_L2(p) __builtin_prefetch((const void *)(p), 0, 2)
#define HIDE_POINTER(p) __asm__("" : "+r"(p)) /* the compiler no longer knows where it points */

/* The first n of 16 elements, zeros beyond; and the first n stored. */
INLINE v16 v16_load_n(const float *p, int n) {
    if (n >= 16) return v16_load(p);
    float part[16] = { 0 };
    if (n > 0) memcpy(part, p, (size_t)n * sizeof *p);
    return v16_load(part);
}

INLINE void v16_store_n(float *p, v16 a, int n) {
    if (n >= 16) {
        v16_store(p, a);
        return;
    }
    float part[16];
    v16_store(part, a);
    memcpy(p, part, (size_t)n * sizeof *p);
}

#include "kernels/math.inc.h"
#include "kernels/matmul.inc.h"
#include "kernels/attention.inc.h"
#include "kernels/probe.inc.h"

/* The table of a CPU that has own ways for some products, and of one that has not. */
#define KERNELS_WITH(table_name, bf16, q8, q4, attend, int8_probe, bf16_probe) { \
    .name = table_name, \
    .matmul = { [W_F32] = { matmul_f32, matmul_f32 }, [W_BF16] = { bf16, bf16 }, \
                [W_Q8] = { matmul_q8_f32, q8 }, [W_Q4] = { matmul_q4_f32, q4 } }, \
    .row_load = row_load, .quantize = quantize, .rmsnorm = rmsnorm, .layernorm = layernorm, .rope = rope, .glu = glu, \
    .act = act, .add = add_scaled, .add_ranks = add_ranks, \
    .scale = scale_by, .sparsify = sparsify, .mean_square = mean_square, .mul = mul, \
    .softmax = softmax, .softcap = softcap, .kv_store = kv_store, .attention = attend, .attn_merge = attn_merge, \
    .probe_read = probe_read, .probe_f32 = probe_f32, .probe_int8 = int8_probe, .probe_bf16 = bf16_probe }
#define KERNELS(table_name) KERNELS_WITH(table_name, matmul_bf16, matmul_q8, matmul_q4, attention, probe_int8, probe_f32)
