"""A new method as the README promises: one file, one params file, one line; then the whole batch knows it."""

import json
import os
import shutil
import subprocess
import sys

import pandas as pd
import pytest
import yaml

from fer_openset.settings import ROOT

pytestmark = pytest.mark.slow
CODE = '''
"""Brightness: how bright a face is."""

import pandas as pd
from pydantic import Field

from fer_openset.settings import Settings


class BrightnessSettings(Settings):
    """power: of the mean grey value."""

    power: float = Field(gt=0)


def brightness(task, settings):
    """Mean grey value. Shapes: (M,). Range: 0..255**power. Direction: larger = more open. Source: a test."""
    images = task.dataset.images[task.dataset.rows(task.pool_ids)]
    return pd.Series(images.mean((1, 2, 3)) ** settings.power, index=task.pool_ids)
'''
PARAMS = "power: 1.0  # ours\npresets:\n  smoke:\n    power: 0.5  # ours\n"
LINE = '    "brightness": "brightness:BrightnessSettings:brightness",\n'
GRID = {"datasets": ["synthetic"], "preset": "smoke", "open_classes": ["surprise"], "methods": ["brightness"],
        "alignments": ["aligned"], "variants": {"default": {}, "plain": {"power": 1.0}}}  # fmt: skip


def project_with_it(folder):
    """A copy of the project with the method added."""
    for part in ("fer_openset", "workflow", "notebooks", "params", "results/paper"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    methods = folder / "fer_openset" / "methods"
    (methods / "brightness.py").write_text(CODE, encoding="utf-8")
    (folder / "params" / "methods" / "brightness.yaml").write_text(PARAMS, encoding="utf-8")
    table = (methods / "__init__.py").read_text(encoding="utf-8")
    before, opening, after = table.partition("METHODS = {\n")
    (methods / "__init__.py").write_text(before + opening + LINE + after, encoding="utf-8")


def test_one_file_one_params_file_one_line(tmp_path):
    project = tmp_path / "project"
    project_with_it(project)
    (project / "grid.yaml").write_text(yaml.safe_dump(GRID), encoding="utf-8")
    folders = {"FER_OPENSET_RESULTS": str(tmp_path / "results"), "FER_OPENSET_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "workflow.batch", "grid.yaml"]
    env = os.environ | folders | {"PYTHONPATH": str(project)}
    ran = subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    seed = tmp_path / "results" / "runs" / "synthetic" / "smoke" / "surprise" / "seed0"
    records = [json.loads(path.read_text()) for path in seed.glob("methods/brightness/aligned/*/run.json")]
    rows = pd.DataFrame([record["row"] for record in records]).set_index("variant")
    assert set(rows.index) == {"default", "plain"} and set(rows["method"]) == {"brightness"}
    # The power does not change the order, so not the AUROC either.
    assert rows["auroc"].nunique() == 1 and rows["auroc"].between(0, 1).all()
    assert [line for line in ran.stdout.splitlines() if "brightness" in line and "0." in line], "in the printed table"
    assert len(list((seed / "notebooks").glob("03_open_set_detection.brightness.*.html"))) == 2
