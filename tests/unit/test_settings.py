"""Parameters: every mistake in a params file or a notebook's parameters cell is one sentence that names the key."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fer_openset import settings
from fer_openset.closed_set import ClosedSetSettings, closed_set_settings
from fer_openset.datasets import READERS, dataset_values
from fer_openset.errors import UserError
from fer_openset.methods import METHODS, SAME_SETTINGS, method_settings
from fer_openset.settings import DetectionParameters, RunParameters, Settings, load, read_yaml

ROOT = Path(__file__).resolve().parents[2]


class Toy(Settings):
    rate: float
    steps: int = 3
    fast: bool = False
    name: str = "x"


def toy(tmp_path, text, preset="paper", overrides=None):
    path = tmp_path / "toy.yaml"
    path.write_text(text, encoding="utf-8")
    return load(Toy, path, preset, overrides)


def test_a_relative_folder_lies_under_the_clone(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FER_OPENSET_RESULTS", "out")
    assert settings.results_dir() == ROOT / "out"
    monkeypatch.setenv("FER_OPENSET_RESULTS", str(tmp_path))
    assert settings.results_dir() == tmp_path


def test_file_then_preset_then_overrides(tmp_path):
    text = "rate: 0.5\nsteps: 7\npresets:\n  smoke: {steps: 1, name: small}\n  demo:\n"
    assert toy(tmp_path, text) == Toy(rate=0.5, steps=7)
    assert toy(tmp_path, text, "smoke") == Toy(rate=0.5, steps=1, name="small")
    assert toy(tmp_path, text, "smoke", {"steps": 2}) == Toy(rate=0.5, steps=2, name="small")
    assert toy(tmp_path, text, "demo") == toy(tmp_path, text, "cpu") == Toy(rate=0.5, steps=7)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rate: 0.5\nstep: 2\n", ["toy.yaml", "unknown key 'step'", "did you mean 'steps'?"]),
        ("steps: 2\n", ["toy.yaml", "'rate' is missing"]),
        ("rate: 1e-3\n", ["rate = '1e-3'", "valid number", "write 1.0e-4"]),
        ("rate: true\n", ["rate = True", "valid number"]),
        ("rate: 0.5\nsteps: '3'\n", ["steps = '3'", "valid integer"]),
        ("rate: 0.5\nsteps: 3.5\n", ["steps = 3.5", "valid integer"]),
        ("rate: 0.5\nfast: 'no'\n", ["fast = 'no'", "valid boolean"]),
        ("rate: 0.5\nname: 3\n", ["name = 3", "valid string"]),
        ("rate: 0.5\n3: 4\n", ["toy.yaml", "every key must be a word"]),
        ("- rate\n- steps\n", ["expected lines of `key: value`", "list"]),
        ("just words", ["expected lines of `key: value`", "str"]),
        ("", ["expected lines of `key: value`", "an empty file"]),
        ("rate: [0.5\n", ["not readable as YAML"]),
        ("a: 1\n\tb: 2\n", ["not readable as YAML"]),
        ("rate: !!python/object/apply:os.getcwd []\n", ["not readable as YAML"]),
        ("rate: 0.5\npresets: {smok: {steps: 1}}\n", ["unknown preset", "did you mean 'smoke'?", "toy.yaml"]),
        ("rate: 0.5\npresets: [smoke]\n", ["presets must map", "list"]),
        ("rate: 0.5\npresets: {smoke: 3}\n", ["preset smoke must hold", "int"]),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path, text, words):
    with pytest.raises(UserError) as caught:
        toy(tmp_path, text)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_not_there_or_not_text(tmp_path):
    with pytest.raises(UserError, match="there is no such file"):
        read_yaml(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="not readable as YAML"):
        read_yaml(tmp_path)
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00rate")
    with pytest.raises(UserError, match="not readable as YAML"):
        read_yaml(tmp_path / "bytes.yaml")


def test_unknown_preset_is_suggested(tmp_path):
    with pytest.raises(UserError, match=r"unknown preset 'papr'; did you mean 'paper'\?"):
        toy(tmp_path, "rate: 0.5\n", "papr")


def test_overrides_say_that_they_are_overrides(tmp_path):
    with pytest.raises(UserError, match=r"toy.yaml with overrides: unknown key 'stps'"):
        toy(tmp_path, "rate: 0.5\n", overrides={"stps": 2})


def test_settings_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        Toy(rate=1.0).rate = 2.0


@pytest.mark.parametrize("preset", settings.PRESETS)
def test_every_params_file_loads_for_every_preset(preset):
    assert closed_set_settings(preset).epochs > 0
    for method in METHODS:
        method_settings(method, preset)
    for name, where in READERS.items():
        module, cls = where.split(":")
        __import__(module)
        load(getattr(sys.modules[module], cls), ROOT / "params" / "datasets" / f"{name}.yaml", preset)


def test_every_params_file_belongs_to_something():
    assert {p.stem for p in (ROOT / "params" / "methods").glob("*.yaml")} == set(METHODS) - set(SAME_SETTINGS)
    datasets = {p.stem for p in (ROOT / "params" / "datasets").glob("*.yaml")}
    assert datasets >= set(READERS)
    for name in datasets:  # also those that a user added
        assert dataset_values(name, "smoke")[0] in READERS


def test_every_value_says_where_it_comes_from():
    for path in (ROOT / "params" / "closed_set.yaml", *(ROOT / "params" / "methods").glob("*.yaml")):
        lines = path.read_text(encoding="utf-8").split("presets:")[0].splitlines()
        values = [line for line in lines if line and not line.startswith(("#", "{"))]
        assert all("#" in line for line in values), path


def test_paper_values_are_the_papers():
    closed = closed_set_settings("paper")
    assert (closed.backbone, closed.optimizer, closed.weight_decay) == ("resnet18", "adam", 1e-4)
    assert (closed.lr, closed.batch_size, closed.epochs, closed.gamma) == (1e-3, 512, 60, 0.9)
    noisy = method_settings("noisy_label", "paper")
    assert (noisy.lr, noisy.weight_decay, noisy.epochs, noisy.batch_size) == (2e-4, 1e-4, 40, 128)
    assert (noisy.consistency_weight, noisy.cycle_length, noisy.select_threshold, noisy.nets) == (5.0, 10, 0.5, 2)
    assert (noisy.noise, noisy.noise_variance, noisy.erase, noisy.erase_scale) == (0.5, 30.0, 0.5, (0.02, 0.25))
    assert noisy.attention and noisy.cycle_training and noisy.schedule == "cycle" and noisy.score_view == "clean"


@pytest.mark.parametrize(
    ("overrides", "word"),
    [
        ({"lr": 0.0}, "lr = 0.0"),
        ({"lr": -1.0}, "lr = -1.0"),
        ({"epochs": 0}, "epochs = 0"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"eval_batch_size": 0}, "eval_batch_size = 0"),
        ({"image_size": 0}, "image_size = 0"),
        ({"cycle_length": 0}, "cycle_length = 0"),
        ({"warmup": 1.0}, "warmup = 1.0"),
        ({"flip": 1.5}, "flip = 1.5"),
        ({"noise_variance": -1.0}, "noise_variance = -1.0"),
        ({"erase_scale": [0.3, 0.2]}, "smallest <= largest"),
        ({"erase_scale": [0.3]}, "erase_scale"),
        ({"optimizer": "adagrad"}, "optimizer = 'adagrad'"),
        ({"schedule": "cosine"}, "schedule = 'cosine'"),
    ],
)
def test_values_that_no_training_can_have(overrides, word):
    with pytest.raises(UserError) as caught:
        closed_set_settings("smoke", overrides)
    assert word in str(caught.value) and "closed_set.yaml with overrides" in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "word"),
    [
        ({"select_threshold": 1.0}, "select_threshold = 1.0"),
        ({"consistency_weight": -1.0}, "consistency_weight = -1.0"),
        ({"nets": 3}, "nets = 3"),
        ({"init": "imagenet"}, "init = 'imagenet'"),
        ({"score": "mean"}, "score = 'mean'"),
        ({"lamda": 5.0}, "unknown key 'lamda'"),
    ],
)
def test_values_that_the_method_cannot_have(overrides, word):
    with pytest.raises(UserError) as caught:
        method_settings("noisy_label", "smoke", overrides)
    assert word in str(caught.value) and "noisy_label.yaml with overrides" in str(caught.value)


def test_unknown_method_is_suggested():
    with pytest.raises(UserError, match=r"unknown method 'noisylabel'; did you mean 'noisy_label'\?"):
        method_settings("noisylabel", "smoke")


GIVEN = {"dataset": "synthetic", "open_classes": "surprise"}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"seed": -1}, "seed = -1: expected a seed of 0 or more."),
        ({"seed": "0"}, "seed = '0'"),
        ({"preset": "fast"}, "preset = 'fast'"),
        ({"overrides": []}, "overrides = []"),
        ({"datset": "x"}, "did you mean 'dataset'?"),
    ],
)
def test_notebook_parameters(change, word):
    with pytest.raises(UserError) as caught:
        RunParameters.build(GIVEN | change, "notebook parameters")
    assert word in str(caught.value) and str(caught.value).startswith("notebook parameters: ")


@pytest.mark.parametrize("variant", ["../up", "a/b", "", "a b", ".hidden", "a.b"])
def test_a_variant_cannot_leave_its_folder(variant):
    with pytest.raises(UserError, match="becomes part of a path"):
        DetectionParameters.build(GIVEN | {"variant": variant}, "notebook parameters")


@pytest.mark.parametrize("variant", ["pool_blur", "single-pool_open_10"])
def test_a_variant_cannot_pass_for_a_pool(variant):
    with pytest.raises(UserError, match="would be read as a run on another pool"):
        DetectionParameters.build(GIVEN | {"variant": variant}, "notebook parameters")


def test_variants_with_plain_names_pass():
    assert DetectionParameters.build(GIVEN | {"variant": "spool_2"}, "p").run_variant == "spool_2"
    assert DetectionParameters.build(GIVEN | {"variant": "no-attention_2"}, "p").variant == "no-attention_2"
    with pytest.raises(UserError, match="alignment = 'scrambled'"):
        DetectionParameters.build(GIVEN | {"alignment": "scrambled"}, "p")


def test_lists_from_yaml_become_ranges():
    values = yaml.safe_load("{lr: 0.1, epochs: 1, batch_size: 2, image_size: 8, erase_scale: [0.1, 0.2]}")
    assert ClosedSetSettings.build(values, "x").erase_scale == (0.1, 0.2)


def test_folders_follow_the_environment(workplace):
    assert settings.results_dir() == workplace.results
    assert settings.cache_dir() == workplace.cache
    assert settings.data_dir() == workplace.data


def test_tables_and_parameters_do_not_wait_for_torch():
    modules = "errors atomic labels settings protocol metrics runs report datasets methods".split()
    code = "import sys\n" + "".join(f"import fer_openset.{m}\n" for m in modules) + "print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("method", "overrides", "expected"),
    [
        ("pool_novelty", {"average_from": 8}, "average_from is 8, but there are epochs 0 to 7 only"),
        ("noisy_label", {"warmup_epochs": 8}, "warmup_epochs is 8 of 8 epochs, so selection would never start"),
    ],
)
def test_rules_between_two_keys(method, overrides, expected):
    with pytest.raises(UserError, match=f"^{method}.yaml with overrides: {expected}"):
        method_settings(method, "cpu", overrides)


def test_brackets_in_a_key_stay_in_the_sentence():
    with pytest.raises(UserError, match=r"lr\[0\]"):
        Toy.build({"rate": 0.5, "lr[0]": 1}, "toy.yaml")


@pytest.mark.parametrize("variant", ["default", "single_net"])
@pytest.mark.parametrize("pool", ["full", "blur", "open_005"])
def test_the_pool_of_a_run_is_read_back_from_its_name(variant, pool):
    assert settings.pool_in(settings.variant_name(variant, pool)) == pool
