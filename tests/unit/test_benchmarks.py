"""The benchmark compares like with like, and runs from end to end; how fast anything is, is not tested."""

import json
import math
import subprocess
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import CPU
from torch.utils.data import DataLoader
from torchvision import models

from benchmarks import __main__ as command
from benchmarks import convolutions, engine, faces, hardware, measure, precision, profile, reference, tables, workload
from benchmarks.session import Session
from benchmarks.workload import Workload
from fer_openset import kernels
from fer_openset.backbones import FaceNet
from fer_openset.closed_set import predict
from fer_openset.datasets import Dataset
from fer_openset.methods.noisy_label import _loss
from fer_openset.settings import results_dir

TINY = Workload("detection", "engine", 48, 8, 16, 8)
MEASURED = {
    **vars(TINY), "images_per_s": 20.0, "wall_s": 1.0, "cpu_s": 2.0, "result": 1.5, "peak_mib": 700.0,
    "peak_worker_mib": 0.0, "peak_gpu_mib": 0.0,
}  # fmt: skip


def test_a_quick_run_writes_every_figure(tmp_path, capsys):
    assert command.main(["--quick", "--out", str(tmp_path / "out")]) == 0
    (path,) = (tmp_path / "out").iterdir()
    assert path.name.endswith("-quick.json")
    report = json.loads(path.read_text())
    assert path.name.startswith(report["hardware"]["name"])
    assert {"commit", "date", "quick", "peak_gflops", "scaling"} <= set(report)
    assert list(report["main"]) == sorted(workload.TASKS)
    for task in workload.TASKS:
        assert report[f"{task}_speedup"] > 0 and math.isfinite(report[f"{task}_speedup"])
        for side in workload.SIDES:
            found = report["main"][task][side]
            assert (found["task"], found["side"]) == (task, side)
            for key in ("images_per_s", "slowest", "fastest", "wall_s", "cpu_s", "peak_mib", "share_of_fp32_peak"):
                assert found[key] > 0 and math.isfinite(found[key]), key
    shown = capsys.readouterr().out
    assert "figures mean nothing" in shown and "| detection | engine " in shown and str(path) in shown
    assert not (results_dir() / "benchmarks").exists()


def test_a_quick_run_without_a_folder_writes_nothing_and_a_full_one_into_the_results():
    assert command.output_folder(command.parse(["--quick"])) is None
    assert command.output_folder(command.parse([])) == results_dir() / "benchmarks"
    assert list((results_dir() / "benchmarks").iterdir()) == []
    (results_dir() / "benchmarks").rmdir()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--repeats", "0"], "--repeats is 0; expected 1 or more"),
        (["--repeats", "many"], "invalid int value: 'many'"),
        (["--fast"], "unrecognized arguments: --fast"),
    ],
)
def test_bad_arguments_are_refused_in_a_sentence(arguments, expected, capsys):
    with pytest.raises(SystemExit) as ended:
        command.main(arguments)
    assert ended.value.code == 2
    assert expected in capsys.readouterr().err.splitlines()[-1]


