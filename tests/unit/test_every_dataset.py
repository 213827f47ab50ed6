"""Each dataset from its folder to a table of runs: closed training, pseudo labels, one method, metrics."""

import numpy as np
import pytest
import trees
from tiny import CPU, SmallNet, torch

from fer_openset import closed_set, pipeline, runs
from fer_openset.datasets import classes_of, load_dataset
from fer_openset.errors import UserError
from fer_openset.labels import AMBIGUOUS, BASIC, COMPOUND, CONTEMPT, OBJECTS
from fer_openset.settings import DetectionParameters
from workflow.grid import load_grid

FOLDERS = {"rafdb_compound": "rafdb"}
# dataset, open classes; the known classes and the pool's (closed test, open train, open test) that must come of them
CASES = [
    ("rafdb", "fear+surprise", BASIC[2:], (10, 8, 4)),
    ("rafdb_compound", "compound", BASIC, (14, 22, 11)),
    ("affectnet", "contempt", BASIC, (14, 4, 2)),
    ("cifar10", "truck+dog", tuple(c for c in OBJECTS if c not in ("truck", "dog")), (16, 20, 4)),
    ("ferplus", "surprise", BASIC[1:], (14, 4, 2)),
    ("ferplus", "contempt", BASIC, (16, 2, 2)),
    ("ferplus", "ambiguous", BASIC, (14, 2, 2)),
    ("ferplus", "contempt+ambiguous", BASIC, (14, 4, 4)),
    ("synthetic", "compound", BASIC, None),
]


class ColourNet(SmallNet):
    def feature_map(self, x):
        return super().feature_map(x.mean(1, keepdim=True))


def colour_net(backbone, n_classes, seed, zero_head=True):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ColourNet(n_classes, zero_head)


@pytest.fixture
def place(workplace, monkeypatch):
    monkeypatch.setattr(pipeline, "pick_device", lambda: CPU)
    monkeypatch.setattr(closed_set, "new_net", colour_net)
    return workplace


@pytest.mark.parametrize(("dataset", "open_classes", "known", "parts"), CASES)
def test_from_the_folder_to_a_row_of_the_table(place, dataset, open_classes, known, parts):
    folder = FOLDERS.get(dataset, dataset)
    if folder in trees.WRITERS:
        trees.WRITERS[folder](place.data / folder)
    given = {"dataset": dataset, "open_classes": open_classes, "method": "msp"}
    step = pipeline.open_step(DetectionParameters.build(given, "test"))
    detection = pipeline.detect(step, pipeline.need_tasks(step))["msp"]
    row = pipeline.save_scores(step, detection, pipeline.evaluate(step, detection))
    assert step.protocol.known_classes == detection.task.f_close.classes == known
    found = step.protocol.pool["part"].value_counts()
    if parts:
        assert tuple(found.get(part, 0) for part in ("closed test", "open train", "open test")) == parts
    assert (
        detection.scores.notna().all() and row["n_open"] == found.filter(like="open").sum() and 0 <= row["auroc"] <= 1
    )
    written = runs.load_record(
        place.results / "runs" / dataset / "smoke" / row["open_classes"] / "seed0" / "closed_set"
    )
    assert written["open_classes"] == step.protocol.name
    assert classes_of(dataset, "smoke", row["open_classes"]) == step.dataset.classes


def test_what_is_asked_for_changes_nothing_else(place):
    """Contempt and ambiguous faces leave the seven-class dataset as it is, unless they are open."""
    trees.write_ferplus(place.data / "ferplus")
    plain = load_dataset("ferplus", "cpu")
    assert plain.classes == BASIC and len(plain.table) == 49 + 5  # divided votes: anger has one more
    divided = load_dataset("ferplus", "cpu", open_classes=AMBIGUOUS).table
    assert (divided["label"] == AMBIGUOUS).sum() == 5 and set(divided.index) == set(plain.table.index)
    assert (plain.table.loc[divided.index[divided["label"] == AMBIGUOUS], "label"] == "anger").all()
    contempt = load_dataset("ferplus", "cpu", open_classes="surprise+contempt").table
    assert set(contempt.index) - set(plain.table.index) == set(contempt.index[contempt["label"] == CONTEMPT])
    assert load_dataset("synthetic", "smoke", open_classes="fear").classes == BASIC
    both = load_dataset("synthetic", "smoke", open_classes="compound+contempt")
    assert both.classes == (*BASIC, CONTEMPT, *COMPOUND) and np.isin(COMPOUND, both.table["label"]).all()


@pytest.mark.parametrize(
    ("dataset", "open_classes", "words"),
    [
        ("ferplus", "contemt", "unknown expression 'contemt'; did you mean 'contempt'?"),
        ("ferplus", "compound", "unknown expression 'compound'"),
        ("rafdb", "compound", "unknown expression 'compound'"),
        ("rafdb_compound", "compund", "did you mean 'compound'?"),
        ("synthetic", "ambiguous", "unknown expression 'ambiguous'"),
        ("cifar10", "surprise", "unknown class 'surprise'. Choose from: airplane"),
        ("cifar10", "doge", "did you mean 'dog'?"),
        ("affectnet", "happy", "did you mean 'happiness'?"),
        ("affectnet", "+".join((*BASIC, CONTEMPT)), "leaves 0 of 8 classes known"),
    ],
)
def test_a_class_the_dataset_lacks_is_said_when_the_grid_is_read(tmp_path, dataset, open_classes, words):
    path = tmp_path / "mine.yaml"
    path.write_text(f"datasets: [{dataset}]\npreset: smoke\nopen_classes: [{open_classes}]\nmethods: [msp]\n")
    with pytest.raises(UserError) as caught:
        load_grid(path)
    assert str(caught.value).startswith(f"mine.yaml: {dataset}: ") and words in str(caught.value)
    with pytest.raises(UserError):
        load_dataset(dataset, "smoke", open_classes=open_classes, root="" if dataset == "synthetic" else str(tmp_path))
