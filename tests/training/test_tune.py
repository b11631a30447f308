"""A search beats the recipe that it begins with, survives kills, and gives a recipe that trains."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bigearth_tf.archive.synthetic import write_archive
from bigearth_tf.errors import ConfigError, OutputExistsError, UnknownNameError
from bigearth_tf.records.writer import write_records
from bigearth_tf.training.config import TrainConfig
from bigearth_tf.training.recipe import Recipe, load_recipe
from bigearth_tf.training.run_folder import RunFolder, find_runs
from bigearth_tf.training.search_result import SearchResult, TrialResult, ranked
from bigearth_tf.training.search_space import Choices, Range, SearchSpace, load_space
from bigearth_tf.training.tune import tune
from tests.archives import write_v2

SCORE = "val_average_precision_micro"
BASE = TrainConfig("shallow_cnn_s1", learning_rate=1e-6)


def space_of(tmp_path: Path, text: str) -> SearchSpace:
    path = tmp_path / "space.toml"
    path.write_text(text, "utf-8")
    return load_space(path)


# what a space says


def test_a_space_is_read_as_choices_and_ranges(tmp_path):
    space = space_of(
        tmp_path,
        """
        learning_rate = {min = 1e-4, max = 1e-2, sampling = "log"}
        [augment]
        values = [false, "dihedral"]
        [model_options.dense_units]
        min = 8
        max = 32
        step = 8
        """,
    )
    assert space.parameters == {
        "learning_rate": Range(1e-4, 1e-2, sampling="log"),
        "augment": Choices([False, "dihedral"]),
        "dense_units": Range(8, 32, step=8),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[learning_rat]\nvalues = [1]",
            "unknown setting of a search space 'learning_rat'; did you mean learning_rate",
        ),
        ("[classes]\nvalues = [19]", "classes is not searched: the scores of two trials would not compare"),
        ("[epochs]\nmin = 1\nmaximum = 2", r"unknown key of a setting \(.*\[epochs\]\) 'maximum'; did you mean max"),
        ("[epochs]\nmin = 1", "has values, or min and max; got min"),
        ("[epochs]\nmin = 3\nmax = 2", r"\[epochs\]: a range is numbers with min < max"),
        ("[epochs]\nmin = 1\nmax = 4\nstep = 0.5", "step of a range of whole numbers is whole"),
        ("[dropout]\nmin = 0.0\nmax = 0.5\nsampling = 'log'", "log sampling is of numbers > 0"),
        ("[dropout]\nmin = 0.1\nmax = 0.5\nsampling = 'logs'", "unknown sampling 'logs'; did you mean log"),
        ("[optimizer]\nvalues = []", "values is a list of at least one value"),
        ("[optimizer]\nvalues = ['adam', 'adam']", "values differ from each other"),
        ("epochs = 3", "epochs is a table with values, or min and max; got 3"),
        ("", "a search space has a table for each setting"),
        ("[", "is not TOML"),
    ],
)
def test_a_wrong_space_is_refused_in_words(tmp_path, text, message):
    with pytest.raises((ConfigError, UnknownNameError), match=message):
        space_of(tmp_path, text)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"optimizer": Choices(["adam", "adm"])}, "gives optimizer a value that cannot be: .*adm"),
        ({"learning_rate": Range(-1.0, 1e-2)}, "gives learning_rate a value that cannot be: learning_rate must be > 0"),
        ({"epochs": Range(1.0, 2.0)}, "gives epochs a value that cannot be: epochs is a whole number"),
    ],
)
def test_every_end_of_a_space_is_checked_before_anything_starts(space, message):
    with pytest.raises(ConfigError, match=message):
        SearchSpace(space).check(BASE)


def test_the_space_of_this_package_fits_the_recipe_of_its_model(project_root):
    space = load_space(project_root / "bigearth_tf" / "training" / "spaces" / "shallow_cnn.toml")
    base = load_recipe("sumbul2019_scnn_all").train_config()
    space.check(base)
    assert base.learning_rate in space.parameters["learning_rate"]
    assert base.optimizer in space.parameters["optimizer"]
    assert base.schedule in space.parameters["schedule"]


def test_what_a_tuner_draws_becomes_a_config():
    space = SearchSpace(
        {
            "learning_rate": Range(1e-4, 1e-2, sampling="log"),
            "dropout": Range(0.0, 0.5),
            "augment": Choices([False, "crop"]),
        }
    )
    drawn = {"learning_rate": 0.0031622776, "dropout": 0.30000000000000004, "augment": "false", "tuner/epochs": 3}
    settings = space.settings(drawn)
    assert settings == {"learning_rate": 0.003162, "dropout": 0.3, "augment": False}
    config = space.config(TrainConfig("shallow_cnn_s1", model_options={"dense_units": 8}), settings)
    assert (config.learning_rate, config.augment) == (0.003162, False)
    assert config.model_options == {"dense_units": 8, "dropout": 0.3}


def test_true_is_not_one_among_choices():
    assert True not in Choices([1, 2])
    assert 1.0 in Choices([1, 2])


def test_the_oracle_begins_with_the_recipe_where_the_space_has_its_values():
    from bigearth_tf.training.trials import build_oracle

    space = SearchSpace({"learning_rate": Range(1e-7, 1e-2, sampling="log"), "optimizer": Choices(["sgd", "adam"])})
    first = build_oracle("bayesian", BASE, space, 4, 0).populate_space("0")
    assert first == {"status": "RUNNING", "values": {"learning_rate": 1e-6, "optimizer": '"adam"'}}
    outside = build_oracle("bayesian", BASE.replace(learning_rate=1.0), space, 4, 0).populate_space("0")["values"]
    assert outside == {"learning_rate": 1e-7, "optimizer": '"adam"', "tuner/outside": 1}


def test_the_first_trial_of_hyperband_has_all_epochs_and_later_ones_fewer():
    from bigearth_tf.training.trials import build_oracle

    oracle = build_oracle("hyperband", BASE.replace(epochs=9), SearchSpace({"learning_rate": Range(1e-6, 1.0)}), 40, 0)
    assert oracle.populate_space("00")["values"]["tuner/epochs"] == 9
    oracle.trials["00"] = None
    later = [oracle.populate_space(str(number))["values"]["tuner/epochs"] for number in range(1, 4)]
    assert later == [1, 1, 1]


def test_trials_without_a_score_come_last():
    def trial(number, score):
        return TrialResult(number, score, "finished", 1, 1.0, {}, Path(str(number)))

    trials = [trial(0, 0.2), trial(1, None), trial(2, 0.3), trial(3, 0.3)]
    assert [t.trial for t in ranked(trials, lower_is_better=False)] == [2, 3, 0, 1]
    assert [t.trial for t in ranked(trials, lower_is_better=True)] == [0, 2, 3, 1]
    with pytest.raises(ConfigError, match=r"no trial in here has a score \(1: finished\)"):
        _ = SearchResult(Path("here"), SCORE, [trial(1, None)]).best


# searches

SPACE = SearchSpace({"learning_rate": Range(1e-6, 1e-1, sampling="log"), "dense_units": Choices([8, 16])})
POOR = Recipe(
    "poor",
    {
        "model": "shallow_cnn_s1",
        "epochs": 1,
        "batch_size": 8,
        "learning_rate": 1e-6,
        "augment": False,
        "model_options": {"dense_units": 8, "dropout": 0.0, "conv_dropout": 0.0},
    },
    archive="v2",
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Two patches in each split."""
    root = tmp_path_factory.mktemp("tiny")
    write_records([write_v2(root / "archive").root], root / "records")
    return root / "records"


