"""`blade serve` as the openai package, curl and an SSE parser see it: text, streams, log-probabilities, errors."""
import asyncio
import base64
import http.client
import json
import math
import shutil
import signal
import struct
import subprocess
import threading
import time
import unittest

from common import in_venv, main
from serving import Case, Served, Server, demo_copy

in_venv()
import openai  # noqa: E402
import sseclient  # noqa: E402

PROMPTS = ["To be, or not to be", "ROMEO:\nBut soft", "KING RICHARD III:\nA horse", "First Citizen:\n", "JULIET:\nO ",
           "What light", "Now is the winter", "Friends, Romans"]


def messages(text):
    return [{"role": "user", "content": text}]


def first(answer):
    return answer.choices[0]


def deltas(chunks):
    """Text of all chunks put together."""
    return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)


class OpenAI(Served):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        options = {"base_url": cls.server.url + "/v1", "api_key": "none", "max_retries": 0, "timeout": 120}
        cls.client = openai.OpenAI(**options)
        cls.asynchronous = lambda self: openai.AsyncOpenAI(**options)
        cls.model = cls.client.models.list().data[0].id

    @classmethod
    def tearDownClass(cls):
        cls.client.close()
        super().tearDownClass()

    def chat(self, text=PROMPTS[0], **options):
        options = {"max_tokens": 24, "temperature": 0, **options}
        return self.client.chat.completions.create(model=self.model, messages=messages(text), **options)

    def complete(self, prompt=PROMPTS[0], **options):
        options = {"max_tokens": 24, "temperature": 0, **options}
        return self.client.completions.create(model=self.model, prompt=prompt, **options)

    def tokens(self, text, special=True):
        return self.server.post("/tokenize", prompt=text, add_special_tokens=special)["tokens"]


