"""Write the shards of a plan as an Apache Beam pipeline (extra `beam`).

The elements of the pipeline are shard numbers and each is written by `write_shard`, so any runner gives the shards
that one process gives. All workers must see the archive and the output under the paths of the plan, as on a shared file
system.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from bigearth_tf.errors import ConfigError, RecordsError
from bigearth_tf.records.plan import PlanHead
from bigearth_tf.records.shard import load_done, write_shard

_QUIET = ("--default_sdk_harness_log_level=ERROR",)  # what stands behind it on the command line wins


def write_shards_with_beam(folder: Path | str, head: PlanHead, arguments: Sequence[str] = ()) -> None:
    """Write the unfinished shards of the plan in a folder.

    Args:
        folder: of an unfinished run, with its plan.
        head: of the plan.
        arguments: Beam's pipeline options, such as `--runner=FlinkRunner`; Beam's direct runner without them.

    Raises:
        ConfigError: Beam is not installed.
        RecordsError: the pipeline failed; names the first cause that Beam gives.
    """
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise ConfigError(f"Apache Beam is not installed ({error}): pip install 'bigearth-tf[beam]'") from None
    folder = Path(folder).resolve()
    done = [load_done(folder, head, number) for number in range(len(head.shards))]
    todo = [number for number, shard in enumerate(done) if not (shard and shard.whole)]
    if not todo:
        return
    options = PipelineOptions([*_QUIET, *arguments])
    logging.getLogger("apache_beam").setLevel(max(logging.ERROR, logging.getLogger().level))
    try:
        with beam.Pipeline(options=options) as pipeline:
            _ = (
                pipeline
                | "shard numbers" >> beam.Create(todo)
                | "spread" >> beam.Reshuffle()
                | "write shard" >> beam.Map(_write, str(folder))
            )
    except Exception as error:  # whatever a runner makes of the error of a worker
        raise RecordsError(
            f"the Beam pipeline failed; finished shards are kept, run the same command again: {error}"
        ) from error


def _write(number: int, folder: str) -> str:
    return write_shard(folder, number).info.file
