"""Every recipe trains what it says, every published result has a recipe or a reason, and no score is invented."""

import csv
import inspect
import shlex
from collections import defaultdict

import numpy as np
import pytest

from bigearth_tf.cli.main import cli
from bigearth_tf.contract import DataContract
from bigearth_tf.errors import ConfigError, UnknownNameError
from bigearth_tf.models.catalog import MODEL_OPTIONS, model_bands
from bigearth_tf.models.registry import EMBEDDING_OPTIONS, FAMILIES, create_model, model_parts
from bigearth_tf.nomenclature import CLASSES_19, CLASSES_43, CLASSES_EUROSAT, nomenclature
from bigearth_tf.pipelines.augment import parse_augmentations
from bigearth_tf.records.writer import write_records
from bigearth_tf.statistics import DEFAULT_STATISTICS, published_statistics
from bigearth_tf.training.config import STATISTICS_OF_RECORDS
from bigearth_tf.training.fit import fit
from bigearth_tf.training.metrics import multilabel_scores
from bigearth_tf.training.recipe import FOLDER, list_recipes, load_recipe, recipe_path
from tests.archives import write_v1

NOT_RUN = "not run on the full archive"
LABEL_SETS = {"v1": {CLASSES_43, CLASSES_19}, "v2": {CLASSES_19}, "eurosat": {CLASSES_EUROSAT}}
OFFICIAL = [name for name in list_recipes() if name.startswith("official_")]
PUBLISHED = [name for name in list_recipes() if name.startswith(("mm2021_", "official_", "reben_", "sumbul2019_"))]
RETRIEVAL = [name for name in list_recipes() if name.startswith("retrieval_")]
REBEN = [name for name in list_recipes() if name.startswith("reben_")]
SMALL = ("official_s2_43_kbranch", "retrieval_cross_sensor_shallow_cnn", "sumbul2019_scnn_all")
each_recipe = pytest.mark.parametrize("name", list_recipes())

# metrics of the list of results -> names of our scores
METRICS = {"AP": "average_precision", "P": "precision", "F1": "f1", "F2": "f2"}


def test_the_asked_for_results_have_recipes():
    asked = {"sumbul2019_scnn_rgb", "sumbul2019_scnn_all"}
    asked |= {f"official_s2_{classes}_{model}" for classes in (43, 19) for model in ("resnet50", "vgg16", "kbranch")}
    asked |= {"official_mm_19_resnet50", "official_mm_19_vgg16"}
    asked |= {f"reben_{model}_{bands}" for model in ("resnet50", "resnet101") for bands in ("s1", "s2", "s1s2")}
    assert asked <= set(list_recipes())


@each_recipe
def test_it_makes_a_config_that_fits_its_archive(name):
    recipe = load_recipe(name)
    config = recipe.train_config()
    assert {key: getattr(config, key) for key in recipe.config} == dict(recipe.config), "nothing is read as another"
    labels, bands = nomenclature(config.classes), model_bands(config.model)
    assert labels in LABEL_SETS[recipe.archive]
    statistics = None
    if config.statistics != STATISTICS_OF_RECORDS:
        assert config.statistics == DEFAULT_STATISTICS[recipe.archive], "named, so that a default may change"
        statistics = published_statistics(config.statistics).of(bands)
    DataContract(
        archive_version=recipe.archive,
        bands=bands.bands,
        class_names=(labels.names,),
        resampling=config.resampling,
        statistics=statistics,
    )
    parse_augmentations(config.augment, bands)


@each_recipe
def test_its_model_takes_its_options(name):
    config = load_recipe(name).train_config()
    family, variant = model_parts(config.model)
    parts = (FAMILIES[family].trunk, FAMILIES[family].neck)
    known = {"head_dropout", *EMBEDDING_OPTIONS} | {
        option for part in parts for option in inspect.signature(part).parameters
    }
    known |= {"fusion"} if variant.fusion == "late" else set()
    assert set(config.model_options) <= known & set(MODEL_OPTIONS)


