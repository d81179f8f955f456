#!/usr/bin/env python3
"""list, show, bench, eval, tokenize, doctor."""

import math
import os
import re
import shutil
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lib import DATA, fails, finish, ok, path, precis, sanitized, skipped, small_model, text_file, write  # noqa: E402

model = small_model()
MODELS = os.environ["PRECIS_MODELS"]

# ---- list ----
r = precis("list")
ok("an empty folder", r.code == 0 and "precis pull smollm2" in r.out, str(r))
ok("an empty folder, for scripts", precis("list", "--json").json()["models"] == [])
os.makedirs(MODELS)
shutil.copy(model, os.path.join(MODELS, "Tiny-Model-f16.gguf"))
shutil.copy(model, os.path.join(MODELS, "tiny-other.gguf"))
write("models/broken.gguf", b"GGUF")
write("models/notes.txt", b"not a model")
r = precis("list")
ok("list", r.code == 0 and "Tiny-Model-f16 " in r.out and "llama" in r.out and "notes" not in r.out, str(r))
ok("a broken file stays in the list", "broken" in r.out and "unreadable" in r.out, str(r))
listed = {m["name"]: m for m in precis("list", "--json").json()["models"]}
ok("list --json", set(listed) == {"Tiny-Model-f16.gguf", "tiny-other.gguf", "broken.gguf"}
   and "error" in listed["broken.gguf"]
   and listed["tiny-other.gguf"]["params"] > 1000, str(listed))

# ---- what MODEL means ----
for name in ("Tiny-Model-f16.gguf", "Tiny-Model-f16", "tiny-model-F16", "tiny-m"):
    r = precis("show", name, "--json")
    ok("MODEL %s" % name, r.code == 0 and r.json()["path"].endswith("Tiny-Model-f16.gguf"), str(r))
fails("a beginning of two", precis("show", "tiny"), 2, "Tiny-Model-f16.gguf", "tiny-other.gguf")

# ---- show ----
r = precis("show", model)
ok("show", r.code == 0 and "parameters" in r.out and "fits" in r.out, str(r))
a, b = precis("show", model, "--json").json(), precis("show", model, "--json", "--kv", "q8", "--context", "64").json()
ok("show --json", a["fits"] is True and a["peak_bytes"] > a["weight_bytes"] > 0
   and a["context_fits"] >= a["context_max"], str(a))
ok("fewer bytes by q8 and a short context", b["context_max"] == 64 and b["kv_type"] == "q8"
   and b["kv_bytes_per_token"] < a["kv_bytes_per_token"] and b["peak_bytes"] < a["peak_bytes"], str(b))
c = precis("show", model, "--json", "--kv", "q8,q4", "--context", "64").json()
ok("fewer still by values in 4 bits", c["kv_type"] == "q8,q4" and c["kv_bytes_max"] < b["kv_bytes_max"], str(c))
fails("a type that there is not", precis("show", model, "--kv", "q8,q5"), 2, "q8,q5", "f16, q8 or q4")
r = precis("show", model, "--graph")
ok("show --graph", r.code == 0 and r.out.count("\n") > 20, str(r))
r = precis("show", model, "--meta")
ok("show --meta", r.code == 0 and "general.architecture = " in r.out, str(r))
r = precis("show", model, "--tensors")
ok("show --tensors", r.code == 0 and "token_embd.weight" in r.out, str(r))
r = precis("show", model, "--tensors", "--meta", "--graph", "--json")
j = r.json()
ok("all of it for scripts", len(j["tensors"]) > 5 and j["meta"]["general.architecture"] and j["graph"]
   and j["params"], str(r))

# ---- bench ----
BENCH = ("bench", model, "-p", "32", "-n", "8", "-r", "2")
r = precis(*BENCH)
ok("bench", r.code == 0 and "prefill" in r.out and "decode" in r.out and "GB/s" in r.out, str(r))
r = precis(*BENCH, "--json", "--streams", "3")
j = r.json()
ok("bench --json", j["streams"] == 3 and j["decode_tokens_per_second"] > 0 and j["prefill_tokens_per_second"] > 0
   and j["bandwidth_bytes_per_second"] > 1e8 and 0 < j["bandwidth_share"] and j["predicted_peak_bytes"] > 0, str(r))
