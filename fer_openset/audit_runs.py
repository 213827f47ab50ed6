"""The audit of runs at hand: counts of pseudo labels by part, and whether they depend on their images.

python -m fer_openset audit
"""

from pathlib import Path

import numpy as np
import pandas as pd

from fer_openset import atomic
from fer_openset.audit import chi_square_fit, chi_square_two, entropy_share, probe_information
from fer_openset.audit_tables import POOL, TABLES, read_table, table_path
from fer_openset.closed_set import read_outputs
from fer_openset.protocol import align, reopened
from fer_openset.run_table import merge_rows
from fer_openset.runs import is_result, load_record
from fer_openset.settings import ALIGNMENTS, results_dir

NAMES = ("audit_counts", "audit_labels")
COMPARED = ("open train", "open test")  # parts of the pool


def write_tables(runs_dir=None):
    """Rebuild both tables from the runs at hand and the rows already there. Returns: {name: table}.

    A pool without open images of both splits is counted, but what its labels depend on cannot be asked: a line says so.
    """
    found = {name: [] for name in NAMES}
    for path in sorted(Path(runs_dir or results_dir() / "runs").glob("**/pseudo_labels/run.json")):
        record = load_record(path.parent)
        if not is_result(record["dataset"], record["preset"]):
            continue
        dataset, protocol = reopened(record)
        outputs = read_outputs(path.parent)
        absent = [part for part in COMPARED if part not in set(protocol.pool["part"])]
        if absent:
            print(f"{path.parent.parent}: the pool has no {' and no '.join(absent)} images, so its labels are counted "
                  "but not compared", flush=True)  # fmt: skip
        for alignment in ALIGNMENTS:
            pool = {**{k: record[k] for k in POOL[:-1]}, "alignment": alignment}
            labels = align(outputs, protocol, alignment, record["seed"]).idxmax(axis=1)
            counts = part_counts(labels, protocol)
            found["audit_counts"] += [{**pool, "part": part, "label": label, "n": int(n)}
                                      for part, row in counts.iterrows() for label, n in row.items()]  # fmt: skip
            if not absent:
                evidence = label_evidence(labels, outputs, protocol, dataset, record["seed"])
                found["audit_labels"].append({**pool, **evidence})
    written = {}
    for name in NAMES:
        key, values = TABLES[name]
        table = merge_rows(read_table(name), pd.DataFrame(found[name], columns=[*key, *values]), key)
        if len(table):
            atomic.write_csv(table_path(name), table, float_format="%.6g")
        written[name] = table
    return written


def part_counts(labels, protocol):
    """Pseudo labels counted: parts of the pool (rows) by known classes (columns). labels: Series by sample id."""
    table = pd.crosstab(protocol.pool["part"], labels.loc[protocol.pool.index])
    return table.reindex(columns=list(protocol.known_classes), fill_value=0)


def label_evidence(labels, outputs, protocol, dataset, seed):
    """Do the pseudo labels of the open training images belong to their images? Needs open images of both splits.

    labels: under one alignment, Series by sample id; outputs: f_close's logits of pool and training split.
    Returns: sizes; entropy (share of its maximum); own_label (share equal to what f_close says about the image itself);
    chi-square and p against the open test part and against f_close's labels over the whole training split ("a random
    training image"); bits that a probe on the pixels tells about the label, with interval (see `probe_information`).
    """
    counts = part_counts(labels, protocol)
    own = outputs.idxmax(axis=1)
    ids = protocol.pool.index[protocol.pool["part"] == "open train"]
    split = own.loc[protocol.train_split].value_counts().reindex(protocol.known_classes, fill_value=0)
    train, test = counts.loc["open train"], counts.loc["open test"]
    chi2_test, _, p_test = chi_square_two(train.to_numpy(), test.to_numpy())
    chi2_split, _, p_split = chi_square_fit(train.to_numpy(), (split / split.sum()).to_numpy())
    images = np.ascontiguousarray(dataset.images[dataset.rows(ids)])
    bits, lo, hi = probe_information(images, labels.loc[ids].to_numpy(), seed)
    return {"n_open_train": int(train.sum()), "n_open_test": int(test.sum()), "n_training_split": int(split.sum()),
            "entropy": entropy_share(train), "own_label": float((labels.loc[ids] == own.loc[ids]).mean()),
            "chi2_test": chi2_test, "p_test": p_test, "chi2_split": chi2_split, "p_split": p_split,
            "bits": bits, "bits_lo": lo, "bits_hi": hi}  # fmt: skip
