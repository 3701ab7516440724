/* The tile instructions of kernels/tiles_amx.inc.h in plain C, after the operation sections of Intel's manual (SDM volume 2:
 * LDTILECFG, TILELOADD, TILESTORED, TDPBSSD, TDPBF16PS), so that a CPU without them can run kernels/tiles.inc.h. What would raise
 * #UD or #GP there stops the program here. */
#ifndef QUERN_TILES_SOFT_H
#define QUERN_TILES_SOFT_H
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct soft_tile { int rows, bytes; uint8_t at[16][64]; } soft_tile;
static _Thread_local struct { bool configured; soft_tile tile[8]; } soft;

static void soft_fault(const char *what) { fprintf(stderr, "tiles: %s\n", what), abort(); }

static soft_tile *soft_get(int t) {
    if (!soft.configured) soft_fault("used without a configuration");
    if (soft.tile[t].rows == 0 || soft.tile[t].bytes == 0) soft_fault("a tile that is not configured");
    return &soft.tile[t];
}

static void soft_config(const void *memory) {
    const uint8_t *p = memory;
    if (p[0] != 1) soft_fault("only palette 1 here");
    for (int i = 1; i < 64; i++)
        if ((i < 16 || (i >= 32 && i < 48) || i >= 56) && p[i]) soft_fault("a reserved byte is not zero");
    memset(&soft, 0, sizeof soft);
    soft.configured = true;
    for (int t = 0; t < 8; t++) {
        uint16_t bytes;
        memcpy(&bytes, p + 16 + 2 * t, sizeof bytes);
        soft.tile[t].bytes = bytes, soft.tile[t].rows = p[48 + t];
        if (bytes > 64 || p[48 + t] > 16 || (bytes == 0) != (p[48 + t] == 0)) soft_fault("a shape outside the palette");
    }
}

/* Rows and bytes past the shape become zero, as every write of a tile leaves them. */
static void soft_load(int t, const void *p, size_t stride) {
    soft_tile *tile = soft_get(t);
    memset(tile->at, 0, sizeof tile->at);
    for (int r = 0; r < tile->rows; r++) memcpy(tile->at[r], (const char *)p + (size_t)r * stride, (size_t)tile->bytes);
}

static void soft_store(int t, void *p, size_t stride) {
    const soft_tile *tile = soft_get(t);
    for (int r = 0; r < tile->rows; r++) memcpy((char *)p + (size_t)r * stride, tile->at[r], (size_t)tile->bytes);
}

static void soft_zero(int t) { soft_tile *tile = soft_get(t); memset(tile->at, 0, sizeof tile->at); }

static void soft_check(const soft_tile *c, const soft_tile *a, const soft_tile *b) {
    if (a == b || a == c || b == c) soft_fault("a product needs three different tiles");
    if (c->rows != a->rows || c->bytes != b->bytes || a->bytes / 4 != b->rows || a->bytes % 4 || c->bytes % 4)
        soft_fault("shapes of a product");
}

static void soft_dot_int8(int ct, int at, int bt) {
    soft_tile *c = soft_get(ct), *a = soft_get(at), *b = soft_get(bt);
    soft_check(c, a, b);
    for (int m = 0; m < c->rows; m++) {
        int32_t sum[16];
        memcpy(sum, c->at[m], sizeof sum);
        for (int k = 0; k < a->bytes / 4; k++)
            for (int n = 0; n < c->bytes / 4; n++)
                for (int i = 0; i < 4; i++) sum[n] += (int8_t)a->at[m][4 * k + i] * (int8_t)b->at[k][4 * n + i];
        memcpy(c->at[m], sum, sizeof sum);
    }
}

static float soft_flush(float x) { return fabsf(x) < FLT_MIN ? copysignf(0, x) : x; } /* NaN stays */

static float soft_half(const uint8_t *row, int i) {
    uint32_t u = (uint32_t)row[2 * i] << 16 | (uint32_t)row[2 * i + 1] << 24;
    float x;
    memcpy(&x, &u, sizeof x);
    return soft_flush(x);
}

static void soft_dot_bf16(int ct, int at, int bt) {
    soft_tile *c = soft_get(ct), *a = soft_get(at), *b = soft_get(bt);
    soft_check(c, a, b);
    for (int m = 0; m < c->rows; m++) {
        float sum[32] = { 0 }, out[16];
        memcpy(out, c->at[m], sizeof out);
        for (int k = 0; k < a->bytes / 4; k++)
            for (int n = 0; n < c->bytes / 2; n++)
                sum[n] = soft_flush(fmaf(soft_half(a->at[m], 2 * k + n % 2), soft_half(b->at[k], n), sum[n]));
        for (int n = 0; n < c->bytes / 4; n++) out[n] = soft_flush(soft_flush(out[n]) + soft_flush(sum[2 * n] + sum[2 * n + 1]));
        memcpy(c->at[m], out, sizeof out);
    }
}

#define TILE_CONFIG(p) soft_config(p)
#define TILE_RELEASE() memset(&soft, 0, sizeof soft)
#define TILE_ZERO(t) soft_zero(t)
#define TILE_LOAD(t, p, stride) soft_load(t, p, stride)
#define TILE_STORE(t, p, stride) soft_store(t, p, stride)
#define TILE_DOT_INT8(c, a, b) soft_dot_int8(c, a, b)
#define TILE_DOT_BF16(c, a, b) soft_dot_bf16(c, a, b)
#endif
