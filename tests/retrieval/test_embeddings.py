"""Files of embeddings: what is written is read, in place, and what is no such file is refused."""

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pytest

from bigearth_tf.contract import DataContract
from bigearth_tf.errors import ConfigError, RetrievalError, UnknownNameError
from bigearth_tf.nomenclature import CLASSES_19
from bigearth_tf.retrieval.embeddings import (
    METADATA_KEY,
    TEXT_COLUMNS,
    Embeddings,
    EmbeddingsHead,
    VectorSpace,
    write_embeddings,
)
from tests.retrieval.means import CONTRACT

ROWS, WIDTH = 10, 6
SPACE = VectorSpace("shallow_cnn_s1s2_late", "ab" * 32, "features", WIDTH, CONTRACT)


def head(**changes):
    return EmbeddingsHead(**{
        "space": SPACE, "dtype": "float32", "sensors": ("s2", "s1"), "split": "train", "patches": ROWS,
        "manifest_sha256": "cd" * 32, **changes,
    })  # fmt: skip


def columns(rows=ROWS):
    names = CLASSES_19.names
    return {
        **{name: [f"{name} {i}" for i in range(rows)] for name in TEXT_COLUMNS},
        "labels": [names[i : i + i % 3] for i in range(rows)],
        "epsg": [32633] * rows,
        "bounds": [(i, i + 1, i + 2, i + 3) for i in range(rows)],
        "longitude": [15 + i / 8 for i in range(rows)],
        "latitude": [45 - i / 8 for i in range(rows)],
        "shard": [i // 4 for i in range(rows)],
        "offset": [i * 275_400 for i in range(rows)],
    }


VECTORS = np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype(np.float32)


@pytest.fixture
def path(tmp_path):
    """Rows in four batches, the last one shorter."""
    write_embeddings(tmp_path / "e.arrow", head(), columns(), VECTORS, rows=3)
    return tmp_path / "e.arrow"


def test_what_is_written_is_read(path):
    found = Embeddings(path)
    assert (len(found), found.head, found.space) == (ROWS, head(), SPACE)
    np.testing.assert_array_equal(found.vectors(), VECTORS)
    for row, written in zip(found.table.to_pylist(), pa.Table.from_pydict(columns()).to_pylist(), strict=True):
        assert {name: row[name] for name in written} == written
    assert found.names == columns()["name"]
    assert list(found.text("country")) == columns()["country"]


def test_any_reader_of_arrow_opens_it(path):
    with pa.memory_map(str(path)) as source:
        table = pa.ipc.open_file(source).read_all()
    assert table["embedding"].type == pa.list_(pa.float32(), WIDTH)
    assert json.loads(table.schema.metadata[METADATA_KEY])["space"]["layer"] == "features"


def test_float16_is_stored_and_float32_is_given(tmp_path):
    write_embeddings(tmp_path / "e", head(dtype="float16"), columns(), VECTORS)
    found = Embeddings(tmp_path / "e")
    assert found.vectors().dtype == np.float32
    np.testing.assert_array_equal(found.vectors(), VECTORS.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize("rows", [[], [0], [9, 0, 2, 3, 3], list(range(ROWS))[::-1]])
def test_rows_come_in_the_order_asked_for(path, rows):
    np.testing.assert_array_equal(Embeddings(path).vectors(rows), VECTORS[rows])


@pytest.mark.parametrize("rows", [1, 2, 3, 100])
def test_blocks_are_all_rows_in_order(path, rows):
    blocks = list(Embeddings(path).blocks(rows))
    assert max(len(block) for _, block in blocks) <= rows
    assert [start for start, _ in blocks] == np.cumsum([0, *(len(block) for _, block in blocks[:-1])]).tolist()
    np.testing.assert_array_equal(np.concatenate([block for _, block in blocks]), VECTORS)


def test_no_patches_are_a_file_too(tmp_path):
    write_embeddings(tmp_path / "none", head(patches=0), columns(0), VECTORS[:0])
    found = Embeddings(tmp_path / "none")
    assert (len(found), found.vectors().shape, found.multi_hot.shape) == (0, (0, WIDTH), (0, len(CLASSES_19)))


def test_labels_are_multi_hot_in_the_order_of_the_contract(path):
    expected = np.zeros((ROWS, len(CLASSES_19)), np.uint8)
    for i in range(ROWS):
        expected[i, i : i + i % 3] = 1
    np.testing.assert_array_equal(Embeddings(path).multi_hot, expected)


def test_a_label_that_the_contract_does_not_know_is_refused(tmp_path):
    labels = [["Volcanoes"], *columns()["labels"][1:]]
    write_embeddings(tmp_path / "e", head(), {**columns(), "labels": labels}, VECTORS)
    with pytest.raises(RetrievalError, match="labels that its contract does not know"):
        _ = Embeddings(tmp_path / "e").multi_hot


@pytest.mark.parametrize("keep", [0, 5, 8, 1000, -1, -10, -300])
def test_a_truncated_file_is_refused(path, keep):
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(RetrievalError, match="is no file of embeddings .*; `bigearth-tf retrieve embed` makes one"):
        Embeddings(path)


def test_a_query_of_other_sensors_is_told():
    assert head().sensors_note({"s1", "s2"}) == ""
    assert head().sensors_note({"s2"}).startswith("the query shows S2, the vectors are of S2 and S1: they compare only")


def test_no_file_there(tmp_path):
    for path, message in ((tmp_path / "none", "does not exist"), (tmp_path, "is no file of embeddings")):
        with pytest.raises(RetrievalError, match=message):
            Embeddings(path)


def rewrite(path, schema=None, rows=None):
    """Write the table of a file with another schema or fewer rows."""
    with pa.memory_map(str(path)) as source:
        table = pa.ipc.open_file(source).read_all()
    table = table.slice(0, rows) if rows else table
    table = table.replace_schema_metadata(schema) if schema is not None else table
    other = path.with_name("other.arrow")
    with pa.OSFile(str(other), "wb") as sink, pa.ipc.new_file(sink, table.schema) as file:
        file.write_table(table)
    return other


def test_a_file_of_another_program_is_refused(path):
    with pytest.raises(RetrievalError, match="an Arrow file of another program"):
        Embeddings(rewrite(path, {"pandas": "{}"}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: {**d, "format_version": 2}, "format version 1 were expected, got 2"),
        (lambda d: {**d, "patches": 11}, "holds 10 patches in columns .*; its head says 11"),
        (lambda d: {**d, "dtype": "float16"}, "embed the records again"),
        (lambda d: {**d, "colour": "blue"}, "not the head of embeddings"),
        (lambda d: {k: v for k, v in d.items() if k != "space"}, "not the head of embeddings"),
        (lambda d: {**d, "space": {**d["space"], "layer": "logits"}}, "logits"),
        (lambda d: {**d, "space": {**d["space"], "width": 0}}, "width of 1 at least"),
        (lambda d: {**d, "space": None}, "not"),
    ],
)
def test_a_head_that_does_not_fit_is_refused(path, change, message):
    text = json.dumps(change(head().to_dict()))
    with pytest.raises(RetrievalError, match=message):
        Embeddings(rewrite(path, {METADATA_KEY: text}))


def test_a_head_that_is_no_json_is_refused(path):
    with pytest.raises(RetrievalError):
        Embeddings(rewrite(path, {METADATA_KEY: "{"}))


def test_rows_that_are_missing_are_noticed(path):
    with pytest.raises(RetrievalError, match="holds 4 patches"):
        Embeddings(rewrite(path, rows=4))


def test_heads_and_spaces_round_trip():
    assert EmbeddingsHead.from_dict(json.loads(json.dumps(head().to_dict()))) == head()
    assert VectorSpace.from_dict(json.loads(json.dumps(SPACE.to_dict()))) == SPACE


@pytest.mark.parametrize(
    ("values", "error"),
    [({"layer": "logits"}, UnknownNameError), ({"width": 0}, ConfigError)],
)
def test_a_space_that_cannot_be_is_refused(values, error):
    with pytest.raises(error):
        dataclasses.replace(SPACE, **values)
    with pytest.raises(UnknownNameError):
        head(dtype="int8")


@pytest.mark.parametrize(
    "values",
    [{"model_name": "vgg16_s2"}, {"model_sha256": "ef" * 32}, {"layer": "embedding"}, {"width": 7}],
)
def test_vectors_of_different_models_are_not_compared(values):
    other = dataclasses.replace(SPACE, **values)
    with pytest.raises(RetrievalError) as refused:
        SPACE.require(other, here="the index", there="the query")
    for side in ("the index", "the query", SPACE.describe(), other.describe()):
        assert side in str(refused.value)


def test_the_contract_of_the_same_weights_may_be_another():
    """Its hashes tell what a model was trained on, which other copies of it may not know."""
    other = DataContract("v2", CONTRACT.bands, CONTRACT.class_names, split="official v2", hashes={"a": "b"})
    SPACE.require(dataclasses.replace(SPACE, contract=other), here="index", there="query")
