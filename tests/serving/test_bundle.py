"""A bundle answers like the model, by stock ops alone, and cannot be fed wrong."""

import hashlib
import json

import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner

from bigearth_tf.archive.geotiff_encode import encode_band
from bigearth_tf.archive.patch import band_files, read_band_files
from bigearth_tf.bands import BAND_SETS, BANDS
from bigearth_tf.calibration import Calibration
from bigearth_tf.cli.export import export as export_cli
from bigearth_tf.contract import ARCHIVES, DataContract
from bigearth_tf.errors import (
    BundleError,
    ConfigError,
    ContractError,
    MissingBandError,
    OutputExistsError,
    PairError,
    RequestError,
)
from bigearth_tf.models import create_model
from bigearth_tf.pipelines.dataset import load_dataset
from bigearth_tf.records.manifest import Manifest
from bigearth_tf.records.writer import write_records
from bigearth_tf.serving import export
from bigearth_tf.serving.assets import ARCHIVE_LICENCES, SOFTWARE_LICENCE
from bigearth_tf.serving.bundle import Bundle, export_bundle, find_bundle
from bigearth_tf.serving.geotiff_ops import decode_geotiffs
from bigearth_tf.serving.interface import CLASSIFY, DEFAULT, EXAMPLES, GEOTIFF, Tensor
from bigearth_tf.serving.warmup import read_warmup
from bigearth_tf.training.result_card import ResultCard
from bigearth_tf.training.run_folder import RunFolder, run_facts
from tests.archives import write_v1, write_v2

OPTIONS = {"dense_units": 8, "stride": 4}


def noise(band, number):
    rng = np.random.default_rng([number, list(BANDS).index(band.name)])
    pixels = rng.normal(size=(band.size, band.size))
    return (2000 + 500 * pixels if band.sensor == "s2" else -15 + 3 * pixels).astype(band.dtype)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((write_v1, "s1s2_early"), id="v1 early", marks=pytest.mark.slow),
        pytest.param((write_v2, "s1s2_late"), id="v2 late"),
    ],
)
def case(request, tmp_path_factory):
    """An archive, its records, a model of their contract, and its bundle."""
    write, variant = request.param
    folder = tmp_path_factory.mktemp(variant)
    archive = write(folder / "archive", pixels=noise)
    write_records([archive.root], folder / "records")
    contract = Manifest.load(folder / "records").contract
    model = create_model(f"shallow_cnn_{variant}", contract=contract, **OPTIONS)
    bundle = Bundle(export_bundle(model, folder / "bundles", batch_sizes=(2,), check=False))
    return archive, folder / "records", model, bundle


@pytest.fixture(scope="module")
def archive(case):
    return case[0]


@pytest.fixture(scope="module")
def records(case):
    return case[1]


@pytest.fixture(scope="module")
def served(case):
    return case[2:]


def test_model_and_all_signatures_agree(archive, records, served):
    model, bundle = served
    dataset = load_dataset(records, "all", bands="s1s2", batch_size=6, names=True)
    grids, _, names = next(iter(dataset))
    expected = tf.sigmoid(model(grids, training=False)).numpy()
    assert np.ptp(expected, axis=0).max() > 1e-3, "patches must differ for the comparison to mean something"
    np.testing.assert_allclose(bundle.predict(DEFAULT, **grids), expected, atol=1e-5)

    files = [f"{records}/{shard.file}" for shard in Manifest.load(records).shards]
    examples = list(tf.data.TFRecordDataset(files).as_numpy_iterator())
    order = [tf.train.Example.FromString(s).features.feature["name"].bytes_list.value[0] for s in examples]
    place = [order.index(n) for n in names.numpy()]
    np.testing.assert_allclose(bundle.predict(EXAMPLES, examples=examples)[place], expected, atol=1e-5)
    classified = bundle.ask(CLASSIFY, inputs=examples)
    np.testing.assert_allclose(classified["scores"][place], expected, atol=1e-5)
    assert [name.decode() for name in classified["classes"][3]] == list(bundle.contract.nomenclature.names)

    patches = {p.s2_name: p for p in archive.patches}
    folders = [(patches[n.decode()].s2_dir, patches[n.decode()].s1_dir) for n in names.numpy()]
    files = [read_band_files(f, bundle.contract.band_set) for f in folders]
    np.testing.assert_allclose(bundle.predict_files(files), expected, atol=1e-5)
    for i in (0, 5):
        np.testing.assert_allclose(bundle.predict_folders(folders[i]), expected[i], atol=1e-5)


