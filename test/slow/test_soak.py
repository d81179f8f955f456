#!/usr/bin/env python3
"""Half an hour of everything at once (PRECIS_SOAK_SECONDS): random requests of two keys, one with limits, to several models, that
are cancelled, malformed, too long; levels moved by hand and by a memory that swings; caches cleared.

Ten times the load pauses, memory is plentiful, every model answers one question, and the server is measured at rest. After the
first three rests, which warm it up, its memory must stay within 2%, its descriptors and its ledger as they were; nothing may be
left running, and no error have been seen but the announced ones: 429 for the limited key, 503 with Retry-After.
"""

import hashlib
import os
import random
import re
import shutil
import statistics
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../cli"))
from lib import DATA, finish, ok, path, precis, small_model, write  # noqa: E402
from mixed import TEXT, Q, Mixer, tally  # noqa: E402
from server import Server, until  # noqa: E402

SECONDS = float(os.environ.get("PRECIS_SOAK_SECONDS", "1800"))
SEED = int(os.environ.get("PRECIS_SOAK_SEED", str(random.randrange(1 << 20))))
RESTS, WARM, CLIENTS = 10, 3, 8
RSS_SLACK = 0.02

os.environ["XDG_RUNTIME_DIR"] = path("runtime")
MODELS = os.environ["PRECIS_MODELS"]
os.makedirs(MODELS)


def add_model(name, source, packs):
    target = os.path.join(MODELS, name + ".gguf")
    shutil.copy(source, target)
    os.chmod(target, 0o644)
    if packs:
        r = precis("pack", "--fast", target, os.path.join(MODELS, name + ".planes.gguf"), timeout=600)
        ok("%s, elastic" % name, r.code == 0, str(r))


add_model("one", small_model(), True)
add_model("two", small_model(), False)
stories = os.path.join(DATA, "models/stories260K/stories260K-f16.gguf")
add_model("three", stories if os.path.isfile(stories) else small_model(), False)
names = ["one", "two", "three"]
secrets = ["sk-soak-all", "sk-soak-few"]
keys = write("keys", b"all %s\nfew %s rpm=30 concurrent=2\n" % tuple(hashlib.sha256(k.encode()).hexdigest().encode()
                                                                     for k in secrets))
squeeze = write("memory", b"0.20\n")


def squeeze_to(x):
    write("memory.new", b"%.2f\n" % x)
    os.replace(path("memory.new"), squeeze)


print("seed %d, %.0f s" % (SEED, SECONDS), flush=True)
s = Server("--keys", keys, "--memory-source", squeeze, "--memory", "2G", "--dwell", "1", key=secrets[0])

# ---- the load, which can pause ----
going, over = threading.Event(), threading.Event()
mixers = [Mixer(s, names, SEED * 1000 + i, key=secrets[0], elastic=["one"], forces=("int2", "int4", "int8"))
          for i in range(CLIENTS)]


class Limited(Server):
    """The same server, for the key with limits."""

    def __init__(self, other, key):
        self.__dict__.update(other.__dict__)
        self.key = key


mixers.append(Mixer(Limited(s, secrets[1]), names, SEED * 1000 + 500, key=secrets[1], limited=True))
idle = [threading.Event() for _ in mixers]


def work(i):
    while not over.is_set():
        if going.is_set():
            idle[i].clear()
            mixers[i].step()
        else:
            idle[i].set()
            time.sleep(0.05)


def swing():
    rnd = random.Random(SEED)
    while not over.is_set():
        squeeze_to(rnd.choice((0.2, 0.3, 0.45, 0.65, 0.8, 0.88)) if going.is_set() else 0.2)
        time.sleep(2)


# ---- at rest ----
def status():
    return s.get(Q + "status")


def process(name):
    text = open("/proc/%d/status" % s.process.pid).read()
    return int(re.search(r"%s:\s+(\d+)" % name, text).group(1))


def is_still():
    j = status()
    return j["active_requests"] == 0 and j["requests"]["running"] == 0 and j["requests"]["queued"] == 0


def rest():
    """Stop the load, bring the server into the same state each time, and measure it: {rss, fds, threads, ledger}."""
    going.clear()
    for e in idle:
        e.wait(120)
    squeeze_to(0.2)
    still = until(is_still, 60)
    stuck = None if still else status()["requests"]
    s.post(Q + "cache/clear", {})
    for name in names:
        s.post(TEXT, {"model": name, "prompt": "Once upon a time", "max_tokens": 8, "seed": 1})
    s.post(Q + "level", {"model": "one", "level": "auto"})
    until(lambda: next(m["level"] for m in status()["current_models"] if m["name"] == "one") == "fp16", 60)
    until(lambda: len(os.listdir("/proc/%d/fd" % s.process.pid)) < 60, 30)  # what lingers ends
    time.sleep(2)
    rss = []
    for _ in range(5):
        rss.append(process("VmRSS"))
        time.sleep(0.2)
    return {"rss": statistics.median(rss), "fds": len(os.listdir("/proc/%d/fd" % s.process.pid)), "threads": process("Threads"),
            "ledger": s.get(Q + "memory")["ledger_bytes"], "stuck": stuck}


threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(len(mixers))]
threads.append(threading.Thread(target=swing, daemon=True))
for t in threads:
    t.start()
rests = []
for i in range(RESTS):
    going.set()
    time.sleep(SECONDS / RESTS)
    rests.append(rest())
    print("rest %d: %d kB, %d descriptors, %d threads, ledger %d" % (
        i + 1, rests[-1]["rss"], rests[-1]["fds"], rests[-1]["threads"], sum(rests[-1]["ledger"].values())), flush=True)
over.set()
for t in threads:
    t.join(120)

# ---- the verdict ----
counts, problems = tally(mixers)
early, late = rests[WARM:WARM + 3], rests[-3:]
first, last = (statistics.median(r["rss"] for r in part) for part in (early, late))
growth = last / first - 1
ok("no error but the announced ones", not problems, "%d: %s" % (len(problems), problems[:5]))
ok("memory is flat", abs(growth) <= RSS_SLACK, "%+.2f%%: %s" % (100 * growth, [r["rss"] for r in rests]))
ok("descriptors are flat", max(r["fds"] for r in late) <= max(r["fds"] for r in early), str([r["fds"] for r in rests]))
ok("threads are flat", max(r["threads"] for r in late) <= max(r["threads"] for r in early), str([r["threads"] for r in rests]))
ok("no request got stuck", not [r for r in rests if r["stuck"]], str([r["stuck"] for r in rests]))
apart = {tag: late[-1]["ledger"][tag] - n for tag, n in early[0]["ledger"].items()
         if abs(late[-1]["ledger"][tag] - n) > max(64 << 10, n * RSS_SLACK)}
ok("the ledger is as it was", not apart, str(apart))
ok("it did a lot", sum(counts.values()) > SECONDS * 2 and any(n.endswith(" 429") for n in counts), str(counts))
ok("levels moved", any(l.get("event") == "level" for l in s.log()))
ok("no request failed by itself", not [l for l in s.log() if l.get("event") == "request" and l["status"] in (500, 502, 504)])
ok("stops", s.stop(timeout=60) == 0)
print("soak: %.0f s, %d requests (%s), RSS %.1f -> %.1f MB (%+.2f%%), peak %d descriptors at rest" % (
    SECONDS, sum(counts.values()), ", ".join("%s: %d" % c for c in sorted(counts.items())), first / 1e3, last / 1e3, 100 * growth,
    max(r["fds"] for r in rests)))
finish()
