"""The explanation of a card: what it says, what it shows, and that a bundle gets no maps."""

import dataclasses
import json

import numpy as np
import pytest

from bigearth_tf.cli.evaluate import evaluate as command
from bigearth_tf.cli.main import main
from bigearth_tf.errors import ConfigError
from bigearth_tf.models.registry import create_model
from bigearth_tf.records.writer import write_records
from bigearth_tf.training import card_plots, explain_plots
from bigearth_tf.training import explain as explain_module
from bigearth_tf.training.ablation import SAMPLE, ablation
from bigearth_tf.training.card_build import build_card
from bigearth_tf.training.card_html import card_html
from bigearth_tf.training.card_markdown import card_markdown
from bigearth_tf.training.evaluate import evaluate
from bigearth_tf.training.explain import explain
from bigearth_tf.training.explain_plots import ShownClass, ShownPatch, draw_ablation, draw_grad_cam
from bigearth_tf.training.result_card import read_card, write_card
from tests.archives import write_v2


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    root = tmp_path_factory.mktemp("explain")
    archive = write_v2(root / "archive")
    write_records([archive.root], root / "records")
    return root


@pytest.fixture(scope="module")
def made(work):
    """A model of two backbones, its evaluation, and the explanation of it."""
    model = create_model("shallow_cnn_s1s2_late", dense_units=4, stride=4)
    result = evaluate(model, work / "records", "all")
    return model, result, explain(model, result, work / "records", sample=4, shown=2, seed=3)


def test_it_holds_the_ablation(work, made):
    model, _, explanation = made
    assert explanation.data["ablation"] == ablation(model, work / "records", "all", sample=4, seed=3).to_dict()


def test_it_names_the_most_likely_classes_of_each_patch(made):
    _, result, explanation = made
    maps = explanation.data["grad_cam"]
    assert maps["layers"] == {"s2": "s2_conv_dropout3", "s1": "s1_conv_dropout3"}
    assert len(maps["patches"]) == 2
    names = list(result.per_class)
    for patch in maps["patches"]:
        i = result.names.index(patch["name"])
        assert patch["labels"] == [name for name, on in zip(names, result.y_true[i], strict=True) if on]
        likely = np.argsort(-result.probabilities[i], kind="stable")[:3]
        assert patch["classes"] == [
            {
                "name": names[n],
                "probability": result.probabilities[i, n],
                "predicted": bool(result.probabilities[i, n] >= 0.5),
                "true": bool(result.y_true[i, n]),
            }
            for n in likely
        ]


