/* Grammars: what GBNF allows, byte by byte; what is refused, and with which words; limits; masks against trying every token; several
 * threads on one grammar. */
#include <math.h>
#include <pthread.h>
#include <time.h>

#include "runtime/grammar.h"
#include "tests/test.h"

/* ---- a vocabulary: every byte, and words that run across what grammars hold apart ---- */

enum { WORDS = 4000, EOS = 256 + WORDS, IDS };
static char word[WORDS][12];
static const char *piece[IDS];
static size_t piece_n[IDS];
static char single[256];

static uint32_t random_state = 12345;

static uint32_t any(uint32_t n) {
    random_state = random_state * 1664525u + 1013904223u;
    return (random_state >> 8) % n;
}

static vocabulary *make_vocabulary(void) {
    static const char *const bits[] = { "a", "b", "c", "\"", "{", "}", "[", "]", ",", ":", " ", "\n", "1", "2", "0", ".", "-",
                                        "e", "true", "null", "x", "(", ")", "+", "\xc3\xa9", "\xe4\xbd", "\xa0", "\\", "n", "u00" };
    static vocabulary *v;
    err e = { 0 };
    if (v) return v;
    for (int i = 0; i < 256; i++) {
        single[i] = (char)i;
        piece[i] = single + i;
        piece_n[i] = 1;
    }
    for (int i = 0; i < WORDS; i++) {
        for (uint32_t k = 0, n = 1 + any(4); k < n; k++)
            if (strlen(word[i]) < 8) strcat(word[i], bits[any(sizeof bits / sizeof *bits)]);
        piece[256 + i] = word[i];
        piece_n[256 + i] = strlen(word[i]);
    }
    piece[EOS] = "";
    if (vocabulary_of(&v, piece, piece_n, IDS, &e)) fail_msg("%s", e.msg);
    return v;
}

static const int32_t eos[] = { EOS };

static grammar *compile(const char *text) {
    grammar *g;
    err e = { 0 };
    if (grammar_compile(&g, make_vocabulary(), text, strlen(text), &e)) fail_msg("%s\n%s", text, e.msg);
    return g;
}

static grammar_state *begin(grammar *g) {
    grammar_state *s;
    err e = { 0 };
    if (grammar_state_new(&s, g, eos, 1, &e)) fail_msg("%s", e.msg);
    return s;
}

/* Is the whole text allowed? */
static bool allows(grammar *g, const char *text, size_t n) {
    grammar_state *s = begin(g);
    err e = { 0 };
    bool good = true;
    for (size_t i = 0; i < n && good; i++) good = grammar_accept_bytes(s, text + i, 1, &e) == 0;
    good = good && grammar_may_end(s);
    grammar_state_free(s);
    return good;
}

/* ---- tables ---- */

