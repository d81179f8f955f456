#!/usr/bin/env python3
"""./validate: no cross for a server that is right, a cross for each thing that a broken one does wrong."""

import http.client
import http.server
import json
import os
import subprocess
import sys
import threading

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lib import PRECIS, ROOT, finish, ok, precis, skipped  # noqa: E402
from server import Server  # noqa: E402

VALIDATE = os.path.join(ROOT, "validate")


def validate(*args):
    r = subprocess.run([sys.executable, VALIDATE, "--json", *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    told = json.loads(r.stdout) if r.stdout else {"promises": []}
    return r.returncode, {t["promise"]: (t["verdict"], t["detail"]) for t in told["promises"]}, r.stderr


def crosses(told):
    return {name for name, (verdict, _) in told.items() if verdict == "broken"}


class Spoiler(http.server.BaseHTTPRequestHandler):
    """Stands before a real server and spoils one thing."""

    protocol_version = "HTTP/1.1"
    behind = fault = None

    def log_message(self, *_):
        pass

    def pass_on(self):
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length) if length and length < 1 << 24 else None
        connection = http.client.HTTPConnection("127.0.0.1", self.behind, timeout=60)
        headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "content-length")}
        if length >= 1 << 24:
            headers["Content-Length"] = str(length)
            connection.putrequest(self.command, self.path)
            for k, v in headers.items():
                connection.putheader(k, v)
            connection.endheaders()
        else:
            connection.request(self.command, self.path, body, headers)
        r = connection.getresponse()
        status, data, headers = r.status, r.read(), {k: v for k, v in r.headers.items()}
        status, data = self.fault(self.path, status, data, headers)
        self.send_response(status)
        for k, v in headers.items():
            if k.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(k, v)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)
        self.close_connection = True

    do_GET = do_POST = do_DELETE = pass_on


def no_done(place, status, data, headers):
    return status, data.replace(b"data: [DONE]\n\n", b"")


def torn_event(place, status, data, headers):
    return status, data.replace(b'data: {"id"', b'dat: {"id"', 1) if b"data: [DONE]" in data else data


def errors_are_fine(place, status, data, headers):
    return (200, data) if status in (400, 404, 405) else (status, data)


def no_usage(place, status, data, headers):
    return status, data.replace(b'"usage"', b'"uses"')


def no_health(place, status, data, headers):
    return (500, b"") if place == "/health" else (status, data)


def no_description(place, status, data, headers):
    return (200, b"{}") if place == "/openapi.json" else (status, data)


def others_stories(place, status, data, headers):
    return status, data.replace(b'"content":"', b'"content":"So ') if b'"chat.completion"' in data else data


FAULTS = ((no_done, {"stream", "same text"}), (torn_event, {"stream", "same text"}), (errors_are_fine, {"errors"}),
          (no_usage, {"chat", "stream"}), (no_health, {"health"}), (no_description, {"description"}),
          (others_stories, {"same text"}))

default = os.environ.get("PRECIS_TEST_MODEL", "")
model = default if os.path.isfile(default) else None
if not model:
    skipped("validate", "it needs a model with a chat template: the default one")
    finish()

# An elastic copy of its own, so that levels can move.
os.makedirs(os.environ["PRECIS_MODELS"])
companion = default[:-len(".gguf")] + ".planes.gguf"
name = os.path.join(os.environ["PRECIS_MODELS"], "smollm2.planes.gguf")
if os.path.isfile(companion):
    os.symlink(companion, name)
else:
    precis("pack", "--fast", model, name)

code, told, said = validate("--precis", PRECIS, "--own")
ok("a server of its own keeps every promise", code == 0 and told and not crosses(told), str(told) + said)
ok("which are all tried", [n for n, t in told.items() if t[0] == "not tried"] == [], str(told))
ok("and nothing is left of it", precis("ps").code == 1)

s = Server("--dwell", "0")
code, told, said = validate("--url", s.url, "--gentle")
tried = {n for n, t in told.items() if t[0] == "not tried"}
ok("one that runs is asked gently", code == 0 and {"level by hand", "squeeze", "keys"} <= tried, str(told) + said)

for fault, wanted in FAULTS:
    handler = type("Handler", (Spoiler,), {"behind": s.port, "fault": staticmethod(fault)})
    proxy = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    code, told, said = validate("--url", "http://127.0.0.1:%d" % proxy.server_address[1], "--gentle")
    ok("%s: crosses at %s" % (fault.__name__, ", ".join(sorted(wanted))), code == 1 and wanted <= crosses(told),
       "%s %s" % (told, said))
    proxy.shutdown()
    proxy.server_close()
ok("the server stops", s.stop() == 0)

code, told, said = validate("--url", s.url)
ok("nobody there: exit 2", code == 2 and "nobody answers" in said and not told, "%d %s" % (code, said))
r = subprocess.run([sys.executable, VALIDATE, "--help"], stdout=subprocess.PIPE, text=True)
ok("--help", r.returncode == 0 and "--own" in r.stdout)
finish()
