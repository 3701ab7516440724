/* rope: inverse frequencies for every kind of RoPE scaling, computed as transformers does (modeling_rope_utils.py): tensors are
 * float32 and rounded after each step, scalars are doubles. At run time scaling does not exist, only these tables. A kind that
 * is not here is refused: to ignore it would give another model. */
#include <math.h>
#include <string.h>

#include "tools/convert/families.h"

static const double PI = 3.14159265358979323846;

typedef struct rope_in {
    const checkpoint *c;
    const char *key;    /* "rope_parameters" or "rope_scaling", for messages */
    const json *params; /* NULL: no scaling */
    double theta;
    int dim; /* rotated dimensions of a head */
    int max_positions, original;
    bool original_given;
} rope_in;

/* A number of the scaling's object: 0 and *out, or -1. otherwise NAN: required. Only numbers above 0 make sense in any kind. */
static int number(const rope_in *in, const char *name, double otherwise, double *out, err *e) {
    const json *j = json_get(in->params, name);
    if (!j || j->type == JSON_NULL) {
        *out = otherwise;
        return isnan(otherwise) ? fail(e, "%s: %s: %s is missing; its rope type needs it", in->c->config_path, in->key, name) : 0;
    }
    if (json_num(j, out) || !(*out > 0 && *out <= 1e9))
        return fail(e, "%s: %s: %s: expected a number above 0, found %.40s", in->c->config_path, in->key, name,
                    j->s ? j->s : json_type_name(j));
    return 0;
}

/* base ** (2 i / dim), one rounding each, as float32 tensors do. */
static float power(double base, int i, int n_dims) { return (float)pow((float)base, (float)(2 * i) / (float)n_dims); }

static void plain(float *inv, double theta, int n_dims) {
    for (int i = 0; i < n_dims / 2; i++) inv[i] = 1.0f / power(theta, i, n_dims);
}

static int rope_default(const rope_in *in, rope_freqs *out, err *e) {
    (void)e;
    plain(out->inv_freq, in->theta, in->dim);
    return 0;
}

static int rope_linear(const rope_in *in, rope_freqs *out, err *e) {
    double factor;
    if (number(in, "factor", NAN, &factor, e)) return -1;
    plain(out->inv_freq, in->theta, in->dim);
    for (int i = 0; i < out->n; i++) out->inv_freq[i] /= (float)factor;
    return 0;
}

/* "NTK by parts" of Llama 3.1: long waves are stretched, short ones kept, those between blended. */
static int rope_llama3(const rope_in *in, rope_freqs *out, err *e) {
    double factor, low, high;
    if (number(in, "factor", NAN, &factor, e) || number(in, "low_freq_factor", NAN, &low, e) ||
        number(in, "high_freq_factor", NAN, &high, e))
        return -1;
    if (!(high > low))
        return fail(e, "%s: %s: high_freq_factor %g is not above low_freq_factor %g", in->c->config_path, in->key, high, low);
    float old = (float)in->original, low_wave = (float)(in->original / low), high_wave = (float)(in->original / high);
    plain(out->inv_freq, in->theta, in->dim);
    for (int i = 0; i < out->n; i++) {
        float f = out->inv_freq[i], wave = (float)(2 * PI) / f, smooth = (old / wave - (float)low) / (float)(high - low);
        if (wave > low_wave) out->inv_freq[i] = f / (float)factor;
        else if (!(wave < high_wave)) out->inv_freq[i] = (1.0f - smooth) * f / (float)factor + smooth * f;
    }
    return 0;
}

/* The base grows with the length: a session up to max_positions has the plain table, a longer one that of factor times as many. */
static int rope_dynamic(const rope_in *in, rope_freqs *out, err *e) {
    double factor;
    if (number(in, "factor", NAN, &factor, e)) return -1;
    if (in->dim <= 2) return fail(e, "%s: %s: dynamic scaling needs more than 2 rotated dimensions", in->c->config_path, in->key);
    plain(out->inv_freq, in->theta, in->dim);
    if (!(factor > 1)) return 0;
    double length = floor(factor * in->max_positions);
    if (length > 1 << 28)
        return fail(e, "%s: %s: factor %g times %d positions is too long", in->c->config_path, in->key, factor, in->max_positions);
    plain(out->inv_long, in->theta * pow(factor * length / in->max_positions - (factor - 1), in->dim / (in->dim - 2.0)), in->dim);
    out->ctx_long = in->max_positions;
    out->n_ctx = (int)length;
    return 0;
}

static double yarn_mscale(double scale, double mscale) { return scale <= 1 ? 1 : 0.1 * mscale * log(scale) + 1; }

/* The dimension whose wave turns `rotations` times within the original length. */
static double yarn_dim(const rope_in *in, double rotations) {
    return in->dim * log(in->original / (rotations * 2 * PI)) / (2 * log(in->theta));
}

