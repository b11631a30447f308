"""One contract that every model of the zoo passes, without a special case: it is tested the moment it is registered.

What is slow is decided by cost alone: by the FLOPs of the model, and by whether a test compiles it. Weights are those
of tests/models/golden.py where numbers matter.
"""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from bigearth_tf.bands import BANDS
from bigearth_tf.layers import BandNormalization, BandResampling, SensorMask
from bigearth_tf.models.catalog import FUSIONS, list_models, model_bands, model_card
from bigearth_tf.models.flops import model_flops, parameter_count
from bigearth_tf.models.registry import FAMILIES, create_model, load_model
from bigearth_tf.nomenclature import CLASSES_19, CLASSES_43
from bigearth_tf.statistics import published_statistics
from tests.models import golden

# A test that compiles, saves or builds a model several times takes seconds: by default only for models below this.
CHEAP_TO_COMPILE = 0.35e9


def marked(names, below=golden.CHEAP_FLOPS):
    """Mark what is not cheap as slow."""
    return [pytest.param(n, marks=() if golden.flops(n) < below else pytest.mark.slow) for n in names]


every_model = pytest.mark.parametrize("name", marked(list_models()))
every_model_compiled = pytest.mark.parametrize("name", marked(list_models(), CHEAP_TO_COMPILE))
PREPROCESSING = (BandNormalization, BandResampling, SensorMask, keras.layers.Concatenate, keras.layers.InputLayer)


@pytest.fixture(autouse=True)
def free_memory(request):
    """Forget the graphs of large models: they would add up to more than a small machine has."""
    yield
    if "slow" in request.keywords:
        keras.backend.clear_session()


def without_dropout(name) -> dict:
    family = FAMILIES[model_card(name).family]
    known = [*family.options(family.trunk), *family.options(family.neck)]
    return {option: 0.0 for option in known if option.endswith("dropout")}


@every_model
def test_it_takes_raw_grids_and_returns_logits_of_either_nomenclature(name):
    for classes in (CLASSES_43, CLASSES_19):
        model = create_model(name, classes=len(classes))
        assert tuple(model.output.shape) == (None, len(classes))
        assert model.contract.nomenclature == classes
    bands = model_bands(name)
    assert {x.name: tuple(x.shape[1:]) for x in model.inputs} == {g.name: g.shape for g in bands.grids}
    assert {x.name: np.dtype(getattr(x.dtype, "name", x.dtype)) for x in model.inputs} == {
        g.name: np.dtype(g.dtype) for g in bands.grids
    }
    assert model.name == model.model_name == name
    assert model.contract.bands == bands.bands
    assert model.contract.statistics == published_statistics("v2_reben_120_nearest").of(bands)
    card = model_card(name)
    assert parameter_count(model) == card.parameters, "python -m bigearth_tf.models.catalog writes the catalogue anew"
    assert model_flops(model) == card.flops


@every_model
def test_what_enters_the_backbone_is_normalised_and_in_the_order_of_the_contract(name):
    """Each band is a constant of its own, so a band in another's place would show."""
    model = create_model(name, resampling="bicubic")
    bands = model_bands(name)
    value = {b: 100.0 * (i + 1) if BANDS[b].sensor == "s2" else -3.0 * (i + 1) for i, b in enumerate(BANDS)}
    raw = {
        g.name: np.broadcast_to([value[b] for b in g.band_names], (1, *g.shape)).astype(g.dtype) for g in bands.grids
    }
    statistics = model.contract.statistics
    expected = [(value[b] - m) / s for b, m, s in zip(bands.bands, statistics.mean, statistics.std, strict=True)]
    entering = entering_the_backbone(model)
    arrays = [np.asarray(keras.Model(model.inputs, layer.output)(raw)) for layer in entering]
    for array in arrays:
        np.testing.assert_allclose(np.ptp(array, axis=(1, 2)), 0, atol=2e-5)
        assert array.dtype == np.float32
    stacked = sorted((array[0, 0, 0] for array in arrays), key=lambda a: np.abs(np.array(expected) - a[0]).argmin())
    np.testing.assert_allclose(np.concatenate(stacked), expected, rtol=1e-5, atol=2e-5)


def entering_the_backbone(model) -> list:
    """The preprocessing layers that something else than preprocessing takes."""
    made_by = {id(layer.output): layer for layer in model.layers}
    taken = {}
    for layer in model.layers:
        if isinstance(layer, (*PREPROCESSING, keras.layers.Dense)) or "presence" in layer.name:
            continue
        for tensor in layer.input if isinstance(layer.input, (list, tuple)) else [layer.input]:
            source = made_by[id(tensor)]
            if isinstance(source, PREPROCESSING) and len(source.output.shape) == 4:
                taken[source.name] = source
    return list(taken.values())


@every_model_compiled
def test_two_steps_lower_the_loss_on_their_batch(name):
    keras.utils.set_random_seed(3)
    model = create_model(name, **without_dropout(name))
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-4), loss, jit_compile=False)
    x = golden.golden_input(model_bands(name), patches=2)
    y = np.eye(2, 19, dtype=np.float32)
    losses = model.fit(x, y, batch_size=2, epochs=3, shuffle=False, verbose=0).history["loss"]
    assert np.isfinite(losses).all()
    assert losses[2] < losses[0]


