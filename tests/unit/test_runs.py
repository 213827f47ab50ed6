"""Where runs live on disk, and what is noted beside their numbers."""

import json
import subprocess

import pytest

from fer_openset import runs
from fer_openset.errors import UserError
from fer_openset.methods.posthoc import EnergySettings


def test_layout(workplace):
    folder = runs.RunFolder("tiny", "smoke", "surprise+fear", 3)
    root = workplace.results / "runs" / "tiny" / "smoke" / "surprise+fear" / "seed3"
    assert folder.root == root
    assert folder.closed_set == root / "closed_set" and folder.pseudo_labels == root / "pseudo_labels"
    assert folder.method("msp") == root / "methods" / "msp" / "aligned" / "default"
    assert folder.method("noisy_label", "as_released", "no_cycle") == root / "methods/noisy_label/as_released/no_cycle"
    assert folder.notebook("02_pseudo_labels") == root / "notebooks" / "02_pseudo_labels.ipynb"
    stem = "03_open_set_detection"
    assert folder.notebook(stem, "msp", "aligned", "default").name == "03_open_set_detection.msp.aligned.default.ipynb"


def test_different_runs_never_share_a_folder():
    runs_ = [runs.RunFolder(d, p, o, s) for d in "ab" for p in ("smoke", "paper") for o in ("x", "x+y") for s in (0, 1)]
    assert len({r.root for r in runs_}) == 16
    steps = [
        r.method(m, a, v) for r in runs_ for m in ("msp", "energy") for a in ("aligned", "as_released") for v in "de"
    ]
    assert len(set(steps)) == 128


def test_a_step_is_done_when_its_record_is_there(tmp_path):
    assert not runs.is_done(tmp_path / "step")
    runs.save_record(tmp_path / "step", {"a": 1, "row": {"auroc": 0.5}})
    assert runs.is_done(tmp_path / "step")
    assert runs.load_record(tmp_path / "step") == {"a": 1, "row": {"auroc": 0.5}}


def test_a_step_is_not_done_while_a_part_of_it_is_made_anew(workplace):
    run = runs.RunFolder("tiny", "smoke", "fear", 0)
    outside = workplace.results.parent
    for folder in (
        run.closed_set,
        run.method("pool_novelty"),
        run.method("pool_novelty") / "half0" / "round1",
        outside,
    ):
        runs.save_record(folder, {})
    runs.forget(run.method("pool_novelty") / "half0" / "round1")
    assert not runs.is_done(run.method("pool_novelty") / "half0" / "round1")
    assert not runs.is_done(run.method("pool_novelty"))
    assert runs.is_done(run.closed_set) and runs.is_done(outside)


def test_a_missing_or_damaged_record_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="this step has not run yet"):
        runs.load_record(tmp_path)
    for content in (b"{'a': 1}", b"", b"\xff\xfe"):
        (tmp_path / "run.json").write_bytes(content)
        with pytest.raises(UserError, match="not readable as JSON"):
            runs.load_record(tmp_path)


def test_provenance_says_what_made_a_result():
    record = runs.provenance({"energy": EnergySettings(temperature=2.0)}, dataset="tiny", seed=3)
    assert record["settings"] == {"energy": {"temperature": 2.0}}
    assert record["dataset"] == "tiny" and record["seed"] == 3
    assert set(record["versions"]) == {*runs.LIBRARIES, "python"} and all(record["versions"].values())
    assert record["finished"].endswith("+00:00") and "cores" in record["hardware"] and record["commit"]
    assert json.loads(json.dumps(record)) == record


def test_commit_outside_git_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert runs.commit() == "unknown"
    monkeypatch.setenv("PATH", "")
    assert runs.commit() == "unknown"


def test_commit_says_when_the_code_differs_from_it(tmp_path, monkeypatch):
    def git(*arguments):
        who = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
        done = subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    monkeypatch.setattr(runs, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    for name in ("fer_openset/a.py", "params/a.yaml", "results/table.csv"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("1\n")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "first")
    head = git("rev-parse", "--short=10", "HEAD")
    assert runs.commit() == head
    (tmp_path / "results" / "table.csv").write_text("2\n")  # results do not make results
    assert runs.commit() == head
    (tmp_path / "params" / "a.yaml").write_text("2\n")
    assert runs.commit() == head + "+"
