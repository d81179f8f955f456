#!/usr/bin/env python3
"""Elastic models: levels and budgets in every command, live moves in a chat, copies made in the background."""

import fcntl
import os
import shutil
import sys
import time
import xml.dom.minidom

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lib import Terminal, fails, finish, ok, path, precis, sanitized, skipped, small_model, text_file, write  # noqa: E402

MODELS = os.environ["PRECIS_MODELS"]
os.makedirs(MODELS)
source = os.path.join(MODELS, "tiny-thing.gguf")
shutil.copy(small_model(), source)
planes = path("model.planes.gguf")
r = precis("pack", "--fast", source, planes, timeout=600)
if not ok("a small elastic model", r.code == 0 and os.path.isfile(planes), str(r)):
    finish()
RAW = ("--raw", "--temp", "0", "-n", "12", "Once upon a time")
SILENT = {"PRECIS_PACK_MAX": "0"}
PACKING = {"PRECIS_PACK_MAX": "2G"}

# ---- show and list ----
s = precis("show", planes, "--json").json()
names = [l["level"] for l in s["levels"]]
top = names[-1]
bytes_of = {l["level"]: l["weight_bytes"] for l in s["levels"]}
ok("show --json has the levels", s["elastic"] and names[:2] == ["int2", "int4"] and s["level"] == top
   and sorted(bytes_of.values()) == list(bytes_of.values()) and s["increments"] > 3, str(s))
ok("and what they cost", all(a["kl_expected"] >= b["kl_expected"] and a["bits_per_weight"] < b["bits_per_weight"]
                             for a, b in zip(s["levels"], s["levels"][1:])) and 2 < s["levels"][0]["bits_per_weight"] < 4,
   str(s["levels"]))
r = precis("show", planes)
ok("show has a line a level", all("\n  %-10s" % n in r.out for n in names) and "planes" in r.out, str(r))
ok("show --level", precis("show", planes, "--json", "--level", "int2").json()["weight_bytes"] == bytes_of["int2"])
r = precis("show", source, "--json").json()
ok("an ordinary model is not elastic", r["elastic"] is False and "levels" not in r, str(r))

# ---- plan ----
r = precis("plan", planes)
ok("plan", r.code == 0 and r.out.splitlines()[-1].startswith("here: %s " % top) and len(r.out.splitlines()) > 8, str(r))
p = precis("plan", planes, "--json", "--budgets", "3").json()
peaks = [w["peak_bytes"] for w in p["rows"]]
ok("plan --json", len(p["rows"]) == len(names) + 3 and p["chosen"]["level"] == top and all(w["fits"] for w in p["rows"]),
   str(p))
least, most = s["bytes_min"], s["bytes_max"]
budget = (least + most) // 2
p = precis("plan", planes, "--json", "--budgets", "%d,%d" % (budget, most)).json()
ok("a list of budgets", [w.get("budget_bytes") for w in p["rows"][len(names):]] == [budget, most]
   and p["rows"][len(names)]["weight_bytes"] <= budget, str(p))
peak = p["rows"][len(names)]["peak_bytes"]
j = precis("plan", planes, "--json", "--memory", str(peak)).json()
c = j["chosen"]
ok("fits says whether --memory holds it", all(w["fits"] == (w["peak_bytes"] <= peak) for w in j["rows"])
   and not all(w["fits"] for w in j["rows"]), str(j["rows"]))