@every_model_compiled
def test_a_saved_model_comes_back_whole(name, tmp_path):
    options = without_dropout(name)
    model = create_model(name, classes=43, resampling="bilinear", statistics="v1_official_tf", **options)
    golden.fill_weights(model)
    model.save(tmp_path / "model.keras")
    again = load_model(tmp_path / "model.keras")
    assert again.contract == model.contract
    assert again.options == model.options == options
    np.testing.assert_array_equal(golden.logits_of(again), golden.logits_of(model))


@every_model_compiled
def test_mixed_precision_changes_little_and_leaves_preprocessing_and_head_in_float32(name):
    exact = golden.recorded()[name]
    for policy, tolerance in (("mixed_float16", 0.02), ("mixed_bfloat16", 0.12)):
        keras.mixed_precision.set_global_policy(policy)
        try:
            model = golden.build(name)
        finally:
            keras.mixed_precision.set_global_policy("float32")
        logits = golden.logits_of(model)
        assert np.isfinite(logits).all()
        assert np.abs(logits - exact).max() < tolerance * max(1, np.abs(exact).max()), policy
        for layer in [*entering_the_backbone(model), model.get_layer("logits")]:
            if not isinstance(layer, keras.layers.Concatenate):  # joins float32 arrays, in the type of what follows
                assert layer.compute_dtype == "float32", layer.name
        trunk = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
        assert {layer.compute_dtype for layer in trunk} == {policy.removeprefix("mixed_")}


@every_model_compiled
def test_the_compiler_gives_the_same_logits(name):
    model = golden.build(name)
    model.compile(jit_compile=True)
    logits = model.predict_on_batch(golden.golden_input(model_bands(name)))
    assert np.abs(logits - golden.recorded()[name]).max() < golden.TOLERANCE


@pytest.mark.parametrize("case", marked(golden.cases()))
def test_logits_are_the_recorded_ones_on_this_stack(case):
    logits = golden.logits_of(golden.build(case))
    assert logits.shape == (2, 19)
    assert np.abs(logits[0] - logits[1]).max() > 1e-3, "the output does not depend on the input"
    assert np.abs(logits - golden.recorded()[case]).max() < golden.TOLERANCE


@pytest.mark.parametrize("name", marked(n for n in list_models() if len(model_bands(n).sensors) == 2))
def test_one_sensor_alone_is_served(name):
    """The absent one is not read: neither its place in the batch nor what the other patches have of it counts."""
    model = golden.build(name)
    both = golden.golden_input(model_bands(name))
    alone = {}
    for sensor in ("s1", "s2"):
        grids = model.complete({grid: x for grid, x in both.items() if grid.startswith(sensor)})
        alone[sensor] = np.asarray(model(grids, training=False))
        mixed = {grid: np.concatenate([both[grid][:1], grids[grid][1:]]) for grid in both}
        logits = np.asarray(model(mixed, training=False))
        np.testing.assert_allclose(logits[0], golden.recorded()[name][0], atol=golden.TOLERANCE)
        np.testing.assert_allclose(logits[1], alone[sensor][1], atol=1e-5)
    assert np.isfinite([alone["s1"], alone["s2"]]).all()
    assert np.abs(alone["s1"] - alone["s2"]).max() > 1e-2
    nothing = {grid: np.zeros_like(x) for grid, x in both.items()}
    assert np.isfinite(np.asarray(model(nothing, training=False))).all()


def jax_logits(arguments, project_root) -> dict[str, np.ndarray]:
    """Run the golden cases in a process with Keras' JAX backend."""
    pytest.importorskip("jax", reason="Keras' JAX backend needs jax, which this environment does not have")
    if not hasattr(keras, "ops"):
        pytest.skip("Keras 2 has no JAX backend")
    code = [sys.executable, "-W", "ignore", "-m", "tests.models.golden", "logits", *map(str, arguments)]
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(code, cwd=project_root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {case: np.array(rows) for case, rows in json.loads(done.stdout).items()}


@pytest.mark.slow
def test_jax_loads_what_tensorflow_saved_and_gives_the_same_logits(project_root, tmp_path):
    saved = create_model("shallow_cnn_s1s2_late", fusion="gated", resampling=golden.RESAMPLING)
    golden.fill_weights(saved)
    saved.save(tmp_path / "saved.keras")
    found = jax_logits(
        ["k_branch_cnn_s2_12", "shallow_cnn_s1s2_late/cross_attention", tmp_path / "saved.keras"], project_root
    )
    recorded = golden.recorded()
    recorded[str(tmp_path / "saved.keras")] = recorded["shallow_cnn_s1s2_late/gated"]
    assert len(found) == 3
    for case, logits in found.items():
        assert np.abs(logits - recorded[case]).max() < golden.TOLERANCE, case


@pytest.mark.slow
def test_every_model_gives_the_same_logits_on_jax(project_root):
    found = jax_logits(golden.cases(), project_root)
    assert found.keys() == golden.recorded().keys()
    apart = {case: np.abs(found[case] - expected).max() for case, expected in golden.recorded().items()}
    assert {case: gap for case, gap in apart.items() if not gap < golden.TOLERANCE} == {}


def test_the_recorded_logits_are_of_every_model_and_fusion():
    assert sorted(golden.recorded()) == golden.cases()
    assert {case.partition("/")[2] for case in golden.cases()} == {"", *FUSIONS[1:]}
