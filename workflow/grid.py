"""One YAML file says which runs a batch holds; this reads it, checks every name and lists the jobs."""

import hashlib
import json
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from fer_openset.ablations import load_ablation
from fer_openset.datasets import classes_of, dataset_name, dataset_values
from fer_openset.errors import UserError
from fer_openset.labels import check_name, join_open, parse_open
from fer_openset.methods import METHODS, POSTHOC, method_settings, params_file
from fer_openset.pools import FULL, pool_names
from fer_openset.runs import RECORD, RunFolder
from fer_openset.settings import (
    ALIGNMENTS,
    PRESETS,
    ROOT,
    Settings,
    path_fault,
    read_yaml,
    results_dir,
    values_of,
    variant_fault,
    variant_name,
)

NOTEBOOKS = ROOT / "notebooks"
PARAMS = ROOT / "params"
CLOSED_SET, PSEUDO_LABELS = "closed_set", "pseudo_labels"
STEMS = {CLOSED_SET: "01_closed_set_training", PSEUDO_LABELS: "02_pseudo_labels"}
DETECTION_STEM = "03_open_set_detection"
REPORT_STEM = "07_results_vs_paper"
SMALL_PRESETS = ("smoke", "demo")


class Grid(Settings):
    """Every combination of these lists is one run.

    `open_classes` is one list for all datasets, or a list for each: {ferplus: [surprise], cifar10: [dog]}.
    `variants` names sets of overrides, each for every method of the grid ({} for `default`), `pools` files of
    params/pools (`full`: the paper's pool); `data_root` is passed on as it is. `ablations` adds the sets of
    params/ablations by name, each under the alignments listed with it, on the paper's pool. `together` puts all methods
    of a class into one notebook run: less starting, one page with one ROC figure; but a method that fails or changes
    repeats them all, and so does another grid that groups the same methods otherwise.
    """

    name: str
    datasets: list[str]
    preset: str
    open_classes: list[str] | dict[str, list[str]]
    seeds: list[int] = [0]
    methods: list[str]
    alignments: list[str] = ["aligned"]
    variants: dict[str, dict] = {"default": {}}
    ablations: dict[str, list[str]] = {}
    pools: list[str] = [FULL]
    together: bool = False
    data_root: str = ""

    @property
    def reports(self):
        """Where the grid's executed report and its list of HTML pages go."""
        return results_dir() / "reports" / self.name

    def open_classes_of(self, dataset):
        """The entries of `open_classes` for one dataset."""
        return self.open_classes[dataset] if isinstance(self.open_classes, dict) else self.open_classes

    def opened(self, dataset, names):
        """The open classes that `names` stands for in one dataset. Raises: UserError for a class it does not have."""
        return parse_open(names, classes_of(dataset, self.preset, names, self.data_root))

    def jobs(self):
        """All jobs, in the order in which a reader expects them: each job after the ones it needs."""
        jobs = []
        opened = [(dataset, names) for dataset in self.datasets for names in self.open_classes_of(dataset)]
        for (dataset, names), seed in product(opened, self.seeds):
            folder = RunFolder(dataset_name(dataset), self.preset, join_open(self.opened(dataset, names)), seed)
            steps = [(CLOSED_SET, "", "", {}), (PSEUDO_LABELS, "", "", {})]
            jobs += [Job(folder, *step, dataset, self.data_root) for step in steps]
            for pool, alignment, (variant, overrides) in product(self.pools, self.alignments, self.variants.items()):
                how = (alignment, variant, overrides, dataset, self.data_root, pool)
                jobs += [Job(folder, methods, *how) for methods in self._groups(overrides)]
            steps = self._ablation_steps(self.opened(dataset, names))
            jobs += [Job(folder, *step, dataset, self.data_root) for step in steps]
        return jobs

    def _ablation_steps(self, opened):
        """A variant that gives every open image one label is left out where that label's own class is open."""
        sets = ((load_ablation(name), alignments) for name, alignments in self.ablations.items())
        return [(found.method, alignment, variant, overrides) for found, alignments in sets
                for alignment, (variant, overrides) in product(alignments, found.in_preset(self.preset).items())
                if overrides.get("oracle_open_label") not in opened]  # fmt: skip

    def _groups(self, overrides):
        """Methods of one notebook run, joined by +: post-hoc scores share one, as most of their time goes into starting
        it; with overrides, which belong to one method, each has its own."""
        if self.together and not overrides:
            return ["+".join(self.methods)]
        posthoc = [] if overrides else [method for method in self.methods if method in POSTHOC]
        return ["+".join(posthoc)] * bool(posthoc) + [method for method in self.methods if method not in posthoc]


