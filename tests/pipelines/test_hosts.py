"""Several readers: hosts with shards of their own, a tf.data service, hidden sensors, caches, devices."""

import socket
import time

import numpy as np
import pytest
import tensorflow as tf

from bigearth_tf.bands import BAND_SETS
from bigearth_tf.contract import DataContract
from bigearth_tf.errors import ConfigError, ContractError, UnknownNameError
from bigearth_tf.nomenclature import CLASSES_19
from bigearth_tf.pipelines.dataset import load_dataset
from bigearth_tf.records.manifest import Manifest
from bigearth_tf.records.writer import write_records
from tests.archives import write_v1, write_v2


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """23 pairs in 5 shards."""
    root = tmp_path_factory.mktemp("hosts")
    archive = write_v1(root / "archive", [{"split": "train", "h": i, "v": 5} for i in range(23)])
    write_records([archive.root], root / "records", shards=5)
    return root / "records"


def names_of(dataset):
    return [n.decode() for *_, names in dataset for n in names.numpy()]


@pytest.mark.parametrize("num_hosts", [2, 3, 5])
def test_hosts_share_the_split_without_overlap(records, num_hosts):
    options = dict(names=True, shuffle=True, batch_size=4, num_hosts=num_hosts)
    parts = [names_of(load_dataset(records, "train", host=i, **options)) for i in range(num_hosts)]
    together = [name for part in parts for name in part]
    assert len(together) == len(set(together)) == 23
    assert set(together) == set(names_of(load_dataset(records, "train", names=True)))


def test_hosts_that_step_together_get_equally_many_whole_batches(records):
    options = dict(names=True, batch_size=2, num_hosts=2, drop_remainder=True)
    for _ in range(2):
        sizes = [[len(n) for *_, n in load_dataset(records, "train", host=i, **options)] for i in range(2)]
        assert sizes[0] == sizes[1]
        assert set(sizes[0]) == {2}
    smallest = min(sum(s.records for s in Manifest.load(records).of_split("train")[i::2]) for i in range(2))
    assert len(sizes[0]) == smallest // 2
    assert load_dataset(records, "train", host=1, **options).cardinality() == smallest // 2


def test_a_host_that_does_not_exist_is_refused(records):
    for num_hosts, host in ((2, 2), (2, -1), (0, 0)):
        with pytest.raises(ConfigError, match=f"got host {host} of {num_hosts}"):
            load_dataset(records, "train", num_hosts=num_hosts, host=host)
    with pytest.raises(ConfigError, match="6 hosts need as many; the split has 5"):
        load_dataset(records, "train", num_hosts=6)


@pytest.fixture(scope="module")
def service():
    """A real dispatcher with two workers."""
    dispatcher = tf.data.experimental.service.DispatchServer()
    address = dispatcher.target.split("://")[1]
    workers = [
        tf.data.experimental.service.WorkerServer(
            tf.data.experimental.service.WorkerConfig(dispatcher_address=address, heartbeat_interval_ms=100)
        )
        for _ in range(2)
    ]
    yield dispatcher, workers
    for server in (*workers, dispatcher):
        server._stop()


def test_a_service_gives_each_record_once_with_the_pixels_of_its_epoch(records, service):
    dispatcher, _ = service
    options = dict(bands="s1s2", augment="dihedral, gain_offset", batch_size=4, names=True, seed=3, epoch=1)

    def by_name(dataset):
        return {
            name: ({g: x.numpy()[i] for g, x in grids.items()}, labels.numpy()[i])
            for grids, labels, names in dataset
            for i, name in enumerate(names.numpy().tolist())
        }

    here = load_dataset(records, "train", **options)
    there = load_dataset(records, "train", data_service=dispatcher.target, shuffle=True, **options)
    for _ in range(2):  # the second pass is epoch 2 in both
        expected, got = by_name(here), by_name(there)
        assert len(expected) == 23
        assert got.keys() == expected.keys()
        for name, (grids, labels) in expected.items():
            np.testing.assert_array_equal(got[name][1], labels)
            for grid in grids:
                np.testing.assert_array_equal(got[name][0][grid], grids[grid])
    assert len(names_of(there)) == 23


def test_both_workers_of_the_service_read(records, service):
    dispatcher, workers = service
    dataset = iter(load_dataset(records, "train", data_service=dispatcher.target, batch_size=1, names=True))
    first = next(dataset)
    end = time.monotonic() + 20
    while not all(worker._num_tasks() for worker in workers) and time.monotonic() < end:
        time.sleep(0.05)
    assert [worker._num_tasks() for worker in workers] == [1, 1]
    assert len(names_of([first, *dataset])) == 23


