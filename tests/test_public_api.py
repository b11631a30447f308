import importlib.metadata
import re
import subprocess
import sys

import pytest

import bigearth_tf

# A name here is a promise: it may be added, it may not go or change without a line in CHANGELOG.md.
PINNED = {
    "__version__",
    # vocabulary
    "BAND_SETS",
    "BandSet",
    "BigEarthError",
    "Calibration",
    "CLASSES_19",
    "CLASSES_43",
    "DataContract",
    "Nomenclature",
    # archive
    "download_archive",
    "index_archive",
    "read_patch",
    "write_archive",
    # records and pipelines
    "Manifest",
    "compute_statistics",
    "import_records",
    "load_dataset",
    "verify_records",
    "write_eurosat",
    "write_records",
    # models
    "PatchClassifier",
    "create_model",
    "freeze",
    "list_models",
    "list_weights",
    "load_imagenet",
    "load_model",
    "load_pretrained",
    "model_card",
    "replace_head",
    "weight_card",
    # training
    "TrainConfig",
    "ablation",
    "build_card",
    "compare_cards",
    "evaluate",
    "explain",
    "fit",
    "fit_calibration",
    "grad_cam",
    "list_recipes",
    "load_recipe",
    "multilabel_scores",
    "open_distribution",
    "read_card",
    "resume",
    "tune",
    "write_card",
    # serving
    "Bundle",
    "export_bundle",
    # retrieval
    "Embeddings",
    "ModelEmbedder",
    "SearchIndex",
    "build_index",
    "embed",
    "evaluate_retrieval",
}


def test_the_public_names_are_pinned():
    assert set(bigearth_tf.__all__) == PINNED
    assert len(bigearth_tf.__all__) == len(PINNED)


def test_dir_lists_the_public_names():
    assert set(dir(bigearth_tf)) == PINNED


@pytest.mark.parametrize("name", sorted(PINNED - {"__version__"}))
def test_public_name_resolves_to_what_carries_it(name):
    value = getattr(bigearth_tf, name)
    assert getattr(value, "__name__", name) == name
    assert getattr(bigearth_tf, name) is value


def test_version_is_a_release_number():
    assert re.fullmatch(r"\d+\.\d+\.\d+", bigearth_tf.__version__)


def test_installed_version_is_the_packages():
    try:
        installed = importlib.metadata.version("bigearth-tf")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("bigearth-tf is imported from its folder, not installed")
    assert installed == bigearth_tf.__version__


def test_unknown_attribute_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'bigearth_tf' has no attribute 'create_modle'"):
        _ = bigearth_tf.create_modle
    assert not hasattr(bigearth_tf, "_private")


def test_importing_the_package_and_its_archive_part_loads_no_tensorflow(project_root):
    code = (
        "import sys, bigearth_tf; bigearth_tf.read_patch; bigearth_tf.DataContract; bigearth_tf.index_archive; "
        "print(sorted({'tensorflow', 'keras', 'rasterio', 'pyarrow', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=project_root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
