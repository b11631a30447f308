"""The catalogue knows the zoo without Keras, and its numbers are those of the literature."""

import csv
import subprocess
import sys

import keras
import numpy as np
import pytest

from bigearth_tf.bands import BAND_SETS
from bigearth_tf.errors import ConfigError, UnknownNameError
from bigearth_tf.models import catalog
from bigearth_tf.models.catalog import FAMILY_VARIANTS, VARIANTS, list_models, model_bands, model_card
from bigearth_tf.models.flops import layer_multiplications, model_flops, parameter_count
from bigearth_tf.models.registry import FAMILIES, create_model
from bigearth_tf.models.resnet import neck, resnet50_trunk


def test_the_zoo_is_every_family_in_each_of_its_variants():
    assert list_models() == sorted(f"{f}_{v}" for f, variants in FAMILY_VARIANTS.items() for v in variants)
    assert FAMILY_VARIANTS.keys() == FAMILIES.keys()
    assert len(list_models()) == 7 * len(VARIANTS) + 1
    assert list_models("k_branch*") == ["k_branch_cnn_s2_12"]
    assert list_models("vgg*_late") == ["vgg16_s1s2_late", "vgg19_s1s2_late"]
    assert list_models("VGG*") == []


def test_variants_are_band_sets():
    assert model_bands("resnet18_rgb").bands == ("B04", "B03", "B02")
    assert model_bands("vgg19_s2_12") == BAND_SETS["s2_12"]
    assert {v.fusion for v in VARIANTS.values()} == {"early", "late"}
    with pytest.raises(UnknownNameError, match="did you mean resnet101_s2"):
        model_card("resnet110_s2")


