"""Hostile clients: whatever they send gets a clear 4xx or a closed connection, while the streams of others go on, bit
for bit as if they were alone; memory stays bounded, and afterwards the server is well. Standard library only."""
import contextlib
import http.client
import json
import pathlib
import random
import resource
import socket
import struct
import tempfile
import threading
import time
import unittest

import common
from common import Case
from serving import DEMO, Server, demo_copy

COMPLETIONS = "/v1/completions"
POST = f"POST {COMPLETIONS} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
CHAT = "/v1/chat/completions"
POSTS = (COMPLETIONS, CHAT, "/v1/embeddings", "/tokenize", "/detokenize")
BODY = 8 << 20  # --max-body
SANITIZED = b"__asan_init" in common.BLADE.read_bytes() if common.BLADE.exists() else False
# What the server may grow by: eight bodies, and what two workers need to tokenize one each, some thirty times its size;
# twice that with AddressSanitizer, which keeps what was freed.
MEMORY = (8 + 2 * 40) * BODY * (1 + SANITIZED)
VOCABULARY = 1024
QUESTIONS = [dict(prompt="ROMEO:\n", max_tokens=40, temperature=0), dict(prompt="JULIET:", max_tokens=60, seed=5),
             dict(prompt=[5, 6, 7], max_tokens=50, seed=7, temperature=0.7, top_p=0.9, n=2)]


