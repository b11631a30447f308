"""The plan is a pure function of names, seed and number of shards."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigearth_tf.archive.entries import PatchEntry
from bigearth_tf.errors import ConfigError, UnknownNameError
from bigearth_tf.records.plan import plan_shards, select_entries


def entries(count):
    splits = ("train", "validation", "test", None)
    return [
        PatchEntry(f"patch{i}", f"/s2/{i}", None, splits[i % 4], "seasonal snow" if i % 11 == 5 else None)
        for i in range(count)
    ]


@given(st.integers(1, 300), st.integers(1, 40), st.integers(0, 5), st.randoms())
@settings(max_examples=60, deadline=None)
def test_every_patch_is_in_one_shard_of_its_split_whatever_the_order(count, shards, seed, random):
    patches = entries(count)
    plan = plan_shards(patches, shards=shards, seed=seed)
    assert sorted(e.name for s in plan for e in s.entries) == sorted(e.name for e in patches)
    assert all((e.split or "excluded") == s.split for s in plan for e in s.entries)
    assert all(s.entries for s in plan)
    shuffled = list(patches)
    random.shuffle(shuffled)
    assert plan_shards(shuffled, shards=shards, seed=seed) == plan


def test_shards_of_a_split_differ_by_one_patch_at_most():
    plan = plan_shards(entries(1000), shards=20)
    sizes = {}
    for shard in plan:
        sizes.setdefault(shard.split, []).append(len(shard.entries))
    assert all(max(s) - min(s) <= 1 for s in sizes.values())
    assert 18 <= len(plan) <= 22


def test_by_default_a_shard_holds_about_512_patches():
    plan = plan_shards(PatchEntry(f"p{i}", "/", None, "train", None) for i in range(5120))
    assert [len(s.entries) for s in plan] == [512] * 10
    assert plan[3].file == "train-00003-of-00010.tfrecord"


def test_a_sample_does_not_depend_on_the_order_and_grows_with_the_limit():
    patches = entries(100)
    small = {e.name for e in select_entries(patches, limit=10, seed=1)}
    large = {e.name for e in select_entries(reversed(patches), limit=30, seed=1)}
    assert len(small) == 10
    assert small < large
    assert small != {e.name for e in select_entries(patches, limit=10, seed=2)}


def test_excluded_patches_are_left_out_unless_kept():
    assert not any(e.excluded for e in select_entries(entries(50)))
    kept = select_entries(entries(50), include=["snow"])
    assert {e.excluded for e in kept} == {None, "seasonal snow"}
    assert select_entries(entries(50), include=["cloud"]) == select_entries(entries(50))
    with pytest.raises(UnknownNameError, match="rain.*snow"):
        select_entries(entries(50), include=["rain"])


@pytest.mark.parametrize("arguments", [{"shards": 0}, {"shards": -1}])
def test_at_least_one_shard(arguments):
    with pytest.raises(ConfigError, match="at least 1"):
        plan_shards(entries(5), **arguments)
