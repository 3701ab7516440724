/* model: binds names in the file to the typed table of model.h, once, strictly, so that nothing later needs to check.
 * It must not know how tensors are computed with, nor how the file was made. */
#include "runtime/model.h"

#include <math.h>
#include <string.h>

typedef struct binder {
    model *m;
    err *e;
    uint32_t bound; /* tensors of the file that found their place */
} binder;

static const file_tensor *bind(binder *b, const char *name, bool required) {
    const file_tensor *t = file_find(&b->m->file, name);
    if (!t && required) fail(b->e, "%s: tensor %s is missing: the file is damaged or made by another version; convert again", b->m->file.path, name);
    b->bound += t != NULL;
    return t;
}

static int bad_shape(binder *b, const char *name, const file_tensor *t, uint64_t n, uint64_t k) {
    return fail(b->e, "%s: tensor %s: expected [%llu][%llu], found [%llu][%llu]; convert again", b->m->file.path, name, (unsigned long long)n,
                (unsigned long long)k, (unsigned long long)t->dims[0], (unsigned long long)t->dims[1]);
}

/* A vector of n floats; NULL where it is not required and not there. n < 0: any length, returned in *found. */
static int bind_vector(binder *b, const char *name, bool required, int64_t n, const float **out, int *found) {
    const file_tensor *t = bind(b, name, required);
    *out = NULL;
    if (!t) return required ? -1 : 0;
    if (t->n_dims != 1 || t->type != W_F32 || (n >= 0 && t->dims[0] != (uint64_t)n)) return bad_shape(b, name, t, n < 0 ? t->dims[0] : (uint64_t)n, 0);
    *out = file_data(&b->m->file, t);
    if (found) *found = (int)t->dims[0];
    return 0;
}

static int bind_matrix(binder *b, const char *name, const char *bias, bool required, int n, int k, mat *out) {
    const file_tensor *t = bind(b, name, required);
    *out = (mat){ 0 };
    if (!t) return required ? -1 : 0;
    if (t->n_dims != 2 || t->dims[0] != (uint64_t)n || t->dims[1] != (uint64_t)k) return bad_shape(b, name, t, (uint64_t)n, (uint64_t)k);
    *out = (mat){ .data = file_data(&b->m->file, t), .type = t->type, .layout = t->layout, .n = n, .k = k, .scale = ldexpf(1, t->exponent) };
    return bias ? bind_vector(b, bias, false, n, &out->bias, NULL) : 0;
}

/* Layers that keep the same positions share pages; a layer that reads another's cache has none of its own. */
static int bind_kv(binder *b, int l) {
    model *m = b->m;
    layer *w = &m->layers[l];
    int owner = m->arch.kv_layer[l];
    w->window = m->arch.window[l];
    w->rope = m->arch.rope[l];
    if (owner >= 0 && owner != l) {
        w->kv_group = m->layers[owner].kv_group; /* arch_check: owner < l, and it owns its cache */
        w->kv_slot = m->layers[owner].kv_slot;
        return 0;
    }
    int g = 0;
    while (g < m->n_kv_groups && m->kv_group[g].window != w->window) g++;
    if (g == KV_MAX_GROUPS) return fail(b->e, "%s: more than %d different attention windows", m->file.path, KV_MAX_GROUPS);
    if (g == m->n_kv_groups) {
        m->kv_group[g].window = w->window;
        m->kv_group[g].n_layers = 0;
        m->n_kv_groups++;
    }
    w->kv_group = g;
    w->kv_slot = m->kv_group[g].n_layers++;
    return 0;
}

static int bind_layer(binder *b, int l) {
    const arch *a = &b->m->arch;
    layer *w = &b->m->layers[l];
    int d = a->d_model, q = b->m->q_rows, kv = b->m->kv_rows, ff = (int)round_up((size_t)a->d_ff, PANEL);
    char name[64], bias[64];
#define NAME(x) (snprintf(name, sizeof name, "layers.%d." x, l), snprintf(bias, sizeof bias, "layers.%d." x "_bias", l), name)
    if (bind_vector(b, NAME("attn_norm"), true, d, &w->attn_norm, NULL) || bind_matrix(b, NAME("qkv"), bias, true, q + 2 * kv, d, &w->qkv) ||
        bind_vector(b, NAME("q_norm"), false, a->head_dim, &w->q_norm, NULL) || bind_vector(b, NAME("k_norm"), false, a->head_dim, &w->k_norm, NULL) ||
        bind_matrix(b, NAME("attn_out"), bias, true, d, a->n_heads * a->head_dim, &w->attn_out) ||
        bind_vector(b, NAME("mlp_norm"), true, d, &w->mlp_norm, NULL) || bind_matrix(b, NAME("gate_up"), bias, true, 2 * ff, d, &w->gate_up) ||
        bind_matrix(b, NAME("down"), bias, true, d, a->d_ff, &w->down))
        return -1;
#undef NAME
    return bind_kv(b, l);
}

