"""Validated parameters: `params/**/*.yaml` and notebook parameters become typed objects, or one clear sentence.

Every params file is flat: its own keys hold the source's values (the `paper` preset), and `presets:` maps a
preset's name to the keys it changes. Later wins: file < preset < overrides.
"""

import os
import re
from pathlib import Path
from reprlib import Repr
from textwrap import shorten
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from fer_openset.errors import UserError
from fer_openset.labels import check_name

ROOT = Path(__file__).resolve().parents[1]
PRESETS = ("smoke", "demo", "cpu", "paper")
FACTS = "expected"  # a params file's key for what the published data holds: nothing is set by it
ALIGNMENTS = ("aligned", "as_released")
Preset = Literal[PRESETS]
Alignment = Literal[ALIGNMENTS]


def results_dir():
    """Folder of runs, tables and figures: `results/`, or the environment variable FER_OPENSET_RESULTS."""
    return _folder("FER_OPENSET_RESULTS", "results")


def data_dir():
    """Folder under which dataset roots are resolved: `data/`, or the environment variable FER_OPENSET_DATA."""
    return _folder("FER_OPENSET_DATA", "data")


def cache_dir():
    """Folder of the decode-once image stores: `.cache/`, or the environment variable FER_OPENSET_CACHE."""
    return _folder("FER_OPENSET_CACHE", ".cache")


def _folder(variable, usual):
    """A relative folder lies under the clone: a notebook in JupyterLab works elsewhere than a batch does."""
    return (ROOT / (os.environ.get(variable) or usual)).resolve()


def thread_count():
    """Threads that a run may use: the environment variable FER_OPENSET_THREADS, or as many as there are cores.

    Raises: UserError when the variable is not a count.
    """
    threads = os.environ.get("FER_OPENSET_THREADS")
    if not threads:
        return os.cpu_count() or 1
    if not (threads.isdecimal() and int(threads)):
        raise UserError(f"the environment variable FER_OPENSET_THREADS is {threads!r}; expected 1 or more.")
    return int(threads)


_SHORT = Repr()  # YAML's references can stand for a billion values
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 3, 200, 200


class Settings(BaseModel):
    """Base of all settings: strict types, unknown keys are errors, immutable."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @classmethod
    def build(cls, values, where):
        """Validate `values`. Raises: UserError naming `where`, the key, what was expected and the nearest key."""
        try:
            return cls(**values)
        except ValidationError as error:
            raise UserError(_one_sentence(error.errors()[0], cls, where)) from None
        except TypeError:
            raise UserError(f"{where}: every key must be a word, got {list(values)!r}.") from None


def _one_sentence(problem, cls, where):
    # Between a field and what is below it pydantic names the member of a union, such as list[str].
    key = ".".join(str(part) for part in problem["loc"] if not re.fullmatch(r"(list|dict)\[.*\]", str(part)))
    if problem["type"] == "extra_forbidden":
        try:
            check_name(key, tuple(cls.model_fields), "key")
        except UserError as error:
            return f"{where}: {error}"
    if problem["type"] == "missing":
        return f"{where}: the key {key!r} is missing; add it."
    hint = ""
    if isinstance(problem["input"], str) and problem["type"] == "float_type":
        hint = " (YAML reads 1e-4 as text: write 1.0e-4)"
    message = problem["msg"].removeprefix("Value error, ")
    if not key:  # a rule between several keys
        return f"{where}: {message}."
    return f"{where}: {key} = {_SHORT.repr(problem['input'])}: {message[0].lower() + message[1:]}{hint}."


def read_yaml(path):
    """Read one YAML mapping safely. Raises: UserError for a missing, unreadable or non-mapping file."""
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file; expected a YAML file with settings.") from None
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, OSError, RecursionError) as error:
        reason = shorten(str(error), 300, placeholder=" ...")  # a date that is none is a ValueError, not a YAMLError
        raise UserError(f"{path}: not readable as YAML ({reason}); mend the file.") from None
    if not isinstance(values, dict):
        found = "an empty file" if values is None else type(values).__name__
        raise UserError(f"{path}: expected lines of `key: value`, found {found}.")
    return values


def load(cls, path, preset, overrides=None):
    """Read a params file into `cls` for one preset. Raises: UserError (see `Settings.build`)."""
    merged = {**values_of(path, preset), **(overrides or {})}
    return cls.build(merged, Path(path).name + (" with overrides" if overrides else ""))


def values_of(path, preset):
    """The values that a params file holds for one preset, not yet validated. Raises: UserError for an odd preset."""
    check_name(preset, PRESETS, "preset")
    values = read_yaml(path)
    values.pop(FACTS, None)
    presets = values.pop("presets", None) or {}
    if not isinstance(presets, dict):
        raise UserError(f"{path}: presets must map a preset's name to keys, found {type(presets).__name__}.")
    for name, keys in presets.items():
        check_name(name, PRESETS, f"preset in {path}")
        if not isinstance(keys, dict | None):
            raise UserError(f"{path}: preset {name} must hold lines of `key: value`, found {type(keys).__name__}.")
    return {**values, **(presets.get(preset) or {})}


class RunParameters(Settings):
    """The parameters every pipeline notebook shares; defaults in the notebooks are the smoke preset.

    `data_root` "" means the folder named in params/datasets; `overrides` replaces single keys of the step's settings.
    """

    dataset: str
    open_classes: str
    preset: Preset = "smoke"
    seed: int = 0
    data_root: str = ""
    overrides: dict = {}

    @field_validator("seed")
    @classmethod
    def _seed_not_negative(cls, value):
        if value < 0:
            raise ValueError("expected a seed of 0 or more")
        return value


def variant_name(variant, pool):
    """One name for a set of overrides on a pool: `default` on the paper's pool, `pool_NAME` on another."""
    parts = [variant] * (variant != "default") + [f"pool_{pool}"] * (pool != "full")
    return "-".join(parts) or "default"


def pool_in(variant):
    """The pool that a name made by `variant_name` stands for: `full`, the paper's, or a name of params/pools."""
    found = re.search(r"(?:^|-)pool_([A-Za-z0-9_]+)$", variant)
    return found[1] if found else "full"


def path_fault(name):
    """What is wrong with a name that becomes part of a path, to be said after "it"; None if nothing is."""
    plain = re.fullmatch(r"[A-Za-z0-9_-]+", name)
    return None if plain else "becomes part of a path; use letters, digits, - and _ only"


def variant_fault(name):
    """The same for the name of a variant, which must not look like a run on another pool."""
    other_pool = "would be read as a run on another pool; choose a name that does not end in pool_..."
    return path_fault(name) or (None if pool_in(name) == "full" else other_pool)


class DetectionParameters(RunParameters):
    """Parameters of the detection notebook: which method (or several joined by +), on which pseudo labels, under which
    variant name, and on which pool: `full`, the paper's, or a file of params/pools."""

    method: str = "msp"
    alignment: Alignment = "aligned"
    variant: str = "default"
    pool: str = "full"

    @property
    def run_variant(self):
        """The variant's name in tables and folders; another pool than the paper's is part of it."""
        return variant_name(self.variant, self.pool)

    @property
    def methods(self):
        """Ids of the methods to run, in the order given."""
        return tuple(name.strip() for name in self.method.split("+"))

    @field_validator("variant")
    @classmethod
    def _variant_names_a_folder(cls, value):
        if fault := variant_fault(value):
            raise ValueError(f"it {fault}")
        return value
