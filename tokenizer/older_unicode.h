/* older_unicode: what the reference tokenizers mean by punctuation, marks and control characters, as patterns. Some of their
 * tables are of older Unicode versions than their regular expressions; the characters that only the newer one knows are taken out
 * (found by asking HuggingFace tokenizers 0.23 about every code point). */
#ifndef QUERN_TOKENIZER_OLDER_UNICODE_H
#define QUERN_TOKENIZER_OLDER_UNICODE_H

/* Punctuation, BertPreTokenizer */
#define NEWER_PUNCTUATION \
    "\\x{61D}\\x{9FD}\\x{A76}\\x{C77}\\x{C84}\\x{1B4E}-\\x{1B4F}\\x{1B7D}-\\x{1B7F}\\x{2E43}-\\x{2E4F}\\x{2E52}-\\x{2E5D}" \
    "\\x{10D6E}\\x{10EAD}\\x{10F55}-\\x{10F59}\\x{10F86}-\\x{10F89}\\x{113D4}-\\x{113D5}\\x{113D7}-\\x{113D8}" \
    "\\x{1144B}-\\x{1144F}\\x{1145A}-\\x{1145B}\\x{1145D}\\x{11660}-\\x{1166C}\\x{116B9}\\x{1183B}\\x{11944}-\\x{11946}" \
    "\\x{119E2}\\x{11A3F}-\\x{11A46}\\x{11A9A}-\\x{11A9C}\\x{11A9E}-\\x{11AA2}\\x{11B00}-\\x{11B09}\\x{11BE1}" \
    "\\x{11C41}-\\x{11C45}\\x{11C70}-\\x{11C71}\\x{11EF7}-\\x{11EF8}\\x{11F43}-\\x{11F4F}\\x{11FFF}\\x{12FF1}-\\x{12FF2}" \
    "\\x{16D6D}-\\x{16D6F}\\x{16E97}-\\x{16E9A}\\x{16FE2}\\x{1E5FF}\\x{1E95E}-\\x{1E95F}"
#define PUNCTUATION "[\\p{P}\\x{166D}\\x{111C9}$+<=>^`|~](?<![" NEWER_PUNCTUATION "])"

/* Digits: of a newer version than the tables here (Unicode 17) */
#define NUMBERS "[\\p{N}\\x{11DE0}-\\x{11DE9}\\x{16FF4}-\\x{16FF6}]"

/* StripAccents */
#define NEWER_MARKS \
    "\\x{7FD}\\x{897}-\\x{89F}\\x{8CA}-\\x{8D3}\\x{9FE}\\x{AFA}-\\x{AFF}\\x{B55}\\x{C04}\\x{C3C}\\x{CF3}\\x{D00}" \
    "\\x{D3B}-\\x{D3C}\\x{D81}\\x{EBA}\\x{ECE}\\x{1715}\\x{180F}\\x{1ABF}-\\x{1ACE}\\x{1CF7}\\x{1DF6}-\\x{1DFA}\\x{A82C}" \
    "\\x{A8FF}\\x{10D24}-\\x{10D27}\\x{10D69}-\\x{10D6D}\\x{10EAB}-\\x{10EAC}\\x{10EFC}-\\x{10EFF}\\x{10F46}-\\x{10F50}" \
    "\\x{10F82}-\\x{10F85}\\x{11070}\\x{11073}-\\x{11074}\\x{110C2}\\x{11145}-\\x{11146}\\x{111C9}\\x{111CE}-\\x{111CF}" \
    "\\x{11241}\\x{1133B}\\x{113B8}-\\x{113C0}\\x{113C2}\\x{113C5}\\x{113C7}-\\x{113CA}\\x{113CC}-\\x{113D0}\\x{113D2}" \
    "\\x{113E1}-\\x{113E2}\\x{1145E}\\x{1182C}-\\x{1183A}\\x{11930}-\\x{11935}\\x{11937}-\\x{11938}\\x{1193B}-\\x{1193E}" \
    "\\x{11940}\\x{11942}-\\x{11943}\\x{119D1}-\\x{119D7}\\x{119DA}-\\x{119E0}\\x{119E4}\\x{11A01}-\\x{11A0A}" \
    "\\x{11A33}-\\x{11A39}\\x{11A3B}-\\x{11A3E}\\x{11A47}\\x{11A51}-\\x{11A5B}\\x{11A8A}-\\x{11A99}\\x{11D31}-\\x{11D36}" \
    "\\x{11D3A}\\x{11D3C}-\\x{11D3D}\\x{11D3F}-\\x{11D45}\\x{11D47}\\x{11D8A}-\\x{11D8E}\\x{11D90}-\\x{11D91}" \
    "\\x{11D93}-\\x{11D97}\\x{11EF3}-\\x{11EF6}\\x{11F00}-\\x{11F01}\\x{11F03}\\x{11F34}-\\x{11F3A}\\x{11F3E}-\\x{11F42}" \
    "\\x{11F5A}\\x{13440}\\x{13447}-\\x{13455}\\x{1611E}-\\x{1612F}\\x{16F4F}\\x{16F7F}-\\x{16F87}\\x{16FE4}" \
    "\\x{16FF0}-\\x{16FF1}\\x{1CF00}-\\x{1CF2D}\\x{1CF30}-\\x{1CF46}\\x{1E08F}\\x{1E130}-\\x{1E136}\\x{1E2AE}" \
    "\\x{1E2EC}-\\x{1E2EF}\\x{1E4EC}-\\x{1E4EF}\\x{1E5EE}-\\x{1E5EF}"
