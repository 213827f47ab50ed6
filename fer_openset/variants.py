"""With which settings runs were made: a row for each method and variant, and one for f_close (method `closed_set`).

Figures and tables tell an ablation or a sweep by its settings, never by the names that somebody gave to the variants.
"""

import json

import pandas as pd

from fer_openset.atomic import write_csv
from fer_openset.errors import UserError
from fer_openset.runs import load_record
from fer_openset.settings import results_dir

KEY = ("dataset", "preset", "method", "variant")
DEFAULT, CLOSED_SET = "default", "closed_set"


def variants_path():
    """`tables/variants.csv` under the results folder."""
    return results_dir() / "tables" / "variants.csv"


def read_variants():
    """The committed table: KEY and `settings` (a dict); empty without the file. Raises: UserError if damaged."""
    path = variants_path()
    if not path.exists():
        return pd.DataFrame(columns=[*KEY, "settings"])
    try:
        frame = pd.read_csv(path, dtype="str", keep_default_na=False)[[*KEY, "settings"]]
        return frame.assign(settings=frame["settings"].map(json.loads).astype(object))
    except (ValueError, KeyError) as error:
        message = f"{path}: not the table of variants ({error}); delete it, then: python -m fer_openset arrays."
        raise UserError(message) from None


def write_variants():
    """Rebuild the table from the runs at hand and the rows already there (a variant found anew replaces its row)."""
    found = []
    for path in sorted((results_dir() / "runs").glob("*/*/*/seed*/**/run.json")):
        record = load_record(path.parent)
        method = record["row"]["method"] if "row" in record else CLOSED_SET
        variant = record["row"]["variant"] if "row" in record else DEFAULT
        if record["preset"] != "smoke" and path.parent.name != "pseudo_labels":
            found.append((record["dataset"], record["preset"], method, variant, record["settings"][method]))
    new = pd.DataFrame(found, columns=[*KEY, "settings"])
    table = pd.concat([read_variants(), new]).drop_duplicates(list(KEY), keep="last").sort_values(list(KEY))
    text = table["settings"].map(lambda s: json.dumps(s, sort_keys=True))
    write_csv(variants_path(), table.assign(settings=text))
    return table.reset_index(drop=True)


def settings_by_variant(variants, dataset, preset, method):
    """{variant: {setting: value}} of one method."""
    mine = variants[(variants["dataset"] == dataset) & (variants["preset"] == preset) & (variants["method"] == method)]
    return dict(zip(mine["variant"], mine["settings"], strict=True))


def changes(variants, dataset, preset, method):
    """{variant: {setting: value}}: only what differs from the default; {} without a default run to differ from."""
    every = settings_by_variant(variants, dataset, preset, method)
    usual = every.get(DEFAULT)
    if usual is None:
        return {}
    return {v: {k: x for k, x in mine.items() if k not in usual or usual[k] != x} for v, mine in every.items()}


def initial_weights(variants=None):
    """What f_close started from: {(dataset, preset): "pretrained" or "random"}; a pair that is missing is unknown."""
    variants = read_variants() if variants is None else variants
    rows = variants[variants["method"] == CLOSED_SET]
    return {(r.dataset, r.preset): "pretrained" if r.settings.get("init") == "pretrained" else "random"
            for r in rows.itertuples()}  # fmt: skip
