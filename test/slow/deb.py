#!/usr/bin/env python3
"""The Debian package: made by one command, installed in a clean system, served from, and taken away without a trace."""

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../cli"))
from lib import finish, ok, path, precis, skipped  # noqa: E402
from server import until  # noqa: E402
from system import System, files, make_package, missing, sh  # noqa: E402

why = missing(**{"dpkg-shlibdeps": "dpkg-dev"})
if why:
    skipped("the Debian package", why)
    finish()

package = make_package()
if shutil.which("lintian"):
    r = sh("lintian", "--fail-on", "error", "--allow-root", package)
    ok("lintian finds no error", r.returncode == 0, r.stdout)
else:
    skipped("lintian", "it is not installed")

system = System(path("system"))
if system.why:
    skipped("a clean system", system.why)
    finish()
SYSTEM, inside = system.folder, system.inside
r = inside("apt-get", "update", "-qq")
before = files(SYSTEM)

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
after = files(SYSTEM)
ok("purging leaves nothing", r.returncode == 0 and after == before, "%s, gone: %s" % (sorted(after - before), sorted(before - after)))
finish()
