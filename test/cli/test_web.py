#!/usr/bin/env python3
"""The web page in a real browser: headless Chromium, driven by selenium from PyPI (build/venv-web), judged by axe.

SKIPPED where Chromium or the packages cannot be had. What needs a chat template is SKIPPED without the default model.
With PRECIS_WEB_SHOTS=FOLDER it leaves screenshots there.
"""

import gzip
import hashlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lib import ROOT, finish, ok, path, precis, skipped, small_model, write  # noqa: E402

VENV = os.path.join(ROOT, "build/venv-web")
PYTHON = os.path.join(VENV, "bin/python")
PACKAGES = ["selenium", "axe-core-python"]
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


def have_packages():
    return os.path.exists(PYTHON) and subprocess.run([PYTHON, "-c", "import selenium, axe_core_python"],
                                                     capture_output=True).returncode == 0


if os.path.abspath(sys.prefix) != VENV:
    if not CHROMIUM or not DRIVER:
        skipped("the web page", "no chromium or no chromedriver here")
        finish()
    if not have_packages():
        os.environ["HOME"] = path("home")
        if subprocess.run([sys.executable, "-m", "venv", VENV], capture_output=True).returncode == 0:
            subprocess.run([PYTHON, "-m", "pip", "install", "-q", "--disable-pip-version-check", *PACKAGES],
                           capture_output=True, timeout=300)
    if not have_packages():
        skipped("the web page", "pip cannot install selenium and axe-core-python here")
        finish()
    shutil.rmtree(os.path.dirname(path("x")), ignore_errors=True)
    os.execve(PYTHON, [PYTHON, os.path.abspath(__file__)], os.environ)

import http.client  # noqa: E402

import axe_core_python  # noqa: E402
from selenium import webdriver  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

from server import Server, until  # noqa: E402

AXE = open(os.path.join(os.path.dirname(axe_core_python.__file__), "axe.min.js")).read()
SHOTS = os.environ.get("PRECIS_WEB_SHOTS")
HOSTILE = "<img src=x onerror=\"window.hurt=1\">"
HOSTILE_NAME = "zz" + HOSTILE  # not the first, which is the default
os.environ["XDG_RUNTIME_DIR"] = path("runtime")
MODELS = os.environ["PRECIS_MODELS"]
os.makedirs(MODELS)

# ---- models: the default one where there is one, else the tiny one; packed, so that levels move ----
given = os.environ.get("PRECIS_TEST_MODEL", "")
chats = os.path.isfile(given)
source = given if chats else small_model()
model = os.path.join(MODELS, "tiny.gguf")
shutil.copy2(source, model)  # its companion knows it by size and time
companion = re.sub(r"\.gguf$", ".planes.gguf", source)
if os.path.isfile(companion):
    shutil.copy(companion, os.path.join(MODELS, "tiny.planes.gguf"))
elif not ok("an elastic model", precis("pack", "--fast", model, os.path.join(MODELS, "tiny.planes.gguf"), timeout=600).code == 0):
    finish()
memory = write("memory", b"0.20\n")


def squeeze_to(x):
    write("memory.new", b"%.2f\n" % x)
    os.replace(path("memory.new"), memory)


