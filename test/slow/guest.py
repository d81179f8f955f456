"""What test/slow/vm.py has done in its virtual machine, as root, once in each boot.

    python3 guest.py 1|2

Prints what every test prints, and "BOOT N done" at last. It installs the package into a system that runs, and handles the service as
its operator would; between the boots it is left enabled.
"""

import hashlib
import json
import os
import shutil
import signal
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../cli"))
from lib import ROOT, finish, ok  # noqa: E402
from server import Server, events, until  # noqa: E402
from squeezing import LEVELS, Q, TEXT, Ballast, Client, settled, squeeze_in_group  # noqa: E402
from system import files, sh  # noqa: E402

BEFORE = os.path.join(ROOT, "before.json")
PACKAGE = os.path.join(ROOT, "precis.deb")
DROP_IN = "/run/systemd/system/precis.service.d/test.conf"
GROUP = "/sys/fs/cgroup/system.slice/precis.service/"
# Of the model's size, what test/cli/test_ballast.py gives; a server with a small one takes 30 MB all the same.
LIMIT = max(100 << 20, int(5.5 * os.path.getsize(os.path.join(ROOT, "model.planes.gguf"))) >> 20 << 20)
PATIENCE = 300  # seconds: an emulated processor is slow
TOKENS = 40  # of a stream
KEYS, CONFIG = "/etc/precis/keys", "/etc/precis/precis.conf"


class Service(Server):
    """precis.service, asked like a server that a test has started."""

    def __init__(self):
        self.key, self.port, self.url = None, 8000, "http://127.0.0.1:8000"

    def log(self):
        lines = sh("journalctl", "-b", "-u", "precis", "-o", "cat").stdout.splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def answers(self):
        try:
            return self.ask("GET", "/health")[0] == 200
        except OSError:
            return False


service = Service()


def systemctl(*arguments):
    return sh("systemctl", *arguments)


def shown(name):
    return systemctl("show", "precis", "--value", "-p", name).stdout.strip()


def pid():
    return int(shown("MainPID"))


def group(name, key=None):
    """A file of the service's control group; with a key, the number that stands behind it."""
    text = open(GROUP + name).read().strip()
    return text if key is None else int(dict(line.split() for line in text.splitlines())[key])


def drop_in(*lines):
    os.makedirs(os.path.dirname(DROP_IN), exist_ok=True)
    with open(DROP_IN, "w") as f:
        f.write("[Service]\n" + "".join(line + "\n" for line in lines))
    systemctl("daemon-reload")


def restart(why):
    r = systemctl("restart", "precis")
    return ok("%s: starts" % why, r.returncode == 0 and service.answers(), r.stdout + sh("journalctl", "-u", "precis", "-n", "20").stdout)


def apt(*arguments):
    return sh("apt-get", "-y", "-qq", *arguments, env=dict(os.environ, DEBIAN_FRONTEND="noninteractive", LC_ALL="C.UTF-8"))


def complete(**more):
    return service.ask("POST", TEXT, dict({"prompt": "Once", "max_tokens": 4}, **more), timeout=PATIENCE)


# ---- a unit among units ----

def install():
    with open(BEFORE, "w") as f:
        json.dump(sorted(files("")), f)
    r = apt("install", "--no-install-recommends", PACKAGE)
    ok("the package is installed on a system that runs", r.returncode == 0, r.stdout[-2000:])
    ok("that enables the service", systemctl("is-enabled", "precis").stdout.strip() == "enabled")
    ok("and starts it: it has said that it is ready", shown("Type") == "notify" and shown("ActiveState") == "active", shown("ActiveState"))
    ok("and where", shown("StatusText") == "serves on " + service.url, shown("StatusText"))
    ok("it answers", service.answers())
    r = sh("precis", "ps", "--health")
    ok("ps --health finds it", r.returncode == 0, r.stdout)
    r = sh("precis", "ps")
    ok("ps shows it to root", r.returncode == 0 and service.url in r.stdout, r.stdout)


def confined():
    status = dict(line.rstrip("\n").split(":\t", 1) for line in open("/proc/%d/status" % pid()) if ":\t" in line)
    user = sh("id", "-u", "precis").stdout.strip()
    ok("it runs as precis", user.isdigit() and status["Uid"].split() == [user] * 4, status["Uid"])
    ok("without capabilities, new privileges, or system calls at will", int(status["CapBnd"], 16) == 0 and status["NoNewPrivs"] == "1"
       and status["Seccomp"] == "2", str(status))
    ok("goes first where memory ends", open("/proc/%d/oom_score_adj" % pid()).read().strip() == "100")
    tries = "! touch /etc/x /usr/x /home/x /sys/fs/cgroup/x && touch /var/lib/precis/x && rm /var/lib/precis/x"
    r = sh("nsenter", "-m", "-t", str(pid()), "sh", "-c", tries)
    ok("and writes nowhere but in its own folder", r.returncode == 0 and r.stdout.count("Read-only file system") == 4, r.stdout)
    r = sh("systemd-analyze", "security", "--no-pager", "precis")
    ok("its exposure is what docs/OPERATIONS.md says", "precis.service: 1.2 OK" in r.stdout, r.stdout[-300:])


