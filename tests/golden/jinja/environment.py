"""The Jinja environment of transformers' apply_chat_template (as of 5.23), set up with jinja2 alone."""
import json

import jinja2
import jinja2.ext
import jinja2.sandbox

PINNED = "3.1.6"


class Generation(jinja2.ext.Extension):
    """{% generation %} passes its body on, from inside a function, so that assignments in it stay in it."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_pass_on"), [], [], body).set_lineno(line)

    def _pass_on(self, caller):
        return caller()


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class Namespace(jinja2.utils.Namespace):
    """Like jinja2's, but a name may not start with an underscore."""

    def __init__(*args, **kwargs):
        attributes = dict(*args[1:], **kwargs)
        for name in attributes:
            check_name(name)
        jinja2.utils.Namespace.__init__(args[0], attributes)

    def __setitem__(self, name, value):
        check_name(name)
        super().__setitem__(name, value)


def check_name(name):
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(name)


def environment():
    assert jinja2.__version__ == PINNED, f"jinja2 {PINNED} is needed, this is {jinja2.__version__}"
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["namespace"] = Namespace
    env.globals["strftime_now"] = lambda format: "26 Jul 2024"
    return env


def render(env, template, variables):
    """The text, or None when the template or its rendering is an error."""
    try:
        return env.from_string(template).render(**variables)
    except Exception:  # any error of Python is an error of the template
        return None
