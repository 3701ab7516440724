#!/usr/bin/env python3
"""Writes tests/fixtures/template_cases.jsonl: small templates with what jinja2 makes of them in the environment of transformers'
chat templates (development only; needs transformers and jinja2).

    python3 tests/tools/template_reference.py > tests/fixtures/template_cases.jsonl

A line: {"template", "vars" (if any), and "out", or "error": "compile", "refused" or "render"}. The time is 2026-11-21 13:05:09.
"""
import copy
import datetime
import json

import jinja2
import transformers.utils.chat_template_utils as utils


class Fixed(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2026, 11, 21, 13, 5, 9)


utils.datetime = Fixed
VARS = {
    "s": "Hello World", "u": "Grüße 你好 👋 ﬁ ß Σας", "e": "", "ws": " \t a  b\n c \u3000", "n": 7, "neg": -7, "f": 2.5, "big": 123456789012345678901234567890,
    "t": True, "no": False, "none": None, "l": [3, 1, 2], "ls": ["b", "A", "c", "a"], "d": {"b": 1, "a": {"x": [1, 2]}, "items": "I", "C": 3},
    "rows": [{"name": "x", "v": 2, "g": "A"}, {"name": "Y", "v": 1, "g": "b"}, {"name": "z", "v": 2, "g": "a"}], "html": "<b>\"x\" & 'y'</b>",
    "messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}, {"role": "assistant", "content": "A"}],
    "floats": [0.1, 1e16, 1e-5, 1e22, 1.0, -0.0, 123456789.123, 1e15, 5e-324, 1.7976931348623157e308, 0.0001, 12345678901234567.0],
    "ctl": "a\u0000\u0001\u001f\u007f\u0080\u2028\ud7ff\ufeff\"\\/\b\f\n\r\t",
    "lines": "one\ntwo\r\n\nthree\x0bfour\u2028five", "pad": "ab",
}
E = []  # expressions, each as {{ ... }}


def add(text):
    E.extend(line for line in text.strip("\n").split("\n") if line and not line.startswith("#"))


