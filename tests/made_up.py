"""Made-up tables and arrays of two run folders, for tests of figures and captions; what every figure must keep to."""

import json

import numpy as np
import pandas as pd
from ink import overlap, texts_of
from matplotlib.backends.backend_agg import FigureCanvasAgg

from fer_openset import arrays, report, style
from fer_openset.labels import BASIC
from fer_openset.runs import RunFolder

PAIRS = (("ferplus", "cpu"), ("synthetic", "demo"))
WHERE = RunFolder("ferplus", "cpu", "surprise", 0)
MADE_UP = RunFolder("synthetic", "demo", "surprise", 0)
N = 300


def fill(folder, methods, classes=BASIC, seed=0):
    """Write fixture tables and arrays of two run folders under `folder`, as the real commands name them."""
    rng = np.random.default_rng(seed)
    row = dict.fromkeys(report.RUN_COLUMNS, 0.5) | {
        "preset": "cpu",
        "dataset": "ferplus",
        "seed": 0,
        "commit": "c0ffee",
    }
    row |= {"alignment": "aligned", "n_known": 150, "n_open": 150, "device": "cpu"}
    settings = [(v, 150) for v in ("default", "lambda1", "lambda2", "lambda9", "one_label")] + [("pool_open_10", 15)]
    rows = [row | {"dataset": d, "preset": p, "open_classes": c, "method": m, "variant": v, "n_open": n}
            for d, p in PAIRS for c in classes for m in methods
            for v, n in (settings if m == "noisy_label" and c == "surprise" else settings[:1])]  # fmt: skip
    runs = pd.DataFrame(rows)
    runs["auroc"] = rng.uniform(0.4, 0.98, len(runs))
    runs["auroc_lo"], runs["auroc_hi"] = runs["auroc"] - 0.02, runs["auroc"] + 0.01
    (folder / "tables").mkdir(parents=True)
    runs.to_csv(folder / "tables" / "runs.csv", index=False)
    weights = {"default": 5.0, "lambda1": 1.0, "lambda2": 2.0, "lambda9": 9.0}
    changed = {v: {"backbone": "resnet18", "epochs": 12, "consistency_weight": x} for v, x in weights.items()}
    changed["one_label"] = {**changed["default"], "oracle_open_label": "happiness"}
    pd.DataFrame([(d, p, "noisy_label", v, json.dumps(s)) for d, p in PAIRS for v, s in changed.items()],
                 columns=["dataset", "preset", "method", "variant", "settings"],
                 ).to_csv(folder / "tables" / "variants.csv", index=False)  # fmt: skip
    key = {"open_classes": "surprise", "alignment": "aligned", "method": "noisy_label", "seed": 0}
    epochs = [{"dataset": d, "preset": p, **key, "variant": v, "epoch": e, "n_known": 150, "n_open": 150,
               "auroc": rng.uniform(0.4, 0.98)} for d, p in PAIRS for v in weights for e in range(1, 13)]  # fmt: skip
    pd.DataFrame(epochs).to_csv(folder / "tables" / "epochs.csv", index=False)
    shares = [("ferplus", "cpu", c, "aligned", "pool_novelty", "default", 0, 0.5, 0.45, 0.55, 0.52, 0.9, 0.1, "c0ffee")
              for c in classes]  # fmt: skip
    columns = [*arrays.SHARES, *arrays.SHARE_VALUES, "commit"]
    pd.DataFrame(shares, columns=columns).to_csv(folder / "tables" / "open_fraction.csv", index=False)
    for where in (WHERE, MADE_UP):
        fill_arrays(where, methods, rng)


def fill_arrays(where, methods, rng):
    about = arrays.about(where, ["c0ffee"], N)
    is_open = np.arange(N) % 3 == 0
    label = np.array([f"{BASIC[i % 7]}" for i in range(N)])
    score = rng.normal(size=(len(methods), N)) + np.linspace(0, 3, len(methods))[:, None] * is_open
    names = np.array([f"{m}/aligned" for m in methods])
    ids = np.array([f"s{i:03d}" for i in range(N)])
    one_label = {"variant_run": np.array(["noisy_label/aligned/one_label"]), "variant_score": score[:1] - is_open}
    scores = {"sample_id": ids, "is_open": is_open, "run": names, "score": score, **one_label}
    arrays.write_arrays("scores", where, scores, about)
    counts = rng.integers(0, 300, (3, 6))
    parts = np.array(["closed test", "open test", "open train"])
    labels = {"part": parts, "label": np.array(BASIC[1:]), "aligned": counts, "as_released": counts}
    arrays.write_arrays("labels", where, labels, about)
    places = rng.normal(size=(3, N, 2))
    seen = {"label": label, "is_open": is_open, "panel": np.array(["f_close", "noisy_label", "pool_novelty"])}
    arrays.write_arrays("features", where, {**seen, "place": places, "ratio": np.ones(3), "pixel_ratio": 0.5}, about)
    digits = {"labels": rng.integers(1, 50, (10, 10)), "label": np.array([str(i % 10) for i in range(N)])}
    arrays.write_arrays("digits", None, {**digits, "is_open": is_open, "place": places[0], "ratio": 2.0,
                                         "pixel_ratio": 1.0}, {"dataset": "digits", "n": N})  # fmt: skip
    if where.dataset == "synthetic":
        faces = {"image": rng.integers(0, 256, (7, 1, 32, 32), dtype=np.uint8), "title": np.array(BASIC),
                 "net": np.array(["f_close", "noisy_label"]), "map": rng.normal(size=(2, 7, 2, 2)),
                 "mirrored": rng.normal(size=(2, 7, 2, 2)), "is_open": is_open,
                 "inconsistency": rng.gamma(2, size=(2, N)) * [[2], [1]]}  # fmt: skip
        arrays.write_arrays("maps", where, faces, about)


def check(plate):
    """All text at 8 points, on the canvas and apart; something drawn; a caption that says where it comes from."""
    figure = plate.figure
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    figure.set_layout_engine("none")  # it has been laid out
    image = np.asarray(canvas.buffer_rgba())[..., :3]
    assert 0.005 < np.mean((image < 250).any(axis=-1)) < 0.98, plate.name
    assert figure.get_size_inches()[0] <= style.PAGE
    found = texts_of(figure)
    width, height = figure.canvas.get_width_height()
    for text, box in found:
        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1, text.get_text()
        assert text.get_fontsize() == style.POINTS, (plate.name, text.get_text())
    for i, (text, box) in enumerate(found):
        for other, other_box in found[i + 1 :]:
            assert overlap(box, other_box) < 2, f"{plate.name}: {text.get_text()!r} lies on {other.get_text()!r}"
