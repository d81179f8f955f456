#!/usr/bin/env python3
"""precis serve: every route, streams, errors, keys, levels, listeners, squeezes, and its end."""

import hashlib
import json
import os
import re
import shutil
import socket
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lib import ROOT, fails, finish, ok, path, precis, small_model, write  # noqa: E402
from server import Server, events, until  # noqa: E402

os.environ["XDG_RUNTIME_DIR"] = path("runtime")
MODELS = os.environ["PRECIS_MODELS"]
os.makedirs(MODELS)
source = os.path.join(MODELS, "tiny.gguf")
shutil.copy(small_model(), source)
os.chmod(source, 0o644)
r = precis("pack", "--fast", source, os.path.join(MODELS, "tiny.planes.gguf"), timeout=600)
if not ok("a small elastic model", r.code == 0, str(r)):
    finish()

squeeze = write("memory", b"0.20\n")


def squeeze_to(x):
    write("memory.new", b"%.2f\n" % x)
    os.replace(path("memory.new"), squeeze)


fails("no such model", precis("serve", "nosuchmodel"), 1, "nosuchmodel")
fails("no such setting", precis("serve", "--port", "many"), 2, "--port")
fails("no such template", precis("serve", "--port", "0", "--template", "nonesuch"), 2, "--template", "nonesuch", "chatml")
fails("an open door to the network", precis("serve", "--host", "0.0.0.0", "--port", "0"), 2, "key")
fails("nobody serves", precis("ps"), 1, "precis serve")

s = Server("--memory-source", squeeze, "--memory", "200M", "--dwell", "1", "--parallel", "4")
CHAT, TEXT, QUERY, Q = "/v1/chat/completions", "/v1/completions", "/api/query", "/api/v1/quantization/"
ask = {"prompt": "Once upon a time", "max_tokens": 8, "seed": 7}
FRESH = {"Cache-Control": "no-store"}  # what is repeated is made again; test_cache.py has the rest

# ---- completions ----
status, head, j = s.ask("POST", TEXT, ask)
choice = j["choices"][0]
ok("a completion", status == 200 and j["object"] == "text_completion" and choice["text"] and j["model"] == "tiny", str(j))
ok("its headers", head["X-Precis-Level"] == "fp16" and head["X-Request-Id"] and head["X-Cache"] == "MISS", str(head))
ok("its usage", j["usage"]["completion_tokens"] == 8 and choice["finish_reason"] == "length"
   and j["usage"]["total_tokens"] == j["usage"]["prompt_tokens"] + 8, str(j))
ok("its levels", j["precis"]["levels"] == ["fp16"] and j["precis"]["level"] == "fp16", str(j))
ok("same seed, same text", s.post(TEXT, ask, headers=FRESH)["choices"][0]["text"] == choice["text"])
ok("another seed, another text", any(s.post(TEXT, dict(ask, seed=n))["choices"][0]["text"] != choice["text"]
                                     for n in range(8, 12)))
ok("a prefix is used again", s.post(TEXT, dict(ask, prompt="Once upon a time there was a little girl who lived in a "
                                              "house near the forest"))["usage"]["prompt_tokens_details"]
   ["cached_tokens"] >= 0)
long = {"prompt": "Once upon a time there was a little girl who lived in a house near the big dark forest with her dog.",
        "max_tokens": 4, "temperature": 0}