static const struct {
    const char *grammar, *good[10], *bad[10];
} cases[] = {
    { "root ::= \"yes\" | \"no\"", { "yes", "no" }, { "", "y", "yesno", "maybe" } },
    { "root ::= \"a\"*", { "", "a", "aaaa" }, { "b", "ab" } },
    { "root ::= \"a\"+ \"b\"?", { "a", "aaab" }, { "", "b", "abb" } },
    { "root ::= \"a\"{2}", { "aa" }, { "a", "aaa" } },
    { "root ::= \"a\"{2,}", { "aa", "aaaaa" }, { "a" } },
    { "root ::= (\"ab\"){0,2} \"c\"", { "c", "abc", "ababc" }, { "abababc", "ac" } },
    { "root ::= \"a\"{,2}", { "", "aa" }, { "aaa" } },
    { "root ::= [a-cx] [^a-c\\n]", { "ad", "x\xc3\xa9" }, { "aa", "dd", "a\n" } },
    { "root ::= [\\x41-\\u0043]+ | \"\\U0001F600\"", { "ABC", "\xf0\x9f\x98\x80" }, { "D", "\xf0\x9f\x98\x81" } },
    { "root ::= \"\\\"\\\\\\n\\t\\x21\"", { "\"\\\n\t!" }, { "" } },
    { "root ::= . \"x\"", { "ax", "\xe4\xbd\xa0x", "\nx" }, { "x", "\xffx", "\xe4x" } },
    { "root ::= [^x]+", { "\xed\x9f\xbf", "\xee\x80\x80", "\xf4\x8f\xbf\xbf" },
      { "x", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xc0\x80", "\xe0\x80\x80", "\xf0\x80\x80\x80" } },
    { "root ::= [a-] [-z] [a\\]b]", { "--]", "aza" }, { "bzz" } },
    { "root ::= a b # comment\n# another\na ::= \"1\" |\n  \"2\"\nb ::= (\n \"3\"\n | \"4\" )", { "13", "24" }, { "1", "34" } },
    { "root ::= \"a\"\n | \"b\"\n", { "a", "b" }, { "ab" } },
    { "root ::= \"(\" root \")\" | \"x\"", { "x", "((x))" }, { "((x)", "(x))" } },
    { "root ::= x x x\nx ::= \"a\" | ", { "", "a", "aaa" }, { "aaaa" } },
    { "root ::= \"\" | \"a\" \"\"", { "", "a" }, { "aa" } },
    { "root ::= (\"a\"*)*", { "", "aaa" }, { "b" } },
    { "root ::= ((\"a\"?)+ \"b\")* ", { "", "b", "abaab" }, { "a" } },
    { "root ::= e\ne ::= t (\"+\" t)*\nt ::= \"1\" | \"(\" e \")\"", { "1+(1+1)" }, { "1+", "(1" } },
    { "root ::= s\ns ::= \"a\" s \"a\" | \"b\" s \"b\" | \"\"", { "", "abba", "aa" }, { "ab", "abb" } },
    { "root ::= \"a\" root | \"b\"", { "aaaab" }, { "aaa" } },
    { "root ::= s s\ns ::= \"a\" s | \"a\" s s | \"\"", { "", "aaaaaaaaaaaa" }, { "b" } },
    { "root ::= a-b_c\na-b_c ::= \"x\"", { "x" }, { "y" } },
    { "root ::= \"a\" dead | \"b\"\ndead ::= \"c\" dead", { "b" }, { "a", "ac" } },
    { "root ::= \"x\" |", { "", "x" }, { "y" } },
    { "root ::= [\"] [^\"\\\\]* \"\\\"\"", { "\"abc\"" }, { "\"a\\b\"" } },
    { "a ::= \"1\"\r\nroot ::= a a\r\n", { "11" }, { "1" } },
    { "root ::= \"a\"? * ", { "", "aaaa" }, { "b" } },
};

static void test_cases(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        grammar *g = compile(cases[i].grammar);
        for (int k = 0; k < 10 && cases[i].good[k]; k++)
            if (!allows(g, cases[i].good[k], strlen(cases[i].good[k]))) fail_msg("%s\nrefuses \"%s\"", cases[i].grammar, cases[i].good[k]);
        for (int k = 0; k < 10 && cases[i].bad[k]; k++)
            if (allows(g, cases[i].bad[k], strlen(cases[i].bad[k]))) fail_msg("%s\nallows \"%s\"", cases[i].grammar, cases[i].bad[k]);
        grammar_free(g);
    }
}

static const struct { const char *grammar, *message; } wrong[] = {
    { "", "it is empty" },
    { "root = \"a\"", "line 1, column 6: expected ::=" },
    { "x ::= \"a\"", "there is no rule \"root\"" },
    { "root ::= a\n  b", "line 2, column 4: expected ::=" },
    { "root ::= \"x\" a", "line 1, column 14: the rule \"a\" is used here, but nothing defines it" },
    { "root ::= \"a", "a literal without its closing quote" },
    { "root ::= [a", "a class without its closing bracket" },
    { "root ::= []", "an empty class" },
    { "root ::= [z-a]", "end lies before its beginning" },
    { "root ::= (\"a\"", "line 1, column 10: a group without its closing parenthesis" },
    { "root ::= \"a\")", "a closing parenthesis without its opening one" },
    { "root ::= \"a\"{3,2}", "the most times are fewer than the least" },
    { "root ::= \"a\"{9999999}", "a repetition of over 262144 times" },
    { "root ::= (((\"a\"{1000}){1000}){1000}){1000}", "the grammar is too large" },
    { "root ::= \"\\q\"", "an unknown escape" },
    { "root ::= \"\\ud800\"", "beyond Unicode's characters" },
    { "root ::= \"\\x4\"", "\\x needs two hexadecimal digits" },
    { "root ::= root \"a\" | \"b\"", "left recursion: root -> root" },
    { "root ::= a\na ::= b\nb ::= c \"x\" | \"y\"\nc ::= a | \"z\"", "left recursion: a -> b -> c -> a" },
    { "root ::= e root \"a\" | \"b\"\ne ::= \"\" | \"x\"", "left recursion: root -> root" },
    { "root ::= (\"x\"* e)? root | \"b\"\ne ::= \"\"", "left recursion: root -> root" },
    { "root ::= \"a\" root", "no text can ever complete the rule \"root\"" },
    { "root ::= \"a\"\nroot ::= \"b\"", "line 2, column 1: this rule has been defined before" },
    { "root ::= <think>", "tokens by name" },
    { "root ::= \"\xff\"", "not UTF-8" },
    { "root ::= * \"a\"", "expected an element" },
};

static void test_errors(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        grammar *g;
        err e = { 0 };
        if (grammar_compile(&g, make_vocabulary(), wrong[i].grammar, strlen(wrong[i].grammar), &e) == 0) fail_msg("%s: no error", wrong[i].grammar);
        if (!strstr(e.msg, wrong[i].message)) fail_msg("%s:\n  %s\nexpected: %s", wrong[i].grammar, e.msg, wrong[i].message);
    }
}