/* YaRN (arXiv 2309.00071). */
static int rope_yarn(const rope_in *in, rope_freqs *out, err *e) {
    double factor, fast, slow, mscale, mscale_all, attention, ratio = (double)in->max_positions / in->original;
    if (number(in, "factor", in->original_given ? ratio : NAN, &factor, e) || number(in, "beta_fast", 32, &fast, e) ||
        number(in, "beta_slow", 1, &slow, e) || number(in, "mscale", 0, &mscale, e) || number(in, "mscale_all_dim", 0, &mscale_all, e) ||
        number(in, "attention_factor", 0, &attention, e))
        return -1;
    if (!(in->theta > 1)) return fail(e, "%s: rope_theta: yarn needs more than 1, found %g", in->c->config_path, in->theta);
    if (attention == 0)
        attention =
            mscale != 0 && mscale_all != 0 ? yarn_mscale(factor, mscale) / yarn_mscale(factor, mscale_all) : yarn_mscale(factor, 1);
    double low = yarn_dim(in, fast), high = yarn_dim(in, slow);
    const json *truncate = json_get(in->params, "truncate");
    if (!truncate || truncate->type != JSON_FALSE) low = floor(low), high = ceil(high);
    low = fmax(low, 0);
    high = fmin(high, in->dim - 1);
    if (low == high) high += 0.001;
    for (int i = 0; i < out->n; i++) {
        float ramp = ((float)i - (float)low) / (float)(high - low), wave = power(in->theta, i, in->dim);
        float extrapolate = 1.0f - (ramp < 0 ? 0 : ramp > 1 ? 1 : ramp);
        out->inv_freq[i] = 1.0f / ((float)factor * wave) * (1.0f - extrapolate) + 1.0f / wave * extrapolate;
    }
    out->factor = out->factor_long = (float)attention;
    double reach = factor * in->original;
    if (reach > out->n_ctx && reach <= 1 << 28) out->n_ctx = (int)reach;
    return 0;
}

static int longrope_table(const rope_in *in, const char *name, int n, float *inv, err *e) {
    const json *list = json_get(in->params, name);
    if (!list || list->type != JSON_ARRAY || list->n != (uint32_t)n)
        return fail(e, "%s: %s: %s: expected a list of %d numbers, found %s of %u", in->c->config_path, in->key, name, n,
                    json_type_name(list), list ? list->n : 0);
    int i = 0;
    for (const json *j = list->child; j; j = j->next, i++) {
        double x;
        if (json_num(j, &x) || !(x > 0 && x <= 1e9))
            return fail(e, "%s: %s: %s: expected numbers above 0, found %.40s", in->c->config_path, in->key, name,
                        j->s ? j->s : json_type_name(j));
        inv[i] = 1.0f / ((float)x * power(in->theta, i, in->dim));
    }
    return 0;
}

/* LongRoPE (arXiv 2402.13753), as Phi-3 has it: one set of factors up to the original length, another beyond. */
static int rope_longrope(const rope_in *in, rope_freqs *out, err *e) {
    double factor, attention;
    if (number(in, "factor", (double)in->max_positions / in->original, &factor, e) || number(in, "attention_factor", 0, &attention, e)) return -1;
    if (longrope_table(in, "short_factor", out->n, out->inv_freq, e) || longrope_table(in, "long_factor", out->n, out->inv_long, e))
        return -1;
    if (attention == 0) attention = factor <= 1 || in->original < 2 ? 1 : sqrt(1 + log(factor) / log(in->original));
    out->factor = out->factor_long = (float)attention;
    out->ctx_long = in->original;
    return 0;
}

static const struct {
    const char *name;
    int (*make)(const rope_in *, rope_freqs *, err *);
    bool two_tables;
} kinds[] = { { "default", rope_default, false }, { "linear", rope_linear, false }, { "llama3", rope_llama3, false },
              { "dynamic", rope_dynamic, true },  { "yarn", rope_yarn, false },     { "longrope", rope_longrope, true },
              { "su", rope_longrope, true } };
enum { N_KINDS = sizeof kinds / sizeof *kinds };

static int find_kind(const rope_in *in, int *kind, err *e) {
    const json *type = json_get(in->params, "rope_type");
    if (!type) type = json_get(in->params, "type");
    *kind = 0;
    if (!type && json_get(in->params, "factor"))
        return fail(e, "%s: %s: has a factor but no rope_type", in->c->config_path, in->key);
    for (int i = 0; type && i < N_KINDS; i++)
        if (json_is(type, kinds[i].name)) return *kind = i, 0;
    return type ? fail(e, "%s: %s: unknown rope type %.40s; known: default, linear, llama3, dynamic, yarn, longrope",
                       in->c->config_path, in->key, type->s ? type->s : json_type_name(type))
                : 0;
}

