"""`bigearth-tf tune`: what a user sees."""

import pytest

from bigearth_tf.cli.main import main
from bigearth_tf.records.writer import write_records
from tests.archives import write_v2


def out(capfd, *arguments, code=0):
    capfd.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main([str(a) for a in arguments])
    said = capfd.readouterr()
    assert stopped.value.code == code, said
    return said


@pytest.fixture
def space(tmp_path):
    path = tmp_path / "space.toml"
    path.write_text("[learning_rate]\nvalues = [1e-3, 1e-2]\n")
    return path


@pytest.mark.slow
def test_a_search_shows_its_trials_and_how_to_train_the_winner(capfd, tmp_path, space):
    write_records([write_v2(tmp_path / "archive").root], tmp_path / "records")
    said = out(
        capfd, "tune", "shallow_cnn_s1", "--space", space, "--records", tmp_path / "records", "--out", tmp_path / "s",
        "--trials", "1", "--set", "epochs=1", "--set", "dense_units=8",
    )  # fmt: skip
    assert "trial 0 begins on tuner0" in said.err
    assert "; 1 of 1 done" in said.err
    title, *lines = said.out.splitlines()
    assert title.strip() == "trials by val_average_precision_micro"
    assert [cell.strip() for cell in lines[1].split("┃")[1:-1]] == [
        "trial", "score", "epochs", "seconds", "status", "learning_rate",
    ]  # fmt: skip
    cells = [cell.strip() for cell in lines[3].split("│")[1:-1]]
    assert (cells[0], cells[2], cells[4], cells[5]) == ("0 (recipe)", "1", "finished", "0.001")
    assert f"best: trial 0, val_average_precision_micro {cells[1]} (the recipe as it is: {cells[1]})" in said.out
    assert f"bigearth-tf train {tmp_path / 's' / 'best.toml'} --records RECORDS --out RUN" in said.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--chief"], "several processes take --oracle ADDRESS:PORT and either --chief or --worker NAME."),
        (["--oracle", "localhost:1"], "either --chief or --worker NAME."),
        (["--oracle", "localhost", "--chief"], "several processes take --oracle ADDRESS:PORT"),
        (["--oracle", "localhost:1", "--chief", "--worker", "one"], "either --chief or --worker NAME."),
        (["--oracle", "localhost:1", "--worker", "chief2"], "a worker's name has no `chief` in it, got 'chief2'."),
    ],
)
def test_a_role_that_cannot_be_is_wrong_usage(capfd, tmp_path, space, arguments, message):
    given = ["tune", "shallow_cnn_s1", "--space", space, "--records", tmp_path, "--out", tmp_path / "s", *arguments]
    assert message in out(capfd, *given, code=2).err


def test_an_unknown_recipe_is_refused_before_tensorflow_starts(capfd, tmp_path, space):
    said = out(capfd, "tune", "reben_resnet50", "--space", space, "--records", tmp_path, "--out", tmp_path, code=2)
    assert "unknown model or recipe 'reben_resnet50'; did you mean reben_resnet50_s" in said.err
