"""Which runs may stand beside the paper's numbers: those whose networks started as the authors' did, and no others."""

import pandas as pd
import pytest

from fer_openset import paper_tables, report, variants
from fer_openset.closed_set import closed_set_settings
from fer_openset.eligibility import with_reasons

START = {"init": "pretrained", "weights": "/somewhere/resnet18_msceleb.pth"}
RECORD = {"path": START["weights"], "sha256": "0" * 64, "backbone": "resnet18", "trained_on": ""}
COLUMNS = [*variants.KEY, *variants.JSON]


def starts(dataset="ferplus", open_classes="surprise", seed="0", settings=START, record=RECORD, **methods):
    """A table of variants: f_close of one run, and methods {id: settings, or (settings, record of the weights)}."""
    whole = closed_set_settings("paper").model_dump(mode="json") | settings
    at = dataset, "paper", open_classes, seed
    rows = [(*at, "closed_set", "default", whole, record)]
    for method, of in methods.items():
        own, weights = of if isinstance(of, tuple) else (of, {})
        rows.append((*at, method, "default", own, weights))
    return pd.DataFrame(rows, columns=COLUMNS)


def reason(table, **change):
    run = {"dataset": "ferplus", "preset": "paper", "open_classes": "surprise", "seed": 0, "method": "msp",
           "variant": "default"}  # fmt: skip
    return with_reasons(pd.DataFrame([run | change]), table)["why_not"].item()


def test_the_authors_start_has_no_reason_against_it():
    table = starts(eow={"init": "f_close"}, noisy_label=(START, RECORD), disagreement={})
    for method in ("msp", "eow", "noisy_label", "disagreement"):
        assert reason(table, method=method) == ""
    assert reason(starts(noisy_label={"init": "scratch"}), method="noisy_label") == ""  # as the paper's text says
    assert reason(starts().iloc[:0], preset="cpu") == ""  # its preset is reason enough


@pytest.mark.parametrize(
    ("method", "own", "words"),
    [
        ("eow", {"init": "scratch"}, "eow started from random weights"),
        ("dias", {"init": "scratch"}, "dias started from random weights"),
        ("noisy_label", (START | {"weights": "torchvision:resnet18"}, RECORD),
         "noisy_label started from torchvision:resnet18"),
        ("noisy_label", START, "noisy_label has no record of its initial weights"),
    ],
)  # fmt: skip
def test_a_network_of_the_methods_own_must_have_started_there_too(method, own, words):
    assert reason(starts(**{method: own}), method=method) == words
    assert reason(starts(), method=method) == f"{method} of this open class and seed has no record"


@pytest.mark.parametrize(
    ("settings", "record", "words"),
    [
        ({"init": "scratch"}, {}, "f_close started from random weights"),
        ({"weights": "torchvision:resnet18"}, {"path": "torchvision:resnet18", "trained_on": ""},
         "f_close started from torchvision:resnet18"),
        ({"weights": "pretraining/body.safetensors"}, {"path": "pretraining/body.safetensors", "trained_on": "known"},
         "f_close started from pretraining/body.safetensors"),
        ({}, RECORD | {"trained_on": "known+pool"},  # whatever its name
         "f_close started from weights pretrained here on images known+pool"),
        ({}, {}, "f_close has no record of its initial weights"),
    ],
)  # fmt: skip
def test_other_weights_are_not_the_authors(settings, record, words):
    table = starts(settings=START | settings, record=record)
    assert reason(table) == words
    assert reason(pd.concat([table, starts(eow={"init": "f_close"}).iloc[1:]]), method="eow") == words


def test_the_start_is_that_of_the_runs_own_open_class_and_seed():
    table = pd.concat([starts(open_classes="fear"), starts(seed="1"), starts(dataset="rafdb")])
    assert reason(table) == "f_close of this open class and seed has no record"
    assert reason(table, open_classes="fear") == reason(table, seed=1) == reason(table, dataset="rafdb") == ""
    other = pd.concat([starts(), starts(open_classes="fear", settings={"init": "scratch"})])
    assert reason(other) == "" and reason(other, open_classes="fear") == "f_close started from random weights"


@pytest.mark.parametrize(
    ("override", "words"),
    [({"epochs": 3}, "epochs 3"), ({"layout": "vggface2"}, "layout vggface2"), ({"mirror": True}, "mirror True")],
)
def test_an_f_close_of_another_recipe_is_not_the_authors(override, words):
    assert reason(starts(settings=START | override)) == f"f_close with {words}"
    assert reason(starts(settings=START | {"weights_sha256": "0" * 64})) == ""  # the same file, checked
    assert reason(starts(settings=START | {"gone": 1})) == "f_close has settings of another version"


def test_the_table_of_an_earlier_version_gives_no_verdict(workplace):
    path = variants.variants_path()
    path.parent.mkdir(parents=True)
    path.write_text(
        'dataset,preset,method,variant,settings\nferplus,paper,closed_set,default,"{""init"": ""scratch""}"\n'
    )
    assert reason(variants.read_variants()) == "f_close of this open class and seed has no record"


def test_every_seed_and_every_class_of_a_mean_must_be_comparable():
    row = dict.fromkeys(report.RUN_COLUMNS, 0.5) | {"dataset": "ferplus", "preset": "paper", "alignment": "aligned"}
    row |= {"method": "msp", "variant": "default"}
    classes = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")
    runs = pd.DataFrame([row | {"open_classes": c, "seed": seed} for c in classes for seed in (0, 1)])
    table = pd.concat([starts(open_classes=c, seed=seed) for c in classes for seed in "01"])

    def verdicts(table):
        found = paper_tables.paper_table("1", runs, table)
        found = found[(found["dataset"] == "ferplus") & (found["method"] == "msp") & (found["metric"] == "auroc")]
        return found.set_index("open_classes")["verdict"]

    assert set(verdicts(table)) <= {"match", "better", "worse"} and len(verdicts(table)) == 8
    broken = table[(table["open_classes"] != "fear") | (table["seed"] == "0")]
    words = "not comparable (f_close of this open class and seed has no record)"
    said = verdicts(broken)
    assert said["fear"] == said["mean"] == words and (said == words).sum() == 2
