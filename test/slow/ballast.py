#!/usr/bin/env python3
"""A server with a model of 1.1e9 parameters, and a process that eats the memory of its control group."""

import os
import shutil
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "test/cli"))
from lib import elastic_model, finish, path, skipped, work  # noqa: E402
from squeezing import really_squeeze  # noqa: E402

LIMIT = 5 << 30
os.environ["XDG_RUNTIME_DIR"] = path("runtime")
available = int(next(l for l in open("/proc/meminfo") if l.startswith("MemAvailable")).split()[1]) << 10
if available < LIMIT + (2 << 30):
    skipped("ballast", "%.1f GB of memory are too little" % (available / 1e9))
elif shutil.disk_usage(work).free < 6e9:
    skipped("ballast", "6 GB of disk are needed")
else:
    elastic_model(os.environ["PRECIS_MODELS"], "s1100", "1.1b")
    really_squeeze("ballast", LIMIT, (.15, .30, .45, .60, .70, .78))
finish()
