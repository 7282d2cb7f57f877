"""What the commands print: text, JSON, streams, stop strings, sampling, conversation, tokens, perplexity."""
import json
import math
import os
import pty
import shutil
import subprocess
import unittest

from common import BLADE, CACHE, GOLDEN, TINYSTORIES, Case, blade, floats, golden, good, ids_text, json_lines, main

MODEL = GOLDEN / "llama-f32"
PROMPTS = golden("llama-f32")["prompts"]
KEYS = ["index", "prompt", "text", "token_ids", "finish_reason", "prompt_tokens", "completion_tokens"]


def generate(*args, **options):
    return json_lines(good("generate", MODEL, "--json", "--temperature", 0, *args, **options))


def templates_model(case):
    """The golden model with a chat template of its own."""
    folder = case.temporary() / "chat-model"
    folder.mkdir()
    for file in MODEL.iterdir():
        (folder / file.name).symlink_to(file)
    config = json.loads((MODEL / "tokenizer_config.json").read_text())
    config["chat_template"] = ("{% for m in messages %}{{ m.role[0] }}:{{ m.content }}\n{% endfor %}"
                               "{% if add_generation_prompt %}a:{% endif %}")
    (folder / "tokenizer_config.json").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


class Generate(Case):
    def test_json(self):
        args = [a for p in PROMPTS for a in ("-p", p["text"])]
        results = generate(*args, "-n", 24, "--weights", "f32")
        for i, (result, prompt) in enumerate(zip(results, PROMPTS)):
            self.assertEqual(list(result), KEYS)
            self.assertEqual(result["index"], i)
            self.assertEqual(result["prompt"], prompt["text"])
            self.assertEqual(result["prompt_tokens"], len(prompt["ids"]))
            self.assertEqual(result["token_ids"], prompt["greedy"])
            self.assertEqual(result["completion_tokens"], 24)
            self.assertEqual(result["finish_reason"], "length")

    def test_text_is_prompt_and_continuation(self):
        expected = generate("-p", PROMPTS[1]["text"], "-n", 10)[0]
        out = good("generate", MODEL, "-p", PROMPTS[1]["text"], "-n", 10, "--temperature", 0)
        self.assertEqual(out, expected["prompt"] + expected["text"] + "\n")

    def test_text_of_several_prompts_is_in_order(self):
        results = generate("-p", "abc", "-p", "de", "-n", 5)
        out = good("generate", MODEL, "-p", "abc", "-p", "de", "-n", 5, "--temperature", 0)
        self.assertEqual(out, "\n".join(r["prompt"] + r["text"] + "\n" for r in results))

    def test_prompts_file(self):
        path = self.temporary() / "prompts.jsonl"
        lines = [{"prompt": PROMPTS[1]["text"], "max_tokens": 3}, {"prompt": PROMPTS[2]["ids"]},
                 {"prompt": PROMPTS[1]["text"], "temperature": 1, "seed": 5}]
        path.write_text("\n\n".join(map(json.dumps, lines)) + "\n")
        results = generate("--prompts", path, "-n", 6, "--weights", "f32")
        self.assertEqual(results[0]["token_ids"], PROMPTS[1]["greedy"][:3])
        self.assertEqual(results[1]["token_ids"], PROMPTS[2]["greedy"][:6])
        self.assertEqual(results[1]["prompt"], PROMPTS[2]["text"])
        self.assertNotEqual(results[2]["token_ids"][:3], results[0]["token_ids"])

    def test_prompts_file_with_messages(self):
        path = self.temporary() / "prompts.jsonl"
        path.write_text(json.dumps({"messages": [{"role": "user", "content": "hello"}]}))
        out = good("generate", templates_model(self), "--json", "--prompts", path, "-n", 2)
        self.assertEqual(json.loads(out)["prompt"], "u:hello\na:")

    def test_seed(self):
        one = generate("-p", "abc", "-n", 20, "--seed", 7, "--temperature", 1)
        args = [a for i in range(5) for a in ("-p", "abc" * i + "x")]
        many = generate(*args, "-p", "abc", "-n", 20, "--seed", 7, "--temperature", 1)
        self.assertEqual(one[0]["token_ids"], many[5]["token_ids"])
        other = generate("-p", "abc", "-n", 20, "--seed", 8, "--temperature", 1)
        self.assertNotEqual(one[0]["token_ids"], other[0]["token_ids"])
        random = [generate("-p", "abc", "-n", 20, "--temperature", 2)[0]["token_ids"] for _ in range(2)]
        self.assertNotEqual(random[0], random[1])

    def test_narrow_sampling_is_greedy(self):
        greedy = generate("-p", "abc", "-n", 16)[0]["token_ids"]
        for options in (["--top-k", 1], ["--top-p", 0], ["--min-p", 1]):
            drawn = json_lines(good("generate", MODEL, "--json", "-p", "abc", "-n", 16, "--temperature", 1, *options))
            self.assertEqual(drawn[0]["token_ids"], greedy, options)

    def test_draws_follow_the_distribution(self):
        """800 draws of a first token against the probabilities, by the chi-square statistic of the likely tokens."""
        path = self.temporary() / "prompts.jsonl"
        path.write_text("\n".join(json.dumps({"prompt": "ab", "seed": s, "max_tokens": 1}) for s in range(800)))
        drawn = [r["token_ids"][0] for r in json_lines(
            good("generate", MODEL, "--json", "--prompts", path, "--temperature", 2, "--top-p", 1, "--top-k", 0))]
        first = generate("-p", "ab", "-n", 1)[0]
        ids = json.loads(good("tokenize", MODEL, "ab", "--json"))["token_ids"]
        row = json_lines(good("logits", MODEL, "--ids", ids_text(ids)))[0]
        logits = floats(row["logits_b64"], row["shape"])[0]
        self.assertEqual(first["token_ids"][0], max(range(len(logits)), key=lambda t: logits[t]))
        top = max(logits)
        weights = [math.exp((x - top) / 2) for x in logits]
        total = sum(weights)
        chi, bins, rest, rest_drawn = 0, 0, 0, 0
        for token, w in enumerate(weights):
            expected = 800 * w / total
            if expected < 8:
                rest, rest_drawn = rest + expected, rest_drawn + drawn.count(token)
                continue
            chi += (drawn.count(token) - expected) ** 2 / expected
            bins += 1
        if rest > 1:
            chi += (rest_drawn - rest) ** 2 / rest
        limit = bins + 5 * math.sqrt(2 * bins) + 5
        print(f"chi-square {chi:.1f} over {bins} tokens (limit {limit:.1f})")
        self.assertGreater(bins, 2)
        self.assertLess(chi, limit)

    def test_stop_string(self):
        full = generate("-p", "abc", "-n", 24, "--weights", "f32")[0]
        text = full["text"]
        stop = text[5:8]
        cut = generate("-p", "abc", "-n", 24, "--weights", "f32", "--stop", stop, "--stop", "never seen")[0]
        self.assertEqual(cut["text"], text[:text.index(stop)])
        self.assertEqual(cut["finish_reason"], "stop")
        self.assertEqual(cut["token_ids"], full["token_ids"][:len(cut["token_ids"])])
        self.assertLess(len(cut["token_ids"]), 24)

    def test_stop_token(self):
        path = self.temporary() / "prompts.jsonl"
        full = generate("-p", "abc", "-n", 24)[0]["token_ids"]
        stop = full[7]
        path.write_text(json.dumps({"prompt": "abc", "stop_token_ids": [stop]}))
        cut = generate("--prompts", path, "-n", 24)[0]
        self.assertEqual(cut["token_ids"], full[:full.index(stop) + 1])
        self.assertEqual(cut["finish_reason"], "stop")

    def test_logit_bias_and_penalties(self):
        path = self.temporary() / "prompts.jsonl"
        lines = [{"prompt": "abc", "logit_bias": {"42": 100}}, {"prompt": "abc", "repetition_penalty": 100},
                 {"prompt": "abc", "presence_penalty": 2, "logit_bias": {"42": 1}}]
        path.write_text("\n".join(map(json.dumps, lines)))
        forced, distinct, _ = generate("--prompts", path, "-n", 8)
        self.assertEqual(forced["token_ids"], [42] * 8)
        self.assertEqual(len(set(distinct["token_ids"])), 8)

    def test_allowed_tokens(self):
        """Nothing but allowed tokens at any temperature; among them the best one, or draws by their probabilities."""
        path = self.temporary() / "prompts.jsonl"
        allowed = list(range(20, 271, 50))
        ids = json.loads(good("tokenize", MODEL, "ab", "--json"))["token_ids"]
        row = json_lines(good("logits", MODEL, "--ids", ids_text(ids)))[0]
        logits = floats(row["logits_b64"], row["shape"])[0]
        best, second = sorted(allowed, key=lambda t: -logits[t])[:2]
        lines = [{"temperature": t, "seed": 3, "allowed_token_ids": allowed, "frequency_penalty": p, "min_p": m}
                 for t, p, m in ((0, 0, 0), (1, 0, 0), (100, 0, 0), (0, 2, 0), (100, 2, 0.5))]
        draw = {"temperature": 2, "max_tokens": 1, "allowed_token_ids": [best, second]}
        lines += [draw | {"seed": s} for s in range(400)]
        path.write_text("\n".join(json.dumps({"prompt": "ab"} | line) for line in lines))
        results = [r["token_ids"] for r in generate("--prompts", path, "-n", 40)]
        self.assertEqual(results[0][0], best)
        for tokens in results[:5]:
            self.assertEqual(len(tokens), 40)
            self.assertLessEqual(set(tokens), set(allowed))
        drawn = [tokens[0] for tokens in results[5:]]
        share = 1 / (1 + math.exp((logits[second] - logits[best]) / 2))
        self.assertLessEqual(set(drawn), {best, second})
        self.assertLess(abs(drawn.count(best) - 400 * share), 5 * math.sqrt(400 * share * (1 - share)))

    def test_bad_words(self):
        """The greedy text up to where a word of one or two tokens would come, and something else there."""
        path = self.temporary() / "prompts.jsonl"
        full = generate("-p", "abc", "-n", 24)[0]["token_ids"]
        spelled = {v: k for k, v in json.loads((MODEL / "tokenizer.json").read_text())["model"]["vocab"].items()}
        plain = [spelled[t].isascii() for t in full]
        one = plain.index(True)
        two = next(i for i in range(23) if plain[i] and plain[i + 1])
        words = [spelled[full[one]], spelled[full[two]] + spelled[full[two + 1]]]
        path.write_text("\n".join(json.dumps({"prompt": "abc", "bad_words": [w]}) for w in words))
        results = [r["token_ids"] for r in generate("--prompts", path, "-n", 24)]
        self.assertNotIn(full[one], results[0])
        self.assertEqual(results[0][:one], full[:one])
        self.assertEqual(results[1][:two + 1], full[:two + 1])
        self.assertNotEqual(results[1][two + 1], full[two + 1])

    def test_logprobs(self):
        result = generate("-p", "abc", "-n", 4, "--logprobs", 3)[0]
        self.assertEqual(len(result["logprobs"]), 4)
        ids = json.loads(good("tokenize", MODEL, "abc", "--json"))["token_ids"]
        row = json_lines(good("logits", MODEL, "--ids", ids_text(ids), "-n", 4))[0]
        for entry, token, logits in zip(result["logprobs"], result["token_ids"],
                                        floats(row["logits_b64"], row["shape"])):
            top = max(logits)
            log_z = top + math.log(sum(math.exp(x - top) for x in logits))
            self.assertEqual(entry["token_id"], token)
            self.assertAlmostEqual(entry["logprob"], logits[token] - log_z, delta=2e-5)
            best = sorted(range(len(logits)), key=lambda t: -logits[t])[:3]
            self.assertEqual([t["token_id"] for t in entry["top_logprobs"]], best)
            for t in entry["top_logprobs"]:
                self.assertAlmostEqual(t["logprob"], logits[t["token_id"]] - log_z, delta=2e-5)

    def test_invalid_utf8_prompt(self):
        command = [str(BLADE), "generate", str(MODEL), "--json", "-p", b"a\xff\xc3b", "-n", "2", "--cache", str(CACHE)]
        done = subprocess.run(command, capture_output=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(json.loads(done.stdout)["prompt"], "a\ufffd\ufffdb")

    def test_generation_config(self):
        folder = self.temporary() / "model"
        folder.mkdir()
        for file in MODEL.iterdir():
            if file.name != "generation_config.json":
                (folder / file.name).symlink_to(file)
        config = json.loads((MODEL / "generation_config.json").read_text())
        greedy = generate("-p", "abc", "-n", 12)[0]["token_ids"]
        run = lambda *options: json_lines(good("generate", folder, "--json", "-p", "abc", "-n", 12, "--seed", 3,
                                               *options))[0]["token_ids"]
        for extra, same in (({}, True), ({"do_sample": False, "temperature": 5.0}, True),
                            ({"do_sample": True, "temperature": 5.0}, False), ({"temperature": 5.0}, False),
                            ({"do_sample": True, "temperature": 5.0, "top_k": 1}, True)):
            (folder / "generation_config.json").write_text(json.dumps({**config, **extra}))
            self.assertEqual(run() == greedy, same, extra)
            self.assertEqual(run("--temperature", 0), greedy)
        (folder / "generation_config.json").write_text(json.dumps({**config, "eos_token_id": [1, greedy[3]]}))
        self.assertEqual(run(), greedy[:greedy.index(greedy[3]) + 1])
        self.assertEqual(run("--ignore-eos"), greedy)
        self.assertEqual(len(run("--min-tokens", 9)) >= 9, True)

    def test_terminal_stream(self):
        """On a terminal the text comes piece by piece, and is the same."""
        expected = good("generate", MODEL, "-p", "abc", "-n", 12, "--temperature", 0)
        try:
            parent, child = pty.openpty()
        except OSError as e: # a bare container without /dev/pts
            self.skipTest(str(e))
        command = [str(BLADE), "generate", str(MODEL), "-p", "abc", "-n", "12", "--temperature", "0", "--cache",
                   str(CACHE)]
        process = subprocess.Popen(command, stdout=child, stderr=subprocess.DEVNULL)
        os.close(child)
        out = b""
        while True:
            try:
                piece = os.read(parent, 4096)
            except OSError:
                break
            if not piece:
                break
            out += piece
        os.close(parent)
        self.assertEqual(process.wait(), 0)
        self.assertEqual(out.replace(b"\r\n", b"\n").decode("utf-8", "replace"), expected)


class WithoutGenerator(Case):
    """A production image: `blade` and a pack, no compiler."""

    def test_pack_is_enough(self):
        folder = self.temporary()
        pack, alone = folder / "model.pack", folder / "bin" / "blade"
        alone.parent.mkdir()
        shutil.copy(BLADE, alone)
        subprocess.run([BLADE.parent / "bladegen", "build", MODEL, "-o", pack], check=True, capture_output=True)
        command = [alone, "generate", MODEL, "--json", "--temperature", "0", "-p", "abc", "-n", "8"]
        environment = {"HOME": str(folder), "LD_LIBRARY_PATH": ""}
        done = subprocess.run(command + ["--pack", pack], capture_output=True, env=environment)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(json_lines(done.stdout.decode()), generate("-p", "abc", "-n", 8))
        done = subprocess.run(command, capture_output=True, env=environment)
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"no pack fits and the generator libbladegen.so is not here", done.stderr)

    def test_libraries(self):
        libraries = subprocess.run(["ldd", BLADE], capture_output=True, check=True).stdout.decode()
        self.assertIn("libjansson", libraries)
        for name in ("LLVM", "lua"):
            self.assertNotIn(name, libraries)


