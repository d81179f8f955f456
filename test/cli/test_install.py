#!/usr/bin/env python3
"""make install and uninstall, and the unit that comes with it."""

import os
import re
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lib import PRECIS, ROOT, finish, ok, path, skipped  # noqa: E402

EXPECTED = """
    /etc/precis/precis.conf
    {prefix}/bin/precis
    {prefix}/include/precis.h
    {prefix}/lib/libprecis.a
    {prefix}/lib/pkgconfig/precis.pc
    {prefix}/lib/systemd/system/precis.service
    {prefix}/lib/sysusers.d/precis.conf
    {prefix}/lib/tmpfiles.d/precis.conf
    {prefix}/share/bash-completion/completions/precis
    {prefix}/share/fish/vendor_completions.d/precis.fish
    {prefix}/share/zsh/{zsh}/_precis
    {prefix}/share/doc/precis/LICENSE
    {prefix}/share/doc/precis/README.md
    {prefix}/share/doc/precis/docs/API.md
    {prefix}/share/doc/precis/docs/ELASTIC.md
    {prefix}/share/doc/precis/docs/GOVERNOR.md
    {prefix}/share/doc/precis/docs/OPERATIONS.md
    {prefix}/share/doc/precis/docs/METRICS.md
    {prefix}/share/man/man1/precis.1
    {prefix}/share/man/man5/precis.conf.5
    {prefix}/share/precis/grafana/precis.json
    {prefix}/share/precis/prometheus/precis.rules.yml
    {prefix}/share/precis/validate
"""


def make(target, root, *more):
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(["make", "-s", "-C", ROOT, target, "DESTDIR=" + root, *more], env=env, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True)


def files(root):
    return {"/" + os.path.relpath(os.path.join(folder, name), root) for folder, _, names in os.walk(root) for name in names}


def folders(root):
    return [d for _, names, _ in os.walk(root) for d in names if "precis" in d]


build = os.path.basename(os.path.dirname(PRECIS))
if build != "release":  # nobody installs a sanitized build
    skipped("installing", "build/%s" % build)
    finish()

for prefix, zsh in (("/usr/local", "site-functions"), ("/usr", "vendor-completions")):
    root = path("root" + prefix.replace("/", "-"))
    r = make("install", root, "PREFIX=" + prefix)
    got, wanted = files(root), set(EXPECTED.format(prefix=prefix, zsh=zsh).split())
    ok("install puts what it says under %s" % prefix, r.returncode == 0 and got == wanted,
       "%s %s %s" % (r.stdout, sorted(got - wanted), sorted(wanted - got)))
    r = subprocess.run([root + prefix + "/bin/precis", "--version"], stdout=subprocess.PIPE, text=True)
    ok("the program runs", r.returncode == 0 and r.stdout.startswith("precis "))
    unit = open(root + prefix + "/lib/systemd/system/precis.service").read()
    ok("the unit knows its places", "ExecStart=%s/bin/precis serve --config /etc/precis/precis.conf\n" % prefix in unit
       and "@" not in unit.replace("@system-service", "").replace("@privileged", ""))
    r = make("uninstall", root, "PREFIX=" + prefix)
    ok("uninstall leaves nothing", r.returncode == 0 and not files(root) and not folders(root), str(files(root)))

# ---- the configuration file is the operator's ----
make("install", root, "PREFIX=/usr")
conf = root + "/etc/precis/precis.conf"
with open(conf, "a") as f:
    f.write("PRECIS_PORT = 8123\n")
make("install", root, "PREFIX=/usr")
ok("a changed configuration is left as it is", "PRECIS_PORT = 8123\n" in open(conf).read())
r = make("uninstall", root, "PREFIX=/usr")
ok("and is not removed", files(root) == {"/etc/precis/precis.conf"} and "stays" in r.stdout, r.stdout)

# ---- the library can be used ----
root = path("root-library")
make("install-library", root, "PREFIX=/usr")
program = path("use.c")
with open(program, "w") as f:
    f.write('#include <precis.h>\n#include <stdio.h>\nint main(void) { pr_err e = {0}; puts(PRECIS_VERSION);\n'
            'pr_engine *m; return pr_engine_open("/nowhere", NULL, &m, &e) == PR_OK; }\n')
env = dict(os.environ, PKG_CONFIG_PATH=root + "/usr/lib/pkgconfig", PKG_CONFIG_SYSROOT_DIR=root)
flags = subprocess.run(["pkg-config", "--cflags", "--libs", "precis"], env=env, stdout=subprocess.PIPE, text=True)
r = subprocess.run(["gcc", program, "-o", path("use"), "-I" + root + "/usr/include", "-L" + root + "/usr/lib",
                    *[w for w in flags.stdout.split() if not w.startswith(("-I" + root, "-L" + root))]],
                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
ok("a program is made with pkg-config", flags.returncode == 0 and r.returncode == 0
   and subprocess.run([path("use")], stdout=subprocess.PIPE).returncode == 0, flags.stdout + r.stdout)

# ---- the unit ----
if shutil.which("systemd-analyze"):
    unit = path("precis.service")
    text = open(os.path.join(ROOT, "build/release/install/precis.service")).read()
    with open(unit, "w") as f:
        f.write(text.replace("/usr/bin/precis", PRECIS))
    r = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                       text=True)
    ours = [l for l in r.stdout.splitlines() if "precis" in l]
    ok("systemd takes the unit", not ours, r.stdout)
    r = subprocess.run(["systemd-analyze", "security", "--offline=true", "--threshold=20", unit], stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, text=True)
    ok("its exposure is below 2", r.returncode == 0 and "Overall exposure" in r.stdout, r.stdout[-400:])
else:
    skipped("the unit", "no systemd-analyze")

# ---- the configuration file is right, and shows the defaults ----
lines = open(os.path.join(ROOT, "packaging/precis.conf")).read().splitlines()
shown = [l.lstrip("#") for l in lines if l.startswith("#") and l[1:2].isupper()]
with open(path("all.conf"), "w") as f:
    f.write("\n".join(l for l in shown if not l.endswith("=") and "KEYS_FILE" not in l))
source = open(os.path.join(ROOT, "src/governor/settings.c")).read()
rows = re.findall(r'\{"([A-Z_]+)", "[a-z-]+", KIND_\w+, AT\(\w+\), [^"]*"([^"]*)"', source)
names = {name for name, _ in rows} - {"PRECIS_CONFIG"}
told = {l.split("=")[0].strip(): l.split("=", 1)[1].strip() for l in shown}
ok("every setting is in packaging/precis.conf", len(rows) > 20 and names == set(told) | {"PRECIS_MODELS"},
   str(names ^ (set(told) | {"PRECIS_MODELS"})))
wrong = [n for n, d in rows if n in told and d != told[n] and n != "PRECIS_API_KEYS_FILE"]
ok("with its default", not wrong, str(wrong))
finish()
