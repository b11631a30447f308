"""The whole way of retrieval: a patch, embedded from its record into an index, is found by its GeoTIFF files."""

import json
import shutil

import keras
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from bigearth_tf.archive.metadata import index_archive
from bigearth_tf.bands import BANDS
from bigearth_tf.cli.main import cli, main
from bigearth_tf.models import create_model
from bigearth_tf.records.manifest import Manifest
from bigearth_tf.records.writer import write_records
from bigearth_tf.retrieval.embed import embed
from bigearth_tf.retrieval.embedder import ModelEmbedder
from bigearth_tf.retrieval.index import KINDS, build_index
from bigearth_tf.retrieval.query import embed_folders
from tests.archives import write_v1, write_v2

SMALL = {"dense_units": 32, "stride": 4}


def noise(band, number):
    """Pixels that no two patches share."""
    random = np.random.default_rng([number, list(BANDS).index(band.name)])
    low, high = (100 * number, 3000) if band.sensor == "s2" else (-25 + number, -2)
    return random.uniform(low, high, (band.size, band.size)).astype(band.dtype)


def require_found(entries, records, embedder, shown, folder):
    """Check that each patch, embedded from its record, is the first hit of its files in every kind of index."""
    embed(embedder, records, folder / "all.arrow", sensors=shown, dtype="float32")
    folders = [[{"s2": entry.s2_dir, "s1": entry.s1_dir}[sensor] for sensor in shown] for entry in entries]
    asked = np.stack([embed_folders(embedder, own).vector for own in folders])
    for kind in KINDS:
        index = build_index(folder / "all.arrow", folder / kind, kind=kind)
        assert sorted(index.names) == sorted(entry.name for entry in entries)
        for entry, vector, (hit,) in zip(entries, asked, index.search(asked, 1), strict=True):
            assert (hit.name, hit.rank) == (entry.name, 1), kind
            np.testing.assert_allclose(index.vectors([hit.row])[0], vector, atol=1e-5)


def small_embedder(name, records) -> ModelEmbedder:
    keras.utils.set_random_seed(0)  # other weights may have no feature that is not 0
    return ModelEmbedder(create_model(name, contract=Manifest.load(records).contract, **SMALL))


@pytest.fixture(scope="module")
def pairs(shared_or_none, tmp_path_factory):
    """Entries of pairs, real ones where they are there, their records, and what embeds them."""
    folder = tmp_path_factory.mktemp("pairs")
    real = shared_or_none and shared_or_none / "realdata" / "bigearthnet" / "v1"
    root = real or write_v1(folder / "archive", pixels=noise).root
    write_records([root], folder / "records", unsplit=True)
    entries = index_archive([root], unsplit=True).entries
    return entries, folder / "records", small_embedder("shallow_cnn_s1s2_late", folder / "records")


@pytest.mark.parametrize("shown", [("s2", "s1"), ("s2",), ("s1",)], ids=["pairs", "S2 alone", "S1 alone"])
def test_a_patch_finds_itself_in_every_kind_of_index_by_its_files(pairs, shown, tmp_path):
    require_found(*pairs, shown, tmp_path)


