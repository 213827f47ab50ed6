"""Settings are chosen where no open image and no test image of the real comparison can be seen."""

from collections import Counter

import pandas as pd
import pytest
import yaml
from test_report import frame, save

from fer_openset import ablation_report, arrays, datasets, report, trials
from fer_openset.datasets import classes_of, load_dataset
from fer_openset.errors import UserError
from fer_openset.methods import POSTHOC, method_settings
from fer_openset.protocol import make_protocol
from fer_openset.run_table import trials_path
from fer_openset.settings import PRESETS
from workflow.grid import load_grid

WHERE = {"dataset": "synthetic_trials", "preset": "demo", "open_classes": "anger"}


@pytest.fixture
def both(workplace):
    return load_dataset("synthetic", "smoke"), load_dataset("synthetic_trials", "smoke", open_classes="anger")


def test_a_trial_holds_known_training_images_alone_and_they_are_the_same_pictures(both):
    whole, trial = both
    assert trial.name == "synthetic_trials" and trial.source == whole.source
    assert trial.classes == tuple(c for c in whole.classes if c != "surprise")
    before = whole.table.loc[trial.table.index]
    assert (before["label"] == trial.table["label"]).all() and "surprise" not in set(before["label"])
    assert (before.loc[trial.table["split"] != "valid", "split"] == "train").all()
    assert (before.loc[trial.table["split"] == "valid", "split"] == "valid").all()
    left = whole.table[(whole.table["label"] != "surprise") & (whole.table["split"] != "test")]
    assert list(trial.table.index) == list(left.index)
    assert (trial.images[:] == whole.images[whole.rows(trial.table.index)]).all()


def test_a_share_of_each_class_is_held_out_and_becomes_the_known_part_of_the_pool(both):
    whole, trial = both
    counts = whole.table[whole.table["split"] == "train"]["label"].value_counts()
    held_out = trial.table[trial.table["split"] == "test"]["label"].value_counts()
    assert held_out.to_dict() == {c: round(0.25 * counts[c]) for c in trial.classes}
    protocol = make_protocol(trial.table, trial.classes, "anger")
    assert protocol.known_classes == tuple(c for c in trial.classes if c != "anger")
    assert protocol.pool["is_open"].sum() == counts["anger"]
    assert set(protocol.pool.index).isdisjoint(protocol.train.index)


def write(folder, stem, **values):
    (folder / f"{stem}.yaml").write_text(yaml.safe_dump(values))


def test_who_is_held_out_does_not_depend_on_the_classes_left_out(both, monkeypatch, tmp_path):
    for file in datasets.PARAMS.glob("synthetic*.yaml"):
        (tmp_path / file.name).write_text(file.read_text())
    monkeypatch.setattr(datasets, "PARAMS", tmp_path)
    write(tmp_path, "other_trials", reader="synthetic", trial={"without": ["fear", "anger"]})
    other = load_dataset("other_trials", "smoke").table
    common = both[1].table.index.intersection(other.index)
    assert len(common) and (other.loc[common, "split"] == both[1].table.loc[common, "split"]).all()
    assert classes_of("other_trials", "smoke", "") == ("surprise", "disgust", "happiness", "sadness", "neutral")


@pytest.mark.parametrize(
    ("stem", "values", "said"),
    [
        ("x_trials", {}, "name that ends in _trials"),
        ("x", {"trial": {"without": ["surprise"]}}, "name that ends in _trials"),
        ("x_trials", {"trial": ["surprise"]}, "must hold lines"),
        ("x_trials", {"trial": {}}, "without"),
        ("x_trials", {"trial": {"without": []}}, "without"),
        ("x_trials", {"trial": {"without": ["suprise"]}}, "did you mean 'surprise'"),
        ("x_trials", {"trial": {"without": ["surprise"], "test_share": 1.0}}, "test_share = 1.0"),
        ("x_trials", {"trial": {"without": ["surprise"], "share": 0.5}}, "unknown key 'share'"),
    ],
)
def test_a_mistake_in_the_settings_is_one_sentence(workplace, tmp_path, monkeypatch, stem, values, said):
    (tmp_path / "synthetic.yaml").write_text((datasets.PARAMS / "synthetic.yaml").read_text())
    monkeypatch.setattr(datasets, "PARAMS", tmp_path)
    write(tmp_path, stem, reader="synthetic", **values)
    with pytest.raises(UserError) as found:
        load_dataset(stem, "smoke")
    assert said in str(found.value) and "\n" not in str(found.value)


def test_the_class_left_out_cannot_be_opened(workplace):
    with pytest.raises(UserError, match="surprise"):
        make_protocol(*(lambda d: (d.table, d.classes))(load_dataset("synthetic_trials", "smoke")), "surprise")


def test_every_trained_method_gets_the_same_number_of_trials_with_settings_that_it_has():
    sets = trials.trial_sets()
    assert set(Counter(len(found.variants) for found in sets.values())) == {3}
    for name in ("trials_synthetic", "trials_ferplus"):
        grid = load_grid(f"params/grids/{name}.yaml")
        trained = {m for m in grid.methods if m not in POSTHOC}
        assert trained == set(sets) and set(grid.ablations) == {f"trials_{m}" for m in sets}
    for method, found in sets.items():
        for preset in PRESETS:
            default = method_settings(method, preset, {})
            settings = [method_settings(method, preset, o) for o in found.in_preset(preset).values()]
            assert len({str(s) for s in (default, *settings)}) == 4, (method, preset)


def four(method, *aurocs):
    names = ("default", *trials.trial_sets()[method].variants)
    return [{**WHERE, "method": method, "variant": v, "auroc": a} for v, a in zip(names, aurocs, strict=False)]


def test_the_best_trial_is_ticked_and_none_of_a_method_that_lacks_one():
    rows = frame({**WHERE, "method": "msp", "auroc": 0.99}, *four("eow", 0.5, 0.7, 0.6, 0.7), *four("dias", 0.6, 0.9),
                 {**WHERE, "method": "eow", "auroc": 0.1, "dataset": "ferplus_trials"})  # fmt: skip
    table = trials.trial_table(rows, "synthetic_trials", "demo")
    assert table["method"].tolist() == ["msp", "dias", "dias", "eow", "eow", "eow", "eow"]
    assert table["chosen"].tolist() == ["", "", "", "", "✓", "", ""]
    assert table.loc[4, "changed"] == "lr: 0.0003" and table.loc[3, "changed"] == ""
    even = trials.trial_table(frame(*four("eow", 0.7, 0.7, 0.7, 0.7)), "synthetic_trials", "demo")
    assert even["chosen"].tolist() == ["✓", "", "", ""]
    assert trials.trial_table(rows[:0], "synthetic_trials", "demo").empty


def test_trials_have_a_table_of_their_own_and_are_in_no_other(workplace):
    runs = workplace.results / "runs"
    save(runs, **WHERE, variant="try_fast", method="eow")
    save(runs, **(WHERE | {"dataset": "synthetic"}), method="eow")
    assert report.write_tables()["dataset"].tolist() == ["synthetic"]
    assert report.read_runs()["dataset"].tolist() == ["synthetic"]
    assert trials.read_trials()[["dataset", "variant"]].to_numpy().tolist() == [["synthetic_trials", "try_fast"]]
    report.write_tables(workplace.results / "nothing")  # the committed rows stay
    assert len(pd.read_csv(trials_path())) == 1
    assert [path.parts[-9] for path, _ in report.finished_runs()] == ["synthetic"]
    assert [folder.dataset for folder in arrays.run_folders()] == ["synthetic"]
    assert arrays.write_shares().empty and ablation_report.write_epochs().empty
