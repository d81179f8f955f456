#!/usr/bin/env python3
"""precis run, one question at a time."""

import os
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lib import PRECIS, big_model, fails, finish, ok, precis, small_model  # noqa: E402

model = small_model()
RAW = ("run", model, "--raw", "--temp", "0", "-n", "16")

# ---- answers ----
r = precis(*RAW, "Once upon a time")
ok("an answer", r.code == 0 and len(r.out) > 5 and r.out.endswith("\n") and not r.err, str(r))
greedy = r.out
ok("the same again", precis(*RAW, "Once upon a time").out == greedy)
ok("from standard input", precis(*RAW, stdin=b"Once upon a time").out == greedy)
ok("as echo writes it", precis(*RAW, stdin=b"Once upon a time\n").out == greedy)
ok("asked for with -", precis(*RAW, "-", stdin=b"Once upon a time").out == greedy)
ok("any number of threads", precis(*RAW, "-t", "1", "Once upon a time").out == greedy)
ok("any batch", precis(*RAW, "--batch", "3", "Once upon a time").out == greedy)
ok("scalar kernels", precis(*RAW, "--cpumask", "scalar", "Once upon a time").out == greedy)

r = precis(*RAW, "Once upon a time", "--json")
j = r.json()
ok("--json", r.code == 0 and j["text"].strip() == greedy.strip() and j["completion_tokens"] == 16
   and j["finish_reason"] == "length" and j["prompt_tokens"] > 1, str(r))
r = precis(*RAW, "Once upon a time", "--stats")
ok("--stats", r.out == greedy and "tokens" in r.err and len(r.err.splitlines()) == 1, str(r))

HOT = ("run", model, "--raw", "-n", "16", "--temp", "1.5", "--top-k", "0", "--top-p", "1", "--ignore-eos")
a = precis(*HOT, "--seed", "7", "Once").out
ok("same seed, same text", a == precis(*HOT, "--seed", "7", "Once").out)
ok("other seed, other text", a != precis(*HOT, "--seed", "8", "Once").out)
ok("no seed, another each time", len({precis(*HOT, "Once").out for _ in range(4)}) > 1)
seed = precis(*HOT, "--json", "Once").json()
ok("the seed is told", precis(*HOT, "--json", "--seed", str(seed["seed"]), "Once").json()["text"] == seed["text"])

word = greedy.split()[1]
r = precis(*RAW, "Once upon a time", "--stop", word, "--stop", "never comes", "--json")
ok("--stop", word not in r.json()["text"] and r.json()["finish_reason"] == "stop", str(r))
r = precis("run", model, "--template", "chatml", "-n", "4", "Hello", "--system", "Be brief")
ok("--template and --system", r.code == 0 and not r.err, str(r))
r = precis(*RAW, "Once", "--kv", "q8", "--no-pass", "fold", "--no-pass", "qkv", "--exact")
ok("options of loading", r.code == 0 and r.out, str(r))

# ---- refusals ----
fails("an empty prompt", precis("run", model, ""), 2, "empty")
fails("an empty standard input", precis("run", model), 2, "empty")
fails("invalid UTF-8", precis("run", model, "--raw", stdin=b"caf\xe9 time"), 2, "UTF-8", "0xe9", "at 3")
fails("invalid UTF-8 as an argument", precis("run", model, "--raw", b"caf\xff"), 2, "UTF-8")
fails("a zero byte", precis("run", model, "--raw", stdin=b"a\0b"), 2, "zero byte")
fails("a prompt over the context", precis("run", model, "--raw", "--context", "64", "word " * 500), 1,
      "context holds 64", "--context")
fails("an unknown template", precis("run", model, "--template", "nonesuch", "Hi"), 2, "--template", "nonesuch")
fails("a temperature below zero", precis("run", model, "--raw", "--temp", "-1", "Hi"), 2, "temperature")
fails("an empty stop text", precis("run", model, "--raw", "--stop", "", "Hi"), 2, "--stop")
r = precis("run", model, "Hi", "-n", "2")
ok("no template: says so, or has one", r.code == 0 or ("--template" in r.err and len(r.err.splitlines()) == 1),
   str(r))

