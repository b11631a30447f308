"""Statistics are those of every pixel and label of the records, whoever counts them, and never of other records."""

import dataclasses
import errno
import json
import subprocess
import sys
from collections import Counter
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigearth_tf.bands import BAND_SETS, BANDS
from bigearth_tf.cli.main import main
from bigearth_tf.contract import DataContract
from bigearth_tf.errors import ConfigError, OutputError, RecordsError, UnknownNameError
from bigearth_tf.nomenclature import CLASSES_19, CLASSES_43
from bigearth_tf.records import stats_counts
from bigearth_tf.records.manifest import Manifest, manifest_sha256
from bigearth_tf.records.stats import PERCENTILES, RecordStatistics, compute_statistics
from bigearth_tf.records.stats_pixels import HISTOGRAM_BINS, DecibelCounts, DnCounts
from bigearth_tf.records.stats_plots import draw_bands, draw_classes, draw_cooccurrence, draw_countries
from bigearth_tf.records.writer import write_records
from bigearth_tf.statistics import published_statistics
from tests.archives import FLAGGED, PAIRS, map_codes, write_v1, write_v2

SPLITS = ("train", "validation", "test")


class Noisy:
    """An archive of noise, its records in several shards, and the pixels that were drawn."""

    def __init__(self, folder: Path):
        self.rng = np.random.default_rng(5)
        self.drawn: dict[tuple[str, int], np.ndarray] = {}
        self.archive = write_v1(folder / "archive", [*PAIRS, *FLAGGED[:1]], pixels=self.draw)
        self.records = folder / "records"
        write_records([self.archive.root], self.records, shards=7, include=["snow"])

    def draw(self, band, number):
        shape = (band.size, band.size)
        if band.sensor == "s2":  # a skewed bulk, both ends of the type, and more zeros in later patches
            pixels = self.rng.gamma(2, 400 + 50 * number, shape).astype(band.dtype)
            pixels.flat[: 3 * number] = 0
            pixels.flat[-1] = 65_535
        else:
            pixels = self.rng.normal(-12 - number, 5, shape).astype(band.dtype)
            pixels.flat[:6] = np.nan, np.inf, -np.inf, -130.5, 71.25, -100
        self.drawn[band.name, number] = pixels
        return pixels

    def pixels(self, band, split):
        """All pixels of a band in a split, in one array."""
        wanted = SPLITS if split == "all" else (split,)
        numbers = [p.number for p in self.archive.pairs if (p.split or "excluded") in wanted]
        assert numbers
        return np.concatenate([self.drawn[band, number].ravel() for number in numbers])


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    return Noisy(tmp_path_factory.mktemp("noisy"))


@pytest.fixture(scope="module")
def found(noisy):
    return compute_statistics(noisy.records)


def run(*arguments) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(a) for a in arguments])
    return stopped.value.code


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("split", [*SPLITS, "excluded", "all"])
def test_s2_is_what_numpy_says_of_all_pixels(noisy, found, split):
    for name in BAND_SETS["s2_12"].bands:
        pixels, got = noisy.pixels(name, split), found.splits[split].bands[name]
        assert (got.pixels, got.nodata) == (len(pixels), np.count_nonzero(pixels == 0)), name
        assert got.nodata_share == got.nodata / len(pixels)
        assert (got.min, got.max) == (pixels.min(), 65_535)
        assert got.mean == pytest.approx(pixels.mean(dtype=np.float64), rel=1e-13)
        assert got.std == pytest.approx(pixels.std(dtype=np.float64), rel=1e-12)
        expected = np.percentile(pixels, PERCENTILES)
        np.testing.assert_allclose(list(got.percentiles.values()), expected, rtol=1e-12, err_msg=name)
        assert list(got.percentiles) == ["0.1", "1", "2", "5", "25", "50", "75", "95", "98", "99", "99.9"]


