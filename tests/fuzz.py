"""python -m tests.fuzz [--cases 10000]: damaged files of every kind, by hypothesis; each gives a right result or one
clear error, never a hang, a crash, a gigabyte or a payload that runs.

Each kind runs in a process of its own. A case that fails is shrunk and kept in tests/fuzz_failures/, where the test
suite finds it and feeds it for ever.
"""

import argparse
import faulthandler
import hashlib
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
from fuzz_targets import TARGETS, TRACE, cleared  # noqa: E402

from fer_openset.errors import UserError  # noqa: E402

KEPT = ROOT / "tests" / "fuzz_failures"
HANG_SECONDS = 60
FAILED = 3  # exit code of a child that fed everything; any other but 0 is a crash, or the watchdog's
MOST_MIB = 1024  # by which a process may grow over all its cases
STARTS_SOMETHING = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect")
HOW = ("flip", "flip", "flip", "set", "set", "put", "word", "word", "cut", "double", "end", "part")
watching, started = [False], []


@st.composite
def damaged(draw, samples, words):
    """One of the samples after one to four changes: bytes set, cut, doubled, moved or put in, or another one's part."""
    data, random = bytearray(draw(st.sampled_from(samples))), draw(st.randoms(use_true_random=True))
    for _ in range(draw(st.integers(1, 3))):
        how = draw(st.sampled_from(HOW))
        # Where is left to plain chance: hypothesis likes the ends, and a file that is broken there is refused at once.
        at, length = random.randint(0, len(data)), random.randint(1, 8)
        if how == "flip" and at < len(data):
            data[at] ^= 1 << random.randrange(8)
        elif how == "set":
            data[at : at + length] = random.randbytes(length)
        elif how == "put":
            data[at:at] = random.randbytes(length)
        elif how == "word":
            data[at : at + random.choice((0, length))] = random.choice(words)
        elif how == "cut":
            del data[at : at + length]
        elif how == "double":
            data[at:at] = data[at : at + length] * random.randint(1, 3)
        elif how == "end":
            del data[at:]
        elif how == "part":
            other = random.choice(samples)
            data[at : at + length] = other[at : at + length * 4]
    return bytes(data)


def check(kind, data, folder):
    """Feed one case. Returns: "right" or "error". Raises: AssertionError or whatever the reader wrongly let through."""
    read = TARGETS[kind][2]
    watching[0] = True
    try:
        read(data, folder)
        verdict = "right"
    except UserError as error:
        message, verdict = str(error), "error"
        assert "\n" not in message and 10 < len(message) < 2000, f"no clear sentence: {message[:3000]!r}"
    finally:
        watching[0] = False
    assert not (Path(folder) / TRACE).exists() and not Path(TRACE).exists(), "a payload was run"
    assert not started, f"something was started: {started}"
    return verdict


def _watch(event, arguments):
    if watching[0] and event in STARTS_SOMETHING:
        started.append((event, repr(arguments)[:200]))


def run(kind, cases, number, folder, on_case=lambda data: None):
    """Feed `cases` cases of a kind, drawn from the seed `number`. Returns: {"right": n, "error": n}; raises the first
    failure, shrunk, with its bytes as the attribute `data`."""
    make, words, _ = TARGETS[kind]
    samples, verdicts, last = make(), {"right": 0, "error": 0}, [b""]
    for sample in samples:
        on_case(sample)
        if check(kind, sample, folder) != "right":
            raise SystemExit(f"{kind}: an honest sample is refused; mend the samples.")

    @seed(number)
    @settings(max_examples=cases, deadline=None, database=None, phases=[Phase.generate, Phase.shrink],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(damaged(samples, words))
    def feed(data):
        last[0] = data
        on_case(data)
        verdicts[check(kind, data, folder)] += 1
        cleared(folder)

    sys.addaudithook(_watch)
    try:
        feed()
    except Exception as failure:
        failure.data = last[0]
        raise
    return verdicts


def keep(kind, data):
    """Write a failing case where the test suite finds it. Returns: its path."""
    KEPT.mkdir(exist_ok=True)
    path = KEPT / f"{kind.replace(' ', '_')}-{hashlib.sha256(data).hexdigest()[:12]}.bin"
    path.write_bytes(data)
    return path


def kept():
    """(kind, path) of every case that once failed."""
    return [(re.sub(r"-[0-9a-f]{12}$", "", path.stem).replace("_", " "), path) for path in sorted(KEPT.glob("*.bin"))]


def work(options):
    """What a child process does: the kinds one after the other, a line each. Exit 0, or FAILED if one did not hold."""
    held = True
    warnings.filterwarnings("ignore", module=r"PIL\.")  # as in a build of the store
    faulthandler.enable()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        os.chdir(folder)
        for kind in options.kinds:
            held &= one_kind(kind, options, folder)
        os.chdir(ROOT)
    return 0 if held else FAILED


def one_kind(kind, options, folder):
    """Feed the cases of one kind and say how it went. Returns: whether it held."""

    def on_case(data):
        options.current.write_bytes(f"{kind}\n".encode() + data)  # what a crash leaves
        faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)

    check(kind, TARGETS[kind][0]()[0], folder)  # libraries are loaded before memory is counted
    began, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        verdicts = run(kind, options.cases, options.seed, folder, on_case)
    except Exception as failure:
        print(f"{kind:22} {type(failure).__name__}: {failure}; kept as {keep(kind, failure.data)}", flush=True)
        return False
    finally:
        faulthandler.cancel_dump_traceback_later()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"{kind:22} {verdicts['right']:6,} right, {verdicts['error']:6,} clear errors, memory +{grown:.0f} MiB, "
          f"{time.process_time() - began:.0f} s of CPU", flush=True)  # fmt: skip
    return grown <= MOST_MIB


def main(arguments=None):
    """Exit 0 when every kind held, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000, help="in all, shared by the kinds; default: 10,000")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other cases")
    parser.add_argument("--kinds", nargs="+", choices=TARGETS, default=list(TARGETS), help="only these kinds")
    parser.add_argument("--current", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.current:
        return work(options)
    began, held, left = time.monotonic(), True, list(options.kinds)
    each = -(-options.cases // len(left))
    with tempfile.TemporaryDirectory() as folder:
        current = Path(folder) / "case"
        while left:
            command = [sys.executable, "-m", "tests.fuzz", "--current", str(current), "--cases", str(each), "--seed",
                       str(options.seed), "--kinds", *left]  # fmt: skip
            code = subprocess.run(command, cwd=ROOT).returncode
            held &= code == 0
            if code in (0, FAILED) or not current.exists():
                break
            kind, _, data = current.read_bytes().partition(b"\n")
            kind = kind.decode()
            print(f"{kind:22} crash or hang (exit {code}); kept as {keep(kind, data)}", flush=True)
            left = left[left.index(kind) + 1 :]
    print(f"{each} cases of each of {len(options.kinds)} kinds, seed {options.seed}, {time.monotonic() - began:.0f} s: "
          f"{'all held' if held else 'NOT all held'}")  # fmt: skip
    return int(not held)


if __name__ == "__main__":
    sys.exit(main())