def stream(port, question):
    """The whole of a streamed answer: text and log-probabilities of each choice."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    with contextlib.closing(connection):
        connection.request("POST", COMPLETIONS, json.dumps({**question, "stream": True, "logprobs": 2}))
        answer = connection.getresponse()
        if answer.status != 200:
            raise AssertionError(f"{answer.status} {answer.read()}")
        choices = {}
        for line in answer:
            if not line.startswith(b"data: {"):
                continue
            for choice in json.loads(line[6:])["choices"]:
                parts = choices.setdefault(choice["index"], {"text": "", "logprobs": [], "end": None})
                parts["text"] += choice["text"]
                parts["logprobs"] += (choice["logprobs"] or {}).get("token_logprobs", [])
                parts["end"] = choice["finish_reason"] or parts["end"]
        return choices


class Witness(threading.Thread):
    """Asks the questions over and over; what comes back must be what came when the server had nothing else to do."""

    def __init__(self, port, alone):
        super().__init__()
        self.port, self.alone = port, alone
        self.rounds, self.fault, self.over = 0, None, False

    def run(self):
        while not self.over and not self.fault:
            for question, alone in zip(QUESTIONS, self.alone):
                try:
                    if (got := stream(self.port, question)) != alone:
                        self.fault = f"{question}: {got}, alone: {alone}"
                except (OSError, AssertionError, http.client.HTTPException) as error:
                    self.fault = repr(error)
            self.rounds += 1


class Hostile(Case):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="blade-test-")
        model = demo_copy(pathlib.Path(cls.folder.name) / "demo", 2048) if DEMO.exists() else None
        if not model:
            raise unittest.SkipTest("the demo model is not there")
        cls.server = Server(model, "--log-level", "warning", "--max-body", "8M")
        cls.alone = [stream(cls.server.port, question) for question in QUESTIONS]
        cls.before = cls.memory()

    @classmethod
    def tearDownClass(cls):
        """The end: still well, idle, bounded, and able to stop."""
        try:
            assert cls.server.request("GET", "/health")[0] == 200
            cls.server.wait_idle()
            peak = cls.memory()
            print(f"\nmemory: {cls.before >> 20} MiB before, {peak >> 20} MiB at the peak")
            assert peak < cls.before + MEMORY, f"{peak} bytes"
            assert cls.server.stop() == 0, cls.server.output()
        finally:
            cls.server.kill()
            cls.folder.cleanup()

    @classmethod
    def memory(cls):
        """Bytes, at the peak so far."""
        status = pathlib.Path(f"/proc/{cls.server.process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) << 10

    def setUp(self):
        self.witness = Witness(self.server.port, self.alone)
        self.witness.start()

    def tearDown(self):
        self.witness.over = True
        self.witness.join()
        self.assertIsNone(self.witness.fault)
        self.assertGreater(self.witness.rounds, 0)
        self.assertIsNone(self.server.process.poll(), self.server.output()[-2000:])

    def dial(self, receive_buffer=0):
        s = socket.socket()
        self.addCleanup(s.close)
        s.settimeout(120)
        if receive_buffer:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        s.connect(("127.0.0.1", self.server.port))
        return s

    def raw(self, *pieces):
        """Status of the answer to these bytes, 0 when the connection was closed without one."""
        s = self.dial()
        answer = b""
        try:
            for piece in pieces:
                s.sendall(piece if isinstance(piece, bytes) else piece.encode())
        except OSError:
            pass
        with contextlib.suppress(ConnectionError):
            while b"\r\n\r\n" not in answer and (more := s.recv(65536)):
                answer += more
        s.close()
        return int(answer.split()[1]) if answer.startswith(b"HTTP/1.1 ") else 0

    def refused(self, path, body, statuses=(400,)):
        """The error of a request that must get one."""
        status, _, answer = self.server.request("POST", path, body)
        self.assertIn(status, statuses, f"{path} {body[:200] if isinstance(body, bytes) else body} {answer}")
        error = json.loads(answer)["error"]
        self.assertEqual({"message", "type", "param", "code"}, set(error))
        self.assertTrue(error["message"])
        return error

    # ---- HTTP

    def test_malformed_http(self):
        requests = [
            b"\r\n\r\n\r\nHELLO\r\n\r\n",
            b"GET\r\n\r\n",
            b"GET /health\r\n\r\n",
            b"GET /health HTTP/3.7\r\n\r\n",
            b"GET /health HTTP/1.1\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500) + b"\n\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            POST + "Content-Length: -5\r\n\r\n",
            POST + "Content-Length: 18446744073709551617\r\n\r\n",
            POST + "Content-Length: 4\r\nContent-Length: 5\r\n\r\n{}{}{",
            POST + "Transfer-Encoding: chunked\r\n\r\nxyz\r\n",
            POST + "Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\n",
            POST + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            POST + "Transfer-Encoding: gzip\r\n\r\n",
            b"GET /" + b"x" * 100000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET /health HTTP/1.1\r\nHost: a\r\n" + b"".join(b"X-%d: y\r\n" % i for i in range(10000)) + b"\r\n",
            b"GET /health HTTP/1.1\r\nHost: a\r\n" + b" folded\r\n" * 5000 + b"\r\n",
            b"GET /\x00\x01\xff HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET /../../etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET /v1/models/%00%0d%0aX-Bad:1 HTTP/1.1\r\nHost: a\r\n\r\n",
            b"TRACE /health HTTP/1.1\r\nHost: a\r\n\r\n",
            b"CONNECT example.org:443 HTTP/1.1\r\nHost: a\r\n\r\n",
        ]
        for request in requests:
            with self.subTest(request[:80]):
                status = self.raw(request)
                self.assertTrue(status in (0, 505) or 400 <= status < 500, status)

    def test_random_bytes(self):
        seed = random.Random(1)
        good = POST + 'Content-Length: 48\r\n\r\n{"prompt": "a", "max_tokens": 1, "stream": true}'
        for i in range(300):
            request = bytearray(good.encode())
            for _ in range(seed.randrange(1, 6)):
                request[seed.randrange(len(request))] = seed.randrange(256)
            s = self.dial()
            s.sendall(request)
            s.shutdown(socket.SHUT_WR)
            answer = s.recv(65536)
            s.close()
            if answer:
                self.assertLess(int(answer.split()[1]), 506, (request, answer))
                self.assertNotEqual(int(answer.split()[1]), 500, (request, answer))

    # ---- bodies

    def test_malformed_json(self):
        bodies = [b"", b" ", b"{", b"[]", b"null", b"42", b'"text"', b"{}}", b'{"prompt": "a"', b'{"prompt": "a",}',
                  b"{'prompt': 'a'}", b'{"prompt": "a" "b"}', b'{"prompt": NaN}', b'{"prompt": "\x00"}',
                  b'{"prompt": "a\nb"}', b'{"prompt": "\\x"}', b'\xef\xbb\xbf{"prompt": "a"}',
                  b'{"prompt": "a", "prompt": "b"}', b"\x00" * 100, b"--boundary\r\n", b"prompt=a&n=2",
                  b'{"prompt": "a", "n": 01}', b'{"prompt": "a", "n": 1e999}', b"\x1f\x8b\x08\x00"]
        for body in bodies:
            for path in POSTS:
                with self.subTest(path=path, body=body):
                    self.refused(path, body)

    def test_deep_json(self):
        for depth in (1000, 10000, 1000000):
            for opening, closing in (("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")):
                for path in (COMPLETIONS, CHAT):
                    inside = opening * depth + "1" + closing * depth
                    self.refused(path, inside.encode())
                    self.refused(path, f'{{"prompt": {inside}}}'.encode())
                    self.refused(path, f'{{"messages": {inside}}}'.encode())
                    self.refused(path, (opening * depth).encode())

    def test_wide_json(self):
        wide = ['{"prompt": [' + "[]," * 2000000 + "[]]}",
                '{"prompt": "a", "stop": [' + '"x",' * 100000 + '"y"]}',
                "{" + ",".join(f'"k{i}": 1' for i in range(300000)) + "}",
                '{"messages": [' + ",".join(["{}"] * 300000) + "]}",
                '{"prompt": "a", "logit_bias": {' + ",".join(f'"{i}": 1' for i in range(200000)) + "}}"]
        for body in wide:
            for path in (COMPLETIONS, CHAT):
                self.refused(path, body.encode())

    def test_bad_utf8(self):
        for bad in (b"\xff", b"\xc3", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82"):
            for path, body in ((COMPLETIONS, b'{"prompt": "a%s"}'), (COMPLETIONS, b'{"prompt": "a", "stop": "%s"}'),
                               (CHAT, b'{"messages": [{"role": "user", "content": "%s"}]}'),
                               ("/tokenize", b'{"prompt": "%s"}')):
                self.refused(path, body % bad)
        self.refused(COMPLETIONS, b'{"prompt": "\\ud800"}')

    def test_numbers(self):
        """Values no reader could mean. What is in range but large may be served."""
        values = (-2, -2**31 - 1, 2**31, 2**63, -2**63 - 1, 10**30, 1e308, 1.5, "1", True, [], {})
        for field in ("max_tokens", "n", "min_tokens", "top_k", "logprobs", "prompt_logprobs", "priority", "best_of"):
            for value in values:
                with self.subTest(field=field, value=value):
                    request = {"prompt": "a", "max_tokens": 2, field: value}
                    status, _, answer = self.server.request("POST", COMPLETIONS, request)
                    may_be = type(value) is int and (value > 0 or field == "priority")
                    self.assertIn(status, (200, 400) if may_be else (400,), answer)
                    if status == 400:
                        self.assertIn(field, answer.decode())
        for field in ("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"):
            for value in (-1e30, 1e30, "1", [], True):
                with self.subTest(field=field, value=value):
                    error = self.refused(COMPLETIONS, {"prompt": "a", "max_tokens": 1, field: value})
                    self.assertEqual(error["param"], field)

    def test_token_ids(self):
        for value in (-1, VOCABULARY, 10**6, 2**31, 2**32, 2**63, 10**30, 1.5, "1", None, True, [1]):
            with self.subTest(value=value):
                self.refused(COMPLETIONS, {"prompt": [1, value]})
                self.refused(COMPLETIONS, {"prompt": [[1], [value]]})
                self.refused("/v1/embeddings", {"input": [1, value]})
                self.refused("/detokenize", {"tokens": [1, value]})
                self.refused(COMPLETIONS, {"prompt": "a", "allowed_token_ids": [value]})
        for value in (-1, 2**63, 10**30, 1.5, "1", None, True, [1]):
            self.refused(COMPLETIONS, {"prompt": "a", "stop_token_ids": [value]})
        for key in ("-1", str(VOCABULARY), "1e3", " 1", "", "9" * 50, "a"):
            self.refused(COMPLETIONS, {"prompt": "a", "logit_bias": {key: 1}})

    def test_large_bodies(self):
        """100 MB: refused at the header, or as soon as there is too much; and 7 MB, which are read and refused."""
        megabyte = b"a" * 1000000
        start = time.monotonic()
        status = self.raw(POST + "Content-Length: 100000000\r\n\r\n")
        self.assertEqual(status, 413)
        self.assertLess(time.monotonic() - start, 5)
        status = self.raw(POST + "Content-Length: 100000000\r\n\r\n", *[megabyte] * 100)
        self.assertEqual(status, 413)
        status = self.raw(POST + "Transfer-Encoding: chunked\r\n\r\n",
                          *[b"f4240\r\n" + megabyte + b"\r\n"] * 100, b"0\r\n\r\n")
        self.assertEqual(status, 413)
        start = time.monotonic()
        error = self.refused(COMPLETIONS, b'{"prompt": "' + b"a b\xc3\xa9\\n" * 1000000 + b'"}')
        print(f"\na prompt of 7 MB: {time.monotonic() - start:.2f} s, {error['message'][:100]}")
        self.refused(CHAT, b'{"messages": [{"role": "user", "content": "' + b"a" * 7500000 + b'"}]}')

    def test_many_large_bodies(self):
        """More at a time than the server is willing to hold: some get 503, none are forgotten."""
        body = b'{"prompt": "' + b"x" * (BODY - 100)
        head = f"{POST}Content-Length: {len(body) + 2}\r\n\r\n".encode()
        sockets = [self.dial() for _ in range(12)]
        statuses = []
        for s in sockets:
            with contextlib.suppress(OSError):
                s.sendall(head + body)
        for s in sockets:
            with contextlib.suppress(OSError):
                s.sendall(b'"}')
        for s in sockets:
            with contextlib.suppress(ConnectionError):
                answer = s.recv(65536)
                statuses.append(int(answer.split()[1]) if answer else 0)
            s.close()
        self.assertEqual(set(statuses), {400, 503})

    # ---- connections

    def ask(self, s, **fields):
        body = json.dumps({"prompt": "ROMEO:", "stream": True, **fields})
        s.sendall(f"{POST}Content-Length: {len(body)}\r\n\r\n{body}".encode())

    def test_slow_readers(self):
        """They read nothing while their answers come; then they read, or go away."""
        sockets = [self.dial(2048) for _ in range(20)]
        for i, s in enumerate(sockets):
            self.ask(s, n=4, max_tokens=300, ignore_eos=True, logprobs=5, seed=i)
        self.server.wait_for("the slow readers' streams", lambda m: m["vllm:num_requests_running"] > 20)
        self.server.wait_for("the end of the slow readers' streams",
                             lambda m: m["vllm:num_requests_running"] <= 2 and not m["vllm:num_requests_waiting"], 120)
        for i, s in enumerate(sockets):
            if i % 2:
                got = b""
                while not got.endswith(b"0\r\n\r\n"):
                    self.assertTrue(more := s.recv(65536))
                    got += more
                self.assertIn(b"data: [DONE]", got)
            s.close()

    def test_idle_connections(self):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 2048)), hard))
        before = self.witness.rounds
        idle = [self.dial() for _ in range(1000)]
        for s in idle[::3]:
            s.sendall(POST.encode() + b"Content-")
        self.assertEqual(self.server.request("GET", "/health")[0], 200)
        until = time.monotonic() + 60
        while self.witness.rounds < before + 3 and time.monotonic() < until and not self.witness.fault:
            time.sleep(0.05)
        self.assertGreaterEqual(self.witness.rounds, before + 3)
        for s in idle[1::99]:
            s.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
            self.assertTrue(s.recv(4096).startswith(b"HTTP/1.1 200"))
        for s in idle:
            s.close()

    def test_resets(self):
        """At any moment: in the request, while it waits, in the stream."""
        seed = random.Random(2)
        for i in range(200):
            s = self.dial()
            whole = i % 4 > 0
            if not whole:
                request = POST + "Content-Length: 1000\r\n\r\n{"
                s.sendall(request[:seed.randrange(1, len(request))].encode())
            else:
                self.ask(s, max_tokens=200, ignore_eos=True, n=seed.randrange(1, 4), stream=bool(i % 3))
            if i % 2:
                time.sleep(seed.random() * 0.05)
            if whole and i % 5 == 0:
                s.recv(100)
            if i % 3:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            s.close()
        self.server.wait_for("the end of what nobody waits for", lambda m: m["vllm:num_requests_running"] <= 2 and
                             not m["vllm:num_requests_waiting"], 20)


class Keys(Case):
    def test_no_way_around_the_key(self):
        if not DEMO.exists():
            self.skipTest("the demo model is not there")
        server = Server(DEMO, "--api-key", "sk-1", "--api-key", "sk-2")
        self.addCleanup(server.kill)
        paths = ("/v1/models", "//v1/models", "/v1//models", "/v1/models/", "/%761/models", "/health/../v1/models",
                 "/health/", "//health", "/health%2f..%2fv1/models", "/health;/v1/models", "/health%00",
                 "http://a/health", "/metrics", "/dashboard/data", "/version", "/nowhere", "/")
        keys = ({}, {"Authorization": "Bearer "}, {"Authorization": "Bearer sk-"}, {"Authorization": "Bearer sk-11"},
                {"Authorization": "sk-1"}, {"Authorization": "Basic sk-1"}, {"Api-Key": "sk-1"})
        for path in paths:
            for headers in keys:
                self.assertEqual(server.request("GET", path, headers=headers)[0], 401, (path, headers))
        for path in POSTS:
            self.assertEqual(server.request("POST", path, {"prompt": "a"})[0], 401)
        self.assertEqual(server.request("POST", "/health", {})[0], 401)
        self.assertEqual(server.request("GET", "/health")[0], 200)
        for key in ("sk-1", "sk-2"):
            self.assertEqual(server.request("GET", "/v1/models", headers={"Authorization": f"Bearer {key}"})[0], 200)
        self.assertEqual(server.stop(), 0)


if __name__ == "__main__":
    common.main()
