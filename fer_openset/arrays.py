"""Small arrays that figures need and tables cannot hold: made from the runs at hand, committed under results/arrays.

`python -m fer_openset arrays` writes, for each folder of runs (dataset, preset, open classes, seed), what its runs
allow: `scores` (open scores by sample id), `labels` (what f_close takes each part of the pool for), `features` (t-SNE
places and class distances), `maps` (attention maps; pictures of synthetic faces only), and once `digits`, the embedded
stand-in for objects. Numbers only: no picture of a person.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten

import numpy as np
import pandas as pd

from fer_openset.atomic import atomic_path, write_csv
from fer_openset.errors import UserError
from fer_openset.numpy_files import DAMAGED
from fer_openset.runs import RunFolder, is_done, is_result, load_record
from fer_openset.settings import ALIGNMENTS, results_dir
from fer_openset.variants import DEFAULT, write_variants

KINDS = ("scores", "labels", "features", "maps", "digits")
SHARES = ("dataset", "preset", "open_classes", "alignment", "method", "variant", "seed")
SHARE_VALUES = ("estimate", "lo", "hi", "true_share", "open_flagged", "known_flagged")


@dataclass(frozen=True)
class Arrays:
    """Arrays by name and `about`: where they come from (dataset, preset, open classes, seed, commits, n)."""

    arrays: dict
    about: dict

    def __getitem__(self, name):
        return self.arrays[name]


def arrays_path(kind, where=None):
    """`results/arrays/KIND_DATASET_PRESET_OPEN_seedN.npz`; `where` is a RunFolder, None for the digits."""
    stem = kind if where is None else f"{kind}_{where.dataset}_{where.preset}_{where.open_classes}_seed{where.seed}"
    return results_dir() / "arrays" / f"{stem}.npz"


def write_arrays(kind, where, arrays, about):
    """Write arrays (numbers and text, nothing pickled) and what they are about; same values, same bytes."""
    with atomic_path(arrays_path(kind, where)) as path, open(path, "wb") as handle:
        np.savez_compressed(handle, about=json.dumps(about, sort_keys=True), **arrays)


def read_arrays(kind, where=None):
    """Read `Arrays` back; None when they were never made. Raises: UserError for a damaged file."""
    path = arrays_path(kind, where)
    try:
        with np.load(path, allow_pickle=False) as file:
            values = {name: file[name] for name in file.files}
            return Arrays(values, json.loads(str(values.pop("about"))))
    except FileNotFoundError:
        return None
    except DAMAGED as error:
        reason = shorten(str(error), 200, placeholder=" ...")
        raise UserError(f"{path}: not readable ({reason}); delete it, then: python -m fer_openset arrays.") from None


def run_folders(dataset=None, preset=None, open_classes=None):
    """Folders with runs on disk, smoke runs and trials left out; each argument keeps only its own."""
    found = []
    for path in sorted((results_dir() / "runs").glob("*/*/*/seed*")):
        number = re.fullmatch(r"seed(\d+)", path.name)
        if number and is_result(path.parts[-4], path.parts[-3]):
            found.append(RunFolder(*path.parts[-4:-1], int(number[1])))
    wanted = {"dataset": dataset, "preset": preset, "open_classes": open_classes}
    return [f for f in found if all(value in (None, getattr(f, name)) for name, value in wanted.items())]


def about(folder, commits, n):
    """Where arrays come from. commits: of the runs used, in any order; n: images."""
    where = {name: getattr(folder, name) for name in ("dataset", "preset", "open_classes", "seed")}
    return {**where, "commits": sorted(set(commits)), "n": int(n)}


def score_arrays(folder):
    """Open scores of the finished runs (variant `default`) of one folder, with the pool's truth.

    Arrays: sample_id (M,), is_open (M,) bool, run (R,) `METHOD/ALIGNMENT`, score (R, M) float32, larger = more open;
    where the comparison group of Fig. 6 has run (all open images under one label), also variant_run (V,)
    `METHOD/ALIGNMENT/VARIANT` and variant_score (V, M).
    Returns: (arrays, about), or None without a run. Raises: UserError when the scores belong to another pool.
    """
    parts = read_parts(folder)
    if parts is None:
        return None
    found, others, commits = {}, {}, []
    for path in sorted((folder.root / "methods").glob("*/*/*/run.json")):
        method, alignment, variant = path.parts[-4:-1]
        record = load_record(path.parent)
        one_label = record["settings"].get(method, {}).get("oracle_open_label")
        if variant == DEFAULT:
            found[f"{method}/{alignment}"] = _scores(path.parent, parts.index, folder)
        elif one_label and "pool_" not in variant:
            others[f"{method}/{alignment}/{variant}"] = _scores(path.parent, parts.index, folder)
        else:
            continue
        commits.append(record["commit"])
    if not found:
        return None
    is_open = parts["part"].str.startswith("open").to_numpy()
    arrays = {"sample_id": parts.index.to_numpy(str), "is_open": is_open, "run": np.array(list(found)),
              "score": list(found.values())}  # fmt: skip
    if others:
        arrays |= {"variant_run": np.array(list(others)), "variant_score": list(others.values())}
    return arrays, about(folder, commits, len(parts))


def _scores(where, ids, folder):
    values = pd.read_csv(where / "scores.csv", index_col="sample_id")["open_score"]
    if not values.index.equals(ids):
        raise UserError(f"{where}: its scores belong to other images than {folder.pseudo_labels}; rerun it.")
    return values.to_numpy("float32")


def label_arrays(folder):
    """How often f_close gives each known class to each part of the pool.

    Arrays: part (P,), label (K,), and for each alignment counts (P, K) int64. Returns: (arrays, about), or None.
    """
    parts = read_parts(folder)
    if parts is None:
        return None
    labels = sorted(set(parts["aligned"]) | set(parts["as_released"]))
    names = sorted(set(parts["part"]))
    counts = {a: pd.crosstab(parts["part"], parts[a]).reindex(index=names, columns=labels, fill_value=0)
              for a in ALIGNMENTS}  # fmt: skip
    arrays = {"part": np.array(names), "label": np.array(labels), **{a: t.to_numpy() for a, t in counts.items()}}
    return arrays, about(folder, [load_record(folder.pseudo_labels)["commit"]], len(parts))


def read_parts(folder):
    """The table of pseudo labels by sample id (part, aligned, as_released); None before that step has run."""
    if not is_done(folder.pseudo_labels):
        return None
    return pd.read_csv(folder.pseudo_labels / "pseudo_labels.csv", index_col="sample_id", keep_default_na=False)


def shares_path():
    """Where the estimates of the open share lie: `tables/open_fraction.csv` under the results folder."""
    return results_dir() / "tables" / "open_fraction.csv"


def read_shares():
    """Estimated beside true share of open images, a row a run; without the file, an empty table."""
    path = shares_path()
    columns = [*SHARES, *SHARE_VALUES, "commit"]
    if not path.exists():
        return pd.DataFrame(columns=columns)
    frame = pd.read_csv(path, dtype=dict.fromkeys((*SHARES[:-1], "commit"), "str"), keep_default_na=False)
    missing = [name for name in columns if name not in frame]
    if missing:
        raise UserError(
            f"{path}: column(s) {', '.join(missing)} missing; delete it, then: python -m fer_openset arrays."
        )
    return frame[columns]


def write_shares():
    """Rebuild the table of open shares from the runs at hand and the rows already there; returns it."""
    rows = []
    for path in sorted((results_dir() / "runs").glob("*/*/*/seed*/methods/*/*/*/run.json")):
        record = load_record(path.parent)
        if record.get("open_share") and is_result(record["dataset"], record["preset"]):
            shares = {name: round(record["open_share"][name], 6) for name in SHARE_VALUES}
            rows.append({**{n: record["row"][n] for n in SHARES}, **shares, "commit": record["commit"]})
    table = pd.concat([read_shares(), pd.DataFrame(rows)]) if rows else read_shares()
    table = table.drop_duplicates(list(SHARES), keep="last").sort_values(list(SHARES), ignore_index=True)
    write_csv(shares_path(), table)
    return table


def make_arrays(folders, data_root=""):
    """Write all arrays that these folders allow, and the tables of open shares and variants. Returns: paths written."""
    from fer_openset import embeddings  # torch is slow to import, and reading arrays needs none

    write_shares()
    write_variants()
    makers = {"scores": score_arrays, "labels": label_arrays,
              "features": lambda f: embeddings.feature_arrays(f, data_root),
              "maps": lambda f: embeddings.map_arrays(f)}  # fmt: skip
    written = []
    jobs = [(kind, folder, make) for folder in folders for kind, make in makers.items()]
    for kind, folder, make in [*jobs, ("digits", None, lambda _: embeddings.digit_arrays())]:
        made = make(folder)
        if made:
            write_arrays(kind, folder, *made)
            written.append(Path(arrays_path(kind, folder)))
            print(f"{written[-1].name}: {written[-1].stat().st_size / 1024:.0f} kB", flush=True)
    return written
