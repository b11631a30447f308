"""TensorBoard event files of a run that goes on: what it will write again is taken out of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

EVENT_FILES = "events.out.tfevents.*"


def keep_events(folder: Path, keep: Callable[[str, int], bool]) -> None:
    """Rewrite the event files of a folder with those values only that `keep` keeps.

    A record that was cut off when its writer was killed goes too, and what lies behind it. A file without values is
    removed.

    Args:
        folder: its files are rewritten, not those of folders in it.
        keep: called with the tag and step of each value.
    """
    for path in sorted(folder.glob(EVENT_FILES)):
        _filter(path, keep)


def _filter(path: Path, keep: Callable[[str, int], bool]) -> None:
    import tensorflow as tf
    from tensorboard.compat.proto.event_pb2 import Event

    temporary = path.with_name(f".{path.name}.tmp")
    values = 0
    with tf.io.TFRecordWriter(str(temporary)) as writer:
        for record in _records(path):
            event = Event.FromString(record)
            kept = [value for value in event.summary.value if keep(value.tag, event.step)]
            if len(kept) < len(event.summary.value):
                if not kept:
                    continue
                del event.summary.value[:]
                event.summary.value.extend(kept)
            values += len(kept)
            writer.write(event.SerializeToString())
    if values:
        temporary.replace(path)
    else:
        temporary.unlink()
        path.unlink()


def _records(path: Path) -> Iterator[bytes]:
    """Yield the whole records of a file, up to the first that is not."""
    import tensorflow as tf

    try:
        yield from tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    except tf.errors.DataLossError:
        return
