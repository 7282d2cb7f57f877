"""The live page in headless Chromium: with made-up numbers from a server of the test's own (exact texts, keys, a server
that goes away and comes back, hostile names, layouts), and with a real `blade serve` under load. Screenshots go to
BUILD/screenshots.
"""
import concurrent.futures
import contextlib
import http.server
import itertools
import json
import pathlib
import re
import sys
import threading
import unittest

import common
from browser import CHROMIUM, Browser
from serving import Served, Server

PAGE = (common.ROOT / "runtime" / "dashboard.html").read_text()
SHOTS = common.BUILD / "screenshots"
LIVE = "document.querySelector('#state').className === 'live'"
GAUGES = ("running", "waiting", "kv_usage")
TOTALS = ("prompt_tokens", "generated_tokens", "prefix_queries", "prefix_hits", "finished")
PERCENTILES = ("ttft_p50", "ttft_p99", "itl_p50", "itl_p99")


def numbers(points=1000, **changes):
    """What a server tells that has run for so many seconds; see dashboard.h."""
    first = max(points - 900, 0)
    history = {"t": [float(i + 1) for i in range(first, points)]}
    for name, value in zip(GAUGES + TOTALS + PERCENTILES, (3, 2, 0.25, 400, 64, 400, 100, 0.5, 0.12, 0.5, 0.02, 0.03)):
        history[name] = [value] * (points - first)
    history["ttft_p50"][-1] = history["ttft_p99"][-1] = None
    return {"model": "test-model", "version": "1.2.3", "started": 1764000000.5, "uptime": float(points),
            "now": {"running": 3, "waiting": 2, "kv_usage": 0.25, "kv_pages": 4096, "page_tokens": 16,
                    "ttft": {"p50": 0.12, "p99": 0.5}, "itl": {"p50": 0.0204, "p99": 1.5}},
            "totals": {"prompt_tokens": 1234567, "generated_tokens": 64000, "prefix_queries": 400000,
                       "prefix_hits": 40000, "preemptions": 7, "rejections": 11, "steps": 9000,
                       "finished": {"stop": 90, "length": 9, "abort": 1, "error": 0}},
            "history": {"last": points, **history}, **changes}


def later_than(answer, after):
    """The answer without the points up to number `after`."""
    history = answer["history"]
    known = len(history["t"]) - (history["last"] - after) if 0 < after <= history["last"] else 0
    cut = {name: value[max(known, 0):] if isinstance(value, list) else value for name, value in history.items()}
    return {**answer, "history": cut}


class Canned:
    """Serves the page and `answer` until stop()."""

    def __init__(self, answer, key=None):
        self.answer, self.key, self.status, self.asked, self.port = answer, key, 200, [], 0
        self.start()

    def start(self):
        canned = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                canned.asked.append(self.path)
                status, kind, body = canned.reply(self.path, self.headers.get("Authorization"))
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.port = self.server.server_port
        self.url = f"http://127.0.0.1:{self.port}/dashboard"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def reply(self, path, authorization):
        if path == "/dashboard":
            return 200, "text/html; charset=utf-8", PAGE.encode()
        if not path.startswith("/dashboard/data?after="):
            return 404, "text/plain", b""
        if self.key and authorization != f"Bearer {self.key}":
            return 401, "application/json", b"{}"
        return self.status, "application/json", json.dumps(later_than(self.answer, int(path.split("=")[1]))).encode()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


