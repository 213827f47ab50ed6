"""What each variant changed: the settings in which a run differs from the default run of its method.

`results/tables/variants.csv` holds a row a variant and setting. Figures and ablation tables go by these settings, never
by the names that somebody gave to the variants.
"""

import json

import pandas as pd

from fer_openset.atomic import write_csv
from fer_openset.errors import UserError
from fer_openset.runs import is_done, load_record
from fer_openset.settings import results_dir

KEY = ("dataset", "preset", "method", "variant")
COLUMNS = (*KEY, "setting", "value")
DEFAULT = "default"


def variants_path():
    """`tables/variants.csv` under the results folder."""
    return results_dir() / "tables" / "variants.csv"


def read_variants():
    """The committed table: `value` is JSON text; empty without the file. Raises: UserError for a damaged file."""
    path = variants_path()
    if not path.exists():
        return pd.DataFrame(columns=list(COLUMNS))
    try:
        frame = pd.read_csv(path, dtype="str", keep_default_na=False)[list(COLUMNS)]
        frame["value"].map(json.loads)
        return frame
    except (ValueError, KeyError) as error:
        raise UserError(
            f"{path}: not the table of variants ({error}); delete it: python -m fer_openset arrays."
        ) from None


def write_variants():
    """Rebuild the table from the runs at hand and the rows already there; returns it."""
    found = []
    for path in sorted((results_dir() / "runs").glob("*/*/*/seed*/methods/*/*/*/run.json")):
        dataset, preset, variant, method = path.parts[-9], path.parts[-8], path.parts[-2], path.parts[-4]
        if variant != DEFAULT and preset != "smoke":
            changed = _changed(load_record(path.parent), path.parent, method, preset)
            found += [(dataset, preset, method, variant, k, json.dumps(v)) for k, v in sorted(changed.items())]
    new = pd.DataFrame(found, columns=list(COLUMNS)).drop_duplicates()
    old = read_variants()
    keys = set(map(tuple, new[list(KEY)].to_numpy()))
    kept = old[[tuple(row) not in keys for row in old[list(KEY)].to_numpy()]]
    table = pd.concat([kept, new]).sort_values([*KEY, "setting"], ignore_index=True)
    write_csv(variants_path(), table)
    return table


def _changed(record, folder, method, preset):
    """Settings that differ from the default run beside this one, or from the params file if that has not run."""
    default = folder.parent / DEFAULT
    if is_done(default):
        usual = load_record(default)["settings"][method]
    else:
        from fer_openset.methods import method_settings  # imports torch

        usual = method_settings(method, preset).model_dump(mode="json")
    return {k: v for k, v in record["settings"][method].items() if k not in usual or usual[k] != v}


def changes(variants, dataset, preset, method):
    """{variant: {setting: value}} of one method, the default among them with {}."""
    mine = variants[(variants["dataset"] == dataset) & (variants["preset"] == preset) & (variants["method"] == method)]
    out = {DEFAULT: {}}
    for row in mine.itertuples():
        out.setdefault(row.variant, {})[row.setting] = json.loads(row.value)
    return out
