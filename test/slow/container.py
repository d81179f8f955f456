#!/usr/bin/env python3
"""The container image: built from packaging/Containerfile as it stands, served from, and timed from nothing to the first token.

buildah does it, which needs no daemon; commands run by its isolation `chroot`, so without a network or control group of their own. The
base image is not pulled but made by debootstrap, under the name that the Containerfile's FROM says. Needs root, 4 GB of disk, the mirror.
"""

import hashlib
import http.client
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "../cli"), os.path.join(HERE, "../../bench")]
from cold_start import KEY, forget, healthy  # noqa: E402
from lib import ROOT, elastic_model, finish, ok, path, skipped, work  # noqa: E402
from server import events, until  # noqa: E402
from system import System, missing, sh  # noqa: E402

BASE = "docker.io/library/debian:bookworm-slim"
BUILDAH = ["buildah", "--root", path("storage"), "--runroot", path("runroot")]
RUNS = 3
ENV = dict(os.environ, BUILDAH_ISOLATION="chroot")


def buildah(*command):
    return sh(*BUILDAH, *command, env=ENV)


def made(*command):
    """What a command of buildah says last; it must succeed."""
    r = buildah(*command)
    if r.returncode != 0:
        raise SystemExit("%s: %s" % (command[0], r.stdout[-2000:]))
    return r.stdout.strip().splitlines()[-1] if r.stdout.strip() else ""


def base_image():
    system = System(path("system"))
    if system.why:
        return system.why
    container = made("from", "scratch")
    made("add", "-q", container, system.folder, "/")
    made("config", "--cmd", "bash", "--env", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", container)
    made("commit", "-q", "--rm", container, BASE)
    shutil.rmtree(system.folder)
    return None


def keys_file():
    with open(path("keys"), "w") as f:
        f.write("all %s\n" % hashlib.sha256(KEY.encode()).hexdigest())
    os.chmod(path("keys"), 0o644)
    return path("keys")


def first_token(port):
    """When it came; the rest is read."""
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    body = json.dumps({"prompt": "Once upon a time", "max_tokens": 8, "stream": True, "temperature": 0})
    c.request("POST", "/v1/completions", body, {"Authorization": "Bearer " + KEY})
    at, said = None, 0
    for e in events(c.getresponse()):
        at = at or time.monotonic()
        said += e != "[DONE]"
    return at if said else None


class Container:
    """A container of the image with a model and a keys file in it, as volumes would bring them."""

    def __init__(self, model):
        self.name = made("from", "--pull-never", "precis")
        self.folder = made("mount", self.name)
        self.out, self.process = path("out"), None
        user = os.stat(self.folder + "/models").st_uid
        for file, place in ((model, "/models/" + os.path.basename(model)), (keys_file(), "/etc/precis/keys")):
            shutil.copy(file, self.folder + place)
            os.chown(self.folder + place, user, -1)
        config = json.loads(buildah("inspect", self.name).stdout)["OCIv1"]["config"]
        self.command = config["Entrypoint"] + config["Cmd"]
        ok("the image starts precis by its entrypoint", self.command == ["/usr/share/precis/entrypoint", "serve"], str(self.command))
        ok("as a user of its own", config["User"] == "precis" and user != 0, str(config["User"]))

    def run(self, *command):
        return [*BUILDAH, "run", "--env", "PRECIS_PORT=0", self.name, "--", *command]

    def inside(self, *command):
        return sh(*self.run(*command), env=ENV)

    def start(self):
        """The port that it listens on, or None."""
        self.process = subprocess.Popen(self.run(*self.command), env=ENV, stdin=subprocess.DEVNULL, stdout=open(self.out, "w"),
                                        stderr=subprocess.STDOUT)
        until(lambda: self.port() or self.process.poll() is not None, 120)
        return self.port()

    def port(self):
        found = re.search(r"serves on http://\S+?:(\d+)", open(self.out).read())
        return int(found.group(1)) if found else None

    def stop(self):
        r = self.inside("precis", "stop")
        return r.returncode == 0 and self.process.wait(60) == 0


def serves(container):
    port = container.start()
    if not ok("it serves", port, open(container.out).read()[-1000:]):
        return
    ok("it is healthy", until(lambda: healthy(port), 60))
    r = container.inside("precis", "ps", "--health", "--port", str(port))
    ok("as its health check finds", r.returncode == 0, r.stdout)
    ok("it answers", first_token(port))
    ok("and stops", container.stop())


def timed(container, before):
    """Seconds from the start of the container to its port and to the first token."""
    before(container.folder)
    started = time.monotonic()
    port = container.start()
    listens = time.monotonic() - started
    told = listens, first_token(port) - started
    container.stop()
    return told


def build_and_try():
    r = buildah("build", "--pull-never", "-f", os.path.join(ROOT, "packaging/Containerfile"), "-t", "precis", ROOT)
    if not ok("the image is built", r.returncode == 0, r.stdout[-2000:]):
        return
    given = os.environ.get("PRECIS_TEST_MODEL", "")
    container = Container(given if os.path.isfile(given) else elastic_model(path("models"), "s25"))
    try:
        serves(container)
        for state, before in (("cold", forget), ("warm", lambda folder: None)):
            listens, token = (statistics.median(t) for t in zip(*(timed(container, before) for _ in range(RUNS))))
            print("#  page cache %s, median of %d: listens %.3f s after `buildah run`, first token %.3f s" % (state, RUNS, listens, token),
                  flush=True)
        r = container.inside("sh", "-c", "id -un; touch /etc/x")
        ok("it may not write to its system", r.stdout.startswith("precis\n") and "denied" in r.stdout, r.stdout)
    finally:
        if container.process and container.process.poll() is None:
            container.inside("precis", "stop")
            container.process.kill()


def clean():
    """Nothing stays mounted below our folder, or it could not be removed."""
    buildah("rm", "--all")
    sh("umount", path("storage/overlay"))
    ok("nothing stays mounted", work not in open("/proc/mounts").read())


why = missing(buildah="buildah")
if not why and shutil.disk_usage(work).free < 4e9:
    why = "4 GB of disk are needed in %s" % os.path.dirname(work)
if why:
    skipped("the container image", why)
    finish()
try:
    why = base_image()
    if why:
        skipped("the container image", why)
    else:
        build_and_try()
except SystemExit as e:
    ok("buildah", False, str(e))
finally:
    clean()
finish()
