#!/usr/bin/env python3
"""/metrics, alerts and the log: both formats, promtool, a real Prometheus that scrapes, and the files in share/.

Prometheus is Debian's, unpacked by tools/prometheus; SKIPPED where it cannot be had.
"""

import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lib import ROOT, fails, finish, ok, path, precis, skipped, small_model, write  # noqa: E402
from server import Server, events, until  # noqa: E402

MODELS = os.environ["PRECIS_MODELS"]
os.environ["XDG_RUNTIME_DIR"] = path("runtime")
os.makedirs(MODELS)
source = os.path.join(MODELS, "tiny.gguf")
shutil.copy(small_model(), source)
os.chmod(source, 0o644)
r = precis("pack", "--fast", source, os.path.join(MODELS, "tiny.planes.gguf"), timeout=600)
if not ok("a small elastic model", r.code == 0, str(r)):
    finish()

# ---- rules that are none ----
for rules, why in (("latency > 50ms", "rule 1, column 1"), ("level < int4, kv_used > lots", "rule 2, column 25"),
                   ("a: level < int4, a: level < int8", "taken")):
    fails("--alerts %s" % rules, precis("serve", "--port", "0", "--alerts", rules), 2, why)
conf = write("bad.conf", b"[alerts]\nodd = queue_length ! 3\n")
fails("a bad rule in a file", precis("serve", "--port", "0", "--config", conf), 2, "rule 1, column")

# ---- a server ----
squeeze = write("memory", b"0.20\n")


def squeeze_to(x):
    write("memory.new", b"%.2f\n" % x)
    os.replace(path("memory.new"), squeeze)


KEY = "metrics-key"
keys = write("keys", ("scraper %s\n" % hashlib.sha256(KEY.encode()).hexdigest()).encode())
conf = write("precis.conf", b"dwell = 1\n[alerts]\ntight = memory_used > 80%\n"
             b"never = queue_length > 1000 for 30s\nslow = latency_p95 > 1h\n")
s = Server("--memory-source", squeeze, "--memory", "200M", "--config", conf, "--keys", keys, key=KEY)
TEXT = "/v1/completions"


def page(query="", **headers):
    r = s.begin("GET", "/metrics" + query, headers=headers)
    body = r.read().decode()
    r.connection.close()
    return r, body


SAMPLE = re.compile(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[a-z_]+="(?:[^"\\\n]|\\.)*",?)*)\})? (NaN|[+-]Inf|[-+0-9.e]+)\n')


def samples(text):
    """{(name, labels): value}; every line must be one, or a comment."""
    out = {}
    for line in text.splitlines(True):
        if line.startswith("#"):
            continue
        m = SAMPLE.fullmatch(line)
        if not m or (m[1], m[2] or "") in out:
            ok("a line of /metrics", False, line)
            continue
        out[m[1], m[2] or ""] = float(m[3])
    return out