class Page:
    """A browser, and what a person does in it."""

    def __init__(self, url):
        o = webdriver.ChromeOptions()
        o.binary_location = CHROMIUM
        for a in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
                  "--window-size=1280,800", "--no-proxy-server", "--disable-background-networking",
                  "--user-data-dir=" + path("profile")):
            o.add_argument(a)
        o.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.b = webdriver.Chrome(options=o, service=Service(DRIVER))
        self.url = url

    def open(self, place="#/chat"):
        self.b.get("about:blank")
        self.b.get(self.url + "/" + place)

    def all(self, css):
        return self.b.find_elements(By.CSS_SELECTOR, css)

    def one(self, css, seconds=15):
        until(lambda: self.all(css), seconds)
        return self.b.find_element(By.CSS_SELECTOR, css)

    def labelled(self, label):
        return self.one('[aria-label="%s"]' % label)

    def click(self, css):
        el = self.one(css)
        self.b.execute_script("arguments[0].scrollIntoView({block: 'nearest'})", el)
        el.click()

    def js(self, script, *args):
        return self.b.execute_script(script, *args)

    def text(self, css):
        return self.js("return document.querySelector(arguments[0])?.innerText ?? ''", css)

    def keys(self, *keys):
        self.b.switch_to.active_element.send_keys(*keys)

    def size(self, width, height):
        self.b.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                               {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600})

    def prefer(self, scheme):
        self.b.execute_cdp_cmd("Emulation.setEmulatedMedia",
                               {"features": [{"name": "prefers-color-scheme", "value": scheme}]})

    def ask(self, text):
        box = self.one(".input")
        box.send_keys(text)
        box.send_keys(Keys.ENTER)

    def answered(self, seconds=60):
        return until(lambda: self.all(".answer") and not self.all(".answer.busy"), seconds)

    def complaints(self):
        """What the browser's console has against the page."""
        return [l["message"] for l in self.b.get_log("browser") if l["level"] in ("SEVERE", "WARNING")]

    def findings(self):
        """What axe finds that is serious or critical: in the modal dialog, where one is open, else on the page.

        What lies under a modal dialog is inert, and axe knows no top layer: it takes the dialog's button for the
        background of whatever text happens to lie beneath it."""
        self.js("if (!window.axe) { %s }" % AXE)
        found = self.b.execute_async_script(
            "axe.run(document.querySelector('dialog:modal') ?? document, {resultTypes: ['violations']}).then(arguments[0])")
        return [(v["id"], v["nodes"][0]["target"], v["nodes"][0].get("failureSummary", "")[:200])
                for v in found["violations"] if v["impact"] in ("serious", "critical")]

    def shoot(self, name):
        if SHOTS:
            self.b.save_screenshot(os.path.join(SHOTS, name + ".png"))


def files_as_served(s):
    """Every file of the page: its headers, and what it weighs on the wire."""
    total = 0
    names = [""] + ["web/" + f for f in os.listdir(os.path.join(ROOT, "web"))]
    for name in names:
        c = http.client.HTTPConnection("127.0.0.1", s.port)
        c.request("GET", "/" + name, headers={"Accept-Encoding": "gzip"})
        r = c.getresponse()
        data = r.read()
        total += len(data)
        file = os.path.join(ROOT, name or "web/index.html")
        same = gzip.decompress(data) == open(file, "rb").read()
        policy = r.headers["Content-Security-Policy"] or ""
        ok("/%s" % name, r.status == 200 and same and r.headers["Vary"] == "Accept-Encoding" and "'unsafe" not in policy
           and "default-src 'none'" in policy and r.headers["X-Content-Type-Options"] == "nosniff", str(r.headers))
        c.request("GET", "/" + name, headers={"Accept-Encoding": "gzip", "If-None-Match": r.headers["ETag"]})
        r = c.getresponse()
        ok("/%s unchanged" % name, r.status == 304 and not r.read())
        c.close()
    ok("all of the page is under 100 KB", total < 100000, "%d bytes" % total)
    print("the page: %d bytes on the wire" % total)


def chat(p):
    p.open()
    ok("a greeting", until(lambda: "What would you like" in p.text(".empty")), p.text("main"))
    paint = p.js("return performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? -1")
    print("first contentful paint after %.0f ms" % paint)
    if not chats:
        skipped("chat in the page", "the default model is not here")
        return
    p.ask("What is a kitten?")
    ok("an answer streams", until(lambda: p.all(".answer.busy") and len(p.text(".answer .markdown")) > 10, 60), p.text("main"))
    ok("and ends", p.answered() and len(p.text(".answer .markdown")) > 20, p.text("main"))
    facts = p.text(".answer .facts")
    ok("it says its level and speed", re.search(r"\b(fp16|int8|int4|int2)\b", facts) and "tokens/s" in facts
       and "first after" in facts, facts)
    ok("the address is the conversation's", re.search(r"#/chat/\w+", p.b.current_url), p.b.current_url)
    said = p.text(".answer .markdown")
    p.b.refresh()
    ok("history survives a reload", until(lambda: p.text(".answer .markdown") == said) and "What is a kitten?" in p.text(".said"))
    p.click('.answer [aria-label="Answer again"]')
    ok("retry: another answer", until(lambda: p.all(".answer.busy")) and p.answered() and len(p.all(".answer")) == 1)
    again(p)
    stop(p)
    edit(p)
    keep(p)


def again(p):
    p.click(".new")
    ok("a new conversation is empty", until(lambda: not p.all(".message")) and p.text(".empty h2"))
    p.ask("What is a kitten?")
    ok("the same question: the answer of before, and it says so", p.answered() and until(lambda: "cached" in p.text(".answer .facts")),
       p.text(".answer .facts"))
    ok("two conversations", len(p.all(".conversations li")) == 2)