def test_it_is_part_of_the_card_and_comes_back_with_it(work, made, tmp_path, monkeypatch):
    _, result, explanation = made
    monkeypatch.setattr(card_plots, "draw_classes", draw_nothing)
    monkeypatch.setattr(card_plots, "draw_curves", draw_nothing)
    monkeypatch.setattr(card_plots, "draw_breakdown", draw_nothing)
    monkeypatch.setattr(card_plots, "draw_reliability", draw_nothing)
    card = build_card(result, work / "records", resamples=0, explanation=explanation)
    folder = write_card(card, tmp_path / "card")
    assert json.loads((folder / "explain.json").read_text()) == explanation.data
    for name in ("ablation.png", "grad_cam.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    assert read_card(folder) == card
    text = (folder / "card.md").read_text()
    assert "4 of the 6 patches of all, drawn with seed 3" in text
    assert "![" in text
    assert "(ablation.png)" in text
    assert "(grad_cam.png)" in text
    assert "Grad-CAM at s2_conv_dropout3 (s2), s1_conv_dropout3 (s1)" in text
    assert "What the model looks at" in (folder / "card.html").read_text()
    write_card(dataclasses.replace(card, explanation=None), folder, overwrite=True)
    assert not (folder / "grad_cam.png").exists()
    assert read_card(folder).explanation is None


def draw_nothing(card):
    from matplotlib.figure import Figure

    return Figure(figsize=(1, 1))


class Served:
    """What a bundle is to `explain`."""

    model_name, calibration = "served", None

    def __init__(self, model):
        self.contract, self._model = model.contract, model

    def predict(self, grids):
        return self._model.calibrated(self._model.predict_on_batch(grids))


def test_a_bundle_gets_no_maps_and_the_card_says_why(work, made):
    model, result, _ = made
    explanation = explain(Served(model), result, work / "records", sample=None)
    assert explanation.grad_cam is None
    assert explanation.data["ablation"]["patches"] == 6
    assert "without layers" in explanation.data["grad_cam"]["left_out"]
    card = build_card(result, work / "records", resamples=0, explanation=explanation)
    text = card_markdown(card, {"ablation.png"})
    assert "Grad-CAM: left out, a bundle is a finished graph" in text
    assert "the 6 patches of all:" in text
    assert "grad_cam.png" not in text
    assert "Grad-CAM: left out" in card_html(card, {"ablation.png": b""})


def test_another_backend_gets_no_maps_either(work, made, monkeypatch):
    model, result, _ = made
    monkeypatch.setattr(explain_module.keras.backend, "backend", lambda: "jax")
    explanation = explain(model, result, work / "records", sample=1)
    assert explanation.data["grad_cam"] == {"left_out": "gradients are taken with TensorFlow, and Keras runs on jax"}


def test_no_patch_to_show_is_refused(work, made):
    model, result, _ = made
    with pytest.raises(ConfigError, match="at least one patch, got shown=0"):
        explain(model, result, work / "records", shown=0)


def texts(figure):
    return [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")) if text.get_text()]


def test_maps_are_labelled_with_what_is_true_and_predicted():
    picture, evidence, nothing = np.zeros((4, 4, 3)), np.eye(8), np.zeros((8, 8))
    classes = [
        ShownClass("Right", 0.9, True, True, {"s2": evidence, "s1": nothing}),
        ShownClass("Wrong", 0.8, True, False, {"s2": evidence, "s1": evidence}),
        ShownClass("Missed", 0.3, False, True, {"s2": evidence, "s1": evidence}),
        ShownClass("Unlikely", 0.1, False, False, {"s2": evidence, "s1": evidence}),
    ]
    views = {"s2": {"true colour": picture}, "s1": {}}
    figure = draw_grad_cam([ShownPatch("P", ("Right", "Missed"), views, classes)] * 2)
    shown = texts(figure)
    assert shown.count("P\nlabels: Right; Missed") == 2
    assert shown.count("true colour, s2") == 2
    assert shown.count("no evidence") == 2
    for words, color in (
        ("Right\n0.90, predicted, true", "green"),
        ("Wrong\n0.80, predicted, not true", "red"),
        ("Missed\n0.30, true, not predicted", "darkorange"),
        ("Unlikely\n0.10, not predicted", "0.35"),
    ):
        assert shown.count(words) == 2
        found = figure.findobj(lambda artist, words=words: getattr(artist, "get_text", str)() == words)
        assert {text.get_color() for text in found} == {color}


def test_drops_are_drawn_with_their_numbers(made):
    drop = {"micro": 0.1, "macro": -0.0001, "per_class": {"A": 0.25, "B": None}}
    data = {
        "full": {"micro": 0.5, "macro": 0.6, "per_class": {"A": 0.75, "B": None}},
        "support": {"A": 1234, "B": 0},
        "bands": {"B02": drop, "VV": drop},
        "sensors": {"s2": drop},
    }
    figure = draw_ablation(data)
    shown = texts(figure)
    assert shown.count("0.250") == 3
    assert {"A (1,234)", "B02", "VV", "all S2", "micro (0.500)", "macro (0.600)"} <= set(shown)
    assert not any(text.startswith("B (") for text in shown), "a class without a patch has no row"
    nobody = {"micro": None, "macro": None, "per_class": {"A": None}}
    empty = draw_ablation({"full": nobody, "support": {"A": 0}, "bands": {"VV": nobody}, "sensors": {}})
    assert "micro (-)" in texts(empty)
    empty.draw_without_rendering()
    assert explain_plots._text(-0.0001) == "0.000"


@pytest.mark.slow
def test_the_command_adds_it_to_the_card(work, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(card_plots, "draw_card", lambda card: {})
    create_model("shallow_cnn_s1", dense_units=4, stride=4).save(tmp_path / "model.keras")
    score = ["evaluate", tmp_path / "model.keras", "--records", work / "records", "--bootstrap", 0, "--explain"]
    assert "--out" in run(capfd, *score, code=2).err
    assert "alone" in run(capfd, "evaluate", "--compare", tmp_path, "--explain", code=2).err
    run(capfd, *score, "--split", "all", "--out", tmp_path / "card", "--explain-patches", 5, "--seed", 9)
    found = json.loads((tmp_path / "card" / "explain.json").read_text())
    assert [found["ablation"][key] for key in ("patches", "of", "seed")] == [5, 6, 9]
    assert next(p for p in command.params if p.name == "sample").default == SAMPLE


def run(capfd, *arguments, code=0):
    with pytest.raises(SystemExit) as stopped:
        main([str(a) for a in arguments])
    result = capfd.readouterr()
    assert stopped.value.code == code, result.err
    return result
