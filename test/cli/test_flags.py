#!/usr/bin/env python3
"""Flags, help, exit codes: what holds for every command."""

import os
import re
import signal
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lib import PRECIS, fails, finish, ok, precis, small_model, write  # noqa: E402

COMMANDS = ("run", "serve", "ps", "stop", "pull", "pack", "list", "show", "plan", "bench", "eval", "tokenize", "doctor",
            "completion")

# ---- help ----
r = precis("--help")
ok("--help", r.code == 0 and all("  %-11s" % c in r.out for c in COMMANDS), str(r))
r = precis()
ok("no command at all", r.code == 2 and "usage: precis" in r.out, str(r))
ok("--version", re.fullmatch(r"precis \d+\.\d+\.\d+\n", precis("--version").out))
for command in COMMANDS:
    r = precis(command, "--help")
    lines = r.out.splitlines()
    ok("%s --help" % command, r.code == 0 and r.out.startswith("usage: precis " + command) and not r.err, str(r))
    ok("%s --help fits a screen" % command, len(lines) <= 24 and max(map(len, lines)) <= 80, r.out)
    ok("help %s" % command, precis("help", command).out == r.out)

# ---- the man page knows every flag, and no other ----
man_path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../docs/precis.1")
man = open(man_path).read().replace("\\-", "-")
for command in COMMANDS:
    flags = set(re.findall(r"--([a-z][a-z0-9-]+)", precis(command, "--help").out)) - {"help"}
    missing = sorted(f for f in flags if "--" + f not in man)
    ok("the man page has the flags of %s" % command, not missing, str(missing))
known = set(re.findall(r"--([a-z][a-z0-9-]+)", "".join(precis(c, "--help").out for c in COMMANDS)))
settings = os.path.join(os.path.dirname(man_path), "../src/governor/settings.c")
known |= set(re.findall(r'^    \{"[A-Z_]+", "([a-z-]+)", KIND_', open(settings).read(), re.M))  # not all fit on the screen
written = set(re.findall(r"--([a-z][a-z0-9-]+)", man)) - {"help", "version", "no-deps"}  # pip has the last one
ok("the man page has no flags that are not there", written <= known, str(sorted(written - known)))

# ---- refusals ----
fails("an unknown command", precis("rnu"), 2, '"rnu"', "run")
fails("an unknown flag for the program", precis("--frobnicate"), 2, "--frobnicate")
fails("an unknown flag", precis("run", "x", "--frobnicate"), 2, "--frobnicate")
fails("a mistyped flag", precis("run", "x", "--max-token", "3"), 2, "--max-token", "did you mean --max-tokens?")
fails("a mistyped flag with a value", precis("run", "x", "--tmep=3"), 2, "--tmep", "--temp")
fails("an unknown letter", precis("run", "x", "-x"), 2, "-x")
fails("not a number", precis("run", "x", "--temp", "warm"), 2, "--temp", "warm")
fails("not a whole number", precis("run", "x", "-n", "1.5"), 2, "--max-tokens", "1.5")
fails("a negative count", precis("run", "x", "-n", "-5"), 2, "--max-tokens", "-5")
fails("a number out of range", precis("run", "x", "--seed", "99999999999999999999999"), 2, "--seed")
fails("no value", precis("run", "x", "--temp"), 2, "--temp", "needs a value")
fails("a flag for a value", precis("run", "x", "--system", "--raw"), 2, "--system", "--raw")
fails("a value for a switch", precis("run", "x", "--raw=1"), 2, "--raw")
fails("one argument too many", precis("run", "x", "y", "z"), 2, '"z"')
fails("no argument", precis("run"), 2, "MODEL")
fails("an unknown KV type", precis("show", "x", "--kv", "q3"), 2, "--kv", "q3")
fails("an unknown ISA", precis("show", "x", "--cpumask", "sse9"), 2, "--cpumask", "sse9")
fails("an unknown ISA of a server", precis("serve", "--cpumask", "sse9"), 2, "--cpumask", "sse9")
fails("an unknown pass", precis("show", "x", "--no-pass", "frob"), 2, "--no-pass", "frob")
fails("absurd threads", precis("show", small_model(), "-t", "100000"), 2, "--threads")
fails("eval without a text", precis("eval", small_model()), 2, "--text")
fails("bench without a model", precis("bench"), 2, "--synthetic")
fails("bench with two", precis("bench", "x", "--synthetic", "135m"), 2, "not both")
fails("an unknown shape", precis("bench", "--synthetic", "9b"), 2, "--synthetic", "9b")
fails("write-gguf without a shape", precis("bench", "--write-gguf", "q8_0", "x"), 2, "--write-gguf")
fails("no repeats", precis("bench", "x", "-r", "0"), 2, "--repeats")
fails("raw with a system text", precis("run", "x", "y", "--raw", "--system", "z"), 2, "--raw", "--system")

# ---- ways to write a flag ----
model = small_model()
for name, args in (("apart", ("--threads", "1")), ("with =", ("--threads=1",)), ("short", ("-t", "1")),
                   ("joined", ("-t1",))):
    r = precis("show", model, "--json", *args)
    ok("a flag written %s" % name, r.code == 0 and r.json()["threads"] == 1, str(r))
r = precis("show", "--json", "--", model)
ok("-- ends the flags", r.code == 0 and "params" in r.json(), str(r))
r = precis("run", model, "--raw", "-n", "2", "--", "--not-a-flag")
ok("a prompt that looks like a flag", r.code == 0 and r.out, str(r))
r = precis("show", model, "--json", "--cpumask", "scalar")
ok("--cpumask scalar", r.code == 0 and r.json()["isa"] == "scalar", str(r))

# ---- files that are not models ----
fails("a missing file", precis("run", "/nowhere/x.gguf", "hi"), 1, "/nowhere/x.gguf")
fails("a missing name", precis("run", "nonesuch", "hi"), 1, "nonesuch", "precis pull")
fails("a known model that was never pulled", precis("run", "smollm2", "hi"), 1, "precis pull smollm2")
jpeg = write("photo.gguf", b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01" + b"\x00" * 1000)
for command in (("run", jpeg, "hi"), ("show", jpeg), ("tokenize", jpeg, "hi"), ("bench", jpeg)):
    fails("a JPEG for %s" % command[0], precis(*command), 1, "photo.gguf", "JPEG")
fails("an empty file", precis("show", write("empty.gguf", b"")), 1, "empty.gguf")
fails("a folder", precis("show", os.path.dirname(jpeg)), 1)

# ---- pipes ----
p = subprocess.Popen([PRECIS, "show", model, "--meta"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
p.stdout.close()
err = p.stderr.read()
p.wait()
ok("a closed pipe ends quietly", p.returncode in (0, -signal.SIGPIPE) and err == b"", "%d %r" % (p.returncode, err))
if os.path.exists("/dev/full"):
    with open("/dev/full", "wb") as full:
        p = subprocess.run([PRECIS, "list"], stdout=full, stderr=subprocess.PIPE)
    ok("a full disk behind stdout", p.returncode == 1 and p.stderr.startswith(b"precis: cannot write"), str(p))

finish()
