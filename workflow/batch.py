"""Run a grid: python -m workflow.batch params/grids/NAME.yaml [--dry-run] [--resume] [--cores N].

What is done stays done: the same command after a kill or a failure runs only what is missing.
"""

import argparse
import fcntl
import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from fer_openset import atomic
from fer_openset.errors import UserError
from fer_openset.runs import load_record
from fer_openset.settings import ROOT, results_dir
from workflow.grid import check_overrides, load_grid
from workflow.orphans import die_with_parent

HERE = Path(__file__).resolve().parent


def state_file():
    """Who runs a batch here, and which grid was the last: also the file that a running batch holds locked."""
    return results_dir() / "runs" / ".batch.json"


@contextmanager
def only_batch(grid_file):
    """Hold the lock on this results folder; the system lets go of it however the process ends.

    Raises: UserError while another batch holds it.
    """
    path = state_file()
    atomic.need_writable(path)
    with open(path, "a+", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            raise UserError(
                f"another batch is running on {results_dir()} ({_who(handle.read())}); wait for it, or stop it first."
            ) from None
        handle.truncate(0)
        handle.write(json.dumps({"pid": os.getpid(), "grid": str(grid_file)}))
        handle.flush()
        yield


def _who(text):
    try:
        state = json.loads(text)
        return f"process {state['pid']}, {Path(state['grid']).name}"
    except (ValueError, KeyError):
        return "just started"


def last_grid():
    """The grid file of the last batch. Raises: UserError when there was none."""
    try:
        return Path(json.loads(state_file().read_text(encoding="utf-8"))["grid"])
    except (OSError, ValueError, KeyError):
        raise UserError(
            "there is no batch to resume here; name a grid: make batch GRID=params/grids/NAME.yaml."
        ) from None


def snakemake(grid_file, cores, *more):
    """The command line that runs one grid."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", HERE / "Snakefile", "--directory", results_dir()]
    command += ["--profile", HERE / "profiles" / "local", "--cores", cores, "--config", f"grid={grid_file}", *more]
    return [str(word) for word in command]


def start(command):
    """Run Snakemake to its end; Ctrl-C is left to it, so that it can put its jobs down. Returns its exit status."""
    process = subprocess.Popen(command, cwd=ROOT, preexec_fn=die_with_parent)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            print("stopping; the same command goes on from here", file=sys.stderr, flush=True)


def list_jobs(command):
    """Print what Snakemake would run, one job a line. Returns its exit status."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        print(done.stdout + done.stderr, file=sys.stderr)
        return 1
    table = done.stdout.partition("Job stats:")[2].partition("\n\n")[0].splitlines()
    jobs = [line.rsplit(maxsplit=1)[0] for line in table[3:] if line]  # below the head and its rule
    jobs = [job for job in jobs if job not in ("all", "total")]
    print(*(f"would run: {job}" for job in jobs), sep="\n", end="\n" if jobs else "")
    print(f"{len(jobs)} jobs to do" if jobs else "nothing to do: every run of this grid is done")
    return 0


def run(grid_file, cores, dry_run):
    """Run a grid and say how it went. Returns the exit status."""
    grid = load_grid(grid_file)
    check_overrides(grid)
    if dry_run:
        return list_jobs(snakemake(grid_file, cores, "--dry-run", "--quiet", "host", "reason", "rules"))
    began = time.monotonic()
    jobs = grid.jobs()
    records = [record for job in jobs for record in job.records]
    waiting = sum(not record.exists() for record in records)
    print(f"{grid.name}: {len(records)} runs, {waiting} of them to do, on {cores} cores", flush=True)
    with only_batch(grid_file):
        status = start(snakemake(grid_file, cores, "--quiet", "all"))
    if status:
        return _say_failures(jobs, status)
    _say_results(grid, jobs)
    print(f"{len(records)} of {len(records)} runs done ({time.monotonic() - began:.0f} s)")
    return 0


def _say_results(grid, jobs):
    import pandas as pd  # slow to import, and not needed to say that a name is wrong

    from fer_openset import report

    rows = pd.DataFrame([load_record(record.parent)["row"] for job in jobs if job.methods for record in job.records])
    print(f"\n{report.as_text(rows)}\n")
    print(f"HTML pages with all figures: {_short(grid.reports / 'index.html')}")
    for folder in sorted({job.notebook.parent for job in jobs}):
        print(f"executed notebooks: {_short(folder)}")


def _say_failures(jobs, status):
    missing = [job for job in jobs if not all(record.exists() for record in job.records)]
    failed = [job for job in missing if all(need.exists() for need in job.needs)]
    for job in failed:
        print(f"failed: {job.label}\n  its notebook: {_short(job.notebook)}", file=sys.stderr)
    if len(missing) > len(failed):
        print(f"not reached: {len(missing) - len(failed)} runs that need these", file=sys.stderr)
    from fer_openset import report  # what did finish belongs into the table all the same

    report.write_tables()
    names = ", ".join(job.label for job in failed) or f"the tables or the report (Snakemake's status {status})"
    records = [record.exists() for job in jobs for record in job.records]
    print(f"{sum(records)} of {len(records)} runs done; failed: {names}", file=sys.stderr)
    return 1


def _short(path):
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def usable_cores():
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def parse(arguments):
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m workflow.batch", description="Run every combination of a grid.")
    parser.add_argument("grid", nargs="?", help="params/grids/NAME.yaml")
    parser.add_argument("--dry-run", action="store_true", help="list what would run, run nothing")
    parser.add_argument("--resume", action="store_true", help="go on with the last grid (a named grid always goes on)")
    parser.add_argument("--cores", type=int, default=usable_cores(), help="cores to use; default: all")
    options = parser.parse_args(arguments)
    if not options.grid and not options.resume:
        parser.error("name a grid file, or --resume the last one")
    if options.cores < 1:
        parser.error("--cores must be 1 or more")
    return options


def main(arguments=None):
    """Exit 0 when all runs are done, 1 when some failed, 2 when the grid cannot be used."""
    options = parse(arguments)
    try:
        return run((Path(options.grid) if options.grid else last_grid()).resolve(), options.cores, options.dry_run)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