@pytest.mark.slow
def test_a_search_ranks_its_trials_and_its_winner_is_a_recipe(tiny, tmp_path):
    steps = []
    out = tmp_path / "search"
    space = SearchSpace({"learning_rate": Choices([1e-3, 1e30])})

    def search(**changes):
        return tune(POOR, space, tiny, out, trials=4, progress=lambda trial, *_: steps.append(trial), **changes)

    result = search()
    assert sorted(set(steps)) == [0, 1, 2], "the recipe, and all that the space holds"
    assert result.default.settings == {"learning_rate": 1e-6}
    assert {trial.settings["learning_rate"] for trial in result.trials} == {1e-6, 1e-3, 1e30}
    *scored, diverged = result.trials
    assert (diverged.settings["learning_rate"], diverged.score, diverged.status) == (1e30, None, "diverged")
    assert result.best.score == max(trial.score for trial in scored)
    for trial in scored:
        run = RunFolder(trial.folder)
        assert max(row[SCORE] for row in run.history()) == trial.score
        assert run.read("config.json")["learning_rate"] == trial.settings["learning_rate"]
    assert [run.path for run in find_runs([out])] == [out / "trials" / number for number in "012"]

    winner = load_recipe(result.recipe)
    config = TrainConfig.from_dict(RunFolder(result.best.folder).read("config.json"))
    assert winner.train_config() == config
    assert f"chosen on the validation split: {SCORE} {result.best.score:.4f}" in winner.status
    assert winner.archive == "v2"
    rows = json.loads((out / "trials.json").read_text())["trials"]
    assert [row["trial"] for row in rows] == [trial.trial for trial in result.trials]
    head, first, *_ = (out / "trials.csv").read_text().splitlines()
    assert head == f"trial,{SCORE},status,epochs,seconds,learning_rate,folder"
    assert first.startswith(f"{result.best.trial},{result.best.score!r},finished,1,")

    steps.clear()
    assert search() == result
    assert steps == [], "the same call again trains nothing"
    with pytest.raises(OutputExistsError, match="holds another search, which differs in seed, config.epochs; choose"):
        search(seed=1, settings={"epochs": 2})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tuner": "grid"}, "unknown tuner 'grid'; known: random, bayesian, hyperband"),
        ({"trials": 0}, "trials must be at least 1, got 0"),
        ({"settings": {"validation_split": ""}}, "a search scores its trials on the validation split, ''"),
        ({"tuner": "hyperband", "space": SearchSpace({"epochs": Range(1, 3)})}, "leave epochs out of the search space"),
        ({"space": SearchSpace({"fusion": Choices(["sum"])})}, "unknown option of shallow_cnn_s1 'fusion'"),
        ({"space": SearchSpace({"dropout": Range(0.0, 2.0)})}, "cannot be built with .*dropout=2.0"),
    ],
)
def test_a_search_that_cannot_be_ends_before_a_trial_begins(tiny, tmp_path, change, message):
    arguments = {"space": SPACE, "trials": 2, **change}
    with pytest.raises((ConfigError, UnknownNameError), match=message):
        tune(POOR, records=tiny, out=tmp_path / "search", **arguments)
    assert not (tmp_path / "search" / "trials").exists()


