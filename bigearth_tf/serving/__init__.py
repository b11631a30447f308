"""SavedModel bundles: what TensorFlow Serving loads, how to serve them, and how to ask a server."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bigearth_tf.serving.client import Client

__all__ = ["Client"]


def __getattr__(name: str):
    """Load the client when it is asked for: serving a bundle needs none."""
    if name != "Client":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from bigearth_tf.serving.client import Client

    return Client
