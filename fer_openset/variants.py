"""With which settings runs were made: a row for each run but its alignment, and one for f_close (method `closed_set`).

Figures and tables tell an ablation or a sweep by its settings, never by the names that somebody gave to the variants.
"""

import json

import pandas as pd

from fer_openset.atomic import write_csv
from fer_openset.errors import UserError
from fer_openset.runs import is_result, load_record
from fer_openset.settings import results_dir

KEY = ("dataset", "preset", "open_classes", "seed", "method", "variant")
WHAT = ("dataset", "preset", "method", "variant")
JSON = ("settings", "weights")
DEFAULT, CLOSED_SET = "default", "closed_set"


def variants_path():
    """`tables/variants.csv` under the results folder."""
    return results_dir() / "tables" / "variants.csv"


def read_variants():
    """The committed table: KEY as text and two dicts, `settings` and `weights` (what the record of a run says of the
    pretrained weights it started from, {} if it says nothing); empty without the file.

    Rows of earlier versions have neither open classes nor seed (both empty) nor weights. Raises: UserError if damaged.
    """
    path = variants_path()
    if not path.exists():
        return pd.DataFrame(columns=[*KEY, *JSON])
    try:
        frame = pd.read_csv(path, dtype="str", keep_default_na=False)
        frame = frame.assign(**{k: v for k, v in {"open_classes": "", "seed": "", "weights": "{}"}.items()
                                if k not in frame})[[*KEY, *JSON]]  # fmt: skip
        return frame.assign(**{name: frame[name].map(json.loads).astype(object) for name in JSON})
    except (ValueError, KeyError) as error:
        message = f"{path}: not the table of variants ({error}); delete it, then: python -m fer_openset arrays."
        raise UserError(message) from None


def write_variants():
    """Rebuild the table from the runs at hand and the rows already there.

    A run found anew replaces its row, and the row that an earlier version wrote for all runs of its kind.
    """
    found = []
    for path in sorted((results_dir() / "runs").glob("*/*/*/seed*/**/run.json")):
        record = load_record(path.parent)
        if "row" not in record and path.parent.name != CLOSED_SET:  # the record of another step
            continue
        if not is_result(record["dataset"], record["preset"]):
            continue
        root, row = path.parents[4 if "row" in record else 1], record.get("row", {})
        method, variant = row.get("method", CLOSED_SET), row.get("variant", DEFAULT)
        at = record["dataset"], record["preset"], root.parent.name, root.name.removeprefix("seed")
        found.append((*at, method, variant, record["settings"][method], record.get("weights", {})))
    new = pd.DataFrame(found, columns=[*KEY, *JSON])
    table = pd.concat([read_variants(), new]).drop_duplicates(list(KEY), keep="last").sort_values(list(KEY))
    kinds, told = pd.MultiIndex.from_frame(table[list(WHAT)]), table["seed"] != ""
    table = table[told | ~kinds.isin(kinds[told])]
    text = {name: table[name].map(lambda s: json.dumps(s, sort_keys=True)) for name in JSON}
    write_csv(variants_path(), table.assign(**text))
    return table.reset_index(drop=True)


def settings_by_variant(variants, dataset, preset, method):
    """{variant: {setting: value}} of one method; where its runs differ, those of the last open classes and seed."""
    mine = variants[(variants["dataset"] == dataset) & (variants["preset"] == preset) & (variants["method"] == method)]
    return dict(zip(mine["variant"], mine["settings"], strict=True))


def changes(variants, dataset, preset, method):
    """{variant: {setting: value}}: only what differs from the default; {} without a default run to differ from."""
    every = settings_by_variant(variants, dataset, preset, method)
    usual = every.get(DEFAULT)
    if usual is None:
        return {}
    return {v: {k: x for k, x in mine.items() if k not in usual or usual[k] != x} for v, mine in every.items()}