def answers():
    folder = "/var/lib/precis/models"
    shutil.copy(os.path.join(ROOT, "model.planes.gguf"), folder)
    status, _, said = complete()
    ok("a model put into its folder answers", status == 200 and said["usage"]["completion_tokens"] == 4, str(said))


def keys(*secrets):
    with open(KEYS, "w") as f:
        f.write("".join("%s %s\n" % (s, hashlib.sha256(s.encode()).hexdigest()) for s in secrets))
    shutil.chown(KEYS, "root", "precis")
    os.chmod(KEYS, 0o640)


def knows(secret):
    return service.ask("GET", "/v1/models", headers={"Authorization": "Bearer " + secret})[0] == 200


def reload():
    settings = open(CONFIG).read()
    keys("one", "two")
    with open(CONFIG, "a") as f:
        f.write("PRECIS_API_KEYS_FILE = %s\n" % KEYS)
    restart("with keys")
    ok("both keys open, another does not", knows("one") and knows("two") and not knows("three"))
    was = pid()
    keys("two", "three")
    r = systemctl("reload", "precis")
    ok("reload", r.returncode == 0, r.stdout)
    ok("the new key opens, the old one does not", until(lambda: knows("three"), 60) and knows("two") and not knows("one"))
    ok("in the same process", pid() == was and until(lambda: shown("ActiveState") == "active", 30))
    with open(CONFIG, "w") as f:
        f.write(settings)
    restart("without keys")


def killed():
    was, times = pid(), int(shown("NRestarts"))
    os.kill(was, signal.SIGKILL)
    ok("after kill -9 it is started again", until(lambda: pid() not in (0, was) and shown("ActiveState") == "active", PATIENCE)
       and int(shown("NRestarts")) == times + 1, shown("NRestarts"))
    ok("and answers", service.answers() and complete()[0] == 200)


def hangs():
    drop_in("WatchdogSec=15", "TimeoutAbortSec=2")
    restart("with a short watchdog")
    was, times = pid(), int(shown("NRestarts"))
    time.sleep(40)
    ok("the watchdog hears it", pid() == was)
    os.kill(was, signal.SIGSTOP)
    ok("one that stands still is started again", until(lambda: pid() not in (0, was) and shown("ActiveState") == "active", PATIENCE)
       and int(shown("NRestarts")) == times + 1, shown("NRestarts"))
    ok("by the watchdog", "atchdog timeout" in sh("journalctl", "-b", "-u", "precis").stdout)
    os.remove(DROP_IN)
    systemctl("daemon-reload")


def drains():
    body = {"prompt": "Once", "max_tokens": 400, "stream": True, "logit_bias": {"2": -100}}
    response = service.begin("POST", TEXT, body, timeout=PATIENCE)
    stream = events(response)
    first = next(stream)
    began, seen = time.time(), []
    stopping = threading.Thread(target=lambda: seen.append(systemctl("stop", "precis").returncode))
    stopping.start()
    was = until(lambda: shown("ActiveState") == "deactivating", 60)
    rest = list(stream)
    ok("stop: a stream that runs goes on", was and first and len(rest) > 2)
    ok("and is told its end", rest[-1] == "[DONE]" and any(e["choices"][0]["finish_reason"] for e in rest[:-1]), str(rest[-3:]))
    stopping.join()
    ok("stop: then it ends by itself, after %.0f s" % (time.time() - began), seen == [0] and shown("Result") == "success"
       and shown("ExecMainStatus") == "0" and shown("ActiveState") == "inactive", shown("Result"))
    ok("nothing is left to run", not os.path.exists("/run/precis") and not os.path.exists(GROUP))


def wrong_setting():
    settings = open(CONFIG).read()
    with open(CONFIG, "a") as f:
        f.write("PRECIS_PORT = far\n")
    r = systemctl("start", "precis")
    ok("a wrong setting: it does not start", r.returncode != 0 and shown("ExecMainStatus") == "2", shown("ExecMainStatus"))
    time.sleep(5)
    ok("and is not started again and again", shown("ActiveState") == "failed" and shown("NRestarts") == "0", shown("NRestarts"))
    ok("the journal names it", "PRECIS_PORT" in sh("journalctl", "-u", "precis", "-n", "20").stdout)
    with open(CONFIG, "w") as f:
        f.write(settings)
    restart("mended")


def upgrade():
    was = pid()
    r = apt("install", "--reinstall", "--no-install-recommends", PACKAGE)
    ok("an upgrade starts it anew", r.returncode == 0 and pid() not in (0, was) and service.answers(), r.stdout[-1000:])


# ---- control group v2 ----

def group_used():
    return int(group("memory.current"))


def level():
    return LEVELS.index(service.get(Q + "status")["current_models"][0]["level"])