def test_a_folder_with_something_else_is_left_alone(tiny, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(OutputExistsError, match="is not empty and holds no search"):
        tune(POOR, SPACE, tiny, tmp_path, trials=1, overwrite=True)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_an_address_without_a_name_is_refused(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("KERASTUNER_ORACLE_IP", "127.0.0.1")
    monkeypatch.setenv("KERASTUNER_ORACLE_PORT", "1")
    monkeypatch.delenv("KERASTUNER_TUNER_ID", raising=False)
    with pytest.raises(ConfigError, match="KERASTUNER_TUNER_ID is not; set all three, or none"):
        tune(POOR, SPACE, tiny, tmp_path / "search", trials=1)


# whole searches: minutes


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    root = tmp_path_factory.mktemp("tune")
    write_archive(root / "archive", version="v2", patches=60, seed=0)
    write_records([root / "archive"], root / "records")
    return root / "records"


@pytest.fixture
def command(records, tmp_path):
    """The command line of a search without its number of trials; `out` is tmp_path / "search"."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in POOR.config.items() if key != "model_options"]
    options = [f"{key} = {json.dumps(value)}" for key, value in POOR.config["model_options"].items()]
    (tmp_path / "poor.toml").write_text("\n".join(["[config]", *lines, "[config.model_options]", *options]))
    (tmp_path / "space.toml").write_text(
        '[learning_rate]\nmin = 1e-6\nmax = 1e-1\nsampling = "log"\n[dense_units]\nvalues = [8, 16]\n'
    )
    paths = [tmp_path / "poor.toml", "--space", tmp_path / "space.toml", "--out", tmp_path / "search"]
    return [sys.executable, "-m", "bigearth_tf", "tune", *map(str, [*paths, "--records", records])]


def wait_until(holds, process: subprocess.Popen, seconds: float = 240) -> None:
    """Wait for something, as long as a process lives."""
    end = time.monotonic() + seconds
    while not holds():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture
def start():
    """Start a command; what still runs at the end of the test is killed."""
    started: list[subprocess.Popen] = []

    def begin(*command) -> subprocess.Popen:
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield begin
    for process in started:
        if process.poll() is None:
            kill(process)


def kill(process: subprocess.Popen) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


def begun(run: Path) -> bool:
    return (run / "run.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("tuner", ["random", "bayesian"])
def test_eight_trials_find_a_better_score_than_the_recipe_and_the_winner_trains(records, tmp_path, tuner):
    from bigearth_tf.training.fit import fit

    result = tune(POOR, SPACE, records, tmp_path / "search", trials=8, tuner=tuner, settings={"epochs": 2})
    assert len(result.trials) == 8
    assert result.best.score > result.default.score
    run = fit(load_recipe(result.recipe).train_config(), records, tmp_path / "run")
    assert run.history[run.best_epoch][SCORE] == pytest.approx(result.best.score, abs=0.02)


@pytest.mark.slow
def test_hyperband_gives_more_epochs_to_the_best(records, tmp_path):
    result = tune(POOR, SPACE, records, tmp_path / "search", trials=6, tuner="hyperband", settings={"epochs": 3})
    epochs = {trial.trial: trial.epochs for trial in result.trials}
    assert epochs[0] == 3
    assert [epochs[number] for number in range(1, 5)] == [1, 1, 1, 3]
    short = [trial for trial in result.trials if trial.epochs == 1]
    promoted = next(trial for trial in result.trials if trial.trial == 4)
    assert promoted.settings == short[0].settings


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 75)], ids=["KILL", "TERM"])
def test_after_a_signal_the_same_command_repeats_no_finished_trial(command, start, tmp_path, number, code):
    trials = tmp_path / "search" / "trials"
    command = [*command, "--trials", "3", "--set", "epochs=2", "--set", "checkpoint_minutes=1e-9"]
    first = start(*command)
    wait_until(lambda: any((trials / "1").glob("checkpoints/*.npz")), first)
    first.send_signal(number)
    _, complaints = first.communicate(timeout=60)
    assert first.returncode == code, complaints
    model = (trials / "0" / "model.keras").stat().st_mtime_ns
    settings, began = (json.loads((trials / "1" / name).read_text()) for name in ("config.json", "run.json"))

    again = subprocess.run([*command, "--json"], check=True, capture_output=True, text=True)
    assert (trials / "0" / "model.keras").stat().st_mtime_ns == model
    assert json.loads((trials / "1" / "config.json").read_text()) == settings
    assert json.loads((trials / "1" / "run.json").read_text())["began"] == began["began"], "it went on"
    rows = json.loads(again.stdout)["trials"]
    assert sorted(row["trial"] for row in rows) == [0, 1, 2]
    assert {row["status"] for row in rows} == {"finished"}


@pytest.mark.slow
def test_a_chief_and_two_workers_survive_kills_of_a_worker_and_the_chief(command, start, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    trials = tmp_path / "search" / "trials"
    command = [*command, "--trials", "5", "--oracle", address]

    chief = start(*command, "--chief")
    one, two = (start(*command, "--worker", name) for name in ("one", "two"))
    wait_until(lambda: begun(trials / "0") and begun(trials / "1"), chief)
    kill(one)
    kill(chief)
    chief, one = start(*command, "--chief", "--json"), start(*command, "--worker", "one")
    said, complaints = chief.communicate(timeout=400)
    assert chief.returncode == 0, complaints
    for worker in (one, two):
        output, complaints = worker.communicate(timeout=60)
        assert worker.returncode == 0, complaints
        assert "is done; the chief writes the table" in output
    rows = json.loads(said)["trials"]
    assert sorted(row["trial"] for row in rows) == [0, 1, 2, 3, 4]
    assert {row["status"] for row in rows} == {"finished"}
    assert load_recipe(tmp_path / "search" / "best.toml").config["model"] == "shallow_cnn_s1"
