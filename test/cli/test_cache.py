#!/usr/bin/env python3
"""Kept answers: equal bytes, replayed streams, single flight, isolation, opting out, bounds, pressure (docs/CACHES.md)."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from gguf import CHATML, with_text  # noqa: E402
from lib import finish, ok, path, precis, sanitized, small_model, write  # noqa: E402
from server import Server, events, until  # noqa: E402

os.environ["XDG_RUNTIME_DIR"] = path("runtime")
MODELS = os.environ["PRECIS_MODELS"]
os.makedirs(MODELS)
source = os.path.join(MODELS, "tiny.gguf")
try:
    with_text(small_model(), source, "tokenizer.chat_template", CHATML)
except AssertionError:  # it has one
    shutil.copy(small_model(), source)
    os.chmod(source, 0o644)
r = precis("pack", "--fast", source, os.path.join(MODELS, "tiny.planes.gguf"), timeout=600)
if not ok("a small elastic model", r.code == 0, str(r)):
    finish()
squeeze = write("memory", b"0.20\n")


def squeeze_to(x):
    write("memory.new", b"%.2f\n" % x)
    os.replace(path("memory.new"), squeeze)


TEXT, CACHES, Q = "/v1/completions", "/api/v1/caches", "/api/v1/quantization/"
ask = {"prompt": "Once upon a time", "max_tokens": 12, "temperature": 0}
sampled = {"prompt": "Once upon a time", "max_tokens": 12, "temperature": 1.5}
number = [0]


def fresh(base=ask, **more):
    """A question nobody has asked yet."""
    number[0] += 1
    return dict(base, prompt="%s, number %d" % (base["prompt"], number[0]), **more)


def cache(s, name="responses"):
    return next(c for c in s.get(CACHES)["caches"] if c["name"] == name)


def generated(s):
    return s.get(Q + "status")["requests"]["done"]


# What may differ between an answer and its repetition: ids, and times.
VARIES = re.compile(rb'"(id|created|queue_seconds|first_token_seconds|total_seconds|response_time)":("[^"]*"|[0-9.e+-]+)')


def raw(s, body, target=TEXT, **more):
    """(X-Cache, bytes without ids and times, headers)."""
    r = s.begin("POST", target, body, timeout=300, **more)
    data = r.read()
    r.connection.close()
    if r.status != 200:
        ok("answered", False, "%s: %d %r" % (body, r.status, data))
    return r.headers["X-Cache"], VARIES.sub(rb'"\1":0', data), r.headers


def pieces(data):
    """A body's events one by one, as they stand in it."""
    return data.split(b"\n\n")


s = Server("tiny", "--memory-source", squeeze, "--memory", "200M", "--dwell", "1", "--preload")

# ---- equal bytes, whatever made the first one ----
usage = {"stream_options": {"include_usage": True}}
FORMS = [("plain", {}), ("n", {"n": 3}), ("logprobs", {"logprobs": 2}), ("n and logprobs", {"n": 2, "logprobs": 1}),
         ("a stop", {"stop": ["e"]}), ("several prompts", {"prompt": ["The dog", "A cat"]}),
         ("tokens", {"prompt": [5, 6, 7]}), ("a bias", {"logit_bias": {"40": 5, "41": -5}})]
for name, more in FORMS:
    body = fresh(**{k: v for k, v in more.items() if k != "prompt"})
    body.update({k: v for k, v in more.items() if k == "prompt"})
    streamed = dict(body, stream=True, **usage)
    first, again = raw(s, body), raw(s, body)
    ok("%s: a hit has the same bytes" % name, (first[0], again[0]) == ("MISS", "HIT") and first[1] == again[1],
       "%s\n%s" % (first, again))
    ok("%s: its headers" % name, again[2]["X-Precis-Level"] == first[2]["X-Precis-Level"] == "fp16"
       and again[2]["Age"] is not None and first[2]["Age"] is None, str(again[2]))
    replay = raw(s, streamed)
    live = raw(s, streamed, headers={"Cache-Control": "no-cache"})
    replayed = raw(s, streamed)
    ok("%s: a stream from an answer in one piece" % name, replay[0] == "HIT" and replay[2]["Content-Type"] == live[2]["Content-Type"])
    if "n" not in more and name != "several prompts":  # prefixes make cached_tokens differ between two live ones
        strip = lambda b: re.sub(rb'"cached_tokens":\d+', b"", b)  # noqa: E731
        ok("%s: has the bytes of a live one" % name, strip(replay[1]) == strip(live[1]), "%s\n%s" % (replay[1], live[1]))
    ok("%s: a stream's hit has its bytes" % name, (live[0], replayed[0]) == ("BYPASS", "HIT") and live[1] == replayed[1],
       "%s\n%s" % (live, replayed))
    ok("%s: and makes an answer in one piece" % name,
       json.loads(raw(s, body)[1])["choices"] == json.loads(first[1])["choices"])