ok("no key, no metrics", s.ask("GET", "/metrics", headers={"Authorization": ""})[0] == 401)
before = samples(page()[1])
texts = [s.post(TEXT, {"prompt": "Once upon a time", "max_tokens": 12, "seed": n, "temperature": 1}) for n in range(4)]
generated = sum(t["usage"]["completion_tokens"] for t in texts)
s.ask("POST", TEXT, {"prompt": 3})
s.ask("GET", "/nowhere")
r, text = page()
now = samples(text)
LABEL = 'model="tiny"'
ok("text format", r.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8", str(r.headers))
ok("tokens are counted", now["precis_generated_tokens_total", LABEL] == generated, str(generated))
ok("so are their times", now["precis_time_between_tokens_seconds_count", LABEL] == generated - 4
   and now["precis_time_to_first_token_seconds_count", LABEL] == now["precis_request_seconds_count", LABEL] == 4)
ok("and how answers ended", now["precis_answers_total", LABEL + ',finish="length"']
   + now["precis_answers_total", LABEL + ',finish="stop"'] == 4)
ok("buckets add up", all(now[n[:-6] + "_bucket", (l + "," if l else "") + 'le="+Inf"'] == v for (n, l), v in now.items()
                         if n.endswith("_seconds_count")))
ok("requests by route and status", now["precis_http_requests_total", 'method="POST",route="/v1/completions",status="400"'] == 1
   and now["precis_http_requests_total", 'method="",route="none",status="404"'] == 1
   and now["precis_http_requests_total", 'method="GET",route="/metrics",status="401"'] == 1)
ok("the level", now["precis_model_level", LABEL + ',level="fp16"'] == 1 and now["precis_model_level", LABEL + ',level="int2"'] == 0)
ok("the planes", sum(v for (n, _), v in now.items() if n == "precis_model_plane_bytes")
   <= now["precis_model_weight_bytes", LABEL])
ok("memory", now["precis_memory_limit_bytes", ""] == 2e8 and abs(now["precis_memory_used_ratio", ""] - 0.2) < 1e-9
   and now["precis_memory_ledger_bytes", 'tag="weights"'] > 0)
ok("counters only rise", all(now[k] >= v for k, v in before.items() if k[0].endswith("_total")))
families = dict(re.findall(r"# TYPE (\S+) (\S+)\n", text))
ok("each family has its help", set(families) == set(re.findall(r"# HELP (\S+) \S", text)))
families = {n: kind for n, kind in families.items() if not n.startswith("gen_ai_")}
ok("OpenTelemetry's names beside them", all(now["gen_ai_server_" + a + part, 'gen_ai_request_model="tiny"'] == now["precis_" + b + part, LABEL]
   for part in ("_count", "_sum") for a, b in (
    ("request_duration_seconds", "request_seconds"), ("time_to_first_token_seconds", "time_to_first_token_seconds"),
    ("time_per_output_token_seconds", "time_between_tokens_seconds"))))
vllm = samples(page("?names=vllm")[1])
ok("or vLLM's", all(vllm["vllm:" + a, 'model_name="tiny"'] == vllm["precis_" + b, c] for a, b, c in (
    ("num_requests_running", "requests_running", ""), ("num_requests_waiting", "requests_waiting", ""),
    ("kv_cache_usage_perc", "kv_used_ratio", ""), ("prompt_tokens_total", "prompt_tokens_total", LABEL),
    ("generation_tokens_total", "generated_tokens_total", LABEL), ("prefix_cache_hits_total", "cached_tokens_total", LABEL),
    ("time_to_first_token_seconds_count", "time_to_first_token_seconds_count", LABEL),
    ("time_to_first_token_seconds_sum", "time_to_first_token_seconds_sum", LABEL),
    ("e2e_request_latency_seconds_sum", "request_seconds_sum", LABEL),
    ("request_queue_time_seconds_sum", "queue_seconds_sum", LABEL))))
own = page("?names=own")[1]
ok("our own alone", {n for n, _ in samples(own)} == {n for n, _ in now if n.startswith(("precis_", "process_"))})

r, text_open = page(Accept="application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5")
ok("OpenMetrics", r.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
   and text_open.endswith("\n# EOF\n") and "# TYPE precis_steps counter\nprecis_steps_total " in text_open)
ok("the same series", {k for k in samples(text_open) if "http_requests" not in k[0]}
   == {k for k in samples(text) if "http_requests" not in k[0]})
others = samples(page("?names=all")[1])
ok("names of others", others["vllm:generation_tokens_total", 'model_name="tiny"'] == generated
   and others["vllm:num_requests_running", 'model_name="tiny"'] == 0
   and others["llamacpp:tokens_predicted_total", ""] == generated)
kinds = {q: {re.match("gen_ai_server|[^:]*", n).group() for n, _ in samples(page("?names=" + q)[1]) if ":" in n or n.startswith("gen_ai_")}
         for q in ("own", "gen_ai", "vllm", "llamacpp", "all")}
ok("none, one, or all of them", kinds == {"own": set(), "gen_ai": {"gen_ai_server"}, "vllm": {"vllm"}, "llamacpp": {"llamacpp"},
                                         "all": {"gen_ai_server", "vllm", "llamacpp"}},
   str(kinds))
ok("no such names", s.ask("GET", "/metrics?names=tgi")[0] == 400)

# ---- the documents ----
doc = open(os.path.join(ROOT, "docs/METRICS.md")).read()
families.setdefault("precis_memory_pressure_ratio", "gauge")  # not every system tells
told = set(re.findall(r"^\| `((?:precis|process)_[a-z_]+)`", doc, re.M))
ok("docs/METRICS.md has every family and no other", told == set(families), str(told ^ set(families)))
kinds = dict(re.findall(r"^\| `((?:precis|process)_[a-z_]+)` \| (\w+)", doc, re.M))
ok("and its kind", kinds == families, str([k for k in kinds if families.get(k) != kinds[k]]))
aliases = set(re.findall(r"`((?:vllm|llamacpp):[a-z_0-9]+)`", doc))
ok("and every name of others", aliases == {re.sub("_(bucket|sum|count)$", "", n) for n, _ in others if ":" in n},
   str(aliases ^ {re.sub("_(bucket|sum|count)$", "", n) for n, _ in others if ":" in n}))
r = subprocess.run([os.path.join(ROOT, "tools/dashboard.py"), "--check"], capture_output=True, text=True)
ok("the dashboard is the generated one", r.returncode == 0, r.stderr)
board = json.load(open(os.path.join(ROOT, "share/grafana/precis.json")))
exprs = [t["expr"] for p in board["panels"] for t in p.get("targets", [])]
rules_path = os.path.join(ROOT, "share/prometheus/precis.rules.yml")
rules_text = open(rules_path).read()
names = {n for n, _ in now} | {"precis_memory_pressure_ratio"} | set(re.findall(r"record: (\S+)", rules_text))
used = set(re.findall(r"\b(?:precis|process)[_:][a-z_0-9:]+", " ".join(exprs) + re.sub("(?m)^( *- alert:.*|#.*)$", "", rules_text)))
used -= {"precis:", "process:"}
ok("dashboard and rules ask for what there is", used <= names and len(used) > 30, str(used - names))

# ---- alerts ----
listener = s.begin("GET", "/api/v1/quantization/events")
heard = []
threading.Thread(target=lambda: heard.extend(events(listener)), daemon=True).start()


def state(name):
    return {a["name"]: a for a in s.get("/api/v1/alerts")["alerts"]}[name]["state"]


ok("alerts", [a["name"] for a in s.get("/api/v1/alerts")["alerts"]] == ["tight", "never", "slow"]
   and until(lambda: s.get("/api/v1/alerts")["alerts"][0]["value"] == 0.2, 30), str(s.get("/api/v1/alerts")))
ok("none fires", s.get("/api/v1/alerts")["firing"] == 0 and now["precis_alert_firing", 'alert="tight"'] == 0)
squeeze_to(0.85)
ok("one fires", until(lambda: state("tight") == "firing", 30), str(s.get("/api/v1/alerts")))
ok("so it shows", samples(page()[1])["precis_alert_firing", 'alert="tight"'] == 1 and state("never") == "inactive")
ok("a move is counted by its cause", until(lambda: samples(page()[1])[
    "precis_moves_total", 'direction="down",cause="memory"'] > 0, 30))

# ---- Prometheus ----
got = subprocess.run([os.path.join(ROOT, "tools/prometheus")], capture_output=True, text=True)
if got.returncode:
    skipped("promtool and Prometheus", got.stderr.strip())
else:
    tools = got.stdout.strip()

    def promtool(*args, text=None):
        r = subprocess.run([os.path.join(tools, "promtool"), *args], input=text, capture_output=True, text=True)
        return r.returncode, r.stdout + r.stderr

    code, said = promtool("check", "metrics", text=page()[1])
    ok("promtool takes /metrics", code == 0 and not said.strip(), said)
    code, said = promtool("check", "metrics", text=page("?names=all")[1])
    ok("and objects to nothing else than the colons of others", code in (0, 3)
       and all(re.match(r"(vllm|llamacpp):\S+ .*':'", l) for l in said.strip().splitlines()), "%d %s" % (code, said))
    code, said = promtool("check", "rules", rules_path)
    ok("promtool takes the rules", code == 0, said)

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = write("prometheus.yml", ("""
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [%s]
scrape_configs:
  - job_name: precis
    authorization: {credentials: %s}
    params: {names: [all]}
    static_configs: [{targets: ["127.0.0.1:%d"]}]
""" % (rules_path, KEY, s.port)).encode())
    code, said = promtool("check", "config", config)
    ok("its configuration", code == 0, said)
    prometheus = subprocess.Popen([os.path.join(tools, "prometheus"), "--config.file", config, "--storage.tsdb.path",
                                   path("tsdb"), "--web.listen-address", "127.0.0.1:%d" % port, "--log.level", "warn"],
                                  stdin=subprocess.DEVNULL, stdout=open(path("prometheus.log"), "w"), stderr=subprocess.STDOUT)

    def api(what, **params):
        try:
            url = "http://127.0.0.1:%d/api/v1/%s?%s" % (port, what, urllib.parse.urlencode(params))
            return json.load(urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=30))["data"]
        except urllib.error.HTTPError as e:
            return {"error": e.read().decode(), "result": []}
        except OSError as e:
            return {"error": str(e), "result": []}

    def query(expr):
        return api("query", query=expr)["result"]

    try:
        ok("Prometheus scrapes it", until(lambda: [v["value"][1] for v in query("up")] == ["1"], 60),
           open(path("prometheus.log")).read()[-1000:] + str(api("targets")))
        ok("as OpenMetrics or text, all of it", not any(t["lastError"] for t in api("targets")["activeTargets"]))
        ok("a series", [v["metric"]["level"] for v in query("precis_model_level == 1")] == ["int4"]
           or [v["metric"]["level"] for v in query("precis_model_level == 1")] == ["int2"], str(query("precis_model_level")))
        ok("a series under another's name", query("vllm:generation_tokens_total")[0]["value"][1] == str(generated))
        s.post(TEXT, {"prompt": "Once upon", "max_tokens": 12, "seed": 5, "temperature": 1})
        ok("a rule records", until(lambda: query("precis:time_between_tokens_seconds:p95"), 60))
        ok("a rule fires for our own alert", until(lambda: any(
            a["labels"]["alertname"] == "PrecisOwnAlert" and a["labels"]["alert"] == "tight" and a["state"] == "firing"
            for a in api("alerts")["alerts"]), 60), str(api("alerts")))
        bad, empty = [], []
        for expr in exprs:
            for name, value in (("$__rate_interval", "1m"), ("$instance", ".*"), ("$model", ".*")):
                expr = expr.replace(name, value)
            answer = api("query", query=expr)
            if "error" in answer:
                bad.append((expr, answer["error"]))
            elif not answer["result"]:
                empty.append(expr)
        ok("Prometheus reads every query of the dashboard", not bad, str(bad))
        ok("and nearly all have an answer", len(empty) <= 2, str(empty))
        ok("no rule fails", not any(r["lastError"] for g in api("rules")["groups"] for r in g["rules"] if "lastError" in r))
    finally:
        prometheus.terminate()
        prometheus.wait(60)

