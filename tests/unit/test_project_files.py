"""The files around the code agree with each other."""

import re
import subprocess
import tomllib

import pytest
import yaml

from fer_openset.settings import ROOT

LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def _normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def locked():
    """Name -> pinned version."""
    return {_normal(n): v for n, v in re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^ \\;]+)", LOCK, re.MULTILINE)}


def asked():
    """All requirements of pyproject.toml, the development tools included."""
    project = PROJECT["project"]
    return project["dependencies"] + [line for extra in project["optional-dependencies"].values() for line in extra]


def test_every_requirement_is_locked_within_its_bounds():
    from packaging.requirements import Requirement

    pins = locked()
    for line in asked():
        requirement = Requirement(line)
        pin = pins.get(_normal(requirement.name))
        assert pin, f"{line} is not in requirements.lock: make lock"
        assert requirement.specifier.contains(pin), f"{line}, but {pin} is locked: make lock"


def test_every_pin_has_a_hash_and_the_lock_no_address():
    assert "://" not in LOCK
    assert not re.search(r"^\s*(--index|--extra-index|--find-links|-i |-f )", LOCK, re.MULTILINE)
    for block in re.split(r"\n(?=[A-Za-z0-9])", LOCK.partition("\n")[2]):
        if re.match(r"[A-Za-z0-9]", block):
            assert "--hash=sha256:" in block, block.splitlines()[0]


def test_conda_environment_agrees():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    python, pip, from_lock = environment["dependencies"]
    assert (pip, from_lock) == ("pip", {"pip": ["-r requirements.lock"]})
    version = python.removeprefix("python=")
    assert PROJECT["project"]["requires-python"] == f">={version}"
    assert f"--python-version {version}" in LOCK.splitlines()[1]
    assert environment["name"] == PROJECT["project"]["name"]


def test_licence_and_citation():
    assert PROJECT["project"]["license"] == "MIT"
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").startswith("MIT License\n")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == PROJECT["project"]["version"]
    assert citation["license"] == "MIT"
    assert [a["family-names"] for a in citation["references"][0]["authors"]] == "Zhang Yao Liu Qin Wang Deng".split()


def test_every_make_target_is_explained():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE).group(1).split())
    assert targets >= {"demo", "test", "batch", "resume", "tables", "lab", "lint", "lock", "clean"}
    command = ["make", "--no-print-directory"]  # `make test` runs this inside another make
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {line.split()[1] for line in shown.splitlines()} == targets
    assert all(len(line.split()) > 3 for line in shown.splitlines())


def test_a_batch_without_a_grid_says_which_there_are():
    done = subprocess.run(["make", "batch", "VENV=/nowhere"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "make batch GRID=params/grids/NAME.yaml" in done.stderr
    assert "demo.yaml" in done.stderr


def test_continuous_integration_calls_make_test():
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_hooks_fetch_nothing():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert [repo["repo"] for repo in hooks["repos"]] == ["local"]
    assert {hook["language"] for hook in hooks["repos"][0]["hooks"]} == {"system"}


@pytest.mark.parametrize("path", ["data/ferplus/x.png", "results/runs/a/run.json", ".cache/a", "model.safetensors"])
def test_faces_runs_and_weights_stay_out_of_git(path):
    assert subprocess.run(["git", "check-ignore", "--quiet", path], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("path", ["results/tables/runs.csv", "results/paper/targets.csv", "fer_openset/fit.py"])
def test_code_and_tables_are_kept_in_git(path):
    assert subprocess.run(["git", "check-ignore", "--quiet", path], cwd=ROOT).returncode == 1
