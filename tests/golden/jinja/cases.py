"""Small templates, one feature each; generate.py records what jinja2 makes of them with VARIABLES."""

VARIABLES = {
    "s": "Hello World", "e": "", "n": 7, "z": 0, "f": 2.5, "t": True, "no": False, "nil": None,
    "u": "Grüße, 世界! 🎉", "sp": "  padded\t\n", "nl": "one\ntwo\n\nthree\n",
    "l": [3, 1, 2], "ls": ["b", "A", "c", "a"], "em": [], "nested": [[1, 2], [3, [4, 5]]],
    "d": {"a": 1, "b": "two", "c": [1, 2, 3]}, "ed": {}, "shadow": {"items": [1], "keys": "k", "get": "g", "update": 5},
    "m": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}, {"role": "user", "content": "bye"}],
    "people": [{"name": "Zoe", "age": 30, "tag": {"x": 1}}, {"name": "adam", "age": 25, "tag": {"x": 3}},
               {"name": "Bob", "age": 30, "tag": {"x": 2}}],
    "q": "it's", "qq": 'say "hi"', "both": "it's \"x\"", "html": "<a href='x'>&</a>", "esc": "a\\b\tc\nd\x00e\x1f\u00a0\u200b",
    "big": 9007199254740993, "tool": {"type": "function", "function": {"name": "f", "parameters": {"type": "object",
     "properties": {"x": {"type": "integer", "description": "Größe"}, "y": {"type": "array", "items": {"type": "string"}}},
     "required": ["x"]}}},
}

PRINTING = """
{{ s }}|{{ e }}|{{ n }}|{{ z }}|{{ f }}|{{ t }}|{{ no }}|{{ nil }}
{{ l }}|{{ ls }}|{{ em }}|{{ nested }}
{{ d }}|{{ ed }}
{{ u }} {{ [u] }}
{{ [q, qq, both] }}
{{ [esc] }}
{{ (1,) }} {{ () }} {{ (1, 2) }} {{ 1, 2 }}
{{ undefined_name }}x{{ d.nope }}x{{ d['nope'] }}x{{ l[10] }}
{{ [undefined_name] }}
{{ 1.0 }} {{ 1e3 }} {{ 1e16 }} {{ 1e15 }} {{ 1.5e-5 }} {{ 0.0001 }} {{ 123456789.123 }} {{ 0.1 + 0.2 }} {{ 1e22 }} {{ 1e100 }}
{{ -0.0 }} {{ 5e-324 }} {{ 1.7976931348623157e308 }} {{ 100000.0 }} {{ 12345678901234567.0 }}
{{ 2 / 3 }} {{ 1 / 3 * 3 }} {{ 7 / 2 }} {{ 6 / 2 }}
{{ 0x1f }} {{ 0b101 }} {{ 0o17 }} {{ 1_000 }} {{ 00 }} {{ 1_0.5_0 }}
{{ true }} {{ True }} {{ false }} {{ none }} {{ None }}
{{ [true, none, 1.5, 'x', ('y',)] }}
{{ {'a': {'b': [1, {'c': none}]}} }}
{{ {1: 'a', 2.5: 'b', none: 'c', true: 'd', (1, 2): 'e'} }}
{{ range(3) }} {{ range(1, 5) }} {{ range(1, 5, 2) }} {{ range(5)[1:3] }} {{ range(10)[::2] }}
{{ d.items() }} {{ d.keys() }} {{ d.values() }}
{{ namespace(a=1, b='x') }}
{{ 'a' 'b' "c" }}
{{ '\\n' }}|{{ "\\t" }}|{{ '\\'' }}|{{ "\\x41\\u00e9\\U0001F600" }}|{{ '\\101' }}|{{ '\\q' }}|{{ '\\\\' }}
{{ [ '\\x7f\\x80\\u2028\\ue000\\U0001F600' ] }}
{{ 'a\\
b' }}
{{ "\\u12" }}
{{ '\\x4' }}
{{ big }} {{ big + 1 }} {{ big * 1.0 }}
{{ html }}
{{ 9223372036854775807 }} {{ -9223372036854775807 - 1 }}
"""

