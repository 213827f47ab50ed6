"""Tables 1 to 5 to be read: the paper's rows and columns, published and measured side by side, the oracle apart.

They hold the paper's methods, `pool_novelty` and `oracle`; what else ran is in the longer tables of all methods,
measured only. Labels scrambled as released are only in those: they are never a headline.
"""

import pandas as pd

from fer_openset import report
from fer_openset.atomic import write_csv, write_text
from fer_openset.labels import AMBIGUOUS, CONTEMPT
from fer_openset.methods import ORACLE
from fer_openset.paper_tables import FULL, KEYS, ONLINE, PARTS, TITLES, class_order, method_order, paper_table
from fer_openset.plates import NAMES
from fer_openset.settings import results_dir
from fer_openset.table_markup import DASH, LONG, Shape, as_latex

METHODS_OF = dict.fromkeys("123", (*report.PAPER_METHODS, "pool_novelty", ORACLE)) | {"4": ONLINE}
ROWS_OF_5 = ("msp", "attention", "attention+cycle_lr", FULL)
UNITS = {"auroc": "AUROC", "fpr_at_tpr95": "FPR@TPR95"}


def paper_shapes(number, table):
    """The tables as the paper prints them, one a dataset, metric and preset; Table 3 has a row a dataset. [Shape].

    table: as `paper_tables.paper_table` gives it. What the paper prints and nobody has run here is a dash.
    """
    shown = table["method"].isin(ROWS_OF_5 if number == "5" else METHODS_OF[number])
    table = table[shown & (table["published"].notna() | (table["alignment"] == "aligned"))]
    out = []
    for block, part in table.groupby(table["dataset"].map(lambda name: "" if _by_dataset(number, name) else name)):
        printed, ran = part.dropna(subset="published").drop_duplicates(KEYS), part[part["alignment"] == "aligned"]
        for metric in [name for name in UNITS if name in set(printed["metric"])] or ["auroc"]:
            for preset in sorted(ran["preset"].unique()) or [""]:
                mine = (ran["metric"] == metric) & (ran["preset"] == preset)
                pair = {"published": printed[printed["metric"] == metric], "measured": ran[mine]}
                out.append(_paper_shape(number, block, metric, preset, pair))
    return out


def _by_dataset(number, dataset):
    return number == "3" and dataset in LONG


def _paper_shape(number, block, metric, preset, pair):
    """One table from the published and the measured rows of the tidy one."""
    heads = ("AUROC",) if number == "5" else METHODS_OF[number]
    of_paper = heads if number == "5" else set(pair["published"]["method"])
    columns = [(h, kind) for h in heads for kind in pair if kind == "measured" or (h in of_paper and len(pair[kind]))]
    rows = _rows(number, block)
    cells = pd.DataFrame(DASH, index=rows, columns=pd.MultiIndex.from_tuples(columns))
    values = pd.DataFrame(float("nan"), index=rows, columns=cells.columns)
    for kind, found in pair.items():
        for row in found.itertuples():
            at = _row(number, row), ("AUROC" if number == "5" else row.method, kind)
            values.loc[at] = row.published if kind == "published" else row.mean
            cells.loc[at] = f"{row.published:.3f}" if kind == "published" else report.cell(row)
    if number == "5":
        best = _best(values, metric, rows)
    else:
        # The online form is a rival only where offline and online are what is compared.
        ranked = [head for head in heads if report.is_ranked(head) or (number == "4" and head != ORACLE)]
        kinds = values.columns.get_level_values(1)
        parts = [_best(values.loc[:, kinds == kind].T, metric, ranked) for kind in pair if kind in kinds]
        best = pd.concat(parts).T[cells.columns]
    index = _ticks(rows) if number == "5" else cells.index
    ran = f"preset {preset}, aligned labels" if preset else report.NO_RUNS
    parts = filter(None, (f"Table {number}", NAMES.get(block, block), UNITS[metric]))
    title = f"{', '.join(parts)}: {TITLES[number]} ({ran})"
    return Shape(title, cells.set_axis(index), best.set_axis(index), _note(number, metric, pair))


def _rows(number, block):
    """Names of the rows: open classes, but datasets in Table 3 (not for its stand-ins) and sets of parts in Table 5."""
    if number == "5":
        return list(ROWS_OF_5)
    if number == "3":
        return [CONTEMPT, AMBIGUOUS] if block else list(LONG)
    every = report.targets()
    names = class_order(every[every["table"] == number])
    return [name for name in names if name not in (CONTEMPT, AMBIGUOUS)]


def _row(number, row):
    if number == "5":
        return row.method
    return row.dataset if _by_dataset(number, row.dataset) else row.open_classes