class Text(OpenAI):
    def test_models(self):
        listed = self.client.models.list().data
        self.assertEqual([m.id for m in listed], [self.model])
        self.assertEqual(listed[0].object, "model")
        self.assertEqual(self.client.models.retrieve(self.model).id, self.model)
        with self.assertRaises(openai.NotFoundError) as e:
            self.client.models.retrieve("nothing")
        self.assertEqual(e.exception.code, "model_not_found")

    def test_chat_whole(self):
        answer = self.chat()
        self.assertEqual(answer.object, "chat.completion")
        self.assertTrue(answer.id.startswith("chatcmpl-"))
        self.assertEqual(answer.model, self.model)
        self.assertLess(abs(answer.created - time.time()), 60)
        self.assertEqual(first(answer).message.role, "assistant")
        self.assertTrue(first(answer).message.content)
        self.assertEqual((first(answer).finish_reason, first(answer).index), ("length", 0))
        rendered = self.server.post("/tokenize", messages=messages(PROMPTS[0]))["tokens"]
        self.assertEqual(answer.usage.prompt_tokens, len(rendered))
        self.assertEqual(answer.usage.completion_tokens, 24)
        self.assertEqual(answer.usage.total_tokens, len(rendered) + 24)

    def test_chat_is_completion_of_the_rendered_prompt(self):
        rendered = self.server.post("/tokenize", messages=messages(PROMPTS[1]))["tokens"]
        text = self.server.post("/detokenize", tokens=rendered)["prompt"]
        self.assertEqual(text, f"USER:\n{PROMPTS[1]}\n\nASSISTANT:\n")
        self.assertEqual(first(self.chat(PROMPTS[1])).message.content, first(self.complete(rendered)).text)

    def test_chat_stream_equals_whole(self):
        for options in ({}, {"temperature": 1, "seed": 5}, {"temperature": 0.8, "seed": 6, "stop": ["\n\n", "the"]}):
            whole = self.chat(**options)
            chunks = list(self.chat(stream=True, stream_options={"include_usage": True}, **options))
            self.assertEqual(deltas(chunks), first(whole).message.content)
            self.assertEqual(chunks[0].choices[0].delta.role, "assistant")
            self.assertEqual({(c.id, c.object, c.model) for c in chunks},
                             {(chunks[0].id, "chat.completion.chunk", self.model)})
            reasons = [c.choices[0].finish_reason for c in chunks[:-1]]
            self.assertEqual(reasons[-1], first(whole).finish_reason)
            self.assertEqual(set(reasons[:-1]), {None})
            self.assertTrue(all(c.usage is None for c in chunks[:-1]))
            self.assertEqual(chunks[-1].choices, [])
            self.assertEqual((chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens),
                             (whole.usage.prompt_tokens, whole.usage.completion_tokens))

    def test_stream_comes_piece_by_piece(self):
        """Tokens that are there at the same moment may share a chunk."""
        chunks = list(self.complete(stream=True, max_tokens=3000, extra_body={"ignore_eos": True}))
        self.assertGreater(len([c for c in chunks if c.choices[0].text]), 100)
        self.assertTrue(all(c.usage is None for c in chunks))

    def test_completion_stream_equals_whole(self):
        for options in ({}, {"temperature": 1, "seed": 5}, {"echo": True}):
            whole = self.complete(**options)
            chunks = list(self.complete(stream=True, stream_options={"include_usage": True}, **options))
            self.assertEqual(whole.object, "text_completion")
            self.assertTrue(whole.id.startswith("cmpl-"))
            self.assertEqual("".join(c.choices[0].text for c in chunks[:-1]), first(whole).text)
            self.assertEqual(chunks[-2].choices[0].finish_reason, "length")
            self.assertEqual(chunks[-1].usage.completion_tokens, 24)
            self.assertEqual(first(whole).text.startswith(PROMPTS[0]), "echo" in options)

    def test_async_streams_at_once_equal_single_requests(self):
        alone = [first(self.chat(p, temperature=1, seed=i, max_tokens=60)).message.content
                 for i, p in enumerate(PROMPTS)]

        async def one(client, i, prompt):
            stream = await client.chat.completions.create(model=self.model, messages=messages(prompt), temperature=1,
                                                          seed=i, max_tokens=60, stream=True)
            return deltas([c async for c in stream])

        async def all_at_once():
            async with self.asynchronous() as client:
                return await asyncio.gather(*(one(client, i, p) for i, p in enumerate(PROMPTS)))

        self.assertEqual(asyncio.run(all_at_once()), alone)

    def test_async_whole(self):
        async def run():
            async with self.asynchronous() as client:
                return await asyncio.gather(*(client.completions.create(
                    model=self.model, prompt=p, temperature=0, max_tokens=16) for p in PROMPTS))

        alone = [first(self.complete(p, max_tokens=16)).text for p in PROMPTS]
        self.assertEqual([first(a).text for a in asyncio.run(run())], alone)

    def test_several_prompts(self):
        answer = self.complete(PROMPTS[:3], n=2, temperature=1, seed=3)
        self.assertEqual([c.index for c in answer.choices], list(range(6)))
        for i, prompt in enumerate(PROMPTS[:3]):
            alone = self.complete(prompt, n=2, temperature=1, seed=3)
            self.assertEqual([c.text for c in answer.choices[2 * i:2 * i + 2]], [c.text for c in alone.choices])
        ids, texts = (self.complete(x) for x in ([self.tokens(p) for p in PROMPTS[:3]], PROMPTS[:3]))
        self.assertEqual([c.text for c in ids.choices], [c.text for c in texts.choices])

    def test_defaults(self):
        self.assertEqual(self.complete(max_tokens=openai.omit).usage.completion_tokens, 16)
        answer = self.client.chat.completions.create(model=self.model, messages=messages("x"), max_completion_tokens=5)
        self.assertEqual(answer.usage.completion_tokens, 5)

    def test_tokenize(self):
        text = "To be, or not to be \u00e9\U0001f389"
        for special in (True, False):
            tokens = self.tokens(text, special)
            self.assertEqual(self.server.post("/detokenize", tokens=tokens[special:])["prompt"], text)
        self.assertEqual(len(self.tokens(text)), len(self.tokens(text, False)) + 1)

    def test_version(self):
        status, _, body = self.server.request("GET", "/version")
        self.assertEqual(status, 200)
        self.assertRegex(json.loads(body)["version"], r"^\d+\.\d+")


