"""bigearth_tf: a TensorFlow/Keras model zoo for the BigEarthNet archives, from the raw archive to a served prediction.

Names are loaded when they are first used, so that importing the package is cheap and `bigearth_tf.archive` never loads
TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_PUBLIC = {
    "BAND_SETS": "bands",
    "BandSet": "bands",
    "CLASSES_19": "nomenclature",
    "CLASSES_43": "nomenclature",
    "Nomenclature": "nomenclature",
    "DataContract": "contract",
    "BigEarthError": "errors",
    "download_archive": "archive.download",
    "index_archive": "archive.metadata",
    "read_patch": "archive.patch",
    "write_archive": "archive.synthetic",
    "Manifest": "records.manifest",
    "write_records": "records.writer",
    "verify_records": "records.verify",
    "compute_statistics": "records.stats",
    "import_records": "records.importer",
    "load_dataset": "pipelines.dataset",
    "PatchClassifier": "models.classifier",
    "create_model": "models.registry",
    "load_model": "models.registry",
    "list_models": "models.catalog",
    "model_card": "models.catalog",
    "load_pretrained": "models.weights",
    "list_weights": "models.weights_cards",
    "weight_card": "models.weights_cards",
    "load_imagenet": "models.weights_imagenet",
    "replace_head": "models.transfer",
    "freeze": "models.transfer",
    "Calibration": "calibration",
    "write_eurosat": "records.eurosat",
    "TrainConfig": "training.config",
    "load_recipe": "training.recipe",
    "list_recipes": "training.recipe",
    "open_distribution": "training.distribution",
    "fit": "training.fit",
    "resume": "training.fit",
    "tune": "training.tune",
    "evaluate": "training.evaluate",
    "multilabel_scores": "training.metrics",
    "fit_calibration": "training.calibration",
    "build_card": "training.card_build",
    "write_card": "training.result_card",
    "read_card": "training.result_card",
    "compare_cards": "training.compare",
    "grad_cam": "training.grad_cam",
    "ablation": "training.ablation",
    "explain": "training.explain",
    "export_bundle": "serving.bundle",
    "Bundle": "serving.bundle",
    "ModelEmbedder": "retrieval.embedder",
    "embed": "retrieval.embed",
    "Embeddings": "retrieval.embeddings",
    "build_index": "retrieval.index",
    "SearchIndex": "retrieval.index",
    "evaluate_retrieval": "retrieval.evaluate",
}

__all__ = ["__version__", *sorted(_PUBLIC)]

if TYPE_CHECKING:
    from bigearth_tf.archive.download import download_archive
    from bigearth_tf.archive.metadata import index_archive
    from bigearth_tf.archive.patch import read_patch
    from bigearth_tf.archive.synthetic import write_archive
    from bigearth_tf.bands import BAND_SETS, BandSet
    from bigearth_tf.calibration import Calibration
    from bigearth_tf.contract import DataContract
    from bigearth_tf.errors import BigEarthError
    from bigearth_tf.models.catalog import list_models, model_card
    from bigearth_tf.models.classifier import PatchClassifier
    from bigearth_tf.models.registry import create_model, load_model
    from bigearth_tf.models.transfer import freeze, replace_head
    from bigearth_tf.models.weights import load_pretrained
    from bigearth_tf.models.weights_cards import list_weights, weight_card
    from bigearth_tf.models.weights_imagenet import load_imagenet
    from bigearth_tf.nomenclature import CLASSES_19, CLASSES_43, Nomenclature
    from bigearth_tf.pipelines.dataset import load_dataset
    from bigearth_tf.records.eurosat import write_eurosat
    from bigearth_tf.records.importer import import_records
    from bigearth_tf.records.manifest import Manifest
    from bigearth_tf.records.stats import compute_statistics
    from bigearth_tf.records.verify import verify_records
    from bigearth_tf.records.writer import write_records
    from bigearth_tf.retrieval.embed import embed
    from bigearth_tf.retrieval.embedder import ModelEmbedder
    from bigearth_tf.retrieval.embeddings import Embeddings
    from bigearth_tf.retrieval.evaluate import evaluate_retrieval
    from bigearth_tf.retrieval.index import SearchIndex, build_index
    from bigearth_tf.serving.bundle import Bundle, export_bundle
    from bigearth_tf.training.ablation import ablation
    from bigearth_tf.training.calibration import fit_calibration
    from bigearth_tf.training.card_build import build_card
    from bigearth_tf.training.compare import compare_cards
    from bigearth_tf.training.config import TrainConfig
    from bigearth_tf.training.distribution import open_distribution
    from bigearth_tf.training.evaluate import evaluate
    from bigearth_tf.training.explain import explain
    from bigearth_tf.training.fit import fit, resume
    from bigearth_tf.training.grad_cam import grad_cam
    from bigearth_tf.training.metrics import multilabel_scores
    from bigearth_tf.training.recipe import list_recipes, load_recipe
    from bigearth_tf.training.result_card import read_card, write_card
    from bigearth_tf.training.tune import tune


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'bigearth_tf' has no attribute {name!r}")
    return getattr(importlib.import_module(f"bigearth_tf.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return __all__
