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
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
from fuzz_targets import TARGETS, TRACE, cleared  # noqa: E402

from fer_openset.errors import UserError  # noqa: E402

KEPT = ROOT / "tests" / "fuzz_failures"
HANG_SECONDS = 60
MOST_MIB = 1024  # by which a process may grow over all its cases
STARTS_SOMETHING = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "subprocess.Popen",
    "socket.connect",
    "pty.spawn",
)
watching, started = [False], []


@st.composite
def damaged(draw, samples, words):
    """One of the samples after one to four changes: bytes set, cut, doubled, moved or put in, or another one's part."""
    data = bytearray(draw(st.sampled_from(samples)))
    for _ in range(draw(st.integers(1, 4))):
        at, length = draw(st.integers(0, len(data))), draw(st.integers(1, 12))
        how = draw(st.sampled_from("set put word cut double end part".split()))
        if how == "set":
            data[at : at + length] = draw(st.binary(min_size=1, max_size=length))
        elif how == "put":
            data[at:at] = draw(st.binary(min_size=1, max_size=length))
        elif how == "word":
            data[at : at + draw(st.sampled_from((0, length)))] = draw(st.sampled_from(words))
        elif how == "cut":
            del data[at : at + length]
        elif how == "double":
            data[at:at] = data[at : at + length] * draw(st.integers(1, 3))
        elif how == "end":
            del data[at:]
        else:
            other = draw(st.sampled_from(samples))
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
        assert check(kind, sample, folder) == "right", f"{kind}: the honest sample is refused"

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
    except BaseException as failure:
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


def one_kind(options):
    """The work of one child process: exit 0, or 1 with the failing case kept."""
    current = Path(options.current)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        os.chdir(folder)

        def on_case(data):
            current.write_bytes(data)  # what a crash leaves
            faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)

        faulthandler.enable()
        check(options.kind, TARGETS[options.kind][0]()[0], folder)  # libraries are loaded before memory is counted
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            verdicts = run(options.kind, options.cases, options.seed, folder, on_case)
        except BaseException as failure:
            print(f"{type(failure).__name__}: {failure}; kept as {keep(options.kind, failure.data)}", flush=True)
            return 1
        finally:
            faulthandler.cancel_dump_traceback_later()
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"{verdicts['right']:6,} right, {verdicts['error']:6,} clear errors, memory +{grown:.0f} MiB", flush=True)
    return int(grown > MOST_MIB)


def main(arguments=None):
    """Exit 0 when every kind held, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000, help="in all, shared by the kinds; default: 10,000")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other cases")
    parser.add_argument("--kind", choices=TARGETS, help="only this kind")
    parser.add_argument("--current", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.current:
        return one_kind(options)
    kinds = [options.kind] if options.kind else list(TARGETS)
    failed, began = [], time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for kind in kinds:
            current, start = Path(folder) / "case", time.monotonic()
            command = [sys.executable, "-m", "tests.fuzz", "--kind", kind, "--current", str(current),
                       "--cases", str(-(-options.cases // len(kinds))), "--seed", str(options.seed)]  # fmt: skip
            done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
            said = (
                done.stdout.strip()
                or f"crash or hang (exit {done.returncode}); kept as {keep(kind, current.read_bytes())}"
            )
            print(f"{kind:22} {said} ({time.monotonic() - start:.0f} s)", flush=True)
            failed += [kind] if done.returncode else []
    print(f"{len(kinds)} kinds, seed {options.seed}, {time.monotonic() - began:.0f} s: "
          f"{'failed: ' + ', '.join(failed) if failed else 'all held'}")  # fmt: skip
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
