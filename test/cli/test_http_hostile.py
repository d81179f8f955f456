#!/usr/bin/env python3
"""What no honest client sends, byte by byte, against precis serve.

Whatever comes, the answer is the right refusal or a clean end of the connection (never a reset that takes the refusal with
it), nothing that hides behind a malformed request is answered, and the server is well afterwards.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lib import finish, ok, path, small_model, write  # noqa: E402
from server import Server, until  # noqa: E402

os.environ["XDG_RUNTIME_DIR"] = path("runtime")
os.makedirs(os.environ["PRECIS_MODELS"])
shutil.copy(small_model(), os.path.join(os.environ["PRECIS_MODELS"], "tiny.gguf"))
s = Server()
PATIENCE = 30  # the server's own limits are shorter
HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
TEXT = "/v1/completions"
LAST = b"Connection: close\r\n"


def talk(data, half_close=False):
    """Send all of data, then read to the end: (bytes, how it ended: "end", "reset" or "silence")."""
    c = socket.create_connection(("127.0.0.1", s.port), timeout=PATIENCE)
    got, how = b"", "end"
    try:
        c.sendall(data)
        if half_close:
            c.shutdown(socket.SHUT_WR)
    except OSError:
        how = "reset"
    try:
        while True:
            more = c.recv(65536)
            if not more:
                break
            got += more
    except socket.timeout:
        how = "silence"
    except OSError:
        how = "reset"
    c.close()
    return got, how


def statuses(got):
    return [int(x) for x in re.findall(rb"HTTP/1\.[01] (\d\d\d) ", got)]


def well():
    return statuses(talk(HEALTH.replace(b"\r\n\r\n", b"\r\n" + LAST + b"\r\n"))[0]) == [200]


def refused(name, data, *allowed, half_close=False):
    """One of these answers (0: none, and the end) and nothing more, then the end."""
    got, how = talk(data, half_close)
    codes = statuses(got)
    first, _, rest = got.partition(b"\r\n\r\n")
    if b"<html>" in rest and rest.startswith(first):  # libmicrohttpd 0.9.75 sends the head of its own refusals twice
        codes.pop()
    ok(name, how == "end" and (codes or [0])[0] in allowed and len(codes) <= 1 and well(),
       "%s, %s, wanted %s: %r" % (codes, how, allowed, got[:300]))


def get(fields=b"", target=b"/health", version=b"HTTP/1.1", method=b"GET", host=b"Host: localhost\r\n"):
    return method + b" " + target + b" " + version + b"\r\n" + host + fields + b"\r\n"


def post(fields, body, target=b"/v1/completions", version=b"HTTP/1.1"):
    return get(fields, target, version, b"POST") + body


# ---- who sends slowly is cut, and delays nobody: they go on beside everything else ----
TRICKLES = {"headers": (b"GET /health HTTP/1.1\r\nHost: localhost\r\nA: ", b"x"),
            "zeros": (b"\0" * 5000 + b"\r\n\r\n", b""),
            "more parameters than the library has room for": (get(target=b"/health?" + b"a=1&" * 1000), b""),
            "nothing": (b"", b"")}
cut = {}


def trickle():
    slow = {name: socket.create_connection(("127.0.0.1", s.port)) for name in TRICKLES}
    for name, c in slow.items():
        c.sendall(TRICKLES[name][0])
        c.setblocking(False)
    while len(cut) < len(slow):
        for name in set(slow) - set(cut):
            try:
                if TRICKLES[name][1]:
                    slow[name].send(TRICKLES[name][1])
                cut[name] = slow[name].recv(1000)
            except BlockingIOError:
                pass
            except OSError:
                cut[name] = b""
        time.sleep(0.2)
    for c in slow.values():
        c.close()


trickler = threading.Thread(target=trickle, daemon=True)
trickler.start()

# ---- framing: every one of these has a request behind it that must not be answered ----
CHUNKED = b"Transfer-Encoding: chunked\r\n"
FRAMING = [
    ("two equal lengths", post(b"Content-Length: 2\r\nContent-Length: 2\r\n", b"{}")),
    ("two lengths", post(b"Content-Length: 2\r\nContent-Length: 44\r\n", b"{}")),
    ("a list of lengths", post(b"Content-Length: 2, 2\r\n", b"{}")),
    ("a negative length", post(b"Content-Length: -1\r\n", b"")),
    ("a length with a sign", post(b"Content-Length: +2\r\n", b"{}")),
    ("a length in hexadecimal", post(b"Content-Length: 0x2\r\n", b"{}")),
    ("an endless length", post(b"Content-Length: " + b"9" * 40 + b"\r\n", b"{}"), 413),
    ("length, then chunks", post(b"Content-Length: 4\r\n" + CHUNKED, b"0\r\n\r\n")),
    ("chunks, then length", post(CHUNKED + b"Content-Length: 4\r\n", b"0\r\n\r\n")),
    ("chunks twice", post(CHUNKED + CHUNKED, b"0\r\n\r\n")),
    ("chunks in disguise", post(b"Transfer-Encoding: xchunked\r\n", b"0\r\n\r\n")),
    ("chunks behind gzip", post(b"Transfer-Encoding: gzip, chunked\r\n", b"0\r\n\r\n")),
    ("chunks behind a tab", post(b"Transfer-Encoding:\x0bchunked\r\n", b"0\r\n\r\n")),
    ("a blank before the colon", post(b"Transfer-Encoding : chunked\r\n", b"0\r\n\r\n")),
    ("a folded encoding", post(b"Transfer-Encoding:\r\n chunked\r\n", b"0\r\n\r\n")),
    ("chunks in HTTP/1.0", post(CHUNKED, b"0\r\n\r\n", version=b"HTTP/1.0")),
    ("a chunk of no size", post(CHUNKED, b"xyz\r\n{}\r\n0\r\n\r\n")),
    ("a chunk of negative size", post(CHUNKED, b"-2\r\n{}\r\n0\r\n\r\n")),
    ("a chunk beyond 64 bits", post(CHUNKED, b"f" * 17 + b"\r\n{}\r\n0\r\n\r\n"), 413),
    ("a chunk that goes on", post(CHUNKED, b"2\r\n{}xx\r\n0\r\n\r\n")),
    ("a folded field", get(b"A: b\r\n c\r\n")),
    ("a bare CR", get(b"A: b\rTransfer-Encoding: chunked\r\n")),
    ("bare LFs", get(b"A: b\r\n").replace(b"\r\n", b"\n")),
    ("NUL in a field", get(b"A: b\x00c\r\n")),
    ("NUL after a field", get(b"A: b\x00\r\n")),
    ("NUL after the encoding", post(CHUNKED.replace(b"\r", b"\x00\r"), b"0\r\n\r\n")),
    ("NUL in a name", get(b"A\x00: b\r\n")),
    ("a control byte in a field", get(b"A: \x01\r\n")),
    ("a name with a blank", get(b"A B: c\r\n")),
    ("a name of no bytes", get(b": c\r\n")),
    ("a line without a colon", get(b"hello\r\n")),
    ("no host", get(host=b"")),
    ("two hosts", get(b"Host: elsewhere\r\n")),
]
for name, data, *allowed in FRAMING:
    refused(name, data + HEALTH, 400, *allowed)

# ---- request lines and targets ----
LINES = [
    ("no version", b"GET /health\r\nHost: localhost\r\n\r\n", 400, 0),
    ("a version with more", get(version=b"HTTP/1.1x"), 400),
    ("HTTP/3.0", get(version=b"HTTP/3.0"), 400, 505),
    ("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, 505),
    ("a TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) + b"\r\n\r\n", 400, 0),
    ("two blanks", b"GET  /health HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    ("four words", b"GET /health and more HTTP/1.1\r\nHost: localhost\r\n\r\n", 400, 0),
    ("a method that is no token", get(method=b"G(T"), 400),
    ("a method of 1000 letters", get(method=b"G" * 1000), 400),
    ("a whole URL", get(target=b"http://localhost/health"), 400),
    ("a whole URL of elsewhere", get(target=b"http://example.org/health"), 400),
    ("a name alone", get(target=b"health"), 400),
    ("CONNECT", get(method=b"CONNECT", target=b"example.org:443"), 400),
    ("OPTIONS *", get(method=b"OPTIONS", target=b"*"), 400),
    ("a fragment", get(target=b"/health#x"), 400),
    ("NUL in the target", get(target=b"/hea\0lth"), 400),
    ("NUL after the target", get(target=b"/health\0"), 400),
    ("a control byte in the target", get(target=b"/hea\x01lth"), 400),
    ("a byte over 127 in the target", get(target=b"/\xff"), 400),
    ("an escape cut short", get(target=b"/health%2"), 400),
    ("an escape of no digits", get(target=b"/%zz"), 400),
    ("an escaped NUL", get(target=b"/health%00"), 400),
    ("an escaped line end", get(target=b"/health%0d%0aX:%20y"), 400),
    ("dots that climb", get(target=b"/../../etc/passwd"), 400),
    ("a host of elsewhere", get(LAST, host=b"Host: evil.example\r\n"), 403),
    ("a page of elsewhere", get(LAST + b"Origin: https://evil.example\r\n"), 403),
    ("escaped dots as a model", get(LAST, target=b"/v1/models/..%2f..%2fetc%2fpasswd"), 404),
    ("no query", get(LAST, target=b"/health?%"), 400),
    ("300 parameters", get(LAST, target=b"/health?" + b"a=1&" * 300), 400),
]
for name, data, *allowed in LINES:
    refused(name, data, *allowed)

# ---- sizes ----
refused("a field of 20 kB", get(b"A: " + b"x" * 20000 + b"\r\n"), 431)
refused("a field of 2 MB", get(b"A: " + b"x" * 2000000 + b"\r\n"), 413, 431)
refused("a target of 2 MB", get(target=b"/" + b"x" * 2000000), 414, 431)
refused("200 fields", get(b"".join(b"H%d: x\r\n" % i for i in range(200))), 400)
refused("20000 fields", get(b"".join(b"H%d: x\r\n" % i for i in range(20000))), 400, 413, 431)
MIB = 1 << 20
big = {n: b"x" * (n * MIB) for n in (2, 15)}
refused("a body of 2 MiB, sent whole", post(b"Content-Length: %d\r\n" % (2 * MIB), big[2]), 413)
refused("a body of 15 MiB, sent whole", post(b"Content-Length: %d\r\n" % (15 * MIB), big[15]), 413)
refused("2 MiB in chunks", post(CHUNKED + LAST, b"100000\r\n" + big[2][:MIB] + b"\r\n100000\r\n" + big[2][MIB:] + b"\r\n0\r\n\r\n"), 413)
got, how = talk(post(b"Content-Length: 1000000000000\r\n", b"x" * 1000), half_close=True)
ok("a body of 1 TB: refused before it comes", statuses(got) == [413] and how == "end", "%s %s" % (got[:200], how))
got, how = talk(post(b"Content-Length: %d\r\n" % (2 * MIB), big[2]))
head, _, body = got.partition(b"\r\n\r\n")
ok("the refusal is whole", json.loads(body)["error"]["code"] == "body_too_large"
   and b"content-length: %d" % len(body) in head.lower(), str(got))
two_mib = write("two-mib", big[2])
for name, more in (("curl", []), ("curl, without asking first", ["-H", "Expect:"]),
                   ("curl, in chunks", ["-H", "Expect:", "-H", "Transfer-Encoding: chunked"])):
    codes = []
    for _ in range(5):
        p = subprocess.run(["curl", "-sS", "--noproxy", "*", "-m", "30", "-o", path("answer"), "-w", "%{http_code}", *more,
                            "--data-binary", "@" + two_mib, s.url + TEXT], capture_output=True)
        codes.append((p.returncode, p.stdout.decode(), json.load(open(path("answer")))["error"]["code"]))
    ok("%s: 2 MiB, five times" % name, codes == [(0, "413", "body_too_large")] * 5, str(codes))
    os.remove(path("answer"))

# ---- the rest of the grammar, as it should be ----
def answers(name, data, wanted, half_close=False, more=lambda got: True):
    got, how = talk(data, half_close)
    ok(name, statuses(got) == wanted and how == "end" and more(got) and well(), "%s, %s: %r" % (statuses(got), how, got[:400]))


answers("HTTP/1.0 without a host", get(version=b"HTTP/1.0", host=b""), [200])
answers("pipelined requests", HEALTH * 9 + get(LAST), [200] * 10)
answers("a pipeline with a bad one", HEALTH * 3 + get(b"A: b\0\r\n") + HEALTH, [200, 200, 200, 400])
answers("pipelined refusals", get(target=b"/nowhere") * 3 + post(b"Content-Length: 2\r\n", b"{}", b"/health")
        + get(LAST), [404, 404, 404, 405, 200])
answers("HEAD", get(LAST, method=b"HEAD"), [200], more=lambda got: got.endswith(b"\r\n\r\n"))
answers("OPTIONS", get(LAST, method=b"OPTIONS"), [204], more=lambda got: b"Allow: GET, HEAD, OPTIONS" in got)
for method in (b"PUT", b"DELETE", b"TRACE", b"PATCH", b"BREW", b"get", b"M-SEARCH"):
    answers(method.decode(), get(LAST, method=method), [405], more=lambda got: b"Allow: " in got and b"TRACE" not in got)
answers("a method nobody knows, nowhere", get(LAST, target=b"/nowhere", method=b"BREW"), [404])
answers("an empty line first", b"\r\n" + get(LAST), [200])
answers("Expect: 100-continue", post(LAST + b"Expect: 100-continue\r\nContent-Length: 2\r\n", b"{}"), [100, 400])
answers("Expect, refused at once", post(b"Expect: 100-continue\r\nContent-Length: 2000000\r\n", b""), [413])
answers("a chunked body", post(LAST + CHUNKED, b"1;ext=1\r\n{\r\n1\r\n}\r\n0\r\nTrailer: x\r\n\r\n"), [400])
answers("half-closed after a request", get(), [200], half_close=True)
answers("half-closed after a body", post(b"Content-Length: 1\r\n", b"{"), [400], half_close=True)
answers("a body for a GET", get(LAST + b"Content-Length: 2\r\n") + b"{}", [200])
for n in (1, 10, 30, len(HEALTH) - 1):
    answers("half-closed after %d bytes" % n, HEALTH[:n], [], half_close=True)
answers("half-closed in a body", post(b"Content-Length: 100\r\n", b"{"), [], half_close=True)
answers("half-closed in a chunk", post(CHUNKED, b"100\r\n{"), [], half_close=True)
answers("nothing at all", b"", [], half_close=True)

# ---- and what came of those who trickle ----
trickler.join(90)
ok("who trickles is cut", set(cut) == set(TRICKLES) and not any(cut.values()), str(cut))

# ---- what is left ----
fds = lambda: len(os.listdir("/proc/%d/fd" % s.process.pid))  # noqa: E731
ok("no descriptor is left behind", until(lambda: fds() < 40, 20), str(fds()))
status, _, j = s.ask("POST", TEXT, {"prompt": "Once upon a time", "max_tokens": 3})
ok("and it still completes", status == 200 and j["choices"][0]["text"], str(j))
ok("nothing is running", s.get("/api/v1/quantization/status")["active_requests"] == 0)
ok("stops", s.stop() == 0)
finish()