/* ---- llama.cpp's example grammars, as its users write such ---- */

#define JSON_RULES \
    "object ::=\n  \"{\" ws (\n            string \":\" ws value\n    (\",\" ws string \":\" ws value)*\n  )? \"}\" ws\n\n" \
    "array  ::=\n  \"[\" ws (\n            value\n    (\",\" ws value)*\n  )? \"]\" ws\n\n" \
    "string ::=\n  \"\\\"\" (\n    [^\"\\\\\\x7F\\x00-\\x1F] |\n    \"\\\\\" ([\"\\\\bfnrt] | \"u\" [0-9a-fA-F]{4}) # escapes\n  )* \"\\\"\" ws\n\n" \
    "number ::= (\"-\"? ([0-9] | [1-9] [0-9]{0,15})) (\".\" [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws\n\n" \
    "# Optional space: by convention, applied in this grammar after literal chars when allowed\n" \
    "ws ::= | \" \" | \"\\n\" [ \\t]{0,20}\n"
static const char json_gbnf[] = "root   ::= object\n"
    "value  ::= object | array | string | number | (\"true\" | \"false\" | \"null\") ws\n\n" JSON_RULES;
static const char json_arr_gbnf[] = "root   ::= arr\nvalue  ::= object | array | string | number | (\"true\" | \"false\" | \"null\") ws\n\n"
    "arr  ::=\n  \"[\\n\" ws (\n            value\n    (\",\\n\" ws value)*\n  )? \"]\"\n\n" JSON_RULES;
static const char arithmetic_gbnf[] = "root  ::= (expr \"=\" ws term \"\\n\")+\nexpr  ::= term ([-+*/] term)*\n"
                                      "term  ::= ident | num | \"(\" ws expr \")\" ws\n"
    "ident ::= [a-z] [a-z0-9_]* ws\nnum   ::= [0-9]+ ws\nws    ::= [ \\t\\n]*\n";
static const char list_gbnf[] = "root ::= item+\n\n# Excludes various line break characters\n"
                                "item ::= \"- \" [^\\r\\n\\x0b\\x0c\\x85\\u2028\\u2029]+ \"\\n\"\n";