@pytest.mark.parametrize("split", [*SPLITS, "excluded", "all"])
def test_s1_is_what_numpy_says_of_the_finite_pixels(noisy, found, split):
    for name in ("VV", "VH"):
        pixels, got = noisy.pixels(name, split).astype(np.float64), found.splits[split].bands[name]
        finite = pixels[np.isfinite(pixels)]
        assert (got.pixels, got.nodata) == (len(pixels), len(pixels) - len(finite))
        assert got.nodata == 3 * len(pixels) // 14_400
        assert (got.min, got.max) == (-130.5, 71.25)
        assert got.mean == pytest.approx(finite.mean(), rel=1e-12)
        assert got.std == pytest.approx(finite.std(), rel=1e-12)
        np.testing.assert_allclose(list(got.percentiles.values()), np.percentile(finite, PERCENTILES), atol=0.00501)


def test_a_histogram_is_numpys_in_bins_that_all_splits_share(noisy, found):
    for name in ("B02", "B09", "VH"):
        bins = {(s.bands[name].histogram["first"], s.bands[name].histogram["width"]) for s in found.splits.values()}
        assert len(bins) == 1
        for split, summary in found.splits.items():
            got = summary.bands[name].histogram
            pixels = noisy.pixels(name, split)
            pixels = pixels[np.isfinite(pixels)].astype(np.float64)
            edges = got["first"] + got["width"] * np.arange(len(got["counts"]) + 1)
            edges[-1] = np.nextafter(edges[-1], -np.inf)  # numpy counts the last edge in
            assert got["counts"] == np.histogram(pixels, edges)[0].tolist()
            assert got["below"] == np.count_nonzero(pixels < edges[0])
            assert got["below"] + sum(got["counts"]) + got["above"] == len(pixels)
            assert HISTOGRAM_BINS / 2 < len(got["counts"]) <= HISTOGRAM_BINS
            assert min(got["below"], got["above"]) <= len(pixels) / 900, "cut at the 0.1 and 99.9 percentile"


def test_constant_bands_are_told_exactly(tmp_path):
    archive = write_v1(tmp_path / "archive")
    write_records([archive.root], tmp_path / "records")
    found = compute_statistics(tmp_path / "records")
    for split in SPLITS:
        first, second = archive.of_split(split)
        for name, got in found.splits[split].bands.items():
            low, high = sorted((first.value(name), second.value(name)))
            assert (got.min, got.max, got.mean) == (low, high, (low + high) / 2), name
            assert got.std == pytest.approx((high - low) / 2, rel=1e-14)
            assert (got.percentiles["1"], got.percentiles["99"]) == pytest.approx((low, high), abs=0.0051)
            assert got.unit == BANDS[name].unit
            assert got.nodata == 0
    one = compute_statistics(tmp_path / "records", split="val").splits["validation"].bands
    assert one == {
        name: dataclasses.replace(band, histogram=one[name].histogram)
        for name, band in found.splits["validation"].bands.items()
    }


def test_all_is_every_split_but_the_excluded_patches(noisy, found):
    assert list(found.splits)[-1] == "all"
    assert {s: x.patches for s, x in found.splits.items()} == {
        "train": 2, "validation": 2, "test": 2, "excluded": 1, "all": 6,
    }  # fmt: skip
    assert list(compute_statistics(noisy.records, split="train").splits) == ["train"]
    with pytest.raises(UnknownNameError, match="did you mean train"):
        compute_statistics(noisy.records, split="trian")


def test_records_without_splits_are_one_split(tmp_path):
    archive = write_v1(tmp_path / "archive", PAIRS[:3], lists=False)
    write_records([archive.root], tmp_path / "records", unsplit=True, shards=2)
    found = compute_statistics(tmp_path / "records")
    assert {split: x.patches for split, x in found.splits.items()} == {"all": 3}
    legend = [text.get_text() for text in draw_bands(found).axes[14].get_legend().get_texts()]
    assert legend[:2] == ["all", "mean of all (number: mean ± std)"]