static int bind_ropes(binder *b) {
    model *m = b->m;
    m->ropes = arena_alloc(&m->mem, (size_t)m->arch.n_ropes * sizeof *m->ropes);
    if (!m->ropes) return fail_memory(b->e, sizeof *m->ropes, "RoPE tables");
    for (int i = 0; i < m->arch.n_ropes; i++) {
        char name[64];
        const float *table;
        int n = 0;
        snprintf(name, sizeof name, "rope.%d", i);
        if (bind_vector(b, name, true, -1, &table, &n)) return -1;
        if (2 * n > m->arch.head_dim) return fail(b->e, "%s: tensor %s: at most %d frequencies for heads of %d, found %d", m->file.path, name, m->arch.head_dim / 2, m->arch.head_dim, n);
        snprintf(name, sizeof name, "rope.%d.long", i);
        if (bind_vector(b, name, false, n, &table, NULL)) return -1;
    }
    for (int l = 0; l < m->arch.n_layers; l++)
        if (m->arch.rope[l] >= m->arch.n_ropes) return fail(b->e, "%s: layer %d uses rope table %d of %d", m->file.path, l, m->arch.rope[l], m->arch.n_ropes);
    return 0;
}

/* What is in the file and has no place here would silently not be computed: refuse, and name it. */
static int refuse_unknown(binder *b) {
    model *m = b->m;
    if (b->bound == m->file.n_tensors) return 0;
    static const char *const parts[] = { "attn_norm", "qkv", "qkv_bias", "q_norm", "k_norm", "attn_out", "attn_out_bias", "mlp_norm", "gate_up", "gate_up_bias", "down", "down_bias" };
    for (uint32_t i = 0; i < m->file.n_tensors; i++) {
        const char *name = m->file.tensors[i].name, *part = name;
        bool known = strcmp(name, "embed") == 0 || strcmp(name, "output") == 0 || strcmp(name, "final_norm") == 0 || strncmp(name, "rope.", 5) == 0;
        if (strncmp(name, "layers.", 7) == 0 && (part = strchr(name + 7, '.')))
            for (size_t j = 0; j < sizeof parts / sizeof *parts; j++) known |= strcmp(part + 1, parts[j]) == 0;
        if (!known) return fail(b->e, "%s: tensor %s is not known to this version: it was made by a newer convert; use a newer quern", m->file.path, name);
    }
    return fail(b->e, "%s: %u tensors, of which %u have a place in a model of %d layers; convert again", m->file.path, m->file.n_tensors, b->bound, m->arch.n_layers);
}

int model_open(model *m, const char *path, err *e) {
    *m = (model){ 0 };
    if (file_open(&m->file, path, e)) return -1;
    binder b = { m, e, 0 };
    const arch *a = &m->arch;
    if (arch_read(&m->arch, &m->file, &m->mem, e)) goto failed;
    if (!(m->layers = arena_alloc(&m->mem, (size_t)a->n_layers * sizeof *m->layers))) {
        fail_memory(e, (size_t)a->n_layers * sizeof *m->layers, "layers");
        goto failed;
    }
    m->q_rows = (int)round_up((size_t)a->n_heads * (size_t)a->head_dim, PANEL);
    m->kv_rows = (int)round_up((size_t)a->n_kv_heads * (size_t)a->head_dim, PANEL);
    if (bind_matrix(&b, "embed", NULL, true, a->n_vocab, a->d_model, &m->embed)) goto failed;
    for (int l = 0; l < a->n_layers; l++)
        if (bind_layer(&b, l)) goto failed;
    if (bind_vector(&b, "final_norm", true, a->d_model, &m->final_norm, NULL) || bind_matrix(&b, "output", "output_bias", true, a->n_vocab, a->d_model, &m->output) ||
        bind_ropes(&b) || refuse_unknown(&b))
        goto failed;
    model_choose_ropes(m, 1);
    return 0;
failed:
    model_close(m);
    return -1;
}

void model_close(model *m) {
    arena_free(&m->mem);
    file_close(&m->file);
    *m = (model){ 0 };
}

bool model_choose_ropes(model *m, int ctx) {
    bool any_long = false;
    for (int i = 0; i < m->arch.n_ropes; i++) {
        char name[64];
        snprintf(name, sizeof name, "rope.%d.long", i);
        const file_tensor *t = m->arch.rope_ctx && ctx > m->arch.rope_ctx ? file_find(&m->file, name) : NULL;
        m->ropes[i].factor = t ? m->arch.rope_factor_long[i] : m->arch.rope_factor[i];
        any_long |= t != NULL;
        if (!t) {
            snprintf(name, sizeof name, "rope.%d", i);
            t = file_find(&m->file, name);
        }
        m->ropes[i].inv_freq = file_data(&m->file, t);
        m->ropes[i].n_freq = (int)t->dims[0];
    }
    return any_long;
}

static uint64_t mat_bytes(const mat *w) {
    uint64_t bytes = 0;
    if (w->data) matrix_bytes((wtype)w->type, (uint64_t)w->n, (uint64_t)w->k, &bytes);
    return bytes;
}

static uint64_t mat_macs(const mat *w) { return w->data ? (uint64_t)w->n * (uint64_t)w->k : 0; }

uint64_t model_decode_bytes(const model *m) {
    uint64_t sum = mat_bytes(&m->output);
    for (int l = 0; l < m->arch.n_layers; l++) {
        const layer *w = &m->layers[l];
        sum += mat_bytes(&w->qkv) + mat_bytes(&w->attn_out) + mat_bytes(&w->gate_up) + mat_bytes(&w->down);
    }
    return sum;
}

uint64_t model_macs(const model *m, bool with_output) {
    uint64_t sum = with_output ? mat_macs(&m->output) : 0;
    for (int l = 0; l < m->arch.n_layers; l++) {
        const layer *w = &m->layers[l];
        sum += mat_macs(&w->qkv) + mat_macs(&w->attn_out) + mat_macs(&w->gate_up) + mat_macs(&w->down);
    }
    return sum;
}