class Sampling(OpenAI):
    def test_choices(self):
        one = self.chat(n=4, temperature=1, seed=11)
        again = self.chat(n=4, temperature=1, seed=11)
        texts = [c.message.content for c in one.choices]
        self.assertEqual([c.index for c in one.choices], [0, 1, 2, 3])
        self.assertEqual(texts, [c.message.content for c in again.choices])
        self.assertGreater(len(set(texts)), 1)
        for i, text in enumerate(texts):
            self.assertEqual(first(self.chat(temperature=1, seed=11 + i)).message.content, text)
        self.assertEqual(one.usage.completion_tokens, 4 * 24)
        streamed = [""] * 4
        for chunk in self.chat(n=4, temperature=1, seed=11, stream=True):
            for choice in chunk.choices:
                streamed[choice.index] += choice.delta.content or ""
        self.assertEqual(streamed, texts)

    def test_without_seed_answers_differ(self):
        answers = {first(self.chat(temperature=1.5)).message.content for _ in range(4)}
        self.assertGreater(len(answers), 1)

    def test_stop_strings(self):
        text = first(self.complete(max_tokens=60)).text
        stop = text[20:24]
        cut = first(self.complete(max_tokens=60, stop=["never seen", stop]))
        self.assertEqual(cut.text, text[:text.index(stop)])
        self.assertEqual((cut.finish_reason, cut.stop_reason), ("stop", stop))
        kept = first(self.complete(max_tokens=60, stop=stop, extra_body={"include_stop_str_in_output": True}))
        self.assertEqual(kept.text, cut.text + stop)
        streamed = self.complete(max_tokens=60, stop=stop, stream=True)
        self.assertEqual("".join(c.choices[0].text for c in streamed), cut.text)

    def test_stop_token(self):
        tokens = first(self.complete(extra_body={"return_token_ids": True})).token_ids
        cut = self.complete(extra_body={"stop_token_ids": [tokens[9]], "return_token_ids": True})
        length = tokens.index(tokens[9]) + 1
        self.assertEqual((first(cut).finish_reason, first(cut).stop_reason), ("stop", tokens[9]))
        self.assertEqual(first(cut).token_ids, tokens[:length])
        self.assertEqual(cut.usage.completion_tokens, length)

    def test_logit_bias(self):
        token = self.tokens(" king", False)[0]
        forced = first(self.complete(logit_bias={str(token): 100}, extra_body={"return_token_ids": True}))
        self.assertEqual(forced.token_ids, [token] * 24)
        allowed = self.tokens("abc", False)
        answer = first(self.complete(temperature=1, extra_body={"allowed_token_ids": allowed,
                                                                "return_token_ids": True}))
        self.assertLessEqual(set(answer.token_ids), set(allowed))

    def test_bad_words(self):
        text = first(self.complete(max_tokens=60)).text
        word = max(text.replace("\n", " ").split(), key=len)
        self.assertNotIn(" " + word, first(self.complete(max_tokens=60, extra_body={"bad_words": [word]})).text)

    def test_limits_of_length(self):
        answer = self.complete(extra_body={"min_tokens": 20, "ignore_eos": True}, max_tokens=30)
        self.assertEqual(answer.usage.completion_tokens, 30)
        cut = self.complete(PROMPTS[0] * 50, extra_body={"truncate_prompt_tokens": 7})
        self.assertEqual(cut.usage.prompt_tokens, 7)