@pytest.mark.parametrize("name", SMALL)
def test_the_small_models_are_built(name):
    recipe = load_recipe(name)
    config = recipe.train_config()
    model = create_model(
        config.model,
        classes=config.classes,
        archive_version=recipe.archive,
        statistics=config.statistics,
        resampling=config.resampling,
        **config.model_options,
    )
    assert model.output.shape[-1] == len(nomenclature(config.classes))
    assert (model.contract.archive_version, model.contract.resampling) == (recipe.archive, config.resampling)


@pytest.mark.parametrize("name", PUBLISHED)
def test_its_command_trains_and_scores_it_and_can_be_read(name):
    lines = [shlex.split(line) for line in load_recipe(name).command.splitlines()]
    assert [line[:2] for line in lines] == [["bigearth-tf", "train"], ["bigearth-tf", "evaluate"]]
    train, evaluate = (cli.get_command(None, line[1]).make_context(line[1], line[2:]).params for line in lines)
    assert train["what"] == name
    assert lines[1][2] == str(train["out"])
    assert (evaluate["records"], evaluate["split"]) == (train["records"], "test")


@pytest.mark.parametrize("name", RETRIEVAL)
def test_a_retrieval_recipe_claims_no_score_and_its_command_can_be_read(name):
    recipe = load_recipe(name)
    assert (recipe.status, recipe.published) == (NOT_RUN, ())
    assert recipe.source.startswith("none: a recipe of this project")
    train, *embeds = (shlex.split(line) for line in recipe.command.splitlines())
    params = cli.get_command(None, "train").make_context("train", train[2:]).params
    assert params["what"] == name
    retrieve = cli.get_command(None, "retrieve")
    for line in embeds:
        assert line[:3] == ["bigearth-tf", "retrieve", "embed"]
        embedded = retrieve.get_command(None, "embed").make_context("embed", line[3:]).params
        assert (str(embedded["model"]), embedded["records"]) == (str(params["out"]), params["records"])
    assert len(embeds) == (2 if "cross_sensor" in name else 1)


@pytest.mark.parametrize("name", PUBLISHED)
def test_it_says_what_it_is_and_what_is_open(name):
    recipe = load_recipe(name)
    assert recipe.status == NOT_RUN
    for key in ("title", "source", "hardware", "unknown", "chosen"):
        assert getattr(recipe, key), key
    assert recipe.records.startswith(recipe.archive)
    assert f"{recipe.config['classes']} classes" in recipe.title


@each_recipe
def test_published_scores_are_named_as_ours(name):
    ours, per_class = multilabel_scores(np.eye(2), np.eye(2), ("a", "b"))
    for published in load_recipe(name).published:
        for score in published.scores:
            if score not in ours:
                assert f"{score}_macro" in ours
                assert published.averaging, f"the averaging of {score} is named, or said to be unknown"
        for class_name, scores in published.per_class.items():
            assert class_name in nomenclature(load_recipe(name).config["classes"]).names
            assert scores.keys() <= per_class["a"].keys()


def test_the_official_recipes_have_the_settings_of_the_official_code():
    # Source: the configs of the official TensorFlow 1 code; facts that every official model shares
    shared = {"epochs": 100, "schedule": "constant", "loss": "bce", "augment": False, "validation_split": ""}
    batch = {"resnet50": 500, "resnet152": 256, "vgg16": 1000, "kbranch": 1000}
    for name in OFFICIAL:
        config, model = load_recipe(name).config, name.split("_")[-1]
        assert {key: config[key] for key in shared} == shared
        assert config["batch_size"] == batch[model]
        assert config["learning_rate"] == (1e-4 if name == "official_s2_43_vgg16" else 1e-3)
        assert config.get("resampling") == (None if model == "kbranch" else "bicubic_tf1")


def test_the_reben_recipes_differ_in_the_model_alone():
    configs = [dict(load_recipe(name).config) for name in REBEN]
    models = [config.pop("model") for config in configs]
    variants = ("s1", "s1s2_early", "s2")
    assert models == [f"{family}_{variant}" for family in ("resnet101", "resnet50") for variant in variants]
    for config in configs:
        assert config.pop("resampling", "nearest") == "nearest"
        assert config == configs[0]


def test_every_published_result_has_a_recipe_or_a_reason(shared):
    answers = answers_of_the_readme()
    assert list(answers) == list(dict.fromkeys(map(result_of, published_rows(shared))))
    for answer in answers.values():
        assert answer.startswith("none: ") or answer.strip("`") in list_recipes()