def stop(p):
    p.click(".tune")
    box = p.one("#set-max_tokens")
    box.clear()
    box.send_keys("1500")
    p.click(".sheet [type=submit]")
    p.ask("Tell me a very long story about a forest.")
    last = "return [...document.querySelectorAll('.answer')].at(-1).innerText"
    until(lambda: len(p.all(".answer")) == 2 and len(p.js(last)) > 60, 60)
    squeeze_to(0.70)
    ok("a level that falls while it writes is seen", until(lambda: re.search(r"\u2192\s*int4", p.js(last))), p.js(last)[-200:])
    squeeze_to(0.20)
    p.click('[aria-label="Stop the answer"]')
    ok("stop", until(lambda: not p.all(".answer.busy"), 5) and "stopped" in p.js("return [...document.querySelectorAll('.facts')].at(-1).innerText"))


def edit(p):
    p.js("document.querySelector('.user .icon').click()")
    box = p.one(".edit")
    box.clear()
    box.send_keys("Name one colour.")
    box.send_keys(Keys.ENTER)
    ok("edit: asked anew from there", p.answered() and len(p.all(".answer")) == 1 and p.text(".said") == "Name one colour.")


def keep(p):
    """What is done to conversations: renamed, exported, deleted."""
    def tool(n):
        p.js("document.querySelectorAll('.conversations [aria-current] + .conversation-tools button')[arguments[0]].click()", n)
    tool(0)
    p.one(".rename").send_keys(Keys.CONTROL + "a")
    p.one(".rename").send_keys("All about <b>kittens</b>", Keys.ENTER)
    ok("renamed", until(lambda: "All about <b>kittens</b>" in p.text(".conversations")), p.text(".conversations"))
    p.b.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": path("")})
    tool(1)
    name = path("All about bkittensb.md")
    ok("exported", until(lambda: os.path.exists(name)) and "## You" in open(name).read(), str(os.listdir(path(""))))
    p.click(".new")
    p.js("document.querySelectorAll('.conversations li')[1].querySelectorAll('.conversation-tools button')[2].click()")
    p.b.switch_to.alert.accept()
    ok("deleted", until(lambda: len(p.all(".conversations li")) == 1))
    p.b.refresh()
    ok("for good", until(lambda: len(p.all(".conversations li")) == 1) and "kittens" in p.text(".conversations"))
    p.click(".conversation")


def themes(p):
    def background():
        return p.js("return getComputedStyle(document.body).backgroundColor")
    p.prefer("light")
    light = background()
    p.prefer("dark")
    dark = background()
    ok("the system's theme", light != dark)
    p.click("#theme")
    ok("a theme of one's own", background() == light and p.js("return document.documentElement.dataset.theme") == "light")
    p.b.refresh()
    ok("which is kept", background() == light)
    p.click("#theme")
    p.click("#theme")
    ok("and the system's again", background() == dark)


def hostile(p):
    """What is dangerous if anything here were markup: names, messages, history, errors, whatever a model may write."""
    p.open()
    until(lambda: p.all(".model option"))
    names = p.js("return [...document.querySelectorAll('.model option')].map(o => o.value)")
    ok("a model's name is text", HOSTILE_NAME in names, str(names))
    p.js("""const box = document.querySelector('.model');
            box.value = arguments[0];
            box.dispatchEvent(new Event('change'))""", HOSTILE_NAME)
    p.ask(HOSTILE + " [x](javascript:window.hurt=1)")
    ok("an error is as the server words it", until(lambda: p.all(".answer .error")) and HOSTILE in p.text(".answer .error p"), p.text("main"))
    ok("with a way to try again", p.one(".answer .error button").text == "Try again")
    ok("a message is text", p.text(".said").startswith(HOSTILE))
    wild = p.b.execute_async_script(WILD, HOSTILE)
    ok("the renderer makes nothing but its own elements (%d texts)" % wild["n"], not wild["bad"], str(wild["bad"]))
    ok("markdown: %s" % wild["seen"], wild["seen"] == "BLOCKQUOTE CODE EM H3 LI OL P PRE S STRONG TABLE TD TH UL A".split(), str(wild["seen"]))
    print("twelve long texts rendered in %.2f s" % wild["seconds"])
    ok("nothing was run, nothing was fetched", not p.js("return window.hurt") and not p.all("main img"))
    p.js("localStorage.removeItem('precis.settings')")