def test_a_service_that_is_not_there_is_refused_at_once(records):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    with pytest.raises(ConfigError, match=f"no tf.data service answers at grpc://localhost:{port}"):
        load_dataset(records, "train", data_service=f"grpc://localhost:{port}")
    for wrong in ("localhost:5000", "grpc://localhost", "grpc://localhost:port"):
        with pytest.raises(ConfigError, match="is grpc://host:port, got"):
            load_dataset(records, "train", data_service=wrong)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"data_service": "grpc://a:1", "on_corrupt": "skip"}, "run no Python"),
        ({"data_service": "grpc://a:1", "cache": "memory"}, "where its workers are"),
        ({"data_service": "grpc://a:1", "skip_batches": 2}, "no batches to skip"),
        ({"device": "GPU:0", "names": True}, "names are text"),
    ],
)
def test_options_that_exclude_each_other(records, options, reason):
    with pytest.raises(ConfigError, match=reason):
        load_dataset(records, "train", **options)


@pytest.mark.parametrize("shown", ["s1", "s2"])
def test_a_hidden_sensor_is_all_zeros_and_the_other_is_as_ever(records, shown):
    full, _ = next(iter(load_dataset(records, "train", bands="s1s2", batch_size=5)))
    grids, _ = next(iter(load_dataset(records, "train", bands="s1s2", sensors=[shown], batch_size=5)))
    assert list(grids) == list(full)
    for grid in BAND_SETS["s1s2"].grids:
        x = grids[grid.name].numpy()
        assert (x.shape, x.dtype) == (full[grid.name].shape, grid.dtype)
        if grid.sensor == shown:
            np.testing.assert_array_equal(x, full[grid.name])
        else:
            assert (x == 0).all()


def test_a_hidden_sensor_need_not_be_in_the_records(tmp_path):
    archive = write_v2(tmp_path / "archive", [{"split": "train", "h": 1, "v": 2}])
    write_records([archive.root], tmp_path / "records", sensors="s2")
    model = DataContract("v2", BAND_SETS["s1s2"].bands, (CLASSES_19.names,))
    dataset = load_dataset(tmp_path / "records", "train", bands="s1s2", sensors="s2", contract=model)
    (grids, _), *_ = dataset
    assert (grids["s1_10m"].numpy() == 0).all()
    assert (grids["s2_10m"].numpy() > 0).all()
    with pytest.raises(ContractError, match="lacks VV VH"):
        load_dataset(tmp_path / "records", "train", bands="s1s2", contract=model)


def test_wrong_sensors(records):
    with pytest.raises(UnknownNameError, match="s1, s2|s2, s1"):
        load_dataset(records, "train", bands="s1s2", sensors=["sar"])
    with pytest.raises(UnknownNameError, match="unknown sensor .*did you mean s2"):
        load_dataset(records, "train", bands="s2", sensors=["s1"])
    with pytest.raises(ConfigError, match="at least one"):
        load_dataset(records, "train", sensors=[])


def test_a_cache_folder_holds_whole_copies_and_mends_a_short_one(records, tmp_path):
    expected = names_of(load_dataset(records, "train", names=True))
    assert names_of(load_dataset(records, "train", names=True, cache=tmp_path / "new" / "copies")) == expected
    copies = sorted((tmp_path / "new" / "copies").iterdir())
    assert [c.name for c in copies] == sorted(s.file for s in Manifest.load(records).of_split("train"))
    copies[0].write_bytes(b"cut")
    assert names_of(load_dataset(records, "train", names=True, cache=tmp_path / "new" / "copies")) == expected
    for shard in copies:
        assert shard.read_bytes() == (records / shard.name).read_bytes()


def test_memory_holds_the_records_when_the_files_are_gone(tmp_path):
    archive = write_v1(tmp_path / "archive", [{"split": "train", "h": i, "v": 5} for i in range(5)])
    write_records([archive.root], tmp_path / "records", shards=2)
    dataset = load_dataset(tmp_path / "records", "train", names=True, cache="memory")
    expected = names_of(load_dataset(tmp_path / "records", "train", names=True))
    for file in (tmp_path / "records").glob("*.tfrecord"):
        file.unlink()
    assert names_of(dataset) == expected


def test_batches_ahead_on_a_device_are_the_same(records):
    here = load_dataset(records, "train", bands="s1", batch_size=4)
    there = load_dataset(records, "train", bands="s1", batch_size=4, device="CPU:0")
    for (grids, labels), (grids2, labels2) in zip(here, there, strict=True):
        np.testing.assert_array_equal(grids["s1_10m"], grids2["s1_10m"])
        np.testing.assert_array_equal(labels, labels2)


def test_batch_shapes_are_static_where_they_can_be(records):
    spec, labels = load_dataset(records, "train", bands="s1s2", batch_size=4, drop_remainder=True).element_spec
    assert labels.shape == (4, 19)
    assert {n: tuple(s.shape) for n, s in spec.items()} == {g.name: (4, *g.shape) for g in BAND_SETS["s1s2"].grids}
    spec, _ = load_dataset(records, "train", augment=True).element_spec
    assert {n: tuple(s.shape) for n, s in spec.items()} == {g.name: (None, *g.shape) for g in BAND_SETS["all"].grids}
