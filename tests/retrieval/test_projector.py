"""Files for TensorBoard's projector, read back by TensorBoard's own plugin."""

import csv
import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from bigearth_tf.errors import ConfigError, OutputExistsError, RetrievalError, UnknownNameError
from bigearth_tf.nomenclature import CLASSES_19
from bigearth_tf.pictures import true_color
from bigearth_tf.records.facts import read_record_at
from bigearth_tf.retrieval import projector
from bigearth_tf.retrieval.embeddings import Embeddings
from bigearth_tf.retrieval.projector import write_projector
from tests.retrieval.circle import write_circle


@pytest.fixture(scope="module")
def embeddings(records, tmp_path_factory):
    path = tmp_path_factory.mktemp("projector") / "all.arrow"
    write_circle(path, records)
    return path


def read_tsv(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text), delimiter="\t"))


def plugin(folder):
    """Return a client of TensorBoard's projector plugin on a log folder."""
    from tensorboard.plugins.base_plugin import TBContext
    from tensorboard.plugins.projector.projector_plugin import ProjectorPlugin
    from werkzeug.test import Client
    from werkzeug.wrappers import Response

    provider = SimpleNamespace(list_runs=lambda *_, **__: [])
    routes = ProjectorPlugin(TBContext(logdir=str(folder), data_provider=provider)).get_plugin_apps()

    def get(route, **query):
        answer = Client(routes[route], Response).get(route, query_string=query)
        assert answer.status_code == 200, answer.get_data(as_text=True)
        return answer

    return get


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")  # of TensorBoard 2.15
def test_tensorboard_serves_vectors_metadata_and_pictures(embeddings, records, tmp_path):
    reports = []
    count = write_projector(embeddings, tmp_path, records=records, progress=lambda *report: reports.append(report))
    source = Embeddings(embeddings)
    assert count == len(source) == 22
    assert reports[-1] == (22, 22)
    get = plugin(tmp_path)
    assert json.loads(get("/runs").data) == ["."]
    (info,) = json.loads(get("/info", run=".").data)["embeddings"]
    assert info["tensorName"] == "all"
    assert info["tensorShape"] == [22, 2]
    assert info["sprite"] == {"imagePath": "sprite.png", "singleImageDim": [40, 40]}
    vectors = np.frombuffer(get("/tensor", run=".", name="all").data, np.float32).reshape(22, 2)
    np.testing.assert_array_equal(vectors, source.vectors())
    header, *rows = read_tsv(get("/metadata", run=".", name="all").get_data(as_text=True))
    assert header == ["name", "country", "split", "time", "labels", *CLASSES_19.names]
    assert [row[0] for row in rows] == source.names
    for row, labels in zip(rows, source.table["labels"].to_pylist(), strict=True):
        assert int(row[4]) == len(labels)
        assert [name for name, on in zip(header[5:], row[5:], strict=True) if on == "1"] == labels
    answer = get("/sprite_image", run=".", name="all")
    assert answer.mimetype == "image/png"
    with Image.open(io.BytesIO(answer.data)) as image:
        sprite = np.asarray(image.convert("RGB"))
    assert sprite.shape == (5 * 40, 5 * 40, 3)  # 22 patches in rows of 5
    places = [source.table[name].to_pylist() for name in ("shard", "offset", "name")]
    for number, (shard, offset, name) in enumerate(zip(*places, strict=True)):
        picture = true_color(read_record_at(records, shard, offset, name=name).bands)
        small = picture.reshape(40, 3, 40, 3, 3).mean(axis=(1, 3))
        row, column = 40 * (number // 5), 40 * (number % 5)
        np.testing.assert_allclose(sprite[row : row + 40, column : column + 40], 255 * small, atol=0.51)
    assert not sprite[160:, 80:].any()


def test_a_sample_has_its_own_rows_everywhere_and_is_the_same_again(embeddings, records, tmp_path):
    for name in ("once", "again"):
        assert write_projector(embeddings, tmp_path / name, records=records, limit=7, seed=3) == 7
    for file in ("tensors.tsv", "metadata.tsv", "sprite.png", "projector_config.pbtxt"):
        assert (tmp_path / "once" / file).read_bytes() == (tmp_path / "again" / file).read_bytes()
    source = Embeddings(embeddings)
    names = [row[0] for row in read_tsv((tmp_path / "once" / "metadata.tsv").read_text())[1:]]
    rows = [source.names.index(name) for name in names]
    assert rows == sorted(set(rows)) and len(rows) == 7
    vectors = np.loadtxt(tmp_path / "once" / "tensors.tsv", np.float32, delimiter="\t")
    np.testing.assert_array_equal(vectors, source.vectors(rows))
    write_projector(embeddings, tmp_path / "other", limit=7, seed=4)
    assert (tmp_path / "other" / "metadata.tsv").read_text() != (tmp_path / "once" / "metadata.tsv").read_text()


def test_one_split_can_be_taken(embeddings, tmp_path):
    assert write_projector(embeddings, tmp_path / "val", split="val") == 5
    _, *rows = read_tsv((tmp_path / "val" / "metadata.tsv").read_text())
    assert {row[2] for row in rows} == {"validation"}
    with pytest.raises(UnknownNameError, match="split of these embeddings 'tset'; did you mean test"):
        write_projector(embeddings, tmp_path / "none", split="tset")


def test_a_projector_is_replaced_on_request_alone_and_other_files_stay(embeddings, records, tmp_path):
    (tmp_path / "events.out.tfevents.1").write_text("of a run")
    write_projector(embeddings, tmp_path, records=records)
    with pytest.raises(OutputExistsError, match="--overwrite"):
        write_projector(embeddings, tmp_path, limit=3)
    assert len((tmp_path / "tensors.tsv").read_text().splitlines()) == 22
    write_projector(embeddings, tmp_path, limit=3, overwrite=True)
    assert len((tmp_path / "tensors.tsv").read_text().splitlines()) == 3
    left = {"events.out.tfevents.1", "tensors.tsv", "metadata.tsv", "projector_config.pbtxt"}
    assert {path.name for path in tmp_path.iterdir()} == left  # the sprite was of other rows
    assert "sprite" not in (tmp_path / "projector_config.pbtxt").read_text()


def test_small_pictures_shrink_until_the_sprite_fits(embeddings, records, tmp_path, monkeypatch):
    monkeypatch.setattr(projector, "MOST_SPRITE", 64)  # 5 columns: 12 pixels each
    write_projector(embeddings, tmp_path / "small", records=records)
    with Image.open(tmp_path / "small" / "sprite.png") as image:
        assert image.size == (60, 60)
    monkeypatch.setattr(projector, "MOST_SPRITE", 8)
    with pytest.raises(ConfigError, match="a sprite holds 16 patches at most"):
        write_projector(embeddings, tmp_path / "none", records=records)
    assert not (tmp_path / "none").exists()


def test_pictures_of_other_records_are_refused_before_anything_is_written(embeddings, records, tmp_path):
    other = tmp_path / "records"
    other.mkdir()
    (other / "manifest.json").write_bytes((records / "manifest.json").read_bytes() + b"\n")
    with pytest.raises(RetrievalError, match="Name those records"):
        write_projector(embeddings, tmp_path / "out", records=other)
    with pytest.raises(ConfigError, match="got a limit of 0"):
        write_projector(embeddings, tmp_path / "out", limit=0)
    assert not (tmp_path / "out").exists()
