/* peft: a folder of PEFT's save_pretrained (adapter_config.json, adapter_model.safetensors) read and checked, alone and against its
 * base. What its settings mean is from PEFT's LoraConfig and peft/tuners/lora; names of modules are those of the base's tensors.
 * fan_in_fan_out is passed over on purpose: it says how the base stores its weight, which the plan knows. It must not compute. */
#include <math.h>
#include <regex.h>
#include <stdlib.h>
#include <string.h>

#include "tools/convert/families.h"
#include "tools/convert/plan.h"
#include "tools/convert/lora.h"

enum { MAX_RANK = 1 << 16, NAME_SIZE = 512 };

static const char merge_first[] = "load it with PEFT, merge_and_unload, save_pretrained, and convert that model";

/* ---- adapter_config.json ---- */

static bool off(const json *j) {
    double x;
    return !j || j->type == JSON_NULL || j->type == JSON_FALSE ||
           ((j->type == JSON_ARRAY || j->type == JSON_OBJECT || j->type == JSON_STRING) && j->n == 0) ||
           (!json_num(j, &x) && x == 0);
}

static const char *shown(const json *j) { return j && j->s ? j->s : json_type_name(j); }

/* Settings that change what is computed, beyond the plain W + scale b a. */
static int refuse_variants(const peft *p, err *e) {
    static const struct {
        const char *key, *what;
    } variants[] = { { "use_dora", "DoRA" },
                     { "use_qalora", "QALoRA" },
                     { "use_bdlora", "BD-LoRA" },
                     { "lora_bias", "a bias of lora_B" },
                     { "layer_replication", "replicated layers" },
                     { "target_parameters", "LoRA on parameters that are no modules" },
                     { "trainable_token_indices", "trained tokens" },
                     { "alora_invocation_tokens", "an activated LoRA, which begins in the middle of a text" } };
    const json *type = json_get(p->config, "peft_type"), *bias = json_get(p->config, "bias");
    if (!type || type->type != JSON_STRING)
        return fail(e, "%s: peft_type: expected \"LORA\", found %s", p->config_path, json_type_name(type));
    if (!json_is(type, "LORA"))
        return fail(e, "%s: peft_type %.40s is not read, only LORA; %s", p->config_path, type->s, merge_first);
    for (size_t i = 0; i < sizeof variants / sizeof *variants; i++) {
        const json *j = json_get(p->config, variants[i].key);
        if (!off(j))
            return fail(e, "%s: %s: %s is not supported; %s", p->config_path, variants[i].key, variants[i].what, merge_first);
    }
    if (bias && !off(bias) && !json_is(bias, "none"))
        return fail(e, "%s: bias: expected \"none\", found %.40s: trained biases are not supported; %s", p->config_path,
                    shown(bias), merge_first);
    return 0;
}

/* Some ways to begin a LoRA change the base's weights too, so that it is wrong on the base as it was published. */
static int refuse_inits(const peft *p, err *e) {
    static const char *const plain[] = { "gaussian", "orthogonal", "eva" };
    const json *j = json_get(p->config, "init_lora_weights");
    if (!j || j->type != JSON_STRING) return 0;
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
        if (json_is(j, plain[i])) return 0;
    return fail(e,
                "%s: init_lora_weights %.40s changes the base's weights; save it as a plain LoRA (save_pretrained with "
                "path_initial_model_for_weight_conversion), or merge it first",
                p->config_path, j->s);
}

/* A setting of a newer PEFT may change the arithmetic: only the known ones may be set. */
static int refuse_unknown(const peft *p, err *e) {
    static const char *const known[] = { "peft_type",
                                         "auto_mapping",
                                         "peft_version",
                                         "base_model_name_or_path",
                                         "revision",
                                         "inference_mode",
                                         "task_type",
                                         "target_modules",
                                         "modules_to_save",
                                         "exclude_modules",
                                         "lora_dropout",
                                         "fan_in_fan_out",
                                         "init_lora_weights",
                                         "layers_to_transform",
                                         "layers_pattern",
                                         "megatron_config",
                                         "megatron_core",
                                         "loftq_config",
                                         "eva_config",
                                         "corda_config",
                                         "lora_ga_config",
                                         "runtime_config",
                                         "qalora_group_size",
                                         "bias",
                                         "ensure_weight_tying",
                                         "r",
                                         "lora_alpha",
                                         "rank_pattern",
                                         "alpha_pattern",
                                         "use_rslora" };
    for (const json *j = p->config->child; j; j = j->next) {
        bool is_known = off(j);
        for (size_t i = 0; i < sizeof known / sizeof *known && !is_known; i++) is_known = strcmp(j->key, known[i]) == 0;
        if (!is_known)
            return fail(e, "%s: %.60s is not known to this version and may change the arithmetic; %s", p->config_path, j->key,
                        merge_first);
    }
    return 0;
}

