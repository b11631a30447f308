"""The C++ SavedModel loader, which TensorFlow Serving is built on, through TensorFlow's C interface."""

from __future__ import annotations

import ctypes
from pathlib import Path

import tensorflow as tf

from bigearth_tf.errors import BundleError
from bigearth_tf.serving.session import plain_message


def load_as_server(folder: Path) -> bool:
    """Load a SavedModel as TensorFlow Serving does, and let it go again.

    TensorFlow's loader for Python, which `SessionModel` uses, builds the graph in Python before a C++ session runs it;
    this one reads, checks, restores and starts the model in C++ alone.

    Returns:
        Whether it was loaded; False where TensorFlow came without this library.

    Raises:
        BundleError: the loader refuses it; says why.
    """
    file = Path(tf.sysconfig.get_lib()) / "libtensorflow_cc.so.2"
    if not file.is_file():
        return False
    library = ctypes.CDLL(str(file))
    for name in ("TF_NewStatus", "TF_NewGraph", "TF_NewSessionOptions", "TF_LoadSessionFromSavedModel"):
        getattr(library, name).restype = ctypes.c_void_p
    library.TF_Message.restype = ctypes.c_char_p
    status, graph, settings = (
        ctypes.c_void_p(make()) for make in (library.TF_NewStatus, library.TF_NewGraph, library.TF_NewSessionOptions)
    )
    tags = (ctypes.c_char_p * 1)(b"serve")
    found = library.TF_LoadSessionFromSavedModel(
        settings, None, str(folder).encode(), tags, ctypes.c_int(1), graph, None, status
    )
    try:
        if library.TF_GetCode(status) != 0:
            said = plain_message(library.TF_Message(status).decode())
            raise BundleError(f"the C++ loader refuses {folder}: {said}; export the model again")
        session = ctypes.c_void_p(found)
        library.TF_CloseSession(session, status)
        library.TF_DeleteSession(session, status)
    finally:
        library.TF_DeleteGraph(graph)
        library.TF_DeleteSessionOptions(settings)
        library.TF_DeleteStatus(status)
    return True