def test_signatures_have_named_inputs_and_shapes(served):
    _, bundle = served
    grids = {grid.name: Tensor(grid.dtype, (None, *grid.shape)) for grid in BAND_SETS["s1s2"].grids}
    strings = Tensor("string", (None,))
    assert {name: signature.inputs for name, signature in bundle.signatures.items()} == {
        "serving_default": grids,
        "embed": grids,
        "explain": grids,
        "serve_s1": {name: grid for name, grid in grids.items() if name.startswith("s1")},
        "serve_s2": {name: grid for name, grid in grids.items() if name.startswith("s2")},
        "serve_geotiff": dict.fromkeys(BAND_SETS["s1s2"].bands, strings),
        "serve_examples": {"examples": strings},
        "classify": {"inputs": strings},
        "asset": {"names": strings},
    }
    for name in (DEFAULT, EXAMPLES, GEOTIFF, "serve_s1", "serve_s2"):
        assert bundle.signatures[name].outputs == {
            "labels": Tensor("string", (None, 19)),
            "probabilities": Tensor("float32", (None, 19)),
            "unsure": Tensor("bool", (None, 19)),
        }
    methods = {name: signature.method for name, signature in bundle.signatures.items()}
    assert methods.pop(CLASSIFY) == "tensorflow/serving/classify"
    assert set(methods.values()) == {"tensorflow/serving/predict"}


def test_assets_hold_contract_and_classes(served):
    model, bundle = served
    assert bundle.contract == model.contract
    data = json.loads((bundle.path / "assets" / "contract.json").read_text())
    assert DataContract.from_dict(data) == model.contract
    classes = (bundle.path / "assets" / "classes.txt").read_text().splitlines()
    assert tuple(classes) == model.contract.nomenclature.names
    assert bundle.calibration == Calibration.plain(19)
    assert bundle.card is bundle.checked is None


def test_the_asset_signature_gives_the_files(served):
    _, bundle = served
    files = {path.name.encode(): path.read_bytes() for path in (bundle.path / "assets").iterdir()}
    assert set(files) == {b"contract.json", b"classes.txt", b"calibration.json", b"embedding.json", b"LICENSE.txt"}
    assert list(bundle.ask("asset", names=list(files))["contents"]) == list(files.values())


def test_every_signature_is_warmed_up_at_every_batch_size(served):
    _, bundle = served
    asked = {(name, bundle.signatures[name].check(inputs)) for name, inputs in read_warmup(bundle.path)}
    assert asked == {(name, 1 if name == "asset" else 2) for name in bundle.signatures}
    (grids,) = (inputs for name, inputs in read_warmup(bundle.path) if name == DEFAULT)
    assert (grids["s2_20m"] == 1000).all()
    assert (grids["s1_10m"] == -12).all()


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
        lambda d: b"not a tiff",
        lambda d: d[:-200],
        lambda d: d + b"tail",
        lambda d: d[:300],
        lambda d: b"MM\0*" + d[4:],
        lambda d: d[:46] + b"\x05" + d[47:],
        lambda d: other(BANDS["B05"], "B02"),
        lambda d: other(BANDS["VV"], "B02"),
    ],
    ids=["text", "truncated", "tail", "short", "big-endian", "count", "60 px", "float"],
)
def test_a_wrong_file_fails_the_request_and_names_the_band(served, good, damage):
    _, bundle = served
    with pytest.raises(RequestError, match="B02: not a plain archive GeoTIFF.* in patch 1, of .*; send the file as"):
        bundle.predict_files([good, {**good, "B02": damage(good["B02"])}])


def test_every_flipped_header_bit_that_matters_is_refused(served, good):
    """Width, height, bits, compression, sample format and strip offsets of the file are checked."""
    data = bytearray(good["B03"])
    for place in (10, 18, 30, 42, 54, 130, 138, 78):
        broken = bytes(data[:place]) + bytes([data[place] ^ 4]) + bytes(data[place + 1 :])
        with pytest.raises(RequestError, match="B03: not a plain archive GeoTIFF"):
            served[1].predict_files([{**good, "B03": broken}])


