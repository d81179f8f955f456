#!/usr/bin/env python3
"""The server as a service: what its manager hears, keys read again, and how it is asked whether it lives."""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lib import PRECIS, ROOT, fails, finish, ok, path, precis, skipped, small_model, write  # noqa: E402
from server import Server, until  # noqa: E402


class Manager:
    """Listens as systemd does."""

    def __init__(self):
        self.address = path("notify")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.address)
        self.socket.setblocking(False)
        self.heard = []

    def hears(self, line, times=1):
        def now():
            try:
                while True:
                    self.heard += self.socket.recv(4096).decode().splitlines()
            except BlockingIOError:
                pass
            return self.heard.count(line) >= times
        return until(now, 30)


def keys_file(*secrets):
    lines = ["%s %s\n" % (s, hashlib.sha256(s.encode()).hexdigest()) for s in secrets]
    return write("keys", "".join(lines).encode())


def knows(server, secret):
    return server.ask("GET", "/v1/models", headers={"Authorization": "Bearer " + secret})[0] == 200


model = small_model()
manager = Manager()
keys = keys_file("one", "two")
s = Server(model, "--keys", keys, env={"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "900000"})
ok("the manager hears that it is ready", manager.hears("READY=1") and "MAINPID=%d" % s.process.pid in manager.heard,
   str(manager.heard))
ok("and where", manager.hears("STATUS=serves on %s" % s.url), str(manager.heard))
ok("and that it lives", manager.hears("WATCHDOG=1", 3), str(manager.heard))

# ---- health ----
r = precis("ps", "--health")
ok("ps --health needs no key", r.code == 0 and not r.out and not r.err, str(r))
ok("ps --health --port", precis("ps", "--health", "--port", str(s.port)).code == 0)
fails("ps --health where nobody is", precis("ps", "--health", "--port", "1"), 1, "port 1")

# ---- keys ----
ok("both keys open", knows(s, "one") and knows(s, "two") and not knows(s, "three"))
keys_file("two", "three")
ask = lambda: s.ask("POST", "/v1/completions", {"prompt": "a", "max_tokens": 4, "temperature": 0},
                    headers={"Authorization": "Bearer two"})[1].get("X-Cache")
ok("an answer is kept", (ask(), ask()) == ("MISS", "HIT"))
s.process.send_signal(signal.SIGHUP)
ok("after SIGHUP the new one opens, the old one does not", until(lambda: knows(s, "three")) and not knows(s, "one")
   and knows(s, "two"))
ok("kept answers are forgotten, for a name may be another's now", until(lambda: ask() == "MISS"))
ok("the manager hears of that too", "RELOADING=1" in manager.heard or manager.hears("RELOADING=1"))
ok("ready again", manager.hears("READY=1", 2))
write("keys", b"nonsense\n")
s.process.send_signal(signal.SIGHUP)
ok("a bad file is told of", until(lambda: any("not read again" in l.get("message", "") and "line 1" in l["message"]
                                              for l in s.log())), str(s.log()[-3:]))
ok("and changes nothing", knows(s, "two") and knows(s, "three"))
ok("it still runs", s.process.poll() is None)
code = s.stop()
ok("the manager hears of the end", code == 0 and manager.hears("STOPPING=1"), str(manager.heard))

# ---- without keys there is nothing to read again ----
s = Server(model)
s.process.send_signal(signal.SIGHUP)
ok("SIGHUP without keys is told of", until(lambda: any("no file of API keys" in l.get("message", "") for l in s.log())))
ok("and is no end", s.process.poll() is None and s.ask("GET", "/health")[0] == 200)
ok("stops", s.stop() == 0)

# ---- what it does without, and where it ends ----
s = Server(model, env={"XDG_RUNTIME_DIR": "/proc/nowhere"})
ok("it serves where its run file cannot be written, and says so", s.ask("GET", "/health")[0] == 200
   and any("ps and stop will not find" in l.get("message", "") for l in s.log()), str(s.log()))
listening = [s.begin("GET", "/api/v1/quantization/events") for _ in range(66)]
ok("64 clients listen to decisions, more are told to wait", [r.status for r in listening] == [200] * 64 + [503] * 2)
for r in listening:
    r.connection.close()
ok("and make room", until(lambda: s.begin("GET", "/api/v1/quantization/events").status == 200))
ok("stops with a listener", s.stop() == 0)
s = precis("serve", "--threads", "1000", model)
fails("no thousand threads", s, 2 if s.code == 2 else 1, "--threads: 1000 is more than 256")

# ---- bench/cold_start.py, whose figures are for quiet machines ----
model = os.environ.get("PRECIS_TEST_MODEL", "")
if os.path.isfile(model):
    r = subprocess.run([os.path.join(ROOT, "bench/cold_start.py"), model, "--runs", "1", "--json", "--precis", PRECIS],
                       stdout=subprocess.PIPE, text=True)
    told = json.loads(r.stdout) if r.stdout else {}
    ok("a cold start is timed", r.returncode == 0 and all(0 < t["listens"] <= t["healthy"] <= t["first token"]
                                                         for t in (told["cold"], told["warm"])), str(told))
else:
    skipped("a cold start", "it needs the default model")
finish()
