"""Many streams at once, some given up by their clients: every answer equals the one its request gets alone, and nothing is
lost. In the runs with sanitizers 64 streams go on for a minute (BLADE_SOAK_SECONDS)."""
import asyncio
import json
import os
import random
import time

from serving import Served, demo_copy
import common

SECONDS = float(os.environ.get("BLADE_SOAK_SECONDS", 8))
STREAMS, KINDS = 64, 60


def requests(random_):
    """Bodies of /v1/completions, all of them with an answer that can't depend on anything else."""
    bodies = []
    for i in range(KINDS):
        prompt = [random_.randrange(2, 1000) for _ in range(random_.choice((1, 5, 31, 32, 33, 100, 300)))]
        if i % 3 == 0 and i:
            prompt = bodies[i - 1]["prompt"] + prompt  # a common beginning
        body = {"prompt": prompt, "max_tokens": random_.choice((1, 7, 30, 200)), "ignore_eos": True}
        body |= random_.choice(({"temperature": 0}, {"temperature": 0.9, "seed": i, "top_p": 0.9},
                                {"temperature": 1.2, "seed": i, "top_k": 20, "repetition_penalty": 1.2},
                                {"temperature": 0, "logprobs": 3}, {"temperature": 0, "stop": [" the", "\n\n"]},
                                {"temperature": 1, "seed": i, "n": 2}, {"temperature": 0, "priority": i % 3}))
        bodies.append(body)
    return bodies


async def stream(port, body, give_up=None):
    """{choice: (text, logprobs, finish_reason)} of a streamed answer; None when given up after so many events."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    data = json.dumps({**body, "stream": True}).encode()
    writer.write(b"POST /v1/completions HTTP/1.0\r\nContent-Type: application/json\r\n"
                 b"Content-Length: %d\r\n\r\n" % len(data) + data)
    try:
        status = (await reader.readline()).split()[1]
        assert status == b"200", (status, await reader.read())
        choices, events = {}, 0
        while line := await reader.readline():
            if not line.startswith(b"data: "):
                continue  # headers and empty lines; HTTP 1.0 has no chunks
            if line == b"data: [DONE]\n":
                return choices
            events += 1
            if give_up is not None and events > give_up:
                return None
            for choice in json.loads(line[6:])["choices"]:
                text, logprobs, _ = choices.get(choice["index"], ("", [], None))
                logprobs = logprobs + ((choice["logprobs"] or {}).get("token_logprobs") or [])
                choices[choice["index"]] = text + choice["text"], logprobs, choice["finish_reason"]
        raise AssertionError(f"the stream ended without [DONE]: {choices}")
    finally:
        writer.transport.abort()


class Soak(Served):
    # a cache that is too small for all of them at once, and less room than streams
    args = ("--max-num-seqs", "24", "--max-num-batched-tokens", "96", "--kv-cache-memory", "1200K", "--log-level", "warning",
            "--max-queued-requests", "0")

    @classmethod
    def write_model(cls, folder):
        return demo_copy(folder / "demo", 1024)

    def test_every_answer_is_that_of_its_request_alone(self):
        random_ = random.Random(7)
        bodies = requests(random_)

        async def alone():
            return [await stream(self.server.port, body) for body in bodies]

        want = asyncio.run(alone())
        done = [0, 0]  # finished, given up

        async def client(until):
            while time.monotonic() < until:
                i = random_.randrange(KINDS)
                give_up = random_.randrange(20) if random_.random() < 0.1 else None
                got = await stream(self.server.port, bodies[i], give_up)
                done[got is None] += 1
                if got is not None:
                    self.assertEqual(got, want[i], bodies[i])

        async def crowd():
            until = time.monotonic() + SECONDS
            await asyncio.gather(*(client(until) for _ in range(STREAMS)))

        asyncio.run(crowd())
        self.server.wait_idle()
        metrics = self.server.metrics()
        print(f"{done[0]} answers, {done[1]} given up, {metrics['vllm:num_preemptions_total']:.0f} preemptions, "
              f"{metrics['vllm:prefix_cache_hits_total']:.0f} prompt tokens from the prefix cache")
        self.assertGreater(done[0], STREAMS)
        self.assertGreater(done[1], 3)
        self.assertGreater(metrics["vllm:num_preemptions_total"], 0)
        self.assertEqual(self.server.request("GET", "/health")[0], 200)
        # the same as before, once more: nothing is left behind
        self.assertEqual(asyncio.run(alone()), want)


if __name__ == "__main__":
    common.main()
