"""Metric learning pays: trained vectors find more than untrained ones, and one sensor finds what the other one saw."""

import pytest

from bigearth_tf.archive.synthetic import write_archive
from bigearth_tf.records.writer import write_records
from bigearth_tf.retrieval.embed import embed
from bigearth_tf.retrieval.embedder import ModelEmbedder
from bigearth_tf.retrieval.evaluate import evaluate_retrieval
from bigearth_tf.training.fit import fit
from bigearth_tf.training.learner import build_learner
from bigearth_tf.training.recipe import load_recipe

pytestmark = pytest.mark.slow
K = 10
RECIPE = load_recipe("retrieval_cross_sensor_shallow_cnn")


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    root = tmp_path_factory.mktemp("learns")
    write_archive(root / "archive", patches=480, seed=0)
    write_records([root / "archive"], root / "records")
    return root / "records"


def score(model, records, folder, asking, asked, what, **settings):
    """Return score and chance of queries of the test split, shown some sensors, in a gallery that was shown others."""
    vectors = {}
    for sensor in {asking, asked}:
        vectors[sensor] = folder / f"{sensor}.arrow"
        embed(ModelEmbedder(model), records, vectors[sensor], sensors=[sensor], overwrite=True)
    result = evaluate_retrieval(vectors[asking], vectors[asked], k=(K,), query_split="test", **settings)
    return result.means[what][0], result.chance_means[what][0]


def trained_and_untrained(config, records, folder):
    return fit(config, records, folder / "run").model, build_learner(config, records).model


@pytest.mark.parametrize(
    ("loss", "head", "ranked_by"),
    [("contrastive", {"embedding_width": 32}, "cosine"), ("hashing", {"hash_bits": 64}, "hamming")],
)
def test_trained_vectors_find_more_than_untrained_ones(loss, head, ranked_by, records, tmp_path):
    options = {name: RECIPE.config["model_options"][name] for name in ("stride", "dense_units", "dropout")}
    settings = {"model": "shallow_cnn_s2", "metric_loss": loss, "validation_split": ""}
    config = RECIPE.train_config().replace(**settings, model_options={**options, "conv_dropout": 0.0, **head})
    how = {"gallery_split": "train", "metric": ranked_by}
    found = [
        score(model, records, tmp_path, "s2", "s2", "average_precision", **how)[0]
        for model in trained_and_untrained(config, records, tmp_path)
    ]
    assert found[0] >= found[1] + 0.1


def test_one_sensor_finds_what_the_other_one_saw(records, tmp_path):
    config = RECIPE.train_config({"epochs": 16, "validation_split": ""})
    trained, untrained = trained_and_untrained(config, records, tmp_path)
    for asking, asked in (("s1", "s2"), ("s2", "s1")):
        same_place = {"relevance": "patch", "gallery_split": "test"}
        found, chance = score(trained, records, tmp_path, asking, asked, "recall", **same_place)
        assert found >= 3 * chance
        by_labels = {"gallery_split": "train"}
        ours, theirs = (
            score(model, records, tmp_path, asking, asked, "average_precision", **by_labels)[0]
            for model in (trained, untrained)
        )
        assert ours >= theirs + 0.1
