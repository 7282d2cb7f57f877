"""/metrics of a live server after traffic: read by promtool, consistent in itself, equal to what the clients were told;
and the Grafana dashboard: every query is PromQL, every series is there.
"""
import concurrent.futures
import http.client
import json
import math
import pathlib
import re
import shutil
import socket
import subprocess
import tempfile
import time
import unittest
import urllib.error
import urllib.parse
import urllib.request

import common
from serving import Served

PROMTOOL = shutil.which("promtool")
GRAFANA = common.ROOT / "scripts" / "grafana.json"
NEEDS_PROMTOOL = unittest.skipUnless(PROMTOOL, "no promtool (package prometheus; scripts/setup.sh --test)")

# What promtool has against names that are vLLM's own.
VLLMS_FAULT = re.compile(r"metric names should not contain ':'|"
                         r'vllm:iteration_tokens_total non-counter metrics should not have "_total" suffix')


def promtool(*args, text):
    """(exit status, complaints but for VLLMS_FAULT)"""
    done = subprocess.run([PROMTOOL, *args], input=text.encode(), capture_output=True, timeout=60)
    lines = (done.stdout + done.stderr).decode().splitlines()
    return done.returncode, [line for line in lines if not VLLMS_FAULT.search(line)]


def declared():
    """(kind, name) of every metric in metrics.h."""
    header = (common.ROOT / "runtime" / "metrics.h").read_text()
    kinds = re.findall(r"#define METRIC_(COUNTERS|GAUGES|HISTOGRAMS)\(X\)(.*?)(?=\n/\*|\n#)", header, re.S)
    return [(kind, name) for kind, rows in kinds for name in re.findall(r'X\(\w+, "([^"]+)"', rows)]


def queries():
    def walk(node):
        if isinstance(node, dict):
            if "expr" in node:
                yield node["expr"]
            node = list(node.values())
        if isinstance(node, list):
            for child in node:
                yield from walk(child)
    return list(walk(json.loads(GRAFANA.read_text())))


class Scraped(Served):
    REQUESTS = 12

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.usage = {"prompt_tokens": 0, "completion_tokens": 0}
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            for answer in pool.map(cls.complete, range(cls.REQUESTS)):
                for name in cls.usage:
                    cls.usage[name] += answer["usage"][name]
        cls.go_away()
        for path in ("/nowhere", "/v1/models"):
            cls.server.request("GET", path)
        cls.server.wait_idle()
        cls.text = cls.server.request("GET", "/metrics")[2].decode()
        cls.metrics = cls.server.metrics()

    @classmethod
    def complete(cls, i):
        return cls.server.post("/v1/completions", model=cls.model_name(), prompt="Once more unto the breach, " * 4,
                               seed=i, max_tokens=5 + i, ignore_eos=True)

    @classmethod
    def model_name(cls):
        return json.loads(cls.server.request("GET", "/v1/models")[2])["data"][0]["id"]

    @classmethod
    def go_away(cls):
        """A client that reads a little of its stream and leaves."""
        body = {"model": cls.model_name(), "prompt": "A horse", "max_tokens": 8000, "ignore_eos": True, "stream": True}
        client = http.client.HTTPConnection("127.0.0.1", cls.server.port, timeout=60)
        client.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        client.getresponse().read(200)
        client.close()

    def test_type(self):
        headers = self.server.request("GET", "/metrics")[1]
        self.assertRegex(headers["Content-Type"], r"^text/plain; version=0\.0\.4")

    @NEEDS_PROMTOOL
    def test_promtool(self):
        status, complaints = promtool("check", "metrics", text=self.text)
        self.assertEqual(complaints, [])
        self.assertIn(status, (0, 3))  # 3: remarks on names, those of vLLM
        self.assertEqual(promtool("check", "metrics", text=self.text + "x{y=\n")[0], 1)

    def test_everything_is_there(self):
        types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", self.text, re.M))
        for kind, name in declared():
            self.assertEqual(types.get(name), kind.lower()[:-1], name)
            series = name + "_bucket" if kind == "HISTOGRAMS" else name
            self.assertRegex(self.text, rf'(?m)^{series}{{model_name="[^"]+",engine="0"[,}}]')

    def test_histograms(self):
        """Buckets rise, the last one is the count; every request has been seen once."""
        for _, name in (pair for pair in declared() if pair[0] == "HISTOGRAMS"):
            buckets = [int(n) for n in re.findall(rf'(?m)^{name}_bucket{{.*le="[^"]+"}} (\d+)$', self.text)]
            self.assertEqual(buckets, sorted(buckets), name)
            self.assertEqual(buckets[-1], self.metrics[name + "_count"], name)
            self.assertGreater(buckets[-1], 0, name)
        for name in ("e2e_request_latency", "request_queue_time", "request_prefill_time", "request_decode_time",
                     "request_inference_time"):
            started = self.REQUESTS + (name == "request_queue_time")  # the others leave out the one that was cut off
            self.assertEqual(self.metrics[f"vllm:{name}_seconds_count"], started, name)
        parts = sum(self.metrics[f"vllm:request_{part}_time_seconds_sum"] for part in ("queue", "prefill", "decode"))
        self.assertAlmostEqual(parts, self.metrics["vllm:e2e_request_latency_seconds_sum"], delta=0.1 + parts / 10)

    def test_counts_are_those_of_the_clients(self):
        m = self.metrics
        self.assertEqual(m['vllm:request_success_total{finished_reason="length"}'], self.REQUESTS)
        self.assertEqual(m['vllm:request_success_total{finished_reason="abort"}'], 1)
        self.assertEqual(m["vllm:time_to_first_token_seconds_count"], self.REQUESTS + 1)
        aborted = m["vllm:generation_tokens_total"] - self.usage["completion_tokens"]
        self.assertTrue(0 < aborted < 8000, aborted)
        self.assertTrue(0 < m["vllm:prompt_tokens_total"] - self.usage["prompt_tokens"] < 100)
        self.assertGreater(m["vllm:prefix_cache_hits_total"], 0)
        self.assertLessEqual(m["vllm:prefix_cache_hits_total"], m["vllm:prefix_cache_queries_total"])
        self.assertEqual(m["vllm:iteration_tokens_total_count"], m["blade:engine_steps_total"])
        answers = 'http_requests_total{method="%s",handler="%s",status="%s"}'
        self.assertEqual(m[answers % ("POST", "/v1/completions", "2xx")], self.REQUESTS + 1)
        self.assertEqual(m[answers % ("GET", "none", "4xx")], 1)

    def test_grafana_asks_for_what_is_there(self):
        asked = {name for query in queries() for name in re.findall(r"\b(?:(?:vllm|blade):|process_|http_)\w+", query)}
        self.assertGreater(len(asked), 20)
        for name in sorted(asked):
            self.assertRegex(self.text, rf"(?m)^{name}[{{ ]")


    @unittest.skipUnless(shutil.which("prometheus"), "no prometheus (scripts/setup.sh --test)")
    def test_prometheus_answers_grafana(self):
        """A Prometheus that scrapes the server has an answer to every query of the dashboard."""
        with Prometheus(self.server.port) as prometheus:
            until = time.monotonic() + 60
            missing = queries()
            while missing and time.monotonic() < until:
                self.complete(len(missing))
                missing = [query for query in missing if not prometheus.answers(query)]
            self.assertEqual(missing, [])