static const char c_gbnf[] = "root ::= (declaration)*\n\ndeclaration ::= dataType identifier \"(\" parameter? \")\" \"{\" statement* \"}\"\n\n"
    "dataType  ::= \"int\" ws | \"float\" ws | \"char\" ws\nidentifier ::= [a-zA-Z_] [a-zA-Z_0-9]*\n\nparameter ::= dataType identifier\n\n"
    "statement ::=\n    ( dataType identifier ws \"=\" ws expression \";\" ) |\n    ( identifier ws \"=\" ws expression \";\" ) |\n"
    "    ( identifier ws \"(\" argList? \")\" \";\" ) |\n    ( \"return\" ws expression \";\" ) |\n"
    "    ( \"while\" \"(\" condition \")\" \"{\" statement* \"}\" ) |\n"
    "    ( \"for\" \"(\" forInit \";\" ws condition \";\" ws forUpdate \")\" \"{\" statement* \"}\" ) |\n"
    "    ( \"if\" \"(\" condition \")\" \"{\" statement* \"}\" (\"else\" \"{\" statement* \"}\")? ) |\n"
    "    ( singleLineComment ) |\n    ( multiLineComment )\n\n"
    "forInit ::= dataType identifier ws \"=\" ws expression | identifier ws \"=\" ws expression\nforUpdate ::= identifier ws \"=\" ws expression\n\n"
    "condition ::= expression relationOperator expression\nrelationOperator ::= (\"<=\" | \"<\" | \"==\" | \"!=\" | \">=\" | \">\")\n\n"
    "expression ::= term ((\"+\" | \"-\") term)*\nterm ::= factor((\"*\" | \"/\") factor)*\n\n"
    "factor ::= identifier | number | unaryTerm | funcCall | parenExpression\nunaryTerm ::= \"-\" factor\n"
    "funcCall ::= identifier \"(\" argList? \")\"\n"
    "parenExpression ::= \"(\" ws expression ws \")\"\n\nargList ::= expression (\",\" ws expression)*\n\nnumber ::= [0-9]+\n\n"
    "singleLineComment ::= \"//\" [^\\n]* \"\\n\"\nmultiLineComment ::= \"/*\" ( [^*] | (\"*\" [^/]) )* \"*/\"\n\nws ::= ([ \\t\\n]+)\n";
static const char chess_gbnf[] = "# Specifies chess moves as a list in algebraic notation, using PGN conventions\n\n"
    "# Force first move to \"1. \", then any 1-2 digit number after, relying on model to follow the pattern\n"
    "root    ::= \"1. \" move \" \" move \"\\n\" ([1-9] [0-9]? \". \" move \" \" move \"\\n\")+\nmove    ::= (pawn | nonpawn | castle) [+#]?\n\n"
    "# piece type, optional file/rank, optional capture, dest file & rank\nnonpawn ::= [NBKQR] [a-h]? [1-8]? \"x\"? [a-h] [1-8]\n\n"
    "# optional file & capture, dest file & rank, optional promotion\npawn    ::= ([a-h] \"x\")? [a-h] [1-8] (\"=\" [NBKQR])?\n\n"
    "castle  ::= \"O-O\" \"-O\"?\n";
static const char japanese_gbnf[] = "# A probably incorrect grammar for Japanese\n"
    "root        ::= jp-char+ ([ \\t\\n] jp-char+)*\njp-char     ::= hiragana | katakana | punctuation | cjk\n"
    "hiragana    ::= [\xe3\x81\x81-\xe3\x82\x9f]\nkatakana    ::= [\xe3\x82\xa1-\xe3\x83\xbf]\n"
    "punctuation ::= [\xe3\x80\x81-\xe3\x80\xbe]\ncjk         ::= [\xe4\xb8\x80-\xe9\xbf\xbf]\n";

static const struct { const char *grammar, *good[4], *bad[4]; } examples[] = {
    { json_gbnf, { "{}", "{\"a\": [1, -2.5e+1, \"x\\u00e9\\n\"], \"b\":{\n  \"c\": null}}\n", "{\"a\":true}" },
      { "[]", "{\"a\"}", "{\"a\": 01}", "{\"a\": \"\n\"}" } },
    { json_arr_gbnf, { "[\n]", "[\n1,\n{\"a\": 2}]" }, { "[]", "{}", "[\n1 2]" } },
    { arithmetic_gbnf, { "x +1 = 2\n", "(a+b) *3/4=c\n1=1\n" }, { "x +", "=1\n", "1+1" } },
    { list_gbnf, { "- a\n", "- a b\n- \xe4\xbd\xa0\n" }, { "a\n", "- \n", "- a", "- a\xe2\x80\xa8\n" } },
    { c_gbnf, { "", "int main(){return 0;}", "int f(int a){while(a<10){a = a+1;}if(a==3){g (a, 2);}else{// x\n}}" },
      { "int main()", "main(){}", "int f(){x}" } },
    { chess_gbnf, { "1. e4 e5\n2. Nf3 Nc6\n", "1. e4 d5\n2. exd5 Qxd5+\n3. O-O-O a8=Q#\n" }, { "1. e4 e5\n", "1. e9 e5\n2. a1 a1\n" } },
    { japanese_gbnf, { "\xe3\x81\x82\xe3\x82\xa2", "\xe4\xbd\xa0 \xe3\x80\x82" }, { "a", "", "\xe3\x81" } },
};

