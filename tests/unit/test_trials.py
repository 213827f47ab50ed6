"""Settings are chosen where no open image and no test image of the real comparison can be seen."""

import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml
from test_report import frame, save
from tiny import CPU

from fer_openset import ablation_report, arrays, datasets, online, report, trials, variants
from fer_openset.datasets import classes_of, list_dataset, load_dataset
from fer_openset.datasets.check import check_data
from fer_openset.datasets.store import Listing
from fer_openset.datasets.trial import TrialSettings, restricted
from fer_openset.errors import UserError
from fer_openset.methods import POSTHOC, method_settings
from fer_openset.pretrained import _refuse_leak, place_of
from fer_openset.protocol import make_protocol
from fer_openset.run_table import trials_path
from fer_openset.settings import PRESETS, DetectionParameters
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


def test_whole_persons_are_held_out_and_become_the_known_part_of_the_pool(both):
    whole, trial = both
    counts = whole.table[whole.table["split"] == "train"]["label"].value_counts()
    held_out = trial.table[trial.table["split"] == "test"]["label"].value_counts()
    assert 0.15 < held_out.sum() / counts[list(trial.classes)].sum() < 0.35
    person = list_dataset("synthetic_trials", "smoke").people
    sides = pd.DataFrame({"person": person, "split": trial.table["split"].to_numpy()}).groupby("person")["split"]
    assert sides.nunique().max() == 1 and sides.size().max() > 1
    protocol = make_protocol(trial.table, trial.classes, "anger")
    assert protocol.known_classes == tuple(c for c in trial.classes if c != "anger")
    assert protocol.pool["is_open"].sum() == counts["anger"]
    assert set(protocol.pool.index).isdisjoint(protocol.train.index)


def write(folder, stem, **values):
    (folder / f"{stem}.yaml").write_text(yaml.safe_dump(values))


@pytest.fixture
def mine(workplace, tmp_path, monkeypatch):
    """A folder in the place of params/datasets, with the settings of the synthetic faces and of FERPlus."""
    for name in ("synthetic", "ferplus"):
        (tmp_path / f"{name}.yaml").write_text((datasets.PARAMS / f"{name}.yaml").read_text())
    monkeypatch.setattr(datasets, "PARAMS", tmp_path)
    return tmp_path


def test_who_is_held_out_does_not_depend_on_the_classes_left_out(both, mine):
    write(mine, "other_trials", trial={"of": "synthetic", "without": ["fear", "anger"]})
    other = load_dataset("other_trials", "smoke").table
    common = both[1].table.index.intersection(other.index)
    assert len(common) and (other.loc[common, "split"] == both[1].table.loc[common, "split"]).all()
    assert classes_of("other_trials", "smoke", "") == ("surprise", "disgust", "happiness", "sadness", "neutral")


def test_images_without_persons_are_held_out_one_by_one():
    table = pd.DataFrame({"label": ["a", "b"] * 400, "split": "train"}, index=pd.Index(map(str, range(800))))
    listing = Listing("x", table.rename_axis("sample_id"), ("a", "b"), {}, (1, 2, 2), None, files=list("f" * 800))
    found = restricted(listing, TrialSettings(of="x", without=["b"], test_share=0.5))
    assert found.classes == ("a",) and found.left_out == ("b",) and len(found.files) == 400 and found.people is None
    assert 150 < (found.table["split"] == "test").sum() < 250


def test_classes_that_come_on_request_can_be_left_out(mine, ferplus_root):
    write(mine, "clear_trials", trial={"of": "ferplus", "without": ["surprise", "ambiguous"]})
    whole = list_dataset("ferplus", "paper", str(ferplus_root), open_classes="ambiguous")
    found = list_dataset("clear_trials", "paper", str(ferplus_root))
    clear = whole.table[~whole.table["label"].isin(["surprise", "ambiguous"]) & (whole.table["split"] != "test")]
    assert list(found.table.index) == list(clear.index) and len(found.classes) == 6