class Chat(Case):
    def test_conversation(self):
        folder = templates_model(self)
        talk = lambda text: good("chat", folder, "-n", 6, "--temperature", 0, stdin=text).split("\n")
        both = talk(b"hello\nmore\n")
        self.assertEqual(talk(b"hello\n")[0], both[0])
        self.assertEqual(talk(b"hello\n/reset\nhello\n/exit\nmore\n")[:2], [both[0]] * 2)
        rendered = f"u:hello\na:{both[0]}\nu:more\na:"
        again = json.loads(good("generate", folder, "--json", "-p", rendered, "-n", 6, "--temperature", 0))
        self.assertEqual(both[1], again["text"])

    def test_system_and_no_prefix_cache(self):
        folder = templates_model(self)
        run = lambda *options: good("chat", folder, "-n", 4, "--temperature", 0, *options, stdin=b"x\ny\nz")
        self.assertEqual(run(), run("--no-prefix-cache"))
        self.assertNotEqual(run(), run("--system", "be brief"))

    def test_no_template(self):
        result = blade("chat", MODEL, stdin=b"hello\n")
        self.assertEqual(result.code, 1)
        self.assertIn("template", result.err)

    def test_too_long_turn(self):
        result = blade("chat", templates_model(self), "-n", 2, "--max-model-len", 40, stdin=b"x" * 400 + b"\nhi\n")
        self.assertEqual(result.code, 1)
        self.assertIn("the context holds 40 tokens", result.err)
        self.assertEqual(len(result.out.rstrip("\n").split("\n")), 1, result)