SYNTAX = """
{{ }}
{{ s
{% if t %}x
{% endif %}
{% if t %}x{% endfor %}
{% for x in l %}{% endif %}
{{ s | }}
{{ 1 + }}
{{ (1, 2 }}
{{ [1, 2 }}
{{ {1: 2 }}
{{ 'abc }}
{{ a b }}
{{ 1 ! 2 }}
{% unknown %}
{% set %}
{% set 1 = 2 %}
{% set true = 2 %}
{% set d.x = 2 %}
{% set d['x'] = 2 %}
{% for 1 in l %}{% endfor %}
{% for loop in l %}{% endfor %}
{% break %}
{% continue %}
{% for x in l %}{% macro m() %}{% break %}{% endmacro %}{% endfor %}
{# unclosed
{% raw %} never closed
{{ s|nofilter }}
{{ s is notest }}
{% if no %}{{ s|nofilter }}{% endif %}ok
{{ s.upper( }}
{{ range(1, }}
{{ f(a=1, 2) }}
{{ s is defined is string }}
{{ -n|abs }} {{ -5|abs }} {{ (-5)|abs }}
{{ 2 ** 3 ** 2 }} {{ -2 ** 2 }} {{ 2 ** -1 }} {{ 2 ** 0.5 }}
{{ not t }} {{ not not t }} {{ not n == 7 }}
{{ 1 if t }}|{{ 1 if no }}|{{ 1 if no else 2 }}|{{ 1 if no else 2 if no else 3 }}
{{ (1 if no).x }}
{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 3 > 2 >= 2 == 2 }} {{ 1 < 2 > 1 }}
{{ 1 == 1.0 }} {{ true == 1 }} {{ '1' == 1 }} {{ none == none }} {{ [] == () }} {{ [1, 2] == [1, 2] }} {{ {'a': 1} == {'a': 1.0} }}
{{ 'a' < 'b' }} {{ 'Z' < 'a' }} {{ [1, 2] < [1, 3] }} {{ (1,) < (1, 2) }} {{ 'é' > 'z' }}
{{ 1 < 'a' }}
{{ none < none }}
{{ [1] < (1,) }}
{{ d < d }}
{{ 'a' in 'abc' }} {{ 'x' in 'abc' }} {{ 1 in l }} {{ 9 not in l }} {{ 'a' in d }} {{ '' in 'abc' }} {{ 'two' in d.values() }}
{{ ('a', 1) in d.items() }} {{ 'a' in undefined_name }} {{ 3 in range(5) }}
{{ 1 in 'abc' }}
{{ 1 in 5 }}
{{ 'a' in none }}
{{ [1] in d }}
{{ e or 'x' }} {{ s and n }} {{ z and 1 }} {{ nil or e or 0 }} {{ em or 'empty' }} {{ undefined_name or 'u' }}
{{ undefined_name and 1 }}|
{{ 'a' ~ 1 ~ none ~ true ~ 1.5 ~ [1] ~ undefined_name ~ 'z' }}
{{ 1 ~ 2 + 3 }} {{ 'a' ~ 'b' * 2 }}
{{ 1 + 2 * 3 - 4 / 2 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % 3 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 7.5 // 2 }} {{ -7.5 % 2 }}
{{ 1 / 0 }}
{{ 1 // 0 }}
{{ 1 % 0 }}
{{ 1.0 / 0 }}
{{ 'a' + 1 }}
{{ 1 + 'a' }}
{{ none + 'a' }}
{{ 'a' + none }}
{{ 'a' + undefined_name }}
{{ undefined_name + 'a' }}
{{ [1] + [2, 3] }} {{ (1,) + (2,) }} {{ 'a' * 3 }} {{ 3 * 'ab' }} {{ [0] * 3 }} {{ 'x' * -1 }}| {{ true + true }}
{{ [1] + (2,) }}
{{ 'a' - 'b' }}
{{ 'a' * 'b' }}
{{ -'a' }}
{{ +true }} {{ -true }} {{ - 3 }} {{ --3 }} {{ +-3 }}
{{ 10 ** 18 }} {{ 2 ** 62 }} {{ 0 ** 0 }} {{ 2.0 ** 3 }}
{{ '%s and %d' % ('a', 5) }} {{ '%s' % 'x' }} {{ '%5.2f|%-5s|%05d|%x|%%' % (3.14159, 'ab', 42, 255) }}
{{ '%(a)s-%(b)s' % d }} {{ '%r %s' % ('x', none) }} {{ '%+d % d %e %g' % (5, 5, 12345.678, 0.0001) }}
{{ '%d' % 'x' }}
{{ '%s %s' % 'x' }}
{{ '%s' % (1, 2) }}
{{ '%d' % 3.99 }} {{ '%s' % [1, 2] }} {{ '%5s|%-5s|%.2s' % ('a', 'b', 'xyz') }} {{ '%*d' % (5, 42) }}
{{ undefined_name.x }}
{{ undefined_name['x'] }}
{{ undefined_name() }}
{{ nil.x }}|{{ nil['x'] }}|{{ n.x }}|{{ s.x }}|{{ l.x }}|{{ f.x }}|{{ d.x }}
{{ nil.x.y }}
{{ s() }}
{{ d.a() }}
{{ d.a }} {{ d['a'] }} {{ d['c'][0] }} {{ d.c[-1] }} {{ d.c.0 }} {{ nested.1.1.0 }} {{ l[0] }} {{ l[-1] }} {{ l[true] }}
{{ l['0'] }}|{{ l[1.0] }}|{{ d[[1]] }}|{{ s[0] }}|{{ s[-1] }}|{{ u[2] }}|{{ u[-1] }}|{{ s[99] }}|{{ n[0] }}
{{ s[1:4] }} {{ s[:3] }} {{ s[-3:] }} {{ s[::-1] }} {{ s[::2] }} {{ s[10:0:-3] }} {{ s[5:2] }}| {{ s[-100:100] }}
{{ l[1:] }} {{ l[:-1] }} {{ l[::-1] }} {{ l[::2] }} {{ (1,2,3)[1:] }} {{ l[5:] }} {{ l[none:2] }} {{ u[7:9] }} {{ u[::-1] }}
{{ l[::0] }}
{{ d[1:] }}
{{ nil[1:] }}
{{ undefined_name[1:] }}
{{ l['a':] }}
{{ range(5)[-1] }} {{ range(10)[2:8:3]|list }} {{ range(5)[::-1]|list }}
{{ shadow.items is callable }} {{ shadow['items'] }} {{ shadow['keys'] }} {{ shadow.get('get') }}|{{ shadow['update'] }}
{{ shadow.update }}|{{ l.append }}|{{ d.__class__ }}|{{ s.__class__ }}
{{ l.append(1) }}
{{ d.update({'x': 1}) }}
{{ d.pop('a') }}
{{ l.sort() }}
{{ s.__class__.__mro__ }}
{{ d.items is callable }} {{ d.update is defined }} {{ s.upper is callable }}
{{ dict(a=1, b=2) }} {{ dict([('x', 1), ['y', 2]]) }} {{ dict({'a': 1}, b=2) }} {{ dict() }}
{{ {'a': 1, 'a': 2} }} {{ {1: 'x', 1.0: 'y', true: 'z'} }}
{{ {[1]: 2} }}
{{ [*l] }}
{{ range(*[1, 4])|list }} {{ dict(**{'k': 'v'}) }} {{ 'a,b,c'.split(',', maxsplit=1) }} {{ 'a-b'.split(*['-']) }}
{{ range(0)|list }} {{ range(5, 0, -2)|list }} {{ range(-3)|list }}
{{ range(1, 2, 0) }}
{{ range(100001) }}
{{ range('a') }}
{{ raise_exception('boom') }}
{% if no %}{{ raise_exception('boom') }}{% endif %}fine
{{ strftime_now is defined }} {{ range is callable }} {{ namespace is defined }} {{ nothing is callable }}
{{ {'a': 1}.a }} {{ [1, 2][0] }} {{ (1, 2)[1] }} {{ 'abc'[1] }} {{ 'abc'.upper() }} {{ 1.5.x }}|
{{ [1, 2, ] }} {{ {'a': 1, } }} {{ (1, ) }} {{ dict(a=1, ) }}
{{ (((((1))))) }} {{ ((1, 2), 3) }}
{{ x if x is defined else 'none' }}
{{ ['a', 'b'] == ['a', 'b'] and not false }}
{{ 1 is number and 'a' is string or none }}
{{ n is divisibleby 7 }} {{ n is divisibleby(3) }} {{ n is not divisibleby 3 and true }} {{ 'a' is in ['a'] }} {{ n is eq 7 }}
{{ n if n > 5 else 'small' }} {{ 'yes' if n in [7, 8] else 'no' }}
{{ "a" if true else "b" ~ "c" }} {{ ("a" if true else "b") ~ "c" }}
{{ n.__add__ }}|{{ n['unreal'] is defined }}
{{ l | join(', ') | upper }} {{ l|sort|join }} {{ (l|length) + 1 }} {{ l|length + 1 }} {{ 'x' ~ l|length }}
"""

