#!/usr/bin/env python3
"""A client that goes away frees its place within a step, in whatever state its request is.

The server logs an event "left" when nothing is computed any more for a client that has gone: how long that took since it was
noticed, and how many steps the scheduler finished meanwhile. Noticing is measured from here: from close() to the time in the
log. Times are printed, and only bounded generously; steps are counted.
"""

import datetime
import json
import os
import shutil
import socket
import statistics
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lib import finish, ok, path, small_model  # noqa: E402
from server import Server, events, until  # noqa: E402

os.environ["XDG_RUNTIME_DIR"] = path("runtime")
os.makedirs(os.environ["PRECIS_MODELS"])
shutil.copy(small_model(), os.path.join(os.environ["PRECIS_MODELS"], "tiny.gguf"))
TEXT = "/v1/completions"
SLACK_SECONDS = 5  # for a machine that is busy with other things; a step and 100 ms are what is wanted
number = 0


def open_request(s, body):
    """A connection with a request sent, and the request's id."""
    global number
    number += 1
    rid = "leaver-%d" % number
    data = json.dumps(dict({"prompt": "Once upon a time", "temperature": 1.5, "max_tokens": 240}, **body)).encode()
    c = socket.create_connection(("127.0.0.1", s.port), timeout=60)
    c.sendall(b"POST %s HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: %s\r\nContent-Length: %d\r\n\r\n%s"
              % (TEXT.encode(), rid.encode(), len(data), data))
    return c, rid


def requests(s):
    return s.get("/api/v1/quantization/status")["requests"]


def left(s, rid):
    return next((l for l in s.log() if l.get("event") == "left" and l["id"] == rid), None)


def answered(s, rid):
    return any(l.get("event") == "request" and l["id"] == rid and not l["gone"] for l in s.log())


def when(line):
    return datetime.datetime.strptime(line["time"], "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=datetime.timezone.utc).timestamp()


noticed, freed = [], []


def leave(name, s, begin, how):
    """Begin a request and leave it by how; once more where it was answered before that."""
    for _ in range(5):
        c, rid = begin()
        at = time.time()
        how(c)
        came = until(lambda: left(s, rid) or answered(s, rid), 30) and left(s, rid)
        c.close()
        if came or not answered(s, rid):
            break
    took = when(came) - at if came else None
    ok(name, came and came["steps"] <= 1 and took < SLACK_SECONDS and until(lambda: requests(s)["running"] == 0),
       "%s, %s s after close" % (came, took))
    if came:
        noticed.append(max(0, took - came["seconds"]))
        freed.append(max(0, took))


def close(c):
    c.close()


def close_sending(c):
    c.shutdown(socket.SHUT_WR)


def reset(c):
    c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    c.close()


def streams(s, **body):
    c, rid = open_request(s, dict(body, stream=True))
    c.recv(100)
    return c, rid


def waits(s, **body):
    c, rid = open_request(s, body)
    until(lambda: requests(s)["running"] > 0 or answered(s, rid))
    return c, rid


s = Server()
for turn in range(5):
    for how in (close, close_sending, reset):
        leave("in a stream: %s, %d" % (how.__name__, turn), s, lambda: streams(s, n=8), how)
        leave("waiting for an answer in one piece: %s, %d" % (how.__name__, turn), s, lambda: waits(s, n=8), how)
for how in (close, reset):
    leave("having read nothing: %s" % how.__name__, s, lambda: waits(s, stream=True, n=4, logprobs=5), how)
stays = s.begin("POST", TEXT, {"prompt": "Once upon a time", "stream": True, "max_tokens": 240, "temperature": 1.5})
c, rid = streams(s, n=8)
c.close()
got = list(events(stays))
ok("who stays is served to the end", got and got[-1] == "[DONE]", str(got[-1:]))
stays.connection.close()
ok("stops", s.stop() == 0)

s = Server("--serial")
running, running_rid = streams(s, n=16)
queued, queued_rid = open_request(s, {"stream": True})
until(lambda: requests(s)["queued"] > 0)
queued.close()
ok("in the queue", until(lambda: left(s, queued_rid)) and left(s, queued_rid)["steps"] <= 1, str(left(s, queued_rid)))
running.close()
ok("and what ran before it", until(lambda: left(s, running_rid)), str(requests(s)))
ok("nobody is left", until(lambda: requests(s)["queued"] == 0 and s.get("/api/v1/quantization/status")["active_requests"] == 0))
ok("stops", s.stop() == 0)
print("from close() to a free slot: median %.1f ms, most %.1f ms; of that until it was noticed: median %.1f ms, most %.1f ms; "
      "%d times" % (1e3 * statistics.median(freed), 1e3 * max(freed), 1e3 * statistics.median(noticed), 1e3 * max(noticed),
                    len(freed)))
finish()
