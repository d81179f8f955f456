"""Random load for a server: requests of every kind, well formed, wrong and broken, that come and go.

A Mixer is one client's worth of it. It knows for each thing it does what may come of it, and notes in `problems` what may not.
"""

import json
import random
import socket
import time

TEXT, CHAT, QUERY, Q = "/v1/completions", "/v1/chat/completions", "/api/query", "/api/v1/quantization/"
PATIENCE = 300  # seconds; sanitized builds on busy machines are slow
WORDS = "once upon a time there was little girl who lived in the big dark forest with her dog and saw bird".split()
GETS = ("/v1/models", "/v1/models/nosuch", "/api/performance", Q + "status", Q + "memory", Q + "cache", "/health",
        "/openapi.json", "/nowhere", "/api/v1/caches", "/metrics", "/")
WRONG = ({"temperature": "hot"}, {"n": 0}, {"max_tokens": -1}, {"stop": 5}, {"top_p": 7}, {"logit_bias": {"x": 1}},
         {"prompt": []}, {"min_quantization": "int3"}, {"model": "nosuch"}, {"prompt": [1, -1]}, {"seed": "x"})
BROKEN = (b"GET /health\r\n\r\n", b"\0" * 100, b"GET / HTTP/1.1\r\nHost: localhost\r\nA: b\r\n c\r\n\r\n",
          b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
          b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
          b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
          b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\x02\0\x01\0\x01", b"GET http://x/ HTTP/1.1\r\nHost: x\r\n\r\n",
          b"GET /%zz HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET /health HTTP/1.1\r\nHost: localhost\r\nA: " + b"x" * 70000)


