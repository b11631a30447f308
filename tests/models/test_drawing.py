"""The stages of a model hold every layer once, and the drawing shows every stage without one box on another."""

import keras
import pytest

from bigearth_tf.layers import SensorPresence
from bigearth_tf.models import drawing
from bigearth_tf.models.catalog import FUSIONS, list_models
from bigearth_tf.models.flops import model_flops, parameter_count
from bigearth_tf.models.registry import create_model
from bigearth_tf.models.stages import model_stages
from tests.models import golden

LATE = "shallow_cnn_s1s2_late"
CASES = [
    *(
        pytest.param(name, {}, marks=() if golden.flops(name) < golden.CHEAP_FLOPS else pytest.mark.slow)
        for name in list_models()
    ),
    *((LATE, {"fusion": fusion}) for fusion in FUSIONS[1:]),
]
every_model = pytest.mark.parametrize(("name", "options"), CASES)


@every_model
def test_stages_hold_every_layer_once_add_up_and_have_a_place_each(name, options):
    model = create_model(name, **options)
    stages = model_stages(model)
    held = [layer for stage in stages for layer in stage.layers]
    shown = [layer.name for layer in model.layers if not isinstance(layer, SensorPresence)]
    assert sorted(held) == sorted(shown)
    assert sum(stage.parameters for stage in stages) == parameter_count(model)
    assert sum(stage.flops for stage in stages) == model_flops(model)
    keys = [stage.key for stage in stages]
    assert len(set(keys)) == len(keys)
    for i, stage in enumerate(stages):
        assert set(stage.parents) <= set(keys[:i]), "each stage comes after those it takes from"
    assert [s.branch for s in stages if s.kind == "input"] == [g.name for g in model.contract.band_set.grids]
    assert keys[-1] == ("", "logits")
    assert stages[-1].shapes == ((19,),)
    places = drawing._places(stages)
    for key, (x, y) in places.items():
        for other, (x2, y2) in places.items():
            assert key == other or y != y2 or abs(x - x2) * drawing._STEP[0] > drawing._BOX[0], "boxes overlap"


def test_stages_of_a_late_model():
    stages = {stage.key: stage for stage in model_stages(create_model(LATE, fusion="cross_attention"))}
    assert stages["s2_20m", "resample (nearest)"].shapes == ((120, 120, 6),)
    assert stages["s2", "stack bands"].parents == (("s2_10m", "normalise"), ("s2_20m", "resample (nearest)"))
    assert stages["s1", "absent is mean"].parents == (("s1_10m", "normalise"),)
    assert stages["s1", "convolution 1"].parents == (("s1", "absent is mean"),)
    assert stages["", "cross-attention"].shapes == ((8, 8, 64), (8, 8, 64))
    assert stages["s1", "dense"].parts_again
    assert stages["", "fusion (cross_attention)"].parents == (("s2", "dense"), ("s1", "dense"))


def test_the_drawing_names_inputs_bands_shapes_and_parameters(tmp_path):
    model = create_model("k_branch_cnn_s2_12")
    texts = {text.get_text() for text in drawing.model_figure(model).axes[0].texts}
    assert {"k_branch_cnn_s2_12", "s2_60m: 20 × 20 × 2 uint16", "B01 B09", "join branches", "logits"} <= texts
    assert "16.5 M parameters, 0.41 GFLOPs a patch" in texts
    assert "128, 7.37 M parameters" in texts
    drawing.draw_model(tmp_path / "model.png", model)
    assert (tmp_path / "model.png").read_bytes().startswith(b"\x89PNG")


def test_a_layer_that_no_stage_knows_is_an_error():
    model = create_model("shallow_cnn_rgb")
    extended = keras.layers.Dense(1, name="surprise")(model.output)
    other = type(model)(
        model.inputs, extended, model_name=model.model_name, contract=model.contract, options={}, name="other"
    )
    with pytest.raises(LookupError, match="layer surprise belongs to no stage"):
        model_stages(other)


def test_numbers_are_short():
    assert [drawing.short_number(n) for n in (7, 2451, 7_373_184, 1_200_000_000)] == ["7", "2.45 k", "7.37 M", "1.2 G"]
