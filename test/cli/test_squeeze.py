#!/usr/bin/env python3
"""A squeeze over HTTP: requests come and go while memory, as a script tells it, shrinks and grows.

What level is due at each point is worked out here from the table of the specification, not asked of the program.
"""

import os
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lib import elastic_model, finish, ok, path, write  # noqa: E402
from server import Server, events, until  # noqa: E402
from squeezing import LEVELS, Q, TEXT, Client, moves  # noqa: E402

os.environ["XDG_RUNTIME_DIR"] = path("runtime")
elastic_model(os.environ["PRECIS_MODELS"], "s25")
def falls(before, after, freed):
    """Weights by exactly that; the process by what all purposes together do, since keys and values grow meanwhile."""
    was, now = before["ledger_bytes"], after["ledger_bytes"]
    process = (after["process_memory_gb"] - before["process_memory_gb"]) * 1e9
    return was["weights"] - freed == now["weights"] and abs(process - sum(now.values()) + sum(was.values())) < 4e6


def squeeze(name, points, floor, **fields):
    source = write("memory", b"%.2f\n" % points[0][1])
    s = Server("--memory-source", source, "--memory", "400M", "--dwell", "1", "--context", "2048", "--threads", "1")
    heard, clients, stopped, history = [], [], [], []
    listener = s.begin("GET", Q + "events", timeout=600)
    threading.Thread(target=lambda: heard.extend(e for e in events(listener) if e["kind"] == "move"), daemon=True).start()
    level, expected, sizes = None, [], None

    def model():
        return s.get(Q + "status")["current_models"][0]

    for requests, used in points:
        before = s.get(Q + "memory")
        begin = time.time()
        write("memory.new", b"%.2f\n" % used)
        os.replace(path("memory.new"), source)
        while len(clients) > requests:
            clients[-1].wanted = False
            stopped.append(clients.pop())
        while len(clients) < requests:
            clients.append(Client(s, len(clients) + len(stopped), **fields))
        point = "%s: %d requests at %.2f" % (name, requests, used)
        way = moves(level, used, requests, floor)
        for to in way:
            if level:
                expected.append((level, to, used))
            level = to
        ok("%s: %s" % (point, level), until(lambda: s.get(Q + "status")["current_models"] and model().get("level") == level
                                            and model()["weight_bytes"] == model()["level_bytes"][level], 60), str(model()))
        sizes = model()["level_bytes"]
        if requests:
            ok("%s are at work" % point, until(lambda: s.get(Q + "status")["active_requests"] == requests, 60))
        ok("%s are told" % point, until(lambda: len(heard) == len(expected)), str(heard))
        history.append({"level": level, "way": way, "set": begin, "reached": time.time()})
        if expected and expected[-1][2] == used and LEVELS.index(expected[-1][1]) < LEVELS.index(expected[-1][0]):
            freed = -heard[-1]["bytes"]
            ok("%s: memory falls as announced" % point, until(lambda: falls(before, s.get(Q + "memory"), freed)),
               "%s %s %d" % (before, s.get(Q + "memory"), freed))
        tick = time.time() + .7
        ok("%s: it stays there" % point, all(model()["level"] == level for _ in iter(lambda: time.time() < tick, False)))
    for c in stopped:
        c.join(120)
    ok("%s: nothing is left" % name, until(lambda: s.get(Q + "status")["active_requests"] == 0))
    check_streams(name, [t for c in stopped for t in c.streams], history)
    check_events(name, heard, expected, sizes)
    codes = [l["status"] for l in s.log() if l.get("event") == "request"]
    ok("%s: no answer but 200" % name, codes and set(codes) == {200}, str(codes))
    ok("%s: the server stops" % name, s.stop() == 0)


def check_streams(name, streams, history):
    ok("%s: %d streams end as they should" % (name, len(streams)),
       all(t["status"] == 200 and t["finish"] == "length" and t["done"] for t in streams),
       str([t for t in streams if not t["done"]]))
    crossed = 0
    for t in streams:
        in_force = set()
        for i, h in enumerate(history):
            ended = history[i + 1]["reached"] if i + 1 < len(history) else t["end"]
            if h["set"] <= t["end"] and t["first"] <= ended:
                in_force |= {h["level"], *h["way"]}
        must = {history[i - 1]["level"] for i in range(1, len(history)) if t["first"] < history[i]["set"]
                and t["first"] > history[i - 1]["reached"] and t["end"] > history[i]["reached"] + 1}
        must |= {h["level"] for h in history if t["first"] < h["reached"] < t["end"] - 1}
        crossed += len(must) > 1
        if not must <= set(t["levels"]) <= in_force or t["last"] not in t["levels"]:
            ok("%s: levels of a stream" % name, False, "%s of %s, at least %s" % (t, in_force, must))
    ok("%s: levels of all streams, %d of them moved on the way" % (name, crossed),
       crossed > 0 or len(history) < 5)  # on a quick machine none may live through one of few moves


def check_events(name, heard, expected, sizes):
    ok("%s: each move is told, and no other" % name, [(e["from"], e["to"]) for e in heard] == [e[:2] for e in expected],
       str(heard))
    for e, (start, to, used) in zip(heard, expected):
        down = LEVELS.index(to) < LEVELS.index(start)
        good = (e["bytes"] == sizes[to] - sizes[start] and "memory %.0f%%" % (used * 100) in e["reason"]
                and any(w in e["reason"] for w in (["frees"] if down else ["calm", "the floor is"])) and e["model"] == "s25" and e["seconds"] >= 0)
        ok("%s: %s to %s with bytes and reason" % (name, start, to), good, str(e))


def budgets():
    """The most that weights may take, by flag and by hand; the table goes on deciding below."""
    source = write("memory", b"0.20\n")
    s = Server("--memory-source", source, "--memory", "400M", "--weights-budget", "20M", "--dwell", "1")

    def stands(level, least, most):
        m = s.get(Q + "status")["current_models"][0]
        return m["level"] == level and least < m["weight_bytes"] <= most

    ask = {"prompt": "Once", "max_tokens": 4}
    ok("budget: loaded within it", s.ask("POST", TEXT, ask)[0] == 200 and stands("int4", 19e6, 20e6))
    s.post(Q + "level", {"weights_budget_mb": 30})
    ok("budget: more by hand", until(lambda: stands("int8", 29e6, 30e6)), str(s.get(Q + "status")["current_models"]))
    s.post(Q + "level", {"weights_budget_mb": 8})
    ok("budget: less than int2", until(lambda: stands("int2", 7e6, 8e6)), str(s.get(Q + "status")["current_models"]))
    status, _, j = s.ask("POST", Q + "level", {"weights_budget_mb": 1})
    ok("budget: less than there is", status == 400 and "at least" in j["error"]["message"], str(j))
    s.post(Q + "level", {"level": "auto"})
    ok("budget: the first again", until(lambda: stands("int4", 19e6, 20e6)), str(s.get(Q + "status")["current_models"]))
    ok("budget: stops", s.stop() == 0)
    s = Server("--weights-budget", "1M")
    status, _, j = s.ask("POST", TEXT, ask)
    ok("budget: too small for a model", status == 503 and "at least" in j["error"]["message"], str(j))
    ok("budget: stops again", s.stop() == 0)


budgets()
squeeze("floor int2", [(1, .35), (3, .48), (8, .68), (3, .90), (0, .35)], "int2", min_quantization="int2")
squeeze("small models", [(1, .50), (3, .60), (1, .90), (0, .39)], "int4")  # under 1e9 parameters: not below int4
finish()
