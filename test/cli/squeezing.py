"""Squeezes: what level is due by the specification's table, clients that come and go, memory that is really eaten."""

import os
import subprocess
import sys
import threading
import time

from lib import ok, skipped
from server import Server, events, until

TEXT, Q = "/v1/completions", "/api/v1/quantization/"
LEVELS = ["int2", "int4", "int8", "fp16"]
ROWS = [(.40, "fp16", "int8", "int4", "int4"), (.60, "int8", "int4", "int4", "int4"), (.75, "int4", "int4", "int4", "int4"),
        (.85, "int4", "int4", "int4", "int2"), (9, "int2", "int2", "int2", "int2")]


def table(used, requests):
    row = next(r for r in ROWS if used < r[0])
    return row[1 if requests < 2 else 2 if requests <= 5 else 3 if requests < 10 else 4]


def moves(level, used, requests, floor):
    """From a level (None: not loaded): what follows while memory and requests stay as they are, calm time and all."""
    due = max(table(used, requests), floor, key=LEVELS.index)
    if level is None:
        return [due]
    if used >= .60:
        return [due] if LEVELS.index(due) < LEVELS.index(level) else []
    if used < .40 and requests < 2:
        return LEVELS[LEVELS.index(level) + 1:LEVELS.index(due) + 1]
    return []


class Client(threading.Thread):
    """One request after the other for as long as it is wanted."""

    def __init__(self, server, number, tokens=800, timeout=60, **fields):
        super().__init__(daemon=True)
        self.server, self.timeout, self.wanted, self.streams = server, timeout, True, []
        self.body = dict(fields, prompt="Once upon a time number %d" % number, max_tokens=tokens, stream=True, seed=number,
                         logit_bias={"2": -100})  # its end token
        self.start()

    def run(self):
        while self.wanted:
            self.body["seed"] += 1000  # no answer from a cache
            r = self.server.begin("POST", TEXT, self.body, timeout=self.timeout)
            stream = {"status": r.status, "first": None, "end": None, "finish": None, "levels": None, "done": False}
            self.streams.append(stream)
            for e in events(r):
                stream["first"] = stream["first"] or time.time()
                if e == "[DONE]":
                    stream["done"] = True
                elif e["choices"][0]["finish_reason"]:
                    stream.update(finish=e["choices"][0]["finish_reason"], levels=e["precis"]["levels"],
                                  last=e["precis"]["level"])
            stream["end"] = time.time()
            r.connection.close()


# ---- memory that is really eaten ----

EATER = """
import mmap, sys
held = mmap.mmap(-1, int(sys.argv[1]), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
step, used = 1 << 20, 0
for line in sys.stdin:
    want = int(line) // step * step
    while used < want:
        held[used:used + step] = b"x" * step
        used += step
    if want < used:
        held.madvise(mmap.MADV_DONTNEED, want, used - want)
        used = want
    print(used, flush=True)
"""


