#!/usr/bin/env python3
"""2,000 clients at once, readers that do not read and senders that trickle: those who ask meanwhile are served, and nothing of
it is left afterwards. And a server with few descriptors, which it does not run out of."""

import os
import re
import resource
import selectors
import shutil
import socket
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import server  # noqa: E402
from lib import PRECIS, finish, ok, path, small_model, write  # noqa: E402
from server import Server, until  # noqa: E402

os.environ["XDG_RUNTIME_DIR"] = path("runtime")
os.makedirs(os.environ["PRECIS_MODELS"])
shutil.copy(small_model(), os.path.join(os.environ["PRECIS_MODELS"], "tiny.gguf"))
TEXT, Q = "/v1/completions", "/api/v1/quantization/"
MODELS = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
STORM = min(2000, hard - 200)
resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))


class Beside:
    """Somebody who asks for streams, one after the other, and for /health, all the time."""

    def __init__(self, s):
        self.s, self.over, self.streams, self.bad, self.health = s, False, 0, [], []
        self.threads = [threading.Thread(target=self.stream), threading.Thread(target=self.ask_health)]
        for t in self.threads:
            t.start()

    def stream(self):
        while not self.over:
            try:
                _, got = self.s.stream(TEXT, {"prompt": "Once upon a time", "max_tokens": 30, "stream": True,
                                              "seed": self.streams})
                self.streams += 1
                if got[-1] != "[DONE]" or not any(e["choices"][0]["finish_reason"] for e in got[:-1]):
                    self.bad.append(got[-2:])
            except Exception as e:  # noqa: BLE001
                self.bad.append(repr(e))

    def ask_health(self):
        while not self.over:
            at = time.time()
            try:
                if self.s.ask("GET", "/health")[0] != 200:
                    self.bad.append("health")
            except Exception as e:  # noqa: BLE001
                self.bad.append(repr(e))
            self.health.append(time.time() - at)
            time.sleep(0.02)

    def end(self):
        self.over = True
        for t in self.threads:
            t.join()


def connect_all(s, n):
    """n connections, begun at the same time."""
    out = []
    for _ in range(n):
        c = socket.socket()
        c.setblocking(False)
        c.connect_ex(("127.0.0.1", s.port))
        out.append(c)
    return out


def answers(sockets, data, seconds=60):
    """Send data on each, and count those that answer with 200."""
    got, waiting = {}, selectors.DefaultSelector()
    for c in sockets:
        waiting.register(c, selectors.EVENT_WRITE)
    end = time.time() + seconds
    while waiting.get_map() and time.time() < end:
        for key, events in waiting.select(0.5):
            c = key.fileobj
            try:
                if events & selectors.EVENT_WRITE:
                    c.send(data)
                    waiting.modify(c, selectors.EVENT_READ)
                    continue
                got[c] = got.get(c, b"") + c.recv(65536)
            except OSError as e:
                got[c] = repr(e).encode()
            if b"\r\n\r\n" in got[c] or not got[c].startswith(b"HTTP"):
                waiting.unregister(c)
    return sum(g.startswith(b"HTTP/1.1 200 ") for g in got.values())


def fds(s):
    return len(os.listdir("/proc/%d/fd" % s.process.pid))


def ledger(s):
    return s.get(Q + "memory")["ledger_bytes"]["http"]


def waits(s, n):
    """Wait until the server has n descriptors more or less."""
    return until(lambda: abs(fds(s) - n) <= 4, 60)


s = Server("--preload", "tiny")
for _ in range(3):
    s.post(TEXT, {"prompt": "Once upon a time", "max_tokens": 5})
time.sleep(0.5)
base, base_bytes = fds(s), ledger(s)

# ---- the storm ----
beside = Beside(s)
storm = connect_all(s, STORM)
ok("%d clients are answered" % STORM, answers(storm, MODELS) == STORM)
ok("and again, on the same connections", answers(storm, MODELS) == STORM)
ok("all of them are connected", fds(s) >= base + STORM, "%d, base %d" % (fds(s), base))

# ---- slow ones among them ----
slow = []
for i in range(20):
    c = socket.socket()
    c.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    c.connect(("127.0.0.1", s.port))
    body = b'{"prompt": "A dog", "n": 2, "max_tokens": 200, "stream": true, "logprobs": 20, "temperature": 1.5, "seed": %d}' % i
    c.sendall(b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (TEXT.encode(), len(body), body))
    slow.append(c)
before, at = beside.streams, time.time()
trickling = storm[:500]
for c in trickling:
    c.send(b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\nA: " % TEXT.encode())
while time.time() - at < 60 and (time.time() - at < 4 or beside.streams < before + 5):
    for c in trickling:
        try:
            c.send(b"x")
        except OSError:
            pass
    time.sleep(0.5)
served = beside.streams - before
ok("streams are served meanwhile", served >= 5, "%d in %.0f s" % (served, time.time() - at))
beside.end()
ok("nobody beside the storm saw an error", not beside.bad, str(beside.bad[:3]))
health = sorted(beside.health)
print("%d streams, %d times /health: median %.1f ms, p99 %.1f ms, most %.1f ms" % (
    beside.streams, len(health), 1e3 * health[len(health) // 2], 1e3 * health[int(len(health) * 0.99)], 1e3 * health[-1]))
ok("/health answered all the time", len(health) > 20 and health[-1] < 20, "%d times, at most %.1f s" % (len(health), health[-1]))

# ---- what is left ----
for c in storm + slow:
    c.close()
ok("all descriptors are free", waits(s, base), "%d, base %d" % (fds(s), base))
status = lambda: s.get(Q + "status")  # noqa: E731
ok("no request is left", until(lambda: status()["active_requests"] == 0 and status()["requests"]["queued"] == 0, 30), str(status()))
ok("nor its memory", until(lambda: abs(ledger(s) - base_bytes) < 64 << 10, 30), "%d, base %d" % (ledger(s), base_bytes))
ok("it did not restart nor crash", s.process.poll() is None)
ok("stops", s.stop() == 0)

# ---- few descriptors ----
LIMIT = 120
script = write("few", b'#!/bin/sh\nulimit -n %d\nexec "%s" "$@"\n' % (LIMIT, PRECIS.encode()))
os.chmod(script, 0o755)
server.PRECIS = script
s = Server()
allowed = [re.search(r"allow for (\d+) connections", l.get("message", "")) for l in s.log()]
allowed = [int(m.group(1)) for m in allowed if m]
ok("it says how many connections fit", len(allowed) == 1 and LIMIT / 2 < allowed[0] < LIMIT, str(s.log()[:3]))
first = s.connect()
first.request("GET", "/health")
ok("the first is answered", first.getresponse().read())
crowd = connect_all(s, 300)
ok("it is full", until(lambda: fds(s) >= allowed[0]), str(fds(s)))
time.sleep(0.5)
ok("but not of all descriptors", fds(s) < LIMIT, str(fds(s)))
first.request("POST", TEXT, b'{"prompt": "Once upon a time", "max_tokens": 5}')
r = first.getresponse()
ok("and can load a model", r.status == 200 and b"text" in r.read())
counts = []
for i in range(0, len(crowd), 50):
    counts.append(answers(crowd[i:i + 50], MODELS))
    for c in crowd[i:i + 50]:
        c.close()
ok("those who wait have their turn as others leave", counts == [50] * 6, str(counts))
first.close()
ok("all descriptors are free again", until(lambda: fds(s) < 40, 30), str(fds(s)))
ok("it is well", s.get("/health")["status"] == "ok")
ok("stops", s.stop() == 0)
finish()
