#!/usr/bin/env python3
"""A squeeze by a process that really eats memory, in a control group. test/slow/ballast.py does it to a large model."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lib import elastic_model, finish, path  # noqa: E402
from squeezing import really_squeeze  # noqa: E402

os.environ["XDG_RUNTIME_DIR"] = path("runtime")
elastic_model(os.environ["PRECIS_MODELS"], "s25")
really_squeeze("ballast", 300 << 20, (.20, .40, .55, .70))
finish()
