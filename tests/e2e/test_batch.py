"""The batch as a user meets it: a small grid from end to end, killed and resumed, with a failing run, up to date."""

import json
import os
import signal
import subprocess
import sys
import time

import pandas as pd
import psutil
import pytest
import yaml

from fer_openset.settings import ROOT

pytestmark = pytest.mark.slow
GRID = {
    "datasets": ["synthetic"],
    "preset": "smoke",
    "open_classes": ["surprise"],
    "methods": ["msp", "noisy_label"],
    "alignments": ["as_released"],
}
RUNS = ("msp", "noisy_label")
FOLDER = "runs/synthetic/smoke/surprise/seed0"


def write_grid(folder, **changes):
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump({**GRID, **changes}), encoding="utf-8")
    return path


def start(place, *arguments):
    """Start a batch whose results and image stores lie under `place`; its lines come on stdout."""
    folders = {"FER_OPENSET_RESULTS": str(place / "results"), "FER_OPENSET_CACHE": str(place / "cache")}
    command = [sys.executable, "-m", "workflow.batch", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | folders, **pipes)


def batch(place, *arguments):
    """Run a batch to its end. Returns: exit status, printed lines."""
    process = start(place, *arguments)
    lines = process.communicate(timeout=600)[0].splitlines()
    return process.returncode, lines


def method_folder(place, method):
    return place / "results" / FOLDER / "methods" / method / "as_released" / "default"


def rows(place):
    """What the runs found, without the clock and the memory."""
    records = [json.loads((method_folder(place, method) / "run.json").read_text()) for method in RUNS]
    return pd.DataFrame([record["row"] for record in records]).drop(columns=["seconds", "peak_mb"])


def scores(place, method):
    return pd.read_csv(method_folder(place, method) / "scores.csv", index_col="sample_id", dtype={"sample_id": str})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A grid that ran through undisturbed: its place, its grid file and what was printed."""
    place = tmp_path_factory.mktemp("finished")
    grid = write_grid(place)
    status, lines = batch(place, grid)
    assert status == 0, "\n".join(lines)
    return place, grid, lines


def test_a_grid_from_one_command(finished):
    place, _, lines = finished
    assert lines[-1].startswith("4 of 4 runs done")
    text = "\n".join(lines)
    for job in ("closed_set", "pseudo_labels", "msp as_released", "noisy_label as_released"):
        # Within the text: two jobs print at once, and another process may not have ended its line just then.
        assert f"start synthetic surprise seed0 {job}" in text, text
        assert f"done  synthetic surprise seed0 {job} in " in text, text
    assert "AUROC" in text and "FPR@TPR95" in text and "closed accuracy" in text
    pages = place / "results" / "reports" / "small"
    index = (pages / "index.html").read_text()
    assert index.count("<li>") == 5
    assert len(list((place / "results" / FOLDER / "notebooks").glob("*.html"))) == 4
    assert (place / "results" / "tables" / "runs.csv").exists()


def test_a_second_time_does_nothing(finished):
    place, grid, _ = finished
    notebooks = sorted(place.glob("results/**/*.ipynb"))
    before = [path.stat().st_mtime_ns for path in notebooks]
    status, lines = batch(place, grid)
    assert status == 0
    assert not [line for line in lines if line.startswith("start ")]
    assert [path.stat().st_mtime_ns for path in notebooks] == before
    assert batch(place, grid, "--dry-run") == (0, ["nothing to do: every run of this grid is done"])


def test_a_dry_run_lists_the_jobs_and_runs_none(tmp_path):
    status, lines = batch(tmp_path, write_grid(tmp_path), "--dry-run")
    assert status == 0
    assert "would run: synthetic surprise seed0 noisy_label as_released" in lines
    assert lines[-1] == "7 jobs to do"
    assert not list(tmp_path.glob("results/**/*.ipynb"))


def test_a_failing_run_is_named_last_and_the_others_finish(finished):
    place, _, _ = finished
    variants = {"broken": {"k": 1_000_000}, "default": {}}  # a number like others; the images turn out to be too few
    status, lines = batch(place, write_grid(place, methods=["knn"], variants=variants))
    assert status == 1
    assert lines[-1] == "3 of 4 runs done; failed: synthetic surprise seed0 knn as_released broken"
    notebook = place / "results" / FOLDER / "notebooks" / "03_open_set_detection.knn.as_released.broken.ipynb"
    assert f"  its notebook: {notebook}" in lines
    assert "k = 1000000" in notebook.read_text()
    said = [line for line in lines if line.startswith("failed synthetic surprise seed0 knn as_released broken: ")]
    assert len(said) == 1 and "k = 1000000" in said[0], "the sentence stands once: nothing is tried again in vain"


def test_a_setting_that_does_not_exist_stops_the_batch_before_anything_starts(tmp_path):
    status, lines = batch(tmp_path, write_grid(tmp_path, methods=["msp"], variants={"broken": {"no_such_key": 1}}))
    assert status == 2 and len(lines) == 1
    assert "the variant 'broken' of msp: " in lines[0] and "no_such_key" in lines[0]
    assert not list(tmp_path.glob("results/**/*.ipynb"))


def kill_after(process, *words):
    """Read lines up to the first that holds all `words`, SIGKILL the head, see that its jobs end too."""
    for line in process.stdout:
        if all(word in line for word in words):
            break
    else:
        raise AssertionError(f"the batch ended before it printed {words!r}")
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive, "jobs outlived the head"


def test_killed_at_any_moment_and_resumed_gives_the_same(finished, tmp_path):
    whole, _, _ = finished
    grid = write_grid(tmp_path)
    moments = (
        ("closed_set | ", "epoch 1/"),
        ("done", "closed_set"),
        ("noisy_label as_released | ", "epoch 1/"),
    )
    for words in moments:
        kill_after(start(tmp_path, grid), *words)
    status, lines = batch(tmp_path, "--resume")
    assert status == 0, "\n".join(lines)
    assert lines[-1].startswith("4 of 4 runs done")
    pd.testing.assert_frame_equal(rows(tmp_path), rows(whole))
    for method in RUNS:
        pd.testing.assert_frame_equal(scores(tmp_path, method), scores(whole, method))


def test_two_batches_on_one_folder(finished, tmp_path):
    grid = write_grid(tmp_path)
    first = start(tmp_path, grid)
    assert "runs" in first.stdout.readline()
    time.sleep(0.5)
    status, lines = batch(tmp_path, grid)
    first.kill()
    first.communicate()
    assert status == 2
    assert "another batch is running" in lines[-1] and str(first.pid) in lines[-1]