def test_a_split_named_all_is_shown_beside_excluded_patches(tmp_path):
    archive = write_v1(tmp_path / "archive", [*PAIRS[:3], *FLAGGED[:1]])
    write_records([archive.root], tmp_path / "records", unsplit=True, include=["snow"], shards=2)
    found = compute_statistics(tmp_path / "records")
    assert found.splits["all"].patches == Manifest.load(tmp_path / "records").records_in("all")
    assert len(draw_classes(found).axes[0].containers) == len(found.splits)


def test_one_sensor_alone(tmp_path):
    archive = write_v1(tmp_path / "archive", [{**spec, "s2": False} for spec in PAIRS])
    write_records([archive.root], tmp_path / "records", sensors="s1")
    found = compute_statistics(tmp_path / "records")
    assert list(found.splits["all"].bands) == ["VV", "VH"]
    assert found.splits["all"].bands["VV"].mean == np.mean([p.value("VV") for p in archive.patches])
    months = Counter(int(p.s1_time[5:7]) for p in archive.patches)
    assert found.splits["all"].months == [months[month] for month in range(1, 13)]
    assert draw_bands(found).axes[1].get_title() == "VH (10 m)"


def test_workers_and_shards_change_nothing_but_the_time(noisy, found, tmp_path):
    reports = []
    two = compute_statistics(noisy.records, workers=2, progress=lambda *state: reports.append(state))
    for folder, statistics in ((tmp_path / "one", found), (tmp_path / "two", two)):
        folder.mkdir()
        statistics.save(folder)
    assert (tmp_path / "one" / "stats.json").read_bytes() == (tmp_path / "two" / "stats.json").read_bytes()
    assert reports[-1] == (7, 7)
    write_records([noisy.archive.root], tmp_path / "records", include=["snow"], seed=3)
    other = compute_statistics(tmp_path / "records")
    for split, expected in found.splits.items():
        got = other.splits[split]
        assert {**vars(got), "bands": 0} == {**vars(expected), "bands": 0}
        for name, band in got.bands.items():
            if BANDS[name].sensor == "s2":
                assert band == expected.bands[name]
            else:
                assert (band.mean, band.std) == pytest.approx((expected.bands[name].mean, expected.bands[name].std))
                assert band.histogram == expected.bands[name].histogram


def test_batches_do_not_change_what_is_counted(noisy, found, monkeypatch):
    monkeypatch.setattr(stats_counts, "_BATCH", 1)
    assert (
        compute_statistics(noisy.records).to_dict()["splits"]["all"]["bands"]["B8A"]
        == found.to_dict()["splits"]["all"]["bands"]["B8A"]
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 65_535), max_size=12), min_size=1, max_size=6), st.randoms())
def test_counts_of_parts_add_up_in_any_order(parts, random):
    values = np.array([*chain(*parts)], np.uint16)
    if not len(values):
        return
    whole, merged = DnCounts(), DnCounts()
    whole.add(values)
    random.shuffle(parts)
    for part in filter(None, parts):
        counts = DnCounts()
        counts.add(np.array(part, np.uint16))
        merged.merge(counts)
    assert (merged.counts == whole.counts).all()
    assert merged.moments() == whole.moments()
    np.testing.assert_allclose(merged.percentiles(PERCENTILES), np.percentile(values, PERCENTILES), rtol=1e-12)
    assert whole.moments()[1] == pytest.approx(values.std(dtype=np.float64), rel=1e-10, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.floats(-140, 60, width=32), max_size=12), min_size=1, max_size=6))
def test_decibels_of_parts_add_up(parts):
    values = np.array([*chain(*parts)], np.float32).astype(np.float64)
    merged = DecibelCounts()
    for part in parts:
        counts = DecibelCounts()
        counts.add(np.array([*part, np.nan], np.float32))
        merged.merge(counts)
    assert (merged.valid, merged.nodata) == (len(values), len(parts))
    if len(values):
        assert merged.moments() == pytest.approx((values.mean(), values.std()), rel=1e-9, abs=1e-9)
        assert merged.limits() == (values.min(), values.max())