def test_geotiff_decoding_is_exact_for_every_band():
    bands = BAND_SETS["all"]
    pixels = {name: noise(BANDS[name], 3) for name in bands.bands}
    for nodata in (False, True):
        files = {
            name: tf.constant([encode_band(p, BANDS[name], epsg=32634, ulx=300000, uly=5000040, nodata=nodata)])
            for name, p in pixels.items()
        }
        for grid, values in zip(bands.grids, decode_geotiffs(files, bands).values(), strict=True):
            expected = np.stack([pixels[name] for name in grid.band_names], axis=-1)
            np.testing.assert_array_equal(values[0], expected)


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
    return create_model("shallow_cnn_rgb", **OPTIONS)


@pytest.fixture
def quick(monkeypatch):
    """Leave out TensorFlow's part of an export."""

    def save(model, calibration, assets, scratch, folder):
        (folder / "assets").mkdir(parents=True)
        (folder / "saved_model.pb").write_bytes(b"graph")
        for name, content in assets.items():
            (folder / "assets" / name).write_bytes(content)
        return {}

    monkeypatch.setattr(export, "_save", save)
    monkeypatch.setattr(export, "write_deployment", lambda *args, **kwargs: None)


def test_versions_increase_and_are_never_overwritten(small_model, tmp_path, quick):
    folder = tmp_path / "shallow_cnn_rgb"
    assert export_bundle(small_model, tmp_path, check=False) == folder / "1"
    assert export_bundle(small_model, tmp_path, version=7, check=False) == folder / "7"
    with pytest.raises(OutputExistsError, match="never overwritten"):
        export_bundle(small_model, tmp_path, version=7, check=False)
    assert find_bundle(tmp_path) == find_bundle(folder) == folder / "7"
    assert export_bundle(small_model, tmp_path, check=False) == folder / "8"
    assert sorted(p.name for p in folder.iterdir()) == ["1", "7", "8"], "no scratch is left"


def test_a_failed_export_leaves_no_bundle(small_model, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(tf.saved_model, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        export_bundle(small_model, tmp_path)
    assert not list((tmp_path / "shallow_cnn_rgb").iterdir())


def test_a_bundle_has_no_name_before_it_passed_its_check(small_model, tmp_path, quick, monkeypatch):
    seen = []

    def check(folder, golden, tolerance):
        assert (folder / "saved_model.pb").is_file()
        seen.extend(p.name for p in (tmp_path / "shallow_cnn_rgb").iterdir())
        raise BundleError("embed differs")

    monkeypatch.setattr(export, "self_check", check)
    with pytest.raises(BundleError, match="embed differs"):
        export_bundle(small_model, tmp_path)
    (scratch,) = seen
    assert scratch.startswith(".export-"), "what a kill leaves is no version"
    assert not list((tmp_path / "shallow_cnn_rgb").iterdir())


def card_of(scored, **changes):
    return ResultCard({"model": scored.model_name, "contract": scored.contract.to_dict(), "scores": {}, **changes}, b"")


def test_the_result_card_and_the_licence_go_along(small_model, tmp_path, quick):
    assets = export_bundle(small_model, tmp_path, card=card_of(small_model), check=False) / "assets"
    assert json.loads((assets / "result_card.json").read_text()) == card_of(small_model).data
    text = (assets / "LICENSE.txt").read_text()
    assert "licensed under Apache-2.0" in text
    assert "BigEarthNet v2" in text and "CDLA-Permissive-1.0" in text


def test_the_licence_is_that_of_the_package_and_the_archive(project_root, small_model):
    assert f"license_expression = {SOFTWARE_LICENCE}\n" in (project_root / "setup.cfg").read_text()
    assert set(ARCHIVE_LICENCES) == set(ARCHIVES)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "resnet18_rgb"}, r"the name \(resnet18_rgb\)"),
        ({"contract": create_model("shallow_cnn_rgb", classes=43, archive_version="v1", **OPTIONS).contract.to_dict()},
         "the contract's archive_version, the contract's class_names"),
    ],
    ids=["model", "contract"],
)  # fmt: skip
def test_the_card_of_another_model_is_refused(small_model, tmp_path, changes, message):
    with pytest.raises(ContractError, match=message):
        export_bundle(small_model, tmp_path, card=card_of(small_model, **changes))
    assert not list(tmp_path.iterdir())


