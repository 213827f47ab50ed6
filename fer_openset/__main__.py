"""The command line: python -m fer_openset COMMAND; --help lists the commands."""

import argparse
import sys
from pathlib import Path

import yaml

from fer_openset import report
from fer_openset.datasets.check import check_data
from fer_openset.errors import UserError
from fer_openset.labels import check_name
from fer_openset.settings import PRESETS, RunParameters


def tables(options):
    """Rebuild results/tables (runs, trials, epochs, differences) from the runs at hand and the committed rows."""
    from fer_openset import ablation_report, statistics, trials

    runs = report.write_tables()
    print(f"{len(runs)} runs in {report.runs_path()}")
    for sentence in report.mixed_pools(runs):
        print(sentence)
    tried = trials.read_trials()
    if len(tried):
        print(f"{len(tried)} trials in {trials.trials_path()}")
    for name, table in (("epochs", ablation_report.write_epochs()), ("differences", statistics.write_differences())):
        print(f"{len(table)} rows in {report.runs_path().with_name(name + '.csv')}")


def audit(options):
    """Rebuild the audit's tables (counts and independence of pseudo labels) from the runs at hand."""
    from fer_openset import audit_runs  # loads torch, which reading tables does not need

    for name, table in audit_runs.write_tables().items():
        print(f"{len(table)} rows in {report.runs_path().with_name(name + '.csv')}")


def audit_epochs(options):
    """Train f_close while scoring the baselines after each epoch, into results/tables/audit_epochs.csv; resumes."""
    from fer_openset import audit_epochs as epochs
    from fer_openset.pipeline import open_step

    table = epochs.follow(open_step(_run(options)), options.epochs)
    print(table[table["epoch"] == table["epoch"].max()].to_string(index=False, float_format="{:.3f}".format))


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


def check(options):
    """Compare a dataset's folder with what was published: counts, image sizes, unreadable files, duplicates."""
    lines, problems = check_data(options.name, options.root, options.preset)
    print("\n".join(lines))
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def score(options):
    """Score photos: the face of each, its expression, its open score; a CSV row each and a contact sheet."""
    from fer_openset import OpenSetDetector, atomic, score_photos
    from fer_openset.face_crop import photo_settings
    from fer_openset.photos import is_sheet

    settings = photo_settings({} if options.margin is None else {"margin": options.margin})
    if not Path(options.csv).name or options.sheet == "":
        raise UserError("--csv and --sheet take the name of a file; give one, or leave the option out.")
    sheet = Path(options.sheet or Path(options.csv).with_suffix(".png"))
    if sheet == Path(options.csv):
        raise UserError(f"{sheet}: rows and contact sheet would be one file; give another name as --sheet.")
    score_photos.need_targets(options.photos, options.csv, sheet)
    detector = OpenSetDetector.load(options.run, options.method, options.data_root, options.rule)
    table, faces, others = score_photos.score_photos(detector, options.photos, not options.no_crop, settings=settings)
    atomic.write_csv(options.csv, table)
    if not len(faces) and is_sheet(sheet):
        sheet.unlink()  # of earlier photos: it would show other people beside these rows
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


def pretrain(options):
    """Pretrain a backbone on the known training images of a dataset, or on a folder of faces without labels."""
    from fer_openset import pretraining  # loads torch, which reading tables does not need

    if bool(options.folder) == bool(options.dataset):
        raise UserError("pretrain: name either --dataset with --open-classes, or --folder with pictures of faces.")
    settings = pretraining.pretraining_settings(options.preset, _overrides(options))
    if options.folder:
        path = pretraining.pretrain_on_folder(options.folder, options.preset, settings, options.seed)
    else:
        path = pretraining.pretrain_on_dataset(_run(options), settings)
    print(f"weights in {path}; start from them with the settings init: pretrained, weights: {path}")


def _run(options):
    """The run that a command is about. Raises: UserError for a value that no run has."""
    given = {name: getattr(options, name) for name in ("dataset", "preset", "open_classes", "seed", "data_root")}
    return RunParameters.build(given, "the command line")


def _overrides(options):
    """Settings named with --set KEY=VALUE; a value is read as YAML reads it."""
    pairs = dict(item.partition("=")[::2] for item in options.set)
    if options.images:
        pairs["images"] = options.images
    try:
        return {key: yaml.safe_load(value) for key, value in pairs.items()}
    except yaml.YAMLError:
        raise UserError(f"--set {' '.join(options.set)}: not readable; write --set epochs=3.") from None


def parse(arguments):
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m fer_openset", description="Tables; checks of data; photos.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    made = {}
    named = {"tables": tables, "summary": summary, "arrays": arrays, "audit": audit, "audit-epochs": audit_epochs}
    for name, command in {**named, "check-data": check, "score": score, "pretrain": pretrain}.items():
        made[name] = commands.add_parser(name, help=command.__doc__, description=command.__doc__)
        made[name].set_defaults(command=command)
    for name in ("summary", "arrays"):
        made[name].add_argument("--dataset", help="only this dataset")
        made[name].add_argument("--preset", help="only this preset")
    made["arrays"].add_argument("--open-classes", help="only these open classes, joined by +")
    made["arrays"].add_argument("--data-root", default="", help="folder of a real dataset, if it is not the usual one")
    made["check-data"].add_argument("name", help="the dataset: a file in params/datasets")
    made["check-data"].add_argument("--root", default="", help="its folder; otherwise the one its settings name")
    made["check-data"].add_argument("--preset", choices=PRESETS, default="paper", help="whose settings to read it with")
    for name in ("audit-epochs", "pretrain"):
        made[name].add_argument("--preset", required=True, choices=PRESETS)
        made[name].add_argument("--seed", type=int, default=0)
        text = "folder of the dataset; default: the one its settings name"
        made[name].add_argument("--data-root", default="", help=text)
    follow = made["audit-epochs"]
    follow.add_argument("--dataset", required=True)
    follow.add_argument("--open-classes", required=True, help="one expression, or several joined by +")
    follow.add_argument("--epochs", type=int, default=0, help="how long to train; default: as the preset")
    _score_options(made["score"])
    _pretrain_options(made["pretrain"])
    return parser.parse_args(arguments)


def _pretrain_options(parser):
    parser.add_argument("--dataset", default="", help="a file in params/datasets; its known training images are used")
    parser.add_argument("--open-classes", default="", help="with --dataset: never looked at; expressions joined by +")
    parser.add_argument("--folder", default="", help="instead of a dataset: any folder with pictures of faces")
    parser.add_argument("--images", choices=("known", "known+pool"), help="known+pool: the pool too, unlabelled")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="single settings")


def main(arguments=None):
    """Exit 0; 1 when a check found something; 2 with one sentence when the input cannot be used."""
    options = parse(arguments)
    try:
        return options.command(options) or 0
    except UserError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