def test_moments_survive_what_64_bits_would_not():
    counts = DnCounts()
    counts.counts[[65_534, 65_535]] = 9 * 10**9  # pixels of a 10 m band in the archive; the squares need 66 bits
    assert counts.moments() == (65_534.5, 0.5)
    assert counts.percentiles([50, 99.9]) == [65_534.5, 65_535]


def test_a_band_without_a_finite_value_has_no_moments(tmp_path):
    def blank(band, number):
        return np.full((band.size, band.size), np.nan if band.name == "VV" else 7, band.dtype)

    archive = write_v1(tmp_path / "archive", PAIRS[:2], pixels=blank)
    write_records([archive.root], tmp_path / "records")
    found = compute_statistics(tmp_path / "records")
    vv = found.splits["train"].bands["VV"]
    assert (vv.pixels, vv.nodata, vv.nodata_share) == (28_800, 28_800, 1.0)
    assert (vv.mean, vv.std, vv.min, vv.percentiles, vv.histogram) == (None, None, None, {}, None)
    found.save(tmp_path / "records")
    assert RecordStatistics.load(tmp_path / "records") == found
    with pytest.raises(ConfigError, match=r"VV, VH of split train: constant or without data"):
        found.band_statistics(bands="s1")
    draw_bands(found).savefig(tmp_path / "bands.png", dpi=40)
    assert run("records", "stats", tmp_path / "records", "--no-plots") == 0, "the table does without it"


def expected_counts(patches, names, attribute):
    return [sum(name in getattr(p, attribute) for p in patches) for name in names]


@pytest.mark.parametrize("split", [*SPLITS, "all"])
def test_labels_are_counted_by_split_and_country(noisy, found, split):
    got = found.splits[split]
    patches = [p for p in noisy.archive.pairs if not p.excluded and split in (p.split, "all")]
    sets = {"43": (CLASSES_43.names, "labels43"), "19": (CLASSES_19.names, "labels19")}
    assert got.patches == len(patches)
    assert got.class_counts == {n: expected_counts(patches, *of) for n, of in sets.items()}
    if split != "all":
        assert got.class_counts == Manifest.load(noisy.records).class_counts[split]
    assert got.countries == {"unknown": {"patches": len(patches), "class_counts": got.class_counts}}
    for n, (_, attribute) in sets.items():
        numbers = Counter(len(getattr(p, attribute)) for p in patches)
        assert got.labels_per_patch[n] == [numbers[i] for i in range(max(numbers) + 1)]
        present = [count for count in got.class_counts[n] if count]
        assert got.imbalance[n] == max(present) / min(present)
    together = [[sum({a, b} <= set(p.labels19) for p in patches) for b in CLASSES_19.names] for a in CLASSES_19.names]
    assert got.cooccurrence == together
    assert got.areas is None


def test_countries_seasons_and_areas_of_v2(tmp_path):
    archive = write_v2(tmp_path / "archive", maps=True)
    write_records([archive.root], tmp_path / "records", area_fractions=True, shards=5)
    found = compute_statistics(tmp_path / "records")
    for split in SPLITS:
        patches, got = archive.of_split(split), found.splits[split]
        countries = {p.country for p in patches}
        assert list(got.countries) == sorted(countries)
        for country in countries:
            there = [p for p in patches if p.country == country]
            assert got.countries[country]["patches"] == len(there)
            assert got.countries[country]["class_counts"]["19"] == expected_counts(there, CLASSES_19.names, "labels19")
        assert got.areas["patches"] == 2
        codes = np.concatenate([map_codes(p).ravel() for p in patches])
        assert sum(got.areas["mean"]) == pytest.approx(np.mean(codes != 999))
    # patches 0, 4: 14 June; 1, 5: 5 February; 2: 11 May; 3: 18 June 2017
    whole = found.splits["all"]
    assert whole.months == [0, 2, 0, 0, 1, 3, 0, 0, 0, 0, 0, 0]
    assert whole.seasons == {"winter": 2, "spring": 1, "summer": 3, "autumn": 0}
    assert whole.undated == 0
    arable = CLASSES_19.index("Arable land")
    share = np.mean(map_codes(archive.patches[1]) == 211) / 6
    assert whole.areas["mean"][arable] == pytest.approx(share, rel=1e-6)


