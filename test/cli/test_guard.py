#!/usr/bin/env python3
"""What happens over HTTP when memory is short: floors refused and parked, forced levels, the guard's three measures, the queue."""

import os
import shutil
import socket
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lib import elastic_model, finish, ok, path, write  # noqa: E402
from server import Server, events, until  # noqa: E402
from squeezing import Q, TEXT  # noqa: E402

os.environ["XDG_RUNTIME_DIR"] = path("runtime")
MODELS = os.environ["PRECIS_MODELS"]
first = elastic_model(MODELS, "first")
shutil.copy(first, os.path.join(MODELS, "second.planes.gguf"))
source = write("memory", b"0.20\n")
s = Server("--memory-source", source, "--memory", "400M", "--dwell", "1", "--park", "5", "--threads", "1",
           "--response-cache-mb", "0", "--recent-cache", "0")


def squeeze_to(x):
    write("memory.new", b"%.2f\n" % x)
    os.replace(path("memory.new"), source)


def model(name="first"):
    return next((m for m in s.get(Q + "status")["current_models"] if m["name"] == name), {"level": "none"})


class Stream(threading.Thread):
    """A stream that is read as it comes."""

    def __init__(self, server=None, **fields):
        super().__init__(daemon=True)
        self.body = dict({"model": "first", "prompt": "Once upon a time", "max_tokens": 1000, "stream": True,
                          "logit_bias": {"2": -100}, "seed": 1}, **fields)
        self.server, self.got, self.status = server or s, [], None
        self.start()

    def run(self):
        r = self.server.begin("POST", TEXT, self.body)
        self.status, self.goes = r.status, False
        for e in events(r):
            self.got.append(e)
            if self.goes:
                r.connection.sock.shutdown(socket.SHUT_RDWR)

    def begun(self):
        return until(lambda: len(self.got) > 5, 60)

    def last(self):
        """How it ended; {} when it did not."""
        self.join(60)
        ends = [e for e in self.got if e != "[DONE]" and "choices" in e and e["choices"][0]["finish_reason"]]
        return {"finish": ends[0]["choices"][0]["finish_reason"], "levels": ends[0]["precis"]["levels"]} if ends else {}

    def text(self):
        return "".join(e["choices"][0]["text"] for e in self.got if e != "[DONE]" and "choices" in e)


# ---- forced levels: batches of their own beside the model's ----
LEVELS = ["int2", "int4", "int8", "fp16"]
short = dict(max_tokens=40, temperature=0)
alone = {level: Stream(force_quantization=level, **short) for level in LEVELS}
for t in alone.values():
    t.last()
together = {level: Stream(force_quantization=level, **short) for level in LEVELS}
free = Stream(**short)
for level in LEVELS:
    end = together[level].last()
    ok("forced to %s: nothing else" % level, end.get("levels") == [level] and end.get("finish") == "length", str(end))
    ok("forced to %s: the same text in company" % level, together[level].text() == alone[level].text() and alone[level].text())
ok("not forced: the model's level", free.last().get("levels") == ["fp16"] and free.text() == alone["fp16"].text())
ok("levels are not the same", len({t.text() for t in alone.values()}) > 1)

# ---- a floor that cannot be met: parked, then the end of it ----
before = s.get(Q + "status")["requests"]["done"]
bound, easy = Stream(min_quantization="int8"), Stream(min_quantization="int2", seed=2)
ok("two streams run", bound.begun() and easy.begun())
squeeze_to(.90)  # a floor that is held is held up to .95
time.sleep(.6)
ok("a floor holds to the last", model()["level"] == "int8" and s.get(Q + "status")["requests"]["parked"] == 0, str(model()))
squeeze_to(.97)
ok("then its stream is parked", until(lambda: s.get(Q + "status")["requests"]["parked"] == 1), str(s.get(Q + "status")["requests"]))
ok("and the model goes down", until(lambda: model()["level"] == "int2"), str(model()))
status, head, j = s.ask("POST", TEXT, {"model": "first", "prompt": "x", "max_tokens": 2, "min_quantization": "int8"})
ok("a new one with such a floor: 503, why, and when", status == 503 and "min_quantization" in j["error"]["message"]
   and int(head["Retry-After"]) >= 1, str(j))
end = bound.last()
ok("what was parked too long ends with what it has", bound.status == 200 and end.get("finish") == "capacity"
   and set(end.get("levels", "x")) <= {"fp16", "int8"} and bound.got[-1] == "[DONE]" and len(bound.got) > 5, str(end))