# what is printed
add("""
s
none
t
no
n
f
big
l
d
()
(1,)
(1, 'a', none)
[1, 2.0, 'x', none, true, [], {}, ()]
{'a': 1, 2: 'b', none: 3, true: 4, 1.5: 5, (1, 2): 6}
{1: 'a', 1.0: 'b', true: 'c'}
floats
floats | join(' ')
missing
[missing]
1, 2
'it\\'s'
["it's", 'say "hi"', 'both \\' and "', 'a\\nb\\t\\\\', '\\x00\\x7f\\u200b\\u00e9']
ctl
[ctl]
u
[u]
'a' 'b' "c"
'\\x41\\u00e9\\U0001f600\\101\\q\\
x'
1_000
0x1f + 0o17 + 0b11
1.5e3
.5
1e5
1.0e-7
1_0.5
1.
007
d.a.x.0
range(5)
range(2, 10, 3)
range(3) | list
d.keys()
d.values()
d.items()
d['items']
namespace(a=1, b='x')
""")
# arithmetic
add("""
1 + 2 * 3 - 4 / 2
7 // 2, -7 // 2, 7 // -2, -7 % 3, 7 % -3, 7.5 // 2, -7.5 % 2, 7 % 2.5
2 ** 10, 2 ** -1, 2 ** 0.5, -2 ** 2, 2 ** 3 ** 2, 0 ** 0
1 / 3, 10 / 5, 1 // 1.0
1 / 0
1 // 0
1 % 0
0.0 / 0
0 ** -1
9223372036854775807
9223372036854775807 - 1
1 + true
true + true
-true
+'x'
-none
'a' + 'b'
'a' + 1
1 + 'a'
[1] + [2]
[1] + (2,)
(1,) + (2,)
'ab' * 3
3 * [1, 2]
'a' * -1
'a' * 2.0
none + 1
missing + 1
1 + missing
missing * 2
d + d
1 ~ 2 ~ none ~ 'x' ~ [1] ~ missing
1.5 + 1
0.1 + 0.2
1e308 * 10
-0.0
3.0 * 2
10 - 2 - 3
2 * 3 % 4
not 1
not 0
- 5 | abs
-5 | abs
(-5) | abs
""")
# comparisons, logic
add("""
1 < 2 < 3, 1 < 3 < 2
1 == 1.0, 1 == true, '1' == 1, none == false
'a' < 'b', 'a' < 'B', [1, 2] < [1, 3], (1,) < (1, 2)
1 < 'a'
none < 1
d < d
[1, 'a'] < [1, 2]
missing < 1
missing == missing, missing == none, missing != 1
1 in l, 4 in l, 'lo W' in s, 'z' not in s, 'b' in d, 'x' in d
1 in 5
1 in s
missing in l
'a' in missing
none in [none]
1 and 2, 0 and 2, 1 or 2, 0 or '', none or 'x'
not true and false or true
1 if t else 2
1 if no else 2
1 if no
(1 if no) is defined
'a' if 1 > 2 else 'b' if 2 > 3 else 'c'
1 == 1 == 1
[1, 2] == [1, 2], [1, 2] == (1, 2), {'a': 1} == {'a': 1.0}, {'a': 1} != {'a': 2}
big == big, big > 1, big < 1.5, big | string | length, [big] | max
9007199254740993 == 9007199254740992.0, 9007199254740993 > 9007199254740992.0
range(3) == range(3), range(0) == range(2, 2)
t is true and no is false
""")
# subscripts
add("""
s[0], s[-1], s[20], u[6], u[-1]
s[1:4], s[:3], s[-3:], s[::2], s[::-1], s[10:2:-3], s[100:], s[:-100], u[6:9], u[::-1]
l[0], l[-1], l[5] is defined, l[1:], l[::-1], l[:-1], l[5:], l[-2:], l[::2], l[2::-1], l[-1:0:-1]
(1, 2, 3)[1:], (1, 2, 3)[::-1]
range(10)[3], range(10)[-1]
l['x']
l[1.0]
l[true]
d['b'], d.b, d.a.x, d['a']['x'][1], d.zz is defined, d['zz'] is defined
d.zz.y
d[0] is defined
d[[1]] is defined
none.x
none.x is defined
n.x is defined
missing.x
missing['x']
missing[1:]
n[1:]
d[1:]
s[::0]
s['a':]
s[none:none]
s.nope
s.nope()
messages[0].role, messages[-1]['content'], messages[0:2] | length
rows[0].name.upper()
''.__class__
''.__class__.__mro__
().__class__.__bases__[0].__subclasses__()
s.format.__globals__
d.__init__
l.append(1)
l.append
d.update({'x': 1})
d.pop('b')
l.sort()
l.copy()
d.copy()
[1, 2, 1].count(1), [1, 2].index(2)
[1].index(5)
{'update': 1}.update
{'x': {'keys': 2}}.x['keys']
d.get('b'), d.get('q'), d.get('q', 5), d.get('items')
d.get()
d.get([1])
d.get('q', default=5)
'a'[0][0][0]
s.0
""")
# methods of strings
add("""
s.upper(), s.lower(), s.swapcase(), s.title(), s.capitalize()
u.upper(), u.lower(), u.title(), u.capitalize(), u.swapcase()
'ὈΔΥΣΣΕΎΣ ΑΣ Σ'.lower(), 'ǆ ǅ'.title(), 'İ'.lower(), 'ŉ'.upper(), "they're bill's".title(), 'x1y'.title()
ws.strip(), ws.lstrip(), ws.rstrip(), 'xxaxx'.strip('x'), 'abcab'.strip('ab'), 'abc'.strip(''), 'x'.strip(none)
'xyx'.lstrip('x'), 'xyx'.rstrip('yx'), '你好你'.strip('你')
ws.split(), ws.split(' '), 'a,b,,c'.split(','), 'a,b,c'.split(',', 1), 'a b c'.split(none, 1), ''.split(), ''.split(','), ' a  b '.split(maxsplit=1)
'a,b,c'.rsplit(',', 1), 'a b  c '.rsplit(none, 1), 'abab'.rsplit('ab'), 'a  b'.rsplit(), 'x'.rsplit(sep='x')
'a'.split('')
'a'.split(1)
lines.splitlines(), lines.splitlines(true), ''.splitlines(), 'a\\n'.splitlines()
'a=b=c'.partition('='), 'a=b=c'.rpartition('='), 'abc'.partition('='), 'abc'.rpartition('=')
s.startswith('He'), s.startswith('x'), s.startswith(('x', 'H')), s.startswith('W', 6), s.endswith('ld'), s.endswith(('a', 'd')), s.endswith('W', 0, 7)
s.startswith(1)
s.find('o'), s.find('o', 5), s.find('zz'), s.rfind('o'), u.find('好'), s.find(''), s.find('', 20), s.count('o'), s.count(''), 'aaa'.count('aa'), s.index('W')
s.index('zz')
s.rindex('l')
s.replace('o', '0'), s.replace('l', 'L', 2), s.replace('', '-'), s.replace('x', 'y'), 'aaa'.replace('aa', 'b'), 'ab'.replace('', '.', 2), ''.replace('', 'x')
s.replace('o')
s.replace('o', 1)
s.replace('o', '0', -1), s.replace('o', '0', 0)
pad.center(7, '*'), pad.center(6), pad.ljust(5, '.'), pad.rjust(5), pad.zfill(5), '-5'.zfill(4), '+'.zfill(3), 'abc'.center(6), 'abc'.center(2)
pad.center(7, '**')
'a\\tb\\nab\\tc'.expandtabs(), 'a\\tb'.expandtabs(4), 'a\\tb'.expandtabs(0)
', '.join(ls), '-'.join('abc'), ''.join([]), ', '.join(d)
', '.join([1, 2])
', '.join(missing)
'abc'.removeprefix('a'), 'abc'.removesuffix('c'), 'abc'.removeprefix('x'), 'aaa'.removesuffix('aaaa')
'abc'.isalpha(), ''.isalpha(), 'a1'.isalnum(), '12'.isdigit(), '²'.isdigit(), '²'.isdecimal(), '½'.isnumeric(), ' '.isspace(), 'aB'.islower(), 'ab1'.islower(), 'AB'.isupper(), 'Ab C'.istitle(), 'AB'.istitle(), 'é'.isascii(), ''.isascii(), '你'.isalpha()
s.upper(1)
s.lower().upper().strip('D')
'{} {}'.format(1, 'a'), '{0}{1}{0}'.format('x', 'y'), '{a} {b!r}'.format(a=1, b='q'), '{{}}'.format(), '{:>5}|{:<5}|{:^5}|{:*^7}'.format('a', 'b', 'c', 'd')
'{:05d} {:+d} {:,} {:x} {:#x} {:o} {:b} {:X} {:_}'.format(42, 42, 1234567, 255, 255, 8, 5, 255, 1234567)
'{:.2f} {:8.3f} {:e} {:g} {:%} {:.1%} {:.3} {:08.2f} {:+.1f}'.format(3.14159, 2.5, 12345.678, 0.0001, 0.25, 0.123, 3.14159, -2.5, 1.25)
'{:.3}|{:5}|{:<4}|{:>6.2}'.format('abcdef', 7, 7, 'xyz')
'{} {} {}'.format(none, true, [1, 'a'])
'{a.b} {c[x]} {d[0]}'.format(a={'b': 1}, c={'x': 2}, d=[3])
'{}'.format()
'{0} {}'.format(1, 2)
'{'.format()
'}'.format()
'{x}'.format()
'{:d}'.format('a')
'{:d}'.format(1.5)
'{:s}'.format(1)
'{:5}'.format(none)
'{a.__class__}'.format(a=1)
'{!s:>4}'.format(12)
'{:c}{:c}'.format(65, 20320)
'%s %s' % ('a', 1), '%d' % 3.7, '%5d|%-5d|%05d|%+d' % (1, 2, 3, 4), '%x %X %#x %o' % (255, 255, 255, 8), '%.2f %8.3f %e %g %G' % (3.14159, 2.5, 1234.5, 0.00001, 1e20)
'%r %s %%' % ('a', none), '%(a)s-%(b)05.1f' % {'a': 'x', 'b': 2.25}, '%.3s|%10s|%-10s|' % ('abcdef', 'r', 'l'), '%c%c' % ('x', 65), '%*d' % (5, 42), '%s' % [1, 2], '%5s' % '你', '%i %u' % (1, 2), '% d' % 5
'%s'
'%d' % 'a'
'%s %s' % 'a'
'%s' % ('a', 'b')
'abc' % 1
'abc' % []
'%' % 1
'%q' % 1
'%(a)s' % 1
'%(z)s' % {'a': 1}
'%s' % missing
""")
# filters
add("""
ws | trim, 'xxa' | trim('x'), none | trim, 5 | trim, missing | trim
s | upper, s | lower, s | capitalize, 'foo bar-baz (qux) [a] {b} <c> ΑΣ' | title, 5 | upper, none | upper
s | length, l | length, d | count, u | length, none | default('x') | length
5 | length
none | length
missing | length
rows | selectattr('v') | length
l | join, l | join(', '), ls | join('-'), rows | join(',', attribute='name'), 'abc' | join('.'), [1, none, missing] | join('|'), d | join(',')
5 | join
missing | default('x'), none | default('x'), none | default('x', true), '' | default('x', true), '' | d('x'), missing | default, missing | default(none), d.q.default
d.q | default('z'), 0 | default(5, boolean=true)
l | first, l | last, '' | first, [] | last, s | first, u | last, d | first, d | last, (1, 2) | last
5 | first
rows | map(attribute='name') | first
rows | map(attribute='name') | last
s | replace('o', '0'), s | replace('l', 'L', 1), 5 | replace(5, 6), s | replace('l', '', count=2), none | replace('o', 'x')
'abc' | list, l | list, d | list, range(3) | list, 'abc' | map('upper') | list, missing | list, d.items() | list
5 | list
rows | map(attribute='name') | list, rows | map(attribute='q', default='-') | list, rows | map(attribute='q') | list, d.a | map('upper') | list, [[1, 2], [3]] | map('join', '+') | list, [' a '] | map('trim') | list, rows | map(attribute='name') | map('length') | list
l | map | list
l | map('nofilter') | list
l | map('upper', attribute='x') | list
[[1], [2]] | map(attribute=0) | list, [[[1, 2]]] | map(attribute='0.1') | list, [{'a': {'b': 3}}] | map(attribute='a.b') | list
none | map('upper') | list
l | select('odd') | list, l | reject('odd') | list, l | select('gt', 1) | list, [0, 1, '', 'a', none] | select | list, [0, 1] | reject | list, ls | select('in', ['a', 'b']) | list, l | reject('equalto', 1) | join(',')
l | select('notest') | list
rows | selectattr('v', 'equalto', 2) | map(attribute='name') | list, rows | selectattr('name', 'upper') | list | length, rows | rejectattr('v', 'eq', 2) | list, rows | selectattr('q', 'defined') | list, rows | selectattr('q', 'undefined') | list | length, messages | selectattr('role', '==', 'user') | list, rows | rejectattr('q') | list | count
rows | selectattr | list
5 | select('odd') | list
d | items | list, missing | items | list, d.a | items | first
l | items | list
d | dictsort, d | dictsort(true), d.a | dictsort, {'b': 2, 'A': 3, 'c': 1} | dictsort(by='value'), {'b': 2, 'A': 3} | dictsort(reverse=true), {'b': 2, 'A': 3} | dictsort(false, 'key', true)
d | dictsort(by='x')
{'a': 1, 2: 3} | dictsort
l | dictsort
ls | unique | list, ['a', 'A', 'b'] | unique | list, ['a', 'A'] | unique(true) | list, [1, 1.0, true, 2] | unique | list, rows | unique(attribute='v') | map(attribute='name') | list
[[1], [1]] | unique | list
l | sort, ls | sort, ls | sort(case_sensitive=true), l | sort(reverse=true), rows | sort(attribute='v') | map(attribute='name') | join, rows | sort(attribute='v,name') | map(attribute='name') | join, rows | sort(reverse=true, attribute='v') | map(attribute='name') | join, d | sort, 'hello' | sort, [(2, 'a'), (1, 'b')] | sort
[1, 'a'] | sort
[none, 1] | sort
rows | sort | length
l | reverse | list, s | reverse, u | reverse, d | reverse | list, (1, 2) | reverse | list, [] | reverse | list
5 | reverse
'12' | int, '12.7' | int, 'x' | int, 'x' | int(5), '0x1f' | int(base=16), '0b11' | int(0, 0), ' 7 ' | int, '1_000' | int, none | int, 3.9 | int, -3.9 | int, true | int, '' | int, '-5' | int, '1e3' | int, [] | int(9), 'ff' | int(0, 16), '08' | int, '08' | int(base=0), '+3' | int
missing | int
'1.5' | float, 'x' | float, 'x' | float(2.5), 3 | float, 'inf' | float, 'nan' | float, none | float, '1_0.5' | float, ' 2 ' | float, '1e400' | float, '.5' | float, '5.' | float
5 | string, none | string, [1] | string, missing | string, 1.0 | string
'a\\nb\\n\\nc' | indent, 'a\\nb' | indent(2), 'a\\nb' | indent(2, true), 'a\\n\\nb' | indent(2, blank=true), 'a\\nb' | indent('> '), '' | indent, 'a\\nb\\n' | indent(1, first=true, blank=true)
5 | indent
html | e, html | escape, html | e | e, html | forceescape, html | e | forceescape, [html | e], html | safe, [html | safe], 5 | e, none | e, missing | e
(html | safe) + html, html + (html | safe), (html | e) ~ html, '<' ~ (html | e), ('<b>' | safe) * 2, ('%s' | safe) % '<i>', ('{}' | safe).format('<i>'), ('<' | safe).join(['<', 'a']), ('a<' | safe).replace('a', '<'), ['<' | e, '<'] | join('>'), ('<b>' | safe) | upper, ('<b>' | safe)[1:], ('<' | safe) | trim | length, ('<a>' | safe) | replace('a', '<') 
(html | safe).split('x'), ('a' | safe) == 'a', ('a' | safe) | string, ('x' | safe) is escaped, 'x' is escaped
-3 | abs, 3 | abs, -2.5 | abs, true | abs
'a' | abs
2.5 | round, 3.5 | round, 2.675 | round(2), 42.55 | round(1, 'floor'), 42.55 | round(1, 'ceil'), 5 | round, 1234 | round(-2), 1250 | round(-2), 1234.5 | round(-2), 0.5 | round, 1.5 | round, -0.5 | round, 42.55 | round | int, 7 | round(1, 'ceil'), 5 | round(0, 'floor'), true | round
2.5 | round(0, 'x')
'a' | round
l | min, l | max, ls | min, ls | max, [] | min, rows | max(attribute='v') | items | list, ['a', 'B'] | max(case_sensitive=true), s | max, d | min
[1, 'a'] | max
l | sum, rows | sum(attribute='v'), [1.5, 2] | sum, [] | sum, l | sum(start=10), [[1], [2]] | sum(start=[])
['a', 'b'] | sum
[1, 2, 3, 4, 5] | batch(2) | list, [1, 2, 3] | batch(2, 'x') | list, [] | batch(2) | list
[1, 2, 3, 4, 5] | slice(2) | list, [1, 2, 3] | slice(2, 'x') | list, [1] | slice(3) | list
[1] | slice(0) | list
rows | groupby('g') | list | length, rows | groupby('v') | map('first') | list, rows | groupby('g', case_sensitive=true) | map('first') | list
'hello world foo' | truncate(10), 'hello world foo' | truncate(10, true), 'short' | truncate(5), 'hello world' | truncate(8, end='~', leeway=0), 'helloworldfoo' | truncate(5, false, '..', 0)
'abc' | truncate(2)
'a b  c_d é1' | wordcount, '' | wordcount, 5 | wordcount
'abc' | center(9), 5 | center(3)
'a b/c?é&' | urlencode, {'a b': 1, 'c': 'x/y'} | urlencode, [('k', 'v w')] | urlencode, 5 | urlencode
'%s-%d' | format('x', 5), '%(a)s' | format(a=1), 'x' | format
'%s' | format('x', a=1)
d | attr('items') is callable, d | attr('b') is defined, s | attr('upper') is callable, s | attr('zz') is defined
s | nofilter
s | upper | lower | nofilter
s is nofilter
s | upper()
s | upper(1)
s | trim(chars=' H')
s | trim(zz=1)
s | default(1, 2, 3)
s | map('upper') | join
""")
# tojson
add("""
d | tojson
l | tojson, s | tojson, none | tojson, t | tojson, f | tojson, n | tojson, e | tojson, big | tojson
u | tojson
u | tojson(ensure_ascii=true)
u | tojson(true)
ctl | tojson
ctl | tojson(ensure_ascii=true)
d | tojson(indent=2)
d | tojson(indent=0)
d | tojson(indent='--')
rows | tojson(indent=4)
[] | tojson(indent=2), {} | tojson(indent=2), [[]] | tojson(indent=1), {'a': {}} | tojson(indent=1)
d | tojson(separators=(',', ':'))
d | tojson(separators=[' , ', ' : '], indent=1)
d | tojson(separators=(','))
d | tojson(sort_keys=true)
{'b': 1, 'a': 2, 'B': 3, 'é': 4} | tojson(sort_keys=true)
{1: 2, none: 3, true: 4, 2.5: 5} | tojson
{1: 2, 'a': 3} | tojson(sort_keys=true)
{(1, 2): 3} | tojson
(1, 2) | tojson, ((1,),) | tojson
floats | tojson
['inf' | float, '-inf' | float, 'nan' | float] | tojson
missing | tojson
[missing] | tojson
rows | map(attribute='v') | tojson
d.items() | tojson
range(3) | tojson
html | tojson, html | safe | tojson
'</script>' | tojson
'\\x7f\\u2028' | tojson
namespace(a=1) | tojson
d | tojson(nope=1)
""")
# tests
add("""
s is defined, missing is defined, missing is undefined, none is defined, d.q is undefined
none is none, 0 is none, missing is none
s is string, 5 is string, (s | safe) is string, none is string
d is mapping, l is mapping, namespace() is mapping
l is sequence, s is sequence, d is sequence, range(3) is sequence, (1,) is sequence, 5 is sequence, none is sequence, missing is sequence, d.keys() is sequence, l | map('upper') is sequence
l is iterable, s is iterable, d is iterable, 5 is iterable, none is iterable, missing is iterable, d.items() is iterable, (l | map('upper')) is iterable
5 is number, 5.0 is number, true is number, '5' is number, big is number
5 is integer, 5.0 is integer, true is integer, big is integer
5.0 is float, 5 is float
true is boolean, 1 is boolean, none is boolean
true is true, 1 is true, false is false, 0 is false, none is false
1 is eq 1, 1 is equalto(1.0), 1 is ne 2, 1 is lt 2, 2 is gt 1, 2 is ge 2, 2 is le 1, 1 is lessthan 3, 3 is greaterthan 1, 'a' is eq('a')
1 is lt 'a'
3 is odd, 4 is odd, 4 is even, -3 is odd, 2.0 is even
'a' is odd
6 is divisibleby 3, 7 is divisibleby(3)
6 is divisibleby 0
1 is in l, 9 is in l, 'x' is in 'xyz', 'b' is in d, 1 is not in [2]
s is upper, 'AB' is upper, 'ab' is lower, 5 is lower
s is callable, s.upper is callable, range is callable, missing is callable
none is sameas none, true is sameas true, 1 is sameas true
'upper' is filter, 'zz' is filter, 'odd' is test, 'zz' is test
not 1 is odd, 1 is not odd, 1 is odd and 2 is even, 1 is odd or missing.x
5 is not none and 5 is number
1 is odd is even
missing is defined and missing.x
x.y is defined
""")
# functions
add("""
range(0), range(3) | list, range(5, 2, -1) | list, range(-3) | list
range()
range('a')
range(1, 2, 0)
range(100001)
range(100000) | length
dict(a=1, b=2), dict({'x': 1}, y=2), dict([('a', 1)]), dict()
dict(1)
namespace({'a': 1}).a, namespace(x=1).x, namespace().y is defined
namespace(_x=1)
raise_exception('no')
raise_exception(5)
raise_exception()
strftime_now('%Y-%m-%d'), strftime_now('%d %b %Y'), strftime_now('%A, %B %e, %Y %H:%M:%S %p %I %j %y %%'), strftime_now('%-d/%-m'), strftime_now('%U %W %V %G %u %w %D %T %R %F %f %c %x %X %C %h'), strftime_now('[%z%Z]'), strftime_now('')
strftime_now is defined
strftime_now()
cycler('a', 'b').next(), cycler('a').current
joiner()(), joiner('x') is callable
s()
missing()
missing.foo()
none()
'a'.upper.x is defined
""")
# templates: statements, white space, scopes
T = r'''
{% for x in l %}{{ x }},{% endfor %}
{% for x in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.depth }}{{ loop.depth0 }} {% endfor %}
{% for x in l %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }}{{ loop.cycle('a', 'b') }}{{ loop.changed(x > 1) }};{% endfor %}
{% for x in [] %}a{% else %}empty{% endfor %}
{% for x in l %}a{% else %}empty{% endfor %}
{% for x in missing %}a{% else %}none{% endfor %}
{% for x in none %}{% endfor %}
{% for x in 5 %}{% endfor %}
{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}
{% for k, v in d | items %}{{ k }}={{ loop.last }};{% endfor %}
{% for k in d %}{{ k }}{% endfor %}
{% for c in u %}[{{ c }}]{% endfor %}
{% for a, b in [(1, 2), [3, 4], 'xy'] %}{{ a }}{{ b }}{% endfor %}
{% for a, b in [(1, 2, 3)] %}{% endfor %}
{% for a, b in [(1,)] %}{% endfor %}
{% for a, (b, c) in [(1, (2, 3))] %}{{ a + b + c }}{% endfor %}
{% for x in l if x > 1 %}{{ x }}{{ loop.index }}{{ loop.last }}{{ loop.length }} {% endfor %}
{% for x in l if x > 9 %}a{% else %}none{% endfor %}
{% set ns = namespace(found=false) %}{% for x in [1, 2, 3, 4] if not ns.found %}{{ x }}{% if x == 2 %}{% set ns.found = true %}{% endif %}{% endfor %}
{% set ns = namespace(found=false) %}{% for x in [1, 2, 3, 4] if not ns.found %}{{ x }}{{ loop.last }}{% if x == 2 %}{% set ns.found = true %}{% endif %}{% endfor %}
{% for x in range(10) %}{% if x == 2 %}{% continue %}{% endif %}{% if x == 5 %}{% break %}{% endif %}{{ x }}{% endfor %}
{% for x in l %}{% for y in l %}{{ loop.index }}{% endfor %}{{ loop.index }};{% endfor %}
{% for x in l %}{% set outer = loop %}{% for y in 'ab' %}{{ outer.index }}{{ y }}{% endfor %}{% endfor %}
{% set x = 1 %}{% for y in l %}{% set x = x + y %}{{ x }}{% endfor %}{{ x }}
{% for y in l %}{{ z }}{% set z = y %}{% endfor %}{{ z }}
{% set x = 1 %}{% if true %}{% set x = 2 %}{% endif %}{{ x }}
{% if no %}{% set messages = 1 %}{% endif %}{{ messages | length }}
{% set ns = namespace(i=0) %}{% for x in l %}{% set ns.i = ns.i + x %}{% endfor %}{{ ns.i }} {{ ns }} {{ ns['i'] }}
{% set ns = namespace() %}{% set ns._x = 1 %}
{% set d.x = 1 %}
{% set q.x = 1 %}
{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set a, b = b, a %}{{ a }}{{ b }}
{% set a, b = 1 %}
{% set (a, b) = l[:2] %}{{ a }}{{ b }}
{% set x %}a{{ n }}b{% endset %}{{ x }}{{ x is string }}
{% set x | upper | replace('A', 'x') %}a{{ n }}b{% endset %}{{ x }}
{% set x %}{% set y = 1 %}{% endset %}{{ y }}
{% set x = y = 1 %}
{% if n > 5 %}big{% elif n > 3 %}mid{% else %}small{% endif %}
{% if no %}a{% elif no %}b{% elif t %}c{% endif %}
{% if missing %}a{% else %}b{% endif %}{% if [] %}a{% endif %}{% if '' %}a{% endif %}{% if 0.0 %}a{% endif %}{% if {} %}a{% endif %}{% if ' ' %}x{% endif %}{% if rows | selectattr('zz') %}gen{% endif %}
{% macro m(a, b=2, c=a) %}{{ a }}-{{ b }}-{{ c }};{% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(1, c=9) }}{{ m(b=5, a=4) }}{{ m() }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(z=2) }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, a=2) }}
{% macro m() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, x=3) }}
{% macro m(a) %}{{ a.x }}{% endmacro %}{{ m() }}
{% macro m(a) %}{{ n }}{{ a }}{% set n = 1 %}{% endmacro %}{{ m(1) }}{{ n }}
{% for x in [1, 2] %}{% macro m() %}{{ x }}{% endmacro %}{{ m() }}{% endfor %}
{% macro f(k) %}{% if k > 0 %}{{ k }}{{ f(k - 1) }}{% endif %}{% endmacro %}{{ f(5) }}
{{ f(2) }}{% macro f(k) %}x{% endmacro %}
{% macro m() %}[{{ caller() }}]{% endmacro %}{% call m() %}in{{ n }}{% endcall %}
{% macro m() %}{% for x in l %}{{ caller(x) }}{% endfor %}{% endmacro %}{% call(y) m() %}<{{ y }}>{% endcall %}
{% macro m() %}x{% endmacro %}{% call m() %}in{% endcall %}
{% macro m() %}{{ caller() }}{% endmacro %}{{ m() }}
{% macro m(x) %}{{ x }}{% endmacro %}{{ m }}{{ m.name }}{{ m('a') ~ 'b' }}{{ m('a') | upper }}{{ m(*[5]) }}{{ m(**{'x': 6}) }}
{% macro m(x) %}{{ loop }}{% endmacro %}{% for i in l %}{{ m(1) }}{% endfor %}
{% macro m(a=1, b) %}{% endmacro %}
{% set later = 1 %}{% macro m() %}{{ later }}{% endmacro %}{{ m() }}{% set later = 2 %}{{ m() }}
{% filter upper %}abc{{ s }}{% endfilter %}
{% filter replace('a', 'b') | upper %}abc{% endfilter %}
{% with a=1, b=n %}{{ a }}{{ b }}{% endwith %}{{ a }}
{% with %}{% set q = 1 %}{{ q }}{% endwith %}{{ q }}
{% generation %}gen{{ n }}{% endgeneration %}after
{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}
{% print n, s %}
{% raw %}{{ not }} {% if %}{% endraw %}
a {%- raw -%} b {%- endraw -%} c
  {% raw %}
 {{ x }}
  {% endraw %}
{# comment #}x{#- c -#} y
a{# unfinished
{{ 1
{% if 1 %}
{% endif %}
{% endfor %}
{% nope %}
{% for %}
{% if %}{% endif %}
{{ }}
{{ 1 + }}
{{ (1 }}
{{ [1, }}
{{ {1} }}
{{ 'abc }}
{{ a b }}
{{ $ }}
{{ 1 is }}
{{ x | }}
{% do l.append(1) %}
{% break %}
{% set true = 1 %}
{% set 1 = 1 %}
{{ f(a=1, 2) }}
{{ f(**a, *b) }}
{{ {'a': 1,} }}{{ [1, 2,] }}{{ (1,) }}
{{ {'a': {'b': 1}} }}{{ {'a':{'b':{}}} }}
{{ "}}" }}{{ '%}' }}{{ "{{" }}
{% if '%}' in s %}{% endif %}x
{{ 1 if 0 }}|{{ (1 if 0) | default('d') }}
{%if 1%}a{%endif%}{{1}}{{-1}}{{ - 1 }}{{+1}}
{% if true: %}a{% endif %}
x{{- 1 -}} y {{- 2 }} z
a {% if 1 -%} b {%- endif %} c
a
  {% if 1 %}
  b
  {% endif %}
c
a
  {%+ if 1 %}
  b
  {%+ endif +%}
c
  {% for x in l %}
    {{ x }}
  {% endfor %}
end
{% set x = 1 %}

{% set y = 2 %}
{{ x }}
	{% if 1 %}tab{% endif %}	
 a {# c #}
 {# c #}
 b
{{ x.y.z }}
{{ [1,2,3][1] }}{{ 'abc'[1] }}{{ {'a': 1}['a'] }}{{ {'a': 1}.a }}
{{ s | upper | lower | title if t else n }}
{{ l[0] + l[1] * l[2] }} {{ not l }} {{ not (1 and 0) }} {{ 1 in l and 5 not in l }}
{% set x = 'a' if n > 5 else 'b' %}{{ x }}
{% for x in [1, 2, 3] %}{{ x }}{{ ", " if not loop.last }}{% endfor %}
{% for m in messages[1:] %}{{ m.role }}{{ loop.index0 % 2 == 0 }}{% endfor %}
{% for m in messages[::-1] %}{{ (messages | length - 1) - loop.index0 }}{{ m.role }}{% endfor %}
{% set system = messages | selectattr('role', 'equalto', 'system') | list %}{{ system[0].content if system }}
{% set g = l | map('string') %}{{ g | join }}{{ g | join }}|
{% set g = l | select('odd') %}{{ g | first }}{{ g | list }}
{% set g = l | map('string') %}{% for x in g %}{{ x }}{{ loop.last }}{{ loop.length }}{% endfor %}
{{ ns.x }}{% set ns = 1 %}
{% if no %}{{ s | nofilter }}{% endif %}ok
{% if t %}{{ s | nofilter }}{% endif %}
{{ (s | nofilter) if no else 'ok' }}
{% if no %}{% for x in l %}{{ s | nofilter }}{% endfor %}{% endif %}
{% if no %}{% set x %}{{ s | nofilter }}{% endset %}{% endif %}
{{ raise_exception('Roles must alternate: ' ~ messages[0].role) }}
{% if messages[0].role != 'user' %}{{ raise_exception("Line one
line two") }}{% endif %}
{{ loop is defined }}{{ caller is defined }}{{ varargs is defined }}
{{ d.a.x | length }}{{ d['a'].x[-1] }}
{{ messages | map(attribute='content') | join('|') }}
{{ messages | tojson }}
{% for a in [1] %}{% for b in [2] %}{% set c = a + b %}{{ c }}{% endfor %}{{ c is defined }}{% endfor %}
{% set c = cycler('x', 'y') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }}{% set j = joiner(',') %}{{ j() }}a{{ j() }}b
{% for x in l -%}
   {{ x }}
{%- endfor %}
{{ '\n' }}{{ "\\n" }}{{ 'tab\there' }}
{{ missing.a.b }}
{{ missing | upper }}{{ missing | join }}{{ missing | list }}{{ missing | length }}
{{ u | length }}{{ u[7:9] }}{{ u.split(' ')[1] }}
'''


