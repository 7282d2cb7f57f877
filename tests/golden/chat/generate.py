"""Writes prompts.json: what apply_chat_template of transformers makes of requests.json with each model in models/."""
import json
import pathlib

import jinja2
import tokenizers
import transformers

HERE = pathlib.Path(__file__).parent
PINNED = {"transformers": "5.23.0", "jinja2": "3.1.6"}


def load(folder, scratch):
    """The tokenizer of a folder that holds everything but the vocabulary, which plays no part here."""
    for path in [p for p in folder.rglob("*") if p.is_file()]:
        target = scratch / folder.name / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    tokenizers.Tokenizer(tokenizers.models.BPE()).save(str(scratch / folder.name / "tokenizer.json"))
    return transformers.PreTrainedTokenizerFast.from_pretrained(scratch / folder.name)


def render(tokenizer, request):
    """The prompt, or None when transformers refuses the request."""
    request = json.loads(json.dumps(request))
    options = request.pop("chat_template_kwargs", {})
    messages = request.pop("messages")
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, **request, **options)
    except Exception:  # whatever a template can raise
        return None


def main(scratch):
    assert PINNED == {"transformers": transformers.__version__, "jinja2": jinja2.__version__}
    requests = json.loads((HERE / "requests.json").read_text(encoding="utf-8"))
    prompts = {}
    for folder in sorted((HERE / "models").iterdir()):
        tokenizer = load(folder, scratch)
        prompts[folder.name] = {name: render(tokenizer, request) for name, request in requests.items()}
    text = json.dumps({"made with": PINNED, "prompts": prompts}, ensure_ascii=False, indent=1)
    (HERE / "prompts.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        main(pathlib.Path(scratch))
