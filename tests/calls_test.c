/* Calls of tools and thoughts in answers: every family's format whole, in every split and byte by byte; what is malformed stays text; what a
 * format's own grammar allows is read back as calls. */
#include "runtime/files.h"
#include "tests/test.h"
#include "tools/serve/calls.h"
#include "tools/serve/constrain.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

static const char weather_schema[] = "{\"type\":\"object\",\"properties\":{\"city\":{\"type\":\"string\",\"maxLength\":6},"
                                     "\"days\":{\"type\":\"integer\",\"minimum\":0,\"maximum\":99}},"
                                     "\"required\":[\"city\"],\"additionalProperties\":false}";
static const char empty_schema[] = "{\"type\":\"object\",\"additionalProperties\":false}";
static arena mem;
static const char note_schema[] = "{\"type\":\"object\",\"properties\":{\"text\":{\"type\":\"string\"},"
                                  "\"kind\":{\"$ref\":\"#/$defs/kind\"},\"n\":{\"type\":[\"integer\",\"null\"]},"
                                  "\"to\":{\"anyOf\":[{\"type\":\"string\",\"maxLength\":3},{\"type\":\"null\"}]},"
                                  "\"tags\":{\"type\":\"array\",\"items\":{\"type\":\"string\",\"maxLength\":2}}},"
                                  "\"required\":[\"text\"],\"$defs\":{\"kind\":{\"enum\":[\"a<b\",\"cd\"]}}}";
enum { TOOLS = 3 };
static call_tool tools[TOOLS];

static int set_up(void **state) {
    (void)state;
    json *j;
    err e = { 0 };
    if (json_parse(&mem, weather_schema, strlen(weather_schema), &j, &e)) return -1;
    tools[0] = (call_tool){ "weather", weather_schema, strlen(weather_schema), j };
    tools[1] = (call_tool){ "now", empty_schema, strlen(empty_schema), NULL };
    if (json_parse(&mem, note_schema, strlen(note_schema), &j, &e)) return -1;
    tools[2] = (call_tool){ "note", note_schema, strlen(note_schema), j };
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    arena_free(&mem);
    return 0;
}

static const call_format *format_named(const char *name) {
    for (const call_format *f = call_formats; f->name; f++)
        if (strcmp(f->name, name) == 0) return f;
    fail_msg("no format %s", name);
    return NULL;
}

/* ---- reading ---- */

typedef struct said {
    buf text, thought, calls;
    bool open; /* a call has not ended */
} said;

static void take(void *arg, const answer_part *p) {
    said *s = arg;
    if (p->kind == PART_TEXT) buf_add(&s->text, p->s, p->n);
    if (p->kind == PART_REASONING) buf_add(&s->thought, p->s, p->n);
    if (p->kind == PART_CALL) {
        assert_false(s->open);
        buf_fmt(&s->calls, "%.*s(", (int)p->n, p->s);
    }
    if (p->kind == PART_ARGUMENTS) buf_add(&s->calls, p->s, p->n);
    if (p->kind == PART_CALL_END) buf_str(&s->calls, ")");
    if (p->kind == PART_CALL) s->open = true;
    if (p->kind == PART_CALL_END) s->open = false;
}

static reader_opts opts_of(const char *format, think_state thinking, said *s) {
    return (reader_opts){ .format = format ? format_named(format) : NULL, .tools = tools, .n_tools = TOOLS,
                          .think = { "<think>", "</think>" }, .thinking = thinking, .take = take, .arg = s };
}

/* Fed in pieces that end at these places, each a byte long where step is 1. */
static void read_in(const reader_opts *o, const char *text, size_t a, size_t b, bool bytes, bool exact, answer_reader *r) {
    size_t n = strlen(text);
    reader_begin(r, o);
    if (bytes)
        for (size_t i = 0; i < n; i++) reader_feed(r, text + i, 1, exact);
    else {
        reader_feed(r, text, a, exact);
        reader_feed(r, text + a, b - a, exact);
        reader_feed(r, text + b, n - b, exact);
    }
    reader_end(r);
}

static void expect(const said *s, const char *text, const char *thought, const char *calls, const char *what) {
    buf all = { 0 }, want = { 0 };
    buf_fmt(&all, "[%.*s][%.*s][%.*s]", (int)s->text.n, s->text.p ? s->text.p : "", (int)s->thought.n,
            s->thought.p ? s->thought.p : "", (int)s->calls.n, s->calls.p ? s->calls.p : "");
    buf_fmt(&want, "[%s][%s][%s]", text, thought, calls);
    buf_byte(&all, 0);
    buf_byte(&want, 0);
    if (strcmp(all.p, want.p)) fail_msg("%s:\n found %s\nexpect %s", what, all.p, want.p);
    buf_free(&all);
    buf_free(&want);
}

typedef struct answer_row {
    const char *format, *in, *text, *thought, *calls;
    think_state thinking;
    bool malformed, unknown;
} answer_row;

