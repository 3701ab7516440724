/* model: binds names in the file to the typed table of model.h, once, strictly, so that nothing later needs to check.
 * It must not know how tensors are computed with, nor how the file was made. */
#include "runtime/model.h"

#include <math.h>
#include <string.h>

typedef struct binder {
    model *m;
    err *e;
    bool *taken; /* [n_tensors] tensors of the file that found their place */
} binder;

static const file_tensor *bind(binder *b, const char *name, bool required) {
    const file_tensor *t = file_find(&b->m->file, name);
    if (!t && required) fail(b->e, "%s: tensor %s is missing: the file is damaged or made by another version; convert again", b->m->file.path, name);
    if (t) b->taken[t - b->m->file.tensors] = true;
    return t;
}

static int bad_shape(binder *b, const char *name, const file_tensor *t, uint64_t n, uint64_t k) {
    return fail(b->e, "%s: tensor %s: expected [%llu][%llu], found [%llu][%llu]; convert again", b->m->file.path, name, (unsigned long long)n,
                (unsigned long long)k, (unsigned long long)t->dims[0], (unsigned long long)t->dims[1]);
}

static tensor_place *place_of(binder *b, const file_tensor *t) { return &b->m->places[t - b->m->file.tensors]; }

/* A vector of n floats; NULL where it is not required and not there. */
static int bind_vector(binder *b, const char *name, bool required, int n, const float **out) {
    const file_tensor *t = bind(b, name, required);
    *out = NULL;
    if (!t) return required ? -1 : 0;
    if (t->n_dims != 1 || t->type != W_F32 || t->dims[0] != (uint64_t)n) return bad_shape(b, name, t, (uint64_t)n, 0);
    *out = file_data(&b->m->file, t);
    place_of(b, t)->vector = out;
    return 0;
}

/* A matrix that is only looked up: its rows may lie in either layout. */
static int bind_table(binder *b, const char *name, bool required, int n, int k, mat *out) {
    const file_tensor *t = bind(b, name, required);
    *out = (mat){ 0 };
    if (!t) return required ? -1 : 0;
    if (t->n_dims != 2 || t->dims[0] != (uint64_t)n || t->dims[1] != (uint64_t)k) return bad_shape(b, name, t, (uint64_t)n, (uint64_t)k);
    *out = (mat){ .data = file_data(&b->m->file, t), .type = t->type, .layout = t->layout, .n = n, .k = k, .scale = ldexpf(1, t->exponent) };
    place_of(b, t)->matrix = out;
    return 0;
}

/* A matrix that takes part in products: plain rows are for f32 alone. */
static int bind_matrix(binder *b, const char *name, const char *bias, bool required, int n, int k, mat *out) {
    if (bind_table(b, name, required, n, k, out)) return -1;
    if (!out->data) return 0;
    if (out->type != W_F32 && out->layout != LAYOUT_P16)
        return fail(b->e, "%s: tensor %s: expected panels, found plain rows, which are for tables that are looked up; convert again",
                    b->m->file.path, name);
    return bias ? bind_vector(b, bias, false, n, &out->bias) : 0;
}

/* NAME and its NAME_bias. */
static int bind_norm(binder *b, const char *name, bool required, norm_weights *out) {
    char bias[80];
    int d = b->m->arch.d_model;
    snprintf(bias, sizeof bias, "%s_bias", name);
    if (bind_vector(b, name, required, d, &out->w)) return -1;
    return out->w ? bind_vector(b, bias, false, d, &out->b) : 0;
}

