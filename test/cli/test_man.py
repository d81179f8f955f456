#!/usr/bin/env python3
"""The manual pages: rendered without a warning, and true of the settings. test_flags.py holds flags against precis(1)."""

import os
import re
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lib import ROOT, finish, ok, precis, skipped  # noqa: E402

PAGES = [os.path.join(ROOT, "docs", name) for name in ("precis.1", "precis.conf.5")]

for page in PAGES:
    name = os.path.basename(page)
    for tool, command in (("mandoc", ["mandoc", "-Tlint", "-W", "warning", page]),
                          ("groff", ["groff", "-man", "-ww", "-K", "utf8", "-Tutf8", "-z", page])):
        if not shutil.which(tool):
            skipped("%s with %s" % (name, tool), "it is not installed")
            continue
        r = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        ok("%s has no warning of %s" % (name, tool), r.returncode == 0 and not r.stdout, r.stdout)

# ---- settings: every one, with its flag and default ----
page = open(PAGES[1]).read().replace("\\-", "-").replace("\\fB", "").replace("\\fR", "")
source = open(os.path.join(ROOT, "src/governor/settings.c")).read()
rows = re.findall(r'\{"([A-Z_]+)", "([a-z-]+)", KIND_\w+, AT\(\w+\), [^"]*"([^"]*)"', source)
told = {n: (f, d or "") for n, f, d in re.findall(r"^\.B ([A-Z_]+)\n.*; --([a-z-]+)(?:; default (\S+))?\)\.$", page, re.M)}
wanted = {n: (f, d) for n, f, d in rows if n != "PRECIS_CONFIG"}
ok("precis.conf(5) has every setting, its flag and its default", len(rows) > 20 and told == wanted,
   "%s" % sorted(set(told.items()) ^ set(wanted.items())))

# ---- commands: each has a part of its own ----
page = open(PAGES[0]).read()
for command in re.findall(r"^  ([a-z]+) ", precis("--help").out, re.M):
    ok("precis(1) tells of %s" % command, "\n.SH PRECIS %s\n" % command.upper() in page and "\\fBprecis %s" % command in page)
finish()
