"""A running `blade serve` for end-to-end tests: started on a free port, asked with the standard library, stopped."""
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import time

from common import BLADE, CACHE, ROOT, Case

DEMO = ROOT / "models" / "shakespeare-llama"

CHAT_TEMPLATE = ("{% for m in messages %}{{ m.role | upper + ':\n' + m.content }}"
                 "{{ '' if loop.last and m.role == 'assistant' else '\n\n' }}{% endfor %}"
                 "{{ 'ASSISTANT:\n' if add_generation_prompt else '' }}")


def demo_copy(folder, context):
    """The demo model with a chat template and a longer context. Its positions are rotary: it runs, whatever it says."""
    shutil.copytree(DEMO, folder)
    for name, more in (("config.json", {"max_position_embeddings": context}),
                       ("tokenizer_config.json", {"chat_template": CHAT_TEMPLATE, "model_max_length": context})):
        config = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**config, **more}))
    return folder


class Server:
    """`blade serve MODEL ARGS...`; .url when it is ready. What it prints is in .output()."""

    def __init__(self, model, *args, ready=180, env=None):
        self.log = tempfile.TemporaryFile("a+b")  # the server and output() share its position
        command = [str(BLADE), "serve", str(model), "--port", "0", "--cache", str(CACHE), *map(str, args)]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=subprocess.STDOUT,
                                        env={**os.environ, **env} if env else None)
        until = time.monotonic() + ready
        while not (found := re.search(r"on (http://\S+:(\d+))", self.output())):
            if self.process.poll() is not None or time.monotonic() > until:
                self.kill()
                raise AssertionError(f"{' '.join(command)}\ndid not start: {self.output()}")
            time.sleep(0.02)
        self.url, self.port = found.group(1), int(found.group(2))

    def output(self):
        if not self.log.closed:
            self.log.seek(0)
            self.text = self.log.read().decode("utf-8", "replace")
        return self.text

    def request(self, method, path, body=None, headers={}, timeout=120):
        """(status, headers, body); a body that is not bytes is sent as JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            if body is not None and not isinstance(body, bytes):
                body = json.dumps(body).encode()
            connection.request(method, path, body, {"Content-Type": "application/json", **headers})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def post(self, path, **body):
        """The JSON of a request that must succeed."""
        status, _, answer = self.request("POST", path, body)
        if status != 200:
            raise AssertionError(f"{path}: {status} {answer}")
        return json.loads(answer)

    def metrics(self):
        """{name or name{labels}: value}; the label model_name is left out."""
        status, _, text = self.request("GET", "/metrics")
        assert status == 200, text
        values = {}
        for line in text.decode().splitlines():
            if line and not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                name = re.sub(r'(model_name|engine)="[^"]*",?', "", name).replace(",}", "}").replace("{}", "")
                values[name] = float(value)
        return values

    def wait_for(self, what, good, seconds=20):
        """Waits until good(metrics)."""
        until = time.monotonic() + seconds
        while not good(m := self.metrics()):
            if time.monotonic() > until:
                gauges = {name: m[name] for name in m if "num_requests" in name or "usage" in name}
                raise AssertionError(f"{what} did not come in {seconds} s: {gauges}")
            time.sleep(0.01)

    def wait_idle(self):
        """Nothing runs or waits, and no sequence holds a page."""
        self.wait_for("an idle engine", lambda m: not m["vllm:num_requests_running"] and
                      not m["vllm:num_requests_waiting"] and not m["vllm:kv_cache_usage_perc"])

    def kill(self):
        """For cleaning up."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.output()
        self.log.close()

    def wait(self, seconds=60):
        """Exit status of a server that was told to stop."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"did not stop in {seconds} s: {self.output()[-2000:]}")
        if "Sanitizer" in self.output():
            raise AssertionError(self.output()[-20000:])
        return code

    def stop(self):
        """Tells it to stop; exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait()


class Served(Case):
    """Tests that share a server. At the end it must be idle and stop with status 0."""

    args = ()

    @classmethod
    def write_model(cls, folder):
        return demo_copy(folder / "demo", 8192)

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="blade-test-")
        cls.addClassCleanup(cls.folder.cleanup)
        cls.server = Server(cls.write_model(pathlib.Path(cls.folder.name)), *cls.args)
        cls.addClassCleanup(cls.server.kill)

    @classmethod
    def tearDownClass(cls):
        cls.server.wait_idle()
        code = cls.server.stop()
        if code:
            raise AssertionError(f"status {code}: {cls.server.output()[-4000:]}")
