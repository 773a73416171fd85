import pickle
import re

import numpy as np
import pytest

from uqms.errors import TemplateError
from uqms.simulators.executable.templates import Template


def filled(text, **values):
    return Template(text, "input.dat").render(values)


@pytest.mark.parametrize(
    "value",
    [0.1, 1 / 3, 1e-5, -1e-5, 1e16, 1.5e-9, 1e-300, 5e-324, 1.7976931348623157e308, -2.0, 3.0, np.float64(0.1), 1e22],
)
def test_a_float_is_read_back_bit_for_bit(value):
    text = filled("{{ a }}", a=value)
    assert float(text) == value
    assert text.replace(".0e", "e") == repr(float(value))  # the shortest one
    assert re.fullmatch(r"[-+]?\d+\.\d*([eE][-+]\d+)?", text)  # a float of YAML 1.1


def test_other_values_and_expressions():
    assert filled("{{ n }} {{ on | tojson }} {{ word }}", n=7, on=True, word="it's <b>") == "7 true it's <b>"
    assert (
        filled("{{ [a, b] | tojson }} {{ [a, b] | string }}", a=np.float64(0.1), b=np.int64(2)) == "[0.1, 2] [0.1, 2]"
    )
    assert filled("{{ a / b }}|{{ '%.3e' | format(a) }}|{{ a | round(2) }}", a=0.456, b=2.0) == "0.228|4.560e-01|0.46"
    assert filled(
        "{% if on %}yes{% else %}no{% endif %}{% for i in range(3) %} {{ i * a }}{% endfor %}", on=0, a=0.5
    ) == ("no 0.0 0.5 1.0")
    assert filled("{% raw %}{{ not mine }}{% endraw %}") == "{{ not mine }}"


def test_values_are_never_templates_themselves():
    for text in ("{{7*7}}", "{% for i in range(9) %}x{% endfor %}", "$(rm x)", "a\nb", "{# #}"):
        assert filled("<{{ word }}>", word=text) == f"<{text}>"


def test_line_ends_and_foreign_bytes_stay():
    assert filled("a\r\n{{ x }}\r\n", x=1) == "a\r\n1\r\n"
    assert filled("a\n{{ x }}\n\n", x=1) == "a\n1\n\n"
    assert filled("a\r\nb\n{{ x }}", x=1) == "a\r\nb\r\n1"  # of two kinds, one is taken
    latin = b"! Temp\xe9rature {{ x }}".decode("utf-8", "surrogateescape")
    assert filled(latin, x=1).encode("utf-8", "surrogateescape") == b"! Temp\xe9rature 1"


def test_names_stand_in_order_with_their_lines():
    template = Template("{{ b }}\n{% set c = a %}{{ c }}\n{% for i in range(n) %}{{ i }}{% endfor %}{{ b }}", "f")
    assert template.names == ("b", "a", "n")
    assert [template.line(name) for name in template.names] == [1, 2, 3]
    assert template.uses("n")
    assert not template.uses("i")


def test_names_of_functions_may_be_names_of_inputs():
    assert filled("{{ range }} {{ dict }}", range=2.5, dict=1.0) == "2.5 1.0"
    assert Template("{{ range }}", "f").names == ("range",)
    assert Template("{% for i in range(n) %}{% endfor %}", "f").names == ("n",)


def test_settings_that_are_true_or_false_are_told_with_their_line():
    template = Template("{{ a }}\n{{ on }}", "input.dat")
    template.refuse_unspelled({"a": 1.0, "on": 1})
    with pytest.raises(TemplateError, match=r"input.dat, line 2: on is no number .*write \{\{ ... \| tojson \}\}"):
        template.refuse_unspelled({"a": 1.0, "on": True})
    Template("{% if on %}{{ on | tojson }}{% endif %}", "f").refuse_unspelled({"on": True})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x\n{{ a", "input.dat, line 2: unexpected end of template"),
        ("{{ a | nofilter }}", "input.dat, line 1: No filter named 'nofilter'"),
        ("{{ [1, 2] | random }}", "No filter named 'random'"),
        ("\n{% include 'secret' %}", "input.dat, line 2: a template cannot read other files"),
        ("{% import 'secret' as s %}", "a template cannot read other files"),
        ("{% from 'secret' import s %}", "a template cannot read other files"),
        ("{% extends 'secret' %}", "a template cannot read other files"),
        ("{% do x %}", "Encountered unknown tag 'do'"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "cannot be read as a template"),
    ],
)
def test_what_is_no_template(text, message):
    with pytest.raises(TemplateError, match=message):
        Template(text, "input.dat")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{ b }}", "input.dat cannot be filled in: UndefinedError: 'b' is undefined"),
        ("{{ 1 / (a - a) }}", "ZeroDivisionError"),
        ("{{ a.__class__.__mro__ }}", "SecurityError"),
        ("{{ ''.__class__.__base__.__subclasses__() }}", "SecurityError"),
        ("{{ [1].append(2) }}", "SecurityError"),
        ("{{ range(10**9) | list }}", "OverflowError"),
        ("{{ lipsum() }}", "'lipsum' is undefined"),
        ("{{ a > 0 }}", "bool is no number and no text, and each program spells that differently"),
        ("{{ [a] }}", "list is no number"),
        ("{{ none }}", "NoneType is no number"),
        ("{{ self }}", "TemplateReference is no number"),
        ("{{ (-a) ** 0.5 }}", "complex is no number"),
        ("{{ range }}", "function is no number"),
    ],
)
def test_what_cannot_be_filled_in(text, message):
    with pytest.raises(TemplateError, match=message):
        filled(text, a=1.0)


def test_unknown_names_are_told_with_their_place():
    template = Template("{{ a }}\n  {{ alpah }}", "input.dat")
    template.refuse_unknown(["a", "alpah"])
    with pytest.raises(
        TemplateError, match="input.dat, line 2: nothing provides a value for 'alpah'; there are a, alpha"
    ):
        template.refuse_unknown(["a", "alpha"])
    with pytest.raises(TemplateError, match="nothing provides a value for 'a'; there are no names"):
        template.refuse_unknown([])


def test_a_template_travels():
    template = Template("{{ a }}", "f")
    assert pickle.loads(pickle.dumps(template)).render({"a": 2}) == "2"
    assert pickle.loads(pickle.dumps(template)) == template
