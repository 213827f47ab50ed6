"""The audit finds a scramble that was planted, and finds none where there is none."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from tiny import CPU, small_net, tiny_dataset

from fer_openset import audit, audit_epochs, audit_runs, closed_set, closed_step, pipeline, protocol
from fer_openset.audit_tables import table_path
from fer_openset.closed_set import closed_set_settings
from fer_openset.errors import UserError
from fer_openset.labels import BASIC
from fer_openset.protocol import align, make_protocol, released_source
from fer_openset.settings import RunParameters


def test_published_counts_give_the_recorded_tests():
    counts = audit.released_counts()
    known = list(BASIC[1:])
    assert counts.loc["open train"].sum() == 1290 and counts.loc["open test"].sum() == 329
    assert counts.loc[audit.TRUE_LABELS].sum() == 12271
    shares = audit.random_image_shares(counts.loc[audit.TRUE_LABELS], counts.loc["open test", known], ["surprise"])
    assert shares.sum() == pytest.approx(1)
    statistic, dof, p = audit.chi_square_fit(counts.loc["open train", known], shares)
    assert (round(statistic, 1), dof, round(p, 2)) == (2.4, 5, 0.80)
    statistic, dof, p = audit.chi_square_two(counts.loc["open train", known], counts.loc["open test", known])
    assert (round(statistic), dof) == (192, 5) and 1e-39 < p < 2e-39
    assert audit.entropy_share(counts.loc["open train", known]) == pytest.approx(0.835, abs=1e-3)


def test_chi_square_edges():
    assert audit.chi_square_two([5, 0, 0], [9, 0, 0]) == (0.0, 0, 1.0)
    assert audit.entropy_share([4, 4]) == 1 and audit.entropy_share([4, 0]) == 0


SURPRISED = (0.6, 0.2, 0.05, 0.05, 0.05, 0.05)  # how f_close labels open images


def published(folder, scrambled, moved_name="train_%05d"):
    """A label list like RAF-DB's and pseudo labels of its surprise images, read by position or as they belong."""
    rng = np.random.default_rng(0)
    names = [moved_name % i for i in range(1, 3001)]
    numbers = rng.integers(1, 8, 3000)
    tests = [f"test_{i:04d}.jpg {k}" for i, k in enumerate(rng.integers(1, 8, 700), 1)]
    label_list = folder / "list_patition_label.txt"
    label_list.write_text("\n".join([f"{n}.jpg {k}" for n, k in zip(names, numbers, strict=True)] + tests) + "\n")
    says = np.where(numbers == 1, rng.choice(6, 3000, p=SURPRISED), numbers - 2)  # f_close: right about known images
    source = pd.Index(names).get_indexer(released_source(pd.Index(names)))
    lines = [f"/home/me/{n}_aligned.jpg {says[source[i]] if scrambled else says[i]}\n"
             for i, n in enumerate(names) if numbers[i] == 1]  # fmt: skip
    file = folder / "predicted_labels_open0.txt"
    for test in tests:
        name, number = test.split(".jpg ")
        label = rng.choice(6, p=SURPRISED) if number == "1" else int(number) - 2
        lines.append(f"/home/me/{name}_aligned.jpg {label}\n")
    file.write_text("".join(lines))
    return file, label_list


def test_replay_recognises_the_scramble(tmp_path):
    found = audit.replay(*published(tmp_path, scrambled=True))
    assert found.agree == found.hits_known and found.hits_known > 300
    assert found.open_train == found.hits_known + found.hits_open
    assert found.best_random < 0.3


