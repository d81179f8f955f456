"""The servers that bench/server.py measures, and how it asks them; it is no program."""

import contextlib
import hashlib
import http.client
import json
import os
import random
import re
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

from common import ROOT, peer_python, say

BIN = os.path.join(ROOT, "build", "release")
KEYS = {"greedy": "key-of-the-greedy", "modest": "key-of-the-modest"}
CPUMASKS = {"all": 0, "avx2": 1, "avxvnni": 5}  # bits of kernels/kernels.h
WORDS = ("the of and to in that it was for on are as with his they at be this have from or had by word but what some we can out "
         "other were all there when up use your how said an each she which do their time if will way about many then them would "
         "like so these her long make thing see him two has look more day could go come did number sound no most people my over "
         "know water than call first who may down side been now find").split()


def prompt(seed, words):
    """Words that are the same for the same seed, and begin unlike those of any other: no prefix is shared by accident."""
    draw = random.Random(seed)
    return " ".join(draw.choice(WORDS) for _ in range(words))


def body(text, tokens, ends, **more):
    """A request for exactly so many tokens, each the most likely one; ends are the tokens that would end it."""
    return json.dumps({"prompt": text, "max_tokens": tokens, "temperature": 0, "repetition_penalty": 1, "repeat_penalty": 1,
                       "stream": True, "stream_options": {"include_usage": True},
                       "logit_bias": {str(token): -100 for token in ends}, **more})


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    """A running program that answers on a port of this machine; ended with the block."""

    def __init__(self, name, command, port, key=None, env=None):
        self.name, self.port, self.key = name, port, key
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log, env=env)

    def wait(self, path, data=None, seconds=300):
        """ask(), again until it answers: a model is loaded, perhaps from a slow disk."""
        until, why = time.monotonic() + seconds, None
        while time.monotonic() < until and self.process.poll() is None:
            try:
                return self.ask(path, data)
            except urllib.error.HTTPError as e:
                why = e.read().decode(errors="replace")
            except OSError as e:
                why = e
            time.sleep(0.1)
        self.log.seek(0)
        raise SystemExit(f"{self.name} does not serve: {why}\n{self.log.read()[-2000:]}")

    def headers(self):
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}

    def ask(self, path, data=None):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=self.headers(),
                                         data=json.dumps(data).encode() if data is not None else None)
        with urllib.request.urlopen(request, timeout=120) as reply:
            return json.load(reply)

    def streams(self, requests, seconds=0, health_ms=0):
        """What bench/streams says of (how, key, body) lines; each answer is complete and of full length."""
        lines = [f"{how}\t{KEYS.get(key) or self.key or '-'}\t/v1/completions\t{text}\n" for how, key, text in requests]
        done = subprocess.run([os.path.join(BIN, "bench", "streams"), str(self.port), str(seconds), str(health_ms)],
                              input="".join(lines), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            raise SystemExit(f"{self.name}: {done.stderr.strip()}")
        got = json.loads(done.stdout)
        short = [s["finish"] for s in got["streams"] if s["finish"] != "length"]
        if short:
            raise SystemExit(f"{self.name}: streams ended with {short} instead of at their length")
        return got

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()


class Hand:
    """bench/hand: the bare engine, in a process that keeps its model."""

    def __init__(self, args, model, level, ends):
        command = [os.path.join(BIN, "bench", "hand"), model, level, str(args.threads), str(CPUMASKS[args.cpu]), *map(str, ends)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def seconds(self, prompts, tokens):
        self.process.stdin.write("\t".join([str(tokens), *prompts]) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("bench/hand has ended; see above")
        return float(line)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()


# ---- starting them ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def precis(args, model, level):
    """precis serving one model that stays at a level, whatever the machine's memory is like."""
    with tempfile.TemporaryDirectory() as folder:
        memory, keys = os.path.join(folder, "memory"), os.path.join(folder, "keys")
        with open(memory, "w") as f:
            f.write("0.2\n")
        with open(keys, "w") as f:
            f.writelines(f"{name} {hashlib.sha256(key.encode()).hexdigest()}\n" for name, key in KEYS.items())
        env = {k: v for k, v in os.environ.items() if not re.match("PRECIS_|QUANTIZE_", k)}
        env["XDG_RUNTIME_DIR"] = folder
        port = free_port()
        command = [args.precis, "serve", model, "-p", str(port), "-q", "-t", str(args.threads), "--keys", keys,
                   "--memory-source", memory, "--drafts", "0", "--cpumask", str(CPUMASKS[args.cpu])]
        with Server("precis", command, port, KEYS["modest"], env) as server:
            server.wait("/health")
            server.wait("/v1/completions", {"prompt": "Hello", "max_tokens": 1})  # loads it
            server.ask("/api/v1/quantization/level", {"level": level})
            until = time.monotonic() + 60
            while server.ask("/api/v1/quantization/status")["current_models"][0]["level"] != level:
                if time.monotonic() > until:
                    raise SystemExit(f"precis does not come to {level}")
                time.sleep(0.1)
            yield server


def python_server(args, model):
    """llama-cpp-python's server. Not to be interrupted by a second request, as it is by default; they wait for each other."""
    python = peer_python(args, "llama.cpp")
    if subprocess.run([python, "-c", "import llama_cpp.server.app"], stderr=subprocess.DEVNULL).returncode != 0:
        say("installing what llama_cpp.server needs")
        subprocess.run([python, "-m", "pip", "install", "--quiet", "llama-cpp-python[server]"], check=True,
                       env=dict(os.environ, CMAKE_ARGS="-DGGML_NATIVE=ON"))
    port = free_port()
    threads = str(args.threads)
    command = [python, "-m", "llama_cpp.server", "--model", model, "--host", "127.0.0.1", "--port", str(port), "--n_ctx", "2048",
               "--n_threads", threads, "--n_threads_batch", threads, "--interrupt_requests", "False", "--verbose", "False"]
    return Server("llama_cpp.server", command, port)


def llama_server(args, model):
    """llama.cpp's own server with a slot for each stream."""
    port = free_port()
    threads = str(args.threads)
    command = [args.llama_server, "-m", model, "--host", "127.0.0.1", "--port", str(port), "-c", "8192", "-np", "8", "-t", threads,
               "-tb", threads]
    return Server("llama-server", command, port)


# ---- a client that goes away ----------------------------------------------------------------------------------------


def open_stream(server, text):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("POST", "/v1/completions", text, server.headers())
    reply = connection.getresponse()
    if reply.status != 200:
        raise SystemExit(f"{server.name}: {reply.status} {reply.read()[:300]}")
    seen = 0
    while seen < 8:
        seen += reply.readline().startswith(b"data: ")
    return connection, reply


def disconnect_ms(server, bodies):
    """Milliseconds from closing the last of the streams, none of which is through, to its place being free."""
    streams = [open_stream(server, text) for text in bodies]
    watch = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)

    def running():
        watch.request("GET", "/api/performance", headers=server.headers())
        return json.load(watch.getresponse())["requests_running"]

    def close(pair):
        pair[1].close()
        pair[0].close()

    if running() != len(streams):
        raise SystemExit("disconnecting: a stream had ended by itself; ask for longer ones")
    start = time.monotonic()
    close(streams.pop())
    while running() > len(streams):
        time.sleep(0.0005)
    took = time.monotonic() - start
    for pair in streams:
        close(pair)
    while running():
        time.sleep(0.01)
    watch.close()
    return 1e3 * took