class Tokenize(Case):
    def test_round_trip(self):
        for prompt in PROMPTS:
            got = json.loads(good("tokenize", "--json", "--", MODEL, prompt["text"]))
            self.assertEqual(got["token_ids"], prompt["ids"])
            self.assertEqual(len(got["tokens"]), len(prompt["ids"]))
            self.assertEqual(good("tokenize", MODEL, "--decode", ids_text(prompt["ids"])), prompt["text"] + "\n")

    def test_standard_input(self):
        text = PROMPTS[2]["text"]
        expected = good("tokenize", "--", MODEL, text)
        self.assertEqual(good("tokenize", MODEL, "-", stdin=text.encode()), expected)
        self.assertEqual(good("tokenize", MODEL, stdin=text.encode()), expected)
        self.assertEqual([int(line.split("\t")[0]) for line in expected.splitlines()], PROMPTS[2]["ids"])


class Perplexity(Case):
    def test_against_logits(self):
        text = (PROMPTS[3]["text"] + PROMPTS[2]["text"]) * 3
        path = self.temporary() / "text"
        path.write_text(text)
        window = 50
        ids = json.loads(good("tokenize", "--json", "--no-special", "--", MODEL, text))["token_ids"]
        got = json.loads(good("perplexity", MODEL, path, "--window", window, "--json"))
        pieces = [ids[i:i + window] for i in range(0, len(ids), window)]
        args = [a for p in pieces for a in ("--ids", ids_text(p))]
        nll, count = 0, 0
        for piece, row in zip(pieces, json_lines(good("logits", MODEL, "--all", *args))):
            for logits, target in zip(floats(row["logits_b64"], row["shape"]), piece[1:]):
                top = max(logits)
                nll += top + math.log(sum(math.exp(x - top) for x in logits)) - logits[target]
                count += 1
        self.assertEqual(got["predicted_tokens"], count)
        self.assertAlmostEqual(got["perplexity"] / math.exp(nll / count), 1, delta=1e-5)
        plain = good("perplexity", MODEL, path, "--window", window).split()
        self.assertEqual([plain[0], *plain[2:4]], ["perplexity", "per", "token"])
        self.assertAlmostEqual(float(plain[1]) / got["perplexity"], 1, delta=1e-6)


class TinyStories(Case):
    def test_story(self):
        if not TINYSTORIES.exists():
            self.skipTest(f"{TINYSTORIES} is not there")
        readme = (TINYSTORIES / "README.md").read_text()
        quoted = [line[1:].removeprefix(" ") for line in readme.splitlines() if line.startswith(">")]
        story = "Once upon a time" + " ".join(quoted)
        for weights in ("f32", "auto"):
            for count in (100, 130):
                out = " ".join(good("generate", TINYSTORIES, "-p", "Once upon a time", "-n", count, "--temperature", 0,
                                    "--weights", weights).split())
                shorter, longer = sorted((out, story), key=len)
                self.assertGreater(len(shorter), 250)
                self.assertTrue(longer.startswith(shorter), out)


class Plan(Case):
    def test_plan(self):
        out = good("plan", MODEL, "--cache", CACHE)
        self.assertIn("KV cache", out)


if __name__ == "__main__":
    main()