static int read_rank(const peft *p, const char *key, const json *j, int *out, err *e) {
    int64_t v;
    if (json_int(j, &v) || v < 1 || v > MAX_RANK)
        return fail(e, "%s: %.80s: expected a rank from 1 to %d, found %.40s", p->config_path, key, MAX_RANK, shown(j));
    *out = (int)v;
    return 0;
}

static int read_alpha(const peft *p, const char *key, const json *j, double *out, err *e) {
    if (json_num(j, out) || !isfinite(*out))
        return fail(e, "%s: %.80s: expected a number, found %.40s", p->config_path, key, shown(j));
    return 0;
}

static int read_config(peft *p, err *e) {
    const json *r = json_get(p->config, "r"), *alpha = json_get(p->config, "lora_alpha"), *root = json_get(p->config, "use_rslora");
    p->rank = p->alpha = 8; /* LoraConfig's defaults */
    if (refuse_variants(p, e) || refuse_inits(p, e) || refuse_unknown(p, e)) return -1;
    if ((r && read_rank(p, "r", r, &p->rank, e)) || (alpha && read_alpha(p, "lora_alpha", alpha, &p->alpha, e))) return -1;
    if (root && root->type != JSON_TRUE && !off(root))
        return fail(e, "%s: use_rslora: expected true or false, found %.40s", p->config_path, shown(root));
    p->root = root && root->type == JSON_TRUE;
    return 0;
}

/* ---- rank_pattern and alpha_pattern ---- */

/* PEFT: re.match("(.*\.)?(KEY)$", name). Most keys are plain ends of names; of regular expressions those that mean the same in
 * POSIX are understood. */
static int pattern_matches(const peft *p, const char *list, const json *entry, const char *name, bool *yes, err *e) {
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.^$|()[]*+?\\-";
    const char *key = entry->key;
    char full[400];
    regex_t re;
    bool odd = entry->key_n > 256 || strspn(key, plain) != entry->key_n;
    for (const char *s = strchr(key, '\\'); s; s = strchr(s + 2, '\\')) {
        odd |= s[1] != '.';
        if (!s[1]) break;
    }
    int whole = *key == '^'; /* PEFT's way to name one module from its beginning */
    snprintf(full, sizeof full, "^%s(%s)$", whole ? "" : "(.*\\.)?", odd ? "" : key + whole);
    if (odd || regcomp(&re, full, REG_EXTENDED | REG_NOSUB))
        return fail(e, "%s: %s: %.80s: this pattern is not understood; write the modules' names, or %s", p->config_path, list, key,
                    merge_first);
    *yes = regexec(&re, name, 0, NULL, 0) == 0;
    regfree(&re);
    return 0;
}

/* The first entry of the object `list` of the config that names the module; NULL: none. */
static int find_pattern(const peft *p, const char *list, const char *name, const json **out, err *e) {
    const json *all = json_get(p->config, list);
    *out = NULL;
    if (off(all)) return 0;
    if (all->type != JSON_OBJECT) return fail(e, "%s: %s: expected an object, found %s", p->config_path, list, json_type_name(all));
    for (const json *j = all->child; j; j = j->next) {
        bool yes;
        if (pattern_matches(p, list, j, name, &yes, e)) return -1;
        if (yes) return *out = j, 0;
    }
    return 0;
}

/* ---- tensors ---- */

void peft_shape(const st_tensor *t, char *out, size_t size) {
    size_t at = (size_t)snprintf(out, size, "[");
    for (int i = 0; i < t->n_dims && at < size; i++)
        at += (size_t)snprintf(out + at, size - at, "%s%llu", i ? ", " : "", (unsigned long long)t->dims[i]);
    if (at < size) snprintf(out + at, size - at, "]");
}

static const char *path_of(const peft *p) { return p->st.shards[0].path; }

/* Where a name says lora_A or lora_B as PEFT writes them ("X.lora_A.weight", "X.lora_A.default.weight"): the dot before it; else
 * NULL. */
