#!/usr/bin/env python3
"""test/cli/test_schemathesis.py for five minutes (PRECIS_SCHEMATHESIS_SECONDS), with another seed each time, in sequences of
requests too."""

import os
import random
import sys

os.environ.setdefault("PRECIS_SCHEMATHESIS_SECONDS", "300")
os.environ.setdefault("PRECIS_SCHEMATHESIS_SEED", str(random.randrange(1 << 30)))
print("seed %s" % os.environ["PRECIS_SCHEMATHESIS_SEED"], flush=True)
script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../cli/test_schemathesis.py")
os.execv(sys.executable, [sys.executable, script])