class Page(common.Case):
    @classmethod
    def setUpClass(cls):
        cls.page = Browser().__enter__()
        cls.addClassCleanup(cls.page.__exit__)

    def setUp(self):
        self.page.look(1440)
        self.page.complaints.clear()

    def open(self, answer, key=None):
        canned = Canned(answer, key)
        self.addCleanup(canned.stop)
        self.page.open(canned.url)
        if not key:
            self.page.wait(LIVE)
        return canned

    def tearDown(self):
        self.page.open("about:blank")

    def texts(self, selector):
        return self.page.run(f"[...document.querySelectorAll({json.dumps(selector)})].map(e => e.innerText.trim())")

    def test_cards(self):
        self.open(numbers())
        wanted = {"model": "test-model", "about": "Blade 1.2.3, up 16 min 40 s", "running": "3", "waiting": "2",
                  "kv": "25 %", "kv-note": "1,024 of 4,096 pages", "hits": "25 %", "generated": "64.0 tokens/s",
                  "hits-note": "in the last minute; 10 % since the start", "prompt": "400 tokens/s",
                  "prompt-note": "1,234,567 since the start", "waiting-note": "11 refused so far",
                  "ttft": "120 ms p50\n500 ms p99", "itl": "20.4 ms p50\n1.50 s p99"}
        self.assertEqual({name: self.page.text("#" + name) for name in wanted}, wanted)
        self.assertEqual(self.page.run("document.title"), "test-model")
        self.assertEqual(self.page.complaints, [])

    def test_tables(self):
        self.open(numbers())
        rows = [re.split(r"\t+", row) for row in self.texts("#finished tr")]
        self.assertEqual([(r[0], r[2], r[3]) for r in rows],
                         [("stop", "90", "90 %"), ("length", "9", "9.0 %"), ("abort", "1", "1.0 %"),
                          ("error", "0", "0 %")])
        totals = {row.split("\t")[0]: row.split("\t")[-1] for row in self.texts("#totals tr")}
        self.assertEqual(totals, {"Prompt tokens": "1,234,567", "Prefix cache": "40,000", "Generated tokens": "64,000",
                                  "Steps": "9,000", "Preemptions": "7", "Refused": "11"})

    def test_an_idle_server(self):
        """No point, no request: dashes, no NaN anywhere."""
        idle = numbers(1, uptime=0.4)
        idle["now"].update(running=0, waiting=0, kv_usage=0, kv_pages=0, ttft={"p50": None, "p99": None},
                           itl={"p50": None, "p99": None})
        idle["totals"] = {name: 0 for name in idle["totals"]}
        idle["totals"]["finished"] = {"stop": 0, "length": 0, "abort": 0, "error": 0}
        idle["history"] = {name: [] if isinstance(value, list) else 0 for name, value in idle["history"].items()}
        self.open(idle)
        self.assertEqual([self.page.text("#" + name) for name in ("running", "hits", "prompt", "ttft")],
                         ["0", "–", "–", "– p50\n– p99"])
        self.assertNotRegex(self.page.run("document.querySelector('#page').innerHTML"), "NaN|undefined|Infinity")
        self.assertEqual(self.page.complaints, [])

    def test_charts(self):
        self.open(numbers())
        self.assertEqual(self.texts("figure h2"), [
            "Requests", "Generated tokens per second", "Prompt tokens per second", "Time to first token",
            "Between tokens", "Caches"])
        self.assertEqual(self.texts("figure .legend"), [
            "running 3\nwaiting 2", "generated 64.0", "all 400\ncached 100", "p50 120 ms\np99 500 ms",
            "p50 20.0 ms\np99 30.0 ms", "KV cache in use 25 %\nprefix cache hits 25 %"])
        axis = self.page.run("charts.map(c => [...c.svg.querySelectorAll('text')].map(t => t.textContent))")
        self.assertEqual(axis[0], ["0", "1", "2", "3", "now"] + [f"−{i} min" for i in range(1, 6)])
        self.assertEqual(axis[3][:6], ["100 ms", "200 ms", "500 ms", "1 s", "now", "−1 min"])
        self.assertEqual(axis[4][:5], ["10 ms", "20 ms", "50 ms", "100 ms", "now"])
        self.assertEqual(axis[5][:5], ["0 %", "25 %", "50 %", "75 %", "100 %"])
        self.assertNotRegex(self.page.run("document.querySelector('#charts').innerHTML"), "NaN|undefined|Infinity")

    def curve(self, figure, index):
        """The points of a curve: (seconds before now, value), read back from its pixels and the axis."""
        path, x, y, top = self.page.run(f"""(() => {{
            const c = charts[{figure}], p = c.plot;
            return [c.svg.querySelectorAll('.curve')[{index}].getAttribute('d'), [p.x(p.end - range), p.x(p.end)],
                    [p.y(0), p.y(p.ticks.at(-1))], p.ticks.at(-1)]; }})()""")
        return [((x[1] - float(a)) / (x[1] - x[0]) * 300, (y[0] - float(b)) / (y[0] - y[1]) * top)
                for a, b in re.findall(r"[ML]([\d.-]+),([\d.-]+)", path)]

    def test_curves_show_the_numbers(self):
        answer = numbers()
        ramp = [i * 10 for i in range(900)]
        answer["history"]["generated_tokens"] = ramp
        self.open(answer)
        points = self.curve(1, 0)
        self.assertEqual(len(points), 300)
        for i, (age, value) in enumerate(points):
            self.assertAlmostEqual(age, 299 - i, delta=0.3)
            self.assertAlmostEqual(value, ramp[600 + i], delta=10000 / 150)

    def test_latencies_of_all_sizes(self):
        """Microseconds and minutes in one chart: powers of ten; 3 ms lies where it should."""
        answer = numbers()
        answer["history"]["itl_p50"] = [0.00025] * 899 + [0.003]
        answer["history"]["itl_p99"] = [0.003] * 899 + [150]
        self.open(answer)
        names, heights, path = self.page.run("""(s => [[...s.querySelectorAll('text')].map(t => t.textContent),
            [...s.querySelectorAll('line')].map(l => +l.getAttribute('y1')),
            s.querySelector('.curve').getAttribute('d')])(charts[4].svg)""")
        self.assertEqual(names[:8], ["100 µs", "1 ms", "10 ms", "100 ms", "1 s", "10 s", "100 s", "1000 s"])
        last = float(path.split(",")[-1])
        self.assertAlmostEqual((last - heights[1]) / (heights[2] - heights[1]), 0.4771, delta=0.01)

    def test_gaps(self):
        """Short gaps are bridged, long ones are not, a lonely point is there."""
        answer = numbers()
        some = [0.02] * 10 + [None] * 3 + [0.02] + [None] * 100 + [0.02]
        answer["history"]["itl_p50"] = [None] * 700 + some + [None] * (200 - len(some))
        self.open(answer)
        path = self.page.run("charts[4].svg.querySelector('.curve').getAttribute('d')")
        self.assertEqual((path.count("M"), path.count("L")), (2, 10))

    def test_ranges(self):
        self.open(numbers())
        last = "[...document.querySelector('svg').querySelectorAll('text')].pop().textContent"
        for seconds, words, points in ((60, "−60 s", 60), (900, "−15 min", 900), (300, "−5 min", 300)):
            self.page.run(f"document.querySelector('[data-range=\"{seconds}\"]').click()")
            self.assertEqual(self.page.run(last), words)
            path = self.page.run("charts[0].svg.querySelector('.curve').getAttribute('d')")
            self.assertEqual(len(re.findall("[ML]", path)), points)
            self.assertEqual(self.texts("[aria-pressed=true]"), [words[1:].replace("60 s", "1 min")])

    def test_pointer(self):
        answer = numbers()
        answer["history"]["running"] = list(range(900))
        self.open(answer)
        box = self.page.run("(r => [r.x, r.y, r.width])(document.querySelector('svg').getBoundingClientRect())")
        self.page.move(box[0] + 58 + (box[2] - 68) * 0.8, box[1] + 50)
        self.page.wait("document.querySelectorAll('.hover').length === 6")
        self.assertIn("1 min 0 s ago", self.page.run("document.querySelector('svg').textContent"))
        self.assertEqual(self.texts(".legend")[0].split("\n")[0], "running 839")
        self.page.screenshot(SHOTS / "dashboard-pointer.png", whole=False)
        self.page.move(2, 2)
        self.page.wait("document.querySelectorAll('.hover').length === 0")
        self.assertEqual(self.texts(".legend")[0].split("\n")[0], "running 899")

    def test_only_news_is_asked_for(self):
        canned = self.open(numbers(20))
        self.page.wait("last === 20")
        canned.answer = numbers(23)
        self.page.wait("last === 23")
        self.assertEqual(self.page.run("columns.t"), [float(i) for i in range(1, 24)])
        self.assertEqual(canned.asked[:2], ["/dashboard", "/dashboard/data?after=0"])
        self.assertIn("/dashboard/data?after=20", canned.asked)
        canned.answer = numbers(5000)  # the tab slept
        self.page.wait("last === 5000")
        self.assertEqual(self.page.run("[columns.t.length, columns.t[0], columns.running.length]"), [900, 4101, 900])

    def test_nothing_is_loaded(self):
        canned = self.open(numbers())
        self.page.wait("performance.getEntriesByType('resource').length > 1")
        self.assertEqual({path.split("?")[0] for path in canned.asked}, {"/dashboard", "/dashboard/data"})
        self.assertNotRegex(PAGE, r"""<[^>]*\son[a-z]+\s*=""")
        self.assertEqual(set(re.findall(r"https?://[^\s'\"]+", PAGE)), {"http://www.w3.org/2000/svg"})
        self.assertEqual(self.page.complaints, [])

    def test_a_hostile_name_is_text(self):
        name = "<img src=x onerror=alert(1)>\"'</script><b>"
        canned = self.open(numbers(model=name))
        self.assertEqual(self.page.text("#model"), name)
        self.assertEqual(self.page.run("document.querySelectorAll('img, h1 b').length"), 0)
        self.assertEqual({path.split("?")[0] for path in canned.asked}, {"/dashboard", "/dashboard/data"})

    def test_key(self):
        canned = self.open(numbers(), key="s3cret")
        shown = "!document.querySelector('#ask').hidden"
        self.page.wait(shown)
        self.assertTrue(self.page.run("document.querySelector('#page').hidden && document.activeElement.id === 'key'"))
        self.page.screenshot(SHOTS / "dashboard-key.png")
        asked = len(canned.asked)
        self.page.type("not a key")
        self.page.wait("!document.querySelector('#refused').hidden")
        self.assertEqual(len(canned.asked), asked)
        self.page.run("document.querySelector('#key').value = ''")
        self.page.type("wrong")
        self.page.wait(f"document.querySelector('#refused').innerText === 'The server refused that key.' && {shown}")
        self.page.type("s3cret")
        self.page.wait(LIVE)
        self.assertTrue(self.page.run("document.querySelector('#ask').hidden"))
        self.assertEqual(self.page.run("document.querySelector('#key').value"), "")
        self.page.open(canned.url)
        self.page.wait(LIVE)
        self.assertEqual(self.page.run("localStorage.length"), 0)
        self.assertFalse([path for path in canned.asked if "s3cret" in path])
        canned.key = "other"  # the server was started anew
        self.page.wait(shown)

    def test_the_server_goes_and_comes_back(self):
        canned = self.open(numbers(500))
        self.assertIsNone(self.page.run("document.querySelector('#gone').hidden ? null : 1"))
        canned.stop()
        self.page.wait("!document.querySelector('#gone').hidden")
        self.page.wait("/old\\. Trying again/.test(document.querySelector('#gone').innerText)")
        self.assertRegex(self.page.text("#gone"), r"^The server can not be reached; the numbers are \d+ s old\.")
        self.assertEqual(self.page.run("document.querySelector('#page').className"), "stale")
        self.page.screenshot(SHOTS / "dashboard-gone.png")
        canned.answer = numbers(600, started=1764009999.0, model="another")
        canned.start()
        self.page.wait(f"{LIVE} && columns.t.length === 600")
        self.assertEqual(self.page.text("#model"), "another")
        self.assertTrue(self.page.run("document.querySelector('#gone').hidden"))
        canned.status = 503
        self.page.wait("/shutting down/.test(document.querySelector('#gone').innerText)")
        canned.status = 500
        self.page.wait("/status 500/.test(document.querySelector('#gone').innerText)")

    def test_layouts(self):
        """Nothing sticks out on any width; screenshots of each."""
        self.open(numbers(model="a-very-long-model-name/" + "x" * 80))
        for width, dark in ((320, False), (390, True), (768, False), (900, True), (1440, False), (1440, True),
                            (2560, False)):
            self.page.look(width, 1000, dark)
            self.page.wait(f"charts[0].svg.getAttribute('viewBox') === `0 0 ${{charts[0].svg.clientWidth}} 180`")
            self.assertLessEqual(self.page.run("document.documentElement.scrollWidth"), width)
            out = self.page.run("""(right => [...document.querySelectorAll('.box *:not(svg *)')].filter(e =>
                e.offsetParent && right(e) > right(e.closest('.box')) + 1).map(e => e.outerHTML)
                )(e => e.getBoundingClientRect().right)""")
            self.assertEqual(out, [], width)
            self.page.screenshot(SHOTS / f"dashboard-{width}-{'dark' if dark else 'light'}.png")

    def test_contrast(self):
        """WCAG AA: text has 4.5 : 1 at least, in both colour schemes."""
        self.open(numbers())
        for dark in (False, True):
            self.page.look(1440, 1000, dark)
            worst = self.page.run("""(() => {
                const light = c => { const [r, g, b] = c.match(/[\\d.]+/g).map(v => (v /= 255) <= 0.03928 ? v / 12.92 :
                  ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
                const of = (selector, what) => light(getComputedStyle(document.querySelector(selector))[what]);
                const box = of('.box', 'backgroundColor'), page = of('body', 'backgroundColor');
                const pairs = [[of('.value', 'color'), box], [of('.note', 'color'), box], [of('.one', 'color'), box],
                  [of('.two', 'color'), box], [of('svg text', 'fill'), box], [of('#about', 'color'), page],
                  [of('#state', 'color'), page],
                  [of('[aria-pressed=true]', 'color'), of('[aria-pressed=true]', 'backgroundColor')]];
                return Math.min(...pairs.map(([a, b]) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05))); })()""")
            self.assertGreaterEqual(worst, 4.5)


