"""The results browser: menus that narrow each other, pictures of the run they name, tables where nobody can click."""

import json
from types import SimpleNamespace

import IPython
import numpy as np
import pandas as pd
import pytest

from fer_openset import arrays, browser, metrics, report
from fer_openset.errors import UserError

RUNS = [
    ("synthetic", "demo", "surprise", "msp", "aligned"),
    ("synthetic", "demo", "surprise", "energy", "as_released"),
    ("synthetic", "smoke", "fear", "msp", "aligned"),
    ("mine", "demo", "huh", "msp", "aligned"),
]


def write_run(results, dataset, preset, open_classes, method, alignment):
    root = results / "runs" / dataset / preset / open_classes / "seed0"
    folder = root / "methods" / method / alignment / "default"
    for made in (folder, root / "pseudo_labels"):
        made.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(method))
    ids, is_open = [f"i{k}" for k in range(60)], np.arange(60) % 3 == 0
    parts = np.where(is_open, "open test", "closed test")
    pd.DataFrame({"sample_id": ids[::-1], "part": parts[::-1]}).to_csv(root / "pseudo_labels/pseudo_labels.csv")
    scores = rng.normal(size=60) + 2 * is_open
    pd.DataFrame({"sample_id": ids, "open_score": scores}).to_csv(folder / "scores.csv", index=False)
    row = dict.fromkeys(report.RUN_COLUMNS, 0.5) | {"dataset": dataset, "preset": preset, "open_classes": open_classes}
    row |= {"method": method, "alignment": alignment, "variant": "default", "seed": 0}
    row["auroc"] = metrics.auroc(scores, is_open)
    (folder / "run.json").write_text(json.dumps({"row": row}))
    return folder


@pytest.fixture
def results(workplace):
    for run in RUNS:
        write_run(workplace.results, *run)
    return workplace.results


def values(found):
    return tuple(menu.value for menu in found.menus)


def test_the_runs_at_hand(results):
    (results / "runs/mine/demo/huh/seed0/methods/torn/aligned/default").mkdir(parents=True)
    (results / "runs/mine/demo/huh/seed0/methods/torn/aligned/default/run.json").write_text("{")
    found = browser.choices()
    assert [choice.names for choice in found] == [
        ("mine", "demo", "huh", "msp, seed 0"),
        ("synthetic", "demo", "surprise", "energy, as released, seed 0"),
        ("synthetic", "demo", "surprise", "msp, seed 0"),
        ("synthetic", "smoke", "fear", "msp, seed 0"),
    ]
    outcome = browser.outcome(found[0])  # joined by id, not by position
    assert metrics.auroc(outcome["open_score"], outcome["is_open"]) == found[0].row["auroc"]


def test_each_menu_narrows_the_next_and_the_last_shows_the_run(results):
    found = browser._Browser(browser.choices())
    assert values(found) == ("mine", "demo", "huh", "msp, seed 0")
    assert all(bytes(image.value).startswith(b"\x89PNG") for image in found.images)
    before = found.images[1].value
    found.menus[0].value = "synthetic"
    assert values(found) == ("synthetic", "demo", "surprise", "msp, seed 0")  # what was said stays where it can
    assert found.menus[1].options == ("demo", "smoke") and "surprise" in found.row.value
    found.menus[3].value = "energy, as released, seed 0"
    assert "as_released" in found.row.value and found.images[1].value != before
    found.menus[1].value = "smoke"
    assert values(found) == ("synthetic", "smoke", "fear", "msp, seed 0")


def test_scores_that_are_gone_are_said(results):
    folder = results / "runs/mine/demo/huh/seed0/methods/msp/aligned/default"
    (folder / "scores.csv").unlink()
    found = browser._Browser(browser.choices())
    assert "run it again" in found.row.value and found.images[0].value == b""
    found.menus[0].value = "synthetic"
    assert bytes(found.images[0].value).startswith(b"\x89PNG")
    (results / "runs/synthetic/demo/surprise/seed0/pseudo_labels/pseudo_labels.csv").write_text("sample_id,part\n")
    with pytest.raises(UserError, match="scores or pool are not readable"):
        browser.outcome(browser.choices()[1])


