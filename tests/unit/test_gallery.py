"""Every figure of notebook 08, drawn from made-up tables and arrays: all text readable and apart, nothing blank."""

import numpy as np
import pytest
from made_up import MADE_UP, WHERE, N, check, fill

from fer_openset import arrays, our_plates, paper_data, paper_plates, plates, report, style
from fer_openset.errors import UserError
from fer_openset.methods import METHODS

ALL_METHODS = list(style.METHOD_COLOURS)  # thirty: the most that one figure has to hold
MISSING = ["open_share_reliability_synthetic_demo"]  # the made-up tables hold no shares for it


def gallery():
    made_up = [paper_plates.sweeps(MADE_UP), paper_plates.comparison_group(MADE_UP), *our_plates.all_plates(MADE_UP)]
    return paper_plates.all_plates(WHERE) + our_plates.all_plates(WHERE) + made_up


def test_every_figure_is_readable_with_all_methods_and_classes(workplace):
    fill(workplace.results, ALL_METHODS)
    plates_of = gallery()
    assert [plate.name for plate in plates_of if plate.figure is None] == MISSING
    for plate in plates_of:
        if plate.figure is None:
            continue
        check(plate)
        if plate.about:
            assert plate.about["preset"] in plate.caption
            assert not {"FERPlus", "synthetic faces"} <= set(
                plates.NAMES[n] for n in plates.NAMES if n in plate.caption
            )


def test_every_figure_is_readable_with_two_methods_and_one_class(workplace):
    fill(workplace.results, ["msp", "noisy_label"], ["surprise"])
    for plate in gallery():
        if plate.figure is not None:
            check(plate)


def test_without_any_run_nothing_is_drawn_and_the_caption_says_what_makes_it(workplace):
    plates_of = gallery()
    assert len(plates_of) == 19  # no attention maps: without arrays there is no picture to show
    for plate in plates_of:
        assert (plate.figure is None) == (plate.name != "fig3_pipeline"), plate.name
        if plate.figure is None:
            assert plate.name in plate.caption and "no runs yet" in plate.caption and "makes them" in plate.caption
            plate.save().show()
    assert not (workplace.results / "figures").exists()


def test_saving_writes_both_files_and_one_row_a_figure(workplace):
    fill(workplace.results, ["msp", "noisy_label"], ["surprise"])
    for _ in range(2):
        paper_plates.confidence(WHERE).save()
    paper_plates.pipeline().save()
    files = sorted(p.name for p in (workplace.results / "figures").iterdir())
    assert files == [
        "fig3_pipeline.pdf",
        "fig3_pipeline.png",
        "fig4_confidence.pdf",
        "fig4_confidence.png",
        "index.csv",
    ]
    index = plates.read_index().set_index("figure")
    assert index.loc["fig4_confidence", ["dataset", "preset", "commits"]].tolist() == ["ferplus", "cpu", "c0ffee"]
    assert "commits c0ffee" in index.loc["fig4_confidence", "caption"]


@pytest.mark.parametrize(("mine", "word"), [(3.0, "Agrees"), (0.0, "Does not agree")])
def test_the_caption_of_fig_4_follows_the_scores(workplace, mine, word):
    is_open = np.arange(N) % 2 == 0
    noise = np.random.default_rng(0).normal(size=(2, N))
    score = noise + np.array([[1.0], [mine]]) * is_open
    found = {"sample_id": np.arange(N).astype(str), "is_open": is_open, "score": score,
             "run": np.array(["msp/aligned", "noisy_label/aligned"])}  # fmt: skip
    arrays.write_arrays("scores", WHERE, found, arrays.about(WHERE, ["c"], N))
    assert paper_plates.confidence(WHERE).caption.startswith(word)


def test_scrambled_scores_are_in_no_figure(workplace):
    fill(workplace.results, ["msp"], ["surprise"])
    found = arrays.read_arrays("scores", WHERE)
    scrambled = {**found.arrays, "run": np.array(["msp/as_released"])}
    arrays.write_arrays("scores", WHERE, scrambled, found.about)
    assert paper_data.scored_runs(arrays.read_arrays("scores", WHERE)) == []


def test_every_method_has_a_look_of_its_own():
    looks = {method: style.look(method) for method in ALL_METHODS}
    assert len({(x.colour, x.marker, x.line) for x in looks.values()}) == len(looks)
    assert set(METHODS) <= set(looks)
    for line, members in style.FAMILIES.values():
        assert len(members) <= len(style.MARKERS)
        assert {looks[m].line for m in members} == {line}
        assert len({looks[m].marker for m in members}) == len(members)  # told apart without any colour
    assert style.look("a_new_method") == style.look("a_new_method")


# Linear-light matrices of Machado, Oliveira and Fernandes (2009) at full severity.
BLIND = {
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
}
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def lab(colours, sight=None):
    rgb = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in colours])
    light = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    if sight:
        light = (light @ np.array(BLIND[sight]).T).clip(0, 1)
    t = np.cbrt(light @ XYZ.T / [0.9505, 1.0, 1.089])
    return np.stack([116 * t[:, 1] - 16, 500 * (t[:, 0] - t[:, 1]), 200 * (t[:, 1] - t[:, 2])], 1)


@pytest.mark.parametrize("sight", [None, *BLIND])
@pytest.mark.parametrize("palette", ["headline", "classes", "sides"])
def test_colours_are_told_apart_by_colour_blind_eyes(palette, sight):
    headline = [
        style.METHOD_COLOURS[m] for m in (*report.PAPER_METHODS, "maxlogit", "energy", "pool_novelty", "oracle")
    ]
    colours = {"headline": headline, "classes": list(style.CLASS_COLOURS.values()), "sides": [style.KNOWN, style.OPEN]}
    seen = lab(colours[palette], sight)
    gaps = np.linalg.norm(seen[:, None] - seen[None], axis=2)[np.triu_indices(len(seen), 1)]
    assert gaps.min() > 9, gaps.min()  # about four times the least difference that one sees
    assert np.linalg.norm(lab(["#808080", "#848484"])[0] - lab(["#808080", "#848484"])[1]) < 9  # the ruler measures


def test_damaged_arrays_are_named(workplace):
    path = arrays.arrays_path("scores", WHERE)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not an archive")
    with pytest.raises(UserError, match=r"scores_ferplus_cpu_surprise_seed0.npz: not readable"):
        arrays.read_arrays("scores", WHERE)
    assert arrays.read_arrays("labels", WHERE) is None
