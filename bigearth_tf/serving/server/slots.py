"""Slot: memory that a server and its worker share, for the arrays of one batch and of its answer.

Pixels cross from one process to the other in one copy, which also joins the requests of a batch; what goes through the
socket beside it are names, shapes and places.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping, Sequence

import numpy as np

from bigearth_tf.serving.interface import STRING

_ALIGNED = 64  # bytes; TensorFlow takes memory that begins at such a place without a copy
_LENGTHS = np.dtype(np.uint64)

# name, dtype, shape, first byte: where one array lies in a slot.
Place = tuple[str, str, list[int], int]


class Slot:
    """Memory of as many bytes as were ever needed at once; it ends with the last process that holds it.

    Args:
        fd: of the memory; a new one by default. It belongs to the slot.
    """

    def __init__(self, fd: int | None = None):
        self.fd = os.memfd_create("bigearth-slot") if fd is None else fd
        self._bytes = np.empty(0, np.uint8)

    def write(self, arrays: Mapping[str, Sequence[np.ndarray]], start: int = 0) -> tuple[list[Place], int]:
        """Write arrays one after the other.

        Args:
            arrays: name -> parts, which are joined along their first axis; strings are object arrays of bytes.
            start: first byte to write.

        Returns:
            Where they are, and the first byte after them.
        """
        layout, places, end = [], [], start
        for name, parts in arrays.items():
            begin = -(-end // _ALIGNED) * _ALIGNED
            first = parts[0]
            shape = list(first.shape)
            if len(parts) > 1:
                shape[0] = sum(len(part) for part in parts)
            if first.dtype.kind in "OS":
                dtype, texts = STRING, [text for part in parts for text in part.ravel().tolist()]
                lengths = np.fromiter(map(len, texts), _LENGTHS, len(texts))
                end = begin + lengths.nbytes + int(lengths.sum())
                layout.append((begin, lengths, texts))
            else:
                dtype = first.dtype.name
                end = begin + first.itemsize * int(np.prod(shape, dtype=np.int64))
                layout.append((begin, end, parts))
            places.append((name, dtype, shape, begin))
        memory = self._mapped(end)
        for place, (begin, what, parts) in zip(places, layout, strict=True):
            if place[1] == STRING:
                at = begin + what.nbytes
                memory[begin:at] = what.view(np.uint8)
                for text, length in zip(parts, what.tolist(), strict=True):
                    memory.data[at : at + length] = text
                    at += length
            else:
                into = memory[begin:what].view(place[1]).reshape(place[2])
                if len(parts) > 1:
                    np.concatenate(parts, out=into)
                else:
                    into[...] = parts[0]
        return places, end

    def read(self, places: Sequence[Place], end: int) -> dict[str, np.ndarray]:
        """Return the arrays at these places; numbers are views of the slot, strings are copies."""
        memory = self._mapped(end)
        return {name: _read(memory, dtype, shape, begin) for name, dtype, shape, begin in places}

    def _mapped(self, size: int) -> np.ndarray:
        if len(self._bytes) < size:
            there = os.fstat(self.fd).st_size
            if there < size:
                there = 1 << (size - 1).bit_length()  # pages that nobody touches cost nothing
                os.ftruncate(self.fd, there)
            self._bytes = np.frombuffer(mmap.mmap(self.fd, there), np.uint8)  # unmapped when the last view is gone
        return self._bytes

    def close(self) -> None:
        """Let go of the memory."""
        self._bytes = np.empty(0, np.uint8)
        os.close(self.fd)


def _read(memory: np.ndarray, dtype: str, shape: Sequence[int], begin: int) -> np.ndarray:
    count = int(np.prod(shape, dtype=np.int64))
    if dtype != STRING:
        end = begin + np.dtype(dtype).itemsize * count
        return memory[begin:end].view(dtype).reshape(shape)
    at = begin + _LENGTHS.itemsize * count
    texts = np.empty(count, object)
    for i, length in enumerate(memory[begin:at].view(_LENGTHS).tolist()):
        texts[i] = memory[at : at + length].tobytes()
        at += length
    return texts.reshape(shape)