class Logprobs(OpenAI):
    def check(self, entries):
        for e in entries:
            self.assertLessEqual(sum(math.exp(t.logprob) for t in e.top_logprobs), 1 + 1e-5)
            self.assertEqual(len(e.top_logprobs), 5)
            listed = [t.logprob for t in e.top_logprobs]
            self.assertEqual(listed, sorted(listed, reverse=True))
            self.assertEqual(bytes(e.bytes).decode("utf-8", "replace"), e.token)
            listed = [t for t in e.top_logprobs if t.bytes == e.bytes]
            if listed:
                self.assertEqual(listed[0].logprob, e.logprob)
            else:
                self.assertLess(e.logprob, e.top_logprobs[-1].logprob + 1e-6)

    def test_chat(self):
        for options in ({}, {"temperature": 1, "seed": 3}):
            whole = first(self.chat(logprobs=True, top_logprobs=5, **options))
            self.check(whole.logprobs.content)
            self.assertEqual(b"".join(bytes(e.bytes) for e in whole.logprobs.content).decode(), whole.message.content)
            if not options:
                for e in whole.logprobs.content:
                    self.assertEqual(e.token, e.top_logprobs[0].token)
            chunks = self.chat(logprobs=True, top_logprobs=5, stream=True, **options)
            streamed = [e for c in chunks if c.choices[0].logprobs for e in c.choices[0].logprobs.content]
            self.assertEqual(streamed, whole.logprobs.content)

    def test_chat_without_top(self):
        entries = first(self.chat(logprobs=True)).logprobs.content
        self.assertEqual(len(entries), 24)
        self.assertTrue(all(e.top_logprobs == [] for e in entries))

    def test_completion(self):
        whole = first(self.complete(logprobs=3))
        lp = whole.logprobs
        self.assertEqual("".join(lp.tokens), whole.text)
        self.assertEqual([len(x) for x in (lp.tokens, lp.token_logprobs, lp.top_logprobs, lp.text_offset)], [24] * 4)
        for token, logprob, top, offset in zip(lp.tokens, lp.token_logprobs, lp.top_logprobs, lp.text_offset):
            self.assertEqual(whole.text[offset:offset + len(token)], token)
            self.assertEqual(top[token], logprob)
            self.assertLessEqual(sum(map(math.exp, top.values())), 1 + 1e-5)
        streamed = [c.choices[0].logprobs for c in self.complete(logprobs=3, stream=True) if c.choices[0].logprobs]
        for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
            self.assertEqual([x for c in streamed for x in getattr(c, name)], getattr(lp, name), name)

    def test_echo(self):
        prompt = self.tokens(PROMPTS[0])
        scored = first(self.complete(prompt, echo=True, logprobs=2, max_tokens=4))
        alone = first(self.complete(prompt, logprobs=2, max_tokens=4))
        self.assertEqual(len(scored.logprobs.tokens), len(prompt) + 4)
        self.assertIsNone(scored.logprobs.token_logprobs[0])
        self.assertTrue(all(x <= 0 for x in scored.logprobs.token_logprobs[1:]))
        self.assertEqual(scored.logprobs.tokens[-4:], alone.logprobs.tokens)
        self.assertEqual(scored.logprobs.token_logprobs[-4:], alone.logprobs.token_logprobs)
        self.assertTrue(scored.text.endswith(PROMPTS[0] + alone.text))

    def test_prompt_logprobs(self):
        """A generated text scored as a prompt has the log-probabilities that it was generated with."""
        prompt = self.tokens(PROMPTS[0])
        written = first(self.complete(prompt, logprobs=0, extra_body={"return_token_ids": True}))
        scored = first(self.complete(prompt + written.token_ids, max_tokens=1, extra_body={"prompt_logprobs": 2}))
        self.assertIsNone(scored.prompt_logprobs[0])
        for token, logprob, entry in zip(written.token_ids, written.logprobs.token_logprobs,
                                         scored.prompt_logprobs[len(prompt):]):
            self.assertEqual(entry[str(token)]["logprob"], logprob)
            self.assertEqual(entry[str(token)]["rank"], 1)
            self.assertEqual(len(entry), 2)


class Cache(OpenAI):
    def test_cached_tokens(self):
        prompt = self.tokens(" ".join(PROMPTS) * 6)
        one, two = (self.complete(prompt, extra_body={"cache_salt": "a"}) for _ in range(2))
        self.assertEqual(one.usage.prompt_tokens, len(prompt))
        self.assertEqual(one.usage.prompt_tokens_details.cached_tokens if one.usage.prompt_tokens_details else 0, 0)
        cached = two.usage.prompt_tokens_details.cached_tokens
        self.assertGreater(cached, len(prompt) - 65)
        self.assertLess(cached, len(prompt))
        self.assertEqual(first(one).text, first(two).text)
        other = self.complete(prompt, extra_body={"cache_salt": "b"})
        self.assertEqual(other.usage.prompt_tokens_details.cached_tokens if other.usage.prompt_tokens_details else 0, 0)
        self.assertEqual(first(other).text, first(one).text)


