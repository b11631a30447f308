"""A card holds what its scores rest on, can be drawn again from its folder, and appears whole or not at all."""

import dataclasses
import hashlib
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from bigearth_tf.calibration import Calibration
from bigearth_tf.errors import ConfigError, OutputError, OutputExistsError
from bigearth_tf.models.registry import create_model
from bigearth_tf.records.manifest import Manifest, manifest_sha256
from bigearth_tf.records.writer import write_records
from bigearth_tf.training import card_plots
from bigearth_tf.training.bootstrap import bootstrap
from bigearth_tf.training.calibration import reliability
from bigearth_tf.training.card_build import build_card, records_facts
from bigearth_tf.training.card_html import card_html
from bigearth_tf.training.card_markdown import card_markdown
from bigearth_tf.training.card_plots import curve
from bigearth_tf.training.evaluate import evaluate
from bigearth_tf.training.metrics import multilabel_scores, sigmoid
from bigearth_tf.training.result_card import read_card, write_card
from tests.archives import FLAGGED, PAIRS, write_v2

PICTURES = {"classes.png", "curves.png", "reliability.png", "breakdown.png"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A calibrated model, its evaluation, and the card of it that was written and read again."""
    root = tmp_path_factory.mktemp("card")
    archive = write_v2(root / "archive", [*PAIRS, *FLAGGED])
    write_records([archive.root], root / "records")
    model = create_model("shallow_cnn_s1", dense_units=4)
    model.calibration = Calibration(tuple(np.linspace(0.3, 0.6, 19)), temperature=2.0, unsure=0.7)
    result = evaluate(model, root / "records", "all")
    card = build_card(result, root / "records", resamples=20, seed=5)
    write_card(card, root / "card")
    return root, result, read_card(root / "card")


def test_the_folder_holds_what_it_promises(made):
    root, _, card = made
    assert {p.name for p in (root / "card").iterdir()} == PICTURES | {
        "card.json",
        "card.md",
        "card.html",
        "predictions.npz",
    }
    assert all((root / "card" / name).read_bytes().startswith(b"\x89PNG") for name in PICTURES)
    assert json.loads((root / "card" / "card.json").read_text()) == card.data


def test_every_score_can_be_computed_again_from_the_predictions(made):
    _, result, card = made
    scores, per_class = multilabel_scores(card.y_true, card.probabilities, card.class_names, threshold=card.thresholds)
    assert scores == card.data["scores"] == result.scores
    assert per_class == card.data["per_class"]
    assert card.names == list(result.names)
    again = bootstrap(
        card.y_true, card.probabilities, card.class_names, threshold=card.thresholds, resamples=20, seed=5
    )
    assert json.loads(json.dumps(dataclasses.asdict(again))) == card.data["bootstrap"]


def test_the_card_says_what_the_scores_rest_on(made):
    root, result, card = made
    data = card.data
    assert data["manifest_sha256"] == manifest_sha256(root / "records")
    assert data["split"] == "all"
    assert data["records"]["archive_version"] == "v2"
    assert "metadata.parquet" in data["records"]["split_source"]
    assert data["records"]["left_out"]["seasonal snow"] == 1
    assert data["records"]["left_out"]["cloud or shadow"] == 1
    assert data["patches"] == 6
    assert data["threshold_source"] == "stored"
    assert list(data["thresholds"].values()) == pytest.approx(np.linspace(0.3, 0.6, 19).tolist())
    assert Calibration.from_dict(data["calibration"]) == result.calibration
    assert card.contract == result.contract
    assert {"python", "tensorflow", "keras", "scikit-learn", "bigearth-tf"} <= data["environment"].keys()
    file = (root / "card" / "predictions.npz").read_bytes()
    assert data["predictions"]["sha256"] == hashlib.sha256(file).hexdigest()
    assert data["breakdown"]["country"]["groups"].keys() == {"Austria", "Finland", "Ireland"}
    assert data["reliability"]["as_shipped"]["nll"] == reliability(result.y_true, result.probabilities).nll
    assert data["reliability"]["uncalibrated"]["nll"] == reliability(result.y_true, sigmoid(result.logits)).nll


def test_patches_that_are_in_no_split_are_counted(made):
    root, _, card = made
    manifest = Manifest.load(root / "records")
    shard = dataclasses.replace(manifest.shards[0], split="excluded", records=3)
    manifest = dataclasses.replace(manifest, shards=(*manifest.shards, shard), skipped={"S2_x": "truncated"})
    records = records_facts(manifest)
    assert (records["excluded_records"], records["skipped"]) == (3, {"S2_x": "truncated"})
    text = card_markdown(dataclasses.replace(card, data={**card.data, "records": records}), ())
    for row in ("| seasonal snow | 1 |", "in the split `excluded` of the records | 3 |", "could not be read | 1 |"):
        assert row in text


def test_a_model_without_calibration_has_one_reliability_and_no_resamples_no_intervals(made):
    root, _, _ = made
    card = build_card(
        evaluate(create_model("shallow_cnn_s1", dense_units=4), root / "records"), root / "records", resamples=0
    )
    assert card.data["bootstrap"] is None
    assert card.data["reliability"]["uncalibrated"] is None
    assert card.data["threshold_source"] == "default"
    text = card_markdown(card, PICTURES)
    assert "No intervals were asked for." in text
    assert "has no calibration" in text
    assert card_plots.draw_reliability(card).axes[0].get_legend_handles_labels()[1][0].startswith("as shipped, ECE")


@pytest.fixture
def undrawn(monkeypatch):
    """Cards get one picture, which costs no time."""
    monkeypatch.setattr(card_plots, "draw_card", lambda card: {"classes.png": b""})


class Page(HTMLParser):
    """Collects what a page links to, and whether its tags are closed."""

    def __init__(self):
        super().__init__()
        self.sources, self.text, self.tags, self.open = [], "", [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_page_is_one_file_without_scripts(made):
    root, _, card = made
    page = Page()
    page.feed((root / "card" / "card.html").read_text())
    assert page.open == []
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert all(source.startswith(("data:image/png;base64,", "#")) for source in page.sources)
    assert sum(source.startswith("data:") for source in page.sources) == len(PICTURES)
    for shown in ("shallow_cnn_s1 on BigEarthNet v2, all", card.data["manifest_sha256"], "VV VH", "seasonal snow"):
        assert shown in page.text


def test_text_and_page_say_the_same(made):
    _, _, card = made
    pictures = dict.fromkeys(PICTURES, b"")
    page = Page()
    page.feed(card_html(card, pictures))
    for line in card_markdown(card, pictures).splitlines():
        for cell in re.findall(r"[^|]+", line) if line.startswith("| ") and "---" not in line else []:
            assert cell.strip() in page.text
    ap, (low, high) = (
        card.data["scores"]["average_precision_micro"],
        card.data["bootstrap"]["scores"]["average_precision_micro"],
    )
    assert f"| average precision, micro | {ap:.3f} [{low:.3f}, {high:.3f}] |" in card_markdown(card, pictures)


def test_names_are_escaped_in_the_page(made):
    _, _, card = made
    odd = dataclasses.replace(card, data={**card.data, "model": "<b>|&"})
    assert "<h1>&lt;b&gt;|&amp; on BigEarthNet v2" in card_html(odd, dict.fromkeys(PICTURES, b""))
    assert "| model | <b>\\|& |" in card_markdown(odd, ())


def test_a_card_is_not_overwritten_unasked(made, tmp_path):
    root, _, card = made
    with pytest.raises(OutputExistsError, match="--overwrite"):
        write_card(card, root / "card")
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputExistsError, match="no result card"):
        write_card(card, tmp_path, overwrite=True)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_card_appears_whole_or_not_at_all(made, undrawn, tmp_path, monkeypatch):
    _, _, card = made
    write_card(card, tmp_path / "card")
    (tmp_path / "card" / "old").write_text("of the card before")
    monkeypatch.setattr(card_plots, "draw_card", lambda card: {"no/such/folder.png": b""})
    with pytest.raises(OutputError, match="cannot write"):
        write_card(card, tmp_path / "card", overwrite=True)
    with pytest.raises(OutputError, match="cannot write"):
        write_card(card, tmp_path / "other")
    assert [p.name for p in tmp_path.iterdir()] == ["card"], "no other card, nothing temporary"
    assert (tmp_path / "card" / "old").is_file()
    monkeypatch.setattr(card_plots, "draw_card", lambda card: {})
    write_card(card, tmp_path / "card", overwrite=True)
    assert not (tmp_path / "card" / "old").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["card"]


def test_a_card_that_was_changed_is_refused(made, undrawn, tmp_path):
    _, _, card = made
    folder = write_card(card, tmp_path / "card")
    (folder / "predictions.npz").write_bytes(card.predictions + b"x")
    with pytest.raises(ConfigError, match=r"predictions.npz is not the one that card.json names"):
        read_card(folder)
    (folder / "card.json").write_text(json.dumps({**card.data, "card_version": 99}))
    with pytest.raises(ConfigError, match="card of version 1 was expected"):
        read_card(folder)
    with pytest.raises(ConfigError, match="no result card"):
        read_card(tmp_path)


def test_a_card_of_other_records_is_refused(made, tmp_path):
    _, result, _ = made
    archive = write_v2(tmp_path / "archive", [{"split": "test"}])
    write_records([archive.root], tmp_path / "records")
    with pytest.raises(ConfigError, match="not the records that were scored"):
        build_card(result, tmp_path / "records")
    with pytest.raises(ConfigError, match="from 0"):
        build_card(result, tmp_path / "records", resamples=-1)


def test_a_curve_reaches_recall_1():
    x, y = curve(np.array([1, 1, 0, 0]), np.array([0.9, 0.8, 0.2, 0.1]))
    assert x.max() == 1
    assert y[x == 1].max() == 1  # a perfect order
    x, y = curve(np.array([0, 1]), np.array([0.9, 0.1]))
    np.testing.assert_array_equal((x.max(), y[x == 1].max()), (1, 0.5))


def test_a_curve_is_that_of_scikit_learn_with_fewer_points():
    from scipy import integrate
    from sklearn.metrics import precision_recall_curve

    rng = np.random.default_rng(0)
    true = rng.random(20_000) < 0.3
    score = np.clip(rng.normal(0.4 + 0.2 * true, 0.2), 0, 1)
    precision, recall, _ = precision_recall_curve(true, score)
    x, y = curve(true, score)
    assert len(x) <= 400
    assert {*zip(x, y, strict=True)} <= {*zip(recall, precision, strict=True)}
    whole = -integrate.trapezoid(precision[:-1], recall[:-1])
    assert -integrate.trapezoid(y, x) == pytest.approx(whole, abs=0.003)
