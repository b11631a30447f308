"""`bigearth-tf models weights`: what it prints, for people and for machines."""

import json

import pytest
from click.testing import CliRunner

from bigearth_tf.cli.weights import weights
from bigearth_tf.models.weights_cards import list_weights


def run(*arguments):
    return CliRunner().invoke(weights, arguments)


def test_the_table_has_a_row_for_each_card():
    result = run()
    assert result.exit_code == 0
    for card in list_weights():
        assert card.repository in result.output
    assert max(map(len, result.output.splitlines())) <= 100


def test_scores_that_are_not_of_the_file_are_marked():
    rows = {line.split("│")[-1].strip(): line for line in run("resnet50_*").output.splitlines() if "│" in line}
    assert " 0.703 " in rows["BIFOLD-BigEarthNetv2-0/resnet50-all-v0.2.0"]
    assert " 0.707*" in rows["BIFOLD-BigEarthNetv2-0/resnet50-s2-v0.2.0"]
    assert " - " in rows["timm/resnet50.tv_in1k"]
    assert "* of the architecture" in run("resnet50_s2").output
    assert "* of the architecture" not in run("resnet50_s1").output


def test_json_is_the_cards():
    assert json.loads(run("resnet50_s2", "--json").output) == [card.to_dict() for card in list_weights("resnet50_s2")]


def test_cards_are_printed_whole():
    assert run("resnet50_s1", "--cards").output.strip() == "\n\n".join(map(str, list_weights("resnet50_s1")))


@pytest.mark.parametrize(
    ("pattern", "code", "message"),
    [("resnet51_*", 2, "No model matches 'resnet51_*'"), ("shallow_cnn_s2", 0, "are known for shallow_cnn_s2.")],
)
def test_models_that_do_not_exist_or_have_no_weights(pattern, code, message):
    result = run(pattern)
    assert (result.exit_code, message in result.output) == (code, True), result.output