a, b = (s.begin("POST", TEXT, dict(ask, stream=True)) for _ in range(2))
ids = [next(events(x))["id"] for x in (a, b)]
ok("each answer has its own id", ids[0] != ids[1], str(ids))
a.connection.close()
b.connection.close()
j = s.get("/api/performance")
ok("performance counts them", j["cache_hits"] >= 24 and j["cache_size"] >= len(FORMS) and j["cache_hit_rate"].endswith("%")
   and float(j["cache_hit_rate"][:-1]) > 0, str(j))

# ---- what is a different question ----
base = fresh()
raw(s, base)
for name, more in (("max_tokens", {"max_tokens": 13}), ("temperature", {"temperature": 0.5, "seed": 1}),
                   ("stop", {"stop": "zzz"}), ("n", {"n": 2}), ("logprobs", {"logprobs": 0}), ("top_p", {"top_p": 0.5}),
                   ("penalty", {"repetition_penalty": 1.2}), ("bias", {"logit_bias": {"5": 1}}),
                   ("priority", {"task_priority": "speed"}), ("floor", {"min_quantization": "int4"}),
                   ("reuse", {"reuse": "any"}), ("a blank", {"prompt": base["prompt"] + " "})):
    ok("another %s is another question" % name, raw(s, dict(base, **more))[0] == "MISS")
for name, more in (("seed of a greedy answer", {"seed": 5}), ("default", {"top_p": 0.9}), ("null", {"stop": None}),
                   ("unknown field", {"user": "me"}), ("usage", {"stream": True, **usage})):
    ok("the same question: %s" % name, raw(s, dict(base, **more))[0] == "HIT")
j = fresh(logit_bias={"40": 1, "41": 2})
raw(s, j)
ok("a bias has no order", raw(s, dict(j, logit_bias={"41": 2, "40": 1}))[0] == "HIT")

# ---- chance, and opting out ----
body = fresh(sampled)
first, again = raw(s, body), raw(s, body)
ok("a repeated click gets the same answer", (first[0], again[0]) == ("MISS", "HIT") and first[1] == again[1])
before = cache(s)["insertions"]
raw(s, fresh(sampled))
ok("chance is not kept for long", cache(s)["insertions"] == before)
ok("unless asked for", raw(s, fresh(sampled, cache=True))[0] == "MISS" and cache(s)["insertions"] == before + 1)
ok("a seed leaves nothing to chance", raw(s, fresh(sampled, seed=3))[0] == "MISS" and cache(s)["insertions"] == before + 2)
for name, more in (("no-store", {"headers": {"Cache-Control": "no-store"}}),
                   ("max-age=0 and no-store", {"headers": {"cache-control": "max-age=0, No-Store"}})):
    body = fresh()
    kinds = [raw(s, body, **more)[0] for _ in range(2)] + [raw(s, body)[0]]
    ok("%s keeps nothing" % name, kinds == ["BYPASS", "BYPASS", "MISS"], str(kinds))
body = fresh(cache=False)
ok('"cache": false neither', [raw(s, body)[0] for _ in range(2)] == ["BYPASS", "BYPASS"])
body = fresh(sampled)
a = [raw(s, body), raw(s, body, headers={"Cache-Control": "no-cache"}), raw(s, body)]
ok("no-cache: a new answer, which takes the place of the old one", [x[0] for x in a] == ["MISS", "BYPASS", "HIT"]
   and a[1][1] == a[2][1], str(a))
body = fresh()
raw(s, body)
ok("max-age: not older than that", raw(s, body, headers={"Cache-Control": "max-age=60"})[0] == "HIT"
   and raw(s, body, headers={"Cache-Control": "max-age=0"})[0] == "MISS")
status, _, j = s.ask("POST", TEXT, dict(ask, cache="yes"))
ok('"cache" is true or false', status == 400 and j["error"]["param"] == "cache", str(j))