@dataclass(frozen=True)
class Job:
    """One notebook run: `step` is closed_set, pseudo_labels, or a method's id or several joined by +; `dataset` as the
    grid names it."""

    folder: RunFolder
    step: str
    alignment: str
    variant: str
    overrides: dict
    dataset: str
    data_root: str
    pool: str = FULL

    @property
    def label(self):
        """How the job is called on the terminal."""
        where = f"{self.folder.dataset} {self.folder.open_classes} seed{self.folder.seed}"
        how = [self.alignment, self._run_variant if self._run_variant != "default" else ""]
        return " ".join([where, self._short_step, *filter(None, how)])

    @property
    def methods(self):
        """Ids of the methods that the job runs; none for the steps before them."""
        return () if self.step in STEMS else tuple(self.step.split("+"))

    @property
    def _run_variant(self):
        return variant_name(self.variant, self.pool)

    @property
    def _short_step(self):
        count, kind = len(self.methods), "posthoc" if self._posthoc else "methods"
        return self.step if count < 2 else f"{count}_{kind}"

    @property
    def source(self):
        """The notebook that is run."""
        return NOTEBOOKS / f"{STEMS.get(self.step, DETECTION_STEM)}.ipynb"

    @property
    def notebook(self):
        """Where the executed notebook is kept."""
        parts = [] if self.step in STEMS else [self._short_step, self.alignment, self._run_variant]
        return self.folder.notebook(self.source.stem, *parts)

    @property
    def records(self):
        """The files that mark the job as done: one, or one a method."""
        return [self._result_folder(step) / RECORD for step in self.methods or (self.step,)]

    @property
    def needs(self):
        """Records of the jobs before this one."""
        before = {CLOSED_SET: [], PSEUDO_LABELS: [CLOSED_SET]}.get(self.step, [CLOSED_SET, PSEUDO_LABELS])
        return [self._result_folder(step) / RECORD for step in before]

    @property
    def all_cores(self):
        """Whether the job gets all cores; scores that take seconds, and small presets, run side by side instead."""
        return not self._posthoc and self.folder.preset not in SMALL_PRESETS

    @property
    def epochs(self):
        """How long the job's method trains, 0 for what the jobs of a class wait for and for scores without training."""
        values = [{**values_of(params_file(method), self.folder.preset), **self.overrides} for method in self.methods]
        return sum(one.get("epochs", 0) for one in values)

    @property
    def _posthoc(self):
        return bool(self.methods) and set(self.methods) <= set(POSTHOC)

    def _result_folder(self, step):
        if step in STEMS:
            return getattr(self.folder, step)
        return self.folder.method(step, self.alignment, self._run_variant)

    def parameters(self):
        """The values for the notebook's parameters cell."""
        run = self.folder
        values = {"dataset": self.dataset, "open_classes": run.open_classes, "preset": run.preset, "seed": run.seed}
        values |= {"data_root": self.data_root, "overrides": self.overrides}
        if self.step not in STEMS:
            values |= {"method": self.step, "alignment": self.alignment, "variant": self.variant, "pool": self.pool}
        return values

    def fingerprint(self):
        """Changes when the notebook's code or the step's settings for this preset change: then the job runs again."""
        preset, files = self.folder.preset, [params_file(method) for method in self.methods]
        settings = [dataset_values(self.dataset, preset)[1]] if self.step == CLOSED_SET else []
        files += [PARAMS / "closed_set.yaml"] if self.step == CLOSED_SET else []
        files += [] if self.pool == FULL else [PARAMS / "pools" / f"{self.pool}.yaml"]
        settings += [values_of(path, preset) for path in files]
        return digest([code_of(self.source), settings])


def code_of(notebook):
    """The code cells of a notebook: what is left when outputs, prose and metadata do not count."""
    try:
        cells = json.loads(Path(notebook).read_text(encoding="utf-8"))["cells"]
        return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    except FileNotFoundError:
        raise UserError(f"{notebook}: there is no such notebook; restore it from the repository.") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{notebook}: not readable as a notebook; restore it from the repository.") from None