/* Layers that keep the same positions share pages; a layer that reads another's cache has none of its own. */
static int bind_kv(binder *b, int l) {
    model *m = b->m;
    layer *w = &m->layers[l];
    int owner = m->arch.kv_layer[l];
    w->window = m->arch.window[l];
    w->rope = m->arch.rope[l];
    w->sparsity = m->arch.sparsity[l];
    if (!w->own_kv) {
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

/* The names of layer l's parts. */
typedef struct part_name {
    char name[72], bias[80];
} part_name;

static part_name in_layer(const char *stack, int l, const char *prefix, const char *part) {
    part_name n;
    snprintf(n.name, sizeof n.name, "%s.%d.%s%s", stack, l, prefix, part);
    snprintf(n.bias, sizeof n.bias, "%s_bias", n.name);
    return n;
}

static int bind_part(binder *b, const char *stack, int l, const char *prefix, const char *part, bool required, int n, int k, mat *out) {
    part_name p = in_layer(stack, l, prefix, part);
    return bind_matrix(b, p.name, p.bias, required, n, k, out);
}

/* An MLP of inner dimension d: gated or not, as the file has it. */
static int bind_mlp(binder *b, const char *stack, int l, const char *prefix, int d, mlp_weights *w) {
    int d_model = b->m->arch.d_model;
    bool gated = file_find(&b->m->file, in_layer(stack, l, prefix, "up").name) == NULL;
    if (gated ? bind_part(b, stack, l, prefix, "gate_up", true, 2 * (int)round_up((size_t)d, PANEL), d_model, &w->gate_up)
              : bind_part(b, stack, l, prefix, "up", true, d, d_model, &w->up))
        return -1;
    return bind_part(b, stack, l, prefix, "down", true, d_model, d, &w->down);
}

static int bind_experts(binder *b, const char *stack, int l, layer *w) {
    const arch *a = &b->m->arch;
    if (bind_part(b, stack, l, "", "router", true, a->n_experts, a->d_model, &w->router)) return -1;
    w->experts = arena_alloc(&b->m->mem, (size_t)a->n_experts * sizeof *w->experts);
    if (!w->experts) return fail_memory(b->e, (size_t)a->n_experts * sizeof *w->experts, "experts");
    for (int i = 0; i < a->n_experts; i++) {
        char prefix[32];
        snprintf(prefix, sizeof prefix, "experts.%d.", i);
        if (bind_mlp(b, stack, l, prefix, a->d_expert, &w->experts[i])) return -1;
    }
    if (a->d_shared == 0) return 0;
    return bind_mlp(b, stack, l, "shared.", a->d_shared, &w->shared) ||
                   bind_part(b, stack, l, "", "shared_gate", false, 1, a->d_model, &w->shared_gate) ? -1 : 0;
}

static int bind_qk_norms(binder *b, const char *stack, int l, layer *w) {
    const arch *a = &b->m->arch;
    const file_tensor *t = file_find(&b->m->file, in_layer(stack, l, "", "q_norm").name);
    w->qk_norm_whole = t && t->dims[0] != (uint64_t)a->head_dim;
    int q = w->qk_norm_whole ? a->n_heads * a->head_dim : a->head_dim, k = w->qk_norm_whole ? a->n_kv_heads * a->head_dim : a->head_dim;
    part_name qn = in_layer(stack, l, "", "q_norm"), kn = in_layer(stack, l, "", "k_norm");
    return bind_vector(b, qn.name, false, q, &w->q_norm) || bind_vector(b, kn.name, false, k, &w->k_norm) ||
                   (w->q_norm && bind_vector(b, qn.bias, false, q, &w->q_norm_bias)) ||
                   (w->k_norm && bind_vector(b, kn.bias, false, k, &w->k_norm_bias)) ? -1 : 0;
}

static int bind_norms(binder *b, const char *stack, int l, layer *w) {
    struct { const char *name; norm_weights *to; } norms[] = {
        { "attn_norm", &w->attn_norm }, { "attn_post_norm", &w->attn_post_norm }, { "attn_sum_norm", &w->attn_sum_norm },
        { "mlp_norm", &w->mlp_norm },
        { "mlp_post_norm", &w->mlp_post_norm }, { "mlp_sum_norm", &w->mlp_sum_norm }, { "cross_norm", &w->cross_norm } };
    for (size_t i = 0; i < sizeof norms / sizeof *norms; i++)
        if (bind_norm(b, in_layer(stack, l, "", norms[i].name).name, false, norms[i].to)) return -1;
    if (w->attn_norm.w || w->attn_post_norm.w || w->attn_sum_norm.w) return 0;
    return fail(b->e, "%s: %s.%d has no norm at its attention; convert again", b->m->file.path, stack, l);
}

static int bind_cross(binder *b, const char *stack, int l, layer *w) {
    const model *m = b->m;
    int d = m->arch.d_model;
    w->cross_slot = l;
    return bind_part(b, stack, l, "", "cross_q", true, m->q_rows, d, &w->cross_q) ||
           bind_part(b, stack, l, "", "cross_kv", true, 2 * m->kv_rows, d, &w->cross_kv) ||
                   bind_part(b, stack, l, "", "cross_out", true, d, m->arch.n_heads * m->arch.head_dim, &w->cross_out) ? -1 : 0;
}

/* The optional paths beside a layer: per-layer embeddings, LAuReL, AltUp. */
static int bind_side_paths(binder *b, const char *stack, int l, layer *w) {
    const arch *a = &b->m->arch;
    int d = a->d_model, n = a->n_streams, p = a->d_per_layer;
    const file_tensor *left = file_find(&b->m->file, in_layer(stack, l, "", "laurel_left").name);
    if (left && (left->dims[0] > 1 << 20 || bind_part(b, stack, l, "", "laurel_left", true, (int)left->dims[0], d, &w->laurel_left) ||
                 bind_part(b, stack, l, "", "laurel_right", true, d, (int)left->dims[0], &w->laurel_right) ||
                 bind_norm(b, in_layer(stack, l, "", "laurel_norm").name, true, &w->laurel_norm)))
        return -1;
    if (p && (bind_part(b, stack, l, "", "per_layer_gate", true, p, d, &w->per_layer_gate) ||
              bind_part(b, stack, l, "", "per_layer_out", true, d, p, &w->per_layer_out) ||
              bind_norm(b, in_layer(stack, l, "", "per_layer_norm").name, true, &w->per_layer_norm)))
        return -1;
    if (n == 1) return 0;
    return bind_norm(b, in_layer(stack, l, "", "altup_norm").name, true, &w->altup.router_norm) ||
           bind_part(b, stack, l, "", "altup_router", true, n, d, &w->altup.router) ||
                   bind_part(b, stack, l, "", "altup_predict", true, n * n, n, &w->altup.predict) ||
                   bind_part(b, stack, l, "", "altup_correct", true, n, n, &w->altup.correct) ||
                   bind_norm(b, in_layer(stack, l, "", "altup_scale").name, false, &w->altup.scale) ? -1 : 0;
}

static int bind_layer(binder *b, const char *stack, int l, bool own_kv, int d_ff, layer *w) {
    const arch *a = &b->m->arch;
    int d = a->d_model, q = b->m->q_rows, kv = own_kv ? b->m->kv_rows : 0;
    w->own_kv = own_kv;
    if (bind_norms(b, stack, l, w) || bind_part(b, stack, l, "", "qkv", true, q + 2 * kv, d, &w->qkv) || bind_qk_norms(b, stack, l, w) ||
        bind_vector(b, in_layer(stack, l, "", "v_norm").name, false, a->head_dim, &w->v_norm) || bind_side_paths(b, stack, l, w) ||
        bind_part(b, stack, l, "", "attn_out", true, d, a->n_heads * a->head_dim, &w->attn_out))
        return -1;
    bool mixture = a->n_experts > 0 && file_find(&b->m->file, in_layer(stack, l, "", "router").name);
    return mixture ? bind_experts(b, stack, l, w) : bind_mlp(b, stack, l, "", d_ff, &w->mlp);
}

/* The encoder's layers keep their own pages, all positions, no rotation. */
static int bind_encoder(binder *b) {
    model *m = b->m;
    for (int l = 0; l < m->arch.n_enc_layers; l++) {
        layer *w = &m->enc_layers[l];
        if (bind_layer(b, "enc", l, true, m->arch.d_ff, w)) return -1;
        w->rope = -1;
        w->kv_slot = l;
    }
    return bind_norm(b, "enc.final_norm", false, &m->enc_final_norm);
}

static int bind_decoder(binder *b) {
    model *m = b->m;
    for (int l = 0; l < m->arch.n_layers; l++) {
        bool own_kv = m->arch.kv_layer[l] < 0 || m->arch.kv_layer[l] == l;
        int d_ff = m->arch.ff[l] ? m->arch.ff[l] : m->arch.d_ff;
        if (bind_layer(b, "layers", l, own_kv, d_ff, &m->layers[l]) || bind_kv(b, l)) return -1;
        if (m->arch.n_enc_layers && bind_cross(b, "layers", l, &m->layers[l])) return -1;
    }
    if (m->arch.n_layers == 0) return 0;
    return bind_norm(b, "final_norm", true, &m->final_norm) ||
                   bind_matrix(b, "output", "output_bias", true, m->arch.n_vocab, m->arch.d_model, &m->output) ? -1 : 0;
}

/* Tables and matrices of the streams, and of the per-layer embeddings. */
static int bind_streams(binder *b) {
    model *m = b->m;
    const arch *a = &m->arch;
    int wide = a->n_layers * a->d_per_layer;
    for (int i = 1; i < a->n_streams; i++) {
        char in[32], out[32];
        snprintf(in, sizeof in, "stream_in.%d", i);
        snprintf(out, sizeof out, "stream_out.%d", i);
        if (bind_matrix(b, in, NULL, true, a->d_model, a->d_model, &m->stream_in[i]) ||
            bind_matrix(b, out, NULL, true, a->d_model, a->d_model, &m->stream_out[i]))
            return -1;
    }
    if (wide == 0) return 0;
    return bind_table(b, "per_layer_embed", true, a->n_vocab_per_layer, wide, &m->per_layer_embed) ||
                   bind_matrix(b, "per_layer_proj", NULL, true, wide, a->d_model, &m->per_layer_proj) ||
                   bind_vector(b, "per_layer_norm", true, a->d_per_layer, &m->per_layer_norm) ? -1 : 0;
}

/* What a text's pooled hidden states go through: as many matrices as there are. */
static int bind_dense(binder *b) {
    model *m = b->m;
    for (int k = m->arch.d_model; m->n_dense < MAX_DENSE; k = m->dense[m->n_dense++].n) {
        char name[32], bias[32];
        snprintf(name, sizeof name, "dense.%d", m->n_dense);
        snprintf(bias, sizeof bias, "dense.%d_bias", m->n_dense);
        const file_tensor *t = file_find(&m->file, name);
        if (!t) break;
        if (t->dims[0] > 1 << 20) return bad_shape(b, name, t, 1 << 20, (uint64_t)k);
        if (bind_matrix(b, name, bias, true, (int)t->dims[0], k, &m->dense[m->n_dense])) return -1;
    }
    return 0;
}

static int bind_bias(binder *b, const char *name, bias_table *t) {
    const file_tensor *f = bind(b, name, false);
    uint64_t heads = (uint64_t)b->m->arch.n_heads;
    if (!f) return 0;
    if (f->type != W_F32 || f->n_dims != 2 || f->dims[0] != heads || f->dims[1] % 2 == 0 || f->dims[1] > 1 << 20)
        return bad_shape(b, name, f, heads, f->dims[1] | 1);
    *t = (bias_table){ .file = file_data(&b->m->file, f), .reach = (int)f->dims[1] / 2 };
    return 0;
}

static int bind_ropes(binder *b) {
    model *m = b->m;
    m->ropes = arena_alloc(&m->mem, (size_t)m->arch.n_ropes * sizeof *m->ropes);
    if (!m->ropes) return fail_memory(b->e, sizeof *m->ropes, "RoPE tables");
    for (int i = 0; i < m->arch.n_ropes; i++) {
        char name[64], far_name[64];
        snprintf(name, sizeof name, "rope.%d", i);
        snprintf(far_name, sizeof far_name, "rope.%d.long", i);
        const file_tensor *t = bind(b, name, true), *far = bind(b, far_name, false);
        if (!t) return -1;
        if (t->n_dims != 1 || t->type != W_F32 || 2 * t->dims[0] > (uint64_t)m->arch.head_dim)
            return fail(b->e, "%s: tensor %s: at most %d frequencies for heads of %d, found %llu", m->file.path,
                        name, m->arch.head_dim / 2, m->arch.head_dim, (unsigned long long)t->dims[0]);
        if (far && (far->n_dims != 1 || far->type != W_F32 || far->dims[0] != t->dims[0])) return bad_shape(b, far_name, far, t->dims[0], 0);
    }
    for (int l = 0; l < m->arch.n_layers; l++)
        if (m->arch.rope[l] >= m->arch.n_ropes)
            return fail(b->e, "%s: layer %d uses rope table %d of %d", m->file.path, l, m->arch.rope[l], m->arch.n_ropes);
    return 0;
}

/* What is in the file and has no place here would silently not be computed: refuse, and name the first such tensor. Binding
 * marked each row that it took. */
static int refuse_unknown(binder *b) {
    for (uint32_t i = 0; i < b->m->file.n_tensors; i++)
        if (!b->taken[i])
            return fail(b->e, "%s: tensor %s has no place in this model: it was made by a newer convert, or is "
                              "damaged; use a newer quern or convert again",
                        b->m->file.path, b->m->file.tensors[i].name);
    return 0;
}

/* ---- tables that are only looked up ---- */

enum { N_TABLES = 3, LONE_BYTES = 16 << 20 }; /* a smaller table is read ahead and kept like any matrix */

static const mat *table_at(const model *m, int i) {
    const mat *const all[N_TABLES] = { &m->embed, &m->pos_embed, &m->per_layer_embed };
    return all[i];
}

/* An adapter may have put another table in its place. */
static bool in_file(const model *m, const mat *w) {
    const uint8_t *p = w->data;
    return p && p >= m->file.map.p && p < m->file.map.p + m->file.map.n;
}

bool model_lone_table(const model *m, const mat *table) {
    for (int i = 0; i < N_TABLES; i++)
        if (table == table_at(m, i)) return m->file_mapped && in_file(m, table) && table->data != m->output.data && mat_bytes(table) >= LONE_BYTES;
    return false;
}

static uint64_t offset_of(const model *m, const mat *w) { return (uint64_t)((const uint8_t *)w->data - m->file.map.p); }

/* Without this each row that is looked up brings in as much of its table as the kernel likes to read ahead. */
static void read_rows_alone(const model *m) {
    for (int i = 0; i < N_TABLES; i++)
        if (model_lone_table(m, table_at(m, i))) lone_pages(&m->file.map, offset_of(m, table_at(m, i)), mat_bytes(table_at(m, i)));
}

/* And without this it would still keep mapped what the file's cache happens to hold around a row: up to 2 MiB. */
void model_forget_rows(const model *m, const mat *table) {
    if (model_lone_table(m, table)) drop_pages(&m->file.map, offset_of(m, table), mat_bytes(table));
}

uint64_t model_table_bytes(const model *m, uint64_t *row) {
    uint64_t sum = 0;
    *row = 0;
    for (int i = 0; i < N_TABLES; i++) {
        const mat *t = table_at(m, i);
        if (!model_lone_table(m, t)) continue;
        *row += t->layout == LAYOUT_ROWS ? plain_row_bytes((wtype)t->type, t->k) : panel_bytes((wtype)t->type, t->k);
        sum += mat_bytes(t);
    }
    return sum;
}

static int bind_all(binder *b) {
    model *m = b->m;
    const arch *a = &m->arch;
    m->places = arena_alloc(&m->mem, m->file.n_tensors * sizeof *m->places);
    if (!m->places) return fail_memory(b->e, m->file.n_tensors * sizeof *m->places, "a list of tensors");
    if (arch_read(&m->arch, &m->file, &m->mem, b->e)) return -1;
    m->layers = arena_alloc(&m->mem, (size_t)a->n_layers * sizeof *m->layers);
    m->enc_layers = arena_alloc(&m->mem, (size_t)a->n_enc_layers * sizeof *m->layers);
    if (!m->layers || !m->enc_layers) return fail_memory(b->e, (size_t)(a->n_layers + a->n_enc_layers) * sizeof *m->layers, "layers");
    m->q_rows = (int)round_up((size_t)a->n_heads * (size_t)a->head_dim, PANEL);
    m->kv_rows = (int)round_up((size_t)a->n_kv_heads * (size_t)a->head_dim, PANEL);
    if (bind_table(b, "embed", true, a->n_vocab, a->d_model, &m->embed) || bind_table(b, "pos_embed", false, a->n_ctx, a->d_model, &m->pos_embed) ||
        bind_norm(b, "embed_norm", false, &m->embed_norm) || bind_encoder(b) || bind_decoder(b) || bind_streams(b) ||
        bind_bias(b, "rel_bias", &m->rel_bias) ||
        bind_bias(b, "enc.rel_bias", &m->enc_rel_bias) || bind_dense(b) || bind_ropes(b) || refuse_unknown(b))
        return -1;
    model_choose_ropes(m, 1);
    return 0;
}

static int refuse_others(const model *m, err *e) {
    const int64_t *version;
    if (record_i64(&m->file, FORMAT_ADAPTER_KEY, &version) >= 0)
        return fail(e, "%s: is an adapter, not a model; give its model's file, and the adapter with --lora", m->file.path);
    if (m->file.n_tensors == 0)
        return fail(e, "%s: holds a tokenizer alone, no model: it was made with --vocab-only; convert the checkpoint without it", m->file.path);
    return 0;
}

int model_bind(model *m, err *e) {
    binder b = { m, e, arena_alloc(&m->mem, m->file.n_tensors) };
    int rc = !b.taken ? fail_memory(e, m->file.n_tensors, "a list of tensors") : refuse_others(m, e) || bind_all(&b) ? -1 : 0;
    if (rc) model_close(m);
    return rc;
}

int model_open(model *m, const char *path, bool copy, err *e) {
    *m = (model){ 0 };
    if ((copy ? file_open_copy : file_open)(&m->file, path, e) || model_bind(m, e)) return -1;
    m->file_mapped = true;
    read_rows_alone(m);
    return 0;
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

static int expand(const model *m, bias_table *t, int ctx, arena *mem, err *e) {
    if (!t->file) return 0;
    size_t ld = round_up(2 * (size_t)t->reach + 1, GROUP), bytes = (size_t)m->arch.n_heads * 2 * (size_t)ctx * sizeof(float);
    if (!(t->expanded = arena_alloc(mem, bytes))) return fail_memory(e, bytes, "position biases");
    for (int h = 0; h < m->arch.n_heads; h++)
        for (int i = 0; i < 2 * ctx; i++) {
            int distance = max_int(-t->reach, min_int(t->reach, i - ctx));
            t->expanded[(size_t)h * 2 * (size_t)ctx + (size_t)i] = t->file[(size_t)h * ld + (size_t)(distance + t->reach)];
        }
    return 0;
}

int model_expand_biases(model *m, int ctx, err *e) {
    return expand(m, &m->rel_bias, ctx, &m->mem, e) || expand(m, &m->enc_rel_bias, ctx, &m->mem, e) ? -1 : 0;
}

static uint64_t mat_macs(const mat *w) { return w->data ? (uint64_t)w->n * (uint64_t)w->k : 0; }

static uint64_t mlp_sum(const mlp_weights *w, uint64_t (*of)(const mat *)) { return of(&w->gate_up) + of(&w->up) + of(&w->down); }

/* A token reads its own experts only: n_used of n_experts, which are of one size. */
static uint64_t layers_sum(const model *m, uint64_t (*of)(const mat *)) {
    uint64_t sum = of(&m->per_layer_proj);
    for (int i = 1; i < m->arch.n_streams; i++) sum += of(&m->stream_in[i]) + of(&m->stream_out[i]);
    for (int l = 0; l < m->arch.n_layers; l++) {
        const layer *w = &m->layers[l];
        sum += of(&w->qkv) + of(&w->attn_out) + of(&w->cross_q) + of(&w->cross_out) + of(&w->laurel_left) + of(&w->laurel_right) +
               of(&w->per_layer_gate) + of(&w->per_layer_out) + mlp_sum(&w->mlp, of) + of(&w->router) + mlp_sum(&w->shared, of) + of(&w->shared_gate);
        if (w->experts) sum += (uint64_t)m->arch.n_used * mlp_sum(&w->experts[0], of);
    }
    return sum;
}

uint64_t model_decode_bytes(const model *m) { return layers_sum(m, mat_bytes) + mat_bytes(&m->output); }
uint64_t model_macs(const model *m, bool with_output) { return layers_sum(m, mat_macs) + (with_output ? mat_macs(&m->output) : 0); }