def test_published_scores_are_those_of_the_list_of_results(shared):
    answers, stated = answers_of_the_readme(), defaultdict(list)
    for row in published_rows(shared):
        recipe = answers[result_of(row)].strip("`")
        if recipe in list_recipes():
            stated[recipe].append(stated_score(row))
    for name in list_recipes():
        found = []
        for published in load_recipe(name).published:
            entries = [(metric, "", value) for metric, value in published.scores.items()]
            entries += [(m, c, value) for c, scores in published.per_class.items() for m, value in scores.items()]
            found += [(*entry, published.confidence, published.source) for entry in entries]
        assert sorted(found) == sorted(stated[name]), name


def published_rows(shared):
    with open(shared / "facts" / "paper_results.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def result_of(row):
    return row["paper"], row["model"], row["modality"]


def stated_score(row):
    """Return (score, class, fraction, confidence, source) as a recipe states a row of the list."""
    metric, _, average = row["metric"].partition("_")
    metric, _, class_name = metric.partition(" class=")
    name, whose = METRICS.get(metric, metric), ""
    if class_name == "Average (macro)":
        name = f"{name}_macro"
    elif class_name:
        whose = class_name
    elif average:
        name = f"{name}_{average}"
    value = round(float(row["value"]) / (100 if row["unit"] == "%" else 1), 8)
    source = row["source"] if row["paper"] == "HF model card" else f"{row['paper']}: {row['source']}"
    return name, whose, value, row["confidence"], source


def answers_of_the_readme():
    """Return (paper, model, input) -> recipe or reason, from the table of the recipes' README."""
    rows = [line for line in (FOLDER / "README.md").read_text("utf-8").splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]
    return {tuple(row[:3]): row[3] for row in cells}


@pytest.mark.slow
def test_a_recipe_trains_on_small_records(tmp_path):
    archive = write_v1(tmp_path / "archive")
    write_records([archive.root], tmp_path / "records")
    small = {"epochs": 1, "batch_size": 2, "model_options": {"dense_units": 4}}
    config = load_recipe("sumbul2019_scnn_rgb").train_config(small)
    run = fit(config, tmp_path / "records", tmp_path / "run")
    assert run.model.contract.nomenclature == CLASSES_43
    assert run.model.contract.statistics.name == "v1_official_tf"
    assert np.isfinite(run.history[0]["val_loss"])


def test_settings_change_a_recipe_and_keep_its_other_options():
    config = load_recipe("reben_resnet50_s2").train_config({"epochs": 2, "model_options": {}})
    assert (config.epochs, config.batch_size, config.model_options) == (2, 512, {"head_dropout": 0.15})


FILE = '[config]\nmodel = "resnet18_s2"\n[[published]]\nsource = "a"\nsplit = "test"\n'


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (f'archive = "v3"\n{FILE}', UnknownNameError, "unknown archive version .*'v3'"),
        (f'{FILE}metric = "f1"', UnknownNameError, "unknown key of published scores .*'metric'"),
        (FILE.replace('split = "test"', ""), ConfigError, "published scores have a split, got none"),
        (f"{FILE}[published.scores]\nf1_micro = 70.9", ConfigError, "fraction, 0 to 1.* wrong: scores"),
        (f"{FILE}[published.scores]\nf1_micro = true", ConfigError, "wrong: scores"),
        (f"{FILE}[published.per_class]\nf1 = 0.7", ConfigError, "wrong: per_class"),
        (f"{FILE}confidence = 1", ConfigError, "wrong: confidence"),
    ],
)
def test_scores_that_cannot_be_are_refused_with_the_file(tmp_path, text, error, message):
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(error, match=message) as raised:
        load_recipe(file)
    assert "mine.toml" in str(raised.value)


def test_the_path_of_a_recipe_is_its_file(tmp_path):
    assert recipe_path("reben_resnet50_s2") == FOLDER / "reben_resnet50_s2.toml"
    assert recipe_path(tmp_path / "mine.toml") == tmp_path / "mine.toml"
    with pytest.raises(UnknownNameError, match="did you mean reben_resnet50_s2"):
        recipe_path("reben_resnet50s2")
