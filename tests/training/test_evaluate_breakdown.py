"""Parts of a split are scored as if they were alone, and what the records do not say is left out with a reason."""

import numpy as np
import pytest

from bigearth_tf.errors import RecordsError
from bigearth_tf.records.writer import write_records
from bigearth_tf.training.breakdown import FEW, PatchFacts, breakdown, read_facts, season
from bigearth_tf.training.metrics import multilabel_scores
from tests.archives import write_v1, write_v2


@pytest.mark.parametrize(
    ("month", "expected"),
    [(12, "winter"), (1, "winter"), (2, "winter"), (3, "spring"), (5, "spring"), (6, "summer"), (8, "summer"),
     (9, "autumn"), (11, "autumn")],
)  # fmt: skip
def test_seasons_are_meteorological(month, expected):
    assert season(f"2017-{month:02d}-30T10:10:31") == expected


@pytest.mark.parametrize("time", ["", "2017", "2017-13-01", "2017-xx-01"])
def test_a_time_that_is_none_has_no_season(time):
    assert season(time) == "unknown"


def test_a_group_scores_as_if_it_were_alone():
    rng = np.random.default_rng(0)
    true, score = rng.random((240, 4)) < 0.4, rng.random((240, 4))
    countries = tuple(rng.choice(["Portugal", "Austria"], 240, p=[0.8, 0.2]))
    found = breakdown(PatchFacts(countries, ("",) * 240), true, score, np.array([0.5, 0.4, 0.3, 0.2]))
    assert list(found["country"]["groups"]) == ["Austria", "Portugal"]
    for country, row in found["country"]["groups"].items():
        here = np.array(countries) == country
        scores, _ = multilabel_scores(true[here], score[here], "abcd", threshold=(0.5, 0.4, 0.3, 0.2))
        assert row["patches"] == here.sum()
        assert row["few"] == (here.sum() < FEW)
        for name in row.keys() - {"patches", "few", "classes"}:
            assert row[name] == pytest.approx(scores[name]), name
    assert [row["few"] for row in found["country"]["groups"].values()] == [True, False]
    assert list(found["labels"]["groups"]) == sorted({str(n) for n in true.sum(axis=1)})
    assert sum(row["patches"] for row in found["labels"]["groups"].values()) == 240
    assert found["labels"]["groups"]["0"]["average_precision_micro"] is None
    assert found["season"] == {"left_out": "the records do not say the season of their patches"}


def test_facts_come_from_the_records_in_the_order_asked_for(tmp_path):
    archive = write_v2(tmp_path / "archive")
    write_records([archive.root], tmp_path / "records", shards=3)
    patches = list(reversed(archive.patches))
    facts = read_facts(tmp_path / "records", "all", [patch.s2_name for patch in patches])
    assert facts.countries == tuple(patch.country for patch in patches)
    assert facts.times == tuple(patch.s2_time for patch in patches)
    with pytest.raises(RecordsError, match="no longer holds S2_other in 'test'"):
        read_facts(tmp_path / "records", "test", ["S2_other"])


def test_radar_alone_has_the_time_of_radar_and_v1_no_country(tmp_path):
    archive = write_v1(tmp_path / "archive")
    write_records([archive.root], tmp_path / "records", sensors="s1")
    (patch, other) = archive.of_split("test")
    facts = read_facts(tmp_path / "records", "test", [patch.s1_name, other.s1_name])
    assert facts.times == (patch.s1_time, other.s1_time)
    found = breakdown(facts, np.eye(2), np.eye(2), np.array(0.5))
    assert found["country"] == {"left_out": "the records do not say the country of their patches"}
    assert found["season"]["groups"].keys() == {season(patch.s1_time), season(other.s1_time)}
