"""What the command-line tests share: running precis, finding a model, telling results.

Every test file prints "ok NAME", "not ok NAME: why" or "SKIPPED NAME: why", a line
each, and exits with 1 when anything was not ok. The program is $PRECIS (or
build/release/precis), the default model $PRECIS_TEST_MODEL, the shared data
$PRECIS_TEST_DATA (or ../shared/data).
"""

import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PRECIS = os.path.abspath(os.environ.get("PRECIS", os.path.join(ROOT, "build/release/precis")))
DATA = os.environ.get("PRECIS_TEST_DATA", os.path.join(ROOT, "../shared/data"))

failures = 0
work = tempfile.mkdtemp(prefix="precis-cli-")

# Nothing of the caller's configuration reaches the program.
for name in ("PRECIS_MODELS", "HF_ENDPOINT", "HF_TOKEN", "http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY",
             "HTTPS_PROXY", "ALL_PROXY"):
    os.environ.pop(name, None)
os.environ["HOME"] = os.path.join(work, "home")
os.environ["PRECIS_MODELS"] = os.path.join(work, "models")
os.environ["XDG_STATE_HOME"] = os.path.join(work, "state")
os.environ["PRECIS_PACK_MAX"] = "0"  # nothing is packed in the background unless a test wants it
os.environ["LANG"] = "C.UTF-8"
os.makedirs(os.environ["HOME"])


def path(name):
    return os.path.join(work, name)


def write(name, data):
    full = path(name)
    os.makedirs(os.path.dirname(full), exist_ok=True)
    with open(full, "wb") as f:
        f.write(data)
    return full


def ok(name, condition, why=""):
    global failures
    if condition:
        print("ok %s" % name, flush=True)
    else:
        failures += 1
        print("not ok %s%s" % (name, ": %s" % why if why else ""), flush=True)
    return bool(condition)


def skipped(name, why):
    print("SKIPPED %s: %s" % (name, why), flush=True)


def finish():
    shutil.rmtree(work, ignore_errors=True)
    sys.exit(1 if failures else 0)


class Result:
    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    def __str__(self):
        return "exit %d, stdout %r, stderr %r" % (self.code, self.out[:300], self.err[:600])

    def json(self):
        return json.loads(self.out)


def precis(*args, stdin=b"", env=None, timeout=300, **more):
    """Run precis; stdin is bytes (a pipe, never a terminal)."""
    all_env = dict(os.environ, **(env or {}))
    p = subprocess.run([PRECIS, *args], input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=all_env,
                       timeout=timeout, **more)
    return Result(p.returncode, p.stdout.decode("utf-8", "replace"), p.stderr.decode("utf-8", "replace"))


def fails(name, result, code, *texts):
    """How everything fails: this exit code, and one line on stderr that begins with "precis: " and has these texts."""
    lines = result.err.splitlines()
    good = (result.code == code and len(lines) == 1 and lines[0].startswith("precis: ")
            and all(t in lines[0] for t in texts))
    return ok(name, good, "wanted exit %d and %r; %s" % (code, texts, result))


def small_model():
    """A model that answers in no time; None when there is none."""
    for candidate in (os.path.join(DATA, "models/prose-6m/prose-6m-f16.gguf"), os.environ.get("PRECIS_TEST_MODEL", "")):
        if os.path.isfile(candidate):
            return os.path.abspath(candidate)
    return big_model()


def big_model():
    """A model with a long context, and slow enough to be interrupted."""
    given = os.environ.get("PRECIS_TEST_MODEL", "")
    if os.path.isfile(given):
        return os.path.abspath(given)
    synthetic = path("synthetic-135m.gguf")
    if not os.path.exists(synthetic):
        r = precis("bench", "--synthetic", "135m", "--write-gguf", "q4_0", synthetic)
        if r.code != 0:
            raise SystemExit("not ok a synthetic model: %s" % r)
    return synthetic


def elastic_model(folder, name, shape="25m"):
    """An elastic model of random weights, folder/NAME.planes.gguf, which a server calls NAME."""
    os.makedirs(folder, exist_ok=True)
    source, target = path(name + ".gguf"), os.path.join(folder, name + ".planes.gguf")
    for arguments in (("bench", "--synthetic", shape, "--write-gguf", "f16", source), ("pack", "--fast", source, target)):
        r = precis(*arguments, timeout=900)
        if r.code != 0:
            raise SystemExit("not ok %s: %s" % (" ".join(arguments), r))
    os.remove(source)
    return target


def sanitized():
    """True for a build with a sanitizer, which needs memory of its own."""
    with open(PRECIS, "rb") as f:
        program = f.read()
    return b"__asan_init" in program or b"__tsan_init" in program


# Control sequences of the line editor; the text between them is what a person sees.
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|\r")


class Terminal:
    """precis behind a pseudo-terminal."""

    def __init__(self, *args):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ["TERM"] = "xterm"
            os.execv(PRECIS, [PRECIS, *args])
        self.seen = ""
        self.code = None

    def read(self, seconds):
        if select.select([self.fd], [], [], seconds)[0]:
            try:
                data = os.read(self.fd, 65536)
            except OSError:  # the program is gone
                data = b""
            self.seen += CONTROL.sub("", data.decode("utf-8", "replace"))
            return bool(data)
        return True

    def wait_for(self, text, seconds=120):
        """Read until text appears; what came before it and it are taken away."""
        end = time.time() + seconds
        while text not in self.seen and time.time() < end:
            if not self.read(0.2):
                break
        at = self.seen.find(text)
        if at < 0:
            return None
        taken = self.seen[:at + len(text)]
        self.seen = self.seen[at + len(text):]
        return taken

    def send(self, text):
        os.write(self.fd, text.encode())

    def line(self, text):
        self.send(text + "\n")

    def end(self, seconds=60):
        """The exit code, or None when it does not end (it is killed then)."""
        end = time.time() + seconds
        while time.time() < end:
            self.read(0.1)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                os.close(self.fd)
                return os.waitstatus_to_exitcode(status)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        return None


def text_file():
    candidate = os.path.join(DATA, "text/tinystories-valid.txt")
    if os.path.isfile(candidate):
        return candidate
    return write("text.txt", b"Once upon a time there was a little girl who lived in a small house.\n" * 200)
