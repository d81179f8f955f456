#!/usr/bin/env python3
"""The service under a systemd that runs, in control groups v2: a virtual machine is booted twice for it.

The machine is QEMU with a Debian made by debootstrap; it works without KVM, emulated and slow (some minutes on a quiet machine). It has no
network: the package's dependencies are put into it before. What is done in it is test/slow/guest.py. Needs root, 5 GB of disk and
2 GB of memory.
"""

import glob
import os
import shutil
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../cli"))
from lib import DATA, ROOT, elastic_model, finish, ok, path, precis, skipped, work  # noqa: E402
from system import System, make_package, missing  # noqa: E402

BOOT_SECONDS = 1600
CHECK = "/var/tmp/check"
UNIT = """[Unit]
After=multi-user.target
[Service]
Type=idle
Environment=PRECIS=/usr/bin/precis PYTHONDONTWRITEBYTECODE=1
ExecStart=/bin/sh -c 'n=$(cat %(check)s/boot); echo $((n + 1)) >%(check)s/boot; python3 %(check)s/test/slow/guest.py $n 2>&1'
ExecStopPost=/bin/sh -c 'sync; systemctl poweroff'
StandardOutput=tty
TTYPath=/dev/ttyS1
[Install]
WantedBy=multi-user.target
""" % {"check": CHECK}


def model(target):
    """An elastic model, the smaller the better: every token is emulated."""
    prose = os.path.join(DATA, "models/prose-6m/prose-6m-f16.gguf")
    if os.path.isfile(prose):
        return precis("pack", "--fast", prose, target).code == 0
    os.rename(elastic_model(path("models"), "s25"), target)
    return True


def put(system, package):
    """The package, a model and the test into the system, and what starts it; False: it has been told of."""
    check = system.folder + CHECK
    for folder, names in (("test/cli", ("lib.py", "server.py", "squeezing.py")), ("test/slow", ("system.py", "guest.py"))):
        os.makedirs(os.path.join(check, folder))
        for name in names:
            shutil.copy(os.path.join(ROOT, folder, name), os.path.join(check, folder))
    shutil.copy(package, check + "/precis.deb")
    with open(check + "/boot", "w") as f:
        f.write("1\n")
    with open(system.folder + "/etc/systemd/system/check.service", "w") as f:
        f.write(UNIT)
    if not ok("a model is packed", model(check + "/model.planes.gguf")):
        return False
    for command in (("apt-get", "clean"), ("apt-get", "update", "-qq"), ("systemctl", "enable", "check.service"),
                    ("apt-get", "install", "-y", "-qq", "--no-install-recommends", "--download-only", CHECK + "/precis.deb")):
        r = system.inside(*command)
        if r.returncode != 0:
            skipped("the service in a virtual machine", "%s: %s" % (" ".join(command), r.stdout.strip()[-300:]))
            return False
    return True


def machine(system, disk, results, console):
    boot = system.folder + "/boot/"
    # What emulation makes dear and nothing here needs is left out; psi=1 is for kernels that have PSI off.
    line = "root=/dev/vda rw console=ttyS0 quiet psi=1 panic=1 mitigations=off modprobe.blacklist=kvm_amd,powernow_k8"
    return ["nice", "qemu-system-x86_64", "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1G",
            "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-kernel", glob.glob(boot + "vmlinuz-*")[0], "-initrd", glob.glob(boot + "initrd.img-*")[0], "-append", line,
            "-drive", "file=%s,format=raw,if=virtio,cache=unsafe" % disk,
            "-serial", "file:" + console, "-serial", "file:" + results]


def boot(number, command, results, console):
    """Until the machine switches itself off; what the test in it prints is printed as it comes."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    end, told = time.monotonic() + BOOT_SECONDS, ""
    while True:
        running = process.poll() is None
        said = open(results, errors="replace").read().replace("\r", "") if os.path.exists(results) else ""
        whole = said[:said.rfind("\n") + 1]
        for line in whole[len(told):].splitlines():
            print(line if line.startswith(("ok ", "SKIPPED ")) else "#  " + line.removeprefix("# "), flush=True)
            if line.startswith("not ok "):
                ok("boot %d: %s" % (number, line[7:]), False)
        told = whole
        if not running or time.monotonic() > end:
            break
        time.sleep(1)
    if running:
        process.kill()
    process.wait()
    return ok("boot %d is through" % number, not running and "BOOT %d done" % number in told,
              "%s\n%s" % (told[-1000:], open(console, errors="replace").read()[-2000:]))


why = missing(**{"qemu-system-x86_64": "qemu-system-x86", "mkfs.ext4": "e2fsprogs", "dpkg-shlibdeps": "dpkg-dev"})
if os.uname().machine != "x86_64":
    why = "the machine it emulates is an x86-64"
elif shutil.disk_usage(work).free < 5e9:
    why = "5 GB of disk are needed in %s" % os.path.dirname(work)
if why:
    skipped("the service in a virtual machine", why)
    finish()
package = make_package()
system = System(path("system"), "systemd-sysv", "dbus", "linux-image-cloud-amd64", "python3")
if system.why:
    skipped("a clean system", system.why)
    finish()
if put(system, package):
    disk = path("disk")
    subprocess.run(["mkfs.ext4", "-q", "-d", system.folder, disk, "2G"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for number in (1, 2):
        results, console = path("results-%d" % number), path("console-%d" % number)
        if not boot(number, machine(system, disk, results, console), results, console):
            break
finish()