@pytest.mark.parametrize("scrambled", [True, False])
def test_counts_of_a_file_tell_whether_its_labels_belong(tmp_path, scrambled):
    file, label_list = published(tmp_path, scrambled)
    with file.open("a") as more:  # a known training image: no pool holds it
        more.write("train_99999_aligned.jpg 0\n")
    with label_list.open("a") as more:
        more.write("train_99999.jpg 2\n")
    counts = audit.count_published(file, label_list)
    assert list(counts.columns) == list(audit.released_counts().columns) == list(BASIC)
    assert set(counts.index) == set(audit.released_counts().index)
    numbers = [line.split() for line in label_list.read_text().splitlines()]
    n_open = sum(name.startswith("train") and k == "1" for name, k in numbers)
    assert counts.loc["open train"].sum() == n_open and counts.loc[audit.TRUE_LABELS].sum() == 3001
    assert counts.loc[["closed test", "open test"]].sum().sum() == 700 and not counts.loc["open train", "surprise"]
    known = list(BASIC[1:])
    train, test = counts.loc["open train", known], counts.loc["open test", known]
    shares = audit.random_image_shares(counts.loc[audit.TRUE_LABELS], test, ["surprise"])
    said = audit.verdict(audit.chi_square_two(train, test)[2]), audit.verdict(audit.chi_square_fit(train, shares)[2])
    assert said == (("not labelled like", "labelled like") if scrambled else ("labelled like", "not labelled like"))
    assert audit.verdict(float("nan")) == "not comparable with"


def test_counts_agree_with_the_replay(tmp_path):
    files = published(tmp_path, scrambled=True)
    assert audit.count_published(*files).loc["open train"].sum() == audit.replay(*files).open_train


def test_replay_finds_nothing_in_labels_that_belong(tmp_path):
    found = audit.replay(*published(tmp_path, scrambled=False))
    assert 0.1 < found.agree / found.hits_known < 0.25


def test_files_that_do_not_fit_are_named(tmp_path):
    file, label_list = published(tmp_path, scrambled=True)
    with pytest.raises(UserError, match="have no line in it"):
        audit.replay(file, label_list, "fear")
    with pytest.raises(UserError, match="not readable as text"):
        audit.replay(tmp_path / "none.txt", label_list)
    with file.open("a") as more:
        more.write("test_9999_aligned.jpg 1\n")
    with pytest.raises(UserError, match="no line for 1 images .*first: test_9999"):
        audit.count_published(file, label_list)
    file.write_text("train_00001_aligned.jpg 9\n")
    with pytest.raises(UserError, match="line 1: expected an image's name and a number from 0 to 5"):
        audit.replay(file, label_list)


def test_recorded_replay_is_complete():
    found = audit.recorded_replay()
    assert found.open_train == found.hits_known + found.hits_open == 1290
    assert (found.agree, found.best_random, found.at_own_place) == (1146, 0.28, 0)


def test_probe_sees_labels_that_depend_on_the_image_and_no_others():
    dataset = tiny_dataset({"train": 40}, BASIC, noise=60.0)
    labels = dataset.table["label"].to_numpy()
    bits, lo, hi = audit.probe_information(dataset.images, labels)
    assert 0.5 < lo < bits < hi < np.log2(7)
    shuffled = np.random.default_rng(0).permutation(labels)
    bits, lo, hi = audit.probe_information(dataset.images, shuffled)
    assert lo < 0.01 and bits < 0.05
    assert np.isnan(audit.probe_information(dataset.images[:3], labels[:3])).all()
    assert audit.probe_information(dataset.images[:9], labels[:1].repeat(9)) == (0, 0, 0)


# Runs.


@pytest.fixture
def place(workplace, monkeypatch):
    dataset = tiny_dataset({"train": 40, "valid": 2, "test": 30})
    for module in (pipeline, protocol):
        monkeypatch.setattr(module, "load_dataset", lambda *given, **more: dataset)
    monkeypatch.setattr(pipeline, "pick_device", lambda: CPU)
    monkeypatch.setattr(closed_set, "new_net", small_net)
    monkeypatch.setattr(closed_set, "PARAMS", workplace.results / "closed_set.yaml")
    workplace.results.mkdir()
    (workplace.results / "closed_set.yaml").write_text(
        "image_size: 32\nlr: 0.02\nepochs: 3\nbatch_size: 16\nflip: 0.0\npresets: {smoke: {}, demo: {}}\n"
    )
    return workplace


def opened(preset="demo", seed=0):
    given = {"dataset": "tiny", "open_classes": "sadness", "preset": preset, "seed": seed}
    return pipeline.open_step(RunParameters.build(given, "test"))


