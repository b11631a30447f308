"""`bigearth-tf predict --url`: the labels of a server's model, without TensorFlow here."""

import json
import subprocess
import sys

import pytest

from bigearth_tf.cli.main import main
from bigearth_tf.nomenclature import CLASSES_19
from tests.serving.fake_server import BANDS_USED, FakeServer, patch


@pytest.fixture
def server():
    fake = FakeServer()
    fake.index = ["m"]
    yield fake
    fake.close()


@pytest.fixture
def scene(tmp_path):
    """Two patches cut from a later product."""
    for n in (0, 1):
        folder = tmp_path / "scene" / f"cut{n}"
        folder.mkdir(parents=True)
        for name, data in patch(1000 + n).items():
            (folder / f"mine_{name}.tif").write_bytes(data)
    item = {"stac_version": "1.0.0", "id": "S2A", "properties": {"s2:processing_baseline": "05.00"}}
    (tmp_path / "scene" / "scene.json").write_text(json.dumps(item))
    return tmp_path / "scene"


def out(capfd, *arguments, code=0):
    capfd.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(["predict", *map(str, arguments)])
    said = capfd.readouterr()
    assert stopped.value.code == code, said
    return said


def test_labels_come_from_the_server_and_the_offset_is_noted_once(server, scene, capfd):
    said = out(capfd, "--url", server.url, scene / "cut0", scene / "cut1")
    assert said.err.count("note: ") == 1
    assert "note: baseline 05.00, offset -1000 DN" in said.err and "taken off" in said.err
    assert said.out.splitlines()[:4] == [
        "cut0",
        f"   50.0%  {CLASSES_19.names[4]} (from 25.0%)  (unsure)",
        f"   40.0%  {CLASSES_19.names[3]} (from 25.0%)  (unsure)",
        f"   30.0%  {CLASSES_19.names[2]} (from 25.0%)  (unsure)",
    ]
    results = json.loads(out(capfd, "--url", server.url, scene / "cut1", "--json", "--threshold", "0.45").out)
    assert [(r["patch"], r["folders"], r["labels"]) for r in results] == [
        ("cut1", [str(scene / "cut1")], [CLASSES_19.names[4]])
    ]
    assert results[0]["probabilities"][CLASSES_19.names[0]] == pytest.approx(0.1001, abs=1e-6)


def test_the_offset_can_be_refused_or_left(server, scene, capfd):
    said = out(capfd, "--url", server.url, scene / "cut0", "--offset", "refuse", code=1)
    assert "error: the model takes reflectance x 10000" in said.err and "--offset" in said.err
    said = out(capfd, "--url", server.url, scene / "cut0", "--offset", "ignore", "--json")
    assert json.loads(said.out)[0]["probabilities"][CLASSES_19.names[0]] == pytest.approx(0.2, abs=1e-6)


def test_the_token_is_read_from_a_file(server, scene, capfd, tmp_path):
    (tmp_path / "token").write_text("s3cret\n")
    out(capfd, "--url", server.url, scene / "cut0", "--token-file", tmp_path / "token", "--timeout", 20)
    assert set(server.tokens) == {"Bearer s3cret"}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["bundle", "--model", "m", "patch"], 2, "--model is for a server; name it with --url"),
        (["bundle", "--token-file", "t", "patch"], 2, "--token-file is for a server"),
        (["bundle"], 2, "Missing argument 'PATCH_DIR...'"),
        ([], 2, "Missing argument 'BUNDLE'"),
        (["--url", "{url}"], 2, "Missing argument 'PATCH_DIR...'"),
        (["--url", "{url}", "--version", "0", "patch"], 2, "--version"),
        (["--url", "{url}", "--timeout", "0", "patch"], 2, "--timeout"),
        (["--url", "{url}", "--offset", "add", "patch"], 2, "harmonize"),
        (["--url", "nowhere", "patch"], 1, "a server is named http://HOST:8501"),
        (["--url", "{url}", "--model", "n", "patch"], 1, "Could not find any versions of model"),
        (["--url", "{url}", "--token-file", "/nowhere/t", "patch"], 1, "the file of the token must be readable"),
        (["--url", "{url}", "/nowhere/patch"], 1, "/nowhere/patch is no folder"),
    ],
)
def test_wrong_usage_is_told(server, capfd, arguments, code, message):
    said = out(capfd, *(a.replace("{url}", server.url) for a in arguments), code=code)
    assert message in said.err
    assert server.requests == []


def test_asking_a_server_over_rest_loads_no_tensorflow(server, scene):
    code = (
        "import sys; from bigearth_tf.cli.main import main\n"
        f"try: main(['predict', '--url', {server.url!r}, {str(scene / 'cut0')!r}])\n"
        "except SystemExit as stopped: assert stopped.code == 0\n"
        "assert not {'tensorflow', 'keras', 'rasterio', 'pyarrow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert set(server.requests[0][1]["inputs"]) == set(BANDS_USED)