class Prometheus:
    """Scrapes 127.0.0.1:PORT/metrics every half second."""

    def __init__(self, port):
        self.folder = tempfile.TemporaryDirectory(prefix="blade-test-")
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        job = {"job_name": "blade", "scrape_interval": "500ms", "scrape_timeout": "500ms",
               "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}
        config = pathlib.Path(self.folder.name) / "prometheus.yml"
        config.write_text(json.dumps({"scrape_configs": [job]}))  # JSON is YAML
        self.log = open(config.with_suffix(".log"), "w")
        self.process = subprocess.Popen(
            ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={self.folder.name}/data",
             f"--web.listen-address=127.0.0.1:{self.port}"], stdout=self.log, stderr=self.log)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(30)
        self.log.close()
        self.folder.cleanup()

    def answers(self, query):
        """Whether it knows a number for this query of Grafana's."""
        text = urllib.parse.urlencode({"query": without_variables(query, "10s")})
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v1/query?{text}", timeout=10) as answer:
                result = json.load(answer)["data"]["result"]
        except urllib.error.URLError:
            time.sleep(0.2)  # it is still starting
            return False
        return any(not math.isnan(float(one["value"][1])) for one in result)


def without_variables(query, interval):
    for name, value in (("$__rate_interval", interval), ("$model_name", ".*"), ("$instance", ".*")):
        query = query.replace(name, value)
    return query


class Grafana(unittest.TestCase):
    @NEEDS_PROMTOOL
    def test_queries_are_promql(self):
        """As rules, which promtool parses; Grafana's variables are put in first."""
        rules = []
        for i, query in enumerate(queries()):
            query = without_variables(query, "1m")
            self.assertNotIn("$", query)
            rules.append({"record": f"query_{i}", "expr": query})
        with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:  # JSON is YAML
            json.dump({"groups": [{"name": "grafana", "rules": rules}]}, file)
            file.flush()
            status, lines = promtool("check", "rules", file.name, text="")
        self.assertEqual(status, 0, lines)
        self.assertTrue(any(f"{len(rules)} rules found" in line for line in lines), lines)

    def test_panels(self):
        board = json.loads(GRAFANA.read_text())
        panels = [panel for panel in board["panels"] if panel["type"] != "row"]
        self.assertEqual(len({panel["id"] for panel in board["panels"]}), len(board["panels"]))
        self.assertEqual(len({panel["title"] for panel in panels}), len(panels))
        for panel in panels:
            self.assertEqual(panel["datasource"]["uid"], "${datasource}")
            self.assertTrue(panel["targets"] and panel["fieldConfig"]["defaults"]["unit"], panel["title"])
            place = panel["gridPos"]
            self.assertLessEqual(place["x"] + place["w"], 24)


if __name__ == "__main__":
    common.main()
