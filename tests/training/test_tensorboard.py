"""What a run writes for TensorBoard is read back with TensorBoard's own readers."""

import io
import warnings
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups

from bigearth_tf.bands import BANDS, band_set
from bigearth_tf.contract import DataContract
from bigearth_tf.nomenclature import CLASSES_19
from bigearth_tf.training import tensorboard
from bigearth_tf.training.checkpoint import Progress
from bigearth_tf.training.config import TrainConfig
from bigearth_tf.training.event_files import EVENT_FILES
from bigearth_tf.training.learner import Learner
from bigearth_tf.training.metrics import class_average_precision
from bigearth_tf.training.tensorboard import RunBoard

CLASSES = len(CLASSES_19.names)
EMPTY = 4  # a class without a patch
CONFIG = TrainConfig("shallow_cnn_s1", epochs=3, learning_rate=0.25, model_options={"dense_units": 8}, seed=7)
STEPS = 6
PATCHES = 40


def split(bands="rgb"):
    """Return y_true, probabilities and the dataset of a split whose pixels are the number of their patch."""
    rng = np.random.default_rng(3)
    y_true = (rng.random((PATCHES, CLASSES)) < 0.3).astype(np.float32)
    y_true[:, EMPTY] = 0
    probabilities = rng.random((PATCHES, CLASSES))
    grids = {
        grid.name: np.stack([np.full(grid.shape, i, grid.dtype) for i in range(PATCHES)])
        for grid in band_set(bands).grids
    }
    names = np.array([f"patch_{i}" for i in range(PATCHES)])
    return y_true, probabilities, tf.data.Dataset.from_tensor_slices((grids, y_true, names)).batch(16)


class Run:
    """A run that only pretends to train: it calls the board as Keras and the keeper do."""

    def __init__(self, logs, progress=None, bands="rgb", validation=True, **options):
        contract = DataContract("v2", band_set(bands).bands, (CLASSES_19.names,))
        trained = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        trained.compile(keras.optimizers.SGD(CONFIG.learning_rate), "mse")
        self.progress = progress or Progress()
        y_true, probabilities, dataset = split(bands)
        scores = SimpleNamespace(y_true=y_true, probabilities=probabilities)
        given = {"scores": scores, "patches": dataset} if validation else {}
        self.board = RunBoard(
            logs, Learner(SimpleNamespace(contract=contract), trained), CONFIG, self.progress, STEPS,
            every_steps=4, **given, **options,
        )  # fmt: skip

    def go(self, until: int, batches: int = 0) -> None:
        """Train to the end of epoch `until`, and some batches more; batch k of an epoch has loss k."""
        self.board.on_train_begin()
        while self.progress.epoch < until:
            self._batches(STEPS)
            self.progress.history.append(
                {"epoch": self.progress.epoch, "loss": 0.5, "val_loss": 0.25, "val_f1_micro": 0.75, "input_share": 0.1}
            )
            self.board.on_epoch_end(self.progress.epoch)
            self.progress.epoch, self.progress.batch = self.progress.epoch + 1, 0
        if batches:
            self._batches(batches)
        self.board.on_train_end()

    def _batches(self, end: int) -> None:
        self.board.on_epoch_begin(self.progress.epoch)
        first = self.progress.batch
        for batch in range(end - first):
            losses = range(first, first + batch + 1)
            self.board.on_train_batch_end(batch, {"loss": sum(losses) / len(losses)})  # Keras gives the mean so far
            self.progress.batch += 1


def values(folder) -> dict[str, list[tuple[int, float]]]:
    """Return tag -> (step, value), of scalars and other tensors."""
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    events.Reload()
    tags = [tag for tag in events.Tags()["tensors"] if not tag.startswith("_hparams_")]
    return {tag: [(e.step, tf.make_ndarray(e.tensor_proto)) for e in events.Tensors(tag)] for tag in tags}


def provider(logs) -> MultiplexerDataProvider:
    multiplexer = EventMultiplexer(tensor_size_guidance={"pr_curves": 0, "scalars": 0, "hparams": 0})
    multiplexer.AddRunsFromDirectory(str(logs))
    multiplexer.Reload()
    return MultiplexerDataProvider(multiplexer, str(logs))


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """Return the logs of a run of three epochs; two patches, since drawing takes seconds."""
    folder = tmp_path_factory.mktemp("board") / "logs"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tensorboard, "_PATCHES", 2)
        Run(folder).go(until=3)
    return folder


