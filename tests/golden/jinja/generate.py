"""Writes cases.json: the templates of cases.py with what jinja2 makes of them."""
import json
import pathlib

import cases
import environment

HERE = pathlib.Path(__file__).parent


def write(name, value):
    text = json.dumps(value, ensure_ascii=False, indent=1)
    (HERE / name).write_text(text + "\n", encoding="utf-8")


def small_cases(env):
    out = []
    for template in cases.all_cases():
        text = environment.render(env, template, cases.VARIABLES)
        assert text is None or " at 0x" not in text, f"prints an address: {template}"
        out.append({"template": template, "error": True} if text is None else {"template": template, "output": text})
    return {"jinja2": environment.PINNED, "variables": cases.VARIABLES, "cases": out}


if __name__ == "__main__":
    write("cases.json", small_cases(environment.environment()))
