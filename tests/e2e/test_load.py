"""`blade load` against a server with known delays and known faults: what was sent, what is counted, what is measured.

Counts are exact. Times are compared loosely, for a busy machine delays everything: they must not be below what the
server waits, and medians not far above.
"""
import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import time
import unittest
import xml.etree.ElementTree as ElementTree

from common import BLADE, BUILD, Case, Result
from mock_openai import Server, count_tokens

LOAD = BUILD / "bin" / "blade-load"
SVG = "{http://www.w3.org/2000/svg}"
if not LOAD.exists() or not BLADE.exists():
    print("skipped: not there:", LOAD)
    sys.exit(77)


def run(*args, env=None):
    command = [str(LOAD), *map(str, args)]
    clean = {k: v for k, v in os.environ.items() if k != "OPENAI_API_KEY"}
    result = Result(command, subprocess.run(command, capture_output=True, timeout=120, env={**clean, **(env or {})}))
    if result.code not in (0, 1, 2) or "Sanitizer" in result.err:
        raise AssertionError(f"crashed\n{result}")
    return result


class Load(Case):
    def server(self, model):
        server = Server(model)
        self.addCleanup(server.stop)
        return server

    def load(self, model, *args, code=0, server=None, **options):
        """Runs against a new server; returns it with the JSON result."""
        server = server or self.server(model)
        result = run(server.url, "--json", "-", "--details", *args, **options)
        self.assertEqual(result.code, code, result)
        return server, json.loads(result.out) if result.out else None

    def streams(self, server):
        """Bodies of the measured requests: without the first, which checks the server."""
        return [body for path, body, _ in server.requests if body.get("stream")][1:]


class Figures(Load):
    def test_times(self):
        for endpoint in ("completions", "chat"):
            server, result = self.load("first=60,gap=10,tokenize", "--rate", "40", "-n", 30, "--prompt-len", 24,
                                       "--output-len", 8, "--endpoint", endpoint)
            one = result["runs"][0]
            self.assertEqual((one["completed"], one["failed"], one["failures"]), (30, 0, []))
            self.assertEqual(one["total_output_tokens"], 240)
            self.assertEqual(one["total_input_tokens"], 720)
            self.assertEqual(one["requests_without_usage"], 0)
            self.assertEqual(len(one["requests"]), 30)
            self.assertTrue(all(len(r["itl_ms"]) == 7 for r in one["requests"]))
            for name, least in (("ttft", 60), ("itl", 10), ("tpot", 10), ("e2el", 130)):
                mean, median, p90, p99, most = (one[f"{k}_{name}_ms"] for k in ("mean", "median", "p90", "p99", "max"))
                self.assertTrue(least * 0.5 <= median < least * 3 + 1000, f"{name}: median {median}")
                self.assertTrue(median <= p90 <= p99 <= most and mean <= most, f"{name}: {median} {p90} {p99} {most}")
            for r in one["requests"]:
                rest = r["e2el_ms"] - r["ttft_ms"] - sum(r["itl_ms"])  # from the last token to the finish reason
                self.assertTrue(-0.001 <= rest < 5000, rest)
                self.assertGreaterEqual(r["start"], r["scheduled"])
            scheduled = [r["scheduled"] for r in one["requests"]]
            self.assertAlmostEqual(scheduled[-1], 30 / 40, places=6)
            self.assertEqual(scheduled, sorted(scheduled))
            self.assertGreater(one["duration"], 30 / 40)
            self.assertAlmostEqual(one["request_throughput"], 30 / one["duration"], places=6)
            self.assertAlmostEqual(one["total_token_throughput"], 960 / one["duration"], places=3)

    def test_role_is_no_token(self):
        """The chunk that opens a chat comes at once; the first token later."""
        _, result = self.load("first=100", "-n", 3, "--endpoint", "chat", "--output-len", 2, "--prompt-len", 8)
        self.assertGreaterEqual(result["runs"][0]["median_ttft_ms"], 95)

    def test_concurrency(self):
        server, result = self.load("first=20,gap=2", "-n", 24, "-c", 3, "--output-len", 5, "--prompt-len", 8)
        one = result["runs"][0]
        self.assertEqual((one["completed"], one["request_rate"]), (24, "inf"))
        self.assertEqual((server.peak, one["peak_concurrent_requests"]), (3, 3))

    def test_many_streams(self):
        _, result = self.load("first=3000", "-n", 300, "--output-len", 2, "--prompt-len", 4)
        one = result["runs"][0]
        self.assertEqual(one["completed"], 300)
        self.assertGreaterEqual(one["peak_concurrent_requests"], 256)  # 300 unless the machine is very slow

    def test_goodput(self):
        for target, good in (("1ms", False), ("20s", True)):
            _, result = self.load("first=30,gap=2", "-n", 5, "--output-len", 3, "--prompt-len", 4, "--ttft-target",
                                  target, "--itl-target", "20s", "--tpot-target", "20s", "--e2e-target", "1m")
            one = result["runs"][0]
            self.assertEqual(one["request_goodput"], one["request_throughput"] if good else 0)

    def test_same_seed(self):
        """The same seed sends the same; another one something else; no prompt comes twice in a sweep."""
        bodies = []
        for seed in (1, 1, 2):
            server, _ = self.load("first=1", "-n", 5, "--rate", "500,500", "--pause", "0s", "--seed", seed,
                                  "--prompt-len", 20)
            bodies.append(sorted(body["prompt"] for body in self.streams(server)))
        self.assertEqual(bodies[0], bodies[1])
        self.assertNotEqual(bodies[0], bodies[2])
        self.assertEqual(len(set(bodies[0])), 10)