class Cancel(OpenAI):
    args = ("--threads", 1)

    def test_closed_stream(self):
        before = self.server.metrics()
        streams = [self.complete(p, stream=True, max_tokens=7000, n=2, temperature=1, extra_body={"ignore_eos": True})
                   for p in PROMPTS[:3]]
        for stream in streams:
            for _ in range(3):
                next(stream)
        running = self.server.metrics()
        self.assertGreater(running["vllm:num_requests_running"], 0)
        self.assertGreater(running["vllm:kv_cache_usage_perc"], 0)
        for stream in streams:
            stream.close()
        self.server.wait_idle()
        generated = self.server.metrics()["vllm:generation_tokens_total"] - before["vllm:generation_tokens_total"]
        print(f"{generated:.0f} of 42000 tokens before the streams were closed")
        self.assertLess(generated, 41000)

    def test_cancelled_task(self):
        async def run():
            async with self.asynchronous() as client:
                task = asyncio.create_task(client.completions.create(
                    model=self.model, prompt="x", max_tokens=7000, n=8, temperature=1, extra_body={"ignore_eos": True}))
                await asyncio.to_thread(self.server.wait_for, "a running request",
                                        lambda m: m["vllm:num_requests_running"] > 0)
                task.cancel()
                with self.assertRaises(asyncio.CancelledError):
                    await task

        asyncio.run(run())
        self.server.wait_idle()


class Embeddings(OpenAI):
    def create(self, texts, **options):
        return self.client.embeddings.create(model=self.model, input=texts, **options)

    def test_formats(self):
        numbers = self.create(PROMPTS[:3], encoding_format="float")
        self.assertEqual([d.index for d in numbers.data], [0, 1, 2])
        self.assertEqual(numbers.usage.prompt_tokens, sum(len(self.tokens(p)) for p in PROMPTS[:3]))
        usual = self.create(PROMPTS[:3])  # the client asks for base64 and decodes it
        raw = self.create(PROMPTS[0], encoding_format="base64").data[0].embedding
        self.assertEqual(len(base64.b64decode(raw)), 4 * 256)
        unpacked = struct.unpack("<256f", base64.b64decode(raw))
        for a, b in zip(numbers.data, usual.data):
            self.assertEqual(len(a.embedding), 256)
            self.assertAlmostEqual(math.fsum(x * x for x in a.embedding), 1, places=5)
            for x, y in zip(a.embedding, b.embedding):
                self.assertAlmostEqual(x, y, places=6)
        for x, y in zip(unpacked, numbers.data[0].embedding):
            self.assertAlmostEqual(x, y, places=6)

    def test_poolings(self):
        def pooled(what):
            return [self.create(what, extra_body={"pooling": p}, encoding_format="float").data[0].embedding
                    for p in ("last", "mean")]

        self.assertNotEqual(*pooled(PROMPTS))
        self.assertEqual(*pooled([self.tokens(PROMPTS[0])[:1]]))

    def test_batch_equals_single(self):
        together = self.create(PROMPTS, encoding_format="float")
        for text, d in zip(PROMPTS, together.data):
            self.assertEqual(self.create(text, encoding_format="float").data[0].embedding, d.embedding)

    def test_dimensions(self):
        whole = self.create("x", encoding_format="float").data[0].embedding
        cut = self.create("x", encoding_format="float", dimensions=16).data[0].embedding
        length = math.sqrt(sum(x * x for x in whole[:16]))
        self.assertEqual(len(cut), 16)
        for x, y in zip(whole, cut):
            self.assertAlmostEqual(x / length, y, places=5)


