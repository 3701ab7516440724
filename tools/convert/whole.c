/* whole: tensors that an adapter saved whole. PEFT's ModulesToSaveWrapper computes with a copy of the module instead of the base's,
 * so they take the base's place in the checkpoint before anything is planned. It owns what that means where the output matrix is
 * the embedding: only the one of the two that was saved changes. It must not know how they are stored. */
#include <string.h>

#include "tools/convert/families.h"
#include "tools/convert/lora.h"

static const char *path_of(const peft *p, const st_tensor *t) { return p->st.shards[t->shard].path; }

/* PEFT names a module by any end of its name: "norm" is every layernorm too. */
static bool names_module(const json *entry, const char *name) {
    if (entry->type != JSON_STRING || !entry->n) return false;
    for (const char *at = name; (at = strstr(at, entry->s)); at++)
        if (at[entry->n] == '.') return true;
    return false;
}

/* A name without an infix of PEFT's: "lm_head.modules_to_save.default.weight" is lm_head.weight. */
static void drop_infix(char *name, const char *infix, const char *further) {
    char *at = strstr(name, infix);
    if (!at) return;
    size_t n = strlen(infix), k = strlen(further);
    if (k && strncmp(at + n - 1, further, k) == 0) n += k - 1;
    memmove(at + 1, at + n, strlen(at + n) + 1);
}

int whole_add(peft *p, const st_tensor *t, const char *name, err *e) {
    char *own = arena_copy(&p->mem, name, strlen(name));
    if (!own) return fail_memory(e, strlen(name), "a name");
    drop_infix(own, ".modules_to_save.", ".default.");
    drop_infix(own, ".base_layer.", "");
    peft_whole *w = &p->whole[p->n_whole++];
    *w = (peft_whole){ .name = own, .t = t };
    const json *list = json_get(p->config, "modules_to_save");
    for (const json *j = list && list->type == JSON_ARRAY ? list->child : NULL; j; j = j->next) w->listed |= names_module(j, own);
    if (t->type != ST_OTHER) return 0;
    return fail(e, "%s: tensor %.200s: dtype %s is not one for weights; expected F32, F16, BF16 or F64", path_of(p, t), t->name,
                t->dtype);
}

bool whole_is(const checkpoint *c, const st_tensor *t) { return t && c->st.shards[t->shard].borrowed; }

static int refuse_unknown(const peft *p, const checkpoint *c, const peft_whole *w, err *e) {
    return fail(e, "%s: tensor %.200s: the base %s (%s) has no tensor %.200s that it could take the place of; is it this adapter's "
                   "base?", path_of(p, w->t), w->t->name, c->folder, c->family->model_type, w->name);
}

static int check_target(const peft *p, const checkpoint *c, const peft_whole *w, const st_tensor *old, err *e) {
    char expected[256], found[256];
    bool same = w->t->n_dims == old->n_dims;
    for (int i = 0; i < old->n_dims && same; i++) same = w->t->dims[i] == old->dims[i];
    peft_shape(old, expected, sizeof expected);
    peft_shape(w->t, found, sizeof found);
    if (!same)
        return fail(e, "%s: tensor %.200s: expected shape %s by the base, found %s; is it this adapter's base? (one whose vocabulary "
                       "grew is the base after resize_token_embeddings and save_pretrained)", path_of(p, w->t), w->t->name, expected,
                    found);
    if (whole_is(c, old))
        return fail(e, "%s: tensor %.200s: %s is replaced by %s already; of adapters with the same whole modules only one can be "
                       "merged", path_of(p, w->t), w->t->name, old->name, c->st.shards[old->shard].path);
    return 0;
}

/* The same numbers, perhaps of other types? */
static bool same_values(const peft *p, const st_tensor *a, const checkpoint *c, const st_tensor *b) {
    enum { PIECE = 1024 };
    float x[PIECE], y[PIECE];
    for (uint64_t at = 0; at < a->n; at += PIECE) {
        uint64_t n = a->n - at < PIECE ? a->n - at : PIECE;
        st_read(&p->st, a, at, n, x);
        st_read(&c->st, b, at, n, y);
        for (uint64_t i = 0; i < n; i++)
            if (!(x[i] == y[i])) return false;
    }
    return true;
}

typedef struct put_state {
    st_tensor embed;           /* the base's own */
    const char *head;          /* the output matrix's tensor, where the adapter has it */
    bool new_embed, new_head;
    const st_tensor *unlisted; /* one of the two that modules_to_save does not name */
} put_state;

static int put_one(peft *p, checkpoint *c, const peft_whole *w, put_state *s, err *e) {
    const st_tensor *old = peft_find(c, w->name);
    bool head = peft_is_head(c, w->name), embed = old && strcmp(old->name, s->embed.name) == 0;
    if (!old && head && c->tied) old = &s->embed;
    if (!old) return refuse_unknown(p, c, w, e);
    if (check_target(p, c, w, old, e)) return -1;
    if (!w->listed && same_values(p, w->t, c, old)) return 0; /* PEFT saves the base's own beside an adapter of the head */
    if (embed && c->arch.n_layers && c->arch.n_enc_layers)
        return fail(e, "%s: tensor %.200s: an embedding of its own for an encoder and a decoder that share theirs is not supported",
                    path_of(p, w->t), w->t->name);
    s->new_embed |= embed;
    s->new_head |= head;
    if (!w->listed && (embed || head)) s->unlisted = w->t;
    return safetensors_put(&c->st, old == &s->embed ? w->name : old->name, &p->st, w->t, e);
}

/* Where modules_to_save names what the adapter does not hold, PEFT goes on with the base's. */
static void warn_missing(const peft *p, checkpoint *c) {
    const json *list = json_get(p->config, "modules_to_save");
    for (const json *j = list && list->type == JSON_ARRAY ? list->child : NULL; j; j = j->next) {
        bool there = j->type != JSON_STRING;
        for (int i = 0; i < p->n_whole && !there; i++) there = names_module(j, p->whole[i].name);
        if (!there) warn(c, "%s: modules_to_save names %.100s, but the adapter holds nothing for it", p->config_path, j->s);
    }
}

/* The family's output matrix, of any prefix. */
static const char *head_name(const checkpoint *c) {
    for (const weight *w = c->family->weights; w->name; w++)
        if (w->flags & TIED) return w->part[0].source;
    return NULL;
}

int whole_put(peft *p, checkpoint *c, err *e) {
    const st_tensor *embed = plan_embedding(c);
    const char *head = head_name(c);
    put_state s = { .embed = embed ? *embed : (st_tensor){ .name = "" } };
    if (p->scale == 0) return 0; /* left away */
    for (int i = 0; i < p->n_whole; i++)
        if (put_one(p, c, &p->whole[i], &s, e)) return -1;
    warn_missing(p, c);
    if (!c->tied || s.new_embed == s.new_head) return 0;
    if (s.unlisted) /* loaded into a parameter that the two share */
        return fail(e, "%s: tensor %.200s: the base's output matrix is its embedding, and modules_to_save does not name the one that "
                       "was saved; save both (save_embedding_layers)", path_of(p, s.unlisted), s.unlisted->name);
    if (s.new_head || !head || safetensors_find(&c->st, head)) return 0;
    return safetensors_put(&c->st, head, &c->st, &s.embed, e); /* what it was */
}