class Prompts(Load):
    def test_exact_lengths(self):
        for model, args, kind in (("tokenize", [], "random token ids"),
                                  ("tokenize,noids", [], "random words, counted by /tokenize"),
                                  ("tokenize", ["--endpoint", "chat"], "random words, counted by /tokenize")):
            server, result = self.load(model, "-n", 12, "--prompt-len", "40-90", "--output-len", "2-6", *args)
            self.assertEqual(result["workload"]["prompts"], kind)
            lengths = {r["prompt_tokens"] for r in result["runs"][0]["requests"]}
            self.assertTrue(len(lengths) > 4 and min(lengths) >= 40 and max(lengths) <= 90, lengths)
            outputs = {r["output_tokens"] for r in result["runs"][0]["requests"]}
            self.assertTrue(len(outputs) > 2 and min(outputs) >= 2 and max(outputs) <= 6, outputs)
            _, result = self.load(model, "-n", 5, "--prompt-len", 61, *args)
            self.assertEqual({r["prompt_tokens"] for r in result["runs"][0]["requests"]}, {61}, kind)

    def test_lengths_by_sample(self):
        _, result = self.load("first=1", "-n", 10, "--prompt-len", 200, "--output-len", 2)
        self.assertEqual(result["workload"]["prompts"], "random words, length by a sample")
        for r in result["runs"][0]["requests"]:
            self.assertAlmostEqual(r["prompt_tokens"], 200, delta=30)

    def test_without_usage(self):
        _, result = self.load("nousage", "-n", 4, "--prompt-len", 50, "--output-len", 6)
        one = result["runs"][0]
        self.assertEqual(result["workload"]["prompts"], "random words, length guessed")
        self.assertEqual((one["total_output_tokens"], one["total_input_tokens"]), (24, 0))
        self.assertEqual(one["requests_without_usage"], 4)
        # Only streams lack it: the lengths asked for stand in.
        _, result = self.load("quiet", "-n", 4, "--prompt-len", 50, "--output-len", 6)
        one = result["runs"][0]
        self.assertEqual((one["total_output_tokens"], one["total_input_tokens"]), (24, 200))
        text = run(self.server("nousage").url, "-n", 4, "--prompt-len", 50, "--output-len", 6).out
        self.assertIn("note: the server reported no usage for 4 requests", text)

    def split_prompts(self, server):
        """Lists of ids or of words."""
        prompts = [body["prompt"] for body in self.streams(server)]
        return [p if isinstance(p, list) else p.split() for p in prompts]

    def test_prefix_share(self):
        for model in ("tokenize", "first=1"):
            server, _ = self.load(model, "-n", 6, "--prompt-len", 60, "--output-len", 2, "--prefix-share", 0.5)
            prompts = self.split_prompts(server)
            common = os.path.commonprefix(prompts)
            self.assertTrue(0.4 <= len(common) / len(prompts[0]) <= 0.6, f"{len(common)} of {len(prompts[0])}")
            server, _ = self.load(model, "-n", 6, "--prompt-len", 60, "--output-len", 2)
            prompts = self.split_prompts(server)
            self.assertLess(len(os.path.commonprefix(prompts)), 5)

    def test_body(self):
        server, _ = self.load("first=1", "-n", 1, "--output-len", 3, "--prompt-len", 9, "--extra-body",
                              '{"temperature": 0.5, "top_k": 4, "stream_options": null}')
        body = self.streams(server)[0]
        self.assertIsInstance(body.pop("prompt"), str)
        self.assertEqual(body, {"model": "first=1", "max_tokens": 3, "temperature": 0.5, "top_k": 4, "stream": True,
                                "ignore_eos": True})
        server, _ = self.load("first=1", "-n", 1, "--endpoint", "chat", "--no-ignore-eos")
        body = self.streams(server)[0]
        self.assertEqual([m["role"] for m in body["messages"]], ["user"])
        self.assertNotIn("ignore_eos", body)
        self.assertEqual(body["stream_options"], {"include_usage": True})

    def test_warmup(self):
        server, result = self.load("first=1", "-n", 3, "--warmup", 7, "--output-len", 2)
        self.assertEqual(len([b for _, b, _ in server.requests if b.get("stream")]), 1 + 7 + 3)
        self.assertEqual(result["runs"][0]["completed"], 3)

    def test_dataset(self):
        file = self.temporary() / "data.jsonl"
        file.write_text('{"prompt": "eins zwölf", "output_len": 3}\n\n{"prompt": [5, 6, 7], "max_tokens": 2}\n'
                        '{"prompt": "drei"}\n')
        server, result = self.load("first=1", "-n", 4, "-c", 1, "--dataset", file, "--output-len", 9)
        sent = [(b["prompt"], b["max_tokens"]) for b in self.streams(server)]
        # The first line has checked the server; behind the last one comes the first again.
        self.assertEqual(sent, [([5, 6, 7], 2), ("drei", 9), ("eins zwölf", 3), ([5, 6, 7], 2)])
        self.assertEqual(result["runs"][0]["total_input_tokens"], 3 + (count_tokens("drei") + 1)
                         + (count_tokens("eins zwölf") + 1) + 3)
        self.assertNotIn("ignore_eos", self.streams(server)[0])
        file.write_text('{"messages": [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]}\n'
                        '{"prompt": "c"}')
        server, _ = self.load("first=1", "-n", 2, "-c", 1, "--dataset", file, "--endpoint", "chat", "--output-len", 2)
        self.assertEqual([[m["content"] for m in b["messages"]] for b in self.streams(server)], [["c"], ["a", "b"]])

    def test_wrong_dataset(self):
        file = self.temporary() / "data.jsonl"
        server = self.server("first=1")
        for text, args, message in (
                ('{"prompt": "a"}\n{"prompt": \n', [], "line 2: is no JSON object"),
                ('[1]', [], "line 1: is no JSON object"),
                ('{"text": "a"}', [], 'line 1: neither "prompt" nor "messages" is there'),
                ('{"messages": []}', [], '"messages" need --endpoint chat'),
                ('{"prompt": 5}', [], '"prompt" must be text or a list'),
                ('{"prompt": [5]}', ["--endpoint", "chat"], '"prompt" must be text'),
                ('\n', [], "there is no line in it")):
            file.write_text(text)
            result = run(server.url, "--dataset", file, *args)
            self.assertEqual(result.code, 1, result)
            self.assertIn(message, result.err)
        result = run(server.url, "--dataset", file.with_name("none"))
        self.assertIn("No such file", result.err)