# ---- levels ----
body = fresh()
at = {"fp16": raw(s, body)}
for level in ("int4", "fp16"):
    s.post(Q + "level", {"model": "tiny", "level": level})
    until(lambda: s.ask("POST", TEXT, ask, headers={"Cache-Control": "no-store"})[1]["X-Precis-Level"] == level)
    got = raw(s, body)
    if level == "int4":
        ok("never across levels", got[0] == "MISS" and got[2]["X-Precis-Level"] == "int4", str(got[2]))
        ok("each level has its own", raw(s, body)[0] == "HIT")
        forced = dict(body, force_quantization="int2")
        a = [raw(s, forced), raw(s, forced)]
        ok("a forced level", [x[0] for x in a] == ["MISS", "HIT"] and a[1][2]["X-Precis-Level"] == "int2", str(a))
    else:
        ok("and what was kept at a level serves there again", got[0] == "HIT" and got[1] == at["fp16"][1], str(got))
sizes = s.get(Q + "status")["current_models"][0]["level_bytes"]
s.post(Q + "level", {"model": "tiny", "weights_budget_mb": (sizes["int4"] + sizes["int8"]) / 2e6})
until(lambda: s.get(Q + "status")["current_models"][0]["weight_bytes"] < sizes["int8"])
s.ask("POST", TEXT, ask, headers={"Cache-Control": "no-store"})
got = raw(s, body)
ok("nor between levels of one name", got[0] == "MISS" and got[2]["X-Precis-Level"] == "int4", str(got[2]))
s.post(Q + "level", {"model": "tiny", "level": "fp16"})
until(lambda: raw(s, dict(ask, cache=False))[2]["X-Precis-Level"] == "fp16")

LONG = {"prompt": "Once upon a time", "max_tokens": 240, "temperature": 1.5, "seed": 11, "n": 8, "stream": True}
r = s.begin("POST", TEXT, LONG)
reader, got = events(r), []
for e in reader:
    got.append(e)
    if len(got) == 3:
        s.post(Q + "level", {"model": "tiny", "level": "int4"})
used = {l for c in got[:-1] for l in c.get("precis", {}).get("levels", [])}
s.post(Q + "level", {"model": "tiny", "level": "fp16"})
until(lambda: raw(s, dict(ask, cache=False))[2]["X-Precis-Level"] == "fp16")
ok("an answer whose level changed is not kept", len(used) > 1 and raw(s, LONG)[0] == "MISS", str(used))
s.post(Q + "level", {"model": "tiny", "level": "auto"})

# ---- single flight ----
SLOW = dict(LONG, prompt="A long story", n=16, seed=1, max_tokens=20 if sanitized() else 240)