class Ballast:
    """A process that holds as many bytes as it is told to."""

    def __init__(self, most, begin=()):
        self.process = subprocess.Popen([*begin, sys.executable, "-c", EATER, str(most)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)

    def hold(self, size):
        self.process.stdin.write("%d\n" % size)
        self.process.stdin.flush()
        return self.process.stdout.readline() != ""

    def end(self):
        self.process.kill()
        self.process.wait()


class Group:
    """A control group of memory with a limit, below the one we are in; self.folder is None where none can be made."""

    def __init__(self, limit):
        self.folder, self.why = None, "no memory control group"
        for line in open("/proc/self/cgroup"):
            _, controllers, own = line.rstrip("\n").split(":", 2)
            if controllers == "memory":
                self.make("/sys/fs/cgroup/memory" + own, "memory.limit_in_bytes", limit)
            elif controllers == "" and not self.folder and os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
                self.make("/sys/fs/cgroup" + own, "memory.max", limit)

    def make(self, parent, file, limit):
        folder = os.path.join(parent, "precis-test-%d" % os.getpid())
        try:
            os.mkdir(folder)
            try:
                with open(os.path.join(folder, file), "w") as f:
                    f.write(str(limit))
                self.folder = folder
            except OSError:
                os.rmdir(folder)
                raise
        except OSError as e:
            self.why = str(e)

    def begin(self):
        """Before a command: run it inside."""
        return ["/bin/sh", "-c", "echo $$ >%s/cgroup.procs && exec \"$@\"" % self.folder, "sh"]

    def end(self):
        return until(lambda: not os.path.exists(self.folder) or try_remove(self.folder))


def try_remove(folder):
    try:
        os.rmdir(folder)
        return True
    except OSError:
        return False


class Watch(threading.Thread):
    """The most memory used, of the limit, that the server sees while it works."""

    def __init__(self, server):
        super().__init__(daemon=True)
        self.server, self.on, self.most = server, True, 0
        self.start()

    def run(self):
        while self.on:
            self.most = max(self.most, self.server.get(Q + "memory")["percent_used"] / 100)
            time.sleep(.05)


def choice(memory, model, requests, more):
    """The level that the table grants, were others to use `more` of the limit than they do."""
    total = memory["total_gb"] * 1e9
    others = memory["used_gb"] * 1e9 - model["weight_bytes"] + more * total
    for level in reversed(LEVELS):
        if LEVELS.index(table((others + model["level_bytes"][level]) / total, requests)) >= LEVELS.index(level):
            return level
    return "int2"


def settled(server):
    """The model, once its weights have stood still for a second."""
    last, since = None, time.time()
    while time.time() - since < 1:
        model = server.get(Q + "status")["current_models"][0]
        if model["weight_bytes"] != last:
            last, since = model["weight_bytes"], time.time()
        time.sleep(.05)
    return model


def really_squeeze(name, limit, parts, requests=3):
    """A server and a ballast in one control group of `limit` bytes; the ballast takes these parts of it, one after the other."""
    group = Group(limit)
    if not group.folder:
        return skipped(name, "a control group of memory cannot be made: %s" % group.why)
    ballast = server = None
    try:
        ballast = Ballast(limit, group.begin())
        server = Server("--dwell", "1", "--context", "2048", "--threads", "1", begin=group.begin())
        squeeze_in_group(name, server, ballast, limit, parts, requests)
    finally:
        if server:
            ok("%s: the server was never killed" % name, server.stop(timeout=120) == 0, open(server.log_path).read()[-500:])
        if ballast:
            ballast.end()
        ok("%s: the control group is gone" % name, group.end())


def stands(server, requests):
    """Where the model has come to rest: its level, that in words, and what is wrong with it by the table, or None."""
    model = settled(server)
    memory = server.get(Q + "memory")
    what = "%s with %.1f MB, use %.0f%%" % (model["level"], model["weight_bytes"] / 1e6, memory["percent_used"])
    least, most = (choice(memory, model, requests, more) for more in (.02, -.02))
    # Under 60% it may stay where it was.
    right = memory["percent_used"] < 60 or LEVELS.index(least) <= LEVELS.index(model["level"]) <= LEVELS.index(most)
    return model["level"], what, None if right else "%s to %s" % (least, most)


def squeeze_in_group(name, server, ballast, limit, parts, requests, patience=20, **client):
    """patience: seconds that a move may take to begin; client: what its clients are made with."""
    ok("%s: the limit is the control group's" % name, abs(server.get(Q + "memory")["total_gb"] * 1e9 - limit) < 1e6)
    clients = [Client(server, i, min_quantization="int2", **client) for i in range(requests)]
    ok("%s: loaded" % name, until(lambda: all(c.streams and c.streams[0]["first"] for c in clients), 120 + patience))
    watch = Watch(server)
    seen = [settled(server)["level"]]
    for part in parts:
        ok("%s: %.0f%% of memory eaten" % (name, part * 100), ballast.hold(int(part * limit)))
        until(lambda: not stands(server, requests)[2], patience)
        level, what, wrong = stands(server, requests)
        seen.append(level)
        ok("%s: %.0f%% eaten: %s" % (name, part * 100, what), not wrong, wrong)
    order = [LEVELS.index(l) for l in seen]
    ok("%s: down, and only down: %s" % (name, " ".join(seen)), order == sorted(order, reverse=True) and order[0] > order[-1])
    ok("%s: all went on" % name, all(c.streams[-1]["first"] or len(c.streams) > 1 for c in clients))
    ballast.hold(0)
    for c in clients:
        c.wanted = False
    for c in clients:
        c.join(300 + patience)
    ok("%s: and back: %s" % (name, seen[0]), until(lambda: LEVELS.index(server.get(Q + "status")["current_models"][0]["level"])
                                                   >= order[0], 60 + patience), str(server.get(Q + "status")["current_models"]))
    watch.on = False
    watch.join(10)
    streams = [t for c in clients for t in c.streams]
    ok("%s: %d streams end as they should" % (name, len(streams)),
       all(t["status"] == 200 and t["finish"] == "length" and t["done"] for t in streams), str(streams)[:500])
    ok("%s: never over the limit: %.0f%% at most" % (name, watch.most * 100), watch.most <= 1)
    moved = [l for l in server.log() if l.get("event") == "level"]
    ok("%s: each of %d moves is logged with bytes and reason" % (name, len(moved)), moved
       and all(l["bytes"] and ("memory" in l["reason"] or "would not fit" in l["reason"]) for l in moved), str(moved))