def test_where_nobody_can_click_there_are_tables(results, monkeypatch):
    runs = report.collect_runs()
    runs.to_csv((results / "tables").mkdir() or results / "tables" / "runs.csv", index=False)
    page = browser.browse().data
    assert "synthetic, preset demo: AUROC" in page and "mine, preset demo: AUROC" in page and "smoke" not in page

    def kernel(metadata):
        return lambda: SimpleNamespace(kernel=SimpleNamespace(get_parent=lambda channel: {"metadata": metadata}))

    monkeypatch.setattr(IPython, "get_ipython", kernel({}))
    assert browser.browse().data == page
    monkeypatch.setattr(IPython, "get_ipython", kernel({"cellId": "a"}))
    assert type(browser.browse()).__name__ == "VBox"


def test_in_the_tables_only_default_variants_compete(results):
    row = dict.fromkeys(report.RUN_COLUMNS, 0.5) | dict(
        zip(report.KEY, [*"dpo", "aligned", "msp", "default", 0], strict=True)
    )
    others = [{"method": "energy", "auroc": 0.4}, {"auroc": 0.9, "variant": "pool_blur"}]
    page = browser.static_table(pd.DataFrame([row, *({**row, **other} for other in others)])).data
    assert page.count("<b>") == 1 and "<b>0.500 [" in page and "0.900 [" in page


def committed(results):
    """Table and scores of the runs as a clone holds them; the smoke run is not among them."""
    report.write_tables()
    for where in arrays.run_folders():
        (where.pseudo_labels / "run.json").write_text("{}")
        for path in where.root.glob("methods/*/*/*/run.json"):
            path.write_text(json.dumps({"commit": "c", "settings": {}, **json.loads(path.read_text())}))
            scores = pd.read_csv(path.parent / "scores.csv").set_index("sample_id")
            scores.loc[[f"i{k}" for k in range(59, -1, -1)]].to_csv(path.parent / "scores.csv")  # the pool's order
        arrays.write_arrays("scores", where, *arrays.score_arrays(where))


def test_in_a_fresh_clone_the_committed_scores_are_browsed(results):
    at_hand = browser.choices()
    committed(results)
    (results / "runs").rename(results / "gone")
    found = browser.choices()
    assert [c.names for c in found] == [c.names for c in at_hand if c.preset != "smoke"]
    outcome = browser.outcome(found[0])
    assert metrics.auroc(outcome["open_score"], outcome["is_open"]) == pytest.approx(found[0].row["auroc"], abs=1e-6)
    assert len(outcome) == 60 and outcome.index.name == "sample_id"
    shown = browser.browse(interactive=True)
    assert type(shown).__name__ == "VBox" and "msp" in shown.children[1].value
    assert all(bytes(image.value).startswith(b"\x89PNG") for image in shown.children[2].children)


def test_a_run_at_hand_comes_before_the_committed_one_and_damage_hides_only_itself(results):
    committed(results)
    assert len(browser.choices()) == 4 and all(c.folder for c in browser.choices())
    (results / "runs/mine").rename(results / "gone")
    assert [c.folder is None for c in browser.choices()] == [True, False, False, False]
    lost = browser.choices()[0]
    arrays.arrays_path("scores", arrays.RunFolder("mine", "demo", "huh", 0)).write_bytes(b"torn")
    assert len(browser.choices()) == 3
    with pytest.raises(UserError, match="no scores of msp/aligned; restore the file"):
        browser.outcome(lost)


def test_without_runs_there_is_a_sentence(workplace):
    assert browser.browse(interactive=True).data == f"<p>{report.NO_RUNS}</p>"
