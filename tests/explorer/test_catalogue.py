"""A catalogue has every record, finds what a choice asks for, and reads no shard that is known already."""

import numpy as np
import pyarrow as pa
import pytest

from bigearth_tf.errors import ConfigError, RecordsError, UnknownNameError
from bigearth_tf.explorer import catalogue as module
from bigearth_tf.explorer.catalogue import COLUMNS, Catalogue, Choice, describe_choice, facts_of, read_catalogue
from bigearth_tf.nomenclature import CLASSES_19
from bigearth_tf.records.facts import read_record_at, read_shard_facts
from tests.archives import FLAGGED, PAIRS

PATCHES = [*PAIRS, *FLAGGED[:2]]


def names(catalogue, **choice):
    return {catalogue.entry(row).name for row in catalogue.select(Choice(**choice))}


def test_every_record_is_there_excluded_ones_too(archive, catalogue):
    assert {catalogue.entry(row).name for row in range(len(catalogue))} == {p.s2_name for p in archive.patches}
    assert len(catalogue) == len(PATCHES)


def test_an_entry_is_what_its_record_says(archive, records, catalogue):
    for patch in archive.patches:
        entry = catalogue.entry(catalogue.find(patch.s2_name))
        pair = read_record_at(records, entry.shard, entry.offset, name=entry.name)
        assert (entry.s1_name, entry.country, entry.labels) == (pair.s1_name, pair.country, pair.labels[19])
        assert (entry.epsg, entry.bounds, entry.split) == (pair.epsg, pair.bounds, pair.split)
        assert -11 < entry.longitude < 35
        assert 36 < entry.latitude < 70


def test_a_patch_is_found_by_each_of_its_names(archive, catalogue):
    patch = archive.patches[3]
    assert catalogue.find(patch.s2_name) == catalogue.find(patch.s1_name)


@pytest.mark.parametrize("name", ["", "S2A_nowhere"])
def test_an_unknown_patch_is_named(catalogue, name):
    with pytest.raises(UnknownNameError, match=f"unknown patch '{name}'"):
        catalogue.find(name)


def test_labels_are_all_of_them_and_splits_any_of_them(archive, catalogue):
    by_label = {p.s2_name for p in archive.patches if {"Permanent crops", "Pastures"} <= set(p.labels19)}
    assert names(catalogue, labels=("Pastures", "Permanent crops")) == by_label
    assert len(by_label) == 1
    everything = names(catalogue, splits=("train", "validation", "test"))
    assert names(catalogue, splits=("train", "test")) == everything - names(catalogue, splits=("validation",))


def test_text_is_looked_for_in_both_names_whatever_its_case(archive, catalogue):
    patch = archive.patches[2]
    assert names(catalogue, text=f"  {patch.s1_name.lower()} ") == {patch.s2_name}
    assert names(catalogue, text=patch.s2_name[-14:]) == {patch.s2_name}
    assert names(catalogue, text="(") == set()


def test_conditions_hold_together(archive, catalogue):
    patch = archive.patches[0]
    entry = catalogue.entry(catalogue.find(patch.s2_name))
    found = names(catalogue, splits=(entry.split,), countries=(entry.country,), labels=entry.labels[:1], text="s2")
    assert patch.s2_name in found
    assert names(catalogue, splits=(entry.split,), text="no such text") == set()


@pytest.mark.parametrize("choice", [{"splits": ("tests",)}, {"countries": ("Atlantis",)}, {"labels": ("Moon",)}])
def test_what_cannot_be_is_named(catalogue, choice):
    with pytest.raises(UnknownNameError, match="of these records"):
        catalogue.select(Choice(**choice))


def test_labels_are_counted(archive, catalogue):
    for label in ("Urban fabric", "Mixed forest", "Inland waters", "Agro-forestry areas"):
        assert catalogue.label_counts[label] == sum(label in patch.labels19 for patch in archive.patches)
    assert len(catalogue.label_counts) == len(CLASSES_19)


def test_shards_that_are_known_are_not_read(records, catalogue, monkeypatch):
    shard = catalogue.entry(0).shard
    known = catalogue.table.filter(pa.compute.equal(catalogue.table["shard"], shard))
    read = []

    def spy(folder, manifest, number):
        read.append(number)
        return read_shard_facts(folder, manifest, number)

    monkeypatch.setattr(module, "read_shard_facts", spy)
    again = read_catalogue(records, CLASSES_19, known)
    assert again.table.equals(catalogue.table)
    assert shard not in read
    assert read


def test_a_shard_that_is_known_in_part_is_read(records, catalogue):
    again = read_catalogue(records, CLASSES_19, catalogue.table.slice(0, 1))
    assert sorted(again.table["name"].to_pylist()) == sorted(catalogue.table["name"].to_pylist())


def test_progress_ends_with_all_records(records):
    seen = []
    read_catalogue(records, CLASSES_19, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (len(PATCHES), len(PATCHES))


def test_a_row_that_is_not_there_is_an_error(catalogue):
    with pytest.raises(IndexError, match="got 99"):
        catalogue.entry(99)


def test_a_table_of_other_columns_is_refused(catalogue):
    with pytest.raises(ConfigError, match="offset are missing"):
        Catalogue(catalogue.table.drop_columns(["offset"]), CLASSES_19)


def test_a_label_of_no_class_is_refused(catalogue):
    labels = pa.array([["Moon"]] * len(catalogue))
    table = catalogue.table.set_column(COLUMNS.index("labels"), "labels", labels)
    with pytest.raises(RecordsError, match="none of the 19 classes"):
        Catalogue(table, CLASSES_19)


def test_facts_are_for_people_and_leave_out_what_is_unknown(catalogue):
    entry = catalogue.entry(0)
    facts = facts_of(entry)
    assert facts["Sentinel-2"] == entry.s2_name
    assert facts["Acquired"].endswith(" UTC")
    assert facts["Centre"].startswith(f"{entry.latitude:.5f}° N")
    unknown = (
        Catalogue(catalogue.table, CLASSES_19)
        .entry(0)
        .__class__(**{**entry.__dict__, "s1_name": "", "time": "", "epsg": 0, "longitude": np.nan})
    )
    assert facts_of(unknown).keys() == {"Sentinel-2", "Split", "Country"}


def test_a_count_says_of_how_many(catalogue):
    assert describe_choice(Choice(), 590326, 590326) == "590,326 patches"
    assert describe_choice(Choice(text="x"), 0, 590326) == "0 of 590,326 patches"