row = p["rows"][len(names)]["weight_bytes"]  # peaks are counted in pages, so the last one may hold a little more
ok("plan --memory", c["peak_bytes"] <= peak and row <= c["weight_bytes"] < most and "--memory" in c["why"], str(c))
# Pages of planes are whole in memory, so peaks come in steps: at each of them, a byte below and above, and between.
edges = sorted({w["peak_bytes"] for w in precis("plan", planes, "--json", "--budgets", "16").json()["rows"]})
wanted = sorted({n + d for n in edges for d in (-1, 0, 1)} | {(a + b) // 2 for a, b in zip(edges, edges[1:])})
chosen = {n: precis("plan", planes, "--json", "--memory", str(n)) for n in wanted if n >= edges[0]}
over = [(n, r.out[-300:]) for n, r in chosen.items() if r.code != 0 or r.json()["chosen"]["peak_bytes"] > n]
ok("--memory is never exceeded", not over and len(chosen) > 6, str(over))
ok("and used as far as it goes", all(chosen[n].json()["chosen"]["peak_bytes"] == n for n in edges),
   str([(n, chosen[n].json()["chosen"]["peak_bytes"]) for n in edges]))
fails("a byte less than the least", precis("plan", planes, "--memory", str(edges[0] - 1)), 1, "--memory", "at least")
fails("a budget below the least", precis("plan", planes, "--budgets", "%d" % (least // 2)), 1, "--budgets")
fails("a bad list", precis("plan", planes, "--budgets", "1M,x"), 2, "--budgets", "x")
r = precis("plan", source)
ok("plan of an ordinary model", r.code == 0 and "one precision" in r.out and "precis pack" in r.out, str(r))
ok("and for scripts", precis("plan", source, "--json").json()["elastic"] is False)

# ---- loading flags ----
for level in names:
    j = precis("run", planes, *RAW, "--json", "--level", level).json()
    ok("run --level %s" % level, j["level"] == level and j["weight_bytes"] == bytes_of[level] and j["text"], str(j))
j = precis("run", planes, *RAW, "--json", "--weights-budget", str(budget)).json()
ok("run --weights-budget", least < j["weight_bytes"] <= budget, str(j))
j = precis("run", planes, *RAW, "--json", "--memory", str(peak)).json()
ok("run --memory", j["weight_bytes"] == c["weight_bytes"] and j["elastic"], str(j))
j = precis("run", planes, *RAW, "--json", "--level", "fp16").json()
ok("above the top is the top", j["level"] == top, str(j))
fails("a level and a budget", precis("run", planes, *RAW, "--level", "int4", "--weights-budget", "9M"), 2, "--level",
      "--weights-budget")
fails("no such level", precis("run", planes, *RAW, "--level", "int3"), 2, "--level", "int3")
fails("no size", precis("run", planes, *RAW, "--weights-budget", "much"), 2, "--weights-budget", "much")
fails("a budget of nothing", precis("run", planes, *RAW, "--memory", "0"), 2, "--memory")
fails("too small a budget", precis("run", planes, *RAW, "--weights-budget", "10k"), 1, "--weights-budget", "at least")
fails("too little memory", precis("run", planes, *RAW, "--memory", "2M"), 1, "--memory", "at least", "--context")
fails("a level of an ordinary model", precis("eval", source, "--text", text_file(), "--level", "int4"), 1, "--level",
      "precis pack")
fails("a budget of an ordinary model", precis("bench", source, "--weights-budget", "1G"), 1, "--weights-budget",
      "precis pack")
fails("memory for an ordinary model", precis("run", source, *RAW, "--memory", "1M"), 1, "--memory", "1.0 MB")
r = precis("run", source, *RAW, "--memory", "8G")
ok("memory that suffices", r.code == 0 and not r.err, str(r))

# ---- speculation ----
plain = precis("run", planes, *RAW, "--speculate", "off", "--json").json()
for how in ("auto", "4"):
    j = precis("run", planes, *RAW, "--speculate", how, "--json").json()
    ok("--speculate %s: the same answer" % how, j["text"] == plain["text"], "%r %r" % (j, plain))
ok("4 drafts at a time are made", j["drafted_tokens"] > 0 and j["accepted_tokens"] <= j["drafted_tokens"], str(j))
ok("off makes none", plain["drafted_tokens"] == 0, str(plain))
fails("too many drafts", precis("run", planes, *RAW, "--speculate", "99"), 2, "--speculate", "99")
r = precis("run", planes, *RAW, "--speculate", "4", "--stats")
ok("--stats has level and drafts", top in r.err and "of weights" in r.err and "drafts accepted" in r.err
   and len(r.err.splitlines()) == 1, str(r))

# ---- bench ----
BENCH = ("bench", planes, "-r", "2", "--json")
j = precis(*BENCH, "-p", "16", "-n", "8", "--level", "int4").json()
ok("bench --level", j["level"] == "int4" and j["weight_bytes"] == bytes_of["int4"] >= j["weight_bytes_read"] > 0
   and j["bandwidth_share"] > 0, str(j))
j = precis(*BENCH, "--switch", "%s:int2" % top).json()
ok("bench --switch down", j["weight_bytes_before"] == bytes_of[top] and j["weight_bytes_after"] == bytes_of["int2"]
   and j["first_token_seconds"] > 0, str(j))
if sanitized():
    skipped("memory comes back", "a sanitizer keeps memory of its own")
else:
    ok("memory comes back", abs(j["rss_after_bytes"] / j["rss_predicted_bytes"] - 1) < 0.1, str(j))
j = precis(*BENCH, "--switch", "int2:%s" % top).json()
ok("bench --switch up", j["weight_bytes_after"] == bytes_of[top] and j["reached_seconds"] > 0
   and j["longest_token_seconds"] > 0, str(j))
r = precis("bench", planes, "-r", "1", "--switch", "%s:%d" % (top, budget))
ok("to a budget, as text", r.code == 0 and "memory" in r.out and "predicted" in r.out, str(r))
fails("no way", precis("bench", planes, "--switch", "int4"), 2, "--switch", "FROM:TO")
fails("nowhere", precis("bench", planes, "--switch", "int4:int4"), 2, "--switch")
fails("no place", precis("bench", planes, "--switch", "int4:int5"), 2, "--switch", "int5")
fails("an ordinary model does not move", precis("bench", source, "--switch", "int4:int2"), 1, "precis pack")
j = precis(*BENCH, "--speculate", "3", "--text", text_file(), "-p", "40", "-n", "20").json()
ok("bench --speculate", j["same"] and j["ratio"] > 0 and 0 <= j["acceptance"] <= 1 and j["drafted_tokens"] > 0, str(j))
j = precis("bench", source, *BENCH[2:], "--speculate", "auto", "--text", text_file(), "-p", "40", "-n", "20").json()
ok("bench --speculate of an ordinary model", j["same"] and j["ratio"] > 0 and j["elastic"] is False, str(j))
fails("speculation without a text", precis("bench", planes, "--speculate", "auto"), 2, "--speculate", "--text")

# ---- eval ----
EVAL = ("eval", planes, "--text", text_file(), "--tokens", "300", "--window", "64")
svg = path("levels.svg")
r = precis(*EVAL, "--levels", "--svg", svg)
lines = [l.split() for l in r.out.splitlines()]
ok("eval --levels", r.code == 0 and [l[0] for l in lines if l[0] in names] == names, str(r))
drawn = xml.dom.minidom.parse(svg)
texts = [t.firstChild.data for t in drawn.getElementsByTagName("text")]
ok("the drawing is whole", all(any(t.startswith(n) for t in texts) for n in names) and len(texts) > 8, str(texts))
j = precis(*EVAL, "--budgets", "3", "--json", "--reference", source).json()
rows = {w["name"]: w for w in j["rows"] if "name" in w}
ok("eval --budgets --json", len(j["rows"]) == len(names) + 3 and j["reference"] == source
   and all(w["decode_tokens_per_second"] > 0 for w in j["rows"]), str(j))
ok("more bytes, closer", rows["int2"]["kl_mean"] > rows["int4"]["kl_mean"] > rows[top]["kl_mean"] >= 0
   and rows[top]["top1_agreement"] > 0.97, str(rows))
one = precis(*EVAL, "--level", "int4", "--reference", source, "--json").json()
ok("as one level alone says", one["perplexity"] == rows["int4"]["perplexity"] and one["level"] == "int4"
   and abs(one["kl_mean"] - rows["int4"]["kl_mean"]) < 1e-9, "%r %r" % (one, rows["int4"]))
j = precis(*EVAL, "--levels", "--json").json()
ok("itself at its top is the reference", j["rows"][-1]["kl_mean"] == 0 and j["rows"][-1]["top1_agreement"] == 1, str(j))
fails("--svg alone", precis(*EVAL, "--svg", svg), 2, "--svg")
fails("all levels and one", precis(*EVAL, "--levels", "--level", "int4"), 2, "--level")
fails("an ordinary model", precis("eval", source, "--text", text_file(), "--levels"), 1, "--levels", "precis pack")

# ---- a chat ----
PROMPT = ">>> "
t = Terminal("run", planes, "--template", "chatml", "--ignore-eos", "-n", "6", "--temp", "0")
ok("the greeting names the level", "at %s" % top in (t.wait_for(PROMPT) or ""), repr(t.seen))


def said(line):
    t.line(line)
    return t.wait_for(PROMPT) or ""


ok("/level down", "now int2:" in said("/level int2"), repr(t.seen))
ok("it answers there", said("Hi") != "", repr(t.seen))
seen = said("/level %s" % top)
for _ in range(100):
    if "now %s:" % top in seen:
        break
    time.sleep(0.1)
    seen += said("")
ok("/level up is told when it is done", "now %s:" % top in seen, repr(seen))
seen = said("/budget %d" % budget)
ok("/budget", "of weights" in seen and "->" in seen, repr(seen))
seen = said("/stats")
ok("/stats", "expected KL" in seen and "p2 " in seen and "moves down" in seen and "last drop" in seen, repr(seen))
seen = said("/budget 1k")
ok("a budget that is too small", "too small" in seen, repr(seen))
ok("a level with a blank behind", "now int2:" in said("/level int2 "), repr(t.seen))
ok("no level", "/level" in said("/level int3") and "int4" in said("/level"), repr(t.seen))
t.send("\x04")
ok("leaves", t.end() == 0)
t = Terminal("run", source, "--template", "chatml", "--no-pack", "-n", "4")
t.wait_for(PROMPT)
ok("an ordinary model explains", "precis pack" in said("/level int2"), repr(t.seen))
t.send("\x04")
t.end()

# ---- packing in the background ----
companion, log = os.path.join(MODELS, "tiny-thing.planes.gguf"), os.path.join(MODELS, "tiny-thing.planes.log")


def packed(seconds=300):
    """Wait until nobody packs; true when the companion is there."""
    end = time.time() + seconds
    while time.time() < end:
        try:
            with open(log) as f:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
        except (OSError, FileNotFoundError):
            time.sleep(0.2)
    return os.path.isfile(companion)


r = precis("run", source, *RAW, env=SILENT)
answer = r.out
ok("PRECIS_PACK_MAX=0 packs nothing", not r.err and not os.path.exists(log), str(r))
r = precis("run", source, *RAW, "--no-pack", env=PACKING)
ok("--no-pack packs nothing", not r.err and r.out == answer and not os.path.exists(log), str(r))
r = precis("run", source, *RAW, env={"PRECIS_PACK_MAX": "10k"})
ok("a large model is told how", len(r.err.splitlines()) == 1 and "precis pack" in r.err and not os.path.exists(log), str(r))
r = precis("run", source, *RAW, env={"PRECIS_PACK_MAX": "2G", "PRECIS_MODELS": "/proc/nowhere"})
ok("a folder that cannot be written", r.out == answer and len(r.err.splitlines()) == 1 and "cannot be written" in r.err,
   str(r))
with open(log, "w") as held:
    fcntl.flock(held, fcntl.LOCK_EX)
    r = precis("run", source, *RAW, env=PACKING)
    ok("not while another packs it", r.out == answer and not r.err, str(r))
    fails("which is told when a level is wanted", precis("run", source, *RAW, "--level", "int2"), 1, "--level",
          "being packed right now")
write("models/tiny-thing.planes.log", b"reading\nprecis: something was wrong\n")
r = precis("run", source, *RAW, env=PACKING)
ok("not when it has failed before", r.out == answer and "could not be packed" in r.err, str(r))
os.remove(log)

r = precis("run", source, *RAW, env=PACKING)
ok("the first run answers and packs", r.out == answer and len(r.err.splitlines()) == 1 and "background" in r.err, str(r))
ok("the companion comes", packed(), open(log).read())
listed = {m["name"]: m for m in precis("list", "--json").json()["models"]}
ok("it is listed", listed["tiny-thing.planes.gguf"]["type"] == "elastic"
   and listed["tiny-thing.planes.gguf"]["levels"] == "int2..%s" % top
   and listed["tiny-thing.planes.gguf"]["params"] == listed["tiny-thing.gguf"]["params"], str(listed))
ok("a name still means the source", precis("show", "tiny", "--json").json()["path"] == source)
ok("and the companion has one of its own", precis("show", "tiny-thing.planes", "--json").json()["path"] == companion)
r = precis("run", "tiny", *RAW, "--level", "int4", "--json", env=PACKING)
ok("--level takes the companion", not r.err and r.json()["model"] == companion and r.json()["level"] == "int4", str(r))
wide = listed["tiny-thing.gguf"]["type"] in ("f16", "bf16", "f32")
r = precis("plan", "tiny-thing")
ok("plan of its source names it", r.code == 0 and ("elastic copy" if wide else "one precision") in r.out and companion in r.out, str(r))
for args, path_of_it in ((("--memory", "2G"), companion), (("--exact",), source)):
    j = precis("plan", "tiny-thing", "--json", *args).json()
    ok("plan %s is of what run would open" % " ".join(args), j["path"] == path_of_it, str(j))
r = precis("run", "tiny", *RAW, "--json", env=PACKING)
ok("and so does a source of 16 bits, alone", not r.err and r.json()["elastic"] == wide, str(r))
ok("--exact reads the source", precis("run", "tiny", *RAW, "--exact", "--json").json()["model"] == source)
os.utime(source, ns=(1, os.stat(source).st_mtime_ns + 1000))
r = precis("run", "tiny", *RAW, "--json", env=PACKING)
ok("another source is packed again", r.json()["model"] == source and "background" in r.err, str(r))
ok("and fits again", packed() and precis("run", "tiny", *RAW, "--level", "int2", "--json").json()["elastic"])

# ---- the default model ----
given = os.environ.get("PRECIS_TEST_MODEL", "")
if os.path.isfile(given) and not sanitized():
    big = path("big.planes.gguf")
    r = precis("pack", "--fast", os.path.abspath(given), big, timeout=900)
    j = precis("run", big, "--temp", "0", "-n", "24", "--json", "--speculate", "auto", "What is a kitten?").json()
    k = precis("run", big, "--temp", "0", "-n", "24", "--json", "--speculate", "off", "What is a kitten?").json()
    ok("the default model, packed", r.code == 0 and j["elastic"] and j["text"] == k["text"], "%s %r %r" % (r, j, k))
    j = precis("bench", big, "--switch", "int8:int2", "-r", "3", "--json").json()
    ok("its memory comes back", abs(j["rss_after_bytes"] / j["rss_predicted_bytes"] - 1) < 0.05, str(j))
else:
    skipped("the default model", "PRECIS_TEST_MODEL is not set, or a sanitizer is at work")

finish()