static const char *half_of(const char *name) {
    const char *at = NULL;
    for (const char *s = name; (s = strstr(s, ".lora_")); s++) at = s;
    if (!at || (at[6] != 'A' && at[6] != 'B') || at[7] != '.') return NULL;
    const char *rest = at + 8, *dot = strchr(rest, '.');
    if (dot && !strchr(dot + 1, '.')) rest = dot + 1;
    return strcmp(rest, "weight") == 0 ? at : NULL;
}

static int refuse_tensor(const peft *p, const st_tensor *t, err *e) {
    static const struct {
        const char *part, *what;
    } kinds[] = { { ".lora_magnitude_vector", "it belongs to DoRA" },
                  { ".lora_embedding_", "LoRA on an embedding" },
                  { "trainable_tokens", "trained tokens" },
                  { ".lora_B.", "a bias of lora_B" } };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strstr(t->name, kinds[i].part))
            return fail(e, "%s: tensor %.200s: %s, is not supported; %s", path_of(p), t->name, kinds[i].what, merge_first);
    return 0;
}

/* A name as the base has it: without what PEFT puts before it. */
static const char *own_name(const char *name) {
    static const char wrapper[] = "base_model.model.";
    return strncmp(name, wrapper, sizeof wrapper - 1) == 0 ? name + sizeof wrapper - 1 : name;
}

static const st_tensor *other_half(const peft *p, const st_tensor *t, const char *at, err *e) {
    char name[NAME_SIZE];
    size_t letter = (size_t)(at - t->name) + 6;
    snprintf(name, sizeof name, "%s", t->name);
    if (strlen(t->name) < sizeof name) name[letter] = name[letter] == 'A' ? 'B' : 'A';
    const st_tensor *other = safetensors_find(&p->st, name);
    if (!other)
        fail(e, "%s: tensor %.200s is there without its other half, lora_%c; the adapter is damaged: fetch it again", path_of(p),
             t->name, name[letter]);
    return other;
}

static int check_half(const peft *p, const st_tensor *t, int dim, int r, err *e) {
    char shape[256];
    peft_shape(t, shape, sizeof shape);
    if (t->type == ST_OTHER)
        return fail(e, "%s: tensor %.200s: dtype %s is not one for weights; expected F32, F16, BF16 or F64", path_of(p), t->name,
                    t->dtype);
    if (t->n_dims != 2) return fail(e, "%s: tensor %.200s: expected two dimensions, found %s", path_of(p), t->name, shape);
    if (t->dims[dim] == (uint64_t)r) return 0;
    return fail(e, "%s: tensor %.200s %s: its rank is %llu, %s says %d", path_of(p), t->name, shape,
                (unsigned long long)t->dims[dim], p->config_path, r);
}

static int add_module(peft *p, const st_tensor *a, const char *at, err *e) {
    const char *start = own_name(a->name);
    peft_module *m = &p->modules[p->n++];
    const json *entry;
    int r = p->rank;
    double alpha = p->alpha;
    *m = (peft_module){ .a = a };
    if (at <= start) return fail(e, "%s: tensor %.200s: expected a module's name before lora_A", path_of(p), a->name);
    if (!(m->name = arena_copy(&p->mem, start, (size_t)(at - start)))) return fail_memory(e, strlen(start), "a name");
    if (!(m->b = other_half(p, a, at, e))) return -1;
    if (find_pattern(p, "rank_pattern", m->name, &entry, e) || (entry && read_rank(p, entry->key, entry, &r, e))) return -1;
    if (find_pattern(p, "alpha_pattern", m->name, &entry, e) || (entry && read_alpha(p, entry->key, entry, &alpha, e))) return -1;
    if (check_half(p, a, 0, r, e) || check_half(p, m->b, 1, r, e)) return -1;
    m->scale = p->scale * alpha / (p->root ? sqrt((double)r) : (double)r);
    return 0;
}

static int read_modules(peft *p, err *e) {
    p->modules = arena_alloc(&p->mem, (p->st.n + 1) * sizeof *p->modules);
    p->whole = arena_alloc(&p->mem, (p->st.n + 1) * sizeof *p->whole);
    if (!p->modules || !p->whole) return fail_memory(e, p->st.n * sizeof *p->modules, "the adapter's modules");
    for (size_t i = 0; i < p->st.n; i++) {
        const st_tensor *t = &p->st.tensors[i];
        const char *at = half_of(t->name);
        if (!at && (refuse_tensor(p, t, e) || whole_add(p, t, own_name(t->name), e))) return -1;
        if (!at) continue;
        if (at[6] == 'A' ? add_module(p, t, at, e) : !other_half(p, t, at, e)) return -1;
    }
    return p->n || p->n_whole ? 0 : fail(e, "%s: holds no tensor; expected lora_A and lora_B of modules", path_of(p));
}