def test_it_loads_no_keras(project_root):
    code = (
        "import sys, bigearth_tf.models as m; from bigearth_tf.models.catalog import model_card\n"
        "assert model_card(m.list_models('resnet50_s2')[0]).parameters > 0\n"
        "print(sorted({'keras', 'tensorflow', 'jax', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=project_root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_package_names_its_public_objects():
    import bigearth_tf.models as package

    assert sorted(package.__all__) == dir(package)
    assert package.list_models is catalog.list_models
    assert package.create_model is create_model
    with pytest.raises(AttributeError, match="no attribute 'creat_model'"):
        _ = package.creat_model


# Parameters of torchvision 0.20 (docs, "Models and pre-trained weights"): 3 bands, 1,000 classes, 224 x 224 pixels.
TORCHVISION = {
    "resnet18": 11_689_512,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "vgg16": 138_357_544,
    "vgg19": 143_667_240,
}
WIDTH = {"resnet18": 512, "vgg16": 4096, "vgg19": 4096}  # of the features; 2048 in the other ones


def expected_parameters(family: str, bands: int) -> int:
    """Of a backbone alone: torchvision's, less its head, with as many input bands as ours."""
    width = WIDTH.get(family, 2048)
    parameters = TORCHVISION[family] - 1000 * (width + 1)
    if family.startswith("vgg"):
        # 120 pixels leave 3 x 3 of the 7 x 7 that the first dense layer sees at 224
        return parameters + 3 * 3 * 64 * (bands - 3) - (7 * 7 - 3 * 3) * 512 * 4096
    return parameters + 7 * 7 * 64 * (bands - 3)


@pytest.mark.parametrize("family", TORCHVISION)
def test_parameters_are_those_of_torchvision_with_our_bands_and_classes(family):
    width = WIDTH.get(family, 2048)
    for variant in ("rgb", "s2", "s2_12", "s1", "s1s2_early"):
        bands = len(VARIANTS[variant].bands)
        assert model_card(f"{family}_{variant}").parameters == expected_parameters(family, bands) + 19 * (width + 1)
    late = expected_parameters(family, 10) + expected_parameters(family, 2) + 19 * (2 * width + 1)
    assert model_card(f"{family}_s1s2_late").parameters == late


def test_resnet50_with_12_bands_and_19_classes_by_hand():
    """25,557,032 of torchvision, + 9 bands in 64 filters of 7 x 7, - 981 classes of 2,048 weights and a bias."""
    assert model_card("resnet50_s1s2_early").parameters == 25_557_032 + 9 * 64 * 7 * 7 - 981 * 2049


def test_k_branch_cnn_by_hand():
    """Convolutions with bias, 4 numbers a channel in batch normalisation of which training changes 2."""

    def block(kernel, inputs, filters):
        return kernel * kernel * inputs * filters + filters + 2 * filters

    def dense(inputs, units=128):
        return inputs * units + units + 2 * units

    fine = block(5, 4, 32) + block(5, 32, 32) + block(3, 32, 64) + dense(30 * 30 * 64)
    middle = block(3, 6, 32) + block(3, 32, 32) + block(3, 32, 64) + dense(30 * 30 * 64)
    coarse = block(2, 2, 32) + block(2, 32, 32) + block(2, 32, 32) + dense(20 * 20 * 32)
    assert model_card("k_branch_cnn_s2_12").parameters == fine + middle + coarse + dense(3 * 128) + 128 * 19 + 19


def test_flops_of_the_shallow_cnn_by_hand():
    """Same padding: a multiplication for each weight and output pixel; pools halve 120 to 60 and 30."""
    convolutions = 120 * 120 * 5 * 5 * 12 * 32 + 60 * 60 * 5 * 5 * 32 * 32 + 30 * 30 * 3 * 3 * 32 * 64
    dense = 30 * 30 * 64 * 128 + 128 * 19
    assert model_card("shallow_cnn_s2_12").flops == 2 * (convolutions + dense)


def test_flops_of_resnet50_at_224_pixels_are_the_known_4_09_billion_multiplications():
    image = keras.Input((224, 224, 3))
    model = keras.Model(image, keras.layers.Dense(1000)(neck(resnet50_trunk(image))))
    assert round(model_flops(model) / 2e9, 2) == 4.09
    assert parameter_count(model) == TORCHVISION["resnet50"]


def test_flops_of_attention_by_hand():
    """6 tokens of width 16, 2 heads of width 4: 4 projections 16 <-> 8, scores and weighted values 6 x 6 x 8 each."""
    tokens = keras.Input((6, 16))
    model = keras.Model(tokens, keras.layers.MultiHeadAttention(2, 4)(tokens, tokens))
    assert model_flops(model) == 2 * (4 * 6 * 16 * 8 + 2 * 6 * 6 * 8)


def test_a_layer_without_a_rule_is_an_error():
    layer = keras.layers.Conv1D(2, 3)
    layer.build((None, 8, 4))
    with pytest.raises(ConfigError, match="no rule for the cost of layer .*Conv1D"):
        layer_multiplications(layer)


# What the scores' sources and metrics are called in the table of published results.
METRICS = {"AP_macro": "average_precision macro", "AP_micro": "average_precision micro", "F1_macro": "f1 macro"}
METRICS |= {"F1_micro": "f1 micro", "P_macro": "precision macro", "P_micro": "precision micro"}
METRICS |= {"precision": "precision", "recall": "recall", "F1": "f1", "F2": "f2"}
ROWS = {  # (paper, model, modality) -> model of the zoo
    ("Sumbul2019 IGARSS Table 4", "S-CNN-RGB", "S2-RGB"): "shallow_cnn_rgb",
    ("Sumbul2019 IGARSS Table 4", "S-CNN-All", "S2 12 bands"): "shallow_cnn_s2_12",
    ("Clasen2024/25 reBEN Table I", "ResNet-50", "S2 (10 bands)"): "resnet50_s2",
    ("Clasen2024/25 reBEN Table I", "ResNet-101", "S2 (10 bands)"): "resnet101_s2",
    ("Clasen2024/25 reBEN Table I", "ResNet-101", "S1 (2 bands)"): "resnet101_s1",
    ("Clasen2024/25 reBEN Table I", "ResNet-101", "S1+S2 (12 bands)"): "resnet101_s1s2_early",
    ("HF model card", "resnet50-all-v0.2.0", "S1+S2"): "resnet50_s1s2_early",
    ("HF model card", "resnet50-s1-v0.2.0", "S1"): "resnet50_s1",
}


def test_published_scores_are_those_of_the_table_and_complete(shared):
    with open(shared / "facts" / "paper_results.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    expected: dict[str, dict[str, float]] = {}
    for row in rows:
        name = ROWS.get((row["paper"], row["model"], row["modality"]))
        if name and "mohds52" not in row["source"]:  # another upload of the same model
            value = float(row["value"]) / (100 if row["unit"] == "%" else 1)
            expected.setdefault(name, {})[METRICS[row["metric"]]] = value
    found = {
        name: {" ".join(filter(None, (s.metric, s.averaging))): s.value for s in model_card(name).scores}
        for name in list_models()
    }
    assert {name: scores for name, scores in found.items() if scores}.keys() == expected.keys()
    for name, scores in expected.items():
        assert found[name].keys() == scores.keys()
        np.testing.assert_allclose(list(found[name].values()), [scores[m] for m in found[name]], atol=1e-9)


def test_every_score_says_on_what_and_by_whom():
    scores = [score for name in list_models() for score in model_card(name).scores]
    assert all(score.source and score.data.startswith(("v1, 43", "v2, 19")) for score in scores)
    assert all(0 < score.value < 1 for score in scores)