def parallel(n, make):
    """make(i) on n threads at once; the results in order."""
    out = [None] * n

    def one(i):
        out[i] = make(i)
    threads = [threading.Thread(target=one, args=(i,)) for i in range(n)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return out


before, joined = generated(s), s.get(CACHES)["in_flight"]["joined"]
got = parallel(8, lambda i: raw(s, dict(SLOW, stream=i % 2 == 0)))
ok("identical requests at once are generated once", generated(s) - before == 16
   and sorted(g[0] for g in got) == ["HIT"] * 7 + ["MISS"], "%d %s" % (generated(s) - before, [g[0] for g in got]))
ok("all get the same", len({g[1] for g in got[0::2]}) == 1 and len({g[1] for g in got[1::2]}) == 1)
texts = {}
for e in pieces(got[0][1]):
    if b"[DONE]" not in e and e:
        c = json.loads(e[6:])["choices"][0]
        texts[c["index"]] = texts.get(c["index"], "") + c["text"]
ok("in one piece and as a stream", [c["text"] for c in json.loads(got[1][1])["choices"]] == [texts[i] for i in range(16)])
ok("joining is counted", s.get(CACHES)["in_flight"]["joined"] > joined, str(s.get(CACHES)))
before = generated(s)
parallel(4, lambda i: raw(s, dict(SLOW, seed=2, n=2), headers={"Cache-Control": "no-store"}))
ok("not when they want their own", generated(s) - before == 8)

leader = s.begin("POST", TEXT, dict(SLOW, seed=3))
next(events(leader))
follower = s.begin("POST", TEXT, dict(SLOW, seed=3))
before = s.get(Q + "status")["requests"]["cancelled"]
waiting = s.get(CACHES)["in_flight"]
leader.connection.sock.close()
leader.close()
got = list(events(follower))
ok("a follower comes on board", follower.headers["X-Cache"] == "HIT" and waiting["clients"] == 2, str(waiting))
ok("and is served when the first one goes", got[-1] == "[DONE]" and s.get(Q + "status")["requests"]["cancelled"] == before,
   str(got[-2:]))
only = s.begin("POST", TEXT, dict(SLOW, seed=4))
next(events(only))
before = s.get(Q + "status")["requests"]["cancelled"]
only.connection.sock.close()
only.close()
ok("the last one to go ends it", until(lambda: s.get(Q + "status")["requests"]["cancelled"] - before == 16, 20))
ok("what was not finished is not kept", raw(s, dict(SLOW, seed=4))[0] == "MISS")

# ---- clearing, pressure ----
ok("kept answers are in the ledger", s.get(Q + "memory")["ledger_bytes"]["cache"] >= cache(s)["bytes"] > 0)
body = fresh()
raw(s, body)
s.post(Q + "cache/clear", {})
c = s.get(CACHES)
ok("cleared by hand", all(x["entries"] == 0 for x in c["caches"]) and cache(s)["cleared"] > 0 and raw(s, body)[0] == "MISS", str(c))
squeeze_to(0.93)
ok("and by the memory guard", until(lambda: cache(s)["entries"] == 0, 30), str(cache(s)))
raw(s, fresh(force_quantization="int2"))
ok("which lets nothing in", cache(s)["entries"] == 0 and cache(s, "recent")["entries"] == 0, str(cache(s)))
squeeze_to(0.20)
ok("stops", s.stop() == 0)

# ---- bounds and time ----
s = Server("tiny", "--response-cache-entries", "2", "--recent-cache", "0", "--response-cache-ttl", "1")
bodies = [fresh() for _ in range(3)]
for b in bodies:
    raw(s, b)
c = cache(s)
ok("the number of entries bounds it", c["entries"] == 2 and c["evictions"] == 1 and c["entries_max"] == 2
   and c["ttl_seconds"] == 1, str(c))
ok("the oldest went", raw(s, bodies[2])[0] == "HIT" and raw(s, bodies[0])[0] == "MISS")
ok("what is left to chance is not kept at all then", [raw(s, fresh(sampled))[0] for _ in range(2)] == ["BYPASS"] * 2)
ok("time bounds it", until(lambda: raw(s, bodies[2])[0] == "MISS", 10) and cache(s)["expired"] > 0, str(cache(s)))
s.stop()

s = Server("tiny", "--response-cache-mb", "0", "--recent-cache", "2")
ok("off: the last requests only", [raw(s, b)[0] for b in (bodies[0], bodies[0], bodies[1], bodies[2], bodies[0])]
   == ["MISS", "HIT", "MISS", "MISS", "MISS"] and cache(s)["bytes_max"] == 0, str(s.get(CACHES)))
s.stop()
s = Server("tiny", env={"PRECIS_RESPONSE_CACHE_MB": "0", "PRECIS_RECENT_CACHE": "0"})
ok("all off", [raw(s, bodies[0])[0] for _ in range(2)] == ["BYPASS"] * 2)

# ---- a file that is replaced ----
s.stop()
plain, second = path("plain.gguf"), path("second.gguf")
shutil.copy(source, plain)
shutil.copy(source, second)
s = Server(plain, second)
size = s.post(TEXT, dict(ask, model="plain")) and s.get(Q + "cache")["current_size_mb"]
s.stop()
s = Server(plain, second, "--max-model-cache-mb", str(int(size * 1.5)))
for_plain, for_second = dict(bodies[0], model="plain"), dict(bodies[0], model="second")
ok("a model of one precision", [raw(s, for_plain)[0] for _ in range(2)] == ["MISS", "HIT"])
ok("never across models", raw(s, for_second)[0] == "MISS" and s.get(Q + "cache")["models_cached"] == 1)
shutil.copy(source, plain + ".new")
os.replace(plain + ".new", plain)
ok("another loading of a model, another file, another question", [raw(s, for_plain)[0] for _ in range(2)] == ["MISS", "HIT"])
c = cache(s, "models")
texts = cache(s, "templates")
ok("texts of a model are made ready once for all its loadings", texts["entries"] == texts["misses"] > 0
   and texts["hits"] == 2 * texts["misses"] and 0 < texts["bytes"] <= texts["bytes_max"], str(texts))
metrics = s.begin("GET", "/metrics").read().decode()
ok("and counted in /metrics", 'precis_cache_hits_total{cache="templates"} %d\n' % texts["hits"] in metrics)
ok("and in /api/performance", any(x == texts for x in s.get("/api/performance")["caches"]))
ok("models are counted", c["misses"] == 3 and c["evictions"] == 2 and c["entries"] == 1, str(c))


def reloaded(name="plain", other="second"):
    """Close the model by loading another, and load it again with a question nobody has asked."""
    raw(s, fresh(model=other))
    raw(s, fresh(model=name))


time.sleep(3.1)  # what was changed just now is not trusted
raw(s, fresh(model="second"))
raw(s, for_plain)
reloaded()
ok("answers survive the closing of their model", raw(s, for_plain)[0] == "HIT")
reloaded()
ok("again", raw(s, for_plain)[0] == "HIT")
shutil.copy(source, plain + ".new")
os.utime(plain + ".new", ns=(os.stat(plain).st_atime_ns, os.stat(plain).st_mtime_ns))
os.replace(plain + ".new", plain)
time.sleep(3.1)
reloaded()
ok("not when the file was replaced, if by its like of the same time", raw(s, for_plain)[0] == "MISS")
reloaded()
ok("whose answers survive, too", raw(s, for_plain)[0] == "HIT")
times = os.stat(plain)
with open(plain, "r+b") as f:
    f.write(b"GGUF")  # what stands there
os.utime(plain, ns=(times.st_atime_ns, times.st_mtime_ns))
time.sleep(3.1)
reloaded()
ok("nor when it was written in place, and its time set back", raw(s, for_plain)[0] == "MISS")
os.utime(plain)
reloaded()
ok("nor when it was touched just now", raw(s, for_plain)[0] == "MISS")
reloaded()
ok("which is not trusted twice", raw(s, for_plain)[0] == "MISS")
time.sleep(3.1)
reloaded()
raw(s, for_plain)  # on a slow machine it was at rest before, and is a hit
reloaded()
ok("a file at rest again", raw(s, for_plain)[0] == "HIT")
r = precis("pack", "--fast", plain, os.path.join(MODELS, "plain.planes.gguf"), timeout=600)
reloaded()
c = s.get(Q + "status")["current_models"]
ok("a companion that was packed meanwhile is another file", r.code == 0 and raw(s, for_plain)[0] == "MISS", "%s %s" % (r, c))
texts = cache(s, "templates")
before = s.get(CACHES)["ledger_bytes"]
s.post(Q + "cache/clear", {})
ok("texts are cleared with the rest", cache(s, "templates")["cleared"] == texts["entries"]
   and cache(s, "templates")["bytes"] == 0 and s.get(CACHES)["ledger_bytes"] < before, str(s.get(CACHES)))
s.stop()

# ---- keys ----
secrets = ("sk-cache-one", "sk-cache-two")
keys = write("keys", "".join("k%d %s\n" % (i, hashlib.sha256(k.encode()).hexdigest()) for i, k in enumerate(secrets)).encode())
s = Server("tiny", "--keys", keys, "--preload", key=secrets[0])
other = {"headers": {"Authorization": "Bearer " + secrets[1]}}
body = fresh()
ok("never across keys", [raw(s, body)[0], raw(s, body)[0], raw(s, body, **other)[0], raw(s, body, **other)[0]]
   == ["MISS", "HIT", "MISS", "HIT"])
got = parallel(8, lambda i: raw(s, SLOW, **(other if i % 2 else {})))
ok("nor in flight", sorted(g[0] for g in got[0::2]) == sorted(g[0] for g in got[1::2]) == ["HIT"] * 3 + ["MISS"],
   str([g[0] for g in got]))
status, _, j = s.ask("GET", CACHES, headers={"Authorization": ""})
ok("the counts need a key", status == 401, str(j))

# ---- curl ----
p = subprocess.run(["curl", "-sSi", s.url + TEXT, "-H", "Authorization: Bearer " + secrets[0], "-d", json.dumps(body)],
                   capture_output=True, timeout=60)
ok("curl sees a hit", re.search(rb"(?mi)^x-cache: HIT\r$", p.stdout) is not None, str(p))
ok("stops", s.stop() == 0)
finish()