/* transformers 5 has everything in rope_parameters; before, rope_theta stood beside rope_scaling. */
/* Settings by layer type: the spec's own; without one they mean something that is not known here. */
static int by_layer_type(rope_in *in, const rope_spec *spec, err *e) {
    for (const json *j = in->params ? in->params->child : NULL; j; j = j->next)
        if (j->type == JSON_OBJECT && !spec->layer_type)
            return fail(e, "%s: %s: %.60s: settings by layer type are not known for this architecture", in->c->config_path, in->key,
                        j->key);
    const json *own = spec->layer_type ? json_get(in->params, spec->layer_type) : NULL;
    if (own && own->type == JSON_OBJECT) in->params = own;
    else if (spec->unscaled) in->params = NULL;
    return 0;
}

static const json *setting(const rope_in *in, const char *key, const char *outside) {
    const json *j = json_get(in->params, key);
    return j && j->type != JSON_NULL ? j : json_get(in->c->config, outside);
}

/* transformers 5 has everything in rope_parameters; before, rope_theta stood beside rope_scaling. */
static int read_inputs(rope_in *in, const rope_spec *spec, int head_dim, err *e) {
    const json *config = in->c->config, *params = json_get(config, "rope_parameters");
    in->key = params && params->type != JSON_NULL ? "rope_parameters" : "rope_scaling";
    params = json_get(config, in->key);
    if (params && params->type != JSON_NULL && params->type != JSON_OBJECT)
        return fail(e, "%s: %s: expected an object, found %s", in->c->config_path, in->key, json_type_name(params));
    in->params = params && params->type == JSON_OBJECT ? params : NULL;
    if (by_layer_type(in, spec, e)) return -1;
    const char *partial_key = spec->partial_key ? spec->partial_key : "partial_rotary_factor";
    const json *theta = setting(in, "rope_theta", spec->theta_key), *partial = setting(in, "partial_rotary_factor", partial_key);
    in->theta = spec->theta;
    if (theta && theta->type != JSON_NULL && (json_num(theta, &in->theta) || !(in->theta > 0 && in->theta <= 1e30)))
        return fail(e, "%s: %s: expected a number above 0, found %.40s", in->c->config_path, spec->theta_key,
                    theta->s ? theta->s : json_type_name(theta));
    double share = spec->partial > 0 ? spec->partial : 1;
    if (partial && partial->type != JSON_NULL && (json_num(partial, &share) || !(share > 0 && share <= 1) || head_dim * share < 2))
        return fail(e, "%s: %s: expected more than 0 and at most 1, found %.40s", in->c->config_path, partial_key,
                    partial->s ? partial->s : json_type_name(partial));
    in->dim = (int)(head_dim * share) / 2 * 2;
    return in->dim >= 2
               ? 0
               : fail(e, "%s: %s: %g of heads of %d leaves nothing to rotate", in->c->config_path, partial_key, share, head_dim);
}

/* transformers: the one beside the object has priority. */
static int read_original(rope_in *in, err *e) {
    double from_params;
    if (number(in, "original_max_position_embeddings", 0, &from_params, e) ||
        config_int(in->c, "original_max_position_embeddings", 1, 1 << 28, 0, &in->original, e))
        return -1;
    if (in->original == 0) in->original = (int)fmin(from_params, 1 << 28);
    in->original_given = in->original > 0;
    if (!in->original_given) in->original = in->max_positions;
    return 0;
}

int rope_load(const checkpoint *c, const rope_spec *spec, int head_dim, int max_positions, arena *mem, rope_freqs *out, err *e) {
    rope_in in = { .c = c, .max_positions = max_positions };
    int kind;
    if (read_inputs(&in, spec, head_dim, e) || find_kind(&in, &kind, e) || read_original(&in, e)) return -1;
    *out = (rope_freqs){ .n = in.dim / 2, .factor = 1, .factor_long = 1, .n_ctx = max_positions };
    size_t bytes = (size_t)out->n * sizeof(float);
    out->inv_freq = arena_alloc(mem, bytes);
    out->inv_long = kinds[kind].two_tables ? arena_alloc(mem, bytes) : NULL;
    if (!out->inv_freq || (kinds[kind].two_tables && !out->inv_long)) return fail_memory(e, 2 * bytes, "RoPE tables");
    if (kinds[kind].make(&in, out, e)) return -1;
    if (!out->ctx_long) out->inv_long = NULL;
    for (int i = 0; i < out->n; i++)
        if (!isfinite(out->inv_freq[i]) || (out->inv_long && !isfinite(out->inv_long[i])))
            return fail(e, "%s: rope_theta %g and %s give a frequency that is not finite", c->config_path, in.theta, in.key);
    return 0;
}