/* ---- the folder ---- */

static bool has_file(const char *folder, const char *name) {
    arena mem = { 0 };
    const char *path = path_join(&mem, folder, name);
    bool yes = path && file_exists(path);
    arena_free(&mem);
    return yes;
}

bool peft_folder(const char *folder) { return has_file(folder, "adapter_config.json"); }

int peft_open(peft *p, const char *folder, double scale, err *e) {
    *p = (peft){ .folder = folder, .scale = scale };
    if (!is_folder(folder))
        return fail(e, "%s: %s; expected the folder of a PEFT adapter", folder,
                    file_exists(folder) ? "is a file" : "does not exist");
    if (!peft_folder(folder)) return fail(e, "%s: no adapter_config.json here; expected the folder of a PEFT adapter", folder);
    p->config_path = path_join(&p->mem, folder, "adapter_config.json");
    const char *weights = path_join(&p->mem, folder, "adapter_model.safetensors");
    if (!p->config_path || !weights) return fail_memory(e, strlen(folder), "a path");
    if (config_json(&p->mem, p->config_path, &p->config, e) || read_config(p, e)) return -1;
    if (!file_exists(weights) && has_file(folder, "adapter_model.bin"))
        return fail(e,
                    "%s: its weights are pickled (adapter_model.bin); load it with PEFT and save_pretrained, which writes "
                    "adapter_model.safetensors",
                    folder);
    if (!file_exists(weights)) return fail(e, "%s: is missing; fetch the whole adapter", weights);
    return safetensors_open_file(&p->st, weights, e) || read_modules(p, e) ? -1 : 0;
}

void peft_close(peft *p) {
    safetensors_close(&p->st);
    free(p->by_target);
    arena_free(&p->mem);
    *p = (peft){ 0 };
}

const char *peft_base(peft *p, err *e) {
    const json *j = json_get(p->config, "base_model_name_or_path");
    if (!j || j->type != JSON_STRING || !j->n)
        return fail(e, "%s: base_model_name_or_path does not name the base; give its checkpoint with --base FOLDER",
                    p->config_path),
               NULL;
    const char *path = *j->s == '/' ? j->s : path_join(&p->mem, p->folder, j->s);
    if (!path) return fail_memory(e, j->n, "a path"), NULL;
    if (!is_folder(path))
        return fail(e,
                    "%s: base_model_name_or_path is %.200s, which is no folder beside the adapter; give the base's checkpoint with "
                    "--base FOLDER",
                    p->config_path, j->s),
               NULL;
    return path;
}

/* ---- the base ---- */

const st_tensor *peft_find(const checkpoint *c, const char *wanted) {
    char name[NAME_SIZE];
    const st_tensor *t = safetensors_find(&c->st, wanted);
    enum { N = sizeof c->family->prefixes / sizeof *c->family->prefixes };
    for (int i = 0; i < N && c->family->prefixes[i] && !t; i++) {
        size_t n = strlen(c->family->prefixes[i]);
        for (int j = 0; j < N && c->family->prefixes[j] && !t && strncmp(wanted, c->family->prefixes[i], n) == 0; j++) {
            snprintf(name, sizeof name, "%s%s", c->family->prefixes[j], wanted + n);
            t = safetensors_find(&c->st, name);
        }
    }
    return t;
}

/* The base's tensor of a module. */
static const st_tensor *find_weight(const checkpoint *c, const char *module) {
    char name[NAME_SIZE + 8];
    snprintf(name, sizeof name, "%s.weight", module);
    return peft_find(c, name);
}

bool peft_is_head(const checkpoint *c, const char *name) {
    for (const weight *w = c->family->weights; w->name; w++)
        if ((w->flags & TIED) && strcmp(w->part[0].source, name) == 0) return true;
    return false;
}

static bool is_head(const checkpoint *c, const char *module) {
    char name[NAME_SIZE + 8];
    snprintf(name, sizeof name, "%s.weight", module);
    return peft_is_head(c, name);
}

