#!/usr/bin/env python3
"""The Debian package: made by one command, installed in a clean system, served from, and taken away without a trace.

Needs root, debootstrap, and the mirror that this machine's own packages come from.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../cli"))
from lib import ROOT, finish, ok, path, precis, skipped  # noqa: E402
from server import until  # noqa: E402

SYSTEM = path("system")
# What apt and dpkg keep for themselves.
THEIRS = re.compile(r"/(var/(cache|log)/|var/lib/(apt|dpkg)/|etc/ld\.so\.cache|etc/(passwd|group|shadow|gshadow)-|tmp/|proc/|dev/)")


def sh(*command, **more):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)


def inside(*command):
    env = dict(os.environ, DEBIAN_FRONTEND="noninteractive", LC_ALL="C.UTF-8", PATH="/usr/sbin:/usr/bin:/sbin:/bin")
    return sh("chroot", SYSTEM, *command, env=env)


def mirror():
    said = sh("apt-cache", "policy", "base-files").stdout
    found = re.search(r"https?://[^\s]+", said)
    return found.group(0) if found else None


def files():
    """Every path of the system, with what users and groups there are."""
    names = {os.path.join(folder, name)[len(SYSTEM):] for folder, folders, names in os.walk(SYSTEM) for name in folders + names}
    accounts = {"%s: %s" % (f, line.split(":")[0]) for f in ("passwd", "group", "shadow") for line in open(SYSTEM + "/etc/" + f)}
    return {n for n in names if not THEIRS.match(n)} | accounts


for why, missing in (("not root", os.geteuid() != 0), ("no debootstrap", not shutil.which("debootstrap")),
                     ("no dpkg-shlibdeps (dpkg-dev)", not shutil.which("dpkg-shlibdeps")), ("no mirror", not mirror())):
    if missing:
        skipped("the Debian package", why)
        finish()

r = sh("make", "-s", "-C", ROOT, "deb")
ok("one command makes it", r.returncode == 0 and r.stdout.startswith("build/deb/"), r.stdout)
package = os.path.join(ROOT, r.stdout.strip())
if shutil.which("lintian"):
    r = sh("lintian", "--fail-on", "error", "--allow-root", package)
    ok("lintian finds no error", r.returncode == 0, r.stdout)
else:
    skipped("lintian", "it is not installed")

release = re.search(r"VERSION_CODENAME=(\w+)", open("/etc/os-release").read()).group(1)
r = sh("debootstrap", "--variant=minbase", release, SYSTEM, mirror())
if r.returncode != 0:
    skipped("a clean system", r.stdout.strip().splitlines()[-1])
    finish()
r = inside("apt-get", "update", "-qq")
before = files()

# ---- installed ----
shutil.copy(package, SYSTEM + "/tmp/precis.deb")
os.chmod(SYSTEM + "/tmp/precis.deb", 0o644)
r = inside("apt-get", "install", "-y", "-qq", "--no-install-recommends", "/tmp/precis.deb")
ok("it is installed", r.returncode == 0, r.stdout[-2000:])
r = inside("precis", "--version")
ok("the program runs", r.returncode == 0 and r.stdout == precis("--version").out, r.stdout)
models = SYSTEM + "/var/lib/precis/models"
user = inside("id", "-u", "precis").stdout.strip()
ok("models have a place of the user's own", user.isdigit() and str(os.stat(models).st_uid) == user)
ok("the unit is there", os.path.exists(SYSTEM + "/lib/systemd/system/precis.service"))

# ---- serving, as the unit does ----
os.environ["PRECIS_MODELS"] = path("models")
os.makedirs(path("models"), exist_ok=True)
r = precis("bench", "--synthetic", "135m", "--write-gguf", "q4_0", path("models/tiny.gguf"))
shutil.copy(path("models/tiny.gguf"), models)
os.makedirs(SYSTEM + "/run/precis", exist_ok=True)
os.chown(SYSTEM + "/run/precis", int(user), -1)
out, err = path("serve.out"), path("serve.err")
env = {"HOME": "/var/lib/precis", "XDG_RUNTIME_DIR": "/run", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
server = None
sh("mount", "-t", "proc", "proc", SYSTEM + "/proc")
try:
    server = subprocess.Popen(["chroot", "--userspec=precis:precis", SYSTEM, "/usr/bin/precis", "serve", "--config",
                               "/etc/precis/precis.conf", "--port", "0"], env=env, stdin=subprocess.DEVNULL,
                              stdout=open(out, "w"), stderr=open(err, "w"))
    until(lambda: "serves on" in open(out).read() or server.poll() is not None, 60)
    url = re.search(r"serves on (http://\S+)", open(out).read())
    ok("it serves with its own settings", url, open(err).read())
    ask = urllib.request.Request(url.group(1) + "/v1/completions", json.dumps({"prompt": "Once", "max_tokens": 4}).encode())
    answer = json.load(urllib.request.build_opener(urllib.request.ProxyHandler({})).open(ask, timeout=120))
    ok("and answers", answer["usage"]["completion_tokens"] == 4, str(answer))
    r = inside("env", "XDG_RUNTIME_DIR=/run", "precis", "ps", "--health")
    ok("ps --health sees it", r.returncode == 0, r.stdout)
    server.terminate()
    ok("it ends", server.wait(60) in (0, -15), str(server.returncode))
finally:
    if server and server.poll() is None:
        server.kill()
        server.wait()
    sh("umount", SYSTEM + "/proc")
shutil.rmtree(SYSTEM + "/run/precis")

# ---- gone ----
r = inside("apt-get", "remove", "-y", "-qq", "precis")
ok("removing keeps settings and models", r.returncode == 0 and os.path.exists(models + "/tiny.gguf")
   and os.path.exists(SYSTEM + "/etc/precis/precis.conf") and not os.path.exists(SYSTEM + "/usr/bin/precis"), r.stdout)
r = inside("apt-get", "purge", "-y", "-qq", "--autoremove", "precis")
after = files()
ok("purging leaves nothing", r.returncode == 0 and after == before, "%s, gone: %s" % (sorted(after - before), sorted(before - after)))
finish()
