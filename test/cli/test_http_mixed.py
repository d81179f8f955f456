#!/usr/bin/env python3
"""500 requests of every kind, many of them malformed, from six clients at once: no crash, nothing left over, and (with a
sanitized build, PRECIS=build/asan/precis, as test/slow/test_mixed_sanitized.py runs it) no leak.

PRECIS_MIXED_SEED makes it another load; PRECIS_MIXED_REQUESTS a longer one.
"""

import os
import shutil
import sys
import threading

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lib import finish, ok, path, precis, small_model  # noqa: E402
from mixed import Q, Mixer, tally  # noqa: E402
from server import Server, until  # noqa: E402

os.environ["XDG_RUNTIME_DIR"] = path("runtime")
MODELS = os.environ["PRECIS_MODELS"]
SEED = int(os.environ.get("PRECIS_MIXED_SEED", "1"))
REQUESTS = int(os.environ.get("PRECIS_MIXED_REQUESTS", "500"))
CLIENTS = 6
os.makedirs(MODELS)
for name in ("plain", "tiny"):
    shutil.copy(small_model(), os.path.join(MODELS, name + ".gguf"))
    os.chmod(os.path.join(MODELS, name + ".gguf"), 0o644)
r = precis("pack", "--fast", os.path.join(MODELS, "tiny.gguf"), os.path.join(MODELS, "tiny.planes.gguf"), timeout=600)
ok("an elastic model", r.code == 0, str(r))

s = Server()
fds = lambda: len(os.listdir("/proc/%d/fd" % s.process.pid))  # noqa: E731
s.get("/health")
mixers = [Mixer(s, ["plain", "tiny"], SEED * 100 + i, elastic=["tiny"]) for i in range(CLIENTS)]


def work(m):
    for _ in range(-(-REQUESTS // CLIENTS)):
        m.step()


threads = [threading.Thread(target=work, args=(m,)) for m in mixers]
for t in threads:
    t.start()
for t in threads:
    t.join()
counts, problems = tally(mixers)
total = sum(counts.values())
print("%d requests, the slowest %.1f s (%s): %s" % ((total, *max(m.slowest for m in mixers),
                                                   ", ".join("%s: %d" % c for c in sorted(counts.items())))))
ok("%d mixed requests, and each had its answer" % total, total >= REQUESTS and not problems, str(problems[:5]))
ok("it still runs", s.process.poll() is None)
status = lambda: s.get(Q + "status")  # noqa: E731
ok("nothing is left running", until(lambda: status()["active_requests"] == 0 and status()["requests"]["queued"] == 0, 30),
   str(status()))
s.post(Q + "cache/clear", {})
ok("nor open", until(lambda: fds() < 40, 30), str(fds()))
ok("no request failed by itself", not [l for l in s.log() if l.get("event") == "request" and l["status"] in (500, 502, 504)])
ok("stops", s.stop(timeout=60) == 0)
log = open(s.log_path).read()
ok("no sanitizer complains", "Sanitizer" not in log and "runtime error" not in log, log[-3000:] if "Sanitizer" in log else "")
finish()
