"""build_card: from an evaluation to a result card, with intervals, breakdown, calibration and what it rests on."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from bigearth_tf.errors import ConfigError
from bigearth_tf.records.manifest import Manifest, manifest_sha256
from bigearth_tf.records.plan import EXCLUDED
from bigearth_tf.training.bootstrap import bootstrap
from bigearth_tf.training.breakdown import breakdown, read_facts
from bigearth_tf.training.calibration import reliability
from bigearth_tf.training.environment import environment
from bigearth_tf.training.evaluate import Evaluation
from bigearth_tf.training.metrics import sigmoid
from bigearth_tf.training.result_card import CARD_VERSION, PREDICTIONS_FILE, Explanation, ResultCard


def build_card(
    evaluation: Evaluation,
    records: Path | str,
    *,
    resamples: int = 1000,
    seed: int = 0,
    explanation: Explanation | None = None,
    training: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ResultCard:
    """Build the card of an evaluation.

    Args:
        evaluation: of the records.
        records: records folder.
        resamples: of the bootstrap; 0 for no intervals.
        seed: of the bootstrap.
        explanation: of the model on the same split.
        training: how the model was made, as JSON types: `run_facts` of a run folder.
        progress: called with (resamples done, resamples in all).

    Raises:
        ConfigError: a negative number of resamples, or the records are not those of the evaluation any more.
        RecordsError: a shard is missing or damaged.
    """
    if resamples < 0:
        raise ConfigError(f"resamples is a number from 0 (no intervals), got {resamples}")
    if manifest_sha256(records) != evaluation.manifest_sha256:
        raise ConfigError(f"{records} are not the records that were scored: their manifest has another hash")
    y_true, probabilities, names = evaluation.y_true, evaluation.probabilities, list(evaluation.per_class)
    intervals = None
    if resamples:
        intervals = dataclasses.asdict(
            bootstrap(
                y_true, probabilities, names,
                threshold=evaluation.thresholds, resamples=resamples, seed=seed, progress=progress,
            )
        )  # fmt: skip
    uncalibrated = evaluation.calibration and reliability(y_true, sigmoid(evaluation.logits)).to_dict()
    facts = read_facts(records, evaluation.split, evaluation.names)
    predictions = _predictions(evaluation)
    data = {
        "card_version": CARD_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **evaluation.to_dict(),
        "bootstrap": intervals,
        "breakdown": breakdown(facts, y_true, probabilities, np.array(evaluation.thresholds)),
        "reliability": {"as_shipped": reliability(y_true, probabilities).to_dict(), "uncalibrated": uncalibrated},
        "contract": evaluation.contract.to_dict(),
        "records": records_facts(Manifest.load(records)),
        "predictions": {
            "file": PREDICTIONS_FILE,
            "sha256": hashlib.sha256(predictions).hexdigest(),
            "names_sha256": hashlib.sha256("\n".join(evaluation.names).encode()).hexdigest(),
        },
        "training": dict(training) if training else None,
        "environment": environment(),
    }
    return ResultCard(json.loads(json.dumps(data, allow_nan=False)), predictions, explanation)


def records_facts(manifest: Manifest) -> dict[str, Any]:
    """Return where the patches come from, and which of the archive are not among them."""
    shards = [shard.records for shard in manifest.shards if shard.split == EXCLUDED]
    return {
        "archive_version": manifest.contract.archive_version,
        "split_source": manifest.contract.split,
        "hashes": dict(manifest.contract.hashes),
        "selection": dict(manifest.selection),
        "left_out": dict(manifest.left_out),
        "skipped": dict(manifest.skipped),
        "excluded_records": sum(shards),
    }


def _predictions(evaluation: Evaluation) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(
        file,
        names=np.array([name.encode() for name in evaluation.names]),
        y_true=evaluation.y_true.astype(np.uint8),
        probabilities=evaluation.probabilities.astype(np.float64),
    )
    return file.getvalue()
