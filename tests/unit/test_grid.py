"""Grid files: what they expand to, when a job runs again, and one sentence for each mistake."""

import json
import subprocess
import sys

import pytest
import yaml

from fer_openset.errors import UserError
from fer_openset.settings import ROOT
from workflow import grid as grids
from workflow.grid import load_grid

GOOD = {
    "datasets": ["synthetic"],
    "preset": "smoke",
    "open_classes": ["surprise"],
    "seeds": [0],
    "methods": ["msp", "noisy_label"],
}


@pytest.fixture
def write(tmp_path):
    def write(**changes):
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump({**GOOD, **changes}), encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize("path", sorted((ROOT / "params" / "grids").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_grid_of_the_repository_loads(path):
    grid = load_grid(path)
    assert grid.name == path.stem
    assert grid.jobs()


def test_every_combination_is_one_job_and_comes_after_what_it_needs(write):
    changes = {"open_classes": ["surprise", "fear+anger"], "seeds": [0, 1], "alignments": ["aligned", "as_released"]}
    jobs = load_grid(write(**changes, variants={"default": {}, "single": {"nets": 1}})).jobs()
    assert len(jobs) == 2 * 2 * (2 + 2 * 2 * 2)
    for key in ("label", "records", "notebook"):
        assert len({str(getattr(job, key)) for job in jobs}) == len(jobs), key
    seen = set()
    for job in jobs:
        assert seen.issuperset(job.needs), job.label
        seen.update(job.records)


def test_one_spelling_of_open_classes(write, workplace):
    job = load_grid(write(open_classes=["anger + surprise"])).jobs()[0]
    assert job.parameters()["open_classes"] == "surprise+anger"
    folder = workplace.results / "runs" / "synthetic" / "smoke" / "surprise+anger" / "seed0"
    assert job.records == [folder / "closed_set" / "run.json"]


def test_parameters_of_a_variant(write, workplace):
    grid = load_grid(write(methods=["noisy_label"], variants={"single": {"nets": 1}}, data_root="faces"))
    first, _, last = grid.jobs()
    assert last.parameters() == {
        "dataset": "synthetic",
        "open_classes": "surprise",
        "preset": "smoke",
        "seed": 0,
        "data_root": "faces",
        "overrides": {"nets": 1},
        "method": "noisy_label",
        "alignment": "aligned",
        "variant": "single",
    }
    assert first.parameters()["overrides"] == {}, "a variant changes the method, not the closed-set model"
    assert last.notebook.name == "03_open_set_detection.noisy_label.aligned.single.ipynb"
    assert last.records[0].parent == first.folder.root / "methods" / "noisy_label" / "aligned" / "single"


def test_post_hoc_scores_of_one_alignment_share_a_notebook_run(write):
    methods, both = ["msp", "noisy_label", "energy"], ["aligned", "as_released"]
    jobs = load_grid(write(methods=methods, alignments=both)).jobs()[2:]
    assert [job.step for job in jobs] == ["msp+energy", "noisy_label"] * 2
    assert jobs[0].label == "synthetic surprise seed0 2_posthoc aligned"
    assert jobs[0].notebook.name == "03_open_set_detection.2_posthoc.aligned.default.ipynb"
    assert jobs[0].parameters()["method"] == "msp+energy"
    assert [record.parts[-4] for record in jobs[0].records] == ["msp", "energy"]
    hot = load_grid(write(methods=["energy", "noisy_label"], variants={"hot": {"temperature": 2.0}})).jobs()[2:]
    assert [job.step for job in hot] == ["energy", "noisy_label"]  # overrides belong to one method


def test_post_hoc_scores_take_one_core(write):
    all_cores = {job.step: job.all_cores for job in load_grid(write(preset="cpu")).jobs()}
    assert all_cores == {"closed_set": True, "pseudo_labels": True, "msp": False, "noisy_label": True}
    assert not any(job.all_cores for job in load_grid(write(preset="demo")).jobs())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"dataset": ["synthetic"]}, "did you mean 'datasets'"),
        ({"datasets": ["syntetic"]}, "unknown dataset 'syntetic'; did you mean 'synthetic'?"),
        ({"methods": ["noisy_labels"]}, "unknown method 'noisy_labels'; did you mean 'noisy_label'?"),
        ({"open_classes": ["suprise"]}, "unknown expression 'suprise'; did you mean 'surprise'?"),
        ({"open_classes": ["fear+angr"]}, "did you mean 'anger'?"),
        ({"open_classes": "surprise"}, "open_classes = 'surprise': input should be a valid list"),
        ({"open_classes": ["fear+anger", "anger+fear"]}, "lists 'fear+anger' twice"),
        ({"alignments": ["align"]}, "unknown alignment 'align'; did you mean 'aligned'?"),
        ({"preset": "smok"}, "unknown preset 'smok'; did you mean 'smoke'?"),
        ({"seeds": []}, "seeds is empty"),
        ({"seeds": [0, 0]}, "seeds lists 0 twice"),
        ({"seeds": [-1]}, "expected 0 or more"),
        ({"seeds": ["0"]}, "seeds.0 = '0': input should be a valid integer"),
        ({"variants": {"a/b": {"nets": 1}}}, "becomes part of a path"),
        ({"variants": {"default": {"nets": 1}}}, "stands for unchanged settings"),
        ({"variants": {"single": {}}}, "overrides nothing"),
        ({"datasets": ["synthetic", "ferplus"], "data_root": "x"}, "one grid a dataset"),
    ],
)
def test_a_mistake_is_one_sentence_that_names_the_file(write, changes, expected):
    with pytest.raises(UserError, match="^mine.yaml: ") as caught:
        load_grid(write(**changes))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_key_and_missing_file(tmp_path):
    (tmp_path / "mine.yaml").write_text("preset: smoke\n", encoding="utf-8")
    with pytest.raises(UserError, match="the key 'datasets' is missing"):
        load_grid(tmp_path / "mine.yaml")
    with pytest.raises(UserError, match="there is no such file"):
        load_grid(tmp_path / "yours.yaml")


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """Notebooks and params of this test's own."""
    notebooks, params = tmp_path / "notebooks", tmp_path / "params"
    (params / "methods").mkdir(parents=True)
    notebooks.mkdir()
    cells = [{"cell_type": "markdown", "source": ["text"]}, {"cell_type": "code", "source": ["x = 1"], "outputs": []}]
    for stem in (*grids.STEMS.values(), grids.DETECTION_STEM):
        (notebooks / f"{stem}.ipynb").write_text(json.dumps({"cells": cells}), encoding="utf-8")
    (params / "closed_set.yaml").write_text("epochs: 9\npresets: {smoke: {epochs: 1}, demo: {epochs: 2}}\n")
    monkeypatch.setattr(grids, "NOTEBOOKS", notebooks)
    monkeypatch.setattr(grids, "PARAMS", params)
    return tmp_path