STATEMENTS = [
    "{% if t %}a{% endif %}", "{% if no %}a{% else %}b{% endif %}", "{% if no %}a{% elif t %}b{% else %}c{% endif %}",
    "{% if no %}a{% elif z %}b{% elif e %}c{% endif %}d", "{% if 0.0 %}a{% elif [] %}b{% elif {} %}c{% elif () %}d{% else %}e{% endif %}",
    "{% if undefined_name %}a{% else %}b{% endif %}", "{% if d.nope is defined and d.nope.x %}a{% else %}b{% endif %}",
    "{% if range(0) %}a{% else %}b{% endif %}{% if range(1) %}a{% endif %}", "{% if namespace() %}a{% endif %}",
    "{% if em|select %}gen{% endif %}{% if em|map('upper')|list %}x{% else %}y{% endif %}",
    "{% for x in l %}{{ x }},{% endfor %}", "{% for x in em %}a{% else %}empty{% endfor %}", "{% for x in l %}{{ x }}{% else %}no{% endfor %}",
    "{% for x in l if x > 1 %}{{ loop.index }}:{{ x }} {% endfor %}", "{% for x in l if x > 5 %}{{ x }}{% else %}none{% endfor %}",
    "{% for x in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.revindex }}{{ loop.revindex0 }};{% endfor %}",
    "{% for x in l %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }};{% endfor %}",
    "{% for x in l %}{{ loop.previtem is defined }}{{ loop.nextitem is defined }}{% endfor %}",
    "{% for x in l if x != 1 %}{{ loop.length }}{{ loop.last }}{{ loop.revindex }}{{ loop.nextitem }};{% endfor %}",
    "{% for x in l if x != 1 %}{{ loop.first }}{{ loop.last }}{{ loop.previtem }};{% endfor %}",
    "{% for x in l %}{{ loop.cycle('a', 'b') }}{% endfor %}", "{% for x in [1, 1, 2, 2, 1] %}{{ loop.changed(x) }} {% endfor %}",
    "{% for x in l %}{{ loop.nope }}|{{ loop['index'] }}{% endfor %}", "{% for x in l %}{{ loop.depth }}{{ loop.depth0 }}{% endfor %}",
    "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}", "{% for k in d %}{{ k }}{% endfor %}", "{% for c in u %}[{{ c }}]{% endfor %}",
    "{% for a, (b, c) in [(1, (2, 3)), (4, [5, 6])] %}{{ a }}{{ b }}{{ c }};{% endfor %}", "{% for (a, b) in [(1, 2)] %}{{ a }}{{ b }}{% endfor %}",
    "{% for a, b in [(1, 2, 3)] %}{% endfor %}", "{% for a, b in l %}{% endfor %}", "{% for a, b in ['xy', 'zw'] %}{{ b }}{{ a }}{% endfor %}",
    "{% for x in nil %}{% endfor %}", "{% for x in 5 %}{% endfor %}", "{% for x in undefined_name %}a{% else %}b{% endfor %}",
    "{% for x in 1, 2, 3 %}{{ x }}{% endfor %}", "{% for x in (1, 2) %}{{ x }}{% endfor %}", "{% for x in range(3) %}{{ x }}{% endfor %}",
    "{% for x in l %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% endfor %}", "{% for x in l %}{% if x == 1 %}{% break %}{% endif %}{{ x }}{% endfor %}",
    "{% for x in l %}{% for y in l %}{% if y == 2 %}{% break %}{% endif %}{{ x }}{{ y }} {% endfor %}|{% endfor %}",
    "{% for x in l %}{% for y in ls %}{{ loop.index }}{% endfor %}{{ loop.index }};{% endfor %}",
    "{% for x in l %}{% for y in em %}{% else %}{{ loop.index }}{% endfor %}{% endfor %}",
    "{% for x in l %}{% for y in em %}{% else %}{% break %}{% endfor %}{{ x }}{% endfor %}after",
    "{% for x in l %}a{% break %}b{% else %}c{% endfor %}", "{{ loop }}", "{{ loop is defined }}", "{% for x in l %}{% endfor %}{{ x }}|{{ loop }}",
    "{% for x in l %}{{ x }}{% endfor %}{% for x in l %}{{ x }}{% endfor %}",
    "{% set x = 1 %}{% for i in l %}{% set x = x + 1 %}{{ x }}{% endfor %}{{ x }}", "{% for i in l %}{% set y = i %}{% endfor %}{{ y }}",
    "{% set x = 0 %}{% if t %}{% set x = 1 %}{% endif %}{{ x }}", "{% if no %}{% set x = 1 %}{% endif %}{{ x }}", "{% if no %}{% set s = 1 %}{% endif %}{{ s }}",
    "{{ x }}{% set x = 1 %}{{ x }}", "{% set s = s ~ '!' %}{{ s }}", "{% set a, b = 1, 2 %}{{ a }}{{ b }}", "{% set a, b = l %}", "{% set a = 1, 2 %}{{ a }}",
    "{% set ns = namespace(x=0) %}{% for i in l %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}", "{% set ns = namespace() %}{{ ns.x }}|{% set ns.x = 1 %}{{ ns.x }}{{ ns['x'] }}",
    "{% set ns = namespace({'a': 1}, b=2) %}{{ ns.a }}{{ ns.b }}{{ ns.c is defined }}", "{% set ns = namespace() %}{{ 'x' in ns }}", "{% set ns = namespace() %}{% for x in ns %}{% endfor %}",
    "{% set ns = namespace(found=false) %}{% for i in l if not ns.found %}{{ i }}{% if i == 1 %}{% set ns.found = true %}{% endif %}{% endfor %}",
    "{% set ns = namespace(found=false) %}{% for i in l if not ns.found %}{{ i }}{{ loop.last }}{% if i == 1 %}{% set ns.found = true %}{% endif %}{% endfor %}",
    "{% set ns = namespace(a=1) %}{% set ns.a, ns.b = 5, 6 %}{{ ns.a }}{{ ns.b }}", "{% set ns = namespace(a=1) %}{% set ns.a %}block{% endset %}{{ ns.a }}",
    "{% set undefined_ns.x = 1 %}", "{% set ns = namespace(_x=1) %}", "{% set ns = namespace() %}{% set ns._x = 1 %}", "{% set x %}hello {{ s }}{% endset %}{{ x }}|{{ x|length }}", "{% set x | upper %}hello{% endset %}{{ x }}", "{% set x | replace('l', 'L') | trim %}  hello  {% endset %}[{{ x }}]",
    "{% set x %}{% set y = 5 %}{{ y }}{% endset %}{{ x }}{{ y }}", "{% set x %}{% endset %}[{{ x }}]{{ x is string }}",
    "{% filter upper %}hello {{ s }}{% endfilter %}", "{% filter replace('l', 'L') | title %}hello{% endfilter %}", "{% filter indent(2) %}a\nb{% endfilter %}",
    "{% with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}{{ a }}", "{% with %}{% set q = 1 %}{{ q }}{% endwith %}{{ q }}", "{% with n = n + 1 %}{{ n }}{% endwith %}{{ n }}", "{% set a = 1 %}{% with a = 2, b = a %}{{ a }}{{ b }}{% endwith %}",
    "{% macro m(a, b=2) %}[{{ a }},{{ b }}]{% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(b=1, a=0) }}{{ m() }}", "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}", "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(b=2) }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, a=2) }}", "{% macro m() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, x=3) }}", "{% macro m(a) %}{{ a }}{{ varargs|length }}{% endmacro %}{{ m(1) }}{{ m(1, 2, 3) }}",
    "{% macro m(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}", "{% macro m(a=b, b=1) %}{{ a }}{% endmacro %}{{ m(b=7) }}", "{% macro m(x) %}{{ x.y }}{% endmacro %}{{ m() }}", "{% macro m(x) %}{{ x is defined }}{% endmacro %}{{ m() }}{{ m(none) }}",
    "{% macro f(n) %}{{ n }}{% if n > 0 %},{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(5) }}", "{% macro f() %}{{ x }}{% endmacro %}{% set x = 1 %}{{ f() }}", "{% macro f() %}{% set x = 9 %}{{ x }}{% endmacro %}{% set x = 1 %}{{ f() }}{{ x }}",
    "{% macro m() %}  a  {% endmacro %}[{{ m() }}][{{ m()|trim }}]{{ m() is string }}", "{{ m(1) }}{% macro m(a) %}{{ a }}{% endmacro %}", "{% macro m(a) %}{{ a }}{% endmacro %}{{ m.name }}",
    "{% macro m() %}<{{ caller() }}>{% endmacro %}{% call m() %}body{% endcall %}", "{% macro m() %}<{{ caller(1, 2) }}>{% endmacro %}{% call(a, b) m() %}{{ a }}{{ b }}{{ s }}{% endcall %}", "{% macro m() %}x{% endmacro %}{% call m() %}body{% endcall %}",
    "{% macro m() %}{{ caller() }}{% endmacro %}{{ m() }}", "{% macro m() %}{{ caller is defined }}{% endmacro %}{{ m() }}", "{% for x in l %}{% macro m() %}{{ x }}{% endmacro %}{{ m() }}{% endfor %}",
    "{% macro a() %}A{{ b() }}{% endmacro %}{% macro b() %}B{% endmacro %}{{ a() }}", "{% macro m(**kw) %}{% endmacro %}", "{% macro m(a=1, b) %}{% endmacro %}", "{% macro m(a, kwargs) %}{{ kwargs }}{% endmacro %}{{ m(1, 2) }}",
    "{% generation %}a{{ s }}{% endgeneration %}", "{% for x in l %}{% generation %}{{ x }}{% set y = 1 %}{{ y }}{% endgeneration %}{{ y }}{% endfor %}", "{%- generation -%} a {%- endgeneration -%} b", "{% for x in l %}{% generation %}{% break %}{% endgeneration %}{% endfor %}",
    "{% print s %}", "{% print s, n %}", "{% include 'x' %}", "{% extends 'x' %}", "{% import 'x' as y %}", "{% do l.append(1) %}",
    "{% raw %}{{ s }}{% if %}{% endraw %}", "{%- raw -%}  {{ x }}  {%- endraw -%}  y", "  {% raw %}\n{{ a }}\n  {% endraw %}\nb", "a {%+ raw %} x {%+ endraw +%}\nb",
    "{# comment #}a", "a{# multi\nline #}b", "  {# own line #}\nb", "a {#- strip -#} b", "a {#+ keep +#}\n b", "{# {{ s }} {% if %} #}x", "{##}x", "{#-#} x",
    "{% if t: %}a{% endif %}", "{% for x in l: %}{{ x }}{% endfor %}", "{{ s ;}}", "{% set x = 1; %}", "{% if n > 5 and n < 10 or false %}in{% endif %}", "{% if not no and t %}x{% endif %}",
    "{% if s is defined and s is string and s|length > 3 %}x{% endif %}", "{% set x = {'a': 1} %}{{ x.a }}{{ x['a'] }}", "{% set x = [] %}{% set x = x + [1] %}{% set x = x + [2] %}{{ x }}",
    "{% set x = 'a' if t else 'b' %}{{ x }}", "{% set x = none %}{% if x is none %}none{% endif %}", "{% set messages = m[1:] if m[0].role == 'user' else m %}{{ messages|length }}{{ messages[0].role }}",
    "{% set loop = 5 %}{{ loop }}", "{% for x in l %}{% continue %}{% else %}c{% endfor %}", "{% set range = 3 %}{{ range }}", "{% set _ = s %}{{ _ }}", "{% set é = 1 %}{{ é }}",
    "{% for item in m %}{{ item.role }}: {{ item['content'] }}{% if not loop.last %}\n{% endif %}{% endfor %}", "{% for x in l|reverse %}{{ x }}{% endfor %}", "{% for x in l[::-1] %}{{ loop.index }}{{ x }}{% endfor %}",
    "{% for x in d|dictsort %}{{ x }}{% endfor %}", "{% for k, v in d|items %}{{ k }}{{ v }}{% endfor %}", "{% for x in undefined_name|items %}{% else %}none{% endfor %}",
    "{% for x in l %}{% if loop.first %}F{% elif loop.last %}L{% else %}M{% endif %}{% endfor %}", "{% for x in m %}{% if (x.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('alternate') }}{% endif %}{% endfor %}ok",
    "{% for g in people|groupby('age') %}{{ g.grouper }}:{{ g.list|map(attribute='name')|join(',') }};{% endfor %}", "{% for age, list in people|groupby('age') %}{{ age }}{{ list|length }}{% endfor %}{{ people|groupby('age')|first }}",
    "{% for i in range(3) %}{% for j in range(i) %}{{ i }}{{ j }} {% endfor %}{% endfor %}", "{% set x = m|selectattr('role', 'equalto', 'user')|list %}{{ x|length }}{{ x[0].content }}", "{% set x = 5 %}{% set y = x %}{% set x = 6 %}{{ y }}",
]

