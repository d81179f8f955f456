#!/usr/bin/env python3
"""precis doctor: nothing is found where all is well, and each thing that is wrong is found, with what to do about it."""

import fcntl
import hashlib
import http.server
import json
import os
import shutil
import socket
import subprocess
import sys
import threading

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lib import PRECIS, finish, ok, path, precis, skipped, small_model, write  # noqa: E402
from server import Server  # noqa: E402

MODELS = os.environ["PRECIS_MODELS"]
HEALTHY = {
    "/proc/cpuinfo": "processor\t: 0\nmodel name\t: A processor\nflags\t\t: fpu sse2 avx avx2 fma hypervisor\n",
    "/proc/meminfo": "MemTotal: 16000000 kB\nMemAvailable: 12000000 kB\nSwapTotal: 2000000 kB\nSwapFree: 1900000 kB\n",
    "/proc/loadavg": "0.10 0.20 0.30 1/100 1000\n",
    "/proc/self/cgroup": "0::/precis.service\n",
    "/proc/sys/vm/overcommit_memory": "0\n",
    "/proc/pressure/memory": "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
    "/sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
}
roots = 0


def machine(**changes):
    """A folder that looks like a machine; None takes a file away."""
    global roots
    roots += 1
    for name, text in dict(HEALTHY, **changes).items():
        if text is not None:
            write("root-%d%s" % (roots, name), text.encode())
    return path("root-%d" % roots)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


PORT = str(free_port())


def doctor(*args, root=None, env=None, **more):
    r = precis("doctor", "--json", "--quick", "--root", root or machine(), *args, env=dict({"PRECIS_PORT": PORT}, **(env or {})), **more)
    return r.code, r.json()


def finds(name, what, verdict, text, result, remedy=""):
    code, told = result
    got = told.get(what, {})
    ok(name, got.get("verdict") == verdict and text in got["text"] and remedy in got.get("remedy", "")
       and code == any(t["verdict"] == "bad" for t in told.values()), "%s %d, of %s" % (got, code, sorted(told)))


# ---- all is well ----
os.makedirs(MODELS)
model = os.path.join(MODELS, "small.gguf")
shutil.copy(small_model(), model)
precis("pack", "--fast", "small")
code, told = doctor()
wrong = {w: t for w, t in told.items() if t["verdict"] != "good" and w not in ("threads", "pip", "disk")}  # of this machine
ok("nothing is found where all is well", code == 0 and not wrong and len(told) > 12, str(wrong))
ok("the elastic copy is seen", "elastic" in told["model small.gguf"]["text"], str(told))
r = precis("doctor", "--quick", "--root", machine(), env={"PRECIS_PORT": PORT})
ok("and for people", r.code == 0 and "✓ settings" in r.out, str(r))

# ---- the machine ----
cpu = HEALTHY["/proc/cpuinfo"]
finds("no AVX2 in a virtual machine", "kernels", "note", "AVX2", doctor(root=machine(**{"/proc/cpuinfo": cpu.replace(" avx2", "")})), "host")
finds("no AVX2", "kernels", "note", "AVX2",
      doctor(root=machine(**{"/proc/cpuinfo": cpu.replace(" avx2", "").replace(" hypervisor", "")})), "another machine")
group = "/sys/fs/cgroup/precis.service/"
finds("a quota of processors", "threads", "note", "0.50", doctor(root=machine(**{group + "cpu.max": "50000 100000\n"})), "CPUQuota")
finds("a busy machine", "load", "note", "wait", doctor(root=machine(**{"/proc/loadavg": "900.0 1 1 1/1 1\n"})))
little = machine(**{group + "memory.max": "10000000\n"})
finds("a small memory limit", "limit", "note", "by control group", doctor(root=little), "MemoryMax")
finds("a limit below what a model takes", "model small.gguf", "bad", "at least", doctor(root=little), "smaller")
finds("too little memory now", "model small.gguf", "note", "available now",
      doctor(root=machine(**{"/proc/meminfo": "MemTotal: 16000000 kB\nMemAvailable: 15000 kB\n"})), "end other")
