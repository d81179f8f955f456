#!/usr/bin/env python3
"""What it costs to start a server on a host that has nothing yet: a container without a persistent disk.

usage: bench/cold_start.py [MODEL] [--runs N] [--pull] [--precis PROGRAM] [--json]

The program and the model (a name or a path; smollm2) are copied into an empty folder. Each run starts with neither in the page cache, is
told the settings that packaging/Containerfile has, and is timed from the start of the process: until it says that it listens, until
/health answers, until the first token of a chat that asks for the model, which is loaded for that. The same again with everything in
the page cache. --pull begins with an empty model folder, and `precis pull` from a web server on this machine before `serve`: what
fetching at start adds, but for the network.

Medians of N runs (5). Quiet machine wanted.
"""
import argparse
import functools
import hashlib
import http.client
import http.server
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
KEY = "cold-start"
PATIENCE = 120


def forget(folder):
    """Take every file below folder out of the page cache."""
    for where, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(where, name)
            if os.path.islink(path) or not os.path.isfile(path):
                continue
            fd = os.open(path, os.O_RDONLY)
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)


def remember(folder):
    for where, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(where, name), "rb") as f:
                while f.read(1 << 22):
                    pass


def wait(condition, process):
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        value = condition()
        if value:
            return value
        time.sleep(0.001)
    raise SystemExit("cold_start: the server does not start")


def first_token(port):
    body = json.dumps({"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8, "stream": True, "temperature": 0})
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    c.request("POST", "/v1/chat/completions", body, {"Authorization": "Bearer " + KEY})
    r = c.getresponse()
    if r.status != 200:
        raise SystemExit("cold_start: %d %s" % (r.status, r.read()[:200]))
    for line in r:
        if line.startswith(b"data: {") and json.loads(line[6:])["choices"][0]["delta"].get("content"):
            at = time.monotonic()
            r.read()
            return at
    raise SystemExit("cold_start: there was no token")


def healthy(port):
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    c.request("GET", "/health")
    return c.getresponse().status == 200


def run(place, pull):
    """Seconds from the start of the first process to each step."""
    env = {"PRECIS_MODELS": place + "/models", "PRECIS_HOST": "0.0.0.0", "PRECIS_PORT": "0", "PRECIS_API_KEYS_FILE": place + "/keys",
           "XDG_RUNTIME_DIR": place + "/run", "HOME": place, "PATH": os.environ["PATH"]}
    out_path = place + "/out"
    took, started = {}, time.monotonic()
    if pull:
        subprocess.run([place + "/bin/precis", "pull", pull], env=env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        took["fetched"] = time.monotonic() - started
    with open(out_path, "w") as out:
        process = subprocess.Popen([place + "/bin/precis", "serve", "-q"], env=env, stdin=subprocess.DEVNULL, stdout=out)
    try:
        found = wait(lambda: re.search(r"serves on http://\S+:(\d+)", open(out_path).read()), process)
        took["listens"] = time.monotonic() - started
        port = int(found.group(1))
        wait(lambda: healthy(port), process)
        took["healthy"] = time.monotonic() - started
        took["first token"] = first_token(port) - started
    finally:
        process.terminate()
        process.wait()
    return took


def prepare(place, program, model):
    """The folder as the image has it; the names of the files of models."""
    os.makedirs(place + "/bin")
    os.makedirs(place + "/models")
    os.makedirs(place + "/run")
    shutil.copy(program, place + "/bin/precis")
    with open(place + "/keys", "w") as f:
        f.write("all %s\n" % hashlib.sha256(KEY.encode()).hexdigest())
    shown = subprocess.run([program, "show", "--json", model], stdout=subprocess.PIPE, text=True)
    if shown.returncode != 0:
        raise SystemExit("cold_start: no model %s: `precis pull` fetches one" % model)
    path = json.loads(shown.stdout)["path"]
    companion = re.sub(r"\.gguf$", "", path) + ".planes.gguf"
    for file in filter(os.path.exists, (path, companion)):
        shutil.copy2(file, place + "/models/")
    return path


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("model", nargs="?", default="smollm2")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--pull", action="store_true")
    parser.add_argument("--precis", default=os.path.join(ROOT, "build/release/precis"))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    place = tempfile.mkdtemp(prefix="precis-cold-")
    try:
        model = prepare(place, options.precis, options.model)
        url = None
        if options.pull:
            class Files(http.server.SimpleHTTPRequestHandler):
                def log_message(self, *_):
                    pass
            files = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Files, directory=os.path.dirname(model)))
            threading.Thread(target=files.serve_forever, daemon=True).start()
            url = "http://127.0.0.1:%d/%s" % (files.server_address[1], os.path.basename(model))
        told = {}
        for state, before in (("cold", forget), ("warm", remember)):
            runs = []
            for _ in range(options.runs):
                if url:
                    shutil.rmtree(place + "/models")
                    os.makedirs(place + "/models")
                before(place)
                runs.append(run(place, url))
            told[state] = {step: round(statistics.median(r[step] for r in runs), 3) for step in runs[0]}
    finally:
        shutil.rmtree(place, ignore_errors=True)
    if options.json:
        print(json.dumps(told))
        return
    print("seconds after the start, median of %d%s" % (options.runs, ", fetched first" if url else ""))
    for state, steps in told.items():
        print("  page cache %-5s %s" % (state, ", ".join("%s %.3f" % s for s in steps.items())))


if __name__ == "__main__":
    sys.exit(main())
