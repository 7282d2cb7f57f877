"""An OpenAI-compatible server with known delays and known faults, for tests of `blade load`. Standard library only.

Behaviour is chosen by the model's name, words separated by commas: "first=30" and "gap=5" are milliseconds before the
first token and between tokens, "slots=4" the streams admitted at once, "fault=NAME" what goes wrong in every fifth
stream; the others are looked up in `Handler`. Tokens are counted so that nobody gets them right by chance: a word of a
text is one token for every three letters, a chat adds 7.
"""
import http.server
import json
import socket
import socketserver
import struct
import threading
import time


def count_tokens(text):
    return sum((len(word) + 2) // 3 for word in text.split())


class Behaviour:
    """What a model's name asks for."""

    def __init__(self, name):
        self.words = dict(w.split("=", 1) if "=" in w else (w, "1") for w in name.split(","))

    def seconds(self, key, default):
        return float(self.words.get(key, default)) / 1e3

    def __contains__(self, key):
        return key in self.words

    def number(self, key):
        return int(self.words.get(key, 0))


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    # ---- answers

    def reply(self, status, value, headers=()):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, text in headers:
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(body)

    def chunk(self, data):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def event(self, value):
        """One event, in the form that the behaviour asks for."""
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        if "crlf" in self.how:
            data = f": note\r\nevent: message\r\ndata:{text}\r\n\r\n".encode()
        elif "cr" in self.how:
            data = f"data: {text}\r\r".encode()
        else:
            data = f"data: {text}\n\n".encode()
        if "bytes" in self.how:  # every byte in a packet of its own, also within characters and line ends
            for i in range(len(data)):
                self.chunk(data[i:i + 1])
        else:
            self.chunk(data)

    def drop(self):
        """Ends the connection with a reset."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()
        raise ConnectionAbortedError

    # ---- routes

    def do_GET(self):
        if self.path == "/v1/models":
            if self.server.model is None:
                return self.reply(404, {"detail": "Not Found"})
            return self.reply(200, {"data": [{"id": self.server.model}]})
        self.reply(404, {"detail": "Not Found"})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.how = Behaviour(body["model"])
        self.server.remember(self.path, body, dict(self.headers))
        try:
            if self.path == "/tokenize" and "tokenize" in self.how:
                self.tokenize(body)
            elif self.path in ("/v1/completions", "/v1/chat/completions"):
                self.complete(body)
            else:
                self.reply(404, {"detail": "Not Found"})
        except (BrokenPipeError, ConnectionResetError, ConnectionAbortedError):
            self.close_connection = True

    def tokenize(self, body):
        if "messages" in body:
            count = 7 + sum(count_tokens(m["content"]) for m in body["messages"])
        else:
            count = count_tokens(body["prompt"]) + (1 if body.get("add_special_tokens", True) else 0)
        self.reply(200, {"count": count, "tokens": list(range(100, 100 + count)), "max_model_len": 4096})

    def prompt_tokens(self, body):
        if "messages" in body:
            return 7 + sum(count_tokens(m["content"]) for m in body["messages"])
        prompt = body["prompt"]
        return len(prompt) if isinstance(prompt, list) else count_tokens(prompt) + 1

    def complete(self, body):
        key = self.headers.get("Authorization")
        if "key" in self.how and key != "Bearer secret":
            return self.reply(401, {"error": {"message": "wrong key", "code": 401}})
        if isinstance(body.get("prompt"), list) and "noids" in self.how:
            return self.reply(400, {"error": {"message": "prompt must be text"}})
        if body.get("stream"):
            with self.server.slot(self.how) as admitted:
                streamed = self.stream(body) if admitted else self.refuse()
            if streamed:  # the slot is free before the client can know
                self.chunk(b"")
            return
        usage = {"prompt_tokens": self.prompt_tokens(body), "completion_tokens": 1}
        self.reply(200, {"choices": [{"text": "x", "finish_reason": "length"}],
                         **({} if "nousage" in self.how else {"usage": usage})})

    def refuse(self):
        status = 503 if "status503" in self.how else 429
        headers = [] if "noretry" in self.how else [("Retry-After", "7")]
        self.reply(status, {"error": {"message": "too many requests", "code": status}}, headers)

    def choice(self, text, finish=None, role=None):
        if not self.chat:
            return {"choices": [{"index": 0, "text": text or "", "finish_reason": finish}], "usage": None}
        delta = {"role": role, "content": ""} if role else {"content": text} if text is not None else {}
        return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}

    def stream(self, body):
        """True: all is sent but the end of the chunked transfer."""
        how, n, fault = self.how, body["max_tokens"], self.server.fault(self.how)
        self.chat = "messages" in body
        if fault == "http500":
            return self.reply(500, {"error": {"message": "it broke", "code": 500}})
        if fault == "close":
            self.drop()
        if fault == "json":
            return self.reply(200, {"choices": [{"text": "no stream"}]})
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if self.chat:
            self.event(self.choice(None, role="assistant"))
        time.sleep(how.seconds("first", 0))
        for i in range(n):
            if i:
                time.sleep(how.seconds("gap", 0))
            if i == n // 2 and fault == "halfway":
                self.drop()
            if i == n // 2 and fault == "event":
                self.event({"error": {"message": "out of memory", "code": 500}})
                break
            if i == n // 2 and fault == "cut":
                return True
            if i == n // 2 and fault == "hang":
                time.sleep(30)
            self.event(self.choice("zwölf "))
        if fault != "event":
            self.event(self.choice(None, finish="length"))
        if not ("nousage" in how or "quiet" in how) and (body.get("stream_options") or {}).get("include_usage"):
            self.event({"choices": [], "usage": {"prompt_tokens": self.prompt_tokens(body), "completion_tokens": n}})
        self.event("[DONE]")
        return True


class Slot:
    def __init__(self, server, admitted):
        self.server, self.admitted = server, admitted

    def __enter__(self):
        return self.admitted

    def __exit__(self, *_):
        with self.server.lock:
            self.server.running -= 1


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """`model` is what /v1/models lists; None: the route is missing. `requests` keeps what came in. With `tls`, an
    ssl.SSLContext, it speaks https."""
    daemon_threads = True
    request_queue_size = 512

    def __init__(self, model, tls=None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.tls = tls
        self.model, self.lock, self.requests = model, threading.Lock(), []
        self.running = self.peak = self.streams = 0
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self):
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.server_port}"

    def get_request(self):
        connection, address = super().get_request()
        if self.tls:
            connection = self.tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def handle_error(self, *_):
        pass

    def remember(self, path, body, headers):
        with self.lock:
            self.requests.append((path, body, headers))

    def slot(self, how):
        """Admits at most "slots=N" streams at once."""
        with self.lock:
            self.running += 1
            self.peak = max(self.peak, self.running)
            limit = how.number("slots")
            return Slot(self, not limit or self.running <= limit)

    def fault(self, how):
        """Every fifth stream has the fault "fault=NAME"; the first one, which checks the server, never has."""
        with self.lock:
            self.streams += 1
            return how.words.get("fault") if self.streams % 5 == 0 else None

    def stop(self):
        self.shutdown()
        self.server_close()