def digest(value):
    """A short hash of plain data."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def load_grid(path):
    """Read and check a grid file. Raises: UserError for an unknown key or name, an empty list, a repeat."""
    path = Path(path)
    grid = Grid.build({"name": path.stem, **read_yaml(path)}, path.name)
    try:
        _check(grid)
    except UserError as error:
        raise UserError(f"{path.name}: {error}") from None
    return grid


def check_overrides(grid):
    """Check that every method takes the overrides it is given: before a batch, not at each reading, for the settings of
    the methods import torch. Raises: UserError that names the variant."""
    asked = {(method, job.variant): job.overrides for job in grid.jobs() if job.overrides for method in job.methods}
    for (method, variant), overrides in asked.items():
        try:
            method_settings(method, grid.preset, overrides)
        except UserError as error:
            raise UserError(f"{grid.name}: the variant {variant!r} of {method}: {error}") from None


def _check(grid):
    for key in ("datasets", "seeds", "methods", "alignments", "pools"):
        _check_list(key, getattr(grid, key))
    if isinstance(grid.open_classes, dict) and set(grid.open_classes) != set(grid.datasets):
        named = ", ".join(grid.open_classes) or "no dataset"
        raise UserError(f"open_classes has lists for {named}, but the datasets are {', '.join(grid.datasets)}; "
                        "write one list for each.")  # fmt: skip
    for dataset in grid.datasets:
        _check_list("open_classes", grid.open_classes_of(dataset))
    check_name(grid.preset, PRESETS, "preset")
    for known, names, what in (
        (METHODS, grid.methods, "method"),
        (ALIGNMENTS, grid.alignments, "alignment"),
        (pool_names(), grid.pools, "pool"),
    ):
        for name in names:
            check_name(name, tuple(known), what)
    if len({dataset_name(name) for name in grid.datasets}) < len(grid.datasets):
        raise UserError("two datasets have settings files of one name, so one results folder; rename one of the files.")
    for dataset in grid.datasets:
        _check_open_classes(grid, dataset)
    if min(grid.seeds) < 0:
        raise UserError(f"seeds holds {min(grid.seeds)}; expected 0 or more.")
    if grid.data_root and len(grid.datasets) > 1:
        raise UserError("data_root is one folder but datasets lists several; write one grid a dataset.")
    _check_variants(grid)
    _check_ablations(grid)


def _check_list(key, values):
    if not values:
        raise UserError(f"{key} is empty; list at least one.")
    repeats = [v for i, v in enumerate(values) if v in values[:i]]
    if repeats:
        raise UserError(f"{key} lists {repeats[0]!r} twice; keep one.")


def _check_ablations(grid):
    taken = dict.fromkeys(product(grid.methods, grid.variants), "the grid's own variants")
    for name, alignments in grid.ablations.items():
        found = load_ablation(name)
        check_name(found.method, tuple(METHODS), f"method in {name}.yaml")
        if not alignments:
            raise UserError(f"ablations lists no alignment for {name}; write {name}: [aligned].")
        for alignment in alignments:
            check_name(alignment, ALIGNMENTS, "alignment")
        for variant in found.variants:
            if (found.method, variant) in taken:
                other = taken[found.method, variant]
                raise UserError(f"the variant {variant!r} of {name} is also one of {other}; rename one of them.")
            taken[found.method, variant] = name


def _check_open_classes(grid, dataset):
    try:
        sets = [grid.opened(dataset, names) for names in grid.open_classes_of(dataset)]
    except UserError as error:
        raise UserError(f"{dataset}: {error}") from None
    for i, chosen in enumerate(sets):
        if chosen in sets[:i]:
            raise UserError(f"open_classes lists {join_open(chosen)!r} twice, in another order; keep one.")


def _check_variants(grid):
    if not grid.variants:
        raise UserError("variants is empty; leave the key out for the settings as they are.")
    if fault := path_fault(grid.name):
        raise UserError(f"the name {grid.name!r} {fault}.")
    for word in grid.variants:
        if fault := variant_fault(word):
            raise UserError(f"the variant {word!r} {fault}.")
    if grid.variants.get("default"):
        raise UserError("the variant 'default' stands for unchanged settings; give these overrides another name.")
    for name, overrides in grid.variants.items():
        if name != "default" and not overrides:
            raise UserError(f"the variant {name!r} overrides nothing; name the settings it changes.")
