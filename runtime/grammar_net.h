/* grammar_net: a grammar as networks of states, one for each rule: bytes lead from state to state, and so do calls of rules. GBNF and
 * schemas build one through these functions; grammar.c runs it. Not for others. */
#ifndef QUERN_GRAMMAR_NET_H
#define QUERN_GRAMMAR_NET_H

#include "runtime/base.h"

enum { ARC_EMPTY, ARC_BYTES, ARC_CALL };
enum { NET_NONE = UINT32_MAX };

typedef struct net_arc {
    uint8_t kind, lo, hi; /* ARC_BYTES: lo <= byte <= hi */
    uint32_t from, to;
    uint32_t rule;        /* ARC_CALL */
} net_arc;

typedef struct net_state {
    uint32_t first, n;    /* arcs, after net_finish: bytes first */
    uint32_t rule;
    uint32_t object;      /* whose phases these are, or NET_NONE */
    uint16_t n_bytes;     /* of its arcs */
    bool final, tail;     /* the rule's end; nothing but its end can come from here */
} net_state;

typedef struct net_rule {
    const char *name;     /* borrowed from the net's arena; for messages */
    uint32_t start, end;
    uint32_t rank;        /* a rule that begins with another has the lower one */
    bool nullable, productive, defined;
    uint32_t object;      /* or NET_NONE */
} net_rule;

/* A JSON object, its properties in any order, each at most once. A state of its own keeps which have come: written out as rules that
 * would be one for each set of properties. The phases are states, from the rule's start on, in this order: */
enum {
    PHASE_START,  /* { */
    PHASE_OPEN,   /* space, the first key or } */
    PHASE_OPENED, /* the same without space */
    PHASE_NEXT,   /* behind a comma: space, a key */
    PHASE_KEYED,  /* a key */
    PHASE_KEY,    /* within a key */
    PHASE_COLON,
    PHASE_VALUE,  /* space, the value */
    PHASE_VALUED, /* the value */
    PHASE_AFTER,  /* a comma, or space and } */
    PHASE_CLOSE,  /* } */
    PHASE_END,
    PHASES
};

typedef struct net_property {
    const char *name; /* as it stands between the quotes */
    uint32_t n;
    uint32_t rule;    /* NET_NONE: it may not come */
    bool required;
} net_property;

typedef struct net_object {
    net_property *p; /* [n], sorted by name */
    uint32_t n;
    uint32_t additional; /* rule of other keys' values; NET_NONE: no others */
    uint32_t min, max;   /* properties */
    uint32_t rule;
} net_object;

typedef struct net {
    arena mem;
    net_state *state;
    net_arc *arc;
    net_rule *rule;
    net_object *object;
    uint32_t n_states, n_arcs, n_rules, n_objects;
    uint32_t cap_states, cap_arcs, cap_rules, cap_objects;
    uint32_t root;
    uint32_t space, text;     /* rules of objects' space (at least one), and of what is between a key's quotes: NET_NONE without objects */
    uint32_t text_state[16];  /* states of that rule by the number of json_text_step */
    uint8_t class_of[256];    /* bytes that no arc tells apart */
    int n_classes;
    bool too_large, failed;   /* sticky: checked by net_finish */
} net;

typedef struct char_range { uint32_t lo, hi; } char_range;

uint32_t net_add_rule(net *n, const char *name, size_t name_n); /* its start and end are made */
uint32_t net_add_state(net *n, uint32_t rule);
void net_empty(net *n, uint32_t from, uint32_t to);
void net_bytes(net *n, uint32_t from, uint8_t lo, uint8_t hi, uint32_t to);
void net_call(net *n, uint32_t from, uint32_t rule, uint32_t to);
uint32_t net_literal(net *n, uint32_t from, const char *s, size_t len); /* the state behind it */
void net_chars(net *n, uint32_t from, const char_range *r, size_t n_ranges, uint32_t to); /* one character of these, in UTF-8 */
/* A rule that is an object; p is copied, not the names. net_json must have been called. */
uint32_t net_add_object(net *n, const char *name, const net_property *p, uint32_t n_p, uint32_t additional, uint32_t min, uint32_t max);
void net_set_object(net *n, uint32_t rule, const net_property *p, uint32_t n_p, uint32_t additional, uint32_t min, uint32_t max);
void net_json(net *n); /* adds the rules `space` and `text` */
/* Orders and checks the whole: what is unreachable or can never end is cut off, left recursion is an error. */
int net_finish(net *n, uint32_t root, err *e);
void net_free(net *n);

/* The text between a JSON string's quotes, a byte further; the one way of writing each character. From 0; 0 again where a character is whole.
 * -1: not allowed. The closing quote is not part of it. */
int json_text_step(int state, uint8_t byte);
enum { JSON_TEXT_STATES = 14 };

#endif