WHITESPACE = [
    "a\n", "a\n\n", "\na", "a\r\nb\rc\n", "  {% if t %}\n  x\n  {% endif %}\ny\n", "  {%- if t -%}\n  x\n  {%- endif -%}\ny", "a {%- if t %} b {% endif -%} c",
    "  {%+ if t %}x{% endif %}", "{% if t +%}\nx{% endif %}", "{% if t %}\n\nx{% endif %}", "a\n  {% if t %}b{% endif %}", "a  {% if t %}b{% endif %}  c", "\t{% if t %}b{% endif %}\t\nc",
    "  {{ s }}  \n", "  {{- s -}}  x", "a\n{{- s }}", "{{ s -}}\n\n  x", "{{+ n }}", "{{-5}}", "{{ - 5 }}", "{%if t%}x{%endif%}", "{%-if t-%} x {%-endif-%}", "x {{'a'}}{{'b'}} y", "{{ '}}' }}", "{{ '%}' }}{{ \"{{\" }}", "{{ {'a': {'b': 1}} }}", "{{ {'a': {'b': 1}}['a']}}",
    "{% set x = {'a': {'b': 1}}%}{{x}}", "{ { s } }", "{a}{%if t%}{%endif%}", "{ % if %}", "100%", "a}}b", "a%}b#}", "{{ 5 %}", "{% if t }}", "{{ [1, 2}] }}", "{{ (1] }}", "{{ ) }}",
    "\u00a0{% if t %}x{% endif %}", "a\u3000\n\u2003{%- if t -%}\u2003x{% endif %}", "\n\n  {%- set x = 1 %}\n\n  {{ x }}", "{% for x in l %}\n  {{ x }}\n{% endfor %}\nend", "{% for x in l -%}\n  {{ x }}\n{%- endfor %}\nend", "<\n{%- for x in l %}\n- {{ x }}\n{%- endfor %}\n>",
    "{%- if t %}\n    {{- 'a' }}\n{%- else %}\n    {{- 'b' }}\n{%- endif %}\n", "a {# x #} b\n  {# y #}\nc", "a{#- x -#}\n\nb", "{# x -#}\n\nb", "{% if t %}{% endif %}\n\nx", "{{ s }}\n\nx", "   \n  {% if t %}   \n x {% endif %}", "x\n   {%+ if t %}y{% endif %}", "{{s}}{%- if t %} a{% endif %}", "{{ s }}  {% if t %}a{% endif %}", "x{{ '' }}  {% if t %}a{% endif %}",
    "\n  {% if t %}a\n  {% endif %}b", "{% raw %}\n a\n{% endraw %}\nb", "{% raw -%}\n a\n{%- endraw %}\nb", "é{% if t %}ü{% endif %}", "{%\nif\nt\n%}x{%\nendif\n%}", "{{\ns\n}}", "line1\nline2 {{ n }}\n{# c #}\nline3", "{{ 'a\nb' }}", "{{ 'a\r\nb' }}", "\ufeffx", "a\x0b{%- if t %}b{% endif %}", "{{ s }}{#-\n-#}\n{{ s }}",
]