finds("--memory counts", "model small.gguf", "bad", "at least", doctor(env={"PRECIS_MEMORY": "10M"}))
finds("swap in use", "swap", "note", "memory has been short", doctor(root=machine(
    **{"/proc/meminfo": "MemTotal: 16000000 kB\nMemAvailable: 12000000 kB\nSwapTotal: 2000000 kB\nSwapFree: 100000 kB\n"})))
finds("strict overcommit", "overcommit", "note", "is 2", doctor(root=machine(**{"/proc/sys/vm/overcommit_memory": "2\n"})), "sysctl")
finds("no PSI", "pressure", "note", "PSI", doctor(root=machine(**{"/proc/pressure/memory": None})), "psi=1")
finds("no huge pages", "huge pages", "note", "never", doctor(
    root=machine(**{"/sys/kernel/mm/transparent_hugepage/enabled": "always madvise [never]\n"})), "echo madvise")
finds("a proxy", "proxy", "note", "http_proxy", doctor(env={"http_proxy": "http://proxy:3128"}), "no_proxy")
finds("one that spares this machine", "proxy", "good", "spares", doctor(env={"http_proxy": "http://proxy:3128",
                                                                            "no_proxy": "127.0.0.1"}))
if shutil.which("prlimit"):
    r = subprocess.run(["prlimit", "--nofile=256:256", PRECIS, "doctor", "--quick", "--root", machine()], stdout=subprocess.PIPE, text=True)
    ok("few open files", "! open files" in r.stdout and "256" in r.stdout and "LimitNOFILE" in r.stdout, r.stdout)
if shutil.which("faketime"):
    r = subprocess.run(["faketime", "2001-01-01", PRECIS, "doctor", "--quick"], stdout=subprocess.PIPE, text=True)
    ok("a wrong clock", r.returncode == 1 and "2001" in r.stdout, r.stdout)
else:
    skipped("a wrong clock", "faketime is not installed")

# ---- settings ----
finds("an unknown setting", "settings", "bad", "PRECIS_PROT", doctor("--config", write("a.conf", b"PRECIS_PROT = 8000\n")))
finds("a wrong value", "settings", "bad", "PRECIS_PORT", doctor("--config", write("a.conf", b"PRECIS_PORT = high\n")))
finds("in the environment", "settings", "bad", "PRECIS_MEMORY", doctor(env={"PRECIS_MEMORY": "much"}))
finds("a file that is not there", "settings", "bad", "nowhere", doctor(env={"PRECIS_CONFIG": "/nowhere.conf"}))
finds("the system's file", "settings", "bad", "nonsense", doctor(root=machine(**{"/etc/precis/precis.conf": "nonsense = 1\n"})))
finds("thresholds out of order", "settings", "bad", "must be above", doctor(env={"QUANTIZE_MEMORY_TIGHT": "0.5"}))

# ---- keys and address ----
line = b"one %s\n" % hashlib.sha256(b"x").hexdigest().encode()
keys = write("keys", line)
os.chmod(keys, 0o644)
finds("keys that all may read", "keys", "note", "read", doctor(env={"PRECIS_API_KEYS_FILE": keys}), "chmod")
os.chmod(keys, 0o666)
finds("keys that all may write", "keys", "bad", "write", doctor(env={"PRECIS_API_KEYS_FILE": keys}), "chmod")
os.chmod(keys, 0o600)
finds("keys as they should be", "keys", "good", "1 in", doctor(env={"PRECIS_API_KEYS_FILE": keys}))
finds("a mistake among the keys", "keys", "bad", "line 2", doctor(env={"PRECIS_API_KEYS_FILE": write("bad-keys", line + b"two\n")}), "sha256sum")
finds("no such file of keys", "keys", "bad", "nowhere", doctor(env={"PRECIS_API_KEYS_FILE": "/nowhere"}))
finds("open to others without keys", "exposure", "bad", "0.0.0.0", doctor(env={"PRECIS_HOST": "0.0.0.0"}), "PRECIS_API_KEYS_FILE")
ok("with keys it is fine", "exposure" not in doctor(env={"PRECIS_HOST": "0.0.0.0", "PRECIS_API_KEYS_FILE": keys})[1])
finds("an address of another machine", "address", "bad", "192.0.2.1", doctor(env={"PRECIS_HOST": "192.0.2.1"}))
with socket.socket() as taken:
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    port = str(taken.getsockname()[1])
    finds("a port that is taken", "address", "bad", port, doctor(env={"PRECIS_PORT": port}), "ss -ltnp")
