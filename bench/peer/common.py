"""What the benchmarks share: the two sides, their environments, measuring in turns, Markdown.

compare.py, quality.py, levels.py and server.py import it; it is no program.
"""

import json
import os
import platform
import resource
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
RUNNER = os.path.join(ROOT, "bench", "peer", "llama_runner.py")
PEERS = {"llama.cpp": ("llama-cpp-python", "llama_cpp"), "ik_llama.cpp": ("ik-llama-cpp-python", "ik_llama_cpp")}


def say(text):
    print(text, file=sys.stderr, flush=True)


def run_json(command):
    """The JSON object that a command prints on its last line of stdout."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr.strip()[-2000:]}")
    text = done.stdout.strip()
    return json.loads(text[text.index("{"):])


# ---- the two sides ---------------------------------------------------------------------------------------------------


class Precis:
    name = "precis"

    def __init__(self, args):
        self.args = args

    def version(self):
        return subprocess.run([self.args.precis, "--version"], stdout=subprocess.PIPE, text=True).stdout.strip()

    def command(self, model):
        return [self.args.precis, "bench", model]

    def bench(self, model, prompt, generate):
        return run_json([*self.command(model), "-t", str(self.args.threads), "-p", str(prompt), "-n", str(generate),
                         "-r", "1", "--json"])

    def measure(self, model, prompt, generate):
        got = self.bench(model, prompt, generate)
        return {"prefill": got["prefill_tokens_per_second"], "decode": got["decode_tokens_per_second"]}


class Peer:
    def __init__(self, args, name, python, flash):
        self.args, self.python, self.flash, self.module = args, python, flash, PEERS[name][1]
        self.name = f"{name}{' flash' if flash else ''}"

    def command(self, *rest):
        return [self.python, RUNNER, "--module", self.module, "-t", str(self.args.threads), *rest]

    def about(self):
        return run_json(self.command())

    def measure(self, model, prompt, generate):
        return run_json(self.command(model, "-p", str(prompt), "-n", str(generate), *(["--flash"] if self.flash else [])))


def peer_python(args, name):
    """A Python that has the peer's binding, built natively when there is none yet."""
    if args.peer_python:
        return args.peer_python
    package, module = PEERS[name]
    python = os.path.join(args.work, "venv-" + module, "bin", "python")
    if os.path.exists(python) and subprocess.run([python, RUNNER, "--module", module], stdout=subprocess.DEVNULL,
                                                 stderr=subprocess.DEVNULL).returncode == 0:
        return python
    say(f"building {package} for this processor; this takes minutes")
    env = dict(os.environ, CMAKE_ARGS="-DGGML_NATIVE=ON", CMAKE_BUILD_PARALLEL_LEVEL=str(os.cpu_count()))

    def must(*command):
        if subprocess.run(command, env=env, stdout=sys.stderr).returncode != 0:
            raise SystemExit(f"{package} could not be built: see above; measure without {name}")

    must(sys.executable, "-m", "venv", os.path.dirname(os.path.dirname(python)))
    with tempfile.TemporaryDirectory() as folder:
        must(python, "-m", "pip", "install", "--quiet", "scikit-build-core")
        must(python, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation", "--no-binary", package, "-d", folder,
             package)
        (archive,) = os.listdir(folder)
        shutil.unpack_archive(os.path.join(folder, archive), folder)
        source = os.path.join(folder, archive.removesuffix(".tar.gz"))
        mend(source)
        must(python, "-m", "pip", "install", "--quiet", source)
    return python


def mend(source):
    """ik-llama-cpp-python 0.1.5 lacks a script that its build runs, which says who built it."""
    folder = os.path.join(source, "vendor", "ik_llama.cpp", "common")
    script = os.path.join(folder, "cmake", "build-info-gen-cpp.cmake")
    if os.path.isdir(folder) and not os.path.exists(script):
        os.makedirs(os.path.dirname(script), exist_ok=True)
        with open(script, "w") as f:
            f.write("set(BUILD_NUMBER 0)\nforeach(name COMMIT COMPILER TARGET)\n  set(BUILD_${name} unknown)\nendforeach()\n"
                    "configure_file(common/build-info.cpp.in common/build-info.cpp @ONLY)\n")


# ---- measuring -------------------------------------------------------------------------------------------------------


DISTURBED = 0.1  # processors that others may use during a measurement