TESTS = """
{{ n is defined }} {{ x is defined }} {{ x is undefined }} {{ d.a is defined }} {{ d.x is defined }} {{ nil is defined }}
{{ nil is none }} {{ n is none }} {{ x is none }} {{ none is none }}
{{ s is string }} {{ n is string }} {{ x is string }} {{ (html|safe) is string }}
{{ n is number }} {{ f is number }} {{ t is number }} {{ s is number }}
{{ n is integer }} {{ f is integer }} {{ t is integer }} {{ n is float }} {{ f is float }}
{{ t is boolean }} {{ n is boolean }} {{ t is true }} {{ no is false }} {{ 1 is true }} {{ 0 is false }} {{ nil is false }}
{{ d is mapping }} {{ l is mapping }} {{ s is mapping }} {{ namespace() is mapping }}
{{ l is sequence }} {{ s is sequence }} {{ d is sequence }} {{ n is sequence }} {{ x is sequence }} {{ range(3) is sequence }} {{ d.items() is sequence }} {{ l|map('abs') is sequence }}
{{ l is iterable }} {{ s is iterable }} {{ d is iterable }} {{ n is iterable }} {{ x is iterable }} {{ nil is iterable }} {{ l|reverse is iterable }}
{{ 3 is odd }} {{ 4 is odd }} {{ 4 is even }} {{ -3 is odd }} {{ 9 is divisibleby 3 }}
{{ 's' is odd }}
{{ 1 is eq 1 }} {{ 1 is equalto 1.0 }} {{ 1 is ne 2 }} {{ 1 is lt 2 }} {{ 1 is le 1 }} {{ 2 is gt 1 }} {{ 2 is ge 3 }} {{ 1 is lessthan 2 }} {{ 2 is greaterthan 1 }}
{{ 1 is sameas 1 }} {{ true is sameas true }} {{ none is sameas none }} {{ 1 is sameas true }} {{ d is sameas d }}
{{ 'a' is in 'abc' }} {{ 1 is in l }} {{ 1 is not in l }} {{ 'a' is in d }}
{{ 'abc' is lower }} {{ 'ABC' is upper }} {{ 'Abc' is lower }} {{ '123' is lower }} {{ 'a1' is lower }} {{ 'É' is upper }}
{{ 'upper' is filter }} {{ 'zzz' is filter }} {{ 'odd' is test }} {{ 'zzz' is test }}
{{ (html|escape) is escaped }} {{ html is escaped }} {{ (html|safe) is escaped }}
{{ s.upper is callable }} {{ range is callable }} {{ s is callable }} {{ namespace is callable }}
{{ n is not string and n is not none }}
{{ 1 is defined 2 }}
{{ 1 is divisibleby }}
{{ 1 is divisibleby 0 }}
{{ n is divisibleby(num=7) }}
{{ x is eq y }} {{ x == y }} {{ x != 1 }} {{ x is ne none }}
{{ none is lt 1 }}
{{ [1, 2] is eq [1, 2] }} {{ 'a' is eq('a') }} {{ n is eq 3 + 4 }}
"""