def _ticks(rows):
    """The rows of Table 5 by method and a tick for each part that is on."""
    ticks = [["✓" if part in name.split("+") else "" for part in PARTS] for name in rows]
    names = ["msp" if name == "msp" else "noisy_label" for name in rows]
    columns = zip(names, *zip(*ticks, strict=True), strict=True)
    return pd.MultiIndex.from_tuples(columns, names=["method", "attention", "cycle LR", "cycle training"])


def _best(values, metric, ranked):
    """Which values, as printed, are the best of their column among the rows `ranked`; one without a rival is not."""
    rivals = values.round(3)
    rivals[~rivals.index.get_level_values(0).isin(ranked)] = float("nan")
    best = rivals.min() if metric in report.LOWER_IS_BETTER else rivals.max()
    return (rivals == best) & (rivals.notna().sum() > 1)


def _note(number, metric, pair):
    """What a reader must know, below the table."""
    conditions = "publ.: as published (the authors' code: 224 px, face-pretrained weights); meas.: measured here."
    said = [conditions if len(pair["published"]) else "The paper publishes nothing for this dataset."]
    if number == "5" and len(pair["published"]):
        said.append("The text we have has the ticks of 0.912 damaged, and 0.918 only in its Table 1.")
    if number in "123":
        said.append("The paper prints msp as Baseline and noisy_label as Ours.")
    said += [_intervals(metric), f"{DASH}: no run." if len(pair["measured"]) else f"{DASH}: {report.NO_RUNS}."]
    said.append(f"Bold: best of a {'column' if number == '5' else 'row'}, published and measured apart.")
    said += ["" if number == "5" else "The oracle reads the true labels and is not ranked."]
    found = pair["measured"].dropna(subset="published")["verdict"].value_counts()
    verdicts = ", ".join(f"{verdict}: {n}" for verdict, n in found.items())
    return " ".join(filter(None, [*said, f"Verdicts beside published values: {verdicts}." if verdicts else ""]))


def _intervals(metric):
    if metric != "auroc":
        return "No intervals: only AUROC was bootstrapped."
    return "Brackets: 95 % bootstrap interval over images (several seeds: ± sd); means over classes have none."


def all_methods(number, table):
    """Every method that ran, measured only: one table a dataset, preset, alignment and metric. Returns: [Shape].

    Table 4 has none: its methods are Table 1's.
    """
    out, keys = [], ["dataset", "preset", "alignment", "metric"]
    measured = table.dropna(subset="mean") if number != "4" else table[:0]
    for (dataset, preset, alignment, metric), part in measured.groupby(keys):
        rows = sorted(part["method"].unique(), key=lambda name: (name == ORACLE, method_order(name)))
        columns = [name for name in class_order(report.targets()) if name in set(part["open_classes"])]
        part = part.assign(cell=[report.cell(row) for row in part.itertuples()])
        wide = part.pivot(index="method", columns="open_classes", values=["cell", "mean"])
        best = _best(wide["mean"].loc[rows, columns].astype(float), metric, list(filter(report.is_ranked, rows)))
        heads = pd.MultiIndex.from_tuples([(name, "") for name in columns])
        cells = wide["cell"].loc[rows, columns].fillna(DASH).set_axis(heads, axis=1).rename_axis(None)
        how = f"preset {preset}, {alignment.replace('_', ' ')} labels"
        title = f"Table {number}, {NAMES.get(dataset, dataset)}, {UNITS[metric]}: all methods, measured ({how})"
        note = (
            f"{_intervals(metric)} {DASH}: no run. Bold: best of a column that holds two rivals or more; the oracle, "
        )
        note += "which reads the true labels, and online forms are not ranked."
        out.append(Shape(title, cells, best.set_axis(heads, axis=1), note))
    return out


def export(number, runs):
    """Write results/tables/tableN.csv (tidy), tableN.tex (the paper's shape) and tableN_all.tex (all methods).

    Returns: the tidy table, and both lists of Shapes. Without a run of its open classes there is no tableN_all.tex.
    """
    table = paper_table(number, runs)
    shapes, appendix = paper_shapes(number, table), all_methods(number, table)
    folder = results_dir() / "tables"
    write_csv(folder / f"table{number}.csv", table.round(6))
    write_text(folder / f"table{number}.tex", "\n".join(map(as_latex, shapes)))
    longer = folder / f"table{number}_all.tex"
    if appendix:
        write_text(longer, "\n".join(map(as_latex, appendix)))
    else:
        longer.unlink(missing_ok=True)  # of runs that are gone
    return table, shapes, appendix
