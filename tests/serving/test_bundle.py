"""A bundle answers like the model, by stock ops alone, and cannot be fed wrong."""

import json

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from bigearth_tf.archive.geotiff_encode import encode_band
from bigearth_tf.archive.patch import band_files, read_band_files
from bigearth_tf.bands import BAND_SETS, BANDS
from bigearth_tf.calibration import Calibration
from bigearth_tf.contract import DataContract
from bigearth_tf.errors import ConfigError, MissingBandError, OutputExistsError, PairError
from bigearth_tf.models import create_model
from bigearth_tf.pipelines.dataset import load_dataset
from bigearth_tf.records.manifest import Manifest
from bigearth_tf.records.writer import write_records
from bigearth_tf.serving.bundle import Bundle, export_bundle, find_bundle
from bigearth_tf.serving.signatures import DEFAULT, EXAMPLES, GEOTIFF, decode_geotiff
from tests.archives import write_v1, write_v2

OPTIONS = {"dense_units": 8}


def noise(band, number):
    rng = np.random.default_rng([number, list(BANDS).index(band.name)])
    pixels = rng.normal(size=(band.size, band.size))
    return (2000 + 500 * pixels if band.sensor == "s2" else -15 + 3 * pixels).astype(band.dtype)


@pytest.fixture(scope="module", params=["v1", "v2"])
def archive(request, tmp_path_factory):
    write = {"v1": write_v1, "v2": write_v2}[request.param]
    return write(tmp_path_factory.mktemp(request.param), pixels=noise)


@pytest.fixture(scope="module")
def records(archive, tmp_path_factory):
    folder = tmp_path_factory.mktemp("records") / "records"
    write_records([archive.root], folder)
    return folder


@pytest.fixture(scope="module", params=["s1s2_early", "s1s2_late"])
def served(request, records, tmp_path_factory):
    model = create_model(f"shallow_cnn_{request.param}", contract=Manifest.load(records).contract, **OPTIONS)
    return model, Bundle(export_bundle(model, tmp_path_factory.mktemp("bundles")))


def test_model_and_all_signatures_agree(archive, records, served):
    model, bundle = served
    dataset = load_dataset(records, "all", bands="s1s2", batch_size=6, names=True)
    grids, _, names = next(iter(dataset))
    expected = tf.sigmoid(model(grids, training=False)).numpy()
    assert np.ptp(expected, axis=0).max() > 1e-3, "patches must differ for the comparison to mean something"
    np.testing.assert_allclose(bundle.predict(DEFAULT, **grids), expected, atol=1e-5)

    examples = [
        s for shard in Manifest.load(records).shards for s in tf.data.TFRecordDataset(f"{records}/{shard.file}")
    ]
    order = [tf.train.Example.FromString(s.numpy()).features.feature["name"].bytes_list.value[0] for s in examples]
    place = [order.index(n) for n in names.numpy()]
    np.testing.assert_allclose(bundle.predict(EXAMPLES, examples=examples)[place], expected, atol=1e-5)

    patches = {p.s2_name: p for p in archive.patches}
    folders = [(patches[n.decode()].s2_dir, patches[n.decode()].s1_dir) for n in names.numpy()]
    files = [read_band_files(f, bundle.contract.band_set) for f in folders]
    np.testing.assert_allclose(bundle.predict_files(files), expected, atol=1e-5)
    for i in (0, 5):
        np.testing.assert_allclose(bundle.predict_folders(folders[i]), expected[i], atol=1e-5)


def test_signatures_have_named_inputs_and_shapes(served):
    _, bundle = served
    assert set(bundle.signatures) == {"serving_default", "serve_examples", "serve_geotiff"}
    inputs = bundle.signatures[DEFAULT].structured_input_signature[1]
    assert {n: (tuple(s.shape), s.dtype.name) for n, s in inputs.items()} == {
        g.name: ((None, *g.shape), g.dtype) for g in BAND_SETS["s1s2"].grids
    }
    assert set(bundle.signatures[GEOTIFF].structured_input_signature[1]) == set(BAND_SETS["s1s2"].bands)
    assert list(bundle.signatures[EXAMPLES].structured_input_signature[1]) == ["examples"]
    for signature in bundle.signatures.values():
        assert signature.structured_outputs["probabilities"].shape == (None, 19)


def test_assets_hold_contract_and_classes(served):
    model, bundle = served
    assert bundle.contract == model.contract
    data = json.loads((bundle.path / "assets" / "contract.json").read_text())
    assert DataContract.from_dict(data) == model.contract
    classes = (bundle.path / "assets" / "classes.txt").read_text().splitlines()
    assert tuple(classes) == model.contract.nomenclature.names


def test_a_calibration_goes_with_the_bundle(small_model, tmp_path):
    grids = {"s1_10m": np.zeros((2, 120, 120, 2), np.float32) - 12}
    plain = Bundle(export_bundle(small_model, tmp_path))
    assert plain.calibration == Calibration.plain(19)
    assert not (plain.path / "assets" / "calibration.json").exists()
    small_model.calibration = Calibration((0.25,) * 19, temperature=2.0, unsure=0.6)
    try:
        bundle = Bundle(export_bundle(small_model, tmp_path))
    finally:
        small_model.calibration = None
    assert bundle.calibration == Calibration((0.25,) * 19, temperature=2.0, unsure=0.6)
    logits = small_model.predict_on_batch(grids)
    np.testing.assert_allclose(plain.predict(**grids), 1 / (1 + np.exp(-logits)), atol=1e-6)
    np.testing.assert_allclose(bundle.predict(**grids), 1 / (1 + np.exp(-logits / 2)), atol=1e-6)


