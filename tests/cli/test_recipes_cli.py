"""`bigearth-tf recipes list` and `show`: what a user sees."""

import json
import subprocess
import sys

import pytest

from bigearth_tf.cli.main import main
from bigearth_tf.training.recipe import FOLDER, list_recipes, load_recipe


def out(capfd, *arguments, code=0):
    capfd.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main([str(a) for a in arguments])
    said = capfd.readouterr()
    assert stopped.value.code == code, said
    return said


def test_list_names_every_recipe_with_its_model_score_and_status(capfd):
    text = out(capfd, "recipes", "list").out
    rows = {line.split()[0]: line for line in text.splitlines()[2:]}
    assert list(rows) == list_recipes()
    cells = [cell.strip() for cell in rows["reben_resnet50_s2"].split("│")]
    assert cells == [
        "reben_resnet50_s2", "resnet50_s2", "19", "v2", "AP macro 0.707", "not run on the full archive",
    ]  # fmt: skip
    assert "F1 0.676" in rows["sumbul2019_scnn_rgb"]


def test_list_loads_no_tensorflow(project_root):
    code = (
        "import sys; from bigearth_tf.cli.main import main\n"
        "try: main(['recipes', 'list'])\n"
        "except SystemExit: pass\n"
        "assert not {'tensorflow', 'keras', 'matplotlib', 'sklearn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=project_root, check=True, capture_output=True)


def test_list_by_pattern_as_json(capfd):
    (entry,) = json.loads(out(capfd, "recipes", "list", "reben_resnet101_s1", "--json").out)
    assert entry == {
        "recipe": "reben_resnet101_s1",
        "title": "reBEN ResNet101: Sentinel-1, 19 classes",
        "model": "resnet101_s1",
        "classes": 19,
        "archive": "v2",
        "published": {"average_precision_macro": 0.6177},
        "status": "not run on the full archive",
    }


def test_a_pattern_without_a_recipe_lists_the_recipes(capfd):
    said = out(capfd, "recipes", "list", "vit*", code=2).err
    assert f"No recipe matches 'vit*'. Recipes: {list_recipes()[0]}," in said


@pytest.mark.parametrize("name", list_recipes())
def test_show_has_all_of_it(capfd, name):
    recipe, text = load_recipe(name), out(capfd, "recipes", "show", name).out
    words = " ".join(text.split())
    for said in (recipe.title, recipe.status, recipe.source, recipe.records, *recipe.unknown, *recipe.chosen):
        assert " ".join(said.split()) in words
    for key in recipe.config:
        assert f" {key} = " in text
    for published in recipe.published:
        assert published.source in words
        for value in (*published.scores.values(), *(v for s in published.per_class.values() for v in s.values())):
            assert f" {value:.4f}" in text
    lines = text.splitlines()
    expected = [*recipe.command.strip().splitlines(), f"file: {FOLDER / name}.toml"]
    assert lines[-len(expected) :] == expected, "whole lines, to be copied"
    assert max(map(len, lines[:-3])) <= 140


def test_show_names_what_is_meant_by_a_score(capfd):
    text = out(capfd, "recipes", "show", "official_mm_19_resnet50").out
    assert "- F2 macro 0.6723\n" in text
    assert "- Beaches, dunes, sands: F2 0.6339\n" in text
    assert "averaging not stated; official test split of v1, 125,866 patches" in text


def test_show_as_json_is_the_recipe_and_its_path(capfd):
    shown = json.loads(out(capfd, "recipes", "show", "mm2021_resnet50_imagenet", "--json").out)
    assert shown["path"] == str(FOLDER / "mm2021_resnet50_imagenet.toml")
    assert shown["config"] == load_recipe("mm2021_resnet50_imagenet").config
    assert shown["published"][0]["scores"] == {"f2_macro": 0.3981}


def test_show_takes_a_file_of_your_own(capfd, tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('title = "Mine [bold]"\n[config]\nmodel = "resnet18_s2"\nvalidation_split = ""\n')
    assert out(capfd, "recipes", "show", file).out == (
        f'title:     Mine [bold]\nconfig:    model = resnet18_s2\n           validation_split = ""\n\nfile: {file}\n'
    )


def test_a_wrong_name_suggests_the_nearest(capfd):
    said = out(capfd, "recipes", "show", "reben_resnet50_s1s3", code=2).err
    assert "unknown recipe 'reben_resnet50_s1s3'; did you mean reben_resnet50_s1s2" in said
