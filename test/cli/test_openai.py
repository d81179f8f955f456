#!/usr/bin/env python3
"""The openai package, as its users have it, against precis serve: the client is the judge.

Installed from PyPI into build/venv-openai; SKIPPED where that cannot be done. Runs with the default model, or with a
synthetic one, whose text means nothing.
"""

import os
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lib import ROOT, finish, ok, path, skipped  # noqa: E402

VENV = os.path.join(ROOT, "build/venv-openai")
PYTHON = os.path.join(VENV, "bin/python")


def have_openai():
    return os.path.exists(PYTHON) and subprocess.run([PYTHON, "-c", "import openai"], capture_output=True).returncode == 0


if os.path.abspath(sys.prefix) != VENV:
    if not have_openai():
        os.environ["HOME"] = path("home")
        made = subprocess.run([sys.executable, "-m", "venv", VENV], capture_output=True).returncode == 0
        if made:
            subprocess.run([PYTHON, "-m", "pip", "install", "-q", "--disable-pip-version-check", "openai"],
                           capture_output=True, timeout=300)
    if not have_openai():
        skipped("the openai package", "pip cannot install it here")
        finish()
    given = dict(os.environ, PRECIS_PACK_MAX="0")
    shutil.rmtree(os.path.dirname(path("x")), ignore_errors=True)
    os.execve(PYTHON, [PYTHON, os.path.abspath(__file__)], given)

import openai  # noqa: E402

from lib import big_model  # noqa: E402
from server import Server, until  # noqa: E402

os.environ["XDG_RUNTIME_DIR"] = path("runtime")
s = Server(big_model())
client = openai.OpenAI(base_url=s.url + "/v1", api_key="none", max_retries=0, timeout=120)
model = client.models.list().data[0].id
ok("models.list", model and client.models.retrieve(model).id == model)
say = [{"role": "system", "content": "You are brief."}, {"role": "user", "content": "Name three animals."}]
chat = client.chat.completions.create

try:
    a = chat(model=model, messages=say, max_tokens=12, seed=5)
except openai.BadRequestError as e:
    ok("no template, no chat: said so", e.param == "messages", str(e))
    a = None

if a:
    text = a.choices[0].message.content
    ok("chat", text and a.choices[0].message.role == "assistant" and a.choices[0].finish_reason in ("stop", "length")
       and a.object == "chat.completion" and a.model == model, str(a))
    ok("usage", a.usage.total_tokens == a.usage.prompt_tokens + a.usage.completion_tokens
       and a.usage.completion_tokens <= 12 and a.usage.prompt_tokens_details.cached_tokens >= 0, str(a.usage))
    ok("a seed", chat(model=model, messages=say, max_tokens=12, seed=5).choices[0].message.content == text)
    chunks = list(chat(model=model, messages=say, max_tokens=12, seed=5, stream=True,
                       stream_options={"include_usage": True}))
    ok("streaming", chunks[0].choices[0].delta.role == "assistant" and len({c.id for c in chunks}) == 1
       and "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == text, str(chunks))
    ok("streaming: end and usage", chunks[-2].choices[0].finish_reason == a.choices[0].finish_reason
       and chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == a.usage.completion_tokens, str(chunks[-2:]))
    with client.chat.completions.stream(model=model, messages=say, max_tokens=12, seed=5) as stream:
        for _ in stream:
            pass
        final = stream.current_completion_snapshot  # get_final_completion() takes finish_reason "length" for an error
    ok("the stream helper", final.choices[0].message.content == text, str(final))
    a = chat(model=model, messages=say, max_tokens=4, logprobs=True, top_logprobs=3)
    lp = a.choices[0].logprobs.content
    ok("logprobs", lp and len(lp) == a.usage.completion_tokens and all(t.logprob <= 0 and len(t.top_logprobs) == 3 for t in lp)
       and b"".join(bytes(t.bytes) for t in lp).decode("utf-8", "ignore").startswith(a.choices[0].message.content[:1]), str(lp))
    first = [c.choices[0].logprobs for c in chat(model=model, messages=say, max_tokens=3, logprobs=True, stream=True)
             if c.choices and c.choices[0].logprobs]
    ok("logprobs of a stream", sum(len(l.content) for l in first) >= 2, str(first))
    a = chat(model=model, messages=say, max_tokens=6, n=3, temperature=1.5)
    ok("n", [c.index for c in a.choices] == [0, 1, 2], str(a))
    whole = chat(model=model, messages=say, max_tokens=24, temperature=0).choices[0].message.content
    stop = whole[len(whole) // 2:len(whole) // 2 + 3]
    a = chat(model=model, messages=say, max_tokens=24, temperature=0, stop=[stop])
    ok("stop", a.choices[0].finish_reason == "stop" and stop not in a.choices[0].message.content, str(a))
    a = chat(model=model, messages=say, max_completion_tokens=3, extra_body={"top_k": 1, "force_quantization": "int2"})
    ok("extensions", a.usage.completion_tokens <= 3 and a.precis["levels"], str(a))
    raw = client.chat.completions.with_raw_response.create(model=model, messages=say, max_tokens=2)
    ok("headers", raw.headers["x-precis-level"] and raw.headers["x-request-id"], str(raw.headers))
    running = lambda: s.get("/api/v1/quantization/status")["requests"]  # noqa: E731
    stream = chat(model=model, messages=say, max_tokens=2000, stream=True, n=2, temperature=1.5,
                  logit_bias={"2": -100})
    next(iter(stream))
    stream.close()
    ok("cancellation", until(lambda: running()["running"] == 0, 5), str(running()))

a = client.completions.create(model=model, prompt="Once upon a time", max_tokens=6, logprobs=2, seed=3)
ok("completions", a.choices[0].text and len(a.choices[0].logprobs.tokens) == 6, str(a))
chunks = list(client.completions.create(model=model, prompt="Once upon a time", max_tokens=6, seed=3, stream=True))
ok("completions: streaming", "".join(c.choices[0].text for c in chunks) == a.choices[0].text, str(chunks))


def refused(name, kind, code, call):
    try:
        call()
        ok(name, False, "nothing was refused")
    except kind as e:
        ok(name, e.status_code == code and e.body["message"] and e.request_id, repr(e.body))


refused("no such model", openai.NotFoundError, 404, lambda: chat(model="gpt-17", messages=say))
refused("a wrong value", openai.BadRequestError, 400, lambda: chat(model=model, messages=say, temperature=9))
refused("a wrong type", openai.BadRequestError, 400, lambda: chat(model=model, messages="hello"))
ok("stops", s.stop() == 0)
finish()