static void check_row(const answer_row *w, size_t a, size_t b, bool bytes) {
    said s = { 0 };
    answer_reader r;
    reader_opts o = opts_of(w->format, w->thinking, &s);
    read_in(&o, w->in, a, b, bytes, false, &r);
    expect(&s, w->text, w->thought ? w->thought : "", w->calls ? w->calls : "", w->in);
    if (r.malformed != w->malformed || r.unknown != w->unknown) fail_msg("%s: malformed %d, unknown %d", w->in, r.malformed, r.unknown);
    reader_free(&r);
    buf_free(&s.text);
    buf_free(&s.thought);
    buf_free(&s.calls);
}

#define W "{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}}"
#define WP "{\"name\": \"weather\", \"parameters\": {\"city\": \"Rome\"}}"
#define OUT "weather({\"city\":\"Rome\"})"

#define BAR "\xef\xbd\x9c"
#define LOW "\xe2\x96\x81"
#define DS(what) "<" BAR "tool" LOW what BAR ">"
#define DS_OPEN DS("calls" LOW "begin")
#define DS_CLOSE DS("calls" LOW "end")
#define DS_CALL(name, args) DS("call" LOW "begin") "function" DS("sep") name "\n```json\n" args "\n```" DS("call" LOW "end")
#define DS_NEW(name, args) DS("call" LOW "begin") name DS("sep") args DS("call" LOW "end")
#define XML(name, args) "<tool_call>\n<function=" name ">\n" args "</function>\n</tool_call>"
#define XARG(key, value) "<parameter=" key ">\n" value "\n</parameter>\n"