static void test_examples(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof examples / sizeof *examples; i++) {
        grammar *g = compile(examples[i].grammar);
        for (int k = 0; k < 4 && examples[i].good[k]; k++)
            if (!allows(g, examples[i].good[k], strlen(examples[i].good[k]))) fail_msg("example %zu refuses \"%s\"", i, examples[i].good[k]);
        for (int k = 0; k < 4 && examples[i].bad[k]; k++)
            if (allows(g, examples[i].bad[k], strlen(examples[i].bad[k]))) fail_msg("example %zu allows \"%s\"", i, examples[i].bad[k]);
        grammar_free(g);
    }
}

/* ---- masks against trying every token from the beginning ---- */

/* The text so far and a token, byte by byte, with a state of its own. */
static bool tried(const grammar_state *now, int32_t id) {
    grammar_state *s;
    err e = { 0 };
    if (grammar_state_clone(&s, now, &e)) fail_msg("%s", e.msg);
    bool good = grammar_accept_bytes(s, piece[id], piece_n[id], &e) == 0;
    grammar_state_free(s);
    return good;
}

static void compare_mask(grammar_state *s, const char *text) {
    static float logits[IDS + 10];
    err e = { 0 };
    for (int i = 0; i < IDS + 10; i++) logits[i] = (float)i;
    if (grammar_mask(s, logits, IDS + 10, &e)) fail_msg("%s\n%s", text, e.msg);
    for (int32_t id = 0; id < IDS + 10; id++) {
        bool expected = id == EOS ? grammar_may_end(s) : id < EOS && tried(s, id);
        bool found = !isinf(logits[id]);
        if (found && logits[id] != (float)id) fail_msg("the logit of an allowed token changed");
        if (found != expected)
            fail_msg("%s\ntoken %d \"%s\": %s", text, id, id < EOS ? piece[id] : "", found ? "allowed wrongly" : "forbidden wrongly");
        if (id < EOS && id % 7 == 0 && grammar_allows(s, id) != expected) fail_msg("grammar_allows differs");
    }
}

/* A few masks along a random text that the grammar allows. */
static void follow(const char *text, int steps) {
    grammar *g = compile(text);
    grammar_state *s = begin(g);
    static float logits[IDS];
    err e = { 0 };
    for (int k = 0; k < steps && !grammar_done(s); k++) {
        compare_mask(s, text);
        memset(logits, 0, sizeof logits);
        assert_int_equal(grammar_mask(s, logits, IDS, &e), 0);
        int32_t id = (int32_t)any(EOS), tries = 0;
        while (isinf(logits[id]) && tries++ < IDS) id = (id + 1) % EOS;
        if (isinf(logits[id])) break;
        if (grammar_accept(s, id, &e)) fail_msg("%s\nwhat the mask allows is refused: %s", text, e.msg);
    }
    grammar_state_free(s);
    grammar_free(g);
}

static void random_expression(buf *b, int depth) {
    static const char *const atoms[] = { "\"a\"", "\"b\"", "\"ab\"", "[ab]", "[^a]", "\"\"", ".", "\"\\\"\"", "[\xc3\xa9-\xe4\xbd\xa0]", "\" \"" };
    for (uint32_t alternatives = 1 + any(3), i = 0; i < alternatives; i++) {
        if (i) buf_str(b, " | ");
        for (uint32_t n = any(4), k = 0; k < n; k++) {
            uint32_t what = any(8);
            if (what == 0 && depth) {
                buf_str(b, "( ");
                random_expression(b, depth - 1);
                buf_str(b, ")");
            } else if (what < 3) buf_fmt(b, "r%u ", any(4));
            else buf_str(b, atoms[any(sizeof atoms / sizeof *atoms)]);
            const char *const repeats[] = { "", "", "", "*", "+", "?", "{2}", "{0,3}" };
            buf_str(b, repeats[any(8)]);
            buf_byte(b, ' ');
        }
    }
}

