"""The command line: python -m fer_openset tables | summary | score."""

import argparse
import sys
from pathlib import Path

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


def score(options):
    """Score photos: the face of each, its expression, its open score; a CSV row each and a contact sheet."""
    from fer_openset import OpenSetDetector, atomic, score_photos
    from fer_openset.face_crop import photo_settings

    settings = photo_settings({} if options.margin is None else {"margin": options.margin})
    sheet = Path(options.sheet or Path(options.csv).with_suffix(".png"))
    if sheet == Path(options.csv):
        raise UserError(f"{sheet}: rows and contact sheet would be one file; give another name as --sheet.")
    detector = OpenSetDetector.load(options.run, options.method, options.data_root, options.rule)
    table, faces, others = score_photos.score_photos(detector, options.photos, not options.no_crop, settings=settings)
    atomic.write_csv(options.csv, table)
    shown = score_photos.write_sheet(detector, table, faces, sheet) if len(faces) else 0
    print(score_photos.summary(detector, table, others))
    print(f"{options.csv}" + (f" and {sheet} ({shown} of {len(faces)} faces)" if shown else ""))


def _score_options(parser):
    parser.add_argument("run", metavar="RUN", help="DATASET/PRESET/OPEN/seedN, its folder, or a saved detector")
    parser.add_argument("photos", metavar="PHOTO", nargs="+", help="files and folders of photos")
    parser.add_argument("--csv", default="scores.csv", help="where the rows go (default: scores.csv)")
    parser.add_argument("--sheet", help="where the contact sheet goes (default: beside the rows, as .png)")
    parser.add_argument("--no-crop", action="store_true", help="the photos are cropped faces already")
    parser.add_argument("--margin", type=float, help="share of the face's box that is added to it")
    parser.add_argument("--method", help="pool_novelty, msp, maxlogit or energy (default: see OpenSetDetector.load)")
    parser.add_argument("--rule", help="where the threshold comes from: known_95 or open_share")
    parser.add_argument("--data-root", default="", help="folder of the run's dataset, if it has moved")


def parse(arguments):
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m fer_openset", description="Tables of the runs; photos.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (tables, summary):
        sub = commands.add_parser(command.__name__, help=command.__doc__, description=command.__doc__)
        sub.set_defaults(command=command)
    sub.add_argument("--dataset", help="only this dataset")
    sub.add_argument("--preset", help="only this preset")
    scoring = commands.add_parser("score", help=score.__doc__, description=score.__doc__)
    scoring.set_defaults(command=score)
    _score_options(scoring)
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