class Errors(OpenAI):
    def refused(self, param, make, kind=openai.BadRequestError):
        with self.assertRaises(kind, msg=param) as e:
            make()
        self.assertTrue(e.exception.body["message"])
        self.assertEqual(e.exception.param, param, e.exception.body)
        return e.exception

    def test_fields(self):
        for param, options in (
                ("temperature", {"temperature": -1}), ("top_p", {"top_p": 0}), ("n", {"n": 0}), ("n", {"n": 100000}),
                ("max_tokens", {"max_tokens": -5}), ("max_tokens", {"max_tokens": 10 ** 30}), ("stop", {"stop": [""]}),
                ("stop", {"stop": ["a"] * 100}), ("seed", {"seed": 2 ** 80}),
                ("presence_penalty", {"presence_penalty": 9}),
                ("top_logprobs", {"logprobs": True, "top_logprobs": 21}), ("logit_bias", {"logit_bias": {"x": 1}}),
                ("response_format", {"response_format": {"type": "json_object"}}),
                ("tool_choice", {"tool_choice": "required", "tools": [{"type": "function",
                                                                       "function": {"name": "f"}}]}),
                ("min_tokens", {"extra_body": {"min_tokens": -1}}), ("nonsense", {"extra_body": {"nonsense": 1}}),
                ("top_k", {"extra_body": {"top_k": "x"}})):
            with self.subTest(param, **options):
                refusal = self.refused(param, lambda: self.chat(**options))
                self.assertIn(param, refusal.body["message"])

    def test_messages(self):
        create = self.client.chat.completions.create
        self.refused("messages", lambda: create(model=self.model, messages=[]))
        self.refused("messages[0].role", lambda: create(model=self.model, messages=[{"role": "x", "content": "y"}]))
        image = [{"type": "image_url", "image_url": {"url": "http://x"}}]
        self.refused("messages[0].content[0].type",
                     lambda: create(model=self.model, messages=[{"role": "user", "content": image}]))

    def test_context_length(self):
        e = self.refused("messages", lambda: self.chat("word " * 9000))
        self.assertEqual(e.code, "context_length_exceeded")
        self.assertIn("8192", e.body["message"])

    def test_model(self):
        make = lambda: self.client.completions.create(model="gpt-5", prompt="x")
        e = self.refused("model", make, openai.NotFoundError)
        self.assertEqual(e.code, "model_not_found")

    def test_not_json(self):
        for body in (b"", b"{", b"[]", b'{"a": NaN}', b"\xff\xfe"):
            status, _, answer = self.server.request("POST", "/v1/chat/completions", body)
            self.assertEqual(status, 400, body)
            self.assertEqual(json.loads(answer)["error"]["type"], "invalid_request_error")
        self.assertEqual(self.server.request("GET", "/v1/chat/completions")[0], 405)
        self.assertEqual(self.server.request("GET", "/nothing")[0], 404)


