/* relative: T5's relative position biases (Raffel et al. 2020), by bucket in the checkpoint, by distance in the file, so that the
 * runtime knows no buckets. The buckets are computed as transformers does, in float32: distances at powers of two lie on borders.
 */
#include <math.h>

#include "tools/convert/convert.h"

/* The bucket of a key at distance = key - query. both: keys on either side, half of the buckets each; else those ahead are at 0. */
static int bucket(int distance, int n_buckets, int max_distance, bool both) {
    int n = both ? n_buckets / 2 : n_buckets, base = both && distance > 0 ? n : 0, exact = n / 2;
    int away = both ? distance < 0 ? -distance : distance : distance < 0 ? -distance : 0;
    if (away < exact) return base + away;
    float log_away = (float)log((double)((float)away / (float)exact)), log_max = (float)log((double)max_distance / exact);
    int large = exact + (int)(log_away / log_max * (float)(n - exact));
    return base + min_int(large, n - 1);
}

float *relative_biases(checkpoint *c, const st_tensor *t, bool both, err *e) {
    int heads = c->arch.n_heads, reach = c->max_distance, columns = 2 * reach + 1;
    size_t n = (size_t)c->n_buckets * (size_t)heads;
    float *by_bucket = arena_alloc(&c->mem, n * sizeof(float)),
          *table = arena_alloc(&c->mem, (size_t)heads * (size_t)columns * sizeof(float));
    if (!by_bucket || !table) return fail_memory(e, (size_t)heads * (size_t)columns * sizeof(float), "position biases"), NULL;
    st_read(&c->st, t, 0, n, by_bucket);
    for (int d = -reach; d <= reach; d++) {
        const float *from = by_bucket + (size_t)bucket(d, c->n_buckets, c->max_distance, both) * (size_t)heads;
        for (int h = 0; h < heads; h++) table[(size_t)h * (size_t)columns + (size_t)(d + reach)] = from[h];
    }
    return table;
}