class Faults(Load):
    def failures(self, result):
        return {f["kind"]: f["count"] for f in result["runs"][0]["failures"]}

    def test_every_fifth_fails(self):
        for fault, kind, message in (("http500", "HTTP 500", "it broke"), ("close", "connection", ""),
                                     ("halfway", "connection", ""), ("cut", "cut off", "ended without"),
                                     ("event", "error in stream", "out of memory"),
                                     ("json", "error in stream", "no stream")):
            for endpoint in ("completions", "chat"):
                # 39 requests: the first one was the check, so 8 of them are a fifth
                _, result = self.load(f"first=1,gap=1,fault={fault}", "-n", 39, "--output-len", 6, "--prompt-len", 4,
                                      "--endpoint", endpoint)
                one = result["runs"][0]
                self.assertEqual((one["completed"], one["failed"], self.failures(result)), (31, 8, {kind: 8}), fault)
                self.assertEqual(one["total_output_tokens"], 31 * 6)
                self.assertIn(message, one["failures"][0]["example"])

    def test_timeout(self):
        _, result = self.load("first=1,fault=hang", "-n", 9, "--output-len", 4, "--prompt-len", 4, "--timeout", "3s")
        self.assertEqual((result["runs"][0]["completed"], self.failures(result)), (7, {"timeout": 2}))

    def test_refusals(self):
        for words, kind, retry in (("", "HTTP 429", 7), (",status503,noretry", "HTTP 503", None)):
            server, result = self.load("first=1000,slots=4" + words, "-n", 20, "--output-len", 2, "--prompt-len", 4)
            one = result["runs"][0]
            self.assertEqual((one["completed"], one["failed"], one["refused"]), (4, 16, 16))
            self.assertEqual(self.failures(result), {kind: 16})
            self.assertEqual(one["failures"][0].get("retry_after_min"), retry)
            self.assertEqual(one["failures"][0]["example"], "too many requests")
            result = run(server.url, "-n", 20, "--output-len", 2, "--prompt-len", 4, "--rate", "inf,inf",
                         "--pause", "100ms")
            self.assertRegex(result.out, kind + r" +16" + (r"  \(Retry-After 7-7 s\)" if retry else "\n"))
            self.assertRegex(result.out, r"\n +inf +4 +16 +0 ")

    def test_forms_of_streams(self):
        for words in ("crlf", "cr", "bytes", "bytes,crlf", "bytes,cr"):
            for endpoint in ("completions", "chat"):
                _, result = self.load(f"first=1,{words}", "-n", 6, "--output-len", 5, "--prompt-len", 4,
                                      "--endpoint", endpoint)
                one = result["runs"][0]
                self.assertEqual((one["completed"], one["total_output_tokens"]), (6, 30), words)
                self.assertEqual(one["requests_without_usage"], 0)
                self.assertTrue(all(len(r["itl_ms"]) == 4 for r in one["requests"]), words)

    def test_nothing_works(self):
        server = self.server("slots=0,key")
        result = run(server.url, "-n", 3)
        self.assertEqual(result.code, 1, result)
        self.assertIn("a first request to", result.err)
        self.assertIn("HTTP 401): wrong key", result.err)
        server.stop()
        result = run(server.url, "-n", 3)
        self.assertEqual(result.code, 1, result)
        self.assertRegex(result.err, r"http://127.0.0.1:\d+/v1/models: .*(refused|connect)")

    def test_key(self):
        for args, env in ((["--api-key", "secret"], {}), ([], {"OPENAI_API_KEY": "secret"})):
            _, result = self.load("key", "-n", 2, "--output-len", 2, *args, env=env)
            self.assertEqual(result["runs"][0]["completed"], 2)

    def test_model(self):
        server = self.server(None)
        result = run(server.url, "-n", 2)
        self.assertEqual(result.code, 1, result)
        self.assertIn("names no model (HTTP 404: Not Found); give --model", result.err)
        _, result = self.load(None, "-n", 2, "--model", "first=1", "--output-len", 2, server=server)
        self.assertEqual((result["model_id"], result["runs"][0]["completed"]), ("first=1", 2))
        result = run(server.url + "/v1/", "-n", 2, "--model", "first=1", "--output-len", 2)
        self.assertEqual(result.code, 0, result)

    @unittest.skipUnless(shutil.which("openssl"), "openssl makes the certificate")
    def test_https(self):
        folder = self.temporary()
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test",
                        "-keyout", folder / "key.pem", "-out", folder / "cert.pem"], check=True, capture_output=True)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(folder / "cert.pem", folder / "key.pem")
        server = Server("first=1", tls)
        self.addCleanup(server.stop)
        result = run(server.url, "-n", 2)
        self.assertEqual(result.code, 1, result)
        self.assertIn("certificate", result.err)
        _, result = self.load(None, "-n", 8, "--output-len", 3, "--insecure", server=server)
        self.assertEqual((result["runs"][0]["completed"], result["runs"][0]["total_output_tokens"]), (8, 24))

    def test_interrupt(self):
        server = self.server("first=100")
        with subprocess.Popen([LOAD, server.url, "-n", "1000", "--rate", "20", "--output-len", "2", "--json", "-"],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            while server.streams < 40:
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 0, err)
        one = json.loads(out)["runs"][0]
        self.assertTrue(5 <= one["completed"] <= 900 and one["failed"] == 0, one["completed"])
        self.assertIn(b"interrupted", err)


