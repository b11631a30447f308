"""Search indexes, as the rest of the package sees them: build one, change it, search it."""

from bigearth_tf.retrieval.distances import METRICS
from bigearth_tf.retrieval.filters import Filter
from bigearth_tf.retrieval.gallery import Hit
from bigearth_tf.retrieval.index_build import build_index
from bigearth_tf.retrieval.index_change import add_patches, remove_patches
from bigearth_tf.retrieval.index_kinds import KINDS
from bigearth_tf.retrieval.search_index import SearchIndex

__all__ = ["KINDS", "METRICS", "Filter", "Hit", "SearchIndex", "add_patches", "build_index", "remove_patches"]