# Texts of random pieces through the page's own renderer: which elements and attributes come of it?
WILD = r"""
const [hostile, done] = arguments;
import("/web/markdown.js").then(({renderer}) => {
    const pieces = [hostile, "<script>hurt=1</script>", "[a](javascript:alert(1))", "[b](data:text/html,x)", "![c](http://x/y.png)",
        "[d](https://e.org 'f')", "<https://g.org>", "http://h.org/<b>", "`i`", "```\n", "~~~js\n", "**", "_", "*", "~~", "> ", "- ", "1. ",
        "| a | b |\n|---|:-:|\n| <i>c</i> | d |\n", "\n", "\n\n", "# ", "---\n", "\\", "&lt;", "<a href=x onclick=y>", "[[[", "]](", "\u202e", " "];
    const allowed = new Set("P BR HR H3 H4 H5 H6 UL OL LI BLOCKQUOTE DIV SPAN BUTTON PRE CODE TABLE THEAD TBODY TR TH TD STRONG EM S A svg path".split(" "));
    const bad = [];
    let n = 0, x = 7;
    const next = (k) => (x = (x * 1103515245 + 12345) % 2147483648) % k;
    const check = (text) => {
        const box = document.createElement("div");
        renderer(box)(text);
        n++;
        for (const el of box.querySelectorAll("*")) {
            const href = el.getAttribute("href");
            if (!allowed.has(el.tagName) || (href !== null && !/^https?:/.test(href)) || (href !== null && !/noopener/.test(el.rel)) ||
                [...el.attributes].some((a) => /^on|style|src/.test(a.name))) bad.push([text, el.outerHTML.slice(0, 200)]);
        }
        return box;
    };
    for (let i = 0; i < 3000 && bad.length < 3; i++) {
        let text = "";
        for (let j = next(14); j >= 0; j--) text += pieces[next(pieces.length)];
        check(text);
    }
    const all = check("# t\n\ntext *e* **s** ~~d~~ `c` [l](https://l.org)\n\n- a\n  - b\n\n1. c\n\n> q\n\n| h | i |\n|---|--:|\n| 1 | 2 |\n\n```js\nx < 1\n```\n");
    const seen = "BLOCKQUOTE CODE EM H3 LI OL P PRE S STRONG TABLE TD TH UL A".split(" ").filter((t) => all.querySelector(t));
    const began = performance.now();
    for (const t of ["*a ", "[", "[a", "`", "**a", "> ", "- ", "_a_", "[a](", "| ", "#", " "]) check(t.repeat(20000 / t.length));
    done({bad, n, seen, seconds: (performance.now() - began) / 1000});
}, (e) => done({bad: [String(e)], n: 0, seen: [], seconds: 0}));
"""


def dashboard(p, s):
    p.click('[data-view="dashboard"]')
    ok("the dashboard's script is loaded when it is opened", until(lambda: p.all(".figures .figure")) and p.js(
        "return performance.getEntriesByType('resource').some(e => e.name.endsWith('/web/ladder.js'))"))
    s.ask("POST", "/v1/completions", {"model": "tiny", "prompt": "Once", "max_tokens": 4})
    ok("the model is there", until(lambda: "tiny" in p.text(".models") and p.all(".step")), p.text("main"))
    ok("so is its load", until(lambda: "loaded at" in p.text(".changes")), p.text(".changes"))
    status = s.get("/api/v1/dashboard")
    top = next(m for m in status["models"] if m["name"] == "tiny")["level"]
    ok("its level", p.text(".level.big").strip() == top, p.text(".level.big"))
    apart = p.js("const t = [...document.querySelectorAll('svg text.tick')].filter(e => /^\\.\\d+$/.test(e.textContent))"
                 ".map(e => e.getBoundingClientRect()).sort((a, b) => a.top - b.top);"
                 "return t.slice(1).map((b, i) => b.top - t[i].bottom)")
    ok("labels of the bands do not touch", len(apart) == 3 and min(apart) >= 0, str(apart))
    squeeze_to(0.70)
    fell = "%s \u2192 int" % top
    ok("a squeeze: the timeline shows the drop", until(lambda: fell in p.text(".change") and p.all(".mark .down")), p.text(".changes"))
    reason = p.text(".change p")
    ok("and its reason", "memory" in reason and "down" in reason, reason)
    low = p.text(".level.big").strip()
    ok("the model's level is the lower one", low != top and low in ("int4", "int2"), low)
    if chats:
        p.click('[data-view="chat"]')
        p.ask("Say hello.")
        last = "return [...document.querySelectorAll('.answer')].at(-1).innerText"
        ok("an answer at the lower level", p.answered() and until(lambda: low in p.js(last)), p.js(last))
        p.click('[data-view="dashboard"]')
    squeeze_to(0.20)
    raised = "\u2192 %s" % top  # a level at a time
    ok("the raise", until(lambda: raised in p.text(".change"), 30), p.text(".changes"))
    keyboard(p, raised)
    controls(p, s, top)