static const answer_row rows[] = {
    { "deepseek", "Well. " DS_OPEN DS_CALL("weather", "{\"city\":\"Rome\"}") "\n" DS_CALL("now", "{}") DS_CLOSE,
      "Well.", NULL, OUT "now({})", THINK_NONE, false, false },
    { "deepseek", DS_OPEN DS_CALL("now", "{}") "\n", "", NULL, "now({})", THINK_NONE, false, false },
    { "deepseek", "I think\n</think>\n\n" DS_OPEN DS_CALL("now", "{}") DS_CLOSE, "", "I think", "now({})", THINK_OPEN, false, false },
    { "deepseek", DS_OPEN DS_CALL("weather", "[1]") DS_CLOSE, DS_OPEN DS_CALL("weather", "[1]") DS_CLOSE, NULL, NULL, THINK_NONE, true, false },
    { "deepseek", DS_OPEN DS_CALL("fly", "{}") DS_CLOSE, DS_OPEN DS_CALL("fly", "{}") DS_CLOSE, NULL, NULL, THINK_NONE, false, true },
    { "deepseek", DS_OPEN "now", DS_OPEN "now", NULL, NULL, THINK_NONE, true, false },
    { "deepseek-3.1", DS_OPEN DS_NEW("weather", "{\"city\":\"Rome\"}") DS_NEW("now", "{}") DS_CLOSE " end", "end",
      NULL, OUT "now({})", THINK_NONE, false, false },
    { "deepseek-3.1", DS_OPEN DS_NEW("now", "{"), DS_OPEN DS_NEW("now", "{"), NULL, NULL, THINK_NONE, true, false },
    { "function-gemma", "<start_function_call>call:weather{city:<escape>Rome<escape>,"
                        "days:3}<end_function_call><start_function_call>call:now{}<end_function_call>", "", NULL,
      "weather({\"city\":\"Rome\",\"days\":3})now({})", THINK_NONE, false, false },
    { "function-gemma", "<start_function_call>call:note{text:<escape>a {b}, \"c\":\n<b><escape>,x:[1,<escape>y<escape>,{k:true, "
                        "<escape>m n<escape>:None}],z:\"q\"}<end_function_call>", "", NULL,
      "note({\"text\":\"a {b}, \\\"c\\\":\\n<b>\",\"x\":[1,\"y\",{\"k\":true,\"m n\":null}],\"z\":\"q\"})", THINK_NONE, false, false },
    { "function-gemma", "<start_function_call>call:note{text:plain}<end_function_call>",
      "<start_function_call>call:note{text:plain}<end_function_call>", NULL, NULL, THINK_NONE, true, false },
    { "function-gemma", "<start_function_call>call:note{text:<escape>}", "<start_function_call>call:note{text:<escape>}",
      NULL, NULL, THINK_NONE, true, false },
    { "gemma4", "<|tool_call>call:weather{city:<|\"|>Rome<|\"|>}<tool_call|>", "", NULL, OUT, THINK_NONE, false, false },
    { "xml", "I do.\n" XML("weather", XARG("city", "Rome")) "\n" XML("now", ""), "I do.", NULL, OUT "now({})", THINK_NONE, false, false },
    { "xml", XML("weather", XARG("city", "5") XARG("days", "3")), "", NULL, "weather({\"city\":\"5\",\"days\":3})", THINK_NONE, false, false },
    { "xml", XML("note", XARG("text", "\n<b>\n\"x\"</parameter>") XARG("kind", "cd") XARG("n", "None") XARG("to", "null")
                         XARG("tags", "[\"a\", 1]") XARG("more", "{\"x\": 1.50}")), "", NULL,
      "note({\"text\":\"\\n<b>\\n\\\"x\\\"</parameter>\",\"kind\":\"cd\",\"n\":null,\"to\":null,\"tags\":[\"a\",1],\"more\":{\"x\":1.50}})",
      THINK_NONE, false, false },
    { "xml", XML("note", XARG("text", "") XARG("to", "you") "<parameter=kind>\n</parameter>\n<parameter=n>7</parameter>"),
      "", NULL, "note({\"text\":\"\",\"to\":\"you\",\"kind\":\"\",\"n\":7})", THINK_NONE, false, false },
    { "xml", XML("note", XARG("text", "</parameter> is text")), "", NULL, "note({\"text\":\"</parameter> is text\"})", THINK_NONE, false, false },
    { "xml", XML("fly", XARG("x", "1")), XML("fly", XARG("x", "1")), NULL, NULL, THINK_NONE, false, true },
    { "xml", "<tool_call>\n<function=now>\n<param>x</function>", "<tool_call>\n<function=now>\n<param>x</function>",
      NULL, NULL, THINK_NONE, true, false },
    { "xml", "<tool_call>\n<function=note>\n<parameter=text>\nand so", "<tool_call>\n<function=note>\n<parameter=text>\nand so",
      NULL, NULL, THINK_NONE, true, false },
    { "hermes", "Hello, <b>you</b> & <tool> ", "Hello, <b>you</b> & <tool> ", NULL, NULL, THINK_NONE, false, false },
    { "hermes", "<tool_call>\n" W "\n</tool_call>", "", NULL, OUT, THINK_NONE, false, false },
    { "hermes", "I look.\n\n<tool_call>\n" W "\n</tool_call>\n<tool_call>" "{\"name\":\"now\",\"arguments\":{}}</tool_call>\n",
      "I look.", NULL, OUT "now({})", THINK_NONE, false, false },
    { "hermes", "<tool_call>{\"name\":\"now\"}</tool_call>", "", NULL, "now({})", THINK_NONE, false, false },
    { "hermes", "<tool_call>{\"name\":\"now\",\"arguments\":\"{}\"}</tool_call>", "", NULL, "now({})", THINK_NONE, false, false },
    { "hermes", "<tool_call>{\"name\":\"weather\",\"arguments\":{\"city\":\"a\\\"}<\\u00e9\"}}</tool_call>", "",
      NULL, "weather({\"city\":\"a\\\"}<\xc3\xa9\"})", THINK_NONE, false, false },
    { "hermes", "<tool_call>{\"name\":\"fly\",\"arguments\":{}}</tool_call>", "<tool_call>{\"name\":\"fly\",\"arguments\":{}}</tool_call>",
      NULL, NULL, THINK_NONE, false, true },
    { "hermes", "<tool_call>{\"name\":\"weather\" \"arguments\":{}}</tool_call>", "<tool_call>{\"name\":\"weather\" \"arguments\":{}}</tool_call>",
      NULL, NULL, THINK_NONE, true, false },
    { "hermes", "<tool_call>{\"name\":\"weather\",\"arguments\":{\"city\":", "<tool_call>{\"name\":\"weather\",\"arguments\":{\"city\":",
      NULL, NULL, THINK_NONE, true, false },
    { "hermes", "<tool_call>{\"name\":\"weather\",\"arguments\":[1]}</tool_call>", "<tool_call>{\"name\":\"weather\",\"arguments\":[1]}</tool_call>",
      NULL, NULL, THINK_NONE, true, false },
    { "hermes", "<tool_call>" W, "", NULL, OUT, THINK_NONE, false, false },
    { "hermes", "bad <tool_call> none", "bad<tool_call> none", NULL, NULL, THINK_NONE, true, false },
    { "hermes", "<tool_c", "<tool_c", NULL, NULL, THINK_NONE, false, false },
    { "hermes", "<think>\nWhat <now>?\n</think>\n\nIt is.", "It is.", "What <now>?", NULL, THINK_MAY, false, false },
    { "hermes", "Why <tool_call>?\n</think>\n<tool_call>\n" W "\n</tool_call>", "", "Why <tool_call>?", OUT, THINK_OPEN, false, false },
    { "hermes", "I think </thi", "", "I think </thi", NULL, THINK_OPEN, false, false },
    { "hermes", "a <think>b</think>", "a <think>b</think>", NULL, NULL, THINK_MAY, false, false },
    { NULL, "<think>a</think>b\n", "b\n", "a", NULL, THINK_MAY, false, false },
    { NULL, "<think></think>b", "b", "", NULL, THINK_MAY, false, false },
    { "mistral", "[TOOL_CALLS][" W ", {\"name\":\"now\",\"arguments\":{},\"id\":\"123456789\"}]", "", NULL, OUT "now({})", THINK_NONE, false, false },
    { "mistral", "[TOOL_CALLS] [ " W " ]", "", NULL, OUT, THINK_NONE, false, false },
    { "mistral", "So [1] and [TOOL_CALLS][" W "]", "So [1] and", NULL, OUT, THINK_NONE, false, false },
    { "mistral", "[TOOL_CALLS]" W, "", NULL, OUT, THINK_NONE, false, false },
    { "mistral", "[TOOL_CALLS]nothing", "[TOOL_CALLS]nothing", NULL, NULL, THINK_NONE, true, false },
    { "mistral-named", "[TOOL_CALLS]weather[ARGS]{\"city\": \"Rome\"}[TOOL_CALLS]now[ARGS]{}", "", NULL,
      "weather({\"city\": \"Rome\"})now({})", THINK_NONE, false, false },
    { "mistral-named", "[TOOL_CALLS]now[CALL_ID]1a2b3c4d5[ARGS]{}", "", NULL, "now({})", THINK_NONE, false, false },
    { "mistral-named", "[TOOL_CALLS]now{}", "[TOOL_CALLS]now{}", NULL, NULL, THINK_NONE, true, false },
    { "phi", "<|tool_call|>[" W "]<|/tool_call|>", "", NULL, OUT, THINK_NONE, false, false },
    { "phi", "Ok<|tool_call|>[" W "," W "]<|/tool_call|>", "Ok", NULL, OUT OUT, THINK_NONE, false, false },
    { "llama", WP, "", NULL, OUT, THINK_NONE, false, false },
    { "llama", "\n" WP "; {\"name\": \"now\", \"parameters\": {}}", "", NULL, OUT "now({})", THINK_NONE, false, false },
    { "llama", "<|python_tag|>" WP, "", NULL, OUT, THINK_NONE, false, false },
    { "llama", "{\"type\": \"function\", \"function\": " WP "}", "", NULL, OUT, THINK_NONE, false, false },
    { "llama", "{\"answer\": 1}", "{\"answer\": 1}", NULL, NULL, THINK_NONE, false, false },
    { "llama", "{\"name\": \"Bob\"}", "{\"name\": \"Bob\"}", NULL, NULL, THINK_NONE, false, true },
    { "llama", "I say {\"name\": \"now\", \"parameters\": {}}", "I say {\"name\": \"now\", \"parameters\": {}}",
      NULL, NULL, THINK_NONE, false, false },
    { "pythonic", "[weather(city=\"Rome\", days=3), now()]", "", NULL, "weather({\"city\":\"Rome\",\"days\":3})now({})", THINK_NONE, false, false },
    { "pythonic", "[weather(city='R\\'o\\x6de', days=None, x=[True, {'a': -1.5e3}, (),])]", "", NULL,
      "weather({\"city\":\"R'ome\",\"days\":null,\"x\":[true,{\"a\":-1.5e3},[]]})", THINK_NONE, false, false },
    { "pythonic", "<|python_start|>[now()]<|python_end|>", "", NULL, "now({})", THINK_NONE, false, false },
    { "pythonic", "[1, 2]", "[1, 2]", NULL, NULL, THINK_NONE, false, false },
    { "pythonic", "[weather(1)]", "[weather(1)]", NULL, NULL, THINK_NONE, true, false },
    { "pythonic", "[fly(a=1)]", "[fly(a=1)]", NULL, NULL, THINK_NONE, false, true },
    { "gemma", "```tool_code\nweather(city=\"Rome\")\n```", "", NULL, OUT, THINK_NONE, false, false },
    { "gemma", "Well:\n```tool_code\nweather(city=\"Rome\")\nnow()\n```\n", "Well:", NULL, OUT "now({})", THINK_NONE, false, false },
    { "gemma", "```python\nnow()\n```", "```python\nnow()\n```", NULL, NULL, THINK_NONE, false, false },
    { "json", W, "", NULL, OUT, THINK_NONE, false, false },
    { "json", "[" W "]", "[" W "]", NULL, NULL, THINK_NONE, false, false },
};