class Streams(OpenAI):
    """Server-sent events through clients that are not OpenAI's."""

    body = {"prompt": "ROMEO:", "max_tokens": 6000, "temperature": 1, "seed": 4, "stream": True, "ignore_eos": True}

    @unittest.skipUnless(shutil.which("curl"), "curl is not installed")
    def test_curl_shows_chunks_as_they_come(self):
        command = ["curl", "--silent", "--show-error", "--no-buffer", "--include", "--data", json.dumps(self.body),
                   self.server.url + "/v1/completions"]
        begin = time.monotonic()
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            lines = [(time.monotonic() - begin, line) for line in process.stdout]
        self.assertEqual(process.returncode, 0)
        self.assertIn(b"200 OK", lines[0][1])
        self.assertIn(b"content-type: text/event-stream", b"".join(line for _, line in lines[:20]).lower())
        events = [(t, line) for t, line in lines if line.startswith(b"data: ")]
        self.assertEqual(events[-1][1].strip(), b"data: [DONE]")
        self.assertGreater(len(events), 500)
        print(f"first of {len(events)} events after {events[0][0]:.3f} s, last after {events[-1][0]:.3f} s")
        self.assertLess(events[0][0], events[-1][0] / 3)

    def test_sse_parser(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        connection.request("POST", "/v1/completions", json.dumps({**self.body, "max_tokens": 300}),
                           {"Content-Type": "application/json"})
        answer = connection.getresponse()
        events = list(sseclient.SSEClient(answer).events())
        connection.close()
        self.assertEqual(events[-1].data, "[DONE]")
        self.assertEqual({e.event for e in events}, {"message"})
        text = "".join(json.loads(e.data)["choices"][0]["text"] for e in events[:-1])
        whole = self.server.post("/v1/completions", **{**self.body, "max_tokens": 300, "stream": False})
        self.assertEqual(text, whole["choices"][0]["text"])


class Keys(Served):
    args = ("--api-key", "first-key", "--api-key", "s3cret", "--served-model-name", "one", "--served-model-name", "two")

    def test_keys_and_names(self):
        client = lambda key: openai.OpenAI(base_url=self.server.url + "/v1", api_key=key, max_retries=0)
        for key in ("s3cre", "s3cret2", "S3cret", "x"):
            with self.assertRaises(openai.AuthenticationError):
                client(key).models.list()
        self.assertEqual([m.id for m in client("s3cret").models.list().data], ["one", "two"])
        for name in ("one", "two"):
            answer = client("first-key").completions.create(model=name, prompt="x", max_tokens=2)
            self.assertEqual(answer.model, name)
        with self.assertRaises(openai.NotFoundError):
            client("s3cret").completions.create(model="three", prompt="x")
        self.assertEqual(self.server.request("GET", "/health")[0], 200)
        for path in ("/metrics", "/v1/models", "/nothing", "/version"):
            self.assertEqual(self.server.request("GET", path)[0], 401, path)

    @classmethod
    def tearDownClass(cls):
        if cls.server.stop():
            raise AssertionError(cls.server.output()[-4000:])


class Overload(OpenAI):
    args = ("--max-num-seqs", 1, "--max-queued-requests", 1)

    def test_refused_while_the_queue_is_full(self):
        options = {"max_tokens": 4000, "temperature": 0, "extra_body": {"ignore_eos": True}}
        results = []

        def wait():
            results.append(self.complete(**options).usage.completion_tokens)

        running = threading.Thread(target=wait)
        running.start()
        self.server.wait_for("a running request", lambda m: m["vllm:num_requests_running"] == 1)
        waiting = threading.Thread(target=wait)
        waiting.start()
        self.server.wait_for("a waiting request", lambda m: m["vllm:num_requests_waiting"] == 1)
        for stream in (False, True):
            with self.assertRaises(openai.RateLimitError) as e:
                self.complete(stream=stream, **options)
            self.assertGreaterEqual(int(e.exception.response.headers["Retry-After"]), 1)
        running.join()
        waiting.join()
        self.assertEqual(results, [4000, 4000])
        self.assertEqual(self.complete(max_tokens=3).usage.completion_tokens, 3)


class Shutdown(Case):
    def test_running_streams_are_finished(self):
        server = Server(demo_copy(self.temporary() / "demo", 8192), "--threads", 1)
        self.addCleanup(server.kill)
        client = openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)
        ask = lambda **o: client.completions.create(model="demo", prompt="ROMEO:", temperature=0, max_tokens=5000,
                                                    extra_body={"ignore_eos": True}, **o)
        whole = first(ask()).text
        stream = ask(stream=True, stream_options={"include_usage": True})
        text = next(stream).choices[0].text
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        with self.assertRaises((openai.InternalServerError, openai.APIConnectionError)) as refused:
            ask()
        print("new request while it shuts down:", type(refused.exception).__name__)
        chunks = list(stream)
        text += "".join(c.choices[0].text for c in chunks if c.choices)
        self.assertEqual(chunks[-1].usage.completion_tokens, 5000)
        self.assertEqual(text, whole)
        client.close()
        self.assertEqual(server.wait(), 0)

    def test_second_signal_ends_at_once(self):
        server = Server(demo_copy(self.temporary() / "demo", 8192), "--threads", 1)
        self.addCleanup(server.kill)
        client = openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)
        stream = client.completions.create(model="demo", prompt="x", max_tokens=8000, n=8, stream=True,
                                           extra_body={"ignore_eos": True})
        next(stream)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        self.assertIsNone(server.process.poll())
        begin = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(30)
        self.assertLess(time.monotonic() - begin, 5)


if __name__ == "__main__":
    main()
