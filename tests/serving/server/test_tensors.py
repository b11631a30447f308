"""Requests become exactly the arrays that they say, or a message that names the mistake."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bigearth_tf.errors import RequestError, TooLargeError
from bigearth_tf.serving.interface import Tensor
from bigearth_tf.serving.server.tensor_proto import fill_proto, from_proto
from bigearth_tf.serving.server.tensors import DATATYPES, from_flat, from_json, from_raw, to_json, to_raw

GRID = Tensor("uint16", (None, 2, 3))
FILES = Tensor("string", (None,))
NUMBERS = [name for name in DATATYPES if name not in ("string", "float16")]


def arrays(dtype):
    shapes = hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=4)
    finite = {"allow_nan": False, "allow_infinity": False} if dtype.startswith("float") else {}
    return hnp.arrays(dtype, shapes, elements=hnp.from_dtype(np.dtype(dtype), **finite))


def strings(values, shape=(-1,)):
    array = np.empty(len(values), object)
    array[:] = values
    return array.reshape(shape)


def tensor_of(array):
    dtype = "string" if array.dtype.kind == "O" else array.dtype.name
    return Tensor(dtype, (None, *array.shape[1:]))


@pytest.mark.parametrize("dtype", NUMBERS)
def test_numbers_come_through_json_and_bytes_unchanged(dtype):
    @settings(max_examples=20, deadline=None)
    @given(arrays(dtype))
    def check(array):
        tensor = tensor_of(array)
        for back in (
            from_json("x", array.tolist(), tensor),
            from_flat("x", array.ravel().tolist(), array.shape, tensor),
            from_raw("x", to_raw(array), array.shape, tensor),
        ):
            assert back.dtype == array.dtype
            np.testing.assert_array_equal(back, array)

    check()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(max_size=20), min_size=1, max_size=6))
def test_strings_come_through_json_and_bytes_unchanged(values):
    array = strings(values)
    assert from_json("x", to_json("x_bytes", array), FILES).tolist() == values
    assert from_json("x", to_json("x", array), FILES).tolist() == values
    assert from_raw("x", to_raw(array), [len(values)], FILES).tolist() == values


@pytest.mark.parametrize("dtype", [*NUMBERS, "string"])
def test_a_tensor_proto_is_tensorflows(dtype):
    import tensorflow as tf

    array = strings([b"", b"\0a", b"z"] * 2, (2, 3)) if dtype == "string" else np.arange(6).reshape(2, 3).astype(dtype)
    tensor = Tensor(dtype, (None, 3))
    made = tf.make_tensor_proto(array)
    np.testing.assert_array_equal(from_proto("x", made, tensor, 1000), array)
    back = type(made)()
    fill_proto(back, array)
    np.testing.assert_array_equal(tf.make_ndarray(back), array)
    assert not back.tensor_content


def proto(**fields):
    from tensorflow.core.framework import tensor_pb2

    made = tensor_pb2.TensorProto(dtype=17)
    for size in fields.pop("shape"):
        made.tensor_shape.dim.add(size=size)
    made.MergeFrom(tensor_pb2.TensorProto(**fields))
    return made


def test_a_tensor_proto_repeats_its_last_value_as_tensorflow_does():
    got = from_proto("x", proto(shape=[2, 2, 3], int_val=[1, 2, 9]), GRID, 1000)
    assert got.ravel().tolist() == [1, 2] + [9] * 10
    assert from_proto("x", proto(shape=[1, 2, 3]), GRID, 1000).tolist() == [[[0, 0, 0]] * 2]
    files = from_proto("x", proto(shape=[3], dtype=7, string_val=[b"a"]), FILES, 1000)
    assert files.tolist() == [b"a"] * 3


def test_a_few_bytes_do_not_become_gigabytes():
    with pytest.raises(TooLargeError, match=r"x takes 1000 bytes at most, got 12000000000000 by its shape"):
        from_proto("x", proto(shape=[10**12, 2, 3], int_val=[1]), GRID, 1000)
    with pytest.raises(TooLargeError, match="takes 1000 bytes at most"):
        from_proto("x", proto(shape=[10**12], dtype=7, string_val=[b"a"]), FILES, 1000)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"shape": [1, 2, 3], "dtype": 1}, "x takes uint16 (any, 2, 3), got float32; send raw values of that type"),
        ({"shape": [1, 2, 3], "dtype": 14}, "got type 14"),
        ({"shape": [1, 3, 2]}, "x takes uint16 (any, 2, 3), got the shape [1, 3, 2]"),
        ({"shape": [-1, 2, 3]}, "got the shape [-1, 2, 3]"),
        ({"shape": [1, 2, 3], "int_val": [1] * 7}, "x of shape [1, 2, 3] has 6 values, got 7"),
        ({"shape": [1, 2, 3], "int_val": [1, 70000]}, "x takes uint16, got 70000"),
        ({"shape": [1, 2, 3], "int_val": [-1]}, "x takes uint16, got -1"),
        ({"shape": [1, 2, 3], "tensor_content": b"123"}, "x of shape [1, 2, 3] is 12 bytes of uint16, got 3"),
    ],
)
def test_a_wrong_tensor_proto_is_named(fields, said):
    with pytest.raises(RequestError) as error:
        from_proto("x", proto(**fields), GRID, 1000)
    assert said in str(error.value)


ROW = [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([ROW, [[1, 2, 3], [4, 5]]], "x takes uint16 (any, 2, 3), got lists of 2 and 3 at level 3; send whole patches"),
        ([[*ROW, [7, 8, 9]]], "got lists of 3 at level 2"),
        ([], "got nothing at level 2"),
        ([[]], "got lists of 0 at level 2"),
        (5, "got no list at level 1"),
        ([1], "got no list at level 2"),
        ([[[1, 2, [3]], [4, 5, 6]]], "x takes whole numbers (uint16 (any, 2, 3)), got [3]"),
        ([[[1, 2, 3.5], [4, 5, 6]]], "got 3.5"),
        ([[[1, 2, True], [4, 5, 6]]], "got True"),
        ([[[1, 2, None], [4, 5, 6]]], "got None"),
        ([[[1, 2, "3"], [4, 5, 6]]], "got '3'"),
        ([[[1, 2, 65536], [4, 5, 6]]], "x takes uint16, 0 to 65535, got 65536"),
        ([[[1, 2, -1], [4, 5, 6]]], "x takes uint16, 0 to 65535, got -1"),
        ([[[1, 2, 2**64 - 1], [4, 5, 6]]], "x takes uint16, got a number that it cannot hold"),
    ],
)
def test_wrong_json_numbers_are_named(value, said):
    with pytest.raises(RequestError) as error:
        from_json("x", value, GRID)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([1], 'x takes strings, or {"b64": ...} for bytes (string (any)), got 1'),
        ([{"b64": "@@@@"}], "x has broken base64"),
        ([{"b64": "QUJD\n"}], "x has broken base64"),
        ([{"b64": "Q"}], "x has broken base64"),
        ([{"b64": "é"}], "x has broken base64"),
        ([{"b64": 1}], 'x takes strings, or {"b64": ...} for bytes, got'),
        ([{"b64": "QQ==", "more": 1}], 'x takes strings, or {"b64": ...} for bytes, got'),
    ],
)
def test_wrong_json_strings_are_named(value, said):
    with pytest.raises(RequestError) as error:
        from_json("x", value, FILES)
    assert said in str(error.value)


def test_a_float_that_32_bits_cannot_hold_is_refused_and_not_made_infinite():
    tensor = Tensor("float32", (None,))
    assert from_json("x", [1, 0.1], tensor).tolist() == np.float32([1, 0.1]).tolist()
    with pytest.raises(RequestError, match="x takes float32, got a number too large for it"):
        from_json("x", [1e300], tensor)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\1\0\0", "x ends within an element"),
        (struct.pack("<I", 5) + b"1234", "x ends within an element"),
        (struct.pack("<I", 2**32 - 1), "x ends within an element"),
        (struct.pack("<I", 1) + b"a", "x has 2 elements by its shape, got 1"),
        (struct.pack("<I", 0) * 1000, "x has 2 elements by its shape, got more"),
    ],
)
def test_broken_raw_strings_are_named(data, said):
    with pytest.raises(RequestError) as error:
        from_raw("x", data, [2], FILES)
    assert said in str(error.value)


def test_raw_bytes_must_be_as_many_as_the_shape_says():
    with pytest.raises(RequestError, match=r"x of shape \[1, 2, 3\] is 12 bytes of uint16, got 11"):
        from_raw("x", bytes(11), [1, 2, 3], GRID)
    with pytest.raises(RequestError, match=r"got the shape \[1, 2\]"):
        from_raw("x", bytes(12), [1, 2], GRID)
    with pytest.raises(RequestError, match="bytes that are 0 or 1"):
        from_raw("x", b"\2", [1], Tensor("bool", (None,)))


def test_flat_values_must_be_as_many_as_the_shape_says():
    with pytest.raises(RequestError, match=r"x of shape \[1, 2, 3\] has 6 values, got 5"):
        from_flat("x", [1, 2, 3, 4, 5], [1, 2, 3], GRID)
    with pytest.raises(RequestError, match=r"x takes uint16 \(2, 2, 3\), got the shape \[1, 2, 3\]"):
        from_flat("x", [ROW], [2, 2, 3], GRID)
    with pytest.raises(RequestError, match="has 6 values, got {'a': 1}"):
        from_flat("x", {"a": 1}, [1, 2, 3], GRID)