first, second = s.post(TEXT, long, headers=FRESH), s.post(TEXT, long, headers=FRESH)
ok("cached_tokens", second["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
   and first["choices"][0]["text"] == second["choices"][0]["text"], str(second))

head, got = s.stream(TEXT, dict(ask, stream=True, stream_options={"include_usage": True}), headers=FRESH)
ok("a stream's headers", head["X-Precis-Level"] == "fp16" and head["Content-Type"].startswith("text/event-stream"),
   str(head))
chunks = [e for e in got if e != "[DONE]"]
ok("a stream says the same", "".join(c["choices"][0]["text"] for c in chunks if c["choices"]) == choice["text"], str(got))
ok("[DONE] is last", got[-1] == "[DONE]" and len({c["id"] for c in chunks}) == 1, str(got))
ok("usage before it", chunks[-1]["choices"] == [] and chunks[-1]["usage"] == j["usage"]
   and all(c["usage"] is None for c in chunks[:-1]), str(chunks[-1]))
ok("one end", [c["choices"][0]["finish_reason"] for c in chunks[:-1]].count("length") == 1
   and chunks[-2]["choices"][0]["finish_reason"] == "length" and chunks[-2]["precis"]["levels"] == ["fp16"])

j = s.post(TEXT, dict(ask, n=3, temperature=1.5))
ok("n", [c["index"] for c in j["choices"]] == [0, 1, 2] and j["usage"]["completion_tokens"] == 24, str(j))
ok("n answers differ", len({c["text"] for c in j["choices"]}) > 1, str(j))
_, got = s.stream(TEXT, dict(ask, n=2, stream=True))
ends = [c["choices"][0] for c in got[:-1] if c["choices"][0]["finish_reason"]]
ok("n streams", sorted(e["index"] for e in ends) == [0, 1], str(ends))
j = s.post(TEXT, dict(ask, prompt=["Once upon", "The dog"], max_tokens=3))
ok("several prompts", len(j["choices"]) == 2 and j["choices"][0]["text"] != j["choices"][1]["text"], str(j))
j = s.post(TEXT, dict(ask, prompt=[5, 6, 7, 8], max_tokens=2))
ok("tokens as a prompt", j["usage"]["prompt_tokens"] == 4, str(j))
greedy = s.post(TEXT, dict(ask, temperature=0, max_tokens=24, repetition_penalty=1))["choices"][0]["text"]
word = greedy.split()[2]
j = s.post(TEXT, dict(ask, temperature=0, max_tokens=24, repetition_penalty=1, stop=[word, "zzzz"]))
ok("stop", j["choices"][0]["finish_reason"] == "stop" and word not in j["choices"][0]["text"]
   and greedy.startswith(j["choices"][0]["text"]), str(j))
j = s.post(TEXT, dict(ask, max_tokens=3, logprobs=2))
lp = j["choices"][0]["logprobs"]
ok("logprobs", len(lp["tokens"]) == 3 and "".join(lp["tokens"]) == j["choices"][0]["text"]
   and all(x <= 0 for x in lp["token_logprobs"]) and all(len(t) == 2 for t in lp["top_logprobs"])
   and lp["text_offset"][0] == 0, str(lp))
a = s.post(TEXT, dict(ask, max_tokens=1, temperature=0, logprobs=1))["choices"][0]["logprobs"]
ok("greedy takes the most likely", list(a["top_logprobs"][0].values()) == a["token_logprobs"], str(a))
j = s.post(TEXT, dict(ask, temperature=0, max_tokens=4, logit_bias={"40": 100}, repetition_penalty=1, logprobs=0))
ok("logit_bias", len(set(j["choices"][0]["logprobs"]["tokens"])) == 1, str(j))
for field, value in (("top_k", 3), ("min_p", 0.1), ("presence_penalty", 1), ("frequency_penalty", -1),
                     ("no_repeat_ngram_size", 2), ("reuse", "any"), ("task_priority", "speed"), ("unknown", {}),
                     ("max_completion_tokens", 2), ("user", "me"), ("stop", None), ("n", None)):
    status, _, j = s.ask("POST", TEXT, dict(ask, **{field: value}))
    ok("%s is taken" % field, status == 200, str(j))



def held():
    return s.get(Q + "memory")["ledger_bytes"]["http"]


def answered(n):
    for i in range(n):
        s.post(TEXT, dict(ask, max_tokens=1))
        s.stream(TEXT, dict(ask, max_tokens=1, stream=True))
    return held()


before = held()
ok("an answered request leaves nothing behind", until(lambda: answered(3) <= before, 20), "%d, %d" % (before, held()))

# ---- chat and query ----
chat = {"model": "tiny", "messages": [{"role": "user", "content": "Hello there"}], "max_tokens": 5}
status, _, j = s.ask("POST", CHAT, chat)
templated = status == 200
if templated:
    ok("a chat", j["choices"][0]["message"]["role"] == "assistant" and j["object"] == "chat.completion", str(j))
    _, got = s.stream(CHAT, dict(chat, stream=True))
    deltas = [c["choices"][0]["delta"] for c in got[:-1]]
    ok("role first, empty last", deltas[0]["role"] == "assistant" and deltas[-1] == {}, str(deltas))
    ok("a query", s.post(QUERY, {"query": "Hello?", "max_tokens": 5})["answer"])
    _, got = s.stream(QUERY + "/stream", {"query": "Hello?", "max_tokens": 5})
    ok("a query's stream", got[-1] == "[DONE]" and got[-2]["done"] and "delta" in got[0], str(got))
else:
    ok("no template, no chat: said so", status == 400 and j["error"]["param"] == "messages"
       and "PRECIS_TEMPLATE" in j["error"]["message"] and "--template" in j["error"]["message"], str(j))
    status, _, j = s.ask("POST", QUERY, {"query": "Hello?"})
    ok("nor a query", status == 400 and j["error"]["param"] == "query", str(j))

# ---- errors ----
WRONG = [("messages", "x"), ("messages", []), ("messages", [{"role": "robot", "content": "x"}]),
         ("messages", [{"role": "user", "content": 3}]),
         ("messages", [{"role": "user", "content": [{"type": "image_url"}]}]), ("temperature", "hot"), ("temperature", 3),
         ("top_p", 2), ("n", 0), ("n", 17), ("n", 1.5), ("max_tokens", -1), ("stop", 5), ("stop", ["a"] * 5),
         ("stop", ""), ("seed", "x"), ("stream", 1), ("stream_options", 1), ("logprobs", 3), ("top_logprobs", 21),
         ("top_logprobs", 2), ("logit_bias", []), ("logit_bias", {"a": 1}), ("logit_bias", {"1": 101}),
         ("task_priority", "fast"), ("min_quantization", "int3"), ("force_quantization", 4), ("reuse", True),
         ("model", 5), ("response_format", {"type": "json_object"})]
for field, value in WRONG:
    status, _, j = s.ask("POST", CHAT, dict(chat, **{field: value}))
    ok("%s: %.40s" % (field, json.dumps(value)), status == 400 and j["error"]["param"] == field
       and field in j["error"]["message"] and j["error"]["type"] == "invalid_request_error", str(j))
for body in (b"", b"{", b"[]", b"3", b'{"prompt": "\\u0000"}', b"\xff\xfe"):
    status, _, j = s.ask("POST", TEXT, body)
    ok("the body %r" % body, status == 400 and j["error"]["message"], str(j))
status, _, j = s.ask("POST", TEXT, dict(ask, logit_bias={"99999999": 1}))
ok("a bias for no token of the model", status == 400 and j["error"]["param"] == "logit_bias", str(j))
status, _, j = s.ask("POST", TEXT, dict(ask, model="gpt-17"))
ok("no such model: 404", status == 404 and j["error"]["code"] == "model_not_found" and j["error"]["param"] == "model", str(j))
status, _, j = s.ask("POST", TEXT, dict(ask, model="../tiny"))
ok("no path as a name", status == 404, str(j))
status, _, j = s.ask("POST", TEXT, {"prompt": "word " * 3000})
ok("longer than the context: 400", status == 400 and j["error"]["param"] == "prompt", str(j))
c = s.connect()
c.putrequest("POST", TEXT)
c.putheader("Content-Length", str(2 << 20))
c.endheaders()  # refused before its body comes
ok("longer than anything: 413", c.getresponse().status == 413)
c.close()
ok("nowhere: 404", s.ask("GET", "/nowhere")[0] == 404)
status, head, _ = s.ask("GET", TEXT)
ok("the wrong method: 405", status == 405 and "POST" in head["Allow"], str(head))

# ---- the description ----
doc = s.get("/openapi.json")
routes = set(re.findall(r'\{"(GET|POST)", "([^"]+)", pr__', open(os.path.join(ROOT, "src/api/routes.c")).read()))
told = {(m.upper(), p.replace("{model}", "{model*}")) for p, ops in doc["paths"].items() for m in ops}
ok("the description has every route and no other", routes == told, str(routes ^ told))
EVERY = {"200", "400", "403", "413", "431", "503"}  # what the server may answer before a handler has a say
short = {p: (EVERY | (set() if p == "/health" else {"401", "429"})) - set(op["responses"])
         for p, ops in doc["paths"].items() for op in ops.values()}
ok("and every status", not any(short.values()), str({p: missing for p, missing in short.items() if missing}))
ok("in the words of OpenAPI 3.1", doc["openapi"] == "3.1.0" and '"nullable"' not in json.dumps(doc))


def resolve(part):
    while "$ref" in part:
        kind, name = part["$ref"].split("/")[2:]
        part = doc["components"][kind][name]
    return part


KINDS = {"string": str, "number": (int, float), "integer": int, "boolean": bool, "array": list, "object": dict,
         "null": type(None)}


def is_kind(value, kind):
    return isinstance(value, KINDS[kind]) and not (kind in ("integer", "number") and isinstance(value, bool))


def misfit(value, schema, where="$"):
    """What of value does not fit the schema, fields that it does not know included; None when all does."""
    schema = resolve(schema)
    if "anyOf" in schema:
        misfits = [misfit(value, s, where) for s in schema["anyOf"]]
        return None if None in misfits else misfits[0]
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if not any(is_kind(value, k) for k in kinds):
        return "%s is no %s: %r" % (where, kinds, value)
    if "enum" in schema and value not in schema["enum"]:
        return "%s: %r" % (where, value)
    if isinstance(value, list):
        return next((m for i, v in enumerate(value) for m in [misfit(v, schema["items"], "%s[%d]" % (where, i))] if m), None)
    if not isinstance(value, dict):
        return None
    known, rest = schema.get("properties", {}), schema.get("additionalProperties")
    for k in schema.get("required", []):
        if k not in value:
            return "%s lacks %s" % (where, k)
    for k, v in value.items():
        if k not in known and not rest and known:
            return "%s has %s" % (where, k)
        m = misfit(v, known.get(k) or rest or {"type": ["object"]}, where + "." + k)
        if m:
            return m
    return None


def schema_of(method, target, status="200"):
    return resolve(doc["paths"][target][method.lower()]["responses"][status])["content"]["application/json"]["schema"]


BODIES = {TEXT: dict(ask, logprobs=1), CHAT: dict(chat, logprobs=True, top_logprobs=2), QUERY: {"query": "Hello?", "max_tokens": 4},
          Q + "calculate": {"model_size_params": 1.1e9}, Q + "level": {"model": "tiny", "level": "auto"},
          Q + "cache/pin": {"model": "tiny", "pinned": False}, Q + "cache/clear": {}}
for method, target in sorted(told):
    if target in (QUERY + "/stream", Q + "events", Q + "cache/clear", "/openapi.json", "/metrics"):
        continue
    place = target.replace("{model*}", "tiny")
    status, _, j = s.ask(method, place, BODIES.get(target))
    wanted = schema_of(method, target.replace("{model*}", "{model}"), str(status))
    ok("%s %s is as described" % (method, target), (status == 200 or not templated) and misfit(j, wanted) is None,
       "%d %s %s" % (status, misfit(j, wanted), j))
    status, _, j = s.ask("PUT", place)
    ok("%s has no PUT" % target, status == 405 and misfit(j, doc["components"]["schemas"]["Error"]) is None, str(j))
_, got = s.stream(TEXT, dict(ask, stream=True, logprobs=1, stream_options={"include_usage": True}))
misfits = [misfit(c, {"$ref": "#/components/schemas/Completion"}) for c in got[:-1]]
ok("chunks are as described", not any(misfits), str(misfits))

# ---- the rest ----
ok("models", [m["id"] for m in s.get("/v1/models")["data"]] == ["tiny"])
ok("no such model", s.ask("GET", "/v1/models/none")[0] == 404)
j = s.get("/api/performance")
ok("performance", j["total_queries"] > 20 and re.fullmatch(r"\d+\.\d%", j["cache_hit_rate"]) and re.fullmatch(r"\d+\.\d\ds", j["avg_response_time"])
   and j["model_loaded"] is True, str(j))
j = s.get(Q + "status")
m = j["current_models"][0]
ok("status", m["name"] == "tiny" and m["level"] == "fp16" and m["status"] == "ready" and j["memory"]["used_percent"] == "20.0%"
   and sum(m["plane_bytes"].values()) <= m["weight_bytes"], str(j))
j = s.get(Q + "memory")
ok("memory", j["status"] == "comfortable" and abs(j["percent_used"] - 20) < 0.01 and j["scripted"], str(j))
j = s.post(Q + "calculate", {"model_size_params": 1e9})
ok("calculate", j["level"] == "fp16" and j["compression_ratio"].endswith("x") and j["reason"], str(j))
for field, body in (("model_size_params", {}), ("model_size_params", {"model_size_params": "1"}),
                    ("task_priority", {"model_size_params": 1, "task_priority": 1})):
    status, _, j = s.ask("POST", Q + "calculate", body)
    ok("calculate: %s" % body, status == 400 and j["error"]["param"] == field, str(j))
# ---- the dashboard ----
D = "/api/v1/dashboard"
j = s.get(D)
m = next(m for m in j["models"] if m["name"] == "tiny")
ok("dashboard: the model", m["level"] == "fp16" and m["by_hand"] is None and m["weights_budget"] is None
   and m["bytes_min"] < m["weight_bytes"] <= m["bytes_max"] and m["target"] == m["cursor"], str(m))
ok("dashboard: memory", abs(j["memory"]["used"] - 0.2) < 0.001 and j["memory"]["ledger_bytes"]["weights"] >= m["weight_bytes"]
   and j["bands"]["moderate"] == 0.6 and j["guard"]["emergency"] == 0.95, str(j["memory"]))
ok("dashboard: the load is the first line", j["timeline"] and j["timeline"][0]["kind"] == "load" and j["timeline"][0]["seq"] == 1
   and j["timeline"][0]["model"] == "tiny" and abs(j["timeline"][0]["time"] - j["time"]) < 600, str(j["timeline"]))
ok("dashboard: a history", until(lambda: len(s.get(D)["history"]) > 0) and len(s.get(D)["history"][0]) == 5)
last, now = j["timeline"][-1]["seq"], j["time"]
ok("dashboard: only what is new", s.get(D + "?after=%d" % last)["timeline"] == [] and s.get(D + "?since=%f" % (now + 1e6))["history"] == [])
for query, param in (("after=x", "after"), ("after=-1", "after"), ("since=soon", "since")):
    status, _, j = s.ask("GET", D + "?" + query)
    ok("dashboard: %s" % query, status == 400 and j["error"]["param"] == param, str(j))
head = s.begin("GET", D, headers={"Accept-Encoding": "gzip"}).headers
ok("dashboard: comes compressed", head["Content-Encoding"] == "gzip" and head["Vary"] == "Accept-Encoding", str(head))

ok("cache", s.get(Q + "cache")["models_cached"] == 1)
r = precis("ps", "--port", str(s.port))
ok("ps", r.code == 0 and "tiny" in r.out and "fp16" in r.out and s.url in r.out, str(r))
r = precis("ps", "--json")
ok("ps --json", r.json()[0]["status"]["current_models"][0]["name"] == "tiny", str(r))

# ---- levels by hand, and who listens ----
listener = s.begin("GET", Q + "events")
heard = []
threading.Thread(target=lambda: heard.extend(events(listener)), daemon=True).start()
status, _, j = s.ask("POST", Q + "level", {"model": "tiny", "level": "int4"})
ok("a level by hand", status == 200 and j["level"] == "int4", str(j))
ok("answers come at it", until(lambda: s.ask("POST", TEXT, ask)[1]["X-Precis-Level"] == "int4"))
ok("listeners hear of it", until(lambda: any(e["to"] == "int4" and e["from"] == "fp16" and e["bytes"] < 0
                                             and e["event"] == "decision" for e in heard)), str(heard))
sizes = s.get(Q + "status")["current_models"][0]["level_bytes"]
budget = (sizes["int4"] + sizes["int8"]) / 2e6
status, _, j = s.ask("POST", Q + "level", {"model": "tiny", "weights_budget_mb": budget})
ok("a budget by hand", status == 200 and until(lambda: sizes["int4"] < s.get(Q + "status")["current_models"][0]
                                               ["weight_bytes"] <= budget * 1e6), str(j))
for field, body in (("level", {}), ("level", {"level": "int5"}), ("level", {"level": 3}),
                    ("weights_budget_mb", {"weights_budget_mb": -1}), ("level", {"level": "int4", "weights_budget_mb": 9})):
    status, _, j = s.ask("POST", Q + "level", body)
    ok("level: %s" % body, status == 400 and j["error"]["param"] == field, str(j))
ok("level of no model", s.ask("POST", Q + "level", {"model": "none", "level": "int4"})[0] == 404)
s.post(Q + "level", {"model": "tiny", "level": "fp16"})
ok("and back", until(lambda: s.ask("POST", TEXT, ask)[1]["X-Precis-Level"] == "fp16"))
s.post(Q + "level", {"model": "tiny", "level": "auto"})

j = s.post(TEXT, dict(ask, force_quantization="int2"))
ok("a forced level", j["precis"]["levels"] == ["int2"], str(j))

# ---- a squeeze while a stream runs ----
LONG = {"prompt": "Once upon a time", "max_tokens": 240, "stream": True, "n": 16, "temperature": 1.5}
r = s.begin("POST", TEXT, LONG)
got = []
for e in events(r):
    got.append(e)
    if len(got) == 3:
        squeeze_to(0.88)
ends = [c["choices"][0] for c in got[:-1] if c["choices"][0]["finish_reason"]]
used = {l for c in got[:-1] for l in c.get("precis", {}).get("levels", [])}
ok("streams live through a squeeze", got[-1] == "[DONE]" and len(ends) == 16
   and all(e["finish_reason"] in ("stop", "length") for e in ends), str(ends))
ok("which lowers them on the way", "fp16" in used and used & {"int4", "int2"}, str(used))
ok("the squeeze is heard of", until(lambda: any(e["to"] in ("int2", "int4") and "memory" in e["reason"] for e in heard)),
   str(heard[-3:]))
squeeze_to(0.20)
ok("and goes by", until(lambda: s.get(Q + "status")["current_models"][0]["level"] == "fp16", 20),
   str(s.get(Q + "status")["current_models"]))

# ---- a client that goes ----
r = s.begin("POST", TEXT, dict(ask, stream=True, max_tokens=240, n=4, temperature=1.5))
next(events(r))
before = s.get(Q + "status")["requests"]["cancelled"]
r.connection.sock.shutdown(socket.SHUT_RDWR)
r.close()
r.connection.close()
ok("its slots are free", until(lambda: s.get(Q + "status")["requests"]["running"] == 0, 5))
r = s.begin("POST", TEXT, dict(ask, stream=True, max_tokens=240, n=4, temperature=1.5))  # a reader that reads nothing
ok("a reader that stops does not stop others", s.ask("POST", TEXT, ask)[0] == 200)
r.connection.close()

j = s.post(Q + "cache/clear", {})
ok("cache/clear", j["status"] == "success" and misfit(j, schema_of("POST", Q + "cache/clear")) is None, str(j))
ok("the next one loads again", s.ask("POST", TEXT, ask)[0] == 200)
ok("requests are logged", any(l.get("event") == "request" and l["path"] == TEXT and l["status"] == 200 for l in s.log()))
ok("and levels", any(l.get("event") == "level" and l["to"] == "int4" for l in s.log()))

# ---- its end ----
r = s.begin("POST", TEXT, {"prompt": "Once upon a time", "max_tokens": 200, "stream": True})
reader = events(r)
first = next(reader)
out = precis("stop", "--port", str(s.port))
got = list(reader)
ok("a stream is finished before the end", got and got[-1] == "[DONE]", str(got[-2:]))
ok("precis stop", out.code == 0 and s.stop() == 0, str(out))
ok("listeners are let go", until(lambda: "precis has stopped" in open(s.out_path).read()))
fails("nobody is left", precis("stop"), 1, "no server")

# ---- keys ----
secret, other = "sk-test-one", "sk-test-two"
keys = write("keys", ("one %s rpm=600\ntwo %s rpm=2\n" % tuple(hashlib.sha256(k.encode()).hexdigest()
                                                              for k in (secret, other))).encode())
s = Server("tiny", "--keys", keys, "--preload", "--serial", key=secret)
ok("preloaded", s.get(Q + "status")["current_models"][0]["status"] == "ready")
status, head, j = s.ask("GET", "/v1/models", headers={"Authorization": "Bearer wrong"})
ok("a wrong key: 401", status == 401 and j["error"]["code"] and misfit(j, doc["components"]["schemas"]["Error"]) is None, str(j))
ok("health needs none", s.ask("GET", "/health", headers={"Authorization": ""})[2]["status"] == "ok")
answers = [s.ask("GET", "/v1/models", headers={"Authorization": "Bearer " + other}) for _ in range(4)]
ok("too many: 429", [a[0] for a in answers] == [200, 200, 429, 429] and int(answers[-1][1]["Retry-After"]) >= 1,
   str([a[0] for a in answers]))
ok("a key's answers", s.post(TEXT, ask)["choices"][0]["text"])
r = precis("ps", env={"PRECIS_API_KEY": secret})
ok("ps with a key", r.code == 0 and "tiny" in r.out, str(r))
fails("ps without", precis("ps"), 2, "--key")
others = [Server("tiny") for _ in range(2)]  # whatever the order
r = precis("ps")
ok("which hides no other server", r.code == 2 and "--key" in r.err and all(o.url in r.out for o in others), str(r))
r = precis("ps", "--json")
ok("nor as JSON", r.code == 2 and {j["url"] for j in json.loads(r.out)} == {o.url for o in others}, str(r))
ok("they stop", [o.stop() for o in others] == [0, 0])
ok("the log knows who", any(l.get("key") == "one" for l in s.log()))
ok("keys are not logged", secret not in open(s.log_path).read())
r = s.begin("POST", TEXT, {"prompt": "Once upon a time", "max_tokens": 200, "stream": True})
ok("Ctrl-C ends it as well", s.stop(2) == 0)

# ---- keys and values of few bits ----
s = Server("tiny", "--kv-cache-type", "q8,q4", "--response-cache-entries", "0", "--recent-cache", "0", "--template", "chatml")
story = dict(ask, prompt="Once upon a time there was a little girl who lived in a house near the big dark forest with her "
             "dog and her cat, and every day they went out to play. One day", max_tokens=24)
first, again = s.post(TEXT, story), s.post(TEXT, story)
told = [s.ask("POST", CHAT, dict(chat, messages=chat["messages"] * n)) for n in (1, 2)]
ok("a chat by the template that was given", [t[0] for t in told] == [200, 200]
   and told[1][2]["usage"]["prompt_tokens"] > told[0][2]["usage"]["prompt_tokens"], str(told))
ok("8-bit keys, 4-bit values", s.ask("GET", Q + "cache")[2]["kv_type"] == "q8,q4" and first["choices"][0]["text"])
ok("a prefix in them is used again, and nothing changes",
   again["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
   and again["choices"][0]["text"] == first["choices"][0]["text"], str(again))
ok("stops", s.stop() == 0)

# ---- a queue that is full ----
s = Server("tiny", "--max-queue", "1", "--serial")
results = []


def one():
    results.append(s.ask("POST", TEXT, dict(ask, max_tokens=200, temperature=1.5), headers=FRESH))


threads = [threading.Thread(target=one) for _ in range(12)]
for t in threads:
    t.start()
for t in threads:
    t.join()
codes = [r[0] for r in results]
refused = [r for r in results if r[0] == 503]
ok("a full queue: 503, and when to come again", set(codes) == {200, 503} and refused[0][1]["Retry-After"]
   and "queue" in refused[0][2]["error"]["message"], str(codes))
ok("stops", s.stop() == 0)
finish()
