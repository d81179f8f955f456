#!/usr/bin/env python3
"""Completion, in real shells where they are installed."""

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lib import PRECIS, fails, finish, ok, path, precis, skipped, write  # noqa: E402

for name in ("models/tiny-story.gguf", "models/two words.gguf", "here.txt"):
    write(name, b"GGUF")
os.chdir(path(""))
os.makedirs("bin")
os.symlink(PRECIS, "bin/precis")
os.environ["PATH"] = path("bin") + ":" + os.environ["PATH"]

fails("an unknown shell", precis("completion", "tcsh"), 2, "tcsh", "fish")
r = precis("completion", "models")
ok("the names of models", r.out.splitlines() == ["tiny-story", "two words"], str(r))
for shell in ("bash", "zsh", "fish"):
    r = precis("completion", shell)
    ok("a script for %s" % shell, r.code == 0 and not r.err and r.out.startswith("#"), str(r))
    with open("precis." + shell, "w") as f:
        f.write(r.out)

# What is typed, and what must and must not be offered then.
HELP = precis("--help").out
COMMANDS = re.findall(r"^  ([a-z]+) ", HELP, re.M)
CASES = (("precis ", set(COMMANDS) | {"help"}, {"tiny-story"}),
         ("precis se", {"serve"}, {"run"}),
         ("precis help pa", {"pack"}, {"run"}),
         ("precis run ti", {"tiny-story"}, {"here.txt"}),
         ("precis run --tem", {"--temp", "--template"}, {"--port"}),
         ("precis run tiny-story --lev", {"--level"}, set()),
         ("precis run --level i", {"int2", "int4", "int8"}, {"fp16"}),
         ("precis run --speculate ", {"auto", "off"}, {"N"}),
         ("precis serve --keys he", {"here.txt"}, {"tiny-story"}),
         ("precis eval x --text he", {"here.txt"}, set()),
         ("precis pull sm", {"smollm2"}, set()),
         ("precis completion ", {"bash", "zsh", "fish"}, {"run"}),
         ("precis doctor --js", {"--json"}, set()))


def every_flag_is_offered(shell, complete):
    for command in COMMANDS:
        wanted = set(re.findall(r"--[a-z][a-z0-9-]+", precis(command, "--help").out.split("\n\n", 2)[-1]))
        got = complete("precis %s --" % command)
        ok("%s offers every flag of %s" % (shell, command), wanted <= got, str(wanted - got))


def check(shell, complete):
    for typed, wanted, unwanted in CASES:
        got = complete(typed)
        ok("%s: %s" % (shell, typed), wanted <= got and not unwanted & got, "%s" % sorted(got))


# ---- bash ----
def bash(typed):
    words = typed.split(" ")
    script = "source ./precis.bash; COMP_WORDS=(%s); COMP_CWORD=%d; compopt() { :; }; _precis; printf '%%s\\n' \"${COMPREPLY[@]}\"" \
        % (" ".join("'%s'" % w for w in words), len(words) - 1)
    return set(subprocess.run(["bash", "--norc", "-c", script], stdout=subprocess.PIPE, text=True).stdout.split("\n"))


check("bash", bash)
every_flag_is_offered("bash", bash)
got = bash("precis run --level = in")  # as bash cuts --level=in
ok("bash: --level=in", {"int2", "int4", "int8"} <= got, str(got))
ok("bash: a name with a blank", "two words" in bash("precis run tw"), str(bash("precis run tw")))

# ---- fish ----
def fish(typed):
    r = subprocess.run(["fish", "--no-config", "-c", "source ./precis.fish; complete -C '%s'" % typed], stdout=subprocess.PIPE,
                       text=True)
    return {line.split("\t")[0] for line in r.stdout.splitlines()}


if shutil.which("fish"):
    check("fish", fish)
    every_flag_is_offered("fish", fish)
else:
    skipped("fish", "it is not installed")


# ---- zsh: it completes only where somebody types ----
class Zsh:
    def __init__(self):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ.update(TERM="dumb", PS1="", COLUMNS="300", LINES="500")
            os.execvp("zsh", ["zsh", "-f", "-i"])
        self.say("unsetopt zle_bracketed_paste 2>/dev/null; stty -echo cols 300 rows 500; fpath=($PWD/zfuncs $fpath)\n")
        # What would be offered is written down instead of shown.
        self.say("autoload -U compinit && compinit -u -D; source ./precis.zsh; compadd() { local -a w; "
                 "builtin compadd -O w \"$@\"; print -rl -- $w >> offered; builtin compadd \"$@\"; }\n")
        # Ends a line: nothing here may mean something to a terminal that is not in the line editor yet, as ^U does.
        self.say("ended() { BUFFER=; print -n do''ne > /dev/tty }; zle -N ended; bindkey '^Xe' ended\n")
        self.say("_files() { print -rl -- ${PREFIX}*(N) >> offered; }; print read''y\n")
        self.wait("ready")

    def say(self, text):
        os.write(self.fd, text.encode())

    def wait(self, text, seconds=60):
        seen, end = "", time.time() + seconds
        while text not in seen and time.time() < end:
            if select.select([self.fd], [], [], 0.2)[0]:
                seen += os.read(self.fd, 65536).decode("utf-8", "replace")
        return seen

    def complete(self, typed):
        if os.path.exists("offered"):
            os.remove("offered")
        self.say(typed + "\t\x18e")
        self.wait("done")
        said = open("offered").read().split("\n") if os.path.exists("offered") else []
        return {w.rstrip("=") for w in said if w}


if shutil.which("zsh"):
    z = Zsh()
    check("zsh", z.complete)
    every_flag_is_offered("zsh", z.complete)
    z.say("exit\n")
    os.close(z.fd)
    os.waitpid(z.pid, 0)
else:
    skipped("zsh", "it is not installed")
finish()
