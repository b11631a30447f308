"""Follow constants that name their band through the whole way: files, records, pipeline, layers, three signatures."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from bigearth_tf.archive.patch import read_band_files
from bigearth_tf.bands import BAND_SETS
from bigearth_tf.layers import SensorMask
from bigearth_tf.models import PatchClassifier, create_model
from bigearth_tf.nomenclature import CLASSES_19, CLASSES_43
from bigearth_tf.pipelines.dataset import load_dataset
from bigearth_tf.records.manifest import Manifest
from bigearth_tf.records.writer import write_records
from bigearth_tf.serving.bundle import Bundle, export_bundle
from bigearth_tf.serving.signatures import DEFAULT, EXAMPLES, GEOTIFF
from bigearth_tf.statistics import BandStatistics
from tests.archives import write_v1

BANDS = BAND_SETS["s1s2"].bands
# Written out: the order that every consumer of the stack relies on.
ORDER = ("B02", "B03", "B04", "B08", "B05", "B06", "B07", "B8A", "B11", "B12", "VV", "VH")


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return write_v1(tmp_path_factory.mktemp("way") / "archive")


@pytest.fixture(scope="module")
def records(archive, tmp_path_factory):
    folder = tmp_path_factory.mktemp("records") / "records"
    write_records([archive.root], folder)
    return folder


def probe(records, fusion: str) -> PatchClassifier:
    """A model of the zoo's own inputs and preprocessing whose 19 `logits` are the means of the stacked bands.

    The statistics turn every value v into v / 10000, so that a probability tells which band stood where: bands of a
    patch are 0.001 apart, patches 0.1. The mean over 14,400 float32 pixels is exact to 0.0002.
    """
    statistics = BandStatistics("probe", BANDS, (0.0,) * 12, (10000.0,) * 12)
    model = create_model(
        f"shallow_cnn_{fusion}", contract=Manifest.load(records).contract, statistics=statistics, dense_units=4
    )
    # the names are those of the zoo's stages, which a bundle looks for
    seen, average = keras.layers.Identity, keras.layers.GlobalAveragePooling2D
    if fusion == "s1s2_early":
        mean = average(name="flatten")(seen(name="conv1")(model.get_layer("stack_sensors").output))
    else:  # what each sensor's first convolution sees
        parts = {sensor: model.get_layer(f"{sensor}_conv1").input for sensor in ("s2", "s1")}
        means = {s: average(name=f"{s}_flatten")(seen(name=f"{s}_conv1")(part)) for s, part in parts.items()}
        present = {s: model.get_layer(f"presence_{s}").output for s in means}
        masked = [SensorMask(name=f"mask_{s}")([values, present[s]]) for s, values in means.items()]
        mean = keras.layers.Concatenate(name="fuse_sensors")(masked)
    padded = keras.layers.Dense(19, use_bias=False, name="logits", dtype="float32")
    logits = padded(mean)
    padded.set_weights([np.eye(12, 19, dtype=np.float32)])
    return PatchClassifier(
        model.input, logits, model_name=model.model_name, contract=model.contract, options=model.options, name="probe"
    )


def test_the_order_of_the_stack_is_fixed():
    assert BANDS == ORDER


@pytest.mark.parametrize("fusion", ["s1s2_early", "s1s2_late"])
def test_every_band_arrives_where_it_belongs_through_all_three_signatures(archive, records, fusion, tmp_path):
    model = probe(records, fusion)
    bundle = Bundle(export_bundle(model, tmp_path, check=False))
    patches = {p.s2_name: p for p in archive.patches}
    dataset = load_dataset(records, "all", bands="s1s2", batch_size=6, names=True, contract=model.contract)
    grids, labels, names = next(iter(dataset))
    patches = [patches[n.decode()] for n in names.numpy()]
    expected = np.array([[p.value(band) / 10000 for band in ORDER] for p in patches])
    assert len(np.unique(expected)) == 6 * 12  # no two bands or patches alike

    def check(probabilities, what):
        logits = np.log(probabilities / (1 - probabilities))
        np.testing.assert_allclose(logits[:, :12], expected, atol=2e-4, err_msg=what)
        vv, vh = ORDER.index("VV"), ORDER.index("VH")
        assert (np.abs(logits[:, vv] - logits[:, vh]) > 5e-4).all(), "VH is VV"

    check(tf.sigmoid(tf.cast(model(grids, training=False), tf.float64)).numpy(), "Keras model")
    check(bundle.predict(DEFAULT, **grids).astype(float), DEFAULT)
    examples = {}
    for shard in Manifest.load(records).shards:
        for s in tf.data.TFRecordDataset(str(records / shard.file)):
            name = tf.train.Example.FromString(s.numpy()).features.feature["name"].bytes_list.value[0].decode()
            examples[name] = s.numpy()
    check(bundle.predict(EXAMPLES, examples=[examples[p.s2_name] for p in patches]).astype(float), EXAMPLES)
    files = [read_band_files([p.s2_dir, p.s1_dir], bundle.contract.band_set) for p in patches]
    check(bundle.predict_files(files).astype(float), GEOTIFF)

    # 43 -> 19 by name, in CLC order
    for vector, patch in zip(labels.numpy(), patches, strict=True):
        assert tuple(CLASSES_19.names[i] for i in np.flatnonzero(vector)) == patch.labels19


def test_43_to_19_is_right_for_every_class(tmp_path):
    """One patch per class of the 43; the 19-class label of its record is the one of the published table."""
    merged = {
        "Continuous urban fabric": 0, "Discontinuous urban fabric": 0, "Industrial or commercial units": 1,
        "Non-irrigated arable land": 2, "Permanently irrigated land": 2, "Rice fields": 2, "Vineyards": 3,
        "Fruit trees and berry plantations": 3, "Olive groves": 3,
        "Annual crops associated with permanent crops": 3, "Pastures": 4, "Complex cultivation patterns": 5,
        "Land principally occupied by agriculture, with significant areas of natural vegetation": 6,
        "Agro-forestry areas": 7, "Broad-leaved forest": 8, "Coniferous forest": 9, "Mixed forest": 10,
        "Natural grassland": 11, "Sparsely vegetated areas": 11, "Moors and heathland": 12,
        "Sclerophyllous vegetation": 12, "Transitional woodland/shrub": 13, "Beaches, dunes, sands": 14,
        "Inland marshes": 15, "Peatbogs": 15, "Salt marshes": 16, "Salines": 16, "Water courses": 17,
        "Water bodies": 17, "Coastal lagoons": 18, "Estuaries": 18, "Sea and ocean": 18,
    }  # fmt: skip
    patches = [
        {"split": "train", "labels": (name,), "h": i, "v": 3, "s1": False} for i, name in enumerate(CLASSES_43.names)
    ]
    archive = write_v1(tmp_path / "archive", patches)
    write_records([archive.root], tmp_path / "records", sensors="s2")
    seen = {}
    of_19 = load_dataset(tmp_path / "records", "train", bands=("B01",), batch_size=43)
    of_43 = load_dataset(tmp_path / "records", "train", bands=("B01",), batch_size=43, nomenclature=43)
    for (_, labels19), (_, labels43) in zip(of_19, of_43, strict=True):
        for a, b in zip(labels19.numpy(), labels43.numpy(), strict=True):
            (index,) = np.flatnonzero(b)
            seen[CLASSES_43.names[index]] = np.flatnonzero(a).tolist()
    assert seen == {name: [merged[name]] if name in merged else [] for name in CLASSES_43.names}
