"""A patch from its GeoTIFF files has the vector of its record."""

import shutil

import numpy as np
import pytest

from bigearth_tf.archive.geotiff_encode import encode_band
from bigearth_tf.archive.metadata import index_archive
from bigearth_tf.archive.patch import band_files
from bigearth_tf.bands import BANDS
from bigearth_tf.errors import (
    ArchiveNotFoundError,
    ContractError,
    MissingBandError,
    PairError,
    RetrievalError,
    UnknownNameError,
)
from bigearth_tf.models import create_model
from bigearth_tf.records.facts import read_record_at
from bigearth_tf.records.manifest import Manifest
from bigearth_tf.records.writer import write_records
from bigearth_tf.retrieval.embed import embed
from bigearth_tf.retrieval.embedder import BundleEmbedder, ModelEmbedder
from bigearth_tf.retrieval.query import embed_folders
from tests.retrieval.means import CONTRACT, Means


@pytest.fixture(scope="module")
def pair(archive):
    return archive.patches[3]


@pytest.fixture(scope="module")
def embedded(model, records, tmp_path_factory):
    return embed(ModelEmbedder(model), records, tmp_path_factory.mktemp("query") / "e", dtype="float32")


@pytest.mark.parametrize("order", [1, -1])
def test_files_have_the_vector_of_their_record(model, bundle, embedded, records, pair, order):
    query = embed_folders(ModelEmbedder(model), [pair.s2_dir, pair.s1_dir][::order])
    assert (query.name, query.note) == (pair.s2_name, "")
    row = embedded.names.index(pair.s2_name)
    np.testing.assert_allclose(query.vector, embedded.vectors([row])[0], atol=1e-5)
    place = (embedded.table[name][row].as_py() for name in ("shard", "offset"))
    stored = read_record_at(records, *place, name=pair.s2_name).bands
    assert query.bands.keys() == set(CONTRACT.bands)
    for name, pixels in query.bands.items():
        np.testing.assert_array_equal(pixels, stored[name])
    served = embed_folders(BundleEmbedder(bundle), [pair.s2_dir, pair.s1_dir])
    np.testing.assert_allclose(served.vector, query.vector, atol=1e-5)


@pytest.mark.parametrize(("sensor", "folder", "name"), [("s2", "s2_dir", "s2_name"), ("s1", "s1_dir", "s1_name")])
def test_one_sensor_alone_has_the_vector_of_the_other_absent(model, records, pair, tmp_path, sensor, folder, name):
    query = embed_folders(ModelEmbedder(model), [getattr(pair, folder)])
    found = embed(ModelEmbedder(model), records, tmp_path / "e", sensors=[sensor], split="train", dtype="float32")
    assert query.name == getattr(pair, name)
    assert {BANDS[band].sensor for band in query.bands} == {sensor}
    np.testing.assert_allclose(query.vector, found.vectors([found.names.index(pair.s2_name)])[0], atol=1e-5)


def test_one_folder_may_hold_both_sensors(model, pair, tmp_path):
    both = tmp_path / "my patch"
    shutil.copytree(pair.s2_dir, both)
    shutil.copytree(pair.s1_dir, both, dirs_exist_ok=True)
    query = embed_folders(ModelEmbedder(model), [both])
    assert query.name == "my patch"
    expected = embed_folders(ModelEmbedder(model), [pair.s2_dir, pair.s1_dir]).vector
    np.testing.assert_array_equal(query.vector, expected)


@pytest.fixture
def copies(pair, tmp_path):
    return [
        shutil.copytree(folder, tmp_path / folder.name) for folder in map(type(tmp_path), (pair.s2_dir, pair.s1_dir))
    ]


def test_a_sensor_in_part_is_refused(copies):
    band_files(copies)["B8A"].unlink()
    with pytest.raises(MissingBandError, match="B8A"):
        embed_folders(Means(), copies)


def test_a_folder_without_bands_does_not_make_its_sensor_absent(copies):
    for file in copies[1].glob("*.tif"):
        file.unlink()
    with pytest.raises(MissingBandError, match=f"{copies[1]} holds no band file"):
        embed_folders(Means(), copies)


def test_wrong_folders_are_refused(archive, pair, tmp_path):
    with pytest.raises(PairError, match="bands of a pair show one place"):
        embed_folders(Means(), [pair.s2_dir, archive.patches[4].s1_dir])
    with pytest.raises(ArchiveNotFoundError, match="does not exist"):
        embed_folders(Means(), [tmp_path / "none"])
    with pytest.raises(UnknownNameError, match="offset"):
        embed_folders(Means(), [pair.s2_dir], offset="guess")
    alone = Means(create_model("shallow_cnn_s2", dense_units=4, stride=4).contract)
    with pytest.raises(MissingBandError, match="B02"):
        embed_folders(alone, [pair.s1_dir])


def refill(file, value):
    band = BANDS[file.stem.rpartition("_")[2]]
    file.write_bytes(encode_band(np.full((band.size,) * 2, value, band.dtype), band, epsg=32633, ulx=3e5, uly=5.4e6))


def test_a_patch_without_data_or_with_nan_is_refused(copies):
    for name, file in band_files(copies[:1]).items():
        if name in CONTRACT.bands:
            refill(file, 0)
    with pytest.raises(RetrievalError, match="holds no data: every value is 0"):
        embed_folders(Means(), copies[:1])
    for name, file in band_files(copies[1:]).items():
        refill(file, np.nan if name == "VV" else -12)
    with pytest.raises(RetrievalError, match="not finite in VV"):
        embed_folders(Means(), copies[1:])


def test_linear_power_is_refused(copies):
    for file in band_files(copies[1:]).values():
        refill(file, 0.05)
    with pytest.raises(ContractError, match="looks like linear power"):
        embed_folders(Means(), copies[1:])


def test_an_offset_is_taken_off_and_said(copies):
    """As the product's metadata say: values of processing baseline 04.00 and later are 1000 higher."""
    folder = copies[0].with_name("S2B_MSIL2A_20230115T103311_N0510_R108_T32UMD_5_5")
    copies[0].rename(folder)
    for name, file in band_files([folder]).items():
        if name in CONTRACT.bands:
            refill(file, 3000)
    with pytest.raises(ContractError, match="offset"):
        embed_folders(Means(), [folder], offset="refuse")
    harmonized, ignored = (embed_folders(Means(), [folder], offset=choice) for choice in ("harmonize", "ignore"))
    assert {float(pixels.mean()) for pixels in harmonized.bands.values()} == {2000.0}
    assert {float(pixels.mean()) for pixels in ignored.bands.values()} == {3000.0}
    assert harmonized.note.endswith("taken off")


def test_real_patches_have_the_vectors_of_their_records(shared, tmp_path):
    root = shared / "realdata" / "bigearthnet" / "v1"
    write_records([root], tmp_path / "records", unsplit=True)
    contract = Manifest.load(tmp_path / "records").contract
    model = ModelEmbedder(create_model("shallow_cnn_s1s2_late", contract=contract, dense_units=8, stride=4))
    found = embed(model, tmp_path / "records", tmp_path / "e", dtype="float32")
    entries = index_archive([root], unsplit=True).entries
    assert len(entries) == len(found) == 4
    for entry in entries:
        query = embed_folders(model, [entry.s2_dir, entry.s1_dir])
        stored = found.vectors([found.names.index(query.name)])[0]
        np.testing.assert_allclose(query.vector, stored, atol=1e-5 * max(1, np.abs(stored).max()))