class Live(Served):
    """The page of a real server whose numbers must be those of /metrics."""

    STREAMS = 8

    @contextlib.contextmanager
    def load(self):
        """Completions all the time, STREAMS at once; in the end self.requests is how many there were."""
        enough, numbers = threading.Event(), itertools.count()

        def client():
            done = 0
            while not enough.is_set():
                i = next(numbers)
                self.server.post("/v1/completions", model=self.model, prompt="To be, or not to be " * (1 + i % 8),
                                 max_tokens=200 + 7 * (i % 5), seed=i, ignore_eos=True)
                done += 1
            return done

        with concurrent.futures.ThreadPoolExecutor(self.STREAMS) as pool:
            clients = [pool.submit(client) for _ in range(self.STREAMS)]
            try:
                yield
            finally:
                enough.set()
        self.requests = sum(one.result() for one in clients)

    def check_totals(self, page):
        """The table shows what /metrics shows."""
        metrics = self.server.metrics()
        for name, metric in (("Prompt tokens", "vllm:prompt_tokens_total"), ("Steps", "blade:engine_steps_total"),
                             ("Prefix cache", "vllm:prefix_cache_hits_total"),
                             ("Generated tokens", "vllm:generation_tokens_total")):
            row = next(row for row in page.text("#totals").splitlines() if row.startswith(name))
            self.assertEqual(float(row.split("\t")[-1].replace(",", "")), metrics[metric], name)
            self.assertGreater(metrics[metric], 0, name)
        self.assertIn(f"\t{self.requests:,}\t100 %", page.text("#finished"))

    def test_under_load(self):
        self.model = json.loads(self.server.request("GET", "/v1/models")[2])["data"][0]["id"]
        with Browser() as page:
            page.open(self.server.url + "/dashboard")
            page.wait(LIVE)
            page.run("document.querySelector('[data-range=\"60\"]').click()")
            with self.load():
                page.wait("+document.querySelector('#running').innerText > 0")
                page.wait("parseFloat(document.querySelector('#generated').innerText) > 0")
                page.wait("parseFloat(document.querySelector('#kv').innerText) > 0")
                page.wait("/s p50/.test(document.querySelector('#ttft').innerText)")
                page.wait("/s p50/.test(document.querySelector('#itl').innerText)")
                page.wait("columns.running.filter(n => n > 0).length > 10")
                page.screenshot(SHOTS / "dashboard-live-light.png")
                page.look(1440, 1000, dark=True)
                page.screenshot(SHOTS / "dashboard-live-dark.png")
            self.server.wait_idle()
            page.wait("document.querySelector('#running').innerText === '0'")
            page.wait("document.querySelector('#kv').innerText === '0 %'")
            page.wait("document.querySelector('#generated').innerText.startsWith('0 ')")
            self.check_totals(page)
            top = page.run("Math.max(...columns.running)")
            self.assertTrue(1 <= top <= self.STREAMS, top)
            self.assertEqual(page.complaints, [])

    def test_with_a_key(self):
        """The page comes without a key, its numbers don't."""
        server = Server(pathlib.Path(self.folder.name) / "demo", "--api-key", "s3cret")
        self.addCleanup(server.log.close)
        self.addCleanup(server.stop)
        self.assertEqual([server.request("GET", path)[0] for path in ("/dashboard", "/dashboard/data", "/metrics")],
                         [200, 401, 401])
        with Browser() as page:
            page.open(server.url + "/dashboard")
            page.wait("document.activeElement.id === 'key'")
            page.type("s3cret")
            page.wait(f"{LIVE} && columns.t.length > 2")
            self.assertEqual(page.text("#running"), "0")


if __name__ == "__main__":
    if not CHROMIUM:
        print("skipped: no Chromium (package chromium; scripts/setup.sh --test)")
        sys.exit(77)
    common.main()