def test_only_code_and_this_presets_settings_make_a_job_run_again(write, sources):
    closed_set = load_grid(write()).jobs()[0]
    before = closed_set.fingerprint()
    notebook = sources / "notebooks" / "01_closed_set_training.ipynb"
    text = notebook.read_text()
    notebook.write_text(text.replace("text", "other text").replace('"outputs": []', '"outputs": [1]'))
    params = sources / "params" / "closed_set.yaml"
    params.write_text("# a comment\nepochs: 9\npresets: {smoke: {epochs: 1}, demo: {epochs: 5}}\n")
    assert closed_set.fingerprint() == before

    notebook.write_text(text.replace("x = 1", "x = 2"))
    changed_code = closed_set.fingerprint()
    params.write_text("epochs: 9\npresets: {smoke: {epochs: 3}}\n")
    assert len({before, changed_code, closed_set.fingerprint()}) == 3


def test_a_missing_or_damaged_notebook_is_named(write, sources):
    job = load_grid(write()).jobs()[0]
    notebook = sources / "notebooks" / "01_closed_set_training.ipynb"
    notebook.write_text("{")
    with pytest.raises(UserError, match="01_closed_set_training.ipynb: not readable as a notebook"):
        job.fingerprint()
    notebook.unlink()
    with pytest.raises(UserError, match="01_closed_set_training.ipynb: there is no such notebook"):
        job.fingerprint()


def test_reading_a_grid_does_not_load_torch():
    code = "import sys, workflow.batch, workflow.html, fer_openset.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
