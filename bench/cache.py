#!/usr/bin/env python3
"""Hits of the response cache: a thousand a second over kept connections, timed in the server and at the client.

    bench/cache.py [MODEL] [--rate 1000] [--seconds 20] [--connections 16] > table.md

MODEL is what `precis serve` takes (the default model). Three loads, one after the other, on a server of its own: answers in one piece,
the same as streams, and answers in one piece while two other clients generate all the time. Each asks for 8 questions by turns, 64
tokens each, all of them answered once before.

Requests go out by the clock, not when the one before was answered (an open loop), each on the next free connection; where all are
taken it waits, and its time counts from when it should have gone out. Times in the server are those of its own log: from when it
saw the request until the last byte of the answer was taken by the socket. Client and server share the processors.
"""

import argparse
import json
import os
import re
import selectors
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
QUESTIONS = 8


def serve(precis, model, log):
    command = [precis, "serve", "--port", "0", "--preload"] + ([model] if model else [])
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    for line in process.stdout:
        found = re.search(r"serves on http://127\.0\.0\.1:(\d+)", line)
        if found:
            threading.Thread(target=process.stdout.read, daemon=True).start()
            return process, int(found.group(1))
    sys.exit("bench/cache.py: precis serve did not start: see %s" % log.name)


def request_of(i, stream):
    body = json.dumps({"prompt": "Question %d of a benchmark:" % i, "max_tokens": 64, "temperature": 0, "stream": stream}).encode()
    return b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: %s\r\nContent-Length: %d\r\n\r\n", body


class Connection:
    def __init__(self, port, selector):
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.setblocking(False)
        self.data, self.due = b"", None
        selector.register(self.sock, selectors.EVENT_READ, self)

    def send(self, head, body, due, name):
        self.due, self.data = due, b""
        self.sock.send(head % (name, len(body)) + body)

    def read(self):
        """The answer when it is whole, else None."""
        self.data += self.sock.recv(1 << 16)
        at = self.data.find(b"\r\n\r\n")
        if at < 0:
            return None
        length = re.search(rb"(?i)content-length: (\d+)", self.data[:at])
        whole = len(self.data) == at + 4 + int(length.group(1)) if length else self.data.endswith(b"0\r\n\r\n")
        return self.data if whole else None


def load(port, rate, seconds, n_connections, stream, mark):
    """Seconds at the client of each request, how many were no hits, and the rate that was reached."""
    selector = selectors.DefaultSelector()
    free = [Connection(port, selector) for _ in range(n_connections)]
    requests = [request_of(i, stream) for i in range(QUESTIONS)]
    took, missed, sent, total = [], 0, 0, int(rate * seconds)
    begin = time.perf_counter()
    while len(took) < total:
        now = time.perf_counter()
        while sent < total and free and now >= begin + sent / rate:
            head, body = requests[sent % QUESTIONS]
            free.pop(0).send(head, body, begin + sent / rate, b"%s-%d" % (mark, sent))
            sent += 1
        wait = begin + sent / rate - time.perf_counter() if sent < total and free else 1
        for key, _ in selector.select(max(0, wait)):
            answer = key.data.read()
            if answer is None:
                continue
            took.append(time.perf_counter() - key.data.due)
            missed += b"\r\nX-Cache: HIT\r\n" not in answer
            free.append(key.data)
    seconds = time.perf_counter() - begin
    for c in free:
        c.sock.close()
    return took, missed, total / seconds


def generate_until(port, stop):
    """A client that always generates."""
    while not stop.is_set():
        body = json.dumps({"prompt": "Once upon a time", "max_tokens": 128, "temperature": 1, "cache": False}).encode()
        urllib.request.urlopen(urllib.request.Request("http://127.0.0.1:%d/v1/completions" % port, body)).read()


def in_server(log, mark):
    found = re.findall(r'"id":"%s-\d+".*?"seconds":([0-9.]+)' % mark.decode(), open(log).read())
    return [float(x) for x in found]


def quantile(values, q):
    return sorted(values)[min(len(values) - 1, int(len(values) * q))]


def row(what, took, server, missed, rate):
    ms = ["%.3f" % (1e3 * quantile(v, q)) for v in (server, took) for q in (0.5, 0.99, 1)]
    print("| %s | %.0f | %d | %s |" % (what, rate, missed, " | ".join(ms)), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?")
    parser.add_argument("--precis", default=os.path.join(ROOT, "build/release/precis"))
    parser.add_argument("--rate", type=float, default=1000)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--connections", type=int, default=16)
    options = parser.parse_args()
    log = tempfile.NamedTemporaryFile("w", prefix="precis-cache-", suffix=".log")
    process, port = serve(options.precis, options.model, log)
    try:
        load(port, 1e6, QUESTIONS / 1e6, 1, False, b"first")  # each question once
        print("| load | requests/s | not hits | server p50 ms | p99 | max | client p50 ms | p99 | max |")
        print("|---|---|---|---|---|---|---|---|---|")
        for what, mark, stream, busy in (("in one piece", b"whole", False, 0), ("as a stream", b"stream", True, 0),
                                         ("in one piece, two others generate", b"busy", False, 2)):
            stop = threading.Event()
            others = [threading.Thread(target=generate_until, args=(port, stop)) for _ in range(busy)]
            for t in others:
                t.start()
            took, missed, rate = load(port, options.rate, options.seconds, options.connections, stream, mark)
            stop.set()
            for t in others:
                t.join()
            row(what, took, in_server(log.name, mark), missed, rate)
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
