#!/usr/bin/env python3
"""test/cli/test_http_mixed.py against builds with sanitizers, where those are there (./check makes them): leaks and races under
random and malformed load. Another seed each time."""

import os
import random
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SCRIPT = os.path.join(ROOT, "test/cli/test_http_mixed.py")
failed = False
for mode, requests in (("asan", 500), ("tsan", 100)):  # the thread sanitizer slows a model down a hundredfold
    program = os.path.join(ROOT, "build", mode, "precis")
    if subprocess.run(["make", "-s", "-C", ROOT, "MODE=" + mode, "build/%s/precis" % mode]).returncode != 0:
        print("not ok build %s" % mode)
        failed = True
        continue
    seed = str(random.randrange(1 << 20))
    print("seed %s" % seed, flush=True)
    env = dict(os.environ, PRECIS=program, PRECIS_MIXED_SEED=seed, PRECIS_MIXED_REQUESTS=str(requests))
    failed |= subprocess.run([sys.executable, SCRIPT], env=env).returncode != 0
sys.exit(failed)