def keyboard(p, newest):
    p.js("document.querySelector('.ladder').focus()")
    p.keys(Keys.END)
    ok("by keyboard: the newest change", until(lambda: newest in p.text(".tip")) and newest in p.text("#status"), p.text(".tip"))
    p.keys(Keys.ARROW_LEFT)
    ok("the one before", until(lambda: p.text(".tip") and newest not in p.text(".tip")), p.text(".tip"))
    p.keys(Keys.ESCAPE)
    ok("none", until(lambda: p.all(".tip[hidden]")))
    p.keys("c")
    ok("c: the chat", until(lambda: p.all(".composer")))
    p.js("document.activeElement.blur()")
    p.keys("d")
    ok("d: the dashboard", until(lambda: p.all(".ladder")))
    p.keys("?")
    ok("?: the shortcuts", until(lambda: p.all("#help-dialog[open]")))
    p.keys(Keys.ESCAPE)


def controls(p, s, top):
    def tiny():
        return next(m for m in s.get("/api/v1/dashboard")["models"] if m["name"] == "tiny")
    p.click('[data-level="int4"]')
    ok("a level by hand", until(lambda: tiny()["by_hand"] == "int4" and tiny()["level"] == "int4")
       and until(lambda: p.all('[data-level="int4"][aria-pressed="true"]')), str(tiny()))
    p.click('[data-level="auto"]')
    ok("auto", until(lambda: tiny()["by_hand"] is None and tiny()["level"] == top, 20)
       and until(lambda: p.all('[data-level="auto"][aria-pressed="true"]')), str(tiny()))
    p.js("""const r = document.querySelector('.budget');
            r.value = (Number(r.min) + Number(r.max)) / 2;
            r.dispatchEvent(new Event('input'));
            r.dispatchEvent(new Event('change'))""")
    ok("a budget", until(lambda: tiny()["weights_budget"] and tiny()["weight_bytes"] <= tiny()["weights_budget"])
       and until(lambda: "at most" in p.text(".budget-out")), str(tiny()))
    p.click('[data-level="auto"]')
    until(lambda: tiny()["weights_budget"] is None and tiny()["level"] == top, 20)
    p.click(".card .button[type=button]")
    ok("caches are cleared", until(lambda: "prefixes dropped" in p.text("#toasts"), 20), p.text("#toasts"))
    ok("which closes idle models: said so", until(lambda: "closed" in p.text(".changes") and "None is in memory" in p.text("main")),
       p.text(".changes"))
    s.ask("POST", "/v1/completions", {"model": "tiny", "prompt": "Once", "max_tokens": 4})
    until(lambda: p.all(".level.big"))


def looks(p):
    """Both views, both themes: axe, and pictures for people."""
    for view in ("chat", "dashboard"):
        p.click('[data-view="%s"]' % view)
        until(lambda: not p.all("main[aria-busy], .dashboard[aria-busy]"))
        for scheme in ("light", "dark"):
            p.prefer(scheme)
            found = p.findings()
            ok("axe: the %s, %s" % (view, scheme), found == [], str(found))
            for width, height in ((360, 780), (1280, 800), (2560, 1440)):
                p.size(width, height)
                wide = p.js("return document.documentElement.scrollWidth - innerWidth")
                ok("the %s fits %d pixels, %s" % (view, width, scheme), wide <= 0, "%d too many" % wide)
                time.sleep(0.3 if SHOTS else 0)
                p.shoot("%s-%d-%s" % (view, width, scheme))
            p.size(1280, 800)


