"""`blade serve` as a command: its flags, what it prints and logs, and the README's chapter, run as written."""
import json
import re
import subprocess
import sys

from common import BLADE, ROOT, blade, in_venv, main
from serving import DEMO, Case, Server, demo_copy

in_venv()

TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"


class Refused(Case):
    """Mistakes that end it before anything is loaded."""

    def check(self, message, *args, status=1):
        result = blade("serve", DEMO, "--port", "0", *args, timeout=60)
        self.assertEqual(result.code, status, result)
        self.assertIn(message, result.err)
        self.assertEqual(result.out, "")

    def test_words(self):
        self.check('--device: "gpu" is not one of auto, host, cuda, cuda:N, hip, hip:N', "--device", "gpu")
        self.check('--tool-call-parser: "x" is not one of auto, none, hermes, llama3_json', "--tool-call-parser", "x")
        self.check('--reasoning-parser: "x" is not one of', "--reasoning-parser", "x")
        self.check('--log-level: "loud" is not one of debug, info, warning, error', "--log-level", "loud")
        self.check('--log-format: "xml" is not one of', "--log-format", "xml")
        self.check('--pooling: "first" is not one of last, mean', "--pooling", "first")
        self.check('--generation-config: "x" is not one of', "--generation-config", "x")

    def test_numbers(self):
        self.check("--port", "--port", "65536", status=2)
        self.check("--max-queued-requests", "--max-queued-requests", "-1", status=2)
        self.check("--max-queue-time", "--max-queue-time", "nan", status=2)

    def test_template(self):
        self.check("there-is-none", "--chat-template", "there-is-none")
        bad = self.temporary() / "bad.jinja"
        bad.write_text("{% for %}")
        self.check("bad.jinja", "--chat-template", bad)

    def test_no_model(self):
        result = blade("serve", "/there/is/none")
        self.assertEqual(result.code, 1, result)
        self.assertIn("/there/is/none", result.err)

    def test_port_in_use(self):
        server = Server(DEMO)
        self.addCleanup(server.kill)
        result = blade("serve", DEMO, "--port", server.port, "--cache", BLADE.parents[1] / "e2e-cache")
        self.assertEqual(result.code, 1, result)
        self.assertIn(str(server.port), result.err)
        self.assertEqual(server.stop(), 0)


class Flags(Case):
    def start(self, *args, model=DEMO):
        server = Server(model, *args)
        self.addCleanup(server.kill)
        return server

    def test_names_and_limits(self):
        server = self.start("--served-model-name", "first", "--served-model-name", "second", "--max-model-len", "64",
                            "--max-num-seqs", "3", "--request-timing")
        models = json.loads(server.request("GET", "/v1/models")[2])["data"]
        self.assertEqual([(m["id"], m["max_model_len"]) for m in models], [("first", 64), ("second", 64)])
        answer = server.post("/v1/completions", model="second", prompt="To be", max_tokens=2)
        self.assertEqual(answer["model"], "second")
        self.assertLessEqual(answer["metrics"]["time_to_first_token"], answer["metrics"]["total_time"])
        status, _, body = server.request("POST", "/v1/completions", {"model": "third", "prompt": "To be"})
        self.assertEqual((status, json.loads(body)["error"]["code"]), (404, "model_not_found"))
        self.assertRegex(server.output(), r"serving first on http://127\.0\.0\.1:\d+ \(3 sequences of at most 64 tokens")
        self.assertEqual(server.stop(), 0)

    def test_log(self):
        """One JSON object a line, with the id that the client gave."""
        server = self.start("--log-format", "json", "--log-level", "debug")
        server.request("POST", "/v1/completions", {"prompt": "To be", "max_tokens": 3}, {"X-Request-Id": "my-own"})
        server.request("GET", "/health")
        self.assertEqual(server.stop(), 0)
        lines = [json.loads(line) for line in server.output().splitlines() if not line.startswith("blade: ")]
        events = {line["event"]: line for line in lines}
        self.assertEqual(events["completion"]["id"], "cmpl-my-own")
        self.assertEqual((events["completion"]["completion_tokens"], events["completion"]["reason"]), (3, "length"))
        self.assertEqual({line["path"] for line in lines if line["event"] == "http"}, {"/v1/completions", "/health"})
        self.assertEqual([line["event"] for line in lines][-2:], ["shutdown", "stopped"])

    def test_chat_template(self):
        """A template of the user's in place of the model's, which has none here and one there."""
        path = self.temporary() / "mine.jinja"
        path.write_text(TEMPLATE)
        for model in (DEMO, demo_copy(self.temporary() / "demo", 512)):
            server = self.start("--chat-template", path, model=model)
            messages = [{"role": "user", "content": "To be"}]
            chat = server.post("/tokenize", messages=messages, add_special_tokens=False)
            plain = server.post("/tokenize", prompt="To be", add_special_tokens=False)
            self.assertEqual(chat["tokens"], plain["tokens"])
            self.assertEqual(server.stop(), 0)

    def test_greedy_default_of_the_model(self):
        """generation_config.json decides where a request says nothing; without a word of it temperature is 1."""
        folder = demo_copy(self.temporary() / "demo", 512)
        config = folder / "generation_config.json"
        for said, args, same in (({"do_sample": False}, (), True), ({}, (), False),
                                 ({"do_sample": False}, ("--generation-config", "none"), False)):
            config.write_text(json.dumps({"eos_token_id": 1, **said}))
            server = self.start(*args, model=folder)
            texts = {server.post("/v1/completions", prompt="To be", max_tokens=30)["choices"][0]["text"]
                     for _ in range(4)}
            self.assertEqual(len(texts) == 1, same, texts)
            self.assertEqual(server.stop(), 0)

    def test_cors_and_large_bodies(self):
        server = self.start("--cors", "https://example.org", "--max-body", "1K")
        status, headers, _ = server.request("OPTIONS", "/v1/completions", headers={
            "Origin": "https://example.org", "Access-Control-Request-Method": "POST"})
        self.assertLess(status, 300)
        self.assertEqual(headers["Access-Control-Allow-Origin"], "https://example.org")
        self.assertEqual(server.request("POST", "/v1/completions", {"prompt": "x" * 2000})[0], 413)
        self.assertEqual(server.stop(), 0)


class Readme(Case):
    def test_as_written(self):
        chapter = (ROOT / "README.md").read_text().split("## Serve")[1].split("\n## ")[0]
        command = re.search(r"^    build/release/bin/blade (serve \S+) ", chapter, re.M).group(1).split()
        curl = re.search(r"^    (curl (?:[^\\\n]|\\\n)*)", chapter, re.M).group(1)
        python = re.search(r"```python\n(.*?)```", chapter, re.S).group(1)
        server = Server(ROOT / command[1])
        self.addCleanup(server.kill)
        for program in (["bash", "-c", curl], [sys.executable, "-c", python]):
            program[-1] = program[-1].replace("http://127.0.0.1:8000", server.url)
            done = subprocess.run(program, capture_output=True, text=True, timeout=120)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertGreater(len(done.stdout), 100)
        self.assertEqual(server.stop(), 0)


if __name__ == "__main__":
    main()