s = Server("small")
finds("taken by precis itself", "address", "good", "precis serves", doctor(env={"PRECIS_PORT": str(s.port)}))
finds("a server that runs", "server %d" % s.port, "good", "runs", doctor())
ok("stops", s.stop() == 0)

# A server of another version, as its run file and its health tell it.

class Old(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        data = b'{"status": "ok", "version": "0.0.1"}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


old = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Old)
threading.Thread(target=old.serve_forever, daemon=True).start()
port = old.server_address[1]
run = write("run/serve-%d.json" % port, json.dumps({"pid": os.getpid(), "port": port, "url": "http://127.0.0.1:%d" % port}).encode())
held = open(run)
fcntl.flock(held, fcntl.LOCK_EX)
finds("a server of another version", "server %d" % port, "note", "0.0.1", doctor(), "start it again")
old.shutdown()
old.server_close()
finds("one that does not answer", "server %d" % port, "bad", "does not answer", doctor(), "its log")
held.close()
os.remove(run)

# ---- models ----
finds("no models", "models", "note", "none yet", doctor(env={"PRECIS_MODELS": path("empty")}), "precis pull")
finds("a file for a folder", "models", "bad", "", doctor(env={"PRECIS_MODELS": write("file", b"x")}))
whole = open(model, "rb").read()
write("models/cut.gguf", whole[:len(whole) // 2])
finds("a model that was cut", "model cut.gguf", "bad", "", doctor(), "again")
os.remove(os.path.join(MODELS, "cut.gguf"))
write("models/page.gguf", b"<html>not found</html>")
finds("something else by that name", "model page.gguf", "bad", "", doctor(), "again")
os.remove(os.path.join(MODELS, "page.gguf"))
write("models/x.gguf.part", b"GGUF")
finds("half a download", "part x.gguf.part", "note", "not finished", doctor(), "precis pull")
os.remove(os.path.join(MODELS, "x.gguf.part"))
os.utime(model, (1, 1))
finds("a copy of another source", "copy of small.gguf", "note", "not used", doctor(), "precis pack")
with open(os.path.join(MODELS, "small.planes.gguf"), "r+b") as f:
    f.truncate(100000)
finds("a copy that is broken", "copy of small.gguf", "note", "not used", doctor(), "precis pack")
os.chmod(MODELS, 0o777)
finds("a folder that all may write", "folder", "note", "everybody", doctor(), "chmod")
os.chmod(MODELS, 0o755)
if os.geteuid() == 0 and shutil.which("setpriv"):
    os.chmod(path(""), 0o755)
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    r = subprocess.run([*nobody, PRECIS, "doctor", "--quick"], stdout=subprocess.PIPE, text=True)
    reached = r.returncode != 127 and r.stdout
    (ok if reached else skipped)("a folder that cannot be written", "✗ models" in r.stdout if reached else "it cannot be run as nobody")
# ---- for people: one column of facts, whatever things are called ----
long_name = "a-model-with-a-name-that-is-longer-than-any-column-Q4_1.gguf"
shutil.copy(small_model(), os.path.join(MODELS, long_name))
lines = precis("doctor", "--quick", "--root", machine(), env={"PRECIS_PORT": PORT}).out.split("\n\n")[0].splitlines()
at = [i for i, l in enumerate(lines) if long_name in l]
ok("a long name has a line of its own", len(at) == 1 and lines[at[0]].endswith(long_name), str(lines))
facts = [l for i, l in enumerate(lines) if l.strip() and not (i + 1 < len(lines) and lines[i + 1].startswith(" " * 14)
         and not lines[i + 1].startswith(" " * 14 + "to do"))]
ok("facts stand in one column", len(facts) > 8 and all(l[13] == " " and l[14] != " " for l in facts), str(facts))

finish()
