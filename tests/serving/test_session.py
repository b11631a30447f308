"""A session runs any SavedModel as a server does, and says plainly what is wrong with a request."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf

from bigearth_tf.errors import BundleError, NotServedError, RequestError
from bigearth_tf.serving.interface import Signature, Tensor
from bigearth_tf.serving.session import SessionModel, plain_message


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A SavedModel that scales pairs of numbers and says their names."""
    module = tf.Module()
    module.factor = tf.Variable(3.0)

    @tf.function(
        input_signature=[tf.TensorSpec((None, 2), name="pairs"), tf.TensorSpec((None,), tf.string, name="names")]
    )
    def scale(pairs, names):
        tf.debugging.Assert(tf.reduce_all(pairs >= 0), ["pairs are not below 0, isn't it; send others"])
        return {"scaled": pairs * module.factor, "said": tf.strings.join(["<", names, ">"])}

    path = tmp_path_factory.mktemp("saved")
    tf.saved_model.save(module, str(path), signatures={"scale": scale})
    return path


@pytest.fixture(scope="module")
def model(folder):
    loaded = SessionModel(folder, threads=1)
    yield loaded
    loaded.close()


def names(*found):
    return np.array(found, object)


def test_signatures_are_read_from_the_file(model):
    assert model.signatures == {
        "scale": Signature(
            "scale",
            "tensorflow/serving/predict",
            {"names": Tensor("string", (None,)), "pairs": Tensor("float32", (None, 2))},
            {"said": Tensor("string", (None,)), "scaled": Tensor("float32", (None, 2))},
        )
    }
    assert str(model.signatures["scale"].inputs["pairs"]) == "float32 (any, 2)"


def test_it_answers(model):
    found = model.run("scale", {"pairs": np.array([[1, 2], [3, 4]], np.float32), "names": names(b"a\0", b"\xff")})
    np.testing.assert_array_equal(found["scaled"], [[3, 6], [9, 12]])
    assert list(found["said"]) == [b"<a\0>", b"<\xff>"]


def test_threads_may_ask_at_once(model):
    def ask(i):
        return model.run("scale", {"pairs": np.full((1, 2), i, np.float32), "names": names(b"n")})["scaled"][0, 0]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(40))) == [3 * i for i in range(40)]


GOOD = {"pairs": np.ones((2, 2), np.float32), "names": names(b"a", b"b")}


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"names": names(b"a")}, "scale lacks the input pairs; send names: string .any., pairs: float32 .any, 2."),
        ({**GOOD, "more": names(b"a")}, "scale has no input 'more'; send names"),
        (
            {**GOOD, "pairs": np.ones((2, 3), np.float32)},
            r"pairs of scale takes float32 \(any, 2\), got float32 \(2, 3\)",
        ),
        ({**GOOD, "pairs": np.ones((2, 2))}, "got float64"),
        ({**GOOD, "pairs": np.ones((2, 2, 1), np.float32)}, r"got float32 \(2, 2, 1\)"),
        ({**GOOD, "names": np.ones(2, np.float32)}, "names of scale takes string"),
        ({**GOOD, "names": names(b"a")}, "hold the same patches, got names: 1, pairs: 2"),
        ({"pairs": np.ones((0, 2), np.float32), "names": names()}, "takes one patch at least, got none"),
        ({**GOOD, "pairs": -GOOD["pairs"]}, "^pairs are not below 0, isn't it; send others$"),
    ],
)
def test_a_wrong_request_gets_the_plain_message(model, inputs, message):
    with pytest.raises(RequestError, match=message):
        model.run("scale", inputs)


def test_an_unknown_signature_is_named(model):
    with pytest.raises(NotServedError, match="no signature 'scales'; ask one of scale"):
        model.run("scales", GOOD)


def test_what_cannot_be_loaded_says_why(folder, tmp_path):
    with pytest.raises(BundleError, match="cannot be loaded: SavedModel file does not exist"):
        SessionModel(tmp_path)
    (tmp_path / "saved_model.pb").write_bytes((folder / "saved_model.pb").read_bytes()[:-7])
    with pytest.raises(BundleError, match="cannot be loaded: .*; export the model again"):
        SessionModel(tmp_path)
    (tmp_path / "saved_model.pb").write_bytes((folder / "saved_model.pb").read_bytes())
    with pytest.raises(BundleError, match="cannot be loaded: .*variables"):
        SessionModel(tmp_path)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("assertion failed: [B02 isn\\'t [x] here] [more]\n\t [[{{node a/Assert}}]]", "B02 isn't [x] here"),
        ("Graph execution error:\n\nDetected at node x\n", "Detected at node x"),
        ("2 root error(s) found.\n  (0) INVALID_ARGUMENT: x\n\t [[{{node n}}]]\nfeed is bad", "feed is bad"),
        ("Could not parse example input, value: 'abc'\n\t [[{{node ParseExample}}]]", "Could not parse example input"),
    ],
)
def test_messages_lose_the_nodes_of_the_graph(text, plain):
    assert plain_message(tf.errors.InvalidArgumentError(None, None, text)).startswith(plain)
