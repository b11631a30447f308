"""Late fusion of two sensors: each kind computes what it says, and an absent sensor has no say in any of them."""

import keras
import numpy as np
import pytest

from bigearth_tf.errors import ConfigError, UnknownNameError
from bigearth_tf.models.catalog import FUSIONS, model_bands
from bigearth_tf.models.registry import create_model, load_model
from tests.models import golden

LATE, EARLY = "shallow_cnn_s1s2_late", "shallow_cnn_s1s2_early"
SMALL = {"dense_units": 16}
KINDS = [(LATE, {"fusion": fusion}) for fusion in FUSIONS] + [(EARLY, {})]


def small(name, **options):
    model = create_model(name, **SMALL, **options)
    golden.fill_weights(model)
    return model


def both():
    return golden.golden_input(model_bands(LATE), patches=1)


def logits(model, grids):
    return np.asarray(model(grids, training=False))


def outputs(model, names, grids):
    part = keras.Model(model.inputs, [model.get_layer(name).output for name in names])
    return [np.asarray(x) for x in part(grids, training=False)]


def of_sensor(grids, sensor):
    return {name: x for name, x in grids.items() if name.startswith(sensor)}


@pytest.mark.parametrize("absent", ["s1", "s2"])
@pytest.mark.parametrize(("name", "options"), KINDS)
def test_an_absent_sensor_has_no_say(name, options, absent):
    """Its backbone's weights are changed, even to what is no number, and the logits stay."""
    model = small(name, **options)
    present = {"s1": "s2", "s2": "s1"}[absent]
    grids = model.complete(of_sensor(both(), present))
    (seen,) = outputs(model, [f"absent_{absent}", "logits"], grids)[:1]
    assert (seen == 0).all(), "what a backbone sees of it is the mean of its bands"
    before = logits(model, grids)
    assert np.abs(before - logits(model, both())).max() > 1e-3, "the other sensor counts when it is there"
    for layer in model.layers:
        if layer.name.startswith(f"{absent}_") and layer.get_weights():
            layer.set_weights([w + 1 for w in layer.get_weights()])
    if name == EARLY:
        (stack,) = outputs(model, ["stack_sensors", "logits"], grids)[:1]
        channels = slice(10, 12) if absent == "s1" else slice(0, 10)
        assert (stack[..., channels] == 0).all()
        assert np.abs(np.delete(stack, np.arange(12)[channels], axis=-1)).max() > 0.1
    np.testing.assert_array_equal(logits(model, grids), before)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_with_both_sensors_the_masks_change_nothing(fusion):
    model = small(LATE, fusion=fusion)
    x = both()
    s2, s1, m2, m1, fused = outputs(model, ["s2_dropout", "s1_dropout", "mask_s2", "mask_s1", "fuse_sensors"], x)
    np.testing.assert_array_equal(m2, s2)
    np.testing.assert_array_equal(m1, s1)
    if fusion == "sum":
        np.testing.assert_array_equal(fused, s2 + s1)
    elif fusion == "gated":
        g2, g1 = outputs(model, ["gate_s2", "gate_s1"], x)
        weight = 1 / (1 + np.exp(g1 - g2))
        np.testing.assert_allclose(fused, weight * s2 + (1 - weight) * s1, rtol=1e-5, atol=1e-6)
    else:
        np.testing.assert_array_equal(fused, np.concatenate([s2, s1], axis=-1))


def test_early_fusion_with_both_sensors_is_the_plain_stack():
    model = small(EARLY)
    s2, s1, stack = outputs(model, ["stack_s2", "normalize_s1_10m", "stack_sensors"], both())
    np.testing.assert_array_equal(stack, np.concatenate([s2, s1], axis=-1))


def test_the_sum_of_one_sensor_is_rescaled_to_two():
    model = small(LATE, fusion="sum")
    s2, fused = outputs(model, ["s2_dropout", "fuse_sensors"], model.complete(of_sensor(both(), "s2")))
    np.testing.assert_array_equal(fused, 2 * s2)


def test_cross_attention_looks_at_the_other_sensor_pixel_by_pixel():
    """Maps of 30 x 30 are averaged to 8 x 8 tokens; a change in one corner of S1 reaches the features of S2."""
    model = small(LATE, fusion="cross_attention")
    assert tuple(model.get_layer("s2_tokens").output.shape) == (None, 64, 64)
    x = both()
    changed = {**x, "s1_10m": x["s1_10m"].copy()}
    changed["s1_10m"][:, :8, :8] += 20
    (before, alone), (after, _) = (outputs(model, ["s2_attention_norm", "s2_tokens"], grids) for grids in (x, changed))
    assert np.abs(after - before).max() > 1e-4
    s2_only = model.complete(of_sensor(x, "s2"))
    (found,) = outputs(model, ["s2_attention_norm", "logits"], s2_only)[:1]
    mean, std = alone.mean(-1, keepdims=True), alone.std(-1, keepdims=True)
    gamma, beta = model.get_layer("s2_attention_norm").get_weights()
    np.testing.assert_allclose(found, (alone - mean) / np.sqrt(std**2 + 1e-6) * gamma + beta, atol=1e-4)


@pytest.mark.parametrize(("name", "options"), KINDS)
def test_no_sensor_at_all_gives_finite_logits(name, options):
    model = small(name, **options)
    assert np.isfinite(logits(model, {grid: np.zeros_like(x) for grid, x in both().items()})).all()


def test_a_saved_model_keeps_its_fusion(tmp_path):
    model = small(LATE, fusion="gated")
    model.save(tmp_path / "model.keras")
    again = load_model(tmp_path / "model.keras")
    assert again.options == {"fusion": "gated", **SMALL}
    np.testing.assert_array_equal(logits(again, both()), logits(model, both()))


def test_fusion_is_an_option_of_late_models_only():
    with pytest.raises(UnknownNameError, match="unknown fusion 'gate'; did you mean gated"):
        create_model(LATE, fusion="gate")
    with pytest.raises(UnknownNameError, match=f"unknown option of {EARLY} 'fusion'"):
        create_model(EARLY, fusion="sum")


def test_complete_fills_in_the_absent_sensor():
    model = small(EARLY)
    x = both()
    found = model.complete(of_sensor(x, "s1"))
    assert list(found) == ["s2_10m", "s2_20m", "s1_10m"]
    assert found["s1_10m"] is x["s1_10m"]
    assert {name: (a.shape, a.dtype) for name, a in found.items()} == {n: (a.shape, a.dtype) for n, a in x.items()}
    assert not found["s2_10m"].any()
    assert model.complete(x) == x


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["s2_10m", "s1_10m"], "s2 lacks s2_20m, got s2_10m, s1_10m"),
        ([], "needs the grids of one sensor at least"),
    ],
)
def test_a_sensor_is_given_whole_or_not_at_all(names, message):
    x = both()
    with pytest.raises(ConfigError, match=message):
        small(EARLY).complete({name: x[name] for name in names})


def test_complete_checks_names_and_patches():
    model, x = small(EARLY), both()
    with pytest.raises(UnknownNameError, match="did you mean s1_10m"):
        model.complete({"s1_1m": x["s1_10m"]})
    with pytest.raises(ConfigError, match=r"'s2_10m': 2.*'s1_10m': 1|'s1_10m': 1"):
        model.complete({**x, "s2_10m": np.concatenate([x["s2_10m"]] * 2)})
