"""Grid files: what they expand to, when a job runs again, and one sentence for each mistake."""

import json
import subprocess
import sys

import pytest
import yaml

from fer_openset import ablations as sets
from fer_openset import datasets
from fer_openset.errors import UserError
from fer_openset.methods import params_file
from fer_openset.report import targets
from fer_openset.settings import ROOT, values_of
from workflow import grid as grids
from workflow.grid import check_overrides, load_grid

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


@pytest.mark.parametrize(
    ("name", "table", "dataset"),
    [("table1", "1", "rafdb"), ("table1", "1", "ferplus"), ("table1_ferplus", "1", "ferplus"),
     ("table2", "2", "rafdb"), ("table2_ferplus", "2", "rafdb"),
     ("table3_compound", "3", "rafdb_compound"), ("table3_contempt", "3", "affectnet")],
)  # fmt: skip
def test_the_papers_tables_hold_the_papers_open_sets(name, table, dataset):
    published = targets()
    published = published[(published["table"] == table) & (published["dataset"] == dataset)]
    wanted = set(published["open_classes"]) - {"mean"}
    jobs = load_grid(ROOT / "params" / "grids" / f"{name}.yaml").jobs()
    found = {job.folder.open_classes for job in jobs if job.folder.dataset == dataset or name == "table2_ferplus"}
    assert found == wanted and len(wanted) == {"1": 7, "2": 11, "3": 1}[table]


def test_table_1_on_ferplus_has_the_methods_of_table_1_and_repeats_nothing_of_the_rivals():
    small, rivals, whole = (load_grid(ROOT / "params" / "grids" / f"{name}.yaml")
                            for name in ("table1_ferplus", "ferplus_rivals", "table1"))  # fmt: skip
    assert small.methods == whole.methods == rivals.methods and small.alignments == ["aligned"]
    labels = {job.label for job in small.jobs()}
    assert labels.issuperset(job.label for job in rivals.jobs())


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


def test_classes_held_back_are_parsed_by_dataset(write):
    grid = load_grid(write(datasets=["ferplus", "synthetic"], open_classes=["contempt"], methods=["msp"]))
    assert {(job.folder.dataset, job.folder.open_classes) for job in grid.jobs()} == {
        ("ferplus", "contempt"), ("synthetic", "contempt"),
    }  # fmt: skip
    with pytest.raises(UserError, match="^mine.yaml: synthetic: unknown expression 'ambiguous'"):
        load_grid(write(datasets=["ferplus", "synthetic"], open_classes=["ambiguous"]))
    path = write(datasets=["rafdb_compound"], open_classes=["compound"], methods=["msp"])
    assert load_grid(path).jobs()[0].parameters()["open_classes"] == "compound"


def test_what_was_published_is_no_setting(write, sources, monkeypatch):
    job = load_grid(write(datasets=["ferplus"])).jobs()[0]
    (sources / "params" / "datasets").mkdir()
    monkeypatch.setattr(datasets, "PARAMS", sources / "params" / "datasets")
    dataset = sources / "params" / "datasets" / "ferplus.yaml"
    dataset.write_text("root: a\n")
    before = job.fingerprint()
    dataset.write_text("root: a\nexpected: {train: {fear: 1}}\n")
    assert job.fingerprint() == before
    dataset.write_text("root: b\n")
    assert job.fingerprint() != before


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
        "pool": "full",
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