class Mixer:
    def __init__(self, server, models, seed, key=None, limited=False, elastic=None, forces=("int2",)):
        """elastic: models whose level it moves. forces: levels that it asks for; one that cannot be had any more parks the request
        for 30 s."""
        self.s, self.models, self.key, self.limited, self.elastic = server, models, key, limited, elastic
        self.forces = forces
        self.random = random.Random(seed)
        self.problems, self.counts, self.slowest = [], {}, (0, "nothing")
        kinds = {self.complete: 8, self.stream: 8, self.leave: 6, self.look: 4, self.ask_wrong: 3, self.ask_broken: 4,
                 self.mutate: 3, self.too_long: 1, self.listen: 1}
        if elastic:
            kinds.update({self.set_level: 2, self.clear: 1})
        self.kinds, self.weights = list(kinds), list(kinds.values())

    def step(self):
        kind = self.random.choices(self.kinds, self.weights)[0]
        began = time.time()
        try:
            kind()
        except Exception as e:  # noqa: BLE001
            self.note(kind.__name__, "failed", repr(e))
        self.slowest = max(self.slowest, (time.time() - began, kind.__name__))

    def note(self, what, status, why=None):
        name = "%s %s" % (what, status)
        self.counts[name] = self.counts.get(name, 0) + 1
        if why:
            self.problems.append((name, why))

    def judge(self, what, status, headers, body, allowed):
        """Allowed beside these: 429 for a key with limits, and 503, both with when to come again."""
        waits = status in ([429, 503] if self.limited else [503]) and headers["Retry-After"]
        self.note(what, status, None if status in allowed or waits else body[:300])
        return status == 200

    def ask(self, what, method, target, body, allowed):
        r = self.s.begin(method, target, body, timeout=PATIENCE)
        data = r.read()
        r.connection.close()
        return data if self.judge(what, r.status, r.headers, data, allowed) else None

    def request(self):
        rnd = self.random
        body = {"model": rnd.choice(self.models), "prompt": " ".join(rnd.choices(WORDS, k=rnd.randrange(1, 40))),
                "max_tokens": rnd.randrange(1, 60), "seed": rnd.randrange(20)}
        more = ({"n": rnd.randrange(1, 5)}, {"temperature": rnd.random() * 2}, {"temperature": 0}, {"logprobs": rnd.randrange(6)},
                {"stop": ["the", "."]}, {"top_k": rnd.randrange(50)}, {"task_priority": "speed"}, {"reuse": "any"},
                {"force_quantization": rnd.choice(self.forces)}, {"no_repeat_ngram_size": 3})
        for extra in rnd.sample(more, rnd.randrange(4)):
            body.update(extra)
        return body

    # ---- what it does ----
    def complete(self):
        data = self.ask("complete", "POST", TEXT, self.request(), [200])
        if data and not json.loads(data)["choices"]:
            self.note("complete", "empty", data)

    def stream(self):
        r = self.s.begin("POST", TEXT, dict(self.request(), stream=True), timeout=PATIENCE)
        slow = self.random.random() < 0.2
        data = b""
        while True:
            more = r.read1(4096)
            data += more
            if not more:
                break
            if slow:
                time.sleep(0.005)
        r.connection.close()
        if self.judge("stream", r.status, r.headers, data, [200]) and not data.endswith(b"data: [DONE]\n\n") \
                and b'"error"' not in data:
            self.note("stream", "cut", data[-200:])

    def leave(self):
        c = self.s.connect(PATIENCE)
        headers = {"Authorization": "Bearer " + self.key} if self.key else {}
        c.request("POST", TEXT, json.dumps(dict(self.request(), stream=self.random.random() < 0.7, max_tokens=200)).encode(), headers)
        if self.random.random() < 0.5:
            time.sleep(self.random.random() * 0.1)
        else:
            c.sock.recv(200)
        c.close()
        self.note("leave", "done")

    def look(self):
        self.ask("look", self.random.choice(("GET", "GET", "HEAD")), self.random.choice(GETS), None, [200, 404])

    def ask_wrong(self):
        target = self.random.choice((TEXT, CHAT, QUERY))
        body = dict(self.request(), messages=[{"role": "user", "content": "x"}], query="x")
        body.update(self.random.choice(WRONG))
        self.ask("wrong", "POST", target, body, [200, 400, 404])

    def raw(self, what, data, close_early=False):
        c = socket.create_connection(("127.0.0.1", self.s.port), timeout=PATIENCE)
        got = b""
        try:
            c.sendall(data)
            if not close_early:
                c.shutdown(socket.SHUT_WR)
                while True:
                    more = c.recv(65536)
                    if not more:
                        break
                    got += more
        except OSError:
            got = got or b"reset"
        c.close()
        status = got[9:12].decode("latin-1") if got.startswith(b"HTTP/1.") else "none"
        self.note(what, status, got[:300] if status in ("500", "502", "504") else None)

    def ask_broken(self):
        self.raw("broken", self.random.choice(BROKEN), self.random.random() < 0.2)

    def mutate(self):
        body = json.dumps(self.request()).encode()
        data = bytearray(b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                         % (TEXT.encode(), len(body), body))
        for _ in range(self.random.randrange(1, 6)):
            at = self.random.randrange(len(data))
            how = self.random.randrange(3)
            if how == 0:
                data[at] = self.random.randrange(256)
            elif how == 1:
                del data[at:at + self.random.randrange(1, 20)]
            else:
                data[at:at] = bytes(self.random.randrange(256) for _ in range(self.random.randrange(1, 8)))
            if not data:
                break
        self.raw("mutated", bytes(data))

    def too_long(self):
        size = self.random.randrange(1 << 20, 3 << 20)
        self.ask("too long", "POST", TEXT, b"x" * size, [413])

    def listen(self):
        r = self.s.begin("GET", Q + "events")
        if r.status != 200:
            self.judge("listen", r.status, r.headers, r.read(), [])
        else:
            time.sleep(self.random.random() * 0.2)
            self.note("listen", 200)
        r.connection.close()

    def set_level(self):
        model = self.random.choice(self.elastic)
        level = self.random.choice(("int2", "int4", "int8", "fp16", "auto", "auto"))
        self.ask("level", "POST", Q + "level", {"model": model, "level": level}, [200, 404])

    def clear(self):
        self.ask("clear", "POST", Q + "cache/clear", {}, [200])


def tally(mixers):
    """(counts of all, problems of all)"""
    counts = {}
    for m in mixers:
        for name, n in m.counts.items():
            counts[name] = counts.get(name, 0) + n
    return counts, [p for m in mixers for p in m.problems]