/* Small grammars of all sorts; those that are left-recursive or endless are refused, and that is all that may go wrong. */
static void test_random(void **state) {
    (void)state;
    int compiled = 0;
    for (int round = 0; round < 400; round++) {
        buf b = { 0 };
        err e = { 0 };
        grammar *g;
        for (int r = 0; r < 4; r++) {
            buf_fmt(&b, r ? "r%d ::= " : "r0 ::= \"(\" ", r);
            random_expression(&b, 2);
            buf_str(&b, "\n");
        }
        buf_str(&b, "root ::= r1 \"x\" | r0 r2\n");
        buf_byte(&b, 0);
        if (grammar_compile(&g, make_vocabulary(), b.p, strlen(b.p), &e) == 0) {
            grammar_free(g);
            follow(b.p, compiled < 60 ? 5 : 1);
            compiled++;
        } else if (!strstr(e.msg, "left recursion") && !strstr(e.msg, "can ever complete")) fail_msg("%s\n%s", b.p, e.msg);
        buf_free(&b);
        if (compiled == 100) break;
    }
    assert_true(compiled > 40);
}

static void test_example_masks(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof examples / sizeof *examples; i++) follow(examples[i].grammar, 12);
}

/* ---- limits ---- */

static void test_nesting(void **state) {
    (void)state;
    enum { DEEP = 60000 };
    buf b = { 0 };
    grammar *g;
    err e = { 0 };
    buf_str(&b, "root ::= ");
    for (int i = 0; i < DEEP; i++) buf_byte(&b, '(');
    buf_str(&b, "\"a\"");
    for (int i = 0; i < DEEP; i++) buf_byte(&b, ')');
    assert_int_equal(grammar_compile(&g, make_vocabulary(), b.p, b.n, &e), -1);
    assert_non_null(strstr(e.msg, "groups nested deeper than 500 levels"));
    b.n = 0;
    buf_str(&b, "root ::= r0\n"); /* a chain of rules is not nesting */
    for (int i = 0; i < 500; i++) buf_fmt(&b, "r%d ::= \"(\" r%d \")\" | r%d\n", i, i + 1, i + 1);
    buf_str(&b, "r500 ::= \"x\"\n");
    g = compile((buf_byte(&b, 0), b.p));
    assert_true(allows(g, "((x))", 5));
    grammar_free(g);
    buf_free(&b);
}

/* Depth of a text costs memory, its length does not; past the limit it is an error, not a crash. */
static void test_depth(void **state) {
    (void)state;
    grammar *g = compile("root ::= v\nv ::= \"[\" v (\",\" v)* \"]\" | \"1\"");
    grammar_state *s = begin(g);
    err e = { 0 };
    int depth = 0;
    while (depth < 60000 && grammar_accept_bytes(s, "[", 1, &e) == 0) depth++;
    assert_int_equal(depth, 60000);
    assert_int_equal(grammar_accept_bytes(s, "1,1,1", 5, &e), 0);
    for (int i = 0; i < depth; i++) assert_int_equal(grammar_accept_bytes(s, "]", 1, &e), 0);
    assert_true(grammar_done(s));
    assert_int_equal(grammar_state_reset(s, &e), 0);
    for (depth = 0; grammar_accept_bytes(s, "[", 1, &e) == 0; depth++) assert_true(depth < 2 * GRAMMAR_MAX_DEPTH);
    assert_non_null(strstr(e.msg, "are open within one another"));
    e = (err){ 0 };
    assert_int_equal(grammar_state_reset(s, &e), 0);
    assert_int_equal(grammar_accept_bytes(s, "1", 1, &e), 0);
    grammar_state_free(s);
    grammar_free(g);
}

static void test_length(void **state) {
    (void)state;
    grammar *g = compile("root ::= item*\nitem ::= \"a\" | \"b\" item2\nitem2 ::= \"c\" | \"c\" item2");
    grammar_state *s = begin(g);
    err e = { 0 };
    for (int i = 0; i < 100000; i++) assert_int_equal(grammar_accept_bytes(s, i % 2 ? "a" : "bccc", i % 2 ? 1 : 4, &e), 0);
    assert_true(grammar_about(s).state_bytes < 24 << 20);
    grammar_state_free(s);
    grammar_free(g);
}