/* A module that the base does not have: perhaps it is one of a layer, or an expert, beyond the base's last. */
static int refuse_module(const peft *p, const checkpoint *c, const peft_module *m, err *e) {
    char first[NAME_SIZE];
    for (const char *s = m->name; (s = strpbrk(s, "0123456789")); s += strspn(s, "0123456789")) {
        int digits = (int)strspn(s, "0123456789");
        snprintf(first, sizeof first, "%.*s0%s", (int)(s - m->name), m->name, s + digits);
        if (find_weight(c, first))
            return fail(e, "%s: tensor %.200s: the base %s has no %.*s, it has %d layers; is it this adapter's base?", path_of(p),
                        m->a->name, c->folder, (int)(s - m->name) + digits, m->name,
                        max_int(c->arch.n_layers, c->arch.n_enc_layers));
    }
    return fail(e, "%s: tensor %.200s: the base %s (%s) has no module %.200s; is it this adapter's base?", path_of(p), m->a->name,
                c->folder, c->family->model_type, m->name);
}

bool looked_up(const output *o) {
    return o->vector || strcmp(o->name, "embed") == 0 || strcmp(o->name, "pos_embed") == 0 ||
           strcmp(o->name, "per_layer_embed") == 0;
}

static int check_shape(const peft *p, const st_tensor *t, uint64_t n, uint64_t k, err *e) {
    char found[256];
    peft_shape(t, found, sizeof found);
    if (t->dims[0] == n && t->dims[1] == k) return 0;
    return fail(e, "%s: tensor %.200s: expected shape [%llu, %llu] by the base, found %s; is it this adapter's base?", path_of(p),
                t->name, (unsigned long long)n, (unsigned long long)k, found);
}

static int match_module(peft *p, checkpoint *c, plan *list, const int *users, peft_module *m, err *e) {
    const st_tensor *t = find_weight(c, m->name);
    const output *o = t && users[t - c->st.tensors] ? &list->outputs[users[t - c->st.tensors] - 1] : NULL;
    if (is_head(c, m->name) && (list->tied || (!o && c->tied))) {
        if (list->tied && plan_untie(list, e)) return -1;
        o = &list->outputs[list->n - 1];
        t = o->part[0].t;
    } else if (!t) return refuse_module(p, c, m, e);
    else if (!o) return warn(c, "%s: %.200s is not used by this model, and so is its adapter", p->folder, m->name), 0;
    else if (looked_up(o))
        return fail(e, "%s: tensor %.200s: LoRA on %s is not supported; %s", path_of(p), m->a->name, m->name, merge_first);
    uint64_t r = m->a->dims[0], outputs = o->columns ? t->dims[1] : t->dims[0];
    if (check_shape(p, m->a, r, o->k, e) || check_shape(p, m->b, outputs, r, e)) return -1;
    if (p->by_target[t - c->st.tensors])
        return fail(e, "%s: tensor %.200s: %.200s has the same target", path_of(p), m->a->name,
                    p->by_target[t - c->st.tensors]->name);
    m->target = t;
    p->by_target[t - c->st.tensors] = m;
    return 0;
}

/* What target_modules promises and the file does not hold. */
static void warn_missing(const peft *p, checkpoint *c) {
    const json *all = json_get(p->config, "target_modules");
    for (const json *j = all && all->type == JSON_ARRAY ? all->child : NULL; j; j = j->next) {
        bool there = j->type != JSON_STRING;
        for (int i = 0; i < p->n && !there; i++) {
            size_t n = strlen(p->modules[i].name);
            there = n >= j->n && strcmp(p->modules[i].name + n - j->n, j->s) == 0;
        }
        if (!there) warn(c, "%s: target_modules names %.100s, but the adapter holds nothing for it", p->config_path, j->s);
    }
}

int peft_match(peft *p, checkpoint *c, plan *list, err *e) {
    size_t n = c->st.n ? c->st.n : 1;
    int *users = calloc(n, sizeof *users), rc = 0; /* the number of the output that a tensor of the base goes into first, plus 1 */
    p->by_target = calloc(n, sizeof *p->by_target);
    if (!users || !p->by_target) rc = fail_memory(e, n * (sizeof *users + sizeof *p->by_target), "the adapter's targets");
    for (int i = list->n - 1; i >= 0 && !rc; i--)
        for (int k = 0; k < list->outputs[i].n_parts; k++)
            if (list->outputs[i].part[k].t) users[list->outputs[i].part[k].t - c->st.tensors] = i + 1;
    for (int i = 0; i < p->n && !rc; i++) rc = match_module(p, c, list, users, &p->modules[i], e);
    if (!rc) warn_missing(p, c);
    free(users);
    return rc;
}