def test_a_folder_that_is_a_file_is_refused_before_anything_runs(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert command.main(["--quick", "--out", str(tmp_path / "file")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The same eight faces and weights on both sides: (our net, images uint8, the reference's net, its loader)."""
    folder = tmp_path_factory.mktemp("faces")
    faces.prepare(folder, 8, 8)
    grey = np.array(faces.dataset(folder, 8).images)
    files = reference.FaceFiles(faces.files(folder, 8), faces.labels(8), "scoring", 48)  # scoring: nothing random
    loader = DataLoader(files, 8)
    torch.manual_seed(0)
    net = FaceNet("resnet18", 7, zero_head=False)
    resnet = models.resnet18(num_classes=7)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # one pass sets the running statistics to those of these faces
    with torch.no_grad():
        net(next(iter(loader))[0])
    head = {f"fc.{name}": value for name, value in net.head.state_dict().items()}
    resnet.load_state_dict(net.body.state_dict() | head)
    # Our normalisation of one grey channel has its own mean; three equal channels are normalised as the reference does.
    return net.eval(), np.repeat(grey, 3, 1), reference.Net(resnet).eval(), loader


def test_both_sides_have_the_same_detection_loss_and_gradient(pair):
    net, images, plain, loader = pair
    settings = engine.settings_of(TINY).model_copy(update={"noise": 0.0, "erase": 0.0})
    y = torch.from_numpy(faces.labels(8))
    ours, parts = _loss(net, torch.from_numpy(images), y, settings, CPU, CPU.generator(0))
    theirs = reference.detection_loss(plain, *next(iter(loader)))
    assert float(parts["loss_cons"].detach()) > 1e-4  # else the second view was not compared
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    ours.backward()
    theirs.backward()
    got, expected = net.body.conv1.weight.grad, plain.features[0].weight.grad
    assert (got - expected).norm() < 1e-3 * expected.norm()


def test_both_sides_score_alike(pair):
    net, images, plain, loader = pair
    dataset = Dataset("rgb", (), pd.DataFrame(), images)
    logits = predict(net, dataset, np.arange(8), 48, 4, CPU)
    got = torch.from_numpy(logits).softmax(1).numpy()
    np.testing.assert_allclose(got, reference.score(plain, loader, torch.device("cpu")), atol=1e-5)


@pytest.mark.parametrize("task", ["detection", "closed"])
def test_both_sides_train_on_the_same_views_at_the_same_rate(task):
    settings = engine.settings_of(replace(TINY, task=task))
    assert (settings.noise, settings.flip, settings.erase, settings.lr) == (
        reference.NOISE[task], reference.FLIP[task], reference.ERASE[task], reference.LEARNING_RATE[task],
    )  # fmt: skip
    assert settings.erase_scale == (0.02, 0.25) and settings.noise_variance == 30 and settings.weight_decay == 1e-4
    assert settings.optimizer == "adam" and settings.rotate == settings.zoom == settings.shift == 0
    if task == "detection":
        assert settings.attention and settings.consistency_weight == reference.CONSISTENCY_WEIGHT
    else:
        assert settings.label_smoothing == 0 and settings.start_epochs == 0


def test_the_reference_s_views_are_what_they_say(tmp_path):
    faces.prepare(tmp_path, 14, 14)
    torch.manual_seed(0)
    for task, erased in (("detection", True), ("scoring", False)):
        data = reference.FaceFiles(faces.files(tmp_path, 14), faces.labels(14), task, 40)
        views = torch.stack([data[i][0] for i in range(14)])
        assert views.shape == (14, 3, 40, 40) and views.dtype == torch.float32
        assert bool((views == 0).flatten(1).any(1).any()) == erased
    noisy = np.asarray(reference.add_noise(faces.Image.new("RGB", (48, 48), (128, 128, 128))), float)
    assert abs(noisy.std() - 30**0.5) < 0.3


def test_the_engine_s_watch_runs_over_the_second_epoch_of_the_shipped_training(tmp_path):
    faces.prepare(tmp_path, 16, 0)
    told = []
    watch = SimpleNamespace(start=lambda: told.append("start"), stop=lambda: told.append("stop"))
    (tmp_path / "run").mkdir()
    data = faces.dataset(tmp_path, 16)
    loss = engine._closed(data, replace(TINY, task="closed", size=32), CPU, tmp_path / "run", watch)
    history = pd.read_csv(tmp_path / "run" / "history.csv")
    assert list(history["n"]) == [8, 16]  # the warm-up, then all
    assert told == ["start", "stop"] * 2
    assert math.isfinite(loss) and (tmp_path / "run" / "model.safetensors").exists()


def test_operations_of_a_resnet18_are_the_known_number():
    assert hardware.flops_per_image("scoring", 224) == pytest.approx(3.6e9, rel=0.05)
    forward, closed, detection = (hardware.flops_per_image(task, 112) for task in ("scoring", "closed", "detection"))
    assert 2.8 * forward < closed < 3 * forward  # the first layer needs no gradient of its input
    assert detection == pytest.approx(2 * closed, rel=0.01)


@pytest.mark.parametrize(("cores", "gpu"), [(1, False), (2, False), (16, True)])
def test_a_plan_counts_whole_batches_and_names_the_same_steps_everywhere(cores, gpu):
    pairs, growth = workload.plan(False, cores, gpu)
    everything = workload.flat((pairs, growth))
    assert all(one.images % one.batch == 0 and one.warm_up % one.batch == 0 for one in everything)
    assert all([one.side for one in pair] == list(workload.SIDES) for pair in pairs.values())
    anywhere = workload.flat(workload.plan(False, 1, False))
    assert {(w.task, w.size) for w in everything} == {(w.task, w.size) for w in anywhere}
    assert [one.threads for one in growth["threads"]][-1] == cores
    for field, ones in growth.items():
        assert len({getattr(one, field) for one in ones}) == len(ones)
        assert len({replace(one, **{field: 0, "images": 0, "warm_up": 0}) for one in ones}) == 1


def test_a_process_that_fails_is_one_sentence(monkeypatch):
    with pytest.raises(measure.MeasurementFailed, match="^this one: .*No module named benchmarks.nothing$"):
        measure.child("benchmarks.nothing", [], None, "this one")
    killed = SimpleNamespace(returncode=-9)
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: killed)
    with pytest.raises(measure.MeasurementFailed, match="killed by signal 9"):
        measure.run([TINY], "nowhere")


def test_a_failed_measurement_ends_the_main_table_but_not_the_others(monkeypatch, capsys):
    def run(workloads, folder):
        if workloads[0].batch == 16:
            raise measure.MeasurementFailed("too large")
        return [{**MEASURED, "batch": workloads[0].batch}]

    monkeypatch.setattr(measure, "run", run)
    batches = [replace(TINY, batch=batch) for batch in (8, 16)]
    found = Session("nowhere", 2).growth({"batch": batches})["batch"]
    assert [r.get("failed") for r in found] == [None, "too large"]
    shared = [tables.shares(r, {"detection 48": 1e9}, {"bf16": 40.0, "fp32": None}) for r in found]
    lines = tables.scaling_table("batch", shared).splitlines()
    assert lines[0] == "Engine, detection: batch size (48 px)"
    assert [cell.strip() for cell in lines[-2].split("|")[1:-1]] == ["8", "20.0", "1.0", "2.0", "700", "50%", "-"]
    assert [cell.strip() for cell in lines[-1].split("|")[1:3]] == ["16", "failed"]
    with pytest.raises(measure.MeasurementFailed):
        Session("nowhere", 2).pairs({"detection": (batches[1], batches[0])}, 1)

    monkeypatch.setattr(command, "collect", lambda *a: Session("nowhere", 1).pairs({"detection": batches}, 1))
    assert command.main(["--quick"]) == 1
    assert capsys.readouterr().err == "a measurement failed: too large\n"


def test_the_median_counts_and_the_range_is_kept():
    speeds = [dict(MEASURED, images_per_s=speed, peak_mib=10 * speed) for speed in (30.0, 10.0, 20.0)]
    found = tables.summary(speeds)
    assert (found["images_per_s"], found["slowest"], found["fastest"], found["peak_mib"]) == (20, 10, 30, 300)
    assert found["repeats"] == 3
    sides = {"engine": found, "reference": {**found, "images_per_s": 5.0}}
    assert tables.ratios({"detection": sides}) == {"detection_speedup": 4.0}


def test_each_side_starts_as_its_users_start_it(monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "something")
    assert measure._environment(TINY)["GLIBC_TUNABLES"] == measure.ALLOCATOR
    assert "GLIBC_TUNABLES" not in measure._environment(replace(TINY, side="reference"))
    environment = measure._environment(replace(TINY, threads=2))
    assert environment["FER_OPENSET_THREADS"] == environment["OMP_NUM_THREADS"] == "2"


def test_the_profile_names_operations_and_their_shares_sum_to_one():
    speed, shares = profile.measure(32, 4, steps=1)
    assert speed > 0 and sum(shares.values()) == pytest.approx(1)
    assert any("convolution" in key for key in shares)


def test_both_precisions_are_compared(tmp_path, capsys):
    overrides = '{"epochs": 1, "image_size": 32}'
    assert precision.main(["--seeds", "1", "--out", str(tmp_path), "--overrides", overrides]) == 0
    found = json.loads((tmp_path / "precision.json").read_text())
    assert set(found["runs"]) == {"float32", "bf16"}
    errors = found["gradient_errors"]
    assert 0 < errors["bf16"] < errors["another batch"] / 2
    assert "closed accuracy" in capsys.readouterr().out
    assert precision.main(["--out", str(tmp_path), "--overrides", '{"epoch": 1}']) == 2
    assert "did you mean 'epochs'" in capsys.readouterr().err


def test_the_convolutions_that_are_timed_do_the_same(monkeypatch, capsys):
    if kernels.library() is None:
        pytest.skip("no compiler or another processor: no kernel")

    def first(found):
        return next(part for part in found if part is not None) if isinstance(found, tuple) else found

    for theirs, ours in convolutions.passes(64, 5, 8).values():
        torch.testing.assert_close(ours(), first(theirs()), rtol=1e-3, atol=1e-2)
    theirs, ours = convolutions.first_passes(20, 4)["forward"]
    torch.testing.assert_close(ours(), theirs(), rtol=1e-3, atol=1e-2)
    theirs, ours = convolutions.first_passes(20, 4)["weight gradient"]  # each of three equal channels gets the sum
    torch.testing.assert_close(first(ours()), first(theirs()), rtol=1e-3, atol=1e-2)
    # Not with few channels: from 4 to 8, 12 x 12 pixels, one tap, torch 2.15 writes beyond its memory.
    for taps, channels, size in ((3, 128, 3), (1, 64, 12)):
        for theirs, ours in convolutions.strided_passes(taps, channels, size, 4).values():
            mine, other = ours(), theirs()
            assert isinstance(mine, tuple) == isinstance(other, tuple)
            pairs = zip(mine, other[:2], strict=True) if isinstance(mine, tuple) else [(mine, other)]
            for one, two in pairs:
                torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-2)
    monkeypatch.setattr(convolutions, "STRIDED", ((1, 128, 3),))
    monkeypatch.setattr(convolutions, "MAPS", ((32, 4),))
    monkeypatch.setattr(convolutions, "IMAGES", (16,))
    monkeypatch.setattr(convolutions, "fastest", lambda work, seconds=0: work() is None)
    assert convolutions.main(["--batch", "2"]) == 0 and "32, 4 x 4" in (told := capsys.readouterr().out)
    assert "128 to 256, 3 x 3, stride 2, 1 x 1 taps" in told
    monkeypatch.setattr(kernels, "library", lambda: None)
    assert convolutions.main([]) == 1 and "needs g++" in capsys.readouterr().err
