#!/usr/bin/env python3
"""The interactive chat, driven through a pseudo-terminal."""

import os
import re
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lib import Terminal, big_model, finish, ok, path  # noqa: E402

PROMPT = ">>> "
model = big_model()
BASE = ("run", model, "--template", "chatml", "--ignore-eos", "--seed", "1", "--temp", "0", "-t", "2",
        "--context", "1024")

# ---- answers, commands, leaving ----
t = Terminal(*BASE, "-n", "12")
ok("greets and prompts", t.wait_for(PROMPT) is not None, repr(t.seen))
t.line("/stats")
ok("/stats before anything", "0 of 1024 tokens" in (t.wait_for(PROMPT) or ""), repr(t.seen))
t.line("Hello there")
first = t.wait_for(PROMPT)
ok("answers", first is not None and "cut after 12 tokens" in first, repr(first))
t.line("And again")
ok("answers a second time", "cut after 12 tokens" in (t.wait_for(PROMPT) or ""), repr(t.seen))
t.line("/stats")
stats = t.wait_for(PROMPT) or ""
kept = re.search(r"(\d+) tokens of that prompt were held already", stats)
ok("only new text is fed", kept is not None and int(kept.group(1)) > 5, repr(stats))
t.line("/reset")
ok("/reset", "a new conversation" in (t.wait_for(PROMPT) or ""), repr(t.seen))
t.line("/stats")
ok("/reset empties the context", "\n0 of 1024 tokens" in (t.wait_for(PROMPT) or ""), repr(t.seen))
t.line("/system Be brief")
ok("/system", "system text set" in (t.wait_for(PROMPT) or ""), repr(t.seen))
t.line("/help")
ok("/help", "/reset" in (t.wait_for("Ctrl-C stops") or ""), repr(t.seen))
t.wait_for(PROMPT)
t.line("/frobnicate now")
ok("an unknown command says so", "unknown command /frobnicate" in (t.wait_for(PROMPT) or ""), repr(t.seen))
t.line("")
ok("an empty line is nothing", t.wait_for(PROMPT) is not None, repr(t.seen))
t.line("é ünïcode ☃")
ok("UTF-8 can be typed", "☃" in (t.wait_for(PROMPT) or ""), repr(t.seen))
t.send("\x04")
ok("Ctrl-D leaves", t.end() == 0)

# ---- history ----
t = Terminal(*BASE, "-n", "4")
t.wait_for(PROMPT)
t.send("\x1b[A\x1b[A")  # two up: the unknown command's successor is the last line
ok("history outlives the program", t.wait_for("/frobnicate now", 10) is not None, repr(t.seen))
t.send("\x15/exit\n")
ok("/exit leaves", t.end() == 0)
ok("history is private", os.stat(path("state/precis/history")).st_mode & 0o077 == 0)

# ---- Ctrl-C ----
t = Terminal(*BASE, "-n", "0")
t.wait_for(PROMPT)
t.line("Tell me a very long story")
t.wait_for("\n")
before = len(t.seen)
while len(t.seen) < before + 20 and t.read(30):
    pass
t.send("\x03")
stopped = t.wait_for(PROMPT, 60)
ok("Ctrl-C stops the answer", stopped is not None and "(stopped)" in stopped, repr(stopped))
t.line("/stats")
ok("and the chat goes on", "tokens of context used" in (t.wait_for(PROMPT) or ""), repr(t.seen))
t.send("half a line")
t.wait_for("half a line")
t.send("\x03")
line = t.wait_for(PROMPT, 20)
ok("Ctrl-C drops what was typed", line is not None and "leaves" not in line, repr(line))
t.send("\x03")
ok("Ctrl-C at the prompt says how to leave", "leaves" in (t.wait_for(PROMPT, 20) or ""), repr(t.seen))
t.send("\x03")
ok("the second one leaves", t.end() == 0)

# ---- a full context is told, and the chat goes on ----
t = Terminal("run", model, "--template", "chatml", "--ignore-eos", "-n", "4", "--context", "64")
t.wait_for(PROMPT)
t.line("word " * 100)
full = t.wait_for(PROMPT) or ""
ok("a conversation over the context says so", "the context holds 64" in full and "/reset" in full, repr(full))
t.line("Hi")
ok("and is not kept", "cut after 4 tokens" in (t.wait_for(PROMPT) or ""), repr(t.seen))
t.send("\x04")
ok("leaves", t.end() == 0)

t = Terminal("run", model, "--template", "chatml", "--ignore-eos", "--context", "64")
t.wait_for(PROMPT)
t.line("Hi")
ok("an answer that fills the context says so", "the context is full" in (t.wait_for(PROMPT) or ""), repr(t.seen))
t.send("\x04")
ok("leaves", t.end() == 0)

finish()