static void test_whole_and_split(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        size_t n = strlen(rows[i].in);
        check_row(&rows[i], n, n, false);
        check_row(&rows[i], 0, 0, true);
        for (size_t a = 0; a <= n; a++)
            for (size_t b = a; b <= n; b++) check_row(&rows[i], a, b, false);
    }
}

/* Under a grammar arguments are given as they come; the same in the end. */
static void test_arguments_as_they_come(void **state) {
    (void)state;
    static const char in[] = "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"a}\\\"{\", \"days\": [1]}}\n"
                             "</tool_call>\n<tool_call>{\"name\":\"now\",\"arguments\":{}}</tool_call>";
    static const char want[] = "weather({\"city\": \"a}\\\"{\", \"days\": [1]})now({})";
    for (size_t a = 0; a <= strlen(in); a++) {
        said s = { 0 };
        answer_reader r;
        reader_opts o = opts_of("hermes", THINK_NONE, &s);
        reader_begin(&r, &o);
        for (size_t i = 0; i < a; i++) reader_feed(&r, in + i, 1, true);
        bool begun = a > 60 && s.calls.n > 20; /* long before the call's end */
        if (a == 65 && !begun) fail_msg("nothing of the arguments by byte %zu", a);
        reader_feed(&r, in + a, strlen(in) - a, true);
        reader_end(&r);
        buf_byte(&s.calls, 0);
        if (a > 0 && a < strlen(in)) { /* in one piece the arguments are written anew: spaces may differ */
            char *at = s.calls.p;
            if (!strstr(at, "weather({") || !strstr(at, ")now({})")) fail_msg("split at %zu: %s", a, at);
        }
        if (a == strlen(in)) assert_string_equal(s.calls.p, want);
        assert_false(r.malformed || r.unknown || r.cut || s.open);
        assert_int_equal(s.text.n, 0);
        reader_free(&r);
        buf_free(&s.calls);
    }
    for (size_t cut = 0; cut < strlen(in); cut++) { /* never text, and the call that was begun is ended */
        said s = { 0 };
        answer_reader r;
        reader_opts o = opts_of("hermes", THINK_NONE, &s);
        reader_begin(&r, &o);
        for (size_t i = 0; i < cut; i++) reader_feed(&r, in + i, 1, true);
        bool whole_marker = cut >= strlen("<tool_call>");
        reader_end(&r);
        assert_false(s.open);
        if (whole_marker && s.text.n) fail_msg("cut at %zu: text %.*s", cut, (int)s.text.n, s.text.p);
        reader_free(&r);
        buf_free(&s.calls);
        buf_free(&s.text);
    }
}