def test_a_patch_without_a_date_is_counted_apart():
    archive_patch = dataclasses.make_dataclass("Patch", ["country", "labels", "s2_time", "s1_time", "areas"])
    counts = stats_counts.PatchCounts([19])
    counts.add(archive_patch("Austria", {19: ("Pastures",)}, "", "", None))
    counts.add(archive_patch("", {}, "", "2018-12-31T00:00:00", None))
    counts.add(archive_patch("Austria", {19: ()}, "2018-01-01T00:00:00", "2017-12-31T23:00:00", None))
    got = counts.summary()
    assert (got["undated"], got["months"]) == (1, [1, *[0] * 10, 1])
    assert got["seasons"] == {"winter": 2, "spring": 0, "summer": 0, "autumn": 0}
    assert got["labels_per_patch"] == {"19": [1, 1]}
    assert {country: row["patches"] for country, row in got["countries"].items()} == {"Austria": 2, "unknown": 1}
    assert stats_counts.PatchCounts([19]).summary()["imbalance"] == {"19": None}


def test_models_can_normalise_by_them(noisy, found):
    bands = BAND_SETS["s1s2"]
    statistics = found.band_statistics(bands=bands)
    assert statistics.bands == bands.bands
    assert statistics.mean[3] == pytest.approx(noisy.pixels("B08", "train").mean(dtype=np.float64))
    assert statistics.std[-1] == found.splits["train"].bands["VH"].std
    assert statistics.name == f"train of records {manifest_sha256(noisy.records)[:12]}"
    assert found.band_statistics("test", ["B11"]).mean == (found.splits["test"].bands["B11"].mean,)
    assert found.band_statistics().bands == BAND_SETS["all"].bands
    contract = DataContract("v1", bands.bands, (CLASSES_19.names,), resampling="nearest", statistics=statistics)
    assert DataContract.from_dict(json.loads(json.dumps(contract.to_dict()))) == contract
    with pytest.raises(UnknownNameError, match="did you mean test"):
        found.band_statistics("tset")


def test_statistics_of_one_sensor_have_no_other(tmp_path):
    archive = write_v1(tmp_path / "archive", PAIRS[:2])
    write_records([archive.root], tmp_path / "records", sensors="s2")
    with pytest.raises(ConfigError, match="lack VV, VH; they hold B02"):
        compute_statistics(tmp_path / "records").band_statistics(bands="s1s2")


def copy_records(noisy, folder):
    folder.mkdir()
    for path in noisy.records.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_saved_statistics_come_back(noisy, found, tmp_path):
    folder = copy_records(noisy, tmp_path / "records")
    assert found.save(folder) == folder / "stats.json"
    assert RecordStatistics.load(folder) == found
    assert json.loads((folder / "stats.json").read_text()) == found.to_dict()
    assert found.manifest_sha256 == manifest_sha256(folder)


def test_statistics_of_other_records_are_refused(noisy, found, tmp_path):
    folder = copy_records(noisy, tmp_path / "records")
    with pytest.raises(RecordsError, match=r"stats.json does not exist; run `bigearth-tf records stats"):
        RecordStatistics.load(folder)
    found.save(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["selection"]["seed"] = 77
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RecordsError, match=r"of other records.*run `bigearth-tf records stats .*` again"):
        RecordStatistics.load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:-100], "stats.json.*again"),
        (lambda text: text.replace('"stats_version": 1', '"stats_version": 9'), "v1 expected, got 9"),
        (lambda text: text.replace('"months"', '"mouths"'), "mouths"),
        (lambda text: "[]", "not statistics v1"),
    ],
)
def test_damaged_statistics_are_refused(noisy, found, tmp_path, change, message):
    folder = copy_records(noisy, tmp_path / "records")
    path = found.save(folder)
    path.write_text(change(path.read_text()))
    with pytest.raises(RecordsError, match=message):
        RecordStatistics.load(folder)


