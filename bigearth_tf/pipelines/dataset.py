"""load_dataset: from a records folder to batches that `model.fit` takes as they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import tensorflow as tf

from bigearth_tf.bands import BANDS, BandSet, band_set
from bigearth_tf.contract import DataContract, archive_title
from bigearth_tf.errors import ConfigError, ContractError, UnknownNameError
from bigearth_tf.nomenclature import Nomenclature
from bigearth_tf.nomenclature import nomenclature as nomenclature_of
from bigearth_tf.pipelines.augment import Augmentation, augment_batch, parse_augmentations
from bigearth_tf.pipelines.damage import ON_CORRUPT, SkippedRecords, readable_records
from bigearth_tf.pipelines.dropout import BandDropout
from bigearth_tf.pipelines.memory import keep_pages
from bigearth_tf.pipelines.order import epochs, read_epoch
from bigearth_tf.pipelines.service import from_service
from bigearth_tf.pipelines.shards import (
    IN_MEMORY,
    OpenShard,
    Shard,
    check_sizes,
    copy_shards,
    of_host,
    shard_files,
    shards_in_memory,
)
from bigearth_tf.pipelines.sources import OwnSource, open_source
from bigearth_tf.statistics import BandStatistics, default_statistics

_AHEAD = 2  # batches; more in flight only take more memory out of the processor's cache


def load_dataset(
    records: Path | str,
    split: str,
    *,
    bands: str | BandSet | tuple[str, ...] | None = None,
    nomenclature: int | Nomenclature | None = None,
    batch_size: int = 32,
    shuffle: bool = False,
    shuffle_buffer: int = 1024,
    seed: int = 0,
    epoch: int = 0,
    skip_batches: int = 0,
    augment: bool | str | Augmentation | Sequence[str | Augmentation] = False,
    sensors: Sequence[str] | None = None,
    cache: str | Path | None = None,
    drop_remainder: bool = False,
    names: bool = False,
    deterministic: bool = True,
    on_corrupt: str = "raise",
    skipped: list[SkippedRecords] | None = None,
    num_hosts: int = 1,
    host: int = 0,
    data_service: str | None = None,
    device: str | None = None,
    contract: DataContract | None = None,
) -> tf.data.Dataset:
    """Read a split of a records folder as batches of raw grids and multi-hot labels.

    With `shuffle` or `augment`, each pass over the dataset is the next epoch, with an order and augmentation of its
    own that depend on (seed, epoch) and the record alone: the same on any machine and with any number of threads. The
    first pass is `epoch`. Without them every pass is the same.

    A run that stopped after k batches of epoch e goes on with a dataset of `epoch=e, skip_batches=k` for the rest of
    that epoch, and one of `epoch=e + 1` for those after it, the other arguments as before: the batches are those that
    it would have seen.

    Args:
        records: folder with manifest.json; or other people's TFRecords, a file or a folder that `find_foreign` knows.
        split: `train`, `validation` (or `val`), `test`, or `all`.
        bands: name of a band set (`s1s2`, `s2`, `s1`, `rgb`, ...), band names, or None for all bands of the records.
        nomenclature: 43 or 19 classes, or 10 of EuroSAT; by default the only label set of the records, or 19 classes.
        batch_size: patches per batch.
        shuffle: shuffle shards, then records in a buffer.
        shuffle_buffer: records in the buffer; a full pair takes 275,200 bytes.
        seed: of order and augmentation.
        epoch: number of the first pass.
        skip_batches: leave out the first batches of the epoch; their records are read, not decoded. Every pass over
            such a dataset is the rest of that one epoch.
        augment: True for flips and quarter turns, names such as `"dihedral, speckle(looks=8)"`, or a sequence of names
            and augmentations; see `bigearth_tf.pipelines.augment`.
        sensors: show only these (`s1` or `s2`); the others of `bands` are given as absent, all zeros, and need not be
            in the records.
        cache: `"memory"` keeps the serialised records of the split there; a folder gets copies of its shards. The
            order is the same as without.
        drop_remainder: leave out a last, smaller batch, which makes the batch size static. With several hosts, all
            give as many batches as the one with the fewest records.
        names: yield a third element, the record names: (batch,) string. Not for `model.fit`.
        deterministic: keep the order exact; False is faster when shards lie on slow disks.
        on_corrupt: `raise`: a shard of another size than the manifest says is refused at once, a damaged record is a
            `tf.errors.DataLossError` or `InvalidArgumentError` of the iterator;
            `skip`: it is left out, named in `skipped` and in the log. That reads record by record in Python, which is
            several times slower.
        skipped: list that gets what was skipped, each once.
        num_hosts: hosts that train together; each reads shards of its own.
        host: which one this is, from 0.
        data_service: address of a tf.data service, such as `grpc://host:5000`. Its workers read, parse and decode
            (they must see the records under the same path); augmentation runs here. Each record comes once a pass,
            in no fixed order, and the last batch of every worker may be smaller.
        device: also copy batches to this device ahead of time, such as `GPU:0`.
        contract: of the model that will be fed; checked against the records'.

    Returns:
        Batches ({grid name: (batch, size, size, bands) uint16 DN or float32 dB}, (batch, classes) float32 multi-hot
        in the order of the nomenclature).

    Raises:
        RecordsError: no records there, or of no known schema; a shard is missing or of another size.
        UnknownNameError: no such split, band set, nomenclature or augmentation.
        ContractError: the records lack the bands or the label set, or differ from `contract`.
        ConfigError: a value that cannot be, or options that exclude each other.
        OutputError: the cache cannot be written.
    """
    for option, value, least in (
        ("batch_size", batch_size, 1),
        ("shuffle_buffer", shuffle_buffer, 1),
        ("epoch", epoch, 0),
        ("skip_batches", skip_batches, 0),
    ):
        if value < least:
            raise ConfigError(f"{option} must be at least {least}, got {value}")
    _check_combination(on_corrupt, data_service, cache, skip_batches, names, device)
    keep_pages()
    source = open_source(Path(records))
    labels = source.contract.default_nomenclature if nomenclature is None else nomenclature_of(nomenclature)
    chosen = source.contract.band_set if bands is None else band_set(bands)
    shown = _shown(chosen, sensors)
    _check_contract(source.contract, chosen, shown, labels, contract)
    augmentations = parse_augmentations(augment, chosen)
    statistics = _statistics(source.contract, contract, chosen) if augmentations else None
    if statistics is None and any(isinstance(each, BandDropout) for each in augmentations):
        raise ConfigError(
            f"band_dropout puts the mean of a band in its place, and none is published for "
            f"{archive_title(source.contract.archive_version)}; give the contract of a model: contract=model.contract"
        )

    all_shards = source.of_split(split)
    shards = of_host(all_shards, num_hosts, host)
    if on_corrupt == "raise":
        check_sizes(shards)
    batches = _batches(all_shards, num_hosts, host, batch_size, drop_remainder) - skip_batches
    if batches < 0:
        raise ConfigError(f"an epoch has {batches + skip_batches} batches, got skip_batches={skip_batches}")
    decode_shown = source.decoder(shown, labels, names=names or bool(augmentations))

    def decode(serialized: tf.Tensor):
        grids, multi_hot, record_names = decode_shown(serialized)
        return _with_absent(grids, chosen, tf.shape(serialized)[0]), multi_hot, record_names

    def finish(grids, multi_hot, record_names, number: tf.Tensor):
        if augmentations:
            grids, multi_hot = augment_batch(
                augmentations, grids, multi_hot, record_names,
                seed=seed, epoch=number, bands=chosen, statistics=statistics,
            )  # fmt: skip
        return (grids, multi_hot, record_names) if names else (grids, multi_hot)

    advance = (shuffle or bool(augmentations)) and not skip_batches
    if data_service:
        buffer = shuffle_buffer if shuffle else 0
        dataset = from_service(data_service, shards, batch_size, buffer, drop_remainder, decode)
        numbers = epochs(epoch) if advance else tf.data.Dataset.from_tensors(tf.constant(epoch, tf.int64))
        dataset = tf.data.Dataset.zip((numbers.flat_map(_forever), dataset))
        dataset = _parallel_map(dataset, lambda number, batch: finish(*batch, number), deterministic)
        return _ahead(dataset, device)

    open_shard = _opener(source, shards, cache, on_corrupt, shown, labels, skipped)

    def read(number: tf.Tensor) -> tf.data.Dataset:
        order = {"seed": seed, "shuffle": shuffle, "buffer": shuffle_buffer, "deterministic": deterministic}
        one = read_epoch(open_shard, len(shards), number, **order)
        if skip_batches:
            one = one.skip(skip_batches * batch_size)
        one = one.batch(batch_size, drop_remainder=drop_remainder)
        if num_hosts > 1 and drop_remainder:
            one = one.take(batches)
        return one.map(lambda serialized: (serialized, number))

    if advance:  # inside flat_map reading waits for decoding, unless some batches are read ahead
        dataset = epochs(epoch).flat_map(lambda number: read(number).prefetch(_AHEAD))
    else:
        dataset = read(tf.constant(epoch, tf.int64))
    dataset = _parallel_map(dataset, lambda serialized, number: finish(*decode(serialized), number), deterministic)
    if on_corrupt == "raise":
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(batches))
    return _ahead(dataset, device)


def _check_combination(on_corrupt, data_service, cache, skip_batches, names, device) -> None:
    if on_corrupt not in ON_CORRUPT:
        raise UnknownNameError("way to treat damaged records", on_corrupt, ON_CORRUPT)
    skip, memory = on_corrupt == "skip", cache == IN_MEMORY
    wrong = [
        (skip and memory, "on_corrupt='skip' reads shards as they are, not from memory"),
        (skip and data_service, "workers of a tf.data service run no Python, so on_corrupt='skip' cannot"),
        (memory and data_service, "a tf.data service reads where its workers are, not from this memory"),
        (skip_batches and data_service, "the order of a tf.data service is not fixed, so there are no batches to skip"),
        (
            names and device and "CPU" not in device.upper(),
            "names are text, which only the CPU holds; leave out device",
        ),
    ]
    for holds, reason in wrong:
        if holds:
            raise ConfigError(f"these options exclude each other: {reason}")


def _shown(bands: BandSet, sensors: Sequence[str] | None) -> BandSet:
    """Return the bands of the sensors that are shown."""
    if sensors is None:
        return bands
    sensors = (sensors,) if isinstance(sensors, str) else tuple(sensors)
    for sensor in sensors:
        if sensor not in bands.sensors:
            raise UnknownNameError(f"sensor of the bands {bands}", sensor, bands.sensors)
    if not sensors:
        raise ConfigError(f"sensors names at least one of {', '.join(bands.sensors)}, got none")
    return BandSet(tuple(name for name in bands.bands if BANDS[name].sensor in sensors))


def _with_absent(grids: dict[str, tf.Tensor], bands: BandSet, batch: tf.Tensor) -> dict[str, tf.Tensor]:
    """Add the grids that are not shown: zeros, the mark of an absent sensor."""
    return {
        grid.name: grids[grid.name] if grid.name in grids else tf.zeros((batch, *grid.shape), grid.dtype)
        for grid in bands.grids
    }


def _check_contract(
    offered: DataContract, bands: BandSet, shown: BandSet, labels: Nomenclature, contract: DataContract | None
) -> None:
    asked = DataContract(offered.archive_version, shown.bands, (labels.names,))
    if contract is not None:
        if contract.bands != bands.bands or contract.class_names != asked.class_names:
            raise ContractError(
                f"the model takes bands {' '.join(contract.bands)} and {len(contract.class_names[0])} classes; "
                f"asked for are bands {bands} and {len(labels)} classes"
            )
        units = {sensor: contract.units[sensor] for sensor in shown.sensors}
        asked = asked.replace(units=units)
        asked.require(offered)
    asked.require(offered, here="dataset")


def _statistics(offered: DataContract, contract: DataContract | None, bands: BandSet) -> BandStatistics | None:
    """Return the means of the bands: those the model normalises with, else what is published for the archive version.

    None where nothing is published, as for EuroSAT.
    """
    if contract is not None and contract.statistics is not None:
        return contract.statistics.of(bands)
    published = default_statistics(offered.archive_version)
    return published and published.of(bands)


def _batches(shards: list[Shard], num_hosts: int, host: int, batch_size: int, drop_remainder: bool) -> int:
    """Return how many batches a pass gives."""
    records = [sum(shard.records for shard in of_host(shards, num_hosts, i)) for i in range(num_hosts)]
    if drop_remainder:
        return min(records) // batch_size
    return -(-records[host] // batch_size)


def _opener(
    source, shards: list[Shard], cache, on_corrupt: str, bands: BandSet, labels: Nomenclature, skipped
) -> OpenShard:
    """Return how a shard is opened."""
    if cache is not None and cache != IN_MEMORY:
        shards = copy_shards(shards, Path(cache))
    if on_corrupt == "skip":
        if not isinstance(source, OwnSource):
            raise ConfigError(
                "on_corrupt='skip' knows the records of this package only; make them with `bigearth-tf records import`"
            )
        return readable_records(shards, bands, labels, [] if skipped is None else skipped)
    return shards_in_memory(shards) if cache == IN_MEMORY else shard_files(shards)


def _forever(number: tf.Tensor) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensors(number).repeat()


def _parallel_map(dataset: tf.data.Dataset, function: Callable, deterministic: bool) -> tf.data.Dataset:
    return dataset.map(function, num_parallel_calls=tf.data.AUTOTUNE, deterministic=deterministic)


def _ahead(dataset: tf.data.Dataset, device: str | None) -> tf.data.Dataset:
    """Make batches ahead of time, on the host or on a device."""
    dataset = dataset.prefetch(_AHEAD)
    return dataset.apply(tf.data.experimental.prefetch_to_device(device)) if device else dataset