static void test_formats_of_templates(void **state) {
    (void)state;
    static const char *const known[][2] = { { "qwen2.5", "hermes" }, { "qwen3", "hermes" }, { "llama3.1", "llama" },
                                            { "llama3.2", "llama" }, { "mistral-nemo", "mistral" }, { "xml", "xml" },
                                            { "deepseek", "deepseek" }, { "deepseek-3.1", "deepseek-3.1" },
                                            { "function-gemma", "function-gemma" }, { "gemma4", "gemma4" },
                                            { "gemma-python", "gemma" }, { "mistral-named", "mistral-named" }, { "phi", "phi" },
                                            { "pythonic", "pythonic" }, { "json", "json" }, { "llama3", NULL }, { "gemma", NULL },
                                            { "gemma3", NULL }, { "phi-3", NULL }, { "zephyr", NULL }, { "chatml", NULL },
                                            { "mistral-v0.2", NULL } };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        char path[100];
        buf text = { 0 };
        err e = { 0 };
        snprintf(path, sizeof path, "tests/fixtures/tool_templates/%s.jinja", known[i][0]);
        if (access(path, R_OK)) snprintf(path, sizeof path, "tests/fixtures/chat_templates/%s.jinja", known[i][0]);
        if (read_file(path, 0, &text, &e)) fail_msg("%s", e.msg);
        const call_format *f = call_format_of(text.p, text.n);
        const char *found = f ? f->name : "none", *want = known[i][1] ? known[i][1] : "none";
        if (strcmp(found, want)) fail_msg("%s: expected %s, found %s", known[i][0], want, found);
        think_marks m = think_marks_of(text.p, text.n);
        assert_int_equal(m.open != NULL, strcmp(known[i][0], "qwen3") == 0 || strcmp(known[i][0], "deepseek-3.1") == 0);
        template_wants w = template_wants_of(text.p, text.n);
        bool deepseek = strncmp(known[i][0], "deepseek", 8) == 0;
        assert_true(w.text_arguments == deepseek && w.null_content == deepseek);
        buf_free(&text);
    }
    think_marks m = { "<think>", "</think>" };
    assert_int_equal(think_state_of(m, "a<think>\n", 9), THINK_OPEN);
    assert_int_equal(think_state_of(m, "<think>\n\n</think>\n\n", 19), THINK_NONE);
    assert_int_equal(think_state_of(m, "assistant\n", 10), THINK_MAY);
    assert_string_equal(call_format_of("tools <|tool_call|>", 19)->name, "phi");
    assert_string_equal(call_format_of("[TOOL_CALLS] [ARGS]", 19)->name, "mistral-named");
    assert_string_equal(call_format_of("tools [func_name1(x)]", 21)->name, "pythonic");
    assert_string_equal(call_format_of("{{ tools }}", 11)->name, "json");
}

/* ---- grammars: what they allow is read back ---- */

enum { EOS = 256, IDS };
static uint64_t seed = 1;

static uint32_t any(uint32_t n) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(seed >> 33) % n;
}

static vocabulary *bytes_vocabulary(void) {
    static char byte[256];
    const char *piece[IDS];
    size_t n[IDS] = { 0 };
    vocabulary *v;
    err e = { 0 };
    for (int i = 0; i < IDS; i++) {
        piece[i] = i < 256 ? byte + i : "";
        n[i] = i < 256;
        if (i < 256) byte[i] = (char)i;
    }
    if (vocabulary_of(&v, piece, n, IDS, &e)) fail_msg("%s", e.msg);
    return v;
}

