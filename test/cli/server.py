"""A running `precis serve` for tests, and a client that says exactly what came over the wire."""

import http.client
import json
import os
import re
import signal
import subprocess
import time

from lib import PRECIS, path

started = 0


class Server:
    """Serves with these arguments on a free port, until stop(). begin: a command that runs it."""

    def __init__(self, *args, key=None, env=None, begin=()):
        global started
        started += 1
        self.key = key
        self.log_path = path("serve-%d.log" % started)
        self.out_path = path("serve-%d.out" % started)
        self.process = subprocess.Popen([*begin, PRECIS, "serve", "--port", "0", *args], stdin=subprocess.DEVNULL,
                                        stdout=open(self.out_path, "w"), stderr=open(self.log_path, "w"),
                                        env=dict(os.environ, **(env or {})))
        self.port = None
        end = time.time() + 60
        while time.time() < end and self.process.poll() is None and self.port is None:
            found = re.search(r"precis serves on http://[^\s]*:(\d+)", open(self.out_path).read())
            self.port = int(found.group(1)) if found else None
            time.sleep(0.02)
        if self.port is None:
            self.process.kill()
            raise SystemExit("not ok the server starts: %s" % open(self.log_path).read()[-2000:])
        self.url = "http://127.0.0.1:%d" % self.port

    def connect(self, timeout=60):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def begin(self, method, target, body=None, headers=None, timeout=60):
        """Send a request; the response with its body unread, and its connection."""
        c = self.connect(timeout)
        all_headers = dict(headers or {})
        if self.key:
            all_headers.setdefault("Authorization", "Bearer " + self.key)
        data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
        c.request(method, target, data, all_headers)
        r = c.getresponse()
        r.connection = c
        return r

    def ask(self, method, target, body=None, headers=None, timeout=60):
        """(status, headers, parsed JSON)."""
        r = self.begin(method, target, body, headers, timeout)
        data = r.read()
        r.connection.close()
        return r.status, r.headers, json.loads(data) if data else None

    def get(self, target, **more):
        return self.ask("GET", target, **more)[2]

    def post(self, target, body, **more):
        return self.ask("POST", target, body, **more)[2]

    def stream(self, target, body, **more):
        """(response headers, list of events); an event is a dict, or the text "[DONE]"."""
        r = self.begin("POST", target, body, **more)
        out = [e for e in events(r)]
        r.connection.close()
        return r.headers, out

    def log(self):
        return [json.loads(l) for l in open(self.log_path) if l.startswith("{")]

    def stop(self, sig=signal.SIGTERM, timeout=30):
        if self.process.poll() is None:
            self.process.send_signal(sig)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return None


def events(response):
    """Events as they come; comments are left out."""
    name, data = None, []
    for line in response:
        line = line.decode().rstrip("\n")
        if line.startswith("event: "):
            name = line[7:]
        elif line.startswith("data: "):
            data.append(line[6:])
        elif not line and data:
            text = "\n".join(data)
            event = text if text == "[DONE]" else json.loads(text)
            if name and isinstance(event, dict):
                event["event"] = name
            yield event
            name, data = None, []


def until(condition, seconds=10):
    """Wait for it; True when it came."""
    end = time.time() + seconds
    while time.time() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False
