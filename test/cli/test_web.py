#!/usr/bin/env python3
"""The web page in a real browser: headless Chromium, driven by selenium from PyPI (build/venv-web), judged by axe.

SKIPPED where Chromium or the packages cannot be had. What needs a chat template is SKIPPED without the default model.
With PRECIS_WEB_SHOTS=FOLDER it leaves screenshots there.
"""

import gzip
import os
import re
import shutil
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
os.environ["XDG_RUNTIME_DIR"] = path("runtime")
MODELS = os.environ["PRECIS_MODELS"]
os.makedirs(MODELS)

# ---- models: the default one where there is one, else the tiny one; packed, so that levels move ----
given = os.environ.get("PRECIS_TEST_MODEL", "")
chats = os.path.isfile(given)
source = given if chats else small_model()
model = os.path.join(MODELS, "tiny.gguf")
shutil.copy(source, model)
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
        """What axe finds that is serious or critical."""
        self.js("if (!window.axe) { %s }" % AXE)
        found = self.b.execute_async_script("axe.run(document, {resultTypes: ['violations']}).then(arguments[0])")
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
    stop(p)
    edit(p)


def stop(p):
    p.click(".tune")
    box = p.one("#set-max_tokens")
    box.clear()
    box.send_keys("1500")
    p.click(".sheet [type=submit]")
    p.ask("Tell me a very long story about a forest.")
    until(lambda: len(p.all(".answer")) == 2 and len(p.js("return document.querySelectorAll('.answer .markdown')[1].innerText")) > 20, 60)
    p.click('[aria-label="Stop the answer"]')
    ok("stop", until(lambda: not p.all(".answer.busy"), 5) and "stopped" in p.js("return [...document.querySelectorAll('.facts')].at(-1).innerText"))


def edit(p):
    p.js("document.querySelector('.user .icon').click()")
    box = p.one(".edit")
    box.clear()
    box.send_keys("Name one colour.")
    box.send_keys(Keys.ENTER)
    ok("edit: asked anew from there", p.answered() and len(p.all(".answer")) == 1 and p.text(".said") == "Name one colour.")


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


s = Server("--memory-source", memory, "--memory", "400M", "--dwell", "1")
page = None
try:
    files_as_served(s)
    page = Page(s.url)
    chat(page)
    themes(page)
    for scheme in ("light", "dark"):
        page.prefer(scheme)
        ok("axe: the chat, %s" % scheme, page.findings() == [], str(page.findings()))
        page.shoot("chat-" + scheme)
    bad = page.complaints()
    ok("nothing on the console", not bad, str(bad))
finally:
    if page:
        page.b.quit()
    s.stop()
finish()