def busy_seconds(pids=()):
    """CPU seconds that all processors spent on anything so far (with what the host took), and those of our children: the
    ended ones, and those of pids that still run."""
    tick = os.sysconf("SC_CLK_TCK")
    with open("/proc/stat") as f:
        user, nice, system, _, _, irq, softirq, steal = (int(x) for x in f.readline().split()[1:9])
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    running = 0
    for pid in pids:
        with open(f"/proc/{pid}/stat") as f:
            running += sum(int(x) for x in f.read().rpartition(")")[2].split()[11:13])
    return (user + nice + system + irq + softirq + steal) / tick, children.ru_utime + children.ru_stime + running / tick


def undisturbed(measure, retries, pids=()):
    """measure()'s result, and how many processors others used meanwhile."""
    for attempt in range(retries + 1):
        all_before, own_before = busy_seconds(pids)
        start = time.monotonic()
        result = measure()
        wall = time.monotonic() - start
        all_after, own_after = busy_seconds(pids)
        others = max(0.0, (all_after - all_before) - (own_after - own_before)) / wall
        if others <= DISTURBED:
            break
        say(f"    others used {others:.2f} processors" + (": again" if attempt < retries else ""))
        if attempt < retries:
            time.sleep(10)
    return result, others


class Spinner:
    """A neighbour that wants a whole processor."""

    def __enter__(self):
        self.process = subprocess.Popen([sys.executable, "-c", "while True: pass"])

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


def take_turns(sides, model, rounds, prompt, generate, retries=0):
    """{side: {"prefill": [...], "decode": [...], "others": [...]}}; a prompt of 0 tokens leaves prefill out."""
    out = {side.name: {} for side in sides}
    for r in range(rounds):
        for side in sides:
            result, others = undisturbed(lambda side=side: side.measure(model, prompt, generate), retries)
            numbers = {k: result[k] for k in (("prefill", "decode") if prompt else ("decode",))}
            say(f"  round {r + 1} {side.name:20s} " + "  ".join(f"{k} {v:.1f}" for k, v in sorted(numbers.items())))
            for k, v in numbers.items():
                out[side.name].setdefault(k, []).append(v)
            out[side.name].setdefault("others", []).append(others)
    return out


def cell(values):
    digits = 0 if statistics.median(values) >= 100 else 1
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def ratio(a, b):
    return f"{statistics.median(a) / statistics.median(b):.2f}x"


# ---- the report ------------------------------------------------------------------------------------------------------


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def machine():
    cpu, count = {}, 0
    with open("/proc/cpuinfo") as f:
        for line in f:
            key, _, value = line.partition(":")
            count += key.strip() == "processor"
            cpu.setdefault(key.strip(), value.strip())
    with open("/proc/meminfo") as f:
        ram = int(f.readline().split()[1]) / 1e6
    flags = [x for x in ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8") if x in cpu.get("flags", "").split()]
    return (f"{cpu.get('model name', platform.processor())} (family {cpu.get('cpu family', '?')}, model {cpu.get('model', '?')}; "
            f"{' '.join(flags)}), {count} processors ({len(os.sched_getaffinity(0))} allowed), {ram:.0f} GB RAM, "
            f"{platform.system()} {platform.release()}")


# ---- files -----------------------------------------------------------------------------------------------------------


def gguf_tensor_bytes(path):
    """{name: bytes} of a GGUF file's tensors, each with the padding up to the next."""
    fixed = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes of a value, by type; 8 text, 9 array
    with open(path, "rb") as f:
        def number(form):
            return struct.unpack("<" + form, f.read(struct.calcsize(form)))[0]

        def text():
            return f.read(number("Q")).decode()

        def value(kind):
            if kind == 8:
                return text()
            if kind == 9:
                kind, count = number("I"), number("Q")
                return [value(kind) for _ in range(count)] if kind in (8, 9) else f.seek(fixed[kind] * count, 1)
            return int.from_bytes(f.read(fixed[kind]), "little")

        if f.read(4) != b"GGUF":
            raise SystemExit(f"{path}: not a GGUF file")
        number("I")
        n_tensors, n_values, alignment, offsets = number("Q"), number("Q"), 32, {}
        for _ in range(n_values):
            key, found = text(), value(number("I"))
            alignment = found if key == "general.alignment" else alignment
        for _ in range(n_tensors):
            name = text()
            f.seek(8 * number("I") + 4, 1)
            offsets[name] = number("Q")
        start = -(-f.tell() // alignment) * alignment
    order = sorted(offsets, key=offsets.get)
    ends = [offsets[name] for name in order[1:]] + [os.path.getsize(path) - start]
    return {name: end - offsets[name] for name, end in zip(order, ends)}


def gguf_bytes_read(path):
    """Weights that one decode step reads: all, less the table of embeddings where the output has its own."""
    sizes = gguf_tensor_bytes(path)
    return sum(sizes.values()) - (sizes.get("token_embd.weight", 0) if "output.weight" in sizes else 0)