# ---- and it ends ----
squeeze_to(0.20)
ok("it resolves", until(lambda: state("tight") == "resolved", 30), str(s.get("/api/v1/alerts")))
ok("listeners heard of it", until(lambda: [e["state"] for e in heard if e["event"] == "alert"] == ["firing", "resolved"], 20),
   str(heard))
ok("stops", s.stop() == 0)
lines = open(s.log_path).read().splitlines()
log = [json.loads(l) for l in lines]
ok("every line of the log is JSON", len(log) > 20 and all("time" in l and "log" in l for l in log))
asked = [l for l in log if l.get("event") == "request" and l["path"] == TEXT and l["status"] == 200]
FIELDS = {"time", "log", "event", "id", "method", "path", "route", "status", "bytes", "received", "seconds", "key", "peer", "gone",
          "model", "stream", "cache", "finish", "levels", "prompt_tokens", "cached_tokens", "generated_tokens", "queue_seconds",
          "first_token_seconds", "total_seconds"}
ok("a request's line", len(asked) >= 4 and all(set(l) == FIELDS for l in asked) and asked[0]["key"] == "scraper"
   and asked[0]["model"] == "tiny" and asked[0]["levels"] == ["fp16"] and asked[0]["peer"] == "127.0.0.1"
   and asked[0]["generated_tokens"] == texts[0]["usage"]["completion_tokens"] and asked[0]["cache"] == "MISS"
   and 0 < asked[0]["first_token_seconds"] <= asked[0]["total_seconds"] <= asked[0]["seconds"] + 0.01, str(asked[:1]))