def test_each_dataset_may_have_its_own_open_classes(write):
    opened = {"synthetic": ["surprise"], "cifar10": ["dog", "truck+cat"]}
    jobs = load_grid(write(datasets=list(opened), open_classes=opened, methods=["msp"])).jobs()[::3]
    found = [(job.folder.dataset, job.folder.open_classes) for job in jobs]
    assert found == [("synthetic", "surprise"), ("cifar10", "dog"), ("cifar10", "cat+truck")]
    for wrong, words in (
        ({"synthetic": ["fear"]}, "open_classes has lists for synthetic, but the datasets are synthetic, cifar10;"),
        ({"synthetic": ["fear"], "cifar10": []}, "open_classes is empty"),
        ({"synthetic": ["fear", "fear"], "cifar10": ["dog"]}, "open_classes lists 'fear' twice"),
        ({"synthetic": ["dog"], "cifar10": ["dog"]}, "synthetic: unknown expression 'dog'"),
        ("surprise", "open_classes"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            load_grid(write(datasets=list(opened), open_classes=wrong, methods=["msp"]))
        assert len(str(caught.value).splitlines()) == 1


def test_together_puts_all_methods_of_a_class_into_one_notebook_run(write):
    methods, variants = ["msp", "noisy_label"], {"default": {}, "single": {"nets": 1}}
    jobs = load_grid(write(methods=methods, variants=variants, together=True)).jobs()[2:]
    assert [job.step for job in jobs] == ["msp+noisy_label", "msp", "noisy_label"]  # overrides belong to one method
    assert jobs[0].label == "synthetic surprise seed0 2_methods aligned"
    assert [record.parts[-4] for record in jobs[0].records] == methods


def test_other_pools_are_variants_of_their_own(write):
    jobs = load_grid(write(methods=["msp", "energy"], pools=["full", "open_10"])).jobs()[2:]
    assert [job.parameters()["pool"] for job in jobs] == ["full", "open_10"]
    assert [job.records[0].parts[-2] for job in jobs] == ["default", "pool_open_10"]
    assert jobs[0].fingerprint() != jobs[1].fingerprint()
    both = load_grid(write(methods=["noisy_label"], variants={"single": {"nets": 1}}, pools=["blur"])).jobs()[-1]
    assert both.records[0].parts[-2] == "single-pool_blur" and both.parameters()["variant"] == "single"
    with pytest.raises(UserError, match="unknown pool 'open_1'; did you mean"):
        load_grid(write(pools=["open_1"]))


def test_post_hoc_scores_take_one_core(write):
    all_cores = {job.step: job.all_cores for job in load_grid(write(preset="cpu")).jobs()}
    assert all_cores == {"closed_set": True, "pseudo_labels": True, "msp": False, "noisy_label": True}
    assert not any(job.all_cores for job in load_grid(write(preset="demo")).jobs())


@pytest.fixture
def ablations(tmp_path, monkeypatch):
    """Override sets of this test's own: `write(name, text)`."""
    folder = tmp_path / "ablations"
    folder.mkdir()
    monkeypatch.setattr(sets, "FOLDER", folder)
    return lambda name, text: (folder / f"{name}.yaml").write_text(text, encoding="utf-8")


def test_an_ablation_adds_its_variants_for_its_method_under_its_alignments(write, ablations):
    ablations("heads", "method: noisy_label\nvariants: {one: {nets: 1}, three: {epochs: 3}}\n")
    alone = load_grid(write(alignments=["aligned", "as_released"])).jobs()
    jobs = load_grid(write(alignments=["aligned", "as_released"], ablations={"heads": ["as_released"]})).jobs()
    assert jobs[: len(alone)] == alone
    added = [(j.step, j.alignment, j.variant, j.overrides) for j in jobs[len(alone) :]]
    assert added == [("noisy_label", "as_released", "one", {"nets": 1}),
                     ("noisy_label", "as_released", "three", {"epochs": 3})]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "changes", "expected"),
    [
        ("method: noisy_label\nvariants: {a: {nets: 1}}", {"ablations": {"head": ["aligned"]}}, "did you mean 'heads'"),
        ("method: noisy_labl\nvariants: {a: {nets: 1}}", {}, "did you mean 'noisy_label'"),
        ("method: noisy_label\nvariants: {a: {nets: 1}}", {"ablations": {"heads": []}}, "no alignment for heads"),
        (
            "method: noisy_label\nvariants: {a: {nets: 1}}",
            {"ablations": {"heads": ["aligne"]}},
            "did you mean 'aligned'",
        ),
        ("method: noisy_label\nvariants: {a: {nets: 1}}", {"variants": {"a": {"nets": 1}}}, "grid's own variants"),
        ("method: noisy_label\nvariants: {}", {}, "variants is empty"),
        ("method: noisy_label\nvariants: {default: {nets: 1}}", {}, "'default' is taken"),
        ("method: noisy_label\nvariants: {a: {}}", {}, "overrides nothing"),
        ("method: noisy_label\nvariant: {a: {nets: 1}}", {}, "the key 'variants' is missing"),
        ("method: noisy_label\nvariants: {a: {nets: 1}}\npresets: {dem: {}}", {}, "did you mean 'demo'"),
        ("method: noisy_label\nvariants: {abc: {nets: 1}}\npresets: {demo: {abd: {}}}", {}, "did you mean 'abc'"),
    ],
)
def test_a_mistake_in_an_ablation_is_one_sentence(write, ablations, text, changes, expected):
    ablations("heads", text)
    with pytest.raises(UserError, match="^mine.yaml: ") as caught:
        load_grid(write(**{"ablations": {"heads": ["aligned"]}, **changes}))
    assert expected in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", sets.ablation_names())