def test_a_full_disk_leaves_the_old_statistics(noisy, found, tmp_path, monkeypatch):
    folder = copy_records(noisy, tmp_path / "records")
    path = found.save(folder)
    before, files = path.read_bytes(), names_in(folder)

    def half(self, text, *arguments, **options):
        self.write_bytes(text[: len(text) // 2].encode())
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(OutputError, match=r"stats.json: No space left"):
        compute_statistics(noisy.records, split="test").save(folder)
    assert path.read_bytes() == before
    assert names_in(folder) == files


def test_the_file_stays_small_for_the_whole_archive(found, tmp_path):
    def grown(value):
        if isinstance(value, dict):
            return {key: grown(v) for key, v in value.items()}
        if isinstance(value, list):
            return [grown(v) for v in value]
        return 1_234_567_890 if type(value) is int else value / 3 if isinstance(value, float) else value

    data = found.to_dict()
    splits = {split: grown(summary) for split, summary in data["splits"].items()}
    for summary in splits.values():
        summary["countries"] = {f"Country number {i}": summary["countries"]["unknown"] for i in range(12)}
        for band in summary["bands"].values():
            band["histogram"]["counts"] = [1_234_567_890] * HISTOGRAM_BINS
    whole = RecordStatistics.from_dict({**data, "splits": splits})
    assert len(whole.splits) == 5
    assert whole.save(tmp_path).stat().st_size < 500_000


def damage_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[:-9])


def drop_all_records(path):
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("damage", "workers"), [(damage_bit, 1), (damage_bit, 2), (cut, 1), (drop_all_records, 1), (Path.unlink, 1)]
)
def test_a_damaged_shard_is_named_and_nothing_is_written(noisy, tmp_path, capfd, damage, workers):
    folder = copy_records(noisy, tmp_path / "records")
    shard = sorted(folder.glob("*.tfrecord"))[2]
    damage(shard)
    before = names_in(folder)
    with pytest.raises(RecordsError, match=shard.name):
        compute_statistics(folder, workers=workers)
    if workers == 1:
        assert run("records", "stats", folder) == 1
        assert shard.name in capfd.readouterr().err
    assert names_in(folder) == before


def test_a_record_that_breaks_the_manifests_promise_is_named(tmp_path):
    archive = write_v1(tmp_path / "archive", PAIRS[:2])
    write_records([archive.root], tmp_path / "s2", sensors="s2")
    write_records([archive.root], tmp_path / "both")
    (shard,) = (tmp_path / "s2").glob("*.tfrecord")
    (tmp_path / "both" / shard.name).write_bytes(shard.read_bytes())
    with pytest.raises(RecordsError, match=rf"{shard.name}: S2.* lacks VV, VH"):
        compute_statistics(tmp_path / "both")


def test_wrong_arguments_are_refused(noisy, tmp_path):
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        compute_statistics(noisy.records, workers=0)
    with pytest.raises(RecordsError, match="manifest"):
        compute_statistics(tmp_path)


def widths(ax):
    return [[bar.get_width() for bar in bars] for bars in ax.containers]


