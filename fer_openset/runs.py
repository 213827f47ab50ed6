"""Where a run lives on disk, and what is written beside its numbers.

results/runs/DATASET/PRESET/OPEN/seedN/ holds `closed_set`, `pseudo_labels`, `pretraining`, `notebooks` and
`methods/METHOD/ALIGNMENT/VARIANT`. A step is done when its `run.json`, written last, is there.
"""

import json
import os
import platform
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from fer_openset import atomic
from fer_openset.errors import UserError
from fer_openset.settings import ROOT, results_dir

RECORD = "run.json"
TRIALS = "_trials"  # how the name of a dataset ends on which settings are chosen (`datasets.trial`)
LIBRARIES = ("torch", "torchvision", "numpy", "pandas", "scikit-learn", "pytorch-ood")


def is_trial(dataset):
    """Whether a dataset's name is that of one to choose settings on."""
    return dataset.endswith(TRIALS)


def is_result(dataset, preset):
    """Whether a run may stand in the tables and figures of results: smoke runs and trials may not."""
    return preset != "smoke" and not is_trial(dataset)


@dataclass(frozen=True)
class RunFolder:
    """The folders of one (dataset, preset, open classes, seed)."""

    dataset: str
    preset: str
    open_classes: str
    seed: int

    @property
    def root(self):
        return results_dir() / "runs" / self.dataset / self.preset / self.open_classes / f"seed{self.seed}"

    @property
    def closed_set(self):
        return self.root / "closed_set"

    @property
    def pseudo_labels(self):
        return self.root / "pseudo_labels"

    @property
    def pretraining(self):
        return self.root / "pretraining"

    def shifted_outputs(self, pool):
        """f_close's outputs on a pool whose images were changed."""
        return self.root / "pools" / pool

    def method(self, method, alignment="aligned", variant="default"):
        return self.root / "methods" / method / alignment / variant

    @staticmethod
    def closed_set_of(method_folder):
        """The folder of f_close beside a method's folder (see `method`)."""
        return Path(method_folder).parents[3] / "closed_set"

    def notebook(self, stem, *parts):
        return self.root / "notebooks" / (".".join([stem, *parts]) + ".ipynb")


def commit():
    """Short hash of the checked-out commit, with `+` if tracked files differ from it; `unknown` outside git."""
    try:
        head = _git("rev-parse", "--short=10", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", "fer_openset", "params", "notebooks")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+" if changed else "")


def _git(*arguments):
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def provenance(settings, **more):
    """What made a result: settings, commit, library versions, hardware, time."""
    return {
        "settings": {name: part.model_dump(mode="json") for name, part in settings.items()},
        "commit": commit(),
        "versions": {name: version(name) for name in LIBRARIES} | {"python": platform.python_version()},
        "hardware": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        **more,
    }


def save_record(folder, record):
    """Write the step's `run.json`: call it last, it marks the step as done."""
    atomic.write_json(Path(folder) / RECORD, record)


def forget(folder):
    """The step in this folder is not done any more: its results are about to change. Nor is a step that this one is a
    part of, such as a method of which it is a round.
    """
    all_runs = results_dir() / "runs"
    for place in (Path(folder), *(p for p in Path(folder).parents if p.is_relative_to(all_runs))):
        (place / RECORD).unlink(missing_ok=True)


def is_done(folder):
    """Whether the step in this folder ran to its end."""
    return (Path(folder) / RECORD).exists()


def load_record(folder):
    """Read a step's `run.json`. Raises: UserError when the step has not run or the file is damaged."""
    path = Path(folder) / RECORD
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: this step has not run yet; run the notebook before it, or the whole batch.") from None
    except ValueError:
        raise UserError(f"{path}: not readable as JSON; delete it and run the step again.") from None