@pytest.mark.parametrize("preset", ["demo", "cpu", "paper"])
def test_every_set_of_the_repository_changes_valid_settings(name, preset):
    from fer_openset.methods import method_settings

    ablation = sets.load_ablation(name)
    plain = method_settings(ablation.method, preset)
    found = {v: method_settings(ablation.method, preset, changes) for v, changes in ablation.in_preset(preset).items()}
    assert len({s.model_dump_json() for s in found.values()}) == len(found)
    same = [variant for variant, settings in found.items() if settings == plain]
    assert same == (["from_scratch"] if (name, preset) == ("controls", "paper") else [])


@pytest.mark.parametrize("preset", ["smoke", "demo", "cpu", "paper"])
def test_nets_that_take_turns_both_have_one(preset):
    from fer_openset.methods import method_settings

    changes = sets.load_ablation("controls").in_preset(preset)["turns_by_cycle"]
    settings = method_settings("noisy_label", preset, changes)
    assert settings.alternate == "cycle"
    assert settings.epochs - settings.warmup_epochs >= 2 * settings.cycle_length


def test_a_preset_may_change_a_variant(write, ablations):
    ablations("heads", "method: noisy_label\nvariants: {one: {nets: 1}}\npresets: {demo: {one: {epochs: 3}}}\n")
    for preset, overrides in (("smoke", {"nets": 1}), ("demo", {"nets": 1, "epochs": 3})):
        jobs = load_grid(write(preset=preset, ablations={"heads": ["aligned"]})).jobs()
        assert [job.overrides for job in jobs if job.variant == "one"] == [overrides]


def test_jobs_that_train_for_longer_start_first(write, ablations):
    ablations("heads", "method: noisy_label\nvariants: {short: {epochs: 3}, long: {epochs: 9}}\n")
    jobs = load_grid(write(methods=["msp", "noisy_label"], ablations={"heads": ["aligned"]})).jobs()
    usual = values_of(params_file("noisy_label"), "smoke")["epochs"]
    found = {(job.step, job.variant): job.epochs for job in jobs if job.methods}
    assert found == {("msp", "default"): 0, ("noisy_label", "default"): usual, ("noisy_label", "short"): 3,
                     ("noisy_label", "long"): 9}  # fmt: skip
    assert [job.epochs for job in jobs if not job.methods] == [0, 0] * (len(jobs) // len(found))


def test_one_label_for_all_open_images_is_left_out_where_its_class_is_open(write, ablations):
    ablations("heads", "method: noisy_label\nvariants: {one_label: {oracle_open_label: happiness}}\n")
    opened = ["surprise", "happiness", "fear+happiness"]
    jobs = load_grid(write(open_classes=opened, ablations={"heads": ["aligned"]})).jobs()
    assert [job.folder.open_classes for job in jobs if job.variant == "one_label"] == ["surprise"]


def test_table_5_is_every_combination_of_its_three_parts():
    from fer_openset.methods import method_settings

    variants = [{}, *sets.load_ablation("table5").variants.values()]
    found = [method_settings("noisy_label", "paper", changes) for changes in variants]
    assert len({(s.attention, s.schedule == "cycle", s.cycle_training) for s in found}) == 8


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
        ({"variants": {"pool_blur": {"nets": 1}}}, "would be read as a run on another pool"),
        ({"datasets": ["synthetic", "ferplus"], "data_root": "x"}, "one grid a dataset"),
    ],
)
def test_a_mistake_is_one_sentence_that_names_the_file(write, changes, expected):
    with pytest.raises(UserError, match="^mine.yaml: ") as caught:
        load_grid(write(**changes))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"variants": {"slow": {"lrr": 0.1}}}, "the variant 'slow' of noisy_label: .*did you mean 'lr'"),
        ({"variants": {"slow": {"epochs": "3x"}}}, "the variant 'slow' of noisy_label: .*epochs"),
        (
            {"methods": ["msp", "noisy_label"], "variants": {"w": {"consistency_weight": 1.0}}},
            "the variant 'w' of msp: ",
        ),
    ],
)
def test_overrides_that_a_method_does_not_take_are_found_before_anything_runs(write, changes, expected):
    grid = load_grid(write(**({"methods": ["noisy_label"]} | changes)))
    with pytest.raises(UserError, match=f"^mine: {expected}"):
        check_overrides(grid)
    check_overrides(load_grid(write(methods=["noisy_label"], variants={"slow": {"lr": 0.1}})))


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