def limits(**properties):
    r = systemctl("set-property", "--runtime", "precis", *("%s=%s" % p for p in properties.items()))
    return r.returncode == 0


def pressure():
    """What the server sees is what its control group says."""
    def once():
        sees = service.get(Q + "memory")["pressure"]
        says = float(group("memory.pressure").split("avg10=")[1].split()[0]) / 100
        return sees > 0 and abs(sees - says) <= .05
    return until(once, 60)


def squeezed():
    drop_in("Environment=QUANTIZE_DWELL_SECONDS=1")
    ok("limits are set", limits(MemoryMax=LIMIT))
    restart("in %d MB" % (LIMIT >> 20))
    ok("the limit is in memory.max", group("memory.max") == str(LIMIT), group("memory.max"))
    ballast = Ballast(LIMIT, ["/bin/sh", "-c", "echo $$ >%scgroup.procs && exec \"$@\"" % GROUP, "sh"])
    try:
        squeeze_in_group("ballast", service, ballast, LIMIT, (.20, .40, .55, .70), 2, PATIENCE, tokens=TOKENS, timeout=PATIENCE)
        lowered(ballast)
    finally:
        ballast.end()
    ok("nothing was killed", group("memory.events", "oom_kill") == 0 and shown("NRestarts") == "0", group("memory.events"))


def lowered(ballast):
    """The limit comes down upon a server that answers: by MemoryHigh=, then MemoryMax=."""
    ballast.hold(LIMIT // 5)
    clients = [Client(service, i, TOKENS, PATIENCE, min_quantization="int2") for i in range(2)]
    ok("lowered: streams begin", until(lambda: all(c.streams and c.streams[0]["first"] for c in clients), PATIENCE))
    was = LEVELS.index(settled(service)["level"])
    low = (group_used() * 9 // 10) >> 20 << 20
    stalls = group("memory.events", "high")
    ok("MemoryHigh= below what is used (%d MB)" % (low >> 20), limits(MemoryHigh=low))
    ok("is the limit it sees", until(lambda: abs(service.get(Q + "memory")["total_gb"] * 1e9 - low) < 1e6, 30))
    ok("levels fall below %s" % LEVELS[was], until(lambda: level() < was, PATIENCE))
    ok("the kernel has throttled it meanwhile", group("memory.events", "high") > stalls, group("memory.events"))
    ok("and it sees the pressure of its group", pressure(), group("memory.pressure"))
    ok("MemoryMax= follows", until(lambda: group_used() < low, PATIENCE) and limits(MemoryMax=low))
    for c in clients:
        c.wanted = False
    for c in clients:
        c.join(PATIENCE * 2)
    streams = [t for c in clients for t in c.streams]
    ok("lowered: %d streams end as they should" % len(streams), all(t["status"] == 200 and t["finish"] == "length" and t["done"]
                                                                for t in streams), str(streams)[:500])
    ballast.hold(0)
    ok("a limit that is raised again is seen", limits(MemoryHigh="infinity", MemoryMax=LIMIT)
       and until(lambda: abs(service.get(Q + "memory")["total_gb"] * 1e9 - LIMIT) < 1e6, 30))
    ok("and levels rise", until(lambda: level() >= was, PATIENCE))


# ---- the end ----

def survived():
    ok("after a reboot it is there by itself", until(lambda: shown("ActiveState") == "active", PATIENCE) and service.answers())
    ok("with its model", complete()[0] == 200)


def gone():
    r = apt("remove", "precis")
    ok("removing stops it and keeps settings, keys and models", r.returncode == 0 and not service.answers()
       and all(map(os.path.exists, (CONFIG, KEYS, "/var/lib/precis/models/model.planes.gguf"))), r.stdout)
    ok("nobody starts it any more", systemctl("is-enabled", "precis").returncode != 0)
    r = apt("purge", "--autoremove", "precis")
    before, after = set(json.load(open(BEFORE))), files("")
    ok("purging leaves nothing", r.returncode == 0 and after == before, "%s, gone: %s" % (sorted(after - before), sorted(before - after)))
    ok("nor does systemd know it", shown("LoadState") == "not-found" and "precis" not in systemctl("list-units", "--all", "--plain").stdout)


def main():
    boot = sys.argv[1]
    os.environ["PATH"] = "/usr/sbin:/usr/bin:/sbin:/bin"
    steps = {"1": (install, confined, answers, reload, killed, hangs, drains, wrong_setting, upgrade, squeezed), "2": (survived, gone)}
    if boot == "1":
        ok("systemd runs, with control groups v2 and PSI", os.path.exists("/run/systemd/system")
           and os.path.exists("/sys/fs/cgroup/cgroup.controllers") and os.path.exists("/proc/pressure/memory"))
    for step in steps[boot]:
        started = time.time()
        step()
        print("# %s: %.0f s" % (step.__name__, time.time() - started), flush=True)
    print("BOOT %s done" % boot, flush=True)
    finish()


if __name__ == "__main__":
    main()