@pytest.mark.slow  # the official table of half a million patches is read
@pytest.mark.parametrize("sensor", ["s2", "s1"])
def test_a_patch_of_v2_finds_itself_with_a_model_of_its_sensor(shared, sensor, tmp_path):
    roots = [shared / "realdata" / "bigearthnet" / "v2", shared / "realdata" / "official_metadata" / "v2"]
    write_records(roots, tmp_path / "records", sensors=sensor)
    entries = index_archive(roots, sensors=sensor).entries
    embedder = small_embedder(f"shallow_cnn_{sensor}", tmp_path / "records")
    require_found(entries, tmp_path / "records", embedder, (sensor,), tmp_path)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A synthetic archive, its records, a model of both sensors in a file, and by the commands an index."""
    folder = tmp_path_factory.mktemp("way")
    labels = [("Pastures",), ("Pastures", "Mixed forest"), ("Mixed forest",), ("Arable land", "Pastures")]
    archive = write_v2(folder / "archive", [{"labels": own, "h": 3 * n} for n, own in enumerate(labels)], pixels=noise)
    write_records([archive.root], folder / "records")
    keras.utils.set_random_seed(0)
    model = create_model("shallow_cnn_s1s2_late", contract=Manifest.load(folder / "records").contract, **SMALL)
    model.save(folder / "model.keras")
    embeddings, index = str(folder / "all.arrow"), str(folder / "all.index")
    for command in (
        ["embed", str(folder / "model.keras"), "--records", str(folder / "records"), "--out", embeddings],
        ["index", embeddings, "--out", index],
    ):
        CliRunner().invoke(cli, ["retrieve", *command], catch_exceptions=False)
    return folder, archive


def run(capfd, *arguments, code=0):
    capfd.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(["retrieve", *map(str, arguments)])
    said = capfd.readouterr()
    assert stopped.value.code == code, said
    return said


def test_the_commands_lead_from_records_to_scores(made, capfd, tmp_path):
    folder, archive = made
    model, records = folder / "model.keras", folder / "records"
    index, patch = folder / "all.index", archive.patches[2]

    def search(*query):
        return json.loads(run(capfd, "search", index, *query, "--json").out)

    by_name = search(patch.s1_name)
    assert by_name["query"]["name"] == patch.s2_name
    assert {hit["name"] for hit in by_name["hits"]} == {p.s2_name for p in archive.patches} - {patch.s2_name}

    by_files = search(patch.s1_dir, patch.s2_dir, "--model", model)
    assert by_files["hits"][0]["name"] == patch.s2_name
    assert by_files["hits"][0]["score"] == pytest.approx(1, abs=2e-3)  # of float16
    assert by_files["query"]["labels"] == list(patch.labels19)  # the index knows the patch
    assert by_files["hits"][1:] == [
        {**hit, "rank": hit["rank"] + 1, "score": pytest.approx(hit["score"], abs=2e-3)} for hit in by_name["hits"]
    ]

    assert by_files["note"] == ""
    assert search(patch.s2_dir, "--model", model) == by_files, "the partner is in the archive around the folder"

    mine = shutil.copytree(patch.s1_dir, tmp_path / "mine")
    across = search(mine, "--model", model, "--records", records, "--png", tmp_path / "hits.png")
    assert across["query"]["name"] == "mine" and across["query"]["labels"] == []
    assert across["query"]["bounds"] == list(patch.bounds)
    assert "the query shows S1, the vectors are of S2 and S1" in across["note"]
    own = next(hit for hit in across["hits"] if hit["name"] == patch.s2_name)
    for side in ("longitude", "latitude"):
        assert across["query"][side] == pytest.approx(own[side], abs=1e-9)
    with Image.open(tmp_path / "hits.png") as image:
        image.verify()

    run(capfd, "evaluate", folder / "all.arrow", index, "--k", "1,3", "--resamples", "0", "--out", tmp_path / "card")
    card = json.loads((tmp_path / "card" / "card.json").read_text())
    assert card["queries"]["patches"] == card["gallery"]["patches"] == len(archive.patches)


def test_a_foreign_model_is_refused_with_both_sides_named(made, capfd, tmp_path):
    folder, archive = made
    contract = Manifest.load(folder / "records").contract
    create_model("shallow_cnn_s2", contract=contract, **SMALL).save(tmp_path / "other.keras")
    asked = [folder / "all.index", archive.patches[0].s2_dir, "--model", tmp_path / "other.keras"]
    said = run(capfd, "search", *asked, code=1)
    assert "vectors of different models cannot be compared" in said.err
    assert f"index {folder / 'all.index'}: shallow_cnn_s1s2_late" in said.err
    assert f"{tmp_path / 'other.keras'}: shallow_cnn_s2" in said.err
