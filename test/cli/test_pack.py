#!/usr/bin/env python3
"""pack: an elastic model out of another, and what it refuses."""

import os
import re
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lib import PRECIS, ROOT, big_model, fails, finish, ok, path, precis, small_model, write  # noqa: E402

model = small_model()
source = write("models/small.gguf", open(model, "rb").read())
out = path("out.gguf")

# ---- fast ----
r = precis("pack", source, "-o", out, "--fast")
ok("pack --fast", r.code == 0 and os.path.exists(out)
   and ["extrapolated" in line for line in r.out.splitlines()[1:4]] == [False, False, True], str(r))
r = precis("show", out)
ok("what comes out is a model", r.code == 0 and "planes" in r.out, str(r))


def extrapolated(text):
    return [name for name in ("int2", "int4", "int8") for line in text.splitlines()
            if line.split()[:1] == [name] and "extrapolated" in line]


ok("show says where KL was not measured", extrapolated(r.out) == ["int8"], str(r))
r = precis("plan", out)
ok("and so does plan", r.code == 0 and extrapolated(r.out) == ["int8"] and "a guess" not in r.out, str(r))
r = precis("run", out, "--raw", "--temp", "0", "-n", "8", "Once upon a time")
ok("it answers", r.code == 0 and len(r.out) > 4, str(r))
r = precis("pack", "small", "--fast", "--json", path("two.gguf"))
j = r.json()
ok("pack --json, by name, OUT behind MODEL", r.code == 0 and j["path"] == path("two.gguf") and j["bytes"] > 1000
   and j["increments"] > 0 and set(j["levels"]) >= {"int2", "int4", "int8"} and j["kl_measured"] is True
   and j["tokens"] > 100 and j["measured"] in (2, 3), str(r))
ok("the same bytes each time", open(out, "rb").read() == open(path("two.gguf"), "rb").read())
bits = [j["levels"][level]["bits_per_weight"] for level in ("int2", "int4", "int8")]
ok("bits of the levels", bits[0] <= 3 and bits[0] <= bits[1] <= 5 and 8 < bits[2] < 10, str(bits))
r = precis("pack", source, "--fast")
ok("a name by itself", r.code == 0 and os.path.exists(path("models/small.planes.gguf")), str(r))


def cautions(packed, kl):
    """An int2 too far from its source is one that everybody is warned of."""
    poor = kl > 2.5
    for args in (("show", packed), ("plan", packed)):
        r = precis(*args)
        ok(f"{args[0]} {'warns' if poor else 'does not warn'} of an int2 with KL {kl:.2g}",
           r.code == 0 and ("nonsense" in r.out) == poor, str(r))
    for level, told in (("int2", poor), ("int4", False)):
        r = precis("run", packed, "--raw", "-n", "4", "--level", level, "Once upon a time")
        ok(f"run at {level}: likewise", r.code == 0 and ("nonsense" in r.err) == told, str(r))


cautions(out, j["levels"]["int2"]["kl"])
with open(os.path.join(ROOT, "start")) as f:
    of_quick_copies = re.search(r"grep -qE '([^']+)'", f.read()).group(1)
ok("./start knows it as a quick copy", re.search(of_quick_copies, precis("show", "--meta", "--json", out).out) is not None)
r = precis("pack", "--fast", big_model(), path("big.gguf"), "--json", timeout=600)
cautions(path("big.gguf"), r.json()["levels"]["int2"]["kl"])

# ---- calibrated ----
text = write("text.txt", b"One day a little girl found a box. In the box was a cat, and the cat was happy.\n" * 40)
r = precis("pack", source, out, "--calibration", text, "--json", "-t", "2")
j = r.json()
ok("calibrated", r.code == 0 and j["kl_measured"] is True and j["tokens"] > 100 and j["measured"] == j["matrices"]
   and 0 <= j["levels"]["int8"]["kl"] <= j["levels"]["int4"]["kl"] <= j["levels"]["int2"]["kl"], str(r))
ok("./start leaves such a one alone", re.search(of_quick_copies, precis("show", "--meta", "--json", out).out) is None)

cautions(out, j["levels"]["int2"]["kl"])

# ---- refusals ----
fails("the source itself", precis("pack", source, source), 2, "small.gguf", "source")
fails("a packed model", precis("pack", out, path("three.gguf")), 2, "packed already")
fails("OUT twice", precis("pack", source, path("a"), "-o", path("b")), 2, "--output")
fails("no such model", precis("pack", "nothing-like-it", out), 1, "nothing-like-it")
fails("no such text", precis("pack", source, path("three.gguf"), "--calibration", path("no.txt")), 1, "no.txt")
short = write("short.txt", b"too short")
for fast in ((), ("--fast",)):
    fails(f"a short text {' '.join(fast)}", precis("pack", source, path("three.gguf"), *fast, "--calibration", short), 2, "too short")
fails("no such folder", precis("pack", source, path("no/folder/x.gguf"), "--fast"), 1, "no/folder")
fails("not a model", precis("pack", text, path("three.gguf")), 1, "text.txt")
ok("nothing is left of what failed", not [f for f in os.listdir(path("")) if "three" in f])

# ---- Ctrl-C ----
before = open(out, "rb").read()
p = subprocess.Popen([PRECIS, "pack", source, out], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
time.sleep(0.3)
p.send_signal(signal.SIGINT)
p.communicate(timeout=120)
stopped = p.returncode != 0
ok("stopped", stopped or open(out, "rb").read() != before, str(p.returncode))
ok("what was there stays, and no part of the new one", (not stopped or open(out, "rb").read() == before)
   and not [f for f in os.listdir(path("")) if ".part" in f])

finish()