@pytest.mark.parametrize(
    ("stem", "values", "said"),
    [
        ("x_trials", {"reader": "synthetic"}, "its name ends in _trials"),
        ("x", {"trial": {"of": "synthetic", "without": ["surprise"]}}, "does not end in _trials"),
        ("x_trials", {"trial": ["surprise"]}, "must hold lines"),
        ("x_trials", {"trial": None}, "must hold lines"),
        ("x_trials", {"trial": {"of": "synthetic"}}, "without"),
        ("x_trials", {"trial": {"of": "synthetic", "without": []}}, "without"),
        ("x_trials", {"trial": {"of": "synthetik", "without": ["fear"]}}, "did you mean 'synthetic'"),
        ("x_trials", {"trial": {"of": "x_trials", "without": ["fear"]}}, "is a trial itself"),
        ("x_trials", {"trial": {"of": "synthetic", "without": ["suprise"]}}, "did you mean 'surprise'"),
        ("x_trials", {"trial": {"of": "synthetic", "without": ["fear"], "test_share": 1.0}}, "test_share = 1.0"),
        ("x_trials", {"trial": {"of": "synthetic", "without": ["fear"], "share": 0.5}}, "unknown key 'share'"),
        ("x_trials", {"trial": {"of": "synthetic", "without": ["fear"]}, "n_train": 9}, "n_train beside 'trial'"),
    ],
)
def test_a_mistake_in_the_settings_is_one_sentence(mine, stem, values, said):
    write(mine, stem, **values)
    with pytest.raises(UserError) as found:
        load_dataset(stem, "smoke")
    assert said in str(found.value) and "\n" not in str(found.value)


def test_a_trial_of_a_trial_is_refused(mine):
    write(mine, "x_trials", trial={"of": "synthetic", "without": ["fear"]})
    write(mine, "y_trials", trial={"of": "x_trials", "without": ["anger"]})
    with pytest.raises(UserError, match="x_trials is a trial itself"):
        load_dataset("y_trials", "smoke")


def test_the_class_left_out_cannot_be_opened_and_nothing_published_is_checked(both):
    with pytest.raises(UserError, match="surprise"):
        make_protocol(both[1].table, both[1].classes, "surprise")
    with pytest.raises(UserError, match="check that dataset instead"):
        check_data("synthetic_trials")


@pytest.mark.parametrize(
    ("header", "refused"),
    [
        ({"classes": ["surprise", "fear"], "images": "known"}, "trained with surprise"),
        ({"classes": ["fear", "disgust"], "images": "known+pool"}, "saw the images of a pool"),
        ({"classes": ["fear", "disgust"], "images": "known"}, "whose training images synthetic_trials tests on"),
        ({"classes": ["fear", "disgust"], "images": "known", "dataset": "synthetic_trials"}, ""),
    ],
)
def test_weights_that_saw_what_a_trial_leaves_out_are_refused(both, header, refused):
    place = place_of(both[1], [c for c in both[1].classes if c != "anger"], 0)
    assert place.open == "anger" and place.left_out == ("surprise",)
    given = {"dataset": "synthetic", "source": "synthetic", **header}
    if not refused:
        return _refuse_leak("w", given, place)
    with pytest.raises(UserError, match=refused):
        _refuse_leak("w", given, place)


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


def four(method, *aurocs, **more):
    names = ("default", *trials.trial_sets()[method].variants)
    pairs = zip(names, aurocs, strict=False)
    return [{**WHERE, "method": method, "variant": v, "auroc": a, **more} for v, a in pairs]


def ticked(*rows):
    table = trials.trial_table(frame(*rows), "synthetic_trials", "demo")
    return table.loc[table["chosen"] == "✓", ["open_classes", "variant"]].to_numpy().tolist()