FILTERS = """
{{ s|upper }} {{ s|lower }} {{ 'hello world'|title }} {{ 'hELLO wORLD'|capitalize }} {{ n|upper }} {{ nil|upper }} {{ x|upper }}|
{{ "it's a-b (c) [d] <e> {f}g"|title }} {{ 'élan ünder ßharp ﬁsh'|title }}
{{ sp|trim }}| {{ 'xxhixx'|trim('x') }} {{ 'abcba'|trim('ab') }} {{ 5|trim }} {{ '\u3000a\u00a0'|trim }}|
{{ l|length }} {{ s|length }} {{ u|length }} {{ d|length }} {{ x|length }} {{ l|count }} {{ range(5)|length }} {{ d.items()|length }}
{{ 5|length }}
{{ l|map('string')|length }}
{{ l|join }} {{ l|join(', ') }} {{ s|join('-') }} {{ d|join(',') }} {{ em|join(',') }}| {{ people|join(', ', attribute='name') }} {{ [1, none, 'a']|join('+') }} {{ l|join(0) }} {{ x|join(',') }}|
{{ 5|join }}
{{ x|default('dx') }} {{ x|d('dx') }} {{ e|default('de') }}| {{ e|default('de', true) }} {{ nil|default('dn') }} {{ nil|default('dn', boolean=true) }} {{ x|default }}| {{ d.nope|default(5) }} {{ s|default('no') }} {{ x|default(default_value='k') }}
{{ undefined_name.attr|default('x') }}
{{ l|first }} {{ l|last }} {{ s|first }} {{ s|last }} {{ u|last }} {{ em|first }}| {{ em|last }}| {{ d|first }} {{ d|last }} {{ x|first }}| {{ range(5)|last }}
{{ l|map('abs')|last }}
{{ (em|first) is defined }} {{ (em|first).x }}
{{ s|replace('o', '0') }} {{ s|replace('o', '0', 1) }} {{ s|replace('l', '') }} {{ 'abc'|replace('', '-') }} {{ 123|replace(2, 'x') }} {{ s|replace(old='H', new='J') }} {{ 'aaa'|replace('aa', 'b') }}
{{ s|replace('o') }}
{{ l|list }} {{ 'abc'|list }} {{ d|list }} {{ x|list }} {{ range(3)|list }} {{ (1, 2)|list }} {{ d.items()|list }}
{{ 5|list }}
{{ 5|string ~ 'x' }} {{ none|string }} {{ l|string }} {{ x|string }}| {{ 1.50|string }}
{{ '42'|int }} {{ 'abc'|int }} {{ 'abc'|int(7) }} {{ '12.9'|int }} {{ 3.99|int }} {{ -3.99|int }} {{ true|int }} {{ none|int }} {{ '0x1f'|int(base=16) }} {{ '1f'|int(0, 16) }} {{ ' 12 '|int }} {{ '1_000'|int }} {{ l|int }} {{ '101'|int(base=2) }} {{ '-5'|int }} {{ '+5'|int }} {{ '1e3'|int }} {{ ''|int }} {{ 'inf'|int }}
{{ x|int }}
{{ '1.5'|float }} {{ 'abc'|float }} {{ 'abc'|float(2.5) }} {{ 3|float }} {{ '1e3'|float }} {{ ' .5 '|float }} {{ '5.'|float }} {{ 'inf'|float }} {{ '-Infinity'|float }} {{ 'nan'|float }} {{ none|float }} {{ '1__0'|float }} {{ '0x10'|float }} {{ true|float }}
{{ x|float }}
{{ -5|abs }} {{ -2.5|abs }} {{ true|abs }}
{{ 's'|abs }}
{{ 2.567|round }} {{ 2.567|round(2) }} {{ 2.5|round }} {{ 3.5|round }} {{ -2.5|round }} {{ 2.675|round(2) }} {{ 7|round }} {{ 42.55|round(1, 'floor') }} {{ 42.51|round(1, 'ceil') }} {{ 42.5|round(method='ceil') }} {{ 1234|round(-2) }} {{ 1250|round(-2) }} {{ 1350.0|round(-2) }} {{ 2.5|round(method='floor') }} {{ 1e20|round }}
{{ 2.5|round(0, 'up') }}
{{ 's'|round }}
{{ l|sum }} {{ [0.1, 0.2]|sum }} {{ people|sum(attribute='age') }} {{ l|sum(start=10) }} {{ em|sum }} {{ nested|sum(start=[]) }}
{{ ls|sum }}
{{ ls|sum(start='') }}
{{ l|min }} {{ l|max }} {{ ls|min }} {{ ls|max }} {{ ls|min(true) }} {{ (people|max(attribute='age')).name }} {{ em|min }}| {{ 'hello'|max }} {{ people|map(attribute='age')|max }}
{{ [1, 'a']|max }}
{{ l|sort }} {{ ls|sort }} {{ ls|sort(case_sensitive=true) }} {{ l|sort(reverse=true) }} {{ ls|sort(true) }} {{ people|sort(attribute='age')|map(attribute='name')|join(',') }} {{ people|sort(attribute='age,name')|map(attribute='name')|join(',') }} {{ people|sort(attribute='tag.x', reverse=true)|map(attribute='name')|join(',') }} {{ people|sort(attribute='age', reverse=true)|map(attribute='name')|join(',') }} {{ d|sort }} {{ 'hello'|sort|join }}
{{ [1, 'a', none]|sort }}
{{ [none, none]|sort }} {{ [(2, 'b'), (1, 'z'), (2, 'a')]|sort }} {{ [2.5, 1, true]|sort }} {{ [1, 1.0, true]|sort }}
{{ ls|unique|list }} {{ ['a', 'A', 'b', 'a']|unique|join(',') }} {{ ['a', 'A']|unique(true)|join(',') }} {{ [1, 1.0, true, 2]|unique|list }} {{ people|unique(attribute='age')|map(attribute='name')|list }}
{{ nested|unique|list }}
{{ l|reverse|list }} {{ s|reverse }} {{ u|reverse }} {{ d|reverse|list }} {{ (1, 2)|reverse|list }} {{ l|map('abs')|reverse }} {{ range(3)|reverse|list }} {{ x|reverse|list }}
{{ 5|reverse }}
{{ l|map('string')|list }} {{ ls|map('upper')|join }} {{ people|map(attribute='name')|list }} {{ people|map(attribute='tag.x')|list }} {{ people|map(attribute='nope')|list }} {{ people|map(attribute='nope', default='D')|list }} {{ [[1, 2], [3]]|map(attribute=0)|list }} {{ [[1, 2], [3, 4]]|map(attribute='1')|list }} {{ l|map('round', 1)|list }} {{ ls|map('replace', 'a', 'X')|list }} {{ ls|map('default', 'x')|list }} {{ none|map('upper')|list }} {{ x|map('upper')|list }} {{ ['a']|map('center', width=5)|list }}
{{ l|map('nofilter')|list }}
{{ l|map|list }}
{{ l|map(attribute='x', foo=1)|list }}
{{ 5|map('upper')|list }}
{{ l|select('odd')|list }} {{ l|select|list }} {{ [0, 1, '', 'a', none]|select|list }} {{ l|select('gt', 1)|list }} {{ l|select('in', [1, 2])|list }} {{ l|reject('odd')|list }} {{ [0, 1, none]|reject|list }} {{ ls|select('equalto', 'a')|list }} {{ l|select('divisibleby', num=3)|list }} {{ l|select('>', 1)|list }}
{{ l|select('notest')|list }}
{{ people|selectattr('age', 'gt', 26)|map(attribute='name')|list }} {{ m|selectattr('role', '==', 'user')|list|length }} {{ m|selectattr('role', 'equalto', 'user')|map(attribute='content')|join('/') }} {{ m|rejectattr('role', 'eq', 'user')|list }} {{ people|selectattr('tag.x', 'odd')|map(attribute='name')|join }} {{ people|selectattr('nope')|list }} {{ people|selectattr('nope', 'undefined')|list|length }} {{ people|rejectattr('name')|list }} {{ people|selectattr('name', 'in', ['Zoe'])|list|length }} {{ people|selectattr('nope', 'defined')|list }}
{{ people|selectattr|list }}
{{ (l|select('odd')|list)|first }} {{ l|select('odd')|first }} {{ m|selectattr('role', 'equalto', 'system')|first }}| {{ (m|selectattr('role', 'equalto', 'user')|first).content }}
{% set g = l|map('abs') %}{{ g|list }}{{ g|list }}{{ g is iterable }}
{% set g = l|map('abs') %}{{ g|first }}{{ g|list }}
{% set g = l|map('abs') %}{% for x in g %}{{ x }}{% endfor %}{% for x in g %}{{ x }}{% else %}done{% endfor %}
{{ (l|map('abs'))[0] }}|{{ 1 in l|map('abs') }}
{{ d|items|list }} {{ x|items|list }} {{ ed|items|list }}
{{ l|items|list }}
{{ d|dictsort }} {{ {'b': 1, 'A': 2, 'a': 0}|dictsort }} {{ {'b': 1, 'A': 2, 'a': 0}|dictsort(true) }} {{ {'b': 1, 'a': 2}|dictsort(by='value') }} {{ {'b': 1, 'a': 2}|dictsort(reverse=true) }} {{ {'b': 2, 'a': 2}|dictsort(false, 'value') }}
{{ d|dictsort(by='x') }}
{{ l|dictsort }}
{{ d|dictsort(by='value') }}
{{ d|tojson }} {{ s|tojson }} {{ u|tojson }} {{ nil|tojson }} {{ t|tojson }} {{ f|tojson }} {{ l|tojson }} {{ em|tojson }} {{ ed|tojson }} {{ (1, 2)|tojson }} {{ 1e100|tojson }} {{ html|tojson }} {{ 1.0|tojson }} {{ -0.0|tojson }}
{{ tool|tojson }}
{{ tool|tojson(indent=2) }}
{{ tool|tojson(indent=4) }} {{ em|tojson(indent=2) }} {{ [[], {}, [1]]|tojson(indent=1) }}
{{ d|tojson(indent=0) }} {{ d|tojson(indent='\\t') }} {{ d|tojson(indent=none) }} {{ d|tojson(indent=-1) }}
{{ d|tojson(separators=(',', ':')) }} {{ d|tojson(separators=(',', ': '), indent=2) }} {{ d|tojson(separators=[';', '=']) }} {{ {'b': 1, 'a': {'z': 1, 'y': 2}}|tojson(sort_keys=true) }} {{ u|tojson(ensure_ascii=true) }} {{ u|tojson(true) }} {{ esc|tojson }} {{ ('\\x7f' ~ u)|tojson(ensure_ascii=true) }}
{{ {1: 'a', none: 'b', true: 'c', 1.5: 'd', 'e': 'f'}|tojson }} {{ qq|tojson }} {{ '\\\\/\\b\\f'|tojson }}
{{ {(1, 2): 3}|tojson }}
{{ x|tojson }}
{{ [x]|tojson }}
{{ range(3)|tojson }}
{{ d.items()|tojson }}
{{ d.items()|list|tojson }} {{ d|dictsort|tojson }}
{{ namespace()|tojson }}
{{ {1: 2, 'a': 3}|tojson(sort_keys=true) }}
{{ nl|indent }}|{{ nl|indent(2) }}|{{ nl|indent(2, true) }}|{{ nl|indent(2, true, true) }}|{{ nl|indent(width='> ') }}|{{ nl|indent(blank=true) }}|{{ ''|indent(2, true) }}|{{ 'a'|indent(first=true) }}
{{ 5|indent }}
{{ x|indent }}
{{ html|escape }} {{ html|e }} {{ html|safe }} {{ (html|e)|e }} {{ html|e|safe }} {{ html|forceescape }} {{ (html|e)|forceescape }} {{ 5|e }} {{ x|e }}|
{{ ('<'|safe) + '<' }} {{ '<' + ('<'|safe) }} {{ ('<'|safe) ~ '<' }} {{ ('<'|safe) + ('<'|safe) }} {{ (d|tojson|safe) ~ '"' }} {{ [('<'|safe)] }}
{{ '%s-%s'|format('a', 1) }} {{ '%(x)s'|format(x=5) }} {{ 'none'|format }} {{ '%.3f'|format(3.14159) }} {{ '%05.1f|%3d|%-3d|'|format(2.25, 7, 7) }}
{{ '%s'|format(1, x=2) }}
{{ '%q'|format(1) }}
{{ 'a b  c-d e_f'|wordcount }} {{ u|wordcount }} {{ ''|wordcount }}
{{ 'hello big world'|truncate(9) }} {{ 'hello big world'|truncate(9, true) }} {{ 'hello big world'|truncate(9, true, '..') }} {{ 'hello big world'|truncate(12) }} {{ 'hello'|truncate(3, leeway=0) }} {{ 'hello big world'|truncate(11, leeway=0) }} {{ 'abcdefghij'|truncate(5, leeway=0, end='') }}
{{ 'x'|truncate(2) }}
{{ 'ab'|center(7) }}| {{ 'abc'|center(6) }}| {{ 'ab'|center(5) }}|{{ 'a'|center(4) }}|
{{ range(7)|batch(3)|list }} {{ range(7)|batch(3, 'x')|list }} {{ range(7)|slice(3)|list }} {{ range(7)|slice(3, 'x')|list }} {{ range(2)|slice(3)|list }}
{{ 'a b/c?d=é&'|urlencode }} {{ 5|urlencode }}
{{ s|attr('upper')() }} {{ d|attr('a') }}| {{ d|attr('items') is callable }}
{{ l|length > 2 and s|length > 5 }} {{ s|upper|lower|title }} {{ s|replace('World', 'x')|trim|length }}
{{ s|upper() }} {{ s|default('x')|upper }} {{ 'a,b'.split(',')|map('upper')|join('|') }}
{{ s|upper(1) }}
{{ s|join(foo=1) }}
{{ s|replace('a', 'b', 'c') }}
{{ s|trim(5) }}
{{ l|sort(foo=1) }}
{{ l|first(1) }}
{{ people|map(attribute='name')|map('lower')|sort|join(' ') }} {{ people|map(attribute='name')|map('length')|sum }}
{{ people|groupby('tag.x')|map(attribute='grouper')|list }} {{ people|groupby('nope', default='z')|length }}
{{ ls|groupby|list }}
{{ x|tojson|default('y') }}
{{ 'ß'|upper }} {{ 'ŉǰΐﬁ'|upper }} {{ 'İ'|lower|length }} {{ 'ΣΑΣ Σ.'|lower }} {{ 'ΑΣΑ'|lower }} {{ 'ǆ'|capitalize }} {{ 'ß'|capitalize }} {{ 'ÀÉ'|lower }} {{ 'ﬁsh'|capitalize }} {{ 'straße'.casefold() }}
"""