ok("the other went on below", easy.is_alive() or easy.last().get("finish") == "length")
squeeze_to(.20)
end = easy.last()
ok("to its end", end.get("finish") == "length" and "int2" in end.get("levels", ()), str(end))
ok("both are counted as done", until(lambda: s.get(Q + "status")["requests"]["done"] == before + 2))
ok("and back", until(lambda: model()["level"] == "fp16", 30), str(model()))

# ---- parked, and then there is room ----
bound = Stream(min_quantization="fp16", max_tokens=400)
ok("a stream at fp16", bound.begun())
squeeze_to(.97)
ok("parked", until(lambda: s.get(Q + "status")["requests"]["parked"] == 1))
squeeze_to(.20)
end = bound.last()
ok("goes on where it stood", end.get("finish") == "length" and end.get("levels") == ["fp16"]
   and len(bound.got) > 100, str(end))
Stream(min_quantization="fp16", max_tokens=400).last()

# ---- the guard: alert, caches, emergency ----
long = "Once upon a time there was a little girl who lived in a house near the big dark forest with her dog and her cat. "
for name in ("second", "first"):
    s.post(TEXT, {"model": name, "prompt": long * 3, "max_tokens": 2})
ok("two models, and prefixes", s.get(Q + "cache")["models_cached"] == 2 and s.get(Q + "cache")["prefix_bytes"] > 0)
s.post(Q + "level", {"model": "first", "level": "int8"})
ok("one set by hand", until(lambda: model()["level"] == "int8"))


def guard():
    return s.get("/health")["memory_guard"]


def told(text):
    return [l for l in s.log() if l.get("event") == "memory" and text in l["reason"]]


squeeze_to(.81)
ok("over .80: alert", until(lambda: guard() == "alert", 15) and told("alert: memory 81.0%"), str(told("")))
ok("nothing else", s.get(Q + "cache")["prefix_bytes"] > 0 and s.get(Q + "cache")["models_cached"] == 2)
squeeze_to(.92)
ok("over .90: caches cleared", until(lambda: guard() == "clearing", 15) and told("caches cleared: memory 92.0%"), str(told("")))
ok("prefixes are gone, models not", until(lambda: s.get(Q + "cache")["prefix_bytes"] == 0)
   and s.get(Q + "cache")["models_cached"] == 2, str(s.get(Q + "cache")))
many = [Stream(min_quantization="int2", max_tokens=1900, seed=20 + i) for i in range(4)]
ok("streams run", all(t.begun() for t in many))
before = s.get(Q + "memory")
squeeze_to(.96)
ok("over .95: emergency", until(lambda: guard() == "emergency", 15) and told("emergency: memory 96.0%"), str(told("")))
ok("int2, whatever was set", until(lambda: model()["level"] == "int2"), str(model()))
ok("idle models out", until(lambda: model("second")["level"] == "none"), str(s.get(Q + "status")["current_models"]))
after = s.get(Q + "memory")
freed = before["ledger_bytes"]["weights"] - after["ledger_bytes"]["weights"]
ok("and memory back to the system", freed > 15e6 and until(lambda: (before["process_memory_gb"] - s.get(Q + "memory")
   ["process_memory_gb"]) * 1e9 > .7 * freed), "%s %s" % (before, after))
ends = [t.last() for t in many]
ok("the streams live", all(e.get("finish") == "length" and "int2" in e["levels"] for e in ends), str(ends))
squeeze_to(.20)
ok("all clear", until(lambda: guard() == "ok", 15) and told("all clear"), str(told("")))
s.ask("POST", TEXT, {"model": "first", "prompt": "x", "max_tokens": 2})
ok("no error but the refusal", {l["status"] for l in s.log() if l.get("event") == "request"} == {200, 503}
   and len([l for l in s.log() if l.get("event") == "request" and l["status"] == 503]) == 1)
ok("stops", s.stop() == 0)

# ---- the queue ----
s = Server("--serial", "--threads", "1", "--memory-source", source)
running = Stream(s, max_tokens=1900)
ok("one runs", running.begun())
waiting = []
for i in range(2):
    waiting.append(Stream(s, max_tokens=3, seed=10 + i, stream_options={"include_events": True}))
    until(lambda: s.get(Q + "status")["requests"]["queued"] == i + 1)
ok("places are told", until(lambda: all(t.got for t in waiting), 30))
running.goes = True
for i, t in enumerate(waiting):
    end = t.last()
    places = [e for e in t.got if isinstance(e, dict) and e.get("event") == "queue"]
    ok("place %d in the queue is told" % (i + 1), places and places[0]["position"] == i + 1 and places[0]["estimate_seconds"] >= 0
       and [p["position"] for p in places] == sorted((p["position"] for p in places), reverse=True), str(t.got)[:500])
ok("and all are answered", all(t.got[-1] == "[DONE]" for t in waiting if t.last()))
ok("stops again", s.stop() == 0)
finish()
