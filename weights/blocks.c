/* blocks: GGUF's quantised types to f32. The products and sums are those of the reference (ggml-quants.c, gguf/quants.py), each
 * rounded once, in the same order: contraction is off for the whole tree, so the bits agree. It must not know files, names or
 * tensors: one block in, its weights out. */
#include "weights/blocks.h"

#include "kernels/quant.h"

const block_type *block_of(st_type type) {
    static const block_type types[ST_OTHER] = {
        [ST_F32] = { "F32", 1, 4 },       [ST_F64] = { "F64", 1, 8 },       [ST_F16] = { "F16", 1, 2 },
        [ST_BF16] = { "BF16", 1, 2 },     [ST_Q8_0] = { "Q8_0", 32, 34 },   [ST_Q4_0] = { "Q4_0", 32, 18 },
        [ST_Q4_1] = { "Q4_1", 32, 20 },   [ST_Q5_0] = { "Q5_0", 32, 22 },   [ST_Q5_1] = { "Q5_1", 32, 24 },
        [ST_Q4_K] = { "Q4_K", 256, 144 }, [ST_Q5_K] = { "Q5_K", 256, 176 }, [ST_Q6_K] = { "Q6_K", 256, 210 }
    };
    return type < ST_OTHER ? &types[type] : NULL;
}

static float half(const uint8_t *p) { return f16_to_f32((uint16_t)(p[0] | p[1] << 8)); }

static uint32_t word(const uint8_t *p) { return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24; }

/* f16 d, 32 x int8 */
static void read_q8_0(const uint8_t *p, float *out) {
    float d = half(p);
    for (int i = 0; i < 32; i++) out[i] = d * (float)(int8_t)p[2 + i];
}

/* f16 d, 16 bytes: weight i in the low nibble, 16 + i in the high one; zero point 8 */
static void read_q4_0(const uint8_t *p, float *out) {
    float d = half(p);
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)((p[2 + i] & 15) - 8);
        out[16 + i] = d * (float)((p[2 + i] >> 4) - 8);
    }
}

/* f16 d, f16 m, nibbles as q4_0: d q + m */
static void read_q4_1(const uint8_t *p, float *out) {
    float d = half(p), m = half(p + 2);
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)(p[4 + i] & 15) + m;
        out[16 + i] = d * (float)(p[4 + i] >> 4) + m;
    }
}

/* f16 d, u32 of fifth bits, nibbles as q4_0; zero point 16 */
static void read_q5_0(const uint8_t *p, float *out) {
    float d = half(p);
    uint32_t high = word(p + 2);
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)((int)((p[6 + i] & 15) | (high >> i & 1) << 4) - 16);
        out[16 + i] = d * (float)((int)(p[6 + i] >> 4 | (high >> (16 + i) & 1) << 4) - 16);
    }
}

/* f16 d, f16 m, u32 of fifth bits, nibbles: d q + m */
static void read_q5_1(const uint8_t *p, float *out) {
    float d = half(p), m = half(p + 2);
    uint32_t high = word(p + 4);
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)((p[8 + i] & 15) | (high >> i & 1) << 4) + m;
        out[16 + i] = d * (float)((uint32_t)p[8 + i] >> 4 | (high >> (16 + i) & 1) << 4) + m;
    }
}

/* Eight 6-bit scales and eight 6-bit minima in 12 bytes: the low six bits of bytes 0-3 and 4-7, then nibbles whose two upper
 * bits are the upper bits of those. */
static void k_scales(const uint8_t *p, int i, float *scale, float *min) {
    if (i < 4) *scale = (float)(p[i] & 63), *min = (float)(p[4 + i] & 63);
    else {
        *scale = (float)((p[4 + i] & 15) | (p[i - 4] >> 6) << 4);
        *min = (float)(p[4 + i] >> 4 | (p[i] >> 6) << 4);
    }
}

/* f16 d, f16 dmin, 12 bytes of scales and minima, 128 bytes: of each 32 the low nibbles are one sub-block, the high the next.
 * high: the 32 bytes of fifth bits of q5_K, or NULL. */
static void read_k(const uint8_t *p, const uint8_t *high, const uint8_t *low, float *out) {
    float d = half(p), dmin = half(p + 2);
    for (int sub = 0; sub < 8; sub++) {
        float scale, min;
        k_scales(p + 4, sub, &scale, &min);
        float by = d * scale, minus = dmin * min;
        for (int i = 0; i < 32; i++) {
            int q = sub & 1 ? low[sub / 2 * 32 + i] >> 4 : low[sub / 2 * 32 + i] & 15;
            if (high) q |= (high[i] >> sub & 1) << 4;
            out[sub * 32 + i] = by * (float)q - minus;
        }
    }
}

/* 128 bytes of low nibbles, 64 of two upper bits, 16 x int8 scales, f16 d; two halves of 128 weights; zero point 32 */
static void read_q6_k(const uint8_t *p, float *out) {
    float d = half(p + 208);
    for (int i = 0; i < 256; i++) {
        int h = i / 128, quarter = i % 128 / 32, j = i % 32;
        int nibble = p[h * 64 + quarter % 2 * 32 + j] >> (quarter / 2 * 4) & 15, upper = p[128 + h * 32 + j] >> (2 * quarter) & 3;
        float by = d * (float)(int8_t)p[192 + i / 16];
        out[i] = by * (float)((nibble | upper << 4) - 32);
    }
}

void block_read(st_type type, const uint8_t *block, float *out) {
    switch (type) {
    case ST_Q8_0:
        read_q8_0(block, out);
        break;
    case ST_Q4_0:
        read_q4_0(block, out);
        break;
    case ST_Q4_1:
        read_q4_1(block, out);
        break;
    case ST_Q5_0:
        read_q5_0(block, out);
        break;
    case ST_Q5_1:
        read_q5_1(block, out);
        break;
    case ST_Q4_K:
        read_k(block, NULL, block + 16, out);
        break;
    case ST_Q5_K:
        read_k(block, block + 16, block + 48, out);
        break;
    case ST_Q6_K:
        read_q6_k(block, out);
        break;
    default:
        break;
    }
}