#define ACCENTS "[\\p{M}\\x{1CF2}\\x{1CF3}](?<![" NEWER_MARKS "])"

/* BertNormalizer: strip_accents, clean_text */
#define NEWER_NONSPACING \
    "\\x{7FD}\\x{897}-\\x{89F}\\x{8CA}-\\x{8E1}\\x{9FE}\\x{AFA}-\\x{AFF}\\x{B55}\\x{C04}\\x{C3C}\\x{D00}\\x{D3B}-\\x{D3C}" \
    "\\x{D81}\\x{EBA}\\x{ECE}\\x{180F}\\x{1885}-\\x{1886}\\x{1ABF}-\\x{1ACE}\\x{1DF6}-\\x{1DFB}\\x{A82C}\\x{A8C5}\\x{A8FF}" \
    "\\x{A9BD}\\x{10D24}-\\x{10D27}\\x{10D69}-\\x{10D6D}\\x{10EAB}-\\x{10EAC}\\x{10EFC}-\\x{10EFF}\\x{10F46}-\\x{10F50}" \
    "\\x{10F82}-\\x{10F85}\\x{11070}\\x{11073}-\\x{11074}\\x{110C2}\\x{111C9}\\x{111CF}\\x{1123E}\\x{11241}\\x{1133B}" \
    "\\x{113BB}-\\x{113C0}\\x{113CE}\\x{113D0}\\x{113D2}\\x{113E1}-\\x{113E2}\\x{11438}-\\x{1143F}\\x{11442}-\\x{11444}" \
    "\\x{11446}\\x{1145E}\\x{1182F}-\\x{11837}\\x{11839}-\\x{1183A}\\x{1193B}-\\x{1193C}\\x{1193E}\\x{11943}" \
    "\\x{119D4}-\\x{119D7}\\x{119DA}-\\x{119DB}\\x{119E0}\\x{11A01}-\\x{11A0A}\\x{11A33}-\\x{11A38}\\x{11A3B}-\\x{11A3E}" \
    "\\x{11A47}\\x{11A51}-\\x{11A56}\\x{11A59}-\\x{11A5B}\\x{11A8A}-\\x{11A96}\\x{11A98}-\\x{11A99}\\x{11C30}-\\x{11C36}" \
    "\\x{11C38}-\\x{11C3D}\\x{11C3F}\\x{11C92}-\\x{11CA7}\\x{11CAA}-\\x{11CB0}\\x{11CB2}-\\x{11CB3}\\x{11CB5}-\\x{11CB6}" \
    "\\x{11D31}-\\x{11D36}\\x{11D3A}\\x{11D3C}-\\x{11D3D}\\x{11D3F}-\\x{11D45}\\x{11D47}\\x{11D90}-\\x{11D91}\\x{11D95}" \
    "\\x{11D97}\\x{11EF3}-\\x{11EF4}\\x{11F00}-\\x{11F01}\\x{11F36}-\\x{11F3A}\\x{11F40}\\x{11F42}\\x{11F5A}\\x{13440}" \
    "\\x{13447}-\\x{13455}\\x{1611E}-\\x{16129}\\x{1612D}-\\x{1612F}\\x{16F4F}\\x{16FE4}\\x{1CF00}-\\x{1CF2D}" \
    "\\x{1CF30}-\\x{1CF46}\\x{1E000}-\\x{1E006}\\x{1E008}-\\x{1E018}\\x{1E01B}-\\x{1E021}\\x{1E023}-\\x{1E024}" \
    "\\x{1E026}-\\x{1E02A}\\x{1E08F}\\x{1E130}-\\x{1E136}\\x{1E2AE}\\x{1E2EC}-\\x{1E2EF}\\x{1E4EC}-\\x{1E4EF}" \
    "\\x{1E5EE}-\\x{1E5EF}\\x{1E944}-\\x{1E94A}"
#define BERT_ACCENTS "[\\p{Mn}\\x{1734}\\x{1171E}](?<![" NEWER_NONSPACING "])"
#define BERT_CONTROL "[\\p{Cc}\\p{Cf}\\p{Co}\\x{FFFD}](?<![\\t\\n\\r\\x{890}\\x{891}\\x{8E2}\\x{110CD}\\x{13430}-\\x{1343F}])"

#endif