METHODS = """
{{ s.upper() }} {{ s.lower() }} {{ 'hello world'.title() }} {{ 'hELLO'.capitalize() }} {{ "they're bill's".title() }} {{ 'aB'.swapcase() }} {{ '1a b2c'.title() }}
{{ sp.strip() }}| {{ sp.lstrip() }}| {{ sp.rstrip() }}| {{ 'xxaxx'.strip('x') }} {{ 'abcxcba'.strip('abc') }} {{ 'xxa'.lstrip('x') }} {{ 'axx'.rstrip('x') }} {{ 'a'.strip(none) }} {{ '\u2003é\u2003'.strip() }}|
{{ s.strip(5) }}
{{ 'a b  c'.split() }} {{ 'a,b,,c'.split(',') }} {{ 'a,b,c'.split(',', 1) }} {{ ' a b '.split(' ') }} {{ ''.split() }} {{ ''.split(',') }} {{ 'a b c'.split(none, 1) }} {{ 'a  b  c '.split(maxsplit=1) }} {{ 'aXXbXXc'.split('XX') }} {{ 'a,b'.split(sep=',') }} {{ 'a b'.split(' ', -1) }} {{ 'a b'.split(' ', 0) }} {{ ' a b '.split(none, 0) }}
{{ 'a,b,c'.rsplit(',', 1) }} {{ 'a b  c'.rsplit() }} {{ ' a b c '.rsplit(none, 1) }} {{ 'a--b---c'.rsplit('--') }} {{ 'aaa'.rsplit('aa') }} {{ 'aaa'.split('aa') }}
{{ 'a'.split('') }}
{{ '</think>x</think>y'.split('</think>')[-1] }} {{ 'ab</think>\\n\\ncd'.split('</think>')[-1].lstrip('\\n') }} {{ 'q<think>z'.split('<think>')[0].rstrip('\\n') }}
{{ s.startswith('Hello') }} {{ s.startswith('x') }} {{ s.endswith('World') }} {{ s.startswith(('x', 'H')) }} {{ s.endswith(('x', 'y')) }} {{ s.startswith('World', 6) }} {{ s.startswith('') }} {{ s.endswith('Hello', 0, 5) }} {{ s.startswith('H', 20) }}
{{ s.startswith(5) }}
{{ s.startswith(['H']) }}
{{ s.startswith(none) }}
{{ s.replace('o', '0') }} {{ s.replace('o', '0', 1) }} {{ s.replace('l', 'LL') }} {{ 'aaa'.replace('a', 'b', 2) }} {{ 'abc'.replace('', '.') }} {{ 'é世'.replace('', '.') }} {{ 'abc'.replace('', '.', 2) }} {{ 'abc'.replace('x', 'y', 0) }} {{ 'a'.replace('a', 'b', count=1) if false else 'skip' }}
{{ s.replace('a') }}
{{ s.replace(1, 2) }}
{{ s.find('o') }} {{ s.rfind('o') }} {{ s.find('x') }} {{ s.index('o') }} {{ s.find('o', 5) }} {{ s.find('o', 0, 3) }} {{ u.find('世') }} {{ s.find('') }} {{ s.rfind('') }} {{ s.find('', 50) }} {{ s.count('o') }} {{ s.count('') }} {{ 'aaa'.count('aa') }} {{ u.rfind('!') }} {{ s.rindex('l') }} {{ s.find('d', -1) }}
{{ s.index('zzz') }}
{{ ', '.join(ls) }} {{ ''.join(['a', 'b']) }} {{ '-'.join('abc') }} {{ ','.join(d) }} {{ '|'.join([]) }}| {{ ','.join(ls|map('upper')) }}
{{ ','.join(l) }}
{{ ','.join(5) }}
{{ nl.splitlines() }} {{ 'a\\r\\nb\\rc\\n'.splitlines() }} {{ 'a\\nb'.splitlines(true) }} {{ ''.splitlines() }} {{ 'a\\x0bb\\x0cc\\x1cd\\u2028e'.splitlines() }} {{ '\\n'.splitlines() }} {{ 'a\\n\\nb'.splitlines(keepends=true) }}
{{ 'abc'.isalpha() }} {{ 'ab1'.isalpha() }} {{ ''.isalpha() }} {{ '123'.isdigit() }} {{ '1.5'.isdigit() }} {{ '²'.isdigit() }} {{ 'a1'.isalnum() }} {{ '  '.isspace() }} {{ 'é世'.isalpha() }} {{ 'AB'.isupper() }} {{ 'aB'.islower() }} {{ 'Ab Cd'.istitle() }} {{ 'AB'.istitle() }} {{ '٣'.isdecimal() }} {{ '½'.isnumeric() }} {{ 'é'.isascii() }} {{ ''.isascii() }} {{ 'a\\n'.isprintable() }} {{ ''.isspace() }}
{{ '{} and {}'.format('a', 1) }}
{{ '{0}{1}{0}'.format('a', 'b') }}
{{ '{x}'.format(x=5) }}
{{ '{:5}|{:<5}|{:>5}|{:^5}|'.format('a', 'b', 'c', 'd') }}
{{ '{:05d}|{:+d}|{:,}|{:x}|{:b}|{:.2f}|{:e}|{:%}'.format(42, 5, 1234567, 255, 5, 3.14159, 12345.678, 0.256) }}
{{ '{0.a}{0[b]}'.format(d) }}
{{ '{{}}'.format() }}
{{ '{!r}'.format('x') }}
{{ '{:*^9}'.format('mid') }}
{{ '{}'.format(none) }}
{{ '{:.3}'.format('abcdef') }}
{{ '{:5}|{:5}'.format(42, 1.5) }}
{{ '{:#x}'.format(255) }}
{{ '{:05}'.format(-3.5) }}
{{ '{[0]}'.format(l) }}
{{ '{:d}'.format(true) }}
{{ '{:g}'.format(0.00001) }}
{{ '{:,.2f}'.format(1234567.891) }}
{{ '{}'.format() }}
{{ '{x}'.format() }}
{{ '{'.format() }}
{{ '}'.format() }}
{{ '{} {0}'.format(1) }}
{{ '{:d}'.format('x') }}
{{ '{:s}'.format(5) }}
{{ '{:5}'.format(none) }}
{{ '{:z}'.format(5) }}
{{ 'a-b-c'.partition('-') }} {{ 'abc'.partition('-') }} {{ 'a-b-c'.rpartition('-') }} {{ 'abc'.rpartition('-') }} {{ 'prefix-x'.removeprefix('prefix-') }} {{ 'x.py'.removesuffix('.py') }} {{ 'x'.removesuffix('y') }}
{{ 'ab'.ljust(5) }}| {{ 'ab'.rjust(5, '.') }} {{ 'ab'.center(7, '*') }} {{ '42'.zfill(5) }} {{ '-42'.zfill(5) }} {{ '世'.ljust(3, '界') }} {{ 'abc'.center(6) }}|
{{ 'ab'.ljust(5, 'xy') }}
{{ s.nope() }}
{{ s.upper(1) }}
{{ s.split(foo=1) }}
{{ d.get('a') }} {{ d.get('x') }} {{ d.get('x', 'dflt') }} {{ d.get('x', default=1) if false else '' }} {{ d.keys()|list }} {{ d.values()|list }} {{ d.items()|list }} {{ d.copy() }} {{ ed.get('a', {}).get('b') }} {{ d.get('b').upper() }}
{{ d.get() }}
{{ d.get([1]) }}
{{ d.get('x').y }}|{{ d.get('c')[1] }}
{{ d.keys() }} {{ 'a' in d.keys() }} {{ 1 in d.values() }} {{ d.keys()|length }} {{ d.items()|first }} {{ d.values()|sum if false else '' }} {{ d.keys()|last }} {{ d.items()|reverse|list }} {{ d.keys() == d.keys() }}
{{ d.items()[0] }}|{{ d.keys()[0] }}
{{ l.index(1) }} {{ l.count(1) }} {{ (1, 1, 2).count(1) }} {{ [1, 1.0, true].count(1) }} {{ ls.index('c') }} {{ l.copy() }}
{{ l.index(99) }}
{{ l.clear() }}
{{ l.extend([1]) }}
{{ l.pop() }}
{{ d.clear() }}
{{ d.setdefault('x', 1) }}
{{ d.popitem() }}
{{ namespace(x=1).x }} {{ namespace(x=1)['x'] }} {{ namespace(items=1).items }}
{{ tool.function.parameters.properties.x.description }} {{ tool['function']['parameters']['required'] }} {{ tool.function.parameters.properties.y['items'].type }}
{{ s.upper().lower().split(' ')[0][::-1] }}
{{ ('a' ~ 'b').upper() }} {{ (s + '!').endswith('!') }} {{ s[0].lower() + s[1:] }} {{ m[-1].content }} {{ m[-1]['role'] == 'user' }} {{ m[0]['content'][:1] }}
"""

LINES = [PRINTING, SYNTAX, TESTS, FILTERS, METHODS]


def all_cases():
    for block in LINES:
        yield from joined_lines(block)
    yield from STATEMENTS
    yield from WHITESPACE


def joined_lines(block):
    """One case a line; a line that ends in a backslash goes on in the next one."""
    pending = ""
    for line in block.strip("\n").split("\n"):
        if line.endswith("\\"):
            pending += line + "\n"
            continue
        yield pending + line
        pending = ""
