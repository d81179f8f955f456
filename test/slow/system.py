"""A clean Debian in a folder, for tests that install the package where nothing of this machine is.

Needs root, debootstrap, and the mirror that this machine's own packages come from.
"""

import os
import re
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../cli"))
from lib import ROOT, ok  # noqa: E402

# What apt and dpkg keep for themselves, and what a system that runs writes by itself.
THEIRS = re.compile(r"/(var/(cache|log|tmp)/|var/lib/(apt|dpkg|systemd)/|etc/ld\.so\.cache|etc/(passwd|group|shadow|gshadow)-"
                    r"|tmp/|proc/|dev/|sys/|run/)")


def sh(*command, **more):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)


def mirror():
    said = sh("apt-cache", "policy", "base-files").stdout
    found = re.search(r"https?://[^\s]+", said)
    return found.group(0) if found else None


def missing(**tools):
    """Why no system can be made here, or None; tools: what else is needed, by the name of its package."""
    for tool, package in dict({"debootstrap": "debootstrap"}, **tools).items():
        if not shutil.which(tool):
            return "no %s (%s)" % (tool, package) if tool != package else "no %s" % tool
    if os.geteuid() != 0:
        return "not root"
    return None if mirror() else "no mirror"


def make_package():
    """`make deb`: the path of the package."""
    r = sh("make", "-s", "-C", ROOT, "deb")
    ok("one command makes it", r.returncode == 0 and r.stdout.startswith("build/deb/"), r.stdout)
    return os.path.join(ROOT, r.stdout.strip())


def files(system):
    """Every path of a system ("": this one), with what users and groups there are."""
    names = set()
    for folder, folders, plain in os.walk(system or "/"):
        below = folder[len(system):].rstrip("/") + "/"
        names.update(below + name for name in folders + plain)
        folders[:] = [f for f in folders if not THEIRS.match(below + f + "/")]
    accounts = {"%s: %s" % (f, line.split(":")[0]) for f in ("passwd", "group", "shadow") for line in open(system + "/etc/" + f)}
    return {n for n in names if not THEIRS.match(n)} | accounts


class System:
    """A Debian of this machine's release, made in `folder` by debootstrap; self.why: the reason when it could not be made."""

    def __init__(self, folder, *include):
        self.folder = folder
        release = re.search(r"VERSION_CODENAME=(\w+)", open("/etc/os-release").read()).group(1)
        more = ["--include=" + ",".join(include)] if include else []
        r = sh("debootstrap", "--variant=minbase", *more, release, folder, mirror())
        self.why = r.stdout.strip().splitlines()[-1] if r.returncode != 0 else None

    def inside(self, *command):
        env = dict(os.environ, DEBIAN_FRONTEND="noninteractive", LC_ALL="C.UTF-8", PATH="/usr/sbin:/usr/bin:/sbin:/bin")
        return sh("chroot", self.folder, *command, env=env)
