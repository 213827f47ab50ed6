"""Fixtures that several test files share."""

import os
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import settings

settings.register_profile("any_machine", deadline=None)  # a busy machine is slow, not wrong
settings.load_profile("any_machine")

ROOT = Path(__file__).resolve().parents[1]
ARCHIVE = ROOT.parent / "shared" / "data" / "ferplus.tar.xz"  # beside the checkout where tests run unattended


@pytest.fixture(scope="session", autouse=True)
def _away_from_the_clone(tmp_path_factory):
    """No test writes into results/ or .cache/ of the clone; processes that a test starts inherit this."""
    folder = tmp_path_factory.mktemp("session")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FER_OPENSET_RESULTS", str(folder / "results"))
        patch.setenv("FER_OPENSET_CACHE", str(folder / "cache"))
        yield


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """Folders `results`, `cache` and `data` of this test alone, where the package looks for them."""
    place = SimpleNamespace(results=tmp_path / "results", cache=tmp_path / "cache", data=tmp_path / "data")
    monkeypatch.setenv("FER_OPENSET_RESULTS", str(place.results))
    monkeypatch.setenv("FER_OPENSET_CACHE", str(place.cache))
    monkeypatch.setenv("FER_OPENSET_DATA", str(place.data))
    return place


@pytest.fixture
def fresh_kernels(workplace, monkeypatch):
    """The kernels are looked for anew, in an empty cache folder."""
    from fer_openset import kernels  # here: a session that collects other tests need not import torch

    monkeypatch.delenv("FER_OPENSET_KERNELS", raising=False)
    kernels.library.cache_clear()
    yield workplace
    kernels.library.cache_clear()


@pytest.fixture(scope="session")
def ferplus_root(tmp_path_factory):
    """Folder of the real FERPlus, unpacked if only its archive is at hand; without either the test is skipped."""
    for data in (os.environ.get("FER_OPENSET_DATA"), ROOT / "data"):
        if data and (Path(data) / "ferplus").is_dir():
            return Path(data).resolve() / "ferplus"
    if not ARCHIVE.is_file():
        pytest.skip("no FERPlus: neither under the data folder nor as ../shared/data/ferplus.tar.xz")
    folder = tmp_path_factory.mktemp("real")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder / "ferplus"