/* Every way to split a text into three is an own derivation: bounded all the same. */
static void test_ambiguity(void **state) {
    (void)state;
    static const char *const grammars[] = { "root ::= s\ns ::= \"a\" | \"a\" s | \"a\" s s | \"a\" s s s",
                                            "root ::= e\ne ::= p (\"+\" e)? (\"+\" e)?\np ::= \"1\" | \"(\" e \")\"" };
    static const char *const text[] = { "a", "1+" };
    for (int k = 0; k < 2; k++) {
        grammar *g = compile(grammars[k]);
        grammar_state *s = begin(g);
        err e = { 0 };
        clock_t start = clock(); /* processor time: other programs do not count */
        for (int i = 0; i < 200; i++)
            if (grammar_accept_bytes(s, text[k], strlen(text[k]), &e)) fail_msg("after %d: %s", i, e.msg);
        compare_mask(s, grammars[k]);
        assert_true((double)(clock() - start) / CLOCKS_PER_SEC < 60);
        grammar_state_free(s);
        grammar_free(g);
    }
}

/* ---- states ---- */

static void test_state(void **state) {
    (void)state;
    grammar *g = compile("root ::= \"ab\" \"c\"?");
    grammar_state *s = begin(g), *t;
    err e = { 0 };
    assert_int_equal(grammar_accept(s, 'x', &e), -1);
    assert_string_equal(e.msg, "the grammar does not allow \"x\" here");
    assert_false(grammar_may_end(s));
    assert_int_equal(grammar_accept(s, EOS, &(err){ 0 }), -1);
    assert_int_equal(grammar_accept(s, 'a', &e), 0);
    assert_int_equal(grammar_state_clone(&t, s, &e), 0);
    assert_int_equal(grammar_accept(s, 'b', &e), 0);
    assert_true(grammar_may_end(s) && !grammar_done(s));
    assert_false(grammar_may_end(t));
    assert_int_equal(grammar_accept(s, EOS, &e), 0);
    assert_true(grammar_done(s));
    assert_int_equal(grammar_accept(s, 'c', &(err){ 0 }), -1);
    assert_int_equal(grammar_accept(t, 'b', &e), 0);
    assert_int_equal(grammar_accept(t, 'c', &e), 0);
    assert_true(grammar_done(t));
    assert_int_equal(grammar_state_reset(t, &e), 0);
    assert_true(grammar_allows(t, 'a') && !grammar_allows(t, 'b') && !grammar_allows(t, EOS));
    assert_int_equal(grammar_accept(t, 100000, &(err){ 0 }), -1);
    grammar_state_free(s);
    grammar_state_free(t);
    grammar_free(g);
}

static void *use_grammar(void *arg) {
    err e = { 0 };
    float *logits = malloc(IDS * sizeof *logits);
    double sum = 0;
    for (int round = 0; round < 3; round++) {
        grammar_state *s;
        if (grammar_state_new(&s, arg, eos, 1, &e)) abort();
        for (const char *p = "{\"a\": [1, true, {\"b\": \"x\"}], \"c\": -1.5}"; *p; p++) {
            memset(logits, 0, IDS * sizeof *logits);
            if (grammar_mask(s, logits, IDS, &e) || grammar_accept(s, (uint8_t)*p, &e)) abort();
            for (int i = 0; i < IDS; i++) sum += isinf(logits[i]) ? 0 : i;
        }
        grammar_state_free(s);
    }
    free(logits);
    double *result = malloc(sizeof *result);
    *result = sum;
    return result;
}

static void test_threads(void **state) {
    (void)state;
    grammar *g = compile(json_gbnf);
    pthread_t t[4];
    double *sum[4];
    for (int i = 0; i < 4; i++) assert_int_equal(pthread_create(t + i, NULL, use_grammar, g), 0);
    for (int i = 0; i < 4; i++) pthread_join(t[i], (void **)&sum[i]);
    for (int i = 1; i < 4; i++) assert_true(*sum[i] == *sum[0]);
    for (int i = 0; i < 4; i++) free(sum[i]);
    grammar_free(g);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cases),
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_examples),
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_example_masks),
        cmocka_unit_test(test_nesting),
        cmocka_unit_test(test_depth),
        cmocka_unit_test(test_length),
        cmocka_unit_test(test_ambiguity),
        cmocka_unit_test(test_state),
        cmocka_unit_test(test_threads),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    vocabulary_free(make_vocabulary());
    return failed;
}
