#!/usr/bin/env python3
"""schemathesis reads /openapi.json and asks precis serve for everything in it, well formed and not: the description is the
judge. No answer may be a 5xx, or have a status, header, content type or schema that is not described; what the description
forbids must be refused, what it allows must not be.

Installed from PyPI into build/venv-schemathesis; SKIPPED where that cannot be done. PRECIS_SCHEMATHESIS_SECONDS makes it
longer (test/slow/test_schemathesis_long.py does), PRECIS_SCHEMATHESIS_SEED makes it another run.
"""

import hashlib
import os
import re
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from gguf import CHATML, with_text  # noqa: E402
from lib import DATA, ROOT, finish, ok, path, precis, skipped, write  # noqa: E402
from server import Server  # noqa: E402

VERSION = "4.32.5"
VENV = os.path.join(ROOT, "build/venv-schemathesis")
ST = os.path.join(VENV, "bin/st")
SECONDS = int(os.environ.get("PRECIS_SCHEMATHESIS_SECONDS", "0"))
SEED = os.environ.get("PRECIS_SCHEMATHESIS_SEED", "1")
SOURCE = os.path.join(DATA, "models/prose-6m/prose-6m-f16.gguf")

# What the description says in words only: prompts times n, tokens that the model has, prompts within the context; that texts
# hold no NUL; and which model there is.
HOOKS = '''
import schemathesis

def plain(v):
    if isinstance(v, dict):
        return {plain(k): plain(x) for k, x in v.items()}
    if isinstance(v, str):
        return v.replace("\\0", "0")
    return [plain(x) for x in v] if isinstance(v, list) else v

def token(t):
    return t % 4096 if isinstance(t, (int, float)) and not isinstance(t, bool) and t >= 0 and t == int(t) else t

def tame(body):
    body = plain(body)
    prompts, messages, bias, model = (body.get(k) for k in ("prompt", "messages", "logit_bias", "model"))
    if isinstance(prompts, list):
        body["prompt"] = [[token(t) for t in p[:50]] if isinstance(p, list) else token(p) for p in prompts[:50]]
        if len(prompts) > 1 and body.get("n") in range(1, 17):
            body["n"] = 1
    if isinstance(messages, list) and 4 < len(messages) <= 1024:
        body["messages"] = messages[-4:]
    if isinstance(bias, dict):
        body["logit_bias"] = {str(int(k) % 4096) if k.isascii() and k.isdigit() and len(k) < 10 else k: x for k, x in bias.items()}
    if isinstance(model, str) and len(model) % 2:
        body["model"] = "tiny"
    return body

@schemathesis.hook
def before_call(context, case, kwargs):
    if isinstance(case.body, dict):
        case.body = tame(case.body)
'''


def have_schemathesis():
    return os.path.exists(ST) and VERSION in subprocess.run([ST, "--version"], capture_output=True, text=True).stdout


if not have_schemathesis():
    if subprocess.run([sys.executable, "-m", "venv", VENV], capture_output=True).returncode == 0:
        subprocess.run([os.path.join(VENV, "bin/python"), "-m", "pip", "install", "-q", "--disable-pip-version-check",
                        "schemathesis==" + VERSION], capture_output=True, timeout=300)
if not have_schemathesis():
    skipped("schemathesis", "pip cannot install it here")
    finish()
if not os.path.isfile(SOURCE):
    skipped("schemathesis", "there is no small model")
    finish()

os.environ["XDG_RUNTIME_DIR"] = path("runtime")
MODELS = os.environ["PRECIS_MODELS"]
os.makedirs(MODELS)
with_text(SOURCE, os.path.join(MODELS, "tiny.gguf"), "tokenizer.chat_template", CHATML)
r = precis("pack", "--fast", os.path.join(MODELS, "tiny.gguf"), os.path.join(MODELS, "tiny.planes.gguf"), timeout=600)
ok("a small elastic model that chats", r.code == 0, str(r))
secret = "sk-schemathesis"
keys = write("keys", b"tester %s\n" % hashlib.sha256(secret.encode()).hexdigest().encode())
write("hooks/precis_hooks.py", HOOKS.encode())
s = Server("--keys", keys, "--preload", "tiny", key=secret)

# Without the stream of decisions, which has no end.
command = [ST, "run", s.url + "/openapi.json", "-H", "Authorization: Bearer " + secret, "--checks", "all",
           "--exclude-path", "/api/v1/quantization/events", "--continue-on-failure", "--no-shrink", "--no-color",
           "--seed", SEED, "--request-timeout", "60"]
if SECONDS:
    command += ["--phases", "examples,coverage,fuzzing,stateful", "--max-time", str(SECONDS)]
else:
    command += ["--phases", "examples,coverage,fuzzing", "-n", "5"]
p = subprocess.run(command, capture_output=True, text=True, cwd=path("."), timeout=SECONDS + 500,
                   env=dict(os.environ, SCHEMATHESIS_HOOKS="precis_hooks", PYTHONPATH=path("hooks"), COLUMNS="200"))
tested = re.search(r"(\d+) generated", p.stdout)
ok("every answer is as described (%s requests)" % (tested.group(1) if tested else "no"), p.returncode == 0,
   p.stdout[-20000:] + p.stderr[-2000:])
ok("hundreds of requests", tested and int(tested.group(1)) > 500, p.stdout[-500:])
log = s.log()
ok("no answer was a 5xx", not [l for l in log if l.get("event") == "request" and l["status"] >= 500])
ok("and it is well", s.get("/health")["status"] == "ok")
ok("stops", s.stop() == 0)
finish()