def with_pseudo_labels(step):
    settings = closed_set_settings("demo")
    model, history = closed_set.train_closed_set(step.dataset, step.protocol, settings, CPU, 0, step.folder.closed_set)
    closed_step.save_closed_set(step, settings, history)
    outputs = closed_set.closed_outputs(model, step.dataset, step.protocol, settings, CPU)
    pipeline.save_pseudo_labels(step, settings, outputs)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_pool_with_open_images_of_one_split_is_counted_and_does_not_stop_the_audit(place, monkeypatch, capsys, split):
    whole = tiny_dataset({"train": 10, "valid": 2, "test": 6})
    kept = ((whole.table["label"] != "sadness") | (whole.table["split"] == split)).to_numpy()
    dataset = replace(whole, table=whole.table[kept], images=whole.images[kept])
    for module in (pipeline, protocol):
        monkeypatch.setattr(module, "load_dataset", lambda *given, **more: dataset)
    with_pseudo_labels(opened())
    capsys.readouterr()
    tables = audit_runs.write_tables()
    absent = {"train": "open test", "test": "open train"}[split]
    assert f"the pool has no {absent} images, so its labels are counted but not compared" in capsys.readouterr().out
    assert tables["audit_labels"].empty and set(tables["audit_counts"]["part"]) == {"closed test", f"open {split}"}


def test_scrambled_labels_of_a_run_are_told_from_its_aligned_ones(place):
    with_pseudo_labels(opened())
    tables = audit_runs.write_tables()
    labels = tables["audit_labels"].set_index("alignment")
    right, scrambled = labels.loc["aligned"], labels.loc["as_released"]
    assert right["own_label"] == 1 and scrambled["own_label"] < 0.6
    assert right["p_split"] < 1e-6 and scrambled["p_split"] > 0.01  # the labels of random images: scrambled ones only
    assert scrambled["p_test"] < 0.01 < right["p_test"]
    assert scrambled["bits_lo"] < 0.02
    counts = tables["audit_counts"].groupby(["alignment", "part"])["n"].sum()
    assert counts["aligned"].to_dict() == {"closed test": 180, "open test": 30, "open train": 40}
    again = audit_runs.write_tables(place.results / "none")  # from the committed rows alone
    assert len(again["audit_labels"]) == 2 and len(again["audit_counts"]) == len(tables["audit_counts"])


def test_following_f_close_gives_the_epochs_of_a_plain_training_and_resumes(place, monkeypatch):
    step = opened()
    table = audit_epochs.follow(step)
    assert len(table) == 3 * 2 * 4 and table_path("audit_epochs").exists()
    model, _ = closed_set.train_closed_set(
        step.dataset, step.protocol, closed_set_settings("demo"), CPU, 0, place.results / "plain"
    )
    outputs = closed_set.closed_outputs(model, step.dataset, step.protocol, closed_set_settings("demo"), CPU).logits
    last = pd.DataFrame(list(audit_epochs.scored(step, outputs)))
    pd.testing.assert_frame_equal(table[table["epoch"] == 3][last.columns].reset_index(drop=True), last)
    grouped = table[table["epoch"] == 3].set_index(["alignment", "method"])["auroc"]
    assert grouped["aligned", "msp"] == pytest.approx(grouped["aligned", "pseudo_label_ce"])
    assert grouped["as_released", "pseudo_label_ce"] > grouped["as_released", "msp"] + 0.2

    def never(*arguments):
        raise AssertionError("trained again")

    monkeypatch.setattr(closed_set, "train_view", never)
    pd.testing.assert_frame_equal(audit_epochs.follow(step), table)


def test_smoke_leaves_no_rows(place):
    assert len(audit_epochs.follow(opened("smoke"), epochs=1)) == 8
    assert not table_path("audit_epochs").exists()


def test_alignment_is_all_that_differs_between_the_rows(place):
    step = opened()
    protocol = make_protocol(step.dataset.table, step.dataset.classes, "surprise")
    ids = protocol.pool.index.union(protocol.train_split, sort=False)
    rng = np.random.default_rng(0)
    outputs = pd.DataFrame(rng.normal(size=(len(ids), 6)), index=ids, columns=list(protocol.known_classes))
    rows = pd.DataFrame(list(audit_epochs.scored(step, outputs)))
    assert rows.groupby("method")["train_accuracy"].nunique().max() == 1
    moved = align(outputs, protocol, "as_released", 0)
    assert not moved.equals(align(outputs, protocol, "aligned", 0))