def graph_ops(path):
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((path / "saved_model.pb").read_bytes())
    graph = saved.meta_graphs[0].graph_def
    return {n.op for n in graph.node} | {n.op for f in graph.library.function for n in f.node_def}


def test_only_ops_that_stock_tensorflow_serving_has(served):
    ops = graph_ops(served[1].path)
    assert {"DecodeRaw", "Substr", "Conv2D"} <= ops
    assert not {op for op in ops if "PyFunc" in op or op.startswith(("IO>", "Addons>"))}
    assert all(tf.raw_ops.__dict__.get(op) or op in CORE_WITHOUT_WRAPPER for op in ops), ops


CORE_WITHOUT_WRAPPER = {"Const", "Placeholder", "NoOp", "Identity"}


def test_the_raw_session_loader_serves_it(served, records):
    """TensorFlow Serving loads by tags and feeds by tensor names; so does a session."""
    model, bundle = served
    grids, _ = next(iter(load_dataset(records, "all", bands="s1s2", batch_size=3)))
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        meta = tf.compat.v1.saved_model.load(session, ["serve"], str(bundle.path))
        signature = meta.signature_def["serving_default"]
        feed = {signature.inputs[name].name: grids[name].numpy() for name in signature.inputs}
        (out,) = session.run([signature.outputs["probabilities"].name], feed)
    np.testing.assert_allclose(out, tf.sigmoid(model(grids, training=False)).numpy(), atol=1e-5)


@pytest.fixture
def good(served, archive):
    patch = archive.patches[0]
    return read_band_files([patch.s2_dir, patch.s1_dir], served[1].contract.band_set)


def other(band, name):
    """Bytes of `name`'s pixels under another header."""
    return encode_band(np.zeros((band.size, band.size), band.dtype), band, epsg=32633, ulx=0, uly=0)


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: b"",
        lambda d: b"not a tiff",
        lambda d: d[:-200],
        lambda d: d + b"tail",
        lambda d: d[:300],
        lambda d: b"MM\0*" + d[4:],
        lambda d: d[:46] + b"\x05" + d[47:],
        lambda d: other(BANDS["B05"], "B02"),
        lambda d: other(BANDS["VV"], "B02"),
    ],
    ids=["empty", "text", "truncated", "tail", "short", "big-endian", "count", "60 px", "float"],
)
def test_a_wrong_file_fails_the_request_and_names_the_band(served, good, damage):
    _, bundle = served
    with pytest.raises(tf.errors.InvalidArgumentError, match="B02: not a plain archive GeoTIFF"):
        bundle.predict_files([good, {**good, "B02": damage(good["B02"])}])


def test_every_flipped_header_bit_that_matters_is_refused(served, good):
    """Width, height, bits, compression, sample format and strip offsets of the file are checked."""
    data = bytearray(good["B03"])
    for place in (10, 18, 30, 42, 54, 130, 138, 78):
        broken = bytes(data[:place]) + bytes([data[place] ^ 4]) + bytes(data[place + 1 :])
        with pytest.raises(tf.errors.InvalidArgumentError):
            served[1].predict_files([{**good, "B03": broken}])


def test_geotiff_decoding_is_exact_for_every_band():
    for band in BANDS.values():
        pixels = noise(band, 3)
        for nodata in (False, True):
            data = encode_band(pixels, band, epsg=32634, ulx=300000, uly=5000040, nodata=nodata)
            np.testing.assert_array_equal(decode_geotiff(tf.constant([data]), band)[0], pixels)


def test_reencoded_files_are_predicted_through_arrays(served, archive, tmp_path):
    import rasterio

    _, bundle = served
    patch = archive.patches[0]
    folder = tmp_path / "copy"
    folder.mkdir()
    for name, path in band_files([patch.s2_dir, patch.s1_dir]).items():
        with rasterio.open(path) as source:
            profile = {**source.profile, "compress": "deflate"}
            with rasterio.open(folder / f"mine_{name}.tif", "w", **profile) as copy:
                copy.write(source.read())
    np.testing.assert_allclose(
        bundle.predict_folders([folder]), bundle.predict_folders([patch.s2_dir, patch.s1_dir]), atol=1e-6
    )


def test_folders_of_two_places_are_refused(served, archive):
    with pytest.raises(PairError, match="show one place"):
        served[1].predict_folders([archive.patches[0].s2_dir, archive.patches[1].s1_dir])


def test_a_missing_band_is_named(served, archive):
    with pytest.raises(MissingBandError, match="VV, VH"):
        served[1].predict_folders([archive.patches[0].s2_dir])


@pytest.fixture(scope="module")
def small_model():
    return create_model("shallow_cnn_s1", **OPTIONS)


def test_versions_increase_and_are_never_overwritten(small_model, tmp_path):
    folder = tmp_path / "shallow_cnn_s1"
    assert export_bundle(small_model, tmp_path) == folder / "1"
    assert export_bundle(small_model, tmp_path, version=7) == folder / "7"
    with pytest.raises(OutputExistsError, match="never overwritten"):
        export_bundle(small_model, tmp_path, version=7)
    assert find_bundle(tmp_path) == find_bundle(folder) == folder / "7"
    assert export_bundle(small_model, tmp_path) == folder / "8"
    assert sorted(p.name for p in folder.iterdir()) == ["1", "7", "8"], "no scratch is left"


def test_a_failed_export_leaves_no_bundle(small_model, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(tf.saved_model, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        export_bundle(small_model, tmp_path)
    assert not list((tmp_path / "shallow_cnn_s1").iterdir())


def test_no_bundle_there(tmp_path):
    with pytest.raises(ConfigError, match="bigearth-tf export"):
        Bundle(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name / "1").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"several models; name one of .*a, .*b"):
        find_bundle(tmp_path)
