#!/usr/bin/env python3
"""Once keys are set, nothing answers without one but what is meant to: every route and method is asked, with no key, wrong
keys, half keys, and by other spellings of the path."""

import hashlib
import json
import os
import re
import shutil
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lib import ROOT, finish, ok, path, small_model, write  # noqa: E402
from server import Server  # noqa: E402

# The routes that are open on purpose. A new one belongs here only if it tells nothing of the models, the requests or the
# machine: files of the page, and whether the server is well.
OPEN = {"/health", "/", "/web/{file}"}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW")

os.environ["XDG_RUNTIME_DIR"] = path("runtime")
os.makedirs(os.environ["PRECIS_MODELS"])
shutil.copy(small_model(), os.path.join(os.environ["PRECIS_MODELS"], "tiny.gguf"))
secret = "sk-0123456789abcdef"
keys = write("keys", b"one %s\n" % hashlib.sha256(secret.encode()).hexdigest().encode())
s = Server("--keys", keys)

routes = {}
for name in os.listdir(os.path.join(ROOT, "src/api")):
    if name.endswith(".c"):
        text = open(os.path.join(ROOT, "src/api", name)).read()
        for method, target, flags in re.findall(r'\{"([A-Z]+)", "(/[^"]*)", \w+, \w+, \w+, (\w+)\}', text):
            routes.setdefault(target, set()).add((method, flags))
ok("all routes are found", len(routes) > 15 and "/v1/chat/completions" in routes, str(sorted(routes)))
marked = {t for t, found in routes.items() if any(flags != "0" for _, flags in found)}
ok("those marked as open are the ones meant", marked == OPEN, str(marked ^ OPEN))

WRONG = [{}, {"Authorization": ""}, {"Authorization": "Bearer"}, {"Authorization": "Bearer "}, {"Authorization": secret},
         {"Authorization": "Basic " + secret}, {"Authorization": "Bearer " + secret[:-1]},
         {"Authorization": "Bearer " + secret + "0"}, {"Authorization": "Bearer " + secret.upper()},
         {"Authorization": "Bearer %s %s" % (secret, secret)}, {"X-Api-Key": secret}, {"Cookie": "key=" + secret},
         {"Authorization": "Bearer " + hashlib.sha256(secret.encode()).hexdigest()}]


def ask(method, target, headers):
    r = s.begin(method, target, b"{}" if method in ("POST", "PUT", "PATCH") else None, headers)
    body = r.read()
    r.connection.close()
    return r.status, r.headers, body


def is_error(body, head):
    return not body if head else set(json.loads(body)) == {"error"}


for target, found in sorted(routes.items()):
    place = re.sub(r"\{[^}]*\}", "tiny", target)
    taken = {m for m, _ in found} | ({"HEAD"} if any(m == "GET" for m, _ in found) else set())
    bad = []
    for method in METHODS:
        for headers in WRONG if method in taken and target not in OPEN else WRONG[:1]:
            status, head, body = ask(method, place, headers)
            if method == "OPTIONS":
                good = status == 204 and not body
            elif method not in taken:
                good = status == 405 and is_error(body, method == "HEAD")
            elif target in OPEN:
                good = status in (200, 404)
            else:
                good = status == 401 and is_error(body, method == "HEAD") and head["WWW-Authenticate"] == "Bearer"
            if not good:
                bad.append((method, headers, status, body[:100]))
    ok("%s: %s" % (target, "open" if target in OPEN else "closed"), not bad, str(bad))

spellings = ["/V1/models", "/v1/models/", "//v1/models", "/v1//models", "/v1/models?key=" + secret, "/%761/models",
             "/v1/models%2f", "/v1/models;x", "/web/..%2f..%2fv1%2fmodels", "/web/..%2fapi", "/health/", "/health/x",
             "/health%2f..%2fv1%2fmodels", "/.well-known/x", "/metrics/", "/openapi.json/"]
answers = {p: ask("GET", p, {}) for p in spellings}
ok("no other spelling is a way in", all(a[0] in (400, 401, 404) and is_error(a[2], False) for a in answers.values()),
   str({p: a[0] for p, a in answers.items()}))
ok("with the key it opens", s.ask("GET", "/v1/models", headers={"Authorization": "Bearer " + secret})[0] == 200)
ok("nothing was asked of a model", s.ask("GET", "/api/performance", headers={"Authorization": "Bearer " + secret})[2]
   ["total_queries"] == 0)
ok("keys are not logged", secret not in open(s.log_path).read())
ok("stops", s.stop() == 0)
finish()