static grammar *compile_shape(const vocabulary *v, const shape_ask *a) {
    arena m = { 0 };
    grammar *g;
    int which;
    err e = { 0 };
    call_shape *s = shape_make(&m, a);
    if (schema_compile_within(&g, v, s->gbnf, s->n, s->rules, s->n_rules, &which, &e)) fail_msg("%s\n%s", e.msg, s->gbnf);
    arena_free(&m);
    return g;
}

/* A random text that the grammar allows; false: it grew too long. */
static bool draw(grammar *g, buf *out) {
    static const int32_t eos[] = { EOS };
    grammar_state *s;
    err e = { 0 };
    out->n = 0;
    if (grammar_state_new(&s, g, eos, 1, &e)) fail_msg("%s", e.msg);
    while (!grammar_done(s) && out->n < 1500) {
        float row[IDS] = { 0 };
        int32_t may[IDS], n = 0;
        if (grammar_mask(s, row, IDS, &e)) fail_msg("%s", e.msg);
        for (int i = 0; i < IDS; i++)
            if (!isinf(row[i]) && (i < 128 || i == EOS || any(40) == 0)) may[n++] = i;
        for (int i = 0; i < IDS && !n; i++) /* the rest of a character */
            if (!isinf(row[i])) may[n++] = i;
        if (!n) fail_msg("nothing can follow %.*s", (int)out->n, out->p);
        int32_t id = !isinf(row[EOS]) && any(3) ? EOS : !isinf(row['<']) && any(4) == 0 ? '<' : may[any((uint32_t)n)];
        if (grammar_accept(s, id, &e)) fail_msg("%s", e.msg);
        if (id != EOS) buf_byte(out, id);
    }
    bool done = grammar_done(s);
    grammar_state_free(s);
    return done;
}

static void test_grammars_are_read_back(void **state) {
    (void)state;
    vocabulary *v = bytes_vocabulary();
    for (const call_format *f = call_formats; f->name; f++) {
        shape_ask a = { .format = f, .tools = tools, .n_tools = TOOLS, .parallel = true };
        grammar *g = compile_shape(v, &a);
        int drawn = 0;
        for (int i = 0; i < 200; i++) {
            buf text = { 0 };
            said s = { 0 };
            answer_reader r;
            reader_opts o = opts_of(f->name, THINK_NONE, &s);
            bool done = draw(g, &text), exact = i % 2;
            reader_begin(&r, &o);
            for (size_t k = 0; k < text.n; k++) reader_feed(&r, text.p + k, 1, exact);
            reader_end(&r);
            if (done && (!s.calls.n || s.text.n || r.malformed || r.unknown || r.cut || s.open))
                fail_msg("%s, exact %d: %.*s\ntext %.*s\ncalls %.*s", f->name, exact, (int)text.n, text.p, (int)s.text.n,
                         s.text.p ? s.text.p : "", (int)s.calls.n, s.calls.p ? s.calls.p : "");
            if (!done && exact && s.text.n) fail_msg("%s, cut: %.*s", f->name, (int)s.text.n, s.text.p);
            drawn += done;
            reader_free(&r);
            buf_free(&text);
            buf_free(&s.text);
            buf_free(&s.calls);
        }
        if (drawn < 100) fail_msg("%s: only %d of 200 ended", f->name, drawn);
        grammar_free(g);
    }
    vocabulary_free(v);
}

static bool allows(grammar *g, const char *text) {
    grammar_state *s;
    err e = { 0 };
    if (grammar_state_new(&s, g, NULL, 0, &e)) fail_msg("%s", e.msg);
    bool good = grammar_accept_bytes(s, text, strlen(text), &e) == 0 && grammar_may_end(s);
    grammar_state_free(s);
    return good;
}

static void test_what_a_shape_allows(void **state) {
    (void)state;
    vocabulary *v = bytes_vocabulary();
    think_marks think = { "<think>", "</think>" }, other = { "[THINK]", "[/THINK]" };
    shape_ask a = { .format = format_named("hermes"), .tools = tools, .n_tools = TOOLS, .think = think, .thinking = THINK_MAY,
                    .schema = "{\"const\":7}", .n_schema = 11 };
    grammar *g = compile_shape(v, &a);
    assert_true(allows(g, "7"));
    assert_true(allows(g, "<think>a</think>7"));
    assert_true(allows(g, "<think>a<b</</thin<</think>\n\n7"));
    assert_true(allows(g, "<tool_call>" W "</tool_call>"));
    assert_true(allows(g, "<think></think><tool_call>\n" W "\n</tool_call>"));
    assert_false(allows(g, "8") || allows(g, "<think>7") || allows(g, "<think>a</think></think>7") || allows(g, "x7"));
    assert_false(allows(g, "<tool_call>" W "</tool_call><tool_call>" W "</tool_call>")); /* not parallel */
    assert_false(allows(g, "<tool_call>{\"name\": \"weather\", \"arguments\": {}}</tool_call>"));
    grammar_free(g);
    a = (shape_ask){ .think = other, .thinking = THINK_OPEN, .schema = "{\"const\":7}", .n_schema = 11 };
    g = compile_shape(v, &a);
    assert_true(allows(g, "[a]b[/THINK[/[/THINK]7"));
    assert_false(allows(g, "7") || allows(g, "[THINK]7"));
    grammar_free(g);
    vocabulary_free(v);
}

