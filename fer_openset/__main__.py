"""The command line: python -m fer_openset tables | summary | arrays."""

import argparse
import sys

from fer_openset import report
from fer_openset.errors import UserError
from fer_openset.labels import check_name


def tables(options):
    """Rebuild results/tables/runs.csv from the runs at hand and the committed rows."""
    runs = report.write_tables()
    print(f"{len(runs)} runs in {report.runs_path()}")


def summary(options):
    """Print the committed and rebuilt runs as text tables."""
    runs = report.read_runs()
    for key in ("dataset", "preset"):
        wanted = getattr(options, key)
        if wanted and len(runs):
            check_name(wanted, tuple(runs[key].unique()), f"{key}")
            runs = runs[runs[key] == wanted]
    print(report.as_text(runs))


def arrays(options):
    """Make the small arrays behind the figures (results/arrays) from the runs at hand."""
    from fer_openset import arrays as small

    folders = small.run_folders(options.dataset, options.preset, options.open_classes)
    small.make_arrays(folders, options.data_root)
    print(f"arrays of {len(folders)} run folders in {small.arrays_path('scores').parent}")


def parse(arguments):
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m fer_openset", description="Tables of the runs.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (tables, summary, arrays):
        sub = commands.add_parser(command.__name__, help=command.__doc__, description=command.__doc__)
        sub.set_defaults(command=command)
        if command is not tables:
            sub.add_argument("--dataset", help="only this dataset")
            sub.add_argument("--preset", help="only this preset")
    sub.add_argument("--open-classes", help="only these open classes, joined by +")
    sub.add_argument("--data-root", default="", help="folder of a real dataset, if it is not the usual one")
    return parser.parse_args(arguments)


def main(arguments=None):
    """Exit 0, or 2 with one sentence when the input cannot be used."""
    options = parse(arguments)
    try:
        options.command(options)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