# ---- the server's settings that mean the same here ----
def shown(env=None, *flags):
    return precis("show", model, "--json", *flags, env=env).json()


few = {"PRECIS_KV_CACHE_TYPE": "q8", "PRECIS_CONTEXT_LENGTH": "64"}
j = shown(few)
ok("settings of the environment", j["kv_type"] == "q8" and j["context_max"] == 64, str(j))
j = shown(few, "--kv", "f16", "--context", "96")
ok("flags win", j["kv_type"] == "f16" and j["context_max"] == 96, str(j))
j = shown(few, "--kv-cache-type", "q4")
ok("by their other names, too", j["kv_type"] == "q4", str(j))
j = shown({"PRECIS_CONTEXT_LENGTH": "1000000"})
ok("a context that is too long means the model's", j["context_max"] == j["context_train"], str(j))
fails("a context of the environment", precis("run", model, "--raw", "word " * 500, env=few), 1, "context holds 64")
fails("a wrong one", precis("run", model, "Hi", env={"PRECIS_KV_CACHE_TYPE": "q9"}), 2, "PRECIS_KV_CACHE_TYPE", "q9")
ok("what is the server's alone does not matter", precis(*RAW, "Once", env={"PRECIS_PORT": "none"}).code == 0)
fails("too little memory by the environment", precis("run", model, "Hi", env={"PRECIS_MEMORY": "1M"}), 1, "PRECIS_MEMORY")
ok("the flag wins", precis(*RAW, "Once", "--memory", "8G", env={"PRECIS_MEMORY": "1M"}).code == 0)
r = precis("bench", model, "-p", "96", "-n", "8", "-r", "1", "--json", env=dict(few, PRECIS_MEMORY="1M"))
ok("bench measures what its flags say", r.code == 0, str(r))
ok("but for keys and values", precis("bench", model, "-n", "4", "-r", "1", env={"PRECIS_KV_CACHE_TYPE": "q9"}).code == 2)
bare = "--template" in precis("run", model, "Hi", "-n", "2").err
r = precis("run", model, "--temp", "0", "-n", "4", "Hi", env={"PRECIS_TEMPLATE": "llama3"})
ok("a template by the environment", r.code == 0, str(r))
ok("the flag's wins", precis("run", model, "--temp", "0", "-n", "4", "Hi", "--template", "chatml").out
   == precis("run", model, "--temp", "0", "-n", "4", "Hi", "--template", "chatml", env={"PRECIS_TEMPLATE": "llama3"}).out)
if bare:
    ok("it is that one", r.out == precis("run", model, "--temp", "0", "-n", "4", "Hi", "--template", "llama3").out, str(r))
    fails("an unknown one", precis("run", model, "Hi", env={"PRECIS_TEMPLATE": "none-such"}), 2, "PRECIS_TEMPLATE",
          "none-such", "chatml")

# ---- stopping ----
BIG = ("run", big_model(), "--raw", "--ignore-eos", "-n", "0", "--context", "1024", "Once upon a time")
p = subprocess.Popen([PRECIS, *BIG], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
p.stdout.read(20)
p.send_signal(signal.SIGINT)
out, err = p.communicate(timeout=60)
ok("Ctrl-C", p.returncode == -signal.SIGINT and err == b"", "%d %r" % (p.returncode, err))
p = subprocess.Popen([PRECIS, *BIG], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
p.stdout.read(20)
p.stdout.close()
start = time.time()
err = p.stderr.read()
p.wait(timeout=60)
ok("a closed pipe", p.returncode == -signal.SIGPIPE and err == b"", "%d %r" % (p.returncode, err))

finish()