/* Arguments one by one: what a schema says of each is kept, text as it is, in the format's own marks. */
static void test_arguments_one_by_one(void **state) {
    (void)state;
    vocabulary *v = bytes_vocabulary();
    shape_ask a = { .format = format_named("xml"), .tools = &tools[2], .n_tools = 1 };
    grammar *g = compile_shape(v, &a);
    assert_true(allows(g, XML("note", XARG("text", "a\n\n<b> \"c\" </param"))));
    assert_true(allows(g, XML("note", XARG("text", "") XARG("kind", "cd") XARG("n", "null") XARG("to", "\"abc\"") XARG("tags", "[\"ab\"]"))));
    assert_false(allows(g, XML("note", ""))); /* text is required */
    assert_false(allows(g, XML("note", XARG("text", "") XARG("kind", "ce"))));
    assert_false(allows(g, XML("note", XARG("text", "") XARG("n", "x"))) || allows(g, XML("note", XARG("text", "") XARG("to", "abc"))) ||
                 allows(g, XML("note", XARG("text", "") XARG("tags", "[\"abc\"]"))));
    grammar_free(g);
    a.format = format_named("function-gemma");
    g = compile_shape(v, &a);
    assert_true(allows(g, "<start_function_call>call:note{text:<escape>a<b>}\n\"<escape>,kind:<escape>cd<escape>,n:3}<end_function_call>"));
    /* could be the mark */
    assert_false(allows(g, "<start_function_call>call:note{text:<escape>a<escape>,kind:<escape>a<b<escape>}<end_function_call>"));
    assert_false(allows(g, "<start_function_call>call:note{text:\"a\"}<end_function_call>"));
    grammar_free(g);
    a = (shape_ask){ .format = format_named("deepseek"), .tools = tools, .n_tools = TOOLS, .parallel = true };
    g = compile_shape(v, &a);
    assert_true(allows(g, DS_OPEN DS_CALL("weather", "{\"city\":\"Rome\"}") "\n" DS_CALL("now", "{}") DS_CLOSE));
    assert_false(allows(g, DS_OPEN DS_CALL("weather", "{}") DS_CLOSE) || allows(g, DS_OPEN DS_CLOSE));
    grammar_free(g);
    vocabulary_free(v);
}

static void test_what_a_format_refuses(void **state) {
    (void)state;
    static const struct { const char *format, *name, *parameters, *keyword; } refused[] = {
        { "xml", "f", "{\"type\":\"object\",\"minProperties\":1}", "minProperties" },
        { "pythonic", "f", "{\"anyOf\":[{}]}", "anyOf" }, { "gemma", "f", "{\"required\":[\"a b\"]}", "required" },
        { "function-gemma", "f", "{\"required\":[\"a:b\"]}", "required" }, { "xml", "f", "{\"required\":[\"a>b\"]}", "required" },
        { "xml", "f g", "{}", "name" }, { "deepseek", "f g", "{}", "name" },
        { "xml", "f", "{\"required\":[\"a b\"],\"properties\":{},\"$defs\":{},\"title\":\"t\",\"x-a\":1}", NULL },
        { "hermes", "f g", "{\"minProperties\":1}", NULL }, { "deepseek", "f", "{\"anyOf\":[{}]}", NULL },
    };
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        json *j;
        char keyword[64] = "";
        err e = { 0 };
        if (json_parse(&mem, refused[i].parameters, strlen(refused[i].parameters), &j, &e)) fail_msg("%s", e.msg);
        call_tool t = { .name = refused[i].name, .parameters = j };
        bool no = call_refuses(format_named(refused[i].format), &t, keyword);
        if (no != (refused[i].keyword != NULL) || (no && strcmp(keyword, refused[i].keyword)))
            fail_msg("%s, %s: %d %s", refused[i].format, refused[i].parameters, no, keyword);
    }
}

static void test_kinds_of_values(void **state) {
    (void)state;
    static const struct { const char *schema; int kinds; } known[] = {
        { "{\"type\":\"string\"}", VALUE_TEXT }, { "{\"type\":\"integer\"}", VALUE_OTHER }, { "{}", VALUE_TEXT | VALUE_OTHER },
        { "{\"type\":[\"string\",\"null\"]}", VALUE_TEXT | VALUE_OTHER },
        { "{\"enum\":[\"a\",\"b\"]}", VALUE_TEXT }, { "{\"enum\":[\"a\",1]}", VALUE_TEXT | VALUE_OTHER },
        { "{\"enum\":[\"a\",1],\"type\":\"string\"}", VALUE_TEXT }, { "{\"const\":1}", VALUE_OTHER },
        { "{\"$ref\":\"#/$defs/x\",\"$defs\":{\"x\":{\"type\":\"string\"}}}", VALUE_TEXT },
        { "{\"anyOf\":[{\"type\":\"string\"},{\"type\":\"null\"}]}", VALUE_TEXT | VALUE_OTHER },
        { "{\"allOf\":[{\"anyOf\":[{\"type\":\"string\"},{\"type\":\"null\"}]},{\"type\":\"string\"}]}", VALUE_TEXT },
        { "{\"$ref\":\"#\"}", VALUE_TEXT | VALUE_OTHER },
        { "{\"anyOf\":[{\"$ref\":\"#\"},{\"$ref\":\"#\"},{\"$ref\":\"#\"},{\"$ref\":\"#\"}]}", VALUE_TEXT | VALUE_OTHER }, /* not for ever */
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        json *j;
        err e = { 0 };
        if (json_parse(&mem, known[i].schema, strlen(known[i].schema), &j, &e)) fail_msg("%s", e.msg);
        if (value_kinds(j, j) != known[i].kinds) fail_msg("%s: %d", known[i].schema, value_kinds(j, j));
    }
}