@pytest.fixture
def sheets(monkeypatch) -> list[tuple]:
    """Return what is drawn, which a tiny picture stands for."""
    drawn = []

    def draw(file, *what):
        drawn.append(what)
        Image.new("RGB", (2, 2)).save(file, "PNG")

    monkeypatch.setattr(tensorboard, "patch_sheet", draw)
    return drawn


def test_a_row_of_the_history_becomes_the_scalars_of_its_epoch(logs):
    train, validation = values(logs / "train"), values(logs / "validation")
    assert train["epoch/loss"] == [(1, 0.5), (2, 0.5), (3, 0.5)]
    assert [step for step, _ in train["epoch/input_share"]] == [1, 2, 3]
    assert validation["epoch/loss"] == [(1, 0.25), (2, 0.25), (3, 0.25)]
    assert validation["epoch/f1_micro"][2] == (3, 0.75)
    assert not any("val_" in tag for tag in train)


def test_loss_of_steps_is_the_mean_since_the_last_value(logs):
    """Batches 0, 1, 2, 3 of the first epoch; 0, 1 of the second; 2 to 5; 0 to 3 of the third."""
    train = values(logs / "train")
    assert train["step/loss"] == [(4, 1.5), (8, 0.5), (12, 3.5), (16, 1.5)]
    assert train["step/learning_rate"] == [(step, 0.25) for step in (4, 8, 12, 16)]


def test_each_class_has_its_average_precision_where_it_has_one(logs):
    y_true, probabilities, _ = split()
    found = values(logs / "validation")
    for i, (name, value) in enumerate(
        zip(CLASSES_19.names, class_average_precision(y_true, probabilities), strict=True)
    ):
        tag = f"average_precision/{name}"
        assert (tag in found) == (f"precision_recall/{name}/pr_curves" in found) == (i != EMPTY)
        if i != EMPTY:
            assert found[tag][-1] == (3, pytest.approx(value, abs=1e-6))


@pytest.mark.parametrize("of", [0, 7, None], ids=["first class", "another", "micro"])
def test_the_pr_curves_plugin_shows_precision_and_recall_at_each_threshold(logs, of):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "html5lib's sanitizer is deprecated")  # vendored by TensorBoard
        from tensorboard.plugins.pr_curve.pr_curves_plugin import PrCurvesPlugin
    plugin = PrCurvesPlugin(TBContext(data_provider=provider(logs), logdir=str(logs)))
    tag = f"precision_recall/{'micro' if of is None else CLASSES_19.names[of]}/pr_curves"
    curves = plugin.pr_curves_impl(RequestContext(), "", ["validation"], tag)["validation"]
    assert [curve["step"] for curve in curves] == [1, 2, 3]
    y_true, probabilities, _ = split()
    columns = slice(None) if of is None else slice(of, of + 1)
    true, score = y_true[:, columns].ravel() > 0, probabilities[:, columns].ravel()
    (curve,) = curves[2:]
    shown = {round(threshold, 6): i for i, threshold in enumerate(curve["thresholds"])}
    for threshold in (0.0, 0.25, 0.5, 0.75):
        predicted, i = score >= threshold, shown[threshold]
        assert curve["true_positives"][i] == (predicted & true).sum()
        assert curve["false_negatives"][i] == (~predicted & true).sum()
        assert curve["true_negatives"][i] == (~predicted & ~true).sum()
        assert curve["precision"][i] == pytest.approx((predicted & true).sum() / predicted.sum())
        assert curve["recall"][i] == pytest.approx((predicted & true).sum() / true.sum())


