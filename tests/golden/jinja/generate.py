"""Writes cases.json and chats.json: templates with what jinja2 makes of them. Needs jinja2 (see PINNED in environment.py)."""
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


def chat_cases(env):
    chats = json.loads((HERE / "conversations.json").read_text(encoding="utf-8"))
    out = []
    for path in sorted((HERE / "templates").glob("*.jinja")):
        template = path.read_text(encoding="utf-8")
        for name, variables in chats.items():
            text = environment.render(env, template, variables)
            case = {"template": path.name, "conversation": name}
            out.append(case | ({"error": True} if text is None else {"output": text}))
    return {"jinja2": environment.PINNED, "cases": out}


if __name__ == "__main__":
    env = environment.environment()
    write("cases.json", small_cases(env))
    if (HERE / "conversations.json").exists():
        write("chats.json", chat_cases(env))