/* ---- where a grammar begins ---- */

static grammars *demo_grammars(tokenizer **t) {
    err e = { 0 };
    if (tokenizer_load(t, "weights/pip-stories", NULL, &e)) fail_msg("%s", e.msg);
    return grammars_new(*t);
}

/* Is the constraint on behind each word, and does it end? "-": free, "+": on. */
static void check_trigger(const tokenizer *t, const constraint_opts *o, const char *text, const char *want) {
    constraint *c;
    err e = { 0 };
    ids v = { 0 };
    char found[64] = "";
    bool done = false;
    if (constraint_new(&c, o, NULL, 0, &e) || tokenizer_encode(t, text, strlen(text), 0, &v, &e)) fail_msg("%s", e.msg);
    for (size_t i = 0; i < v.n; i++) {
        if (constraint_take(c, v.p[i], &done, &e)) break;
        size_t n = strlen(found);
        char now = constraint_on(c) ? '+' : '-';
        if (!n || found[n - 1] != now) found[n] = now;
        if (done) break;
    }
    strcat(found, done ? "." : e.code ? "!" : "");
    if (strcmp(found, want)) fail_msg("%s: expected %s, found %s %s", text, want, found, e.msg);
    constraint_free(c);
    ids_free(&v);
}

static void test_a_grammar_begins_with_its_trigger(void **state) {
    (void)state;
    tokenizer *t;
    grammars *g = demo_grammars(&t);
    kept_grammar *k, *again;
    int which;
    err e = { 0 };
    const char gbnf[] = "root ::= \"<call>\" value \"</call>\" | \"{\\\"name\\\":\" value \"}\"";
    const schema_rule rule = { .name = "value", .schema = "{\"enum\":[1,22]}", .n = 15 };
    const grammar_ask ask = { .gbnf = gbnf, .n = strlen(gbnf), .rules = &rule, .n_rules = 1 };
    if (grammars_hold(g, &ask, &k, &which, &e) || grammars_hold(g, &ask, &again, &which, &e)) fail_msg("%s", e.msg);
    assert_ptr_equal(k, again);
    grammars_put(again);
    static const grammar_trigger triggers[] = { { "<call>", false }, { "{\"name\":", true } };
    constraint_opts o = { .grammar = k, .triggers = triggers, .n_triggers = 2, .think_open = "<think>", .think_close = "</think>" };
    check_trigger(t, &o, "I know nothing of < call>", "-");
    check_trigger(t, &o, "I know <call>22</call>", "-+.");
    check_trigger(t, &o, "I know <call>23", "-+!");
    check_trigger(t, &o, "\n{\"name\":1}", "-+.");
    check_trigger(t, &o, "so {\"name\":3}", "-");
    check_trigger(t, &o, "<think>a <call>3</call></think>b <call>1</call>", "-+.");
    o.thinking = true;
    check_trigger(t, &o, "<call>7</think>{\"name\":22}", "-+.");
    check_trigger(t, &o, "no end of <call>", "-");
    o.n_triggers = 0;
    check_trigger(t, &o, "<call>1</call>", "+.");
    check_trigger(t, &o, "a", "!");
    const schema_rule bad = { .name = "value", .schema = "{\"not\":{}}", .n = 10 };
    assert_int_equal(grammars_hold(g, &(grammar_ask){ .gbnf = gbnf, .n = strlen(gbnf), .rules = &bad, .n_rules = 1 }, &again, &which, &e), -1);
    assert_int_equal(which, 0);
    assert_non_null(strstr(e.msg, "#/not"));
    grammars_put(k);
    grammars_free(g);
    tokenizer_free(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole_and_split), cmocka_unit_test(test_arguments_as_they_come), cmocka_unit_test(test_formats_of_templates),
        cmocka_unit_test(test_a_grammar_begins_with_its_trigger), cmocka_unit_test(test_grammars_are_read_back),
        cmocka_unit_test(test_what_a_shape_allows),
        cmocka_unit_test(test_arguments_one_by_one), cmocka_unit_test(test_what_a_format_refuses), cmocka_unit_test(test_kinds_of_values),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