@pytest.mark.parametrize("up", [False, True], ids=["of the run", "of a folder of runs"])
def test_the_hparams_plugin_shows_the_config_and_the_scores_of_the_last_epoch(logs, up):
    logs = logs.parent if up else logs
    context = backend_context.Context(TBContext(data_provider=provider(logs), logdir=str(logs)))
    request = api_pb2.ListSessionGroupsRequest(
        allowed_statuses=[api_pb2.STATUS_SUCCESS],
        aggregation_type=api_pb2.AGGREGATION_AVG,
        start_index=0,
        slice_size=9,
    )
    ctx = RequestContext()
    experiment = context.experiment_from_metadata(ctx, "", True, context.hparams_metadata(ctx, ""), [])
    for info in experiment.metric_infos:
        request.col_params.add(metric=info.name)
    handler = list_session_groups.Handler(ctx, context, "", request)
    (group,) = handler.run().session_groups
    settings = {name: getattr(value, value.WhichOneof("kind")) for name, value in group.hparams.items()}
    assert settings["model"] == "shallow_cnn_s1"
    assert (settings["learning_rate"], settings["model_options.dense_units"]) == (0.25, 8)
    assert settings["deterministic"] is False
    assert settings.keys() == {*CONFIG.to_dict(), "model_options.dense_units"} - {"model_options"}
    assert {metric.name.tag: (metric.value, metric.training_step) for metric in group.metric_values} == {
        "epoch/loss": (0.25, 3),
        "epoch/f1_micro": (0.75, 3),
    }


def test_a_run_that_goes_on_has_each_value_once_and_no_gap(logs, tmp_path, sheets):
    first = Run(tmp_path)
    first.go(until=1, batches=3)  # the checkpoint: one epoch and three batches
    checkpoint = Progress(epoch=1, batch=3, history=list(first.progress.history))
    first.go(until=2, batches=2)  # lost, and cut off in the middle of a record
    for path in (tmp_path / "train").glob(EVENT_FILES):
        path.write_bytes(path.read_bytes()[:-5])
    Run(tmp_path, checkpoint).go(until=3)
    for part in ("train", "validation"):
        again, unbroken = values(tmp_path / part), values(logs / part)
        assert again.keys() == unbroken.keys()
        for tag in again:
            # files of one second are read in the order of their names, which is not that of their writing
            assert sorted(step for step, _ in again[tag]) == [step for step, _ in unbroken[tag]], tag


def test_a_new_run_in_an_old_folder_shows_nothing_of_the_old_one(tmp_path, sheets):
    Run(tmp_path).go(until=3)
    (tmp_path / "train" / "notes.txt").write_text("mine")
    Run(tmp_path).go(until=1)
    assert {step for found in values(tmp_path / "validation").values() for step, _ in found} == {1}
    assert (tmp_path / "train" / "notes.txt").read_text() == "mine"


def test_without_a_validation_split_there_is_the_training_only(tmp_path):
    Run(tmp_path, validation=False).go(until=1)
    assert values(tmp_path / "train")["epoch/loss"] == [(1, 0.5)]
    assert not (tmp_path / "validation").exists()


def test_patches_are_drawn_after_the_first_epoch_some_and_the_last(logs):
    pictures = values(logs / "validation")["patches"]
    assert [step for step, _ in pictures] == [1, 3]
    width, height, png = pictures[0][1]
    with Image.open(io.BytesIO(png)) as image:
        assert (image.format, image.size) == ("PNG", (int(width), int(height)))


def test_patches_show_their_own_pixels_names_and_labels(tmp_path, sheets):
    Run(tmp_path, every_epochs=1).go(until=3)
    Run(tmp_path, every_epochs=1).go(until=1)
    assert len(sheets) == 4
    assert all(sheet[3] == sheets[0][3] for sheet in sheets)  # the same patches in each epoch and run
    y_true, probabilities, _ = split()
    bands, true, predicted, names = sheets[0]
    assert len(set(names)) == 12
    for patch, labels, guessed, name in zip(bands, true, predicted, names, strict=True):
        number = int(name.removeprefix("patch_"))
        assert patch.keys() == {"B02", "B03", "B04"}
        assert all((pixels == number).all() and pixels.shape == (BANDS[b].size,) * 2 for b, pixels in patch.items())
        assert labels == [c for c, holds in zip(CLASSES_19.names, y_true[number], strict=True) if holds]
        assert guessed == [c for c, p in zip(CLASSES_19.names, probabilities[number], strict=True) if p >= 0.5]


def test_bands_that_make_no_picture_are_no_error(tmp_path):
    Run(tmp_path, bands=("B05", "B06")).go(until=1)
    assert "patches" not in values(tmp_path / "validation")