r = precis("bench", model, "-p", "0", "-n", "4", "-r", "1", "--json")
ok("decode alone", r.code == 0 and r.json()["prefill_tokens_per_second"] == 0, str(r))
r = precis("bench", model, "-p", "16", "-n", "0", "-r", "1")
ok("prefill alone", r.code == 0 and "decode" not in r.out, str(r))
fails("a context too small", precis(*BENCH, "--context", "16"), 2, "--context")
synthetic = path("s.gguf")
r = precis("bench", "--synthetic", "135m", "--write-gguf", "q8_0", synthetic)
ok("--write-gguf", r.code == 0 and os.path.getsize(synthetic) > 100e6, str(r))
fails("an unknown type", precis("bench", "--synthetic", "135m", "--write-gguf", "q9", path("x.gguf")), 2, "q9")
os.makedirs(path("tmp"))
r = precis("bench", "--synthetic", "135m", "--type", "q8_0", "-p", "8", "-n", "2", "-r", "1", "--json",
           env={"TMPDIR": path("tmp")})
j = r.json()
off = j["peak_bytes"] / j["predicted_peak_bytes"] - 1
ok("bench --synthetic", r.code == 0 and abs(j["params"] - 134.5e6) < 1e6 and os.listdir(path("tmp")) == [], str(r))
if sanitized():
    skipped("its peak is as predicted", "a sanitizer needs memory of its own")
else:
    ok("its peak is as predicted", abs(off) < 0.05, "%+.1f%%" % (off * 100))

# ---- eval ----
text = text_file()
EVAL = ("eval", model, "--text", text, "--tokens", "600", "--window", "64")
r = precis(*EVAL)
ok("eval", r.code == 0 and "perplexity" in r.out, str(r))
e = precis(*EVAL, "--json").json()
bos = int(precis("tokenize", model, "", "--bos", "--count").out)
body = 64 - bos
chunks = -(-600 // body)
tail = 600 - (chunks - 1) * body + bos
ok("chunks are counted as said", e["chunks"] == chunks - (tail == 1)
   and e["scored"] == (chunks - 1) * 63 + tail - 1, str(e))
ok("perplexity is exp of the mean", abs(math.exp(e["nll"]) / e["perplexity"] - 1) < 1e-6 and e["perplexity"] > 1,
   str(e))
s = precis(*EVAL, "--json", "--reference", model).json()
ok("itself as the reference", s["kl_mean"] < 1e-9 and s["top1_agreement"] == 1
   and s["reference_perplexity"] == e["perplexity"], str(s))
x = precis(*EVAL, "--json", "--reference-exact").json()
ok("--reference-exact", 0 <= x["kl_mean"] < 0.02 and x["kl_99"] >= x["kl_mean"] and x["top1_agreement"] > 0.9, str(x))
fails("a text that is not there", precis("eval", model, "--text", "/nowhere"), 1, "/nowhere")
fails("an empty text", precis("eval", model, "--text", write("none.txt", b"")), 2, "none.txt")
fails("a window of one", precis(*EVAL[:-1], "1"), 2, "--window")
fails("a window over the model's context", precis(*EVAL[:-1], "1000000"), 2, "--window")
other = os.path.join(DATA, "models/stories260K/stories260K-f32.gguf")
if os.path.isfile(other):
    fails("another vocabulary", precis(*EVAL, "--reference", other), 2, "--reference", "vocabulary")
    r = precis("eval", other, "--text", text, "--tokens", "4000", "--exact", "--json").json()
    ok("perplexity of a known model", 3.0 < r["perplexity"] < 4.5, str(r))
else:
    skipped("another vocabulary", "no stories260K in the shared data")

# ---- tokenize ----
r = precis("tokenize", model, "Once upon a time")
ids = r.out.split()
ok("tokenize", r.code == 0 and len(ids) > 2 and all(i.isdigit() for i in ids) and r.out.count("\n") == 1, str(r))
ok("from standard input, byte for byte", precis("tokenize", model, stdin=b"Once upon a time").out == r.out)
ok("the line end counts", precis("tokenize", model, stdin=b"Once upon a time\n").out != r.out)
ok("--file", precis("tokenize", model, "--file", write("t.txt", b"Once upon a time")).out == r.out)
ok("--count", precis("tokenize", model, "Once upon a time", "--count").out == "%d\n" % len(ids))
j = precis("tokenize", model, "Once upon a time", "--json", "--pieces").json()
ok("--json --pieces", [str(i) for i in j["ids"]] == ids and j["count"] == len(ids)
   and "".join(j["pieces"]).strip() == "Once upon a time", str(j))
lines = precis("tokenize", model, "Once upon a time", "--pieces").out.splitlines()
ok("--pieces", [l.split("\t")[0] for l in lines] == ids, str(lines))
ok("no text, no tokens", precis("tokenize", model, "", "--json").json() == {"count": 0, "ids": []})
fails("two texts", precis("tokenize", model, "a", "--file", "b"), 2, "--file")
vocab = os.path.join(DATA, "vocab/gpt-2.gguf")
if os.path.isfile(vocab):
    texts = open(os.path.join(DATA, "vocab/gpt-2.inp"), "rb").read().split(b"\n__ggml_vocab_test__\n")
    wanted = open(os.path.join(DATA, "vocab/gpt-2.out")).read().split("\n")
    bad = [i for i, t in enumerate(texts)
           if t and precis("tokenize", vocab, "--no-special", stdin=t).out.split() != wanted[i].split()]
    ok("a file that is only a vocabulary", not bad, "texts %r differ" % bad)
    fails("which is no model", precis("run", vocab, "hi"), 1, "gpt-2.gguf")
else:
    skipped("a file that is only a vocabulary", "no vocabularies in the shared data")

# ---- doctor ----
r = precis("doctor")
ok("doctor", r.code in (0, 1) and "processor" in r.out and "kernels" in r.out and "reading" in r.out, str(r))
j = precis("doctor", "--json").json()
ok("doctor --json", all(j[k]["verdict"] in ("good", "note", "bad") for k in j) and "models" in j and "pip" in j,
   str(j))
r = precis("doctor", env={"PRECIS_MODELS": write("plain-file", b"x")})
ok("doctor finds what is broken", r.code == 1 and "✗" in r.out, str(r))

# ---- names and texts from outside reach a terminal harmless ----
from server import Server  # noqa: E402

SHY = "ev\x1b[2Jil\n\x7f\u009b31m\u202e.gguf"
SAFE = r"ev\x1b[2Jil\n\x7f\u009b31m\u202e"
evil = path("evil")
os.makedirs(evil)
data = open(model, "rb").read()
if b"prose-6m" in data[:4096]:
    data = data.replace(b"prose-6m", b"p\x1b[2J\n\x9bm", 1)  # general.name
write("evil/" + SHY, data)
write("evil/broken\x1b[2J\n.gguf", b"GGUF")


def harmless(name, result, *texts, err=False):
    said = result.err if err else result.out
    bad = re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\ufffd]", result.out + result.err)
    lines = [l for l in said.split("\n") if any(t in l for t in texts)]
    ok(name, not bad and all(t in said for t in texts) and lines, "%s in %s" % (bad, result))