def templates():
    """T's lines, each a template; a line that opens something and what follows it up to the one that ends it is one."""
    joined = [
        "  {% raw %}\n {{ x }}\n  {% endraw %}", "a\n  {% if 1 %}\n  b\n  {% endif %}\nc", "a\n  {%+ if 1 %}\n  b\n  {%+ endif +%}\nc",
        "  {% for x in l %}\n    {{ x }}\n  {% endfor %}\nend", "{% set x = 1 %}\n\n{% set y = 2 %}\n{{ x }}", " a {# c #}\n {# c #}\n b",
        "{% for x in l -%}\n   {{ x }}\n{%- endfor %}", '{% if messages[0].role != \'user\' %}{{ raise_exception("Line one\nline two") }}{% endif %}',
        "a{# unfinished", "{% if 1 %}",
    ]
    rest = T
    for text in joined[:-2]:
        assert text in rest, text
        rest = rest.replace("\n" + text + "\n", "\n", 1)
    return [line for line in rest.strip("\n").split("\n") if line] + joined[:-2] + [
        "line\r\n{{ 1 }}\r{{ '\r\n' | length }}\r\n", "x\n", "x\n\n", "\n", "", "{{ 1 }}\n\n{{ 2 }}\n", "{% if 1 %}\n\n\nx{% endif %}\n",
        "{#- a -#}\n\n x", " {#+ a +#}\n x", "{{ 'a' -}}\n\n b", "é{{ 'ü' }}你{% if 1 %}好{% endif %}", "{% raw -%}\n  a {{ b }}\n  {%- endraw %}\nc",
        "\u00a0 {%- if 1 %}\u3000{% endif -%}\u2003x", "{% set x = '''a''' %}{{ x }}", "{{ '''" + "'a'" + "''' }}",
    ]


def reference(template):
    try:
        compiled = utils._compile_jinja_template(template)
    except Exception as e:
        return {"error": "compile"}
    try:
        out = compiled.render(**copy.deepcopy(VARS))  # indent adds to a list in place
        out.encode()
        return {"out": out}
    except jinja2.exceptions.TemplateError as e:
        return {"error": "refused" if type(e) is jinja2.exceptions.TemplateError else "render"}
    except Exception:
        return {"error": "render"}


print(json.dumps({"vars": VARS}, ensure_ascii=False))
seen = set()
for text in ["{{ " + x.replace("\\\n", "\\n") + " }}" for x in E] + templates():
    if text in seen:
        continue
    seen.add(text)
    print(json.dumps({"template": text, **reference(text)}, ensure_ascii=False))
