"""An embedder without a model: a patch's vector is the means of its bands. As a program, it embeds and can be killed.

python -m tests.retrieval.means RECORDS OUT
"""

import sys
import time

import numpy as np

from bigearth_tf.bands import BAND_SETS
from bigearth_tf.contract import DataContract
from bigearth_tf.nomenclature import CLASSES_19
from bigearth_tf.retrieval import embed as embedding
from bigearth_tf.retrieval.embeddings import VectorSpace

CONTRACT = DataContract("v2", BAND_SETS["s1s2"].bands, (CLASSES_19.names,))
BATCH, PART = 2, 4  # patches


class Means:
    """Means of the bands, in the order of the contract; 0 where a sensor is absent."""

    def __init__(self, contract=CONTRACT):
        self.space = VectorSpace("means", "0" * 64, "features", len(contract.bands), contract)

    def embed(self, grids):
        patches = len(next(iter(grids.values())))
        found = [
            grids[g.name].mean((1, 2), dtype=np.float64) if g.name in grids else np.zeros((patches, len(g.bands)))
            for g in self.space.contract.band_set.grids
        ]
        return np.concatenate(found, axis=1).astype(np.float32)


class Slow(Means):
    """The same, so slowly that somebody can kill it between two batches."""

    def embed(self, grids):
        time.sleep(0.02)
        return super().embed(grids)


if __name__ == "__main__":
    embedding.PART = PART
    records, out = sys.argv[1:]
    embedding.embed(Slow(), records, out, batch_size=BATCH, progress=lambda done, _: print(done, flush=True))