@pytest.fixture
def run_folder(small_model, tmp_path, quick, monkeypatch):
    """A run, and an export of it that is not checked."""
    report = {"signatures": ["embed"], "warmup_requests": 3, "ops": 5, "largest_difference": {"embed": 2e-7}}
    monkeypatch.setattr(export, "self_check", lambda *args: report)
    monkeypatch.setattr(export, "golden_requests", lambda *args: [])
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    small_model.save(run.model)
    run.write("config.json", {})
    run.write("run.json", {})
    return run


def write_card(folder, model, run):
    predictions = b"none"
    card = card_of(
        model,
        card_version=1,
        training=run_facts(run),
        predictions={"sha256": hashlib.sha256(predictions).hexdigest()},
    )
    folder.mkdir()
    (folder / "card.json").write_text(json.dumps(card.data))
    (folder / "predictions.npz").write_bytes(predictions)
    return card


def export_command(*arguments, code=0):
    found = CliRunner().invoke(export_cli, [str(a) for a in arguments])
    assert found.exit_code == code, found.output
    return found


def test_the_command_takes_the_card_in_the_run(small_model, run_folder, tmp_path):
    card = write_card(run_folder.path / "card", small_model, run_folder)
    said = export_command(run_folder.path, "--out", tmp_path / "out", "--batch-sizes", "4")
    bundle = tmp_path / "out" / "shallow_cnn_rgb" / "1"
    assert said.stdout == f"{bundle}\n"
    assert "3 warm-up requests, 5 ops, all of stock TensorFlow; answers differ from the model's by 2e-07" in said.stderr
    assert f"bigearth-tf serve {tmp_path / 'out'}" in said.stderr
    assert json.loads((bundle / "assets" / "result_card.json").read_text()) == card.data
    write_card(run_folder.path / "card2", small_model, run_folder)
    assert "choose one with --card" in export_command(run_folder.path, "--out", tmp_path / "out", code=2).stderr
    chosen = ["--card", run_folder.path / "card" / "card.json"]
    export_command(run_folder.path, "--out", tmp_path / "out", *chosen)
    assert (bundle.parent / "2" / "assets" / "result_card.json").is_file()


def test_the_command_leaves_out_a_card_of_an_earlier_model(small_model, run_folder, tmp_path):
    write_card(run_folder.path / "card", small_model, run_folder)
    calibrated = create_model("shallow_cnn_rgb", **OPTIONS)
    calibrated.save(run_folder.model)
    said = export_command(run_folder.path, "--out", tmp_path / "out")
    assert "without a result card: " in said.stderr
    assert not (tmp_path / "out" / "shallow_cnn_rgb" / "1" / "assets" / "result_card.json").exists()
    asked = export_command(run_folder.path, "--out", tmp_path / "out", "--card", run_folder.path / "card", code=1)
    assert "scored another state of the model" in str(asked.exception)
    wrong = export_command(run_folder.path, "--out", tmp_path / "out", "--batch-sizes", "1,x", code=2)
    assert "numbers from 1 with commas between them" in wrong.stderr


def test_wrong_settings_get_a_clear_error(small_model, tmp_path):
    with pytest.raises(ConfigError, match="numbers from 1, got 0"):
        export_bundle(small_model, tmp_path, version=0)
    for sizes in ((), (0, 8), (2.5,)):
        with pytest.raises(ConfigError, match="such as 1, 8 and 32"):
            export_bundle(small_model, tmp_path, batch_sizes=sizes)


def test_no_bundle_there(tmp_path):
    with pytest.raises(ConfigError, match="bigearth-tf export"):
        Bundle(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name / "1").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"several models; name one of .*a, .*b"):
        find_bundle(tmp_path)
    (tmp_path / "a" / "1" / "saved_model.pb").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"no assets/contract.json"):
        Bundle(tmp_path / "a")