ok("no word of a prompt or an answer", not any("Once upon" in l or texts[0]["choices"][0]["text"].strip()[:12] in l
                                               for l in lines))
ok("an alert is logged once a change", [(l["name"], l["state"], l["log"]) for l in log if l.get("event") == "alert"]
   == [("tight", "firing", "warn"), ("tight", "resolved", "info")])

# ---- the log as text ----
s = Server("--log-format", "text", "--alerts", "quick: latency_p50 < 10s")
s.post(TEXT, {"prompt": "Once", "max_tokens": 2})
s.ask("GET", "/%0a2026-01-01T00:00:00.000Z%20error%20%1b[2J", headers={"X-Request-Id": "mine"})
r = s.begin("POST", TEXT, {"prompt": "Once", "max_tokens": 200, "stream": True, "n": 8, "temperature": 1.5})
r.read(10)
r.connection.close()
gone = until(lambda: "finish=cancelled" in open(s.log_path).read(), 20)
ok("who has gone is logged", gone, open(s.log_path).read()[-1500:])
ok("an alert is logged", until(lambda: "warn  alert name=quick state=firing" in open(s.log_path).read(), 20))
ok("stops", s.stop() == 0)
lines = open(s.log_path).read().split("\n")
WORD = r'(?:[\w.\-/:+%*{}\[\]<>@]+|"(?:[ !#-\[\]-~]|\\[^ ])*"|\[[ -~]*\])'
LINE = re.compile(r"20\d\d-\d\d-\d\dT[0-9:.]{12}Z (?:debug|info |warn |error) (?:%s(?: %s=%s)*)" % (WORD, WORD, WORD))
ok("every line has its form", lines.pop() == "" and all(LINE.fullmatch(l) for l in lines),
   str([l for l in lines if not LINE.fullmatch(l)]))
ok("people can read it", any(re.search(r" request id=\S+ method=POST path=/v1/completions .*status=200 .*model=tiny .*finish=length", l)
                             for l in lines), str(lines[-3:]))
finish()
