"""python -m benchmarks [--quick] [--out FOLDER] [--repeats N]: measure this machine, print tables, write one JSON."""

import argparse
import json
import os
import sys
import tempfile
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path

from benchmarks import faces, measure, tables, workload
from benchmarks.session import Session
from fer_openset import atomic, runs
from fer_openset.errors import UserError
from fer_openset.settings import results_dir


def parse(arguments):
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Engine against a plain reference loop.")
    parser.add_argument("--quick", action="store_true", help="a few tiny images: shows that it runs, not how fast")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where the JSON goes; default: results/benchmarks")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="runs of each main measurement; default: 3")
    options = parser.parse_args(arguments)
    if options.repeats < 1:
        parser.error(f"--repeats is {options.repeats}; expected 1 or more")
    return options


def output_folder(options):
    """Where the JSON goes, or None for a quick run without --out. Raises: UserError before anything is measured."""
    if options.quick and not options.out:
        return None
    folder = options.out or results_dir() / "benchmarks"
    with atomic.atomic_path(folder / ".writable") as probe:  # better now than after a quarter of an hour
        probe.touch()
    (folder / ".writable").unlink()
    return folder


def look(quick):
    """The machine, its peaks, and the operations of every measured step, from a process of its own."""
    tables_of_any_machine = workload.plan(quick, cores=1, gpu=False)  # tasks and sizes are the same everywhere
    pairs = {(one.task, one.size) for one in workload.flat(tables_of_any_machine)}
    request = {"pairs": sorted(pairs), "seconds": 0 if quick else 2, "side": 64 if quick else None}
    return measure.child("benchmarks.hardware", [json.dumps(request)], dict(os.environ), "hardware")


def collect(options, folder):
    """Measure everything and print the tables. Returns: what the JSON holds."""
    machine = look(options.quick)
    hardware, flops, peaks = machine["hardware"], machine["flops_per_image"], machine["peak_gflops"]
    print(tables.hardware_lines(hardware, peaks), flush=True)
    repeats = 1 if options.quick else options.repeats
    pairs, growth = workload.plan(options.quick, hardware["cores"], hardware["gpu"] is not None)
    everything = workload.flat((pairs, growth))
    needed = {side: max(max(w.images, w.warm_up) for w in everything if w.side == side) for side in workload.SIDES}
    faces.prepare(folder, needed["engine"], needed["reference"])
    session = Session(folder, len(everything) + (repeats - 1) * len(list(chain(*pairs.values()))))
    if options.quick:
        main, scaling = session.quick(pairs), {}
    else:
        main, scaling = session.pairs(pairs, repeats), session.growth(growth)
        again = look(quick=False)["peak_gflops"]  # the machine may have been in a slow state at the start
        peaks = {name: value and max(value, again[name]) for name, value in peaks.items()}
    main = {task: {side: tables.shares(r, flops, peaks) for side, r in sides.items()} for task, sides in main.items()}
    scaling = {field: [tables.shares(r, flops, peaks) for r in found] for field, found in scaling.items()}
    print(f"\n{tables.hardware_lines(hardware, peaks)}\n\n{tables.main_table(main)}", flush=True)
    for field, found in scaling.items():
        print(f"\n{tables.scaling_table(field, found)}", flush=True)
    return {
        "hardware": hardware,
        "peak_gflops": peaks,
        "flops_per_image": flops,
        "commit": runs.commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "quick": options.quick,
        "main": main,
        "scaling": scaling,
        **tables.ratios(main),
    }


def main(arguments=None):
    """Exit 0, 1 when a measurement failed, 2 with one sentence when the input cannot be used."""
    options = parse(arguments)
    try:
        out = output_folder(options)
        if options.quick:
            print("quick run: it shows that everything runs, its figures mean nothing", flush=True)
        with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
            report = collect(options, Path(folder))
        if out is None:
            print("\nnothing written: a quick run writes only with --out FOLDER")
            return 0
        target = out / f"{report['hardware']['name']}{'-quick' if options.quick else ''}.json"
        atomic.write_json(target, report)
        print(f"\nwritten: {target}")
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except measure.MeasurementFailed as error:
        print(f"a measurement failed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