here = {"PRECIS_MODELS": evil}
r = precis("list", env=here)
harmless("list", r, SAFE, r"broken\x1b[2J\n ")
ok("a line each", len(r.out.splitlines()) == 3, str(r))
r = precis("list", "--json", env=here)
harmless("list --json", r, r"ev\u001b[2Jil\n\u007f\u009b31m\u202e")
ok("and the name is whole in it", SHY in [m["name"] for m in r.json()["models"]], str(r))
harmless("show", precis("show", "ev", env=here), SAFE, "p\\x1b[2J\\n\\x9bm" if b"\x9bm" in data[:4096] else "")
harmless("show --meta", precis("show", "ev", "--meta", env=here), "general.name")
harmless("plan", precis("plan", "ev", env=here), SAFE)
harmless("doctor", precis("doctor", "--quick", env=here), r"model ev\x1b[2Jil", r"model broken\x1b[2J\n")
harmless("bench", precis("bench", "ev", "--prompt", "8", "--tokens", "4", "--repeats", "1", env=here), "model ")
harmless("pack", precis("pack", "--fast", "ev", "--output", path("evil/x\x1b.planes.gguf"), env=here), r"x\x1b.planes")
harmless("an error", precis("run", "broken", "hi", env=here), r"broken\x1b[2J\n", err=True)
harmless("an unknown name", precis("run", "no\x1b[2J\nsuch", "hi", env=here), r"no\x1b[2J\nsuch", err=True)
harmless("an unknown command", precis("x\x1b[2J"), r"x\x1b[2J", err=True)
os.environ["XDG_RUNTIME_DIR"] = path("runtime")
os.environ["PRECIS_MODELS"] = evil
s = Server(os.path.join(evil, SHY), "--preload")
harmless("ps", precis("ps"), r"ev\x1b[2Jil")
s.stop()

finish()