def dialogs(p):
    """Parameters, key and shortcuts: labels and contrast, a key that closes them, and focus that comes back."""
    p.click('[data-view="chat"]')
    for name, opener, dialog in (("parameters", ".tune", ".sheet"), ("key", "#key", "#key-dialog"), ("shortcuts", "#help", "#help-dialog")):
        for scheme in ("light", "dark"):
            p.prefer(scheme)
            p.click(opener)
            until(lambda: p.all(dialog + "[open]"))
            found = p.findings()
            ok("axe: the %s, %s" % (name, scheme), found == [], str(found))
            p.shoot("%s-%s" % (name, scheme))
            p.keys(Keys.ESCAPE)
            ok("Esc closes the %s, %s" % (name, scheme), until(lambda: not p.all(dialog + "[open]"))
               and p.js("return document.activeElement === document.querySelector(arguments[0])", opener))
    p.size(360, 780)
    p.click("#menu")
    ok("the list of conversations on a phone", until(lambda: p.js(
        "return document.querySelector('.side').getBoundingClientRect().left >= 0 && document.activeElement.closest('.side') !== null")))
    ok("axe: the list", p.findings() == [], str(p.findings()))
    p.keys(Keys.ESCAPE)
    ok("Esc closes the list", until(lambda: not p.all("body.drawer")))
    p.size(1280, 800)


def keyed(p):
    """A server that asks for a key: the page is open, all else waits for it."""
    keys = write("keys", ("me %s\n" % hashlib.sha256(b"open sesame".replace(b" ", b"-")).hexdigest()).encode())
    s = Server("--keys", keys, "--serial", key="open-sesame")
    try:
        p.url = s.url
        p.open()
        ok("it asks for the key", until(lambda: p.all("#key-dialog[open]")))
        p.one("#key-input").send_keys("wrong", Keys.ENTER)
        ok("a wrong one: it says so and asks again", until(lambda: p.all("#key-dialog[open]") and p.text("#key-error")))
        p.js("document.querySelector('#key-input').value = ''")
        p.one("#key-input").send_keys("open-sesame", Keys.ENTER)
        ok("the right one opens", until(lambda: "What would you like" in p.text(".empty")), p.text("main"))
        p.b.refresh()
        ok("it is kept for the tab", until(lambda: "What would you like" in p.text(".empty")) and not p.all("#key-dialog[open]"))
        if chats:
            busy = s.begin("POST", "/v1/completions", {"model": "tiny", "prompt": "Once", "max_tokens": 1900, "stream": True,
                                                       "logit_bias": {"0": -100, "2": -100}})  # no end of its own
            busy.readline()
            p.ask("Are you there?")
            ok("who waits sees the place in the queue", until(lambda: "number 1 in the queue" in p.text(".answer .meta")),
               p.text(".answer"))
            busy.connection.sock.shutdown(socket.SHUT_RDWR)
            busy.close()
            ok("and then the answer", p.answered() and p.text(".answer .markdown"), p.text(".answer"))
        p.click('[data-view="dashboard"]')
        ok("the dashboard has it, too", until(lambda: p.all(".figures .figure")))
        for path_, status in (("/", 200), ("/web/page.js", 200), ("/health", 200), ("/api/v1/dashboard", 401), ("/v1/models", 401)):
            c = http.client.HTTPConnection("127.0.0.1", s.port)
            c.request("GET", path_)
            ok("%s without a key: %d" % (path_, status), c.getresponse().status == status)
            c.close()
    finally:
        s.stop()


def gone(p, s):
    """The server ends while the dashboard is open."""
    p.click('[data-view="dashboard"]')
    until(lambda: p.all(".figures .figure"))
    s.stop()
    ok("a server that has gone: said so", until(lambda: "cannot be reached" in p.text(".dashboard-error"), 20), p.text("main"))


with open(os.path.join(MODELS, HOSTILE_NAME + ".gguf"), "wb") as f:
    f.write(b"GGUF, but not really")
s = Server("--memory-source", memory, "--memory", "400M", "--dwell", "1")
page = None
try:
    files_as_served(s)
    page = Page(s.url)
    chat(page)
    themes(page)
    dashboard(page, s)
    looks(page)
    dialogs(page)
    bad = page.complaints()
    ok("nothing on the console", not bad, str(bad))
    hostile(page)
    gone(page, s)
    keyed(page)
    sad = [m for m in page.complaints() if "Failed to load resource" not in m]
    ok("nor after refusals", not sad, str(sad))
finally:
    if page:
        page.b.quit()
    s.stop()
finish()
