"""Weight cards: what is known of the published files."""

import csv
import json
import subprocess
import sys

import pytest

from bigearth_tf.errors import ConfigError, UnknownNameError
from bigearth_tf.models import list_models
from bigearth_tf.models.catalog import model_bands
from bigearth_tf.models.weights import WeightCard, list_weights, load_pretrained, weight_card
from bigearth_tf.nomenclature import CLASSES_19
from tests.timm_files import resnet18_card

ALPHABETICAL = sorted(CLASSES_19.names)


def test_every_published_file_has_one_card():
    published = {
        f"BIFOLD-BigEarthNetv2-0/resnet{depth}-{bands}-{version}"
        for depth in (50, 101)
        for bands in ("s1", "s2", "all")
        for version in ("v0.1.1", "v0.2.0")
    }
    images = {f"timm/{name}.tv_in1k" for name in ("resnet18", "resnet50", "resnet101", "resnet152", "vgg16", "vgg19")}
    cards = list_weights()
    assert len(cards) == len(published) + len(images)
    assert {card.repository for card in cards} == published | images
    assert all(any(card.fits(name) for name in list_models()) for card in cards)


# The channel orders of the model cards
OLD_S2, NEW_S2 = "B02 B03 B04 B08 B05 B06 B07 B11 B12 B8A", "B02 B03 B04 B05 B06 B07 B08 B8A B11 B12"


@pytest.mark.parametrize(
    ("model", "weights", "bands"),
    [
        ("s1", "bifold-v0.1.1", "VH VV"),
        ("s2", "bifold-v0.1.1", OLD_S2),
        ("s1s2_early", "bifold-v0.1.1", f"{OLD_S2} VH VV"),
        ("s1", "bifold-v0.2.0", "VV VH"),
        ("s2", "bifold-v0.2.0", NEW_S2),
        ("s1s2_early", "bifold-v0.2.0", f"VV VH {NEW_S2}"),
    ],
)
@pytest.mark.parametrize("family", ["resnet50", "resnet101"])
def test_cards_know_what_changed_between_the_versions(family, model, weights, bands):
    card = weight_card(f"{family}_{model}", weights)
    assert " ".join(card.bands) == bands
    assert sorted(card.bands) == sorted(model_bands(card.model).bands)
    assert list(card.class_names) == ALPHABETICAL
    assert (card.resampling, card.statistics) == ("nearest", "v2_reben_120_nearest")
    assert (card.archive_version, card.split, card.licence) == ("v2", "official v2", "MIT")


def test_weights_are_listed_for_a_pattern_of_models():
    assert [card.name for card in list_weights("resnet50_s2")] == ["bifold-v0.1.1", "bifold-v0.2.0", "imagenet-tv"]
    assert [card.name for card in list_weights("vgg19_s1s2_late")] == ["imagenet-tv"]
    assert list_weights("shallow_cnn_*") == []


def test_cards_are_read_without_keras():
    code = (
        "import sys; from bigearth_tf.models.weights_cards import list_weights; print(len(list_weights()), "
        "[m for m in ('keras', 'tensorflow', 'safetensors', 'huggingface_hub') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split(maxsplit=1)[1].strip() == "[]"


@pytest.mark.parametrize("card", list_weights(), ids=lambda card: card.repository)
def test_a_card_survives_json(card):
    assert WeightCard(**json.loads(json.dumps(card.to_dict()))) == card


def test_a_card_reads_like_a_card():
    text = str(weight_card("resnet50_s1", "bifold-v0.2.0"))
    for part in ("bifold-v0.2.0 for resnet50_s1", "VV VH", "sigma0 in dB", "official v2", "MIT", "macro 0.6284"):
        assert part in text


def test_scores_of_a_card_are_of_its_file_or_say_that_they_are_not(shared):
    rows = list(csv.DictReader((shared / "facts" / "paper_results.csv").read_text("utf-8").splitlines()))
    names = {"average_precision": "AP", "f1": "F1", "precision": "P"}
    for card in list_weights():
        own = {
            row["metric"]: float(row["value"])
            for row in rows
            if row["source"] == f"Hugging Face model card {card.repository}"
        }
        scores = {
            f"{names[s.metric]}_{s.averaging}": s.value for s in card.scores if s.source.endswith(card.repository)
        }
        assert scores == own
        others = [score for score in card.scores if not score.source.endswith(card.repository)]
        assert all("table I" in score.source for score in others)
        assert not (own and others)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"bands": ("VV", "VV")}, ConfigError, "distinct"),
        ({"bands": ("VV", "HH")}, UnknownNameError, "unknown band 'HH'"),
        ({"class_names": ("a", "a")}, ConfigError, "distinct"),
        ({"statistics": "v2_reben"}, UnknownNameError, "v2_reben_120_nearest"),
        ({"sha256": "abc"}, ConfigError, "64 lower-case"),
    ],
)
def test_a_card_checks_itself(changes, error, message):
    with pytest.raises(error, match=message):
        resnet18_card(**changes)


@pytest.mark.parametrize(
    ("model", "weights", "error", "message"),
    [
        ("resnet50_s3", "bifold-v0.2.0", UnknownNameError, "unknown model 'resnet50_s3'"),
        ("resnet50_s2", "bifold-v0.3.0", UnknownNameError, "did you mean bifold-v0"),
        ("resnet50_s2_12", "bifold-v0.2.0", ConfigError, "resnet50_s2_12 is another family or takes other bands"),
        ("resnet50_s1s2_late", "bifold-v0.2.0", ConfigError, "weights of resnet50_s1s2_late: imagenet-tv"),
        ("vgg16_s2", "bifold-v0.1.1", ConfigError, "are for resnet50_s1, "),
        ("shallow_cnn_s2", "imagenet-tv", ConfigError, "none known"),
    ],
)
def test_weights_of_other_models_are_refused(model, weights, error, message):
    with pytest.raises(error, match=message):
        load_pretrained(model, weights=weights, file="no such file")