def test_the_best_trial_is_ticked_and_none_of_a_method_that_lacks_one():
    rows = frame({**WHERE, "method": "msp", "auroc": 0.99}, *four("eow", 0.5, 0.7, 0.6, 0.7), *four("dias", 0.6, 0.9),
                 {**WHERE, "method": "eow", "auroc": 0.1, "dataset": "ferplus_trials"},
                 *four("eow", 0.9, alignment="as_released"))  # fmt: skip
    table = trials.trial_table(rows, "synthetic_trials", "demo")
    assert table["method"].tolist() == ["msp", "dias", "dias", "eow", "eow", "eow", "eow"]
    assert table["chosen"].tolist() == ["", "", "", "", "✓", "", ""]
    assert table.loc[4, "changed"] == "lr: 0.0003" and table.loc[3, "changed"] == ""
    assert trials.trial_table(rows[:0], "synthetic_trials", "demo").empty


def test_trials_are_compared_within_a_class_and_over_common_seeds_and_equal_ones_stay_as_they_are():
    assert ticked(*four("eow", 0.7, 0.7, 0.7, 0.7)) == [["anger", "default"]]
    fear = four("eow", 0.9, open_classes="fear")
    assert ticked(*four("eow", 0.5, 0.6, 0.6), *fear) == []
    both = ticked(*four("eow", 0.5, 0.6, 0.7, 0.8), *four("eow", 0.9, 0.8, 0.7, 0.6, open_classes="fear"))
    assert both == [["anger", "try_energy_less"], ["fear", "default"]]
    lucky = four("eow", 0.99, seed=1)
    assert ticked(*four("eow", 0.5, 0.6, 0.7, 0.8), *lucky) == [["anger", "try_energy_less"]]


def finished(runs, dataset):
    """A finished run with everything that a table of results reads."""
    row = WHERE | {"dataset": dataset, "method": "eow"}
    path = save(runs, **row)
    told = json.loads(path.read_text())
    share = {"estimate": 0.5, "lo": 0.4, "hi": 0.6, "true_share": 0.5, "open_flagged": 0.5, "known_flagged": 0.1}
    told |= {"settings": {"eow": {}}, "open_share": share, "commit": "c", "preset": "demo", "dataset": dataset}
    path.write_text(json.dumps(told))
    ids = pd.Index([f"i{n}" for n in range(8)], name="sample_id")
    pd.DataFrame({"1": range(8)}, index=ids).to_csv(path.parent / "epoch_scores.csv")
    labels = path.parents[4] / "pseudo_labels" / "pseudo_labels.csv"
    labels.parent.mkdir()
    pd.DataFrame({"part": ["open test", "closed test"] * 4}, index=ids).to_csv(labels)


def test_trials_have_a_table_of_their_own_and_are_in_no_other(workplace):
    for name in ("synthetic", "synthetic_trials"):
        finished(workplace.results / "runs", name)
    assert report.write_tables()["dataset"].tolist() == ["synthetic"]
    assert report.read_runs()["dataset"].tolist() == ["synthetic"]
    assert trials.read_trials()["dataset"].tolist() == ["synthetic_trials"]
    report.write_tables(workplace.results / "nothing")  # the committed rows stay
    assert len(pd.read_csv(trials_path())) == 1
    assert [row["dataset"] for _, row in report.finished_runs()] == ["synthetic"]
    assert [folder.dataset for folder in arrays.run_folders()] == ["synthetic"]
    variants.write_variants()
    tables = arrays.write_shares(), ablation_report.write_epochs(), variants.read_variants()
    assert [table["dataset"].tolist() for table in tables] == [["synthetic"]] * 3


def test_latency_of_a_trial_is_not_kept(workplace):
    for name in ("synthetic_trials", "synthetic"):
        given = {**WHERE, "dataset": f"params/datasets/{name}.yaml", "method": "pool_novelty_online"}
        step = SimpleNamespace(parameters=DetectionParameters.build(given, "test"),
                               protocol=SimpleNamespace(name="anger"), device=CPU,
                               dataset=SimpleNamespace(name=name))  # fmt: skip
        online.save_latency(step, np.array([1.0, 2.0]))
    assert online.read_latency()["dataset"].tolist() == ["synthetic"]
