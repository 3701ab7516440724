/* serve_request: what is said to the server. Prompts are made of common words, sentence by sentence, from the seed and the number of
 * the conversation alone: two runs ask the same, on any machine, and no two conversations of a run share a beginning unless
 * --shared says so (a prefix cache would flatter the server). Knows the shape of requests, nothing of sockets. */
#include <ctype.h>
#include <string.h>

#include "bench/serve.h"

const char *const api_names[API_KINDS] = { "openai-chat", "openai-completions", "ollama-chat", "ollama-generate" };
const char *const scene_names[SCENES] = { "short", "medium", "long", "multi-turn", "mixed" };

static const char *const words[] = {
    "the", "a", "river", "stone", "mill", "grain", "of", "and", "in", "old", "young", "child", "looked", "walked",
    "under", "over", "house", "garden", "winter", "summer", "water", "bread", "table", "window", "open", "closed",
    "quiet", "loud", "little", "great", "king", "farmer", "teacher", "letter", "road", "bridge", "town", "village",
    "morning", "evening", "night", "light", "dark", "green", "blue", "red", "white", "black", "bird", "dog", "cat",
    "horse", "tree", "leaf", "flower", "apple", "cup", "plate", "knife", "wheel", "cart", "boat", "sea", "wind", "rain",
    "snow", "sun", "moon", "star", "sky", "hill", "field", "forest", "path", "door", "wall", "roof", "floor", "chair",
    "bed", "came", "went", "saw", "said", "asked", "told", "gave", "took", "made", "found", "lost", "kept", "began",
    "ended", "turned", "carried", "slowly", "quickly", "again", "never", "always", "often", "once", "then", "now",
    "here", "there", "where", "when", "because", "before", "after", "with", "without", "from", "to", "into", "through",
    "between", "near", "far", "long", "short", "first", "last", "many", "few", "every",
};
enum { WORDS = sizeof words / sizeof *words };

uint64_t mix(uint64_t x) {
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

double uniform(uint64_t *state) {
    *state += 0x9e3779b97f4a7c15u;
    return ((double)(mix(*state) >> 12) + 0.5) * 0x1p-52;
}

static int between(uint64_t *state, int low, int high) { return low + (int)(uniform(state) * (high - low + 1)); }

static void add_words(buf *out, uint64_t *state, int n) {
    for (int i = 0, left = 0; i < n; i++) {
        const char *w = words[between(state, 0, WORDS - 1)];
        if (i) buf_str(out, left ? " " : ". ");
        buf_byte(out, left ? w[0] : toupper((unsigned char)w[0]));
        buf_str(out, w + 1);
        left = left ? left - 1 : between(state, 6, 14);
    }
    buf_str(out, ".");
}

/* Half of the mixed requests are short, three of ten medium, one long, one a conversation. */
static scene plain_scene(scene s, uint64_t *state) {
    double u = uniform(state);
    if (s != SCENE_MIXED) return s;
    return u < 0.5 ? SCENE_SHORT : u < 0.8 ? SCENE_MEDIUM : u < 0.9 ? SCENE_LONG : SCENE_TURNS;
}

static uint64_t state_of(const load_opts *o, uint64_t number, int turn) { return mix(o->seed) ^ mix(number * 64 + (uint64_t)turn + 1); }

void dialog_begin(dialog *d, const load_opts *o, uint64_t number) {
    uint64_t state = state_of(o, number, 63);
    dialog_free(d);
    *d = (dialog){ .kind = plain_scene(o->scene, &state), .number = number };
}

int dialog_turns(const dialog *d, const load_opts *o) { return d->kind == SCENE_TURNS ? o->turns : 1; }

void dialog_free(dialog *d) { buf_free(&d->said); }

/* The words of the next turn: 50-100, 200-500, 1000-1200; in a conversation 30-80 each. */
static void add_turn(dialog *d, const load_opts *o, buf *out) {
    static const int low[] = { 50, 200, 1000, 30 }, high[] = { 100, 500, 1200, 80 };
    uint64_t state = state_of(o, d->number, d->turn), same = mix(o->seed);
    if (d->turn == 0 && o->shared) {
        add_words(out, &same, o->shared);
        buf_byte(out, ' ');
    }
    add_words(out, &state, between(&state, low[d->kind], high[d->kind]));
}

static bool is_chat(const load_opts *o) { return o->api == API_CHAT || o->api == API_OLLAMA_CHAT; }

static void say(dialog *d, const load_opts *o, const char *role, const char *s, size_t n) {
    if (!is_chat(o)) {
        if (d->said.n) buf_byte(&d->said, '\n');
        buf_add(&d->said, s, n);
        return;
    }
    buf_fmt(&d->said, "%s{\"role\":\"%s\",\"content\":", d->said.n ? "," : "", role);
    buf_json(&d->said, s, n);
    buf_byte(&d->said, '}');
}

void dialog_answer(dialog *d, const load_opts *o, const buf *text) {
    say(d, o, "assistant", text->n ? text->p : "", text->n);
    d->turn++;
}

static bool ours(const load_opts *o, const char *key) { return !json_get(o->more_tree, key); }

static void add_body(const dialog *d, const load_opts *o, buf *out) {
    bool openai = o->api < API_OLLAMA_CHAT;
    int seed = (int)(state_of(o, d->number, d->turn) & 0x7fffffff);
    buf_byte(out, '{');
    buf_str(out, "\"model\":");
    buf_json(out, o->model, strlen(o->model));
    if (is_chat(o)) {
        buf_str(out, ",\"messages\":[");
        buf_add(out, d->said.p, d->said.n);
        buf_byte(out, ']');
    } else {
        buf_str(out, ",\"prompt\":");
        buf_json(out, d->said.p, d->said.n);
    }
    buf_fmt(out, ",\"stream\":%s", o->stream ? "true" : "false");
    if (openai && o->stream && ours(o, "stream_options")) buf_str(out, ",\"stream_options\":{\"include_usage\":true}");
    if (openai && ours(o, "max_tokens")) buf_fmt(out, ",\"max_tokens\":%d", o->max_tokens);
    if (openai && ours(o, "seed")) buf_fmt(out, ",\"seed\":%d", seed);
    if (!openai && ours(o, "options")) buf_fmt(out, ",\"options\":{\"num_predict\":%d,\"seed\":%d}", o->max_tokens, seed);
    if (*o->more) buf_fmt(out, ",%s", o->more);
    buf_byte(out, '}');
}

void dialog_request(dialog *d, const load_opts *o, buf *out) {
    static const char *const paths[] = { "/v1/chat/completions", "/v1/completions", "/api/chat", "/api/generate" };
    bool v6 = strchr(o->host, ':') != NULL;
    buf text = { 0 }, body = { 0 };
    add_turn(d, o, &text);
    say(d, o, "user", text.p, text.n);
    add_body(d, o, &body);
    buf_fmt(out, "POST %s%s HTTP/1.1\r\nHost: %s%s%s:%s\r\nUser-Agent: quern-bench/%s\r\nContent-Type: application/json\r\n", o->base,
            paths[o->api],
            v6 ? "[" : "", o->host, v6 ? "]" : "", o->port, QUERN_VERSION);
    if (o->key) buf_fmt(out, "Authorization: Bearer %s\r\n", o->key);
    if (o->fresh) buf_str(out, "Connection: close\r\n");
    buf_fmt(out, "Content-Length: %zu\r\n\r\n", body.n);
    buf_add(out, body.p, body.n);
    if (text.failed || body.failed || d->said.failed) out->failed = true;
    buf_free(&text);
    buf_free(&body);
}