def test_pictures_show_the_numbers(noisy, found):
    splits = [found.splits[split] for split in (*SPLITS, "excluded")]
    classes43, classes19 = draw_classes(found).axes
    assert widths(classes19) == [split.class_counts["19"] for split in splits]
    assert widths(classes43) == [split.class_counts["43"] for split in splits]
    assert classes19.get_xscale() == "log"
    assert [label.get_text() for label in classes19.get_yticklabels()][2] == "Arable land"
    assert classes19.yaxis_inverted(), "CLC order from the top"

    bands = draw_bands(found)
    panels = {ax.get_title(): ax for ax in bands.axes}
    ax = panels["B8A (20 m)"]
    summary = found.splits["train"].bands["B8A"]
    values, edges, _ = ax.patches[0].get_data()
    assert sum(values * np.diff(edges)) / 100 == pytest.approx(100 * sum(summary.histogram["counts"]) / summary.pixels)
    published = published_statistics("v1_official_tf")
    means = (summary.mean, published.mean[published.bands.index("B8A")])
    assert [line.get_xdata()[0] for line in ax.lines] == list(means)
    assert {axes.get_xlabel() for title, axes in panels.items() if title.startswith("B")} == {"DN"}
    assert panels["VV (10 m)"].get_xlabel() == "σ⁰, dB"

    (mesh, *_) = draw_cooccurrence(found).axes[0].collections
    shown = np.array(mesh.get_array()).reshape(19, 19)
    counts = np.array(found.splits["all"].cooccurrence)
    inland, marine = CLASSES_19.index("Inland wetlands"), CLASSES_19.index("Coniferous forest")
    assert shown[inland, marine] == 100 * counts[inland, marine] / counts[inland, inland] == 100
    assert shown[inland, inland] == 0

    country, month, number, *_ = draw_countries(found).axes
    assert widths(country) == [[2], [2], [2], [1]]
    assert [bar.get_height() for bar in month.containers[0]] == found.splits["train"].months
    assert [bar.get_height() for bar in number.containers[2]] == found.splits["test"].labels_per_patch["19"]


@pytest.mark.slow
def test_the_command_writes_prints_and_imports_no_tensorflow(noisy, found, tmp_path):
    folder = copy_records(noisy, tmp_path / "records")
    shards = names_in(folder)
    code = (
        "import sys; from bigearth_tf.cli.main import main\n"
        f"try: main(['records', 'stats', {str(folder)!r}])\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "assert not {'tensorflow', 'keras', 'sklearn', 'matplotlib.pyplot'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pictures = [f"stats-{name}.png" for name in ("bands", "classes", "cooccurrence", "countries")]
    assert names_in(folder) == sorted([*shards, "stats.json", *pictures])
    assert RecordStatistics.load(folder) == found
    for name in pictures:
        data = (folder / name).read_bytes()
        assert data.startswith(b"\x89PNG")
        assert found.manifest_sha256.encode() in data, "a picture says which records it shows"
        assert f"written: {folder / name}" in done.stdout
    band, published = found.splits["train"].bands["B8A"], published_statistics("v1_official_tf")
    (row,) = (line for line in done.stdout.splitlines() if line.startswith(" B8A "))
    for value in (band.mean, band.std, band.percentiles["50"], published.mean[7], published.std[7]):
        assert f"{value:,.1f}" in row
    (row,) = (line for line in done.stdout.splitlines() if line.startswith(" Peatbogs "))
    place = CLASSES_43.index("Peatbogs")
    assert [int(cell) for cell in row.split("│")[1:]] == [s.class_counts["43"][place] for s in found.splits.values()]


def test_the_command_prints_what_it_saves(noisy, tmp_path, capfd):
    folder = copy_records(noisy, tmp_path / "records")
    shards = names_in(folder)
    assert run("records", "stats", folder, "--split", "test", "--workers", 2, "--no-plots", "--json") == 0
    printed = capfd.readouterr()
    assert json.loads(printed.out) == json.loads((folder / "stats.json").read_text())
    assert list(json.loads(printed.out)["splits"]) == ["test"]
    assert names_in(folder) == sorted([*shards, "stats.json"])
    assert "count: 2/2 records" in printed.err
    assert run("records", "stats", folder, "--split", "tset") == 2
    assert "did you mean test" in capfd.readouterr().err