class Reports(Load):
    def test_table(self):
        result = run(self.server("first=5,gap=1").url, "--rate", "50,inf", "-n", 8, "--output-len", 4,
                     "--prompt-len", 4, "--pause", "0s", "--ttft-target", "10s")
        self.assertEqual(result.code, 0, result)
        for line in ("Successful requests: +8", "Failed requests: +0", r"Request rate configured \(RPS\): +50\.00",
                     "Total generated tokens: +32", r"P99 TTFT \(ms\): +\d", r"Median ITL \(ms\): +\d",
                     r"Request goodput \(req/s\): +\d", r"Mean TPOT \(ms\): +\d", r"P99 E2EL \(ms\): +\d"):
            self.assertRegex(result.out, line)
        rows = [line.split() for line in result.out.splitlines() if re.match(r" +(50\.00|inf) ", line)]
        self.assertEqual([row[:4] for row in rows], [["50.00", "8", "0", "0"], ["inf", "8", "0", "0"]])
        self.assertTrue(all(len(row) == 13 for row in rows))

    def test_curves(self):
        folder = self.temporary()
        for label, first in (("Ours <1>", 5), ("theirs", 400)):
            url = self.server(f"first={first},gap=1").url
            result = run(url, "--rate", "100,20,50", "-n", 6, "--output-len", 3, "--prompt-len", 4, "--pause", "0s",
                         "--json", folder / f"{first}.json", "--svg", folder / label[0], "--label", label)
            self.assertEqual(result.code, 0, result)
        # What vllm bench serve saves is a single run.
        (folder / "vllm.json").write_text(json.dumps({
            "request_rate": "inf", "request_throughput": 70.5, "median_ttft_ms": 20.0, "p99_ttft_ms": 30.0,
            "median_itl_ms": 1.0, "p99_itl_ms": 2.0}))
        result = run("--plot", folder / "5.json", folder / "400.json", folder / "vllm.json", "--svg", folder / "all")
        self.assertEqual(result.code, 0, result)
        for name, series, points in (("O-ttft", 2, 6), ("t-itl", 2, 6), ("all-ttft", 6, 14), ("all-itl", 6, 14)):
            root = ElementTree.parse(folder / f"{name}.svg").getroot()
            self.assertEqual(len(root.findall(f"{SVG}polyline")), series)
            self.assertEqual(len(root.findall(f"{SVG}circle")), points + series)
            for line in root.findall(f"{SVG}polyline"):
                xs = [float(p.split(",")[0]) for p in line.get("points").split()]
                ys = [float(p.split(",")[1]) for p in line.get("points").split()]
                self.assertEqual(xs, sorted(xs))
                self.assertTrue(all(56 <= y <= 420 for y in ys) and all(80 <= x <= 860 for x in xs))
        texts = [t.text for t in ElementTree.parse(folder / "all-ttft.svg").getroot().iter(f"{SVG}text")]
        for text in ("Ours <1>, median", "theirs, p99", "vllm, median", "request rate (requests/s)",
                     "Time to first token (ms)"):
            self.assertIn(text, texts)

    def test_wrong_plot(self):
        folder = self.temporary()
        (folder / "a.json").write_text("{")
        for args, message in ((["--plot", folder / "a.json", "--svg", folder / "x"], "a.json, line 1"),
                              (["--plot", folder / "b.json", "--svg", folder / "x"], "No such file"),
                              (["--plot", folder / "a.json"], "--plot needs --svg")):
            result = run(*args)
            self.assertEqual(result.code, 1, result)
            self.assertIn(message, result.err)

    def test_wrong_options(self):
        for args, message in (
                (["127.0.0.1:8000"], "is no address of a server"),
                (["http://a", "http://b"], "one argument too many"),
                (["http://a", "--rate", "1,x"], "--rate"), (["http://a", "--rate", "0"], "--rate"),
                (["http://a", "--rate", "1,"], "--rate"), (["http://a", "--prompt-len", "9-3"], "--prompt-len"),
                (["http://a", "--prompt-len", "0"], "--prompt-len"),
                (["http://a", "--output-len", "5-"], "--output-len"),
                (["http://a", "--ttft-target", "200"], "--ttft-target"),
                (["http://a", "--timeout", "-1s"], "--timeout"),
                (["http://a", "--endpoint", "x"], "--endpoint"), (["http://a", "--extra-body", "[1]"], "--extra-body"),
                (["http://a", "--extra-body", "{"], "--extra-body"),
                (["http://a", "--prefix-share", "1.5"], "--prefix-share"),
                (["http://a", "--burstiness", "0"], "--burstiness")):
            result = run(*args)
            self.assertIn(result.code, (1, 2), result)
            self.assertIn(message, result.err)
        self.assertIn("usage: blade load URL", run("--help").out)

    def test_from_blade(self):
        """`blade load` hands over to the program beside it; without that it says what is missing."""
        done = subprocess.run([BLADE, "load", "--help"], capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stdout), (0, run("--help").out))
        copy = self.temporary() / "blade"
        copy.write_bytes(BLADE.read_bytes())
        copy.chmod(0o755)
        done = subprocess.run([copy, "load", "http://a"], capture_output=True, text=True,
                              env={**os.environ, "PATH": "/nowhere"})
        self.assertEqual(done.returncode, 1)
        self.assertIn("the program blade-load is needed", done.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
