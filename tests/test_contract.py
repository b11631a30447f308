import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigearth_tf.bands import BAND_SETS, BANDS, BandSet
from bigearth_tf.contract import ACCEPT_OVERLAP, ARCHIVE_VERSIONS, RESAMPLINGS, DataContract, archive_title
from bigearth_tf.errors import ConfigError, ContractError, UnknownNameError
from bigearth_tf.nomenclature import CLASSES_19, CLASSES_43, CLASSES_EUROSAT
from bigearth_tf.statistics import BandStatistics, published_statistics


def records(**changes) -> DataContract:
    """Contract of v2 records of both sensors with both label sets."""
    contract = DataContract("v2", BAND_SETS["all"].bands, (CLASSES_43.names, CLASSES_19.names), split="official v2")
    return contract.replace(**changes)


def model(bands: str = "s2", **changes) -> DataContract:
    """Contract of a model of 19 classes."""
    chosen = BAND_SETS[bands]
    stats = published_statistics("v2_reben_120_nearest").of(chosen)
    contract = DataContract("v2", chosen.bands, (CLASSES_19.names,), resampling="bilinear", statistics=stats)
    return contract.replace(**changes)


@st.composite
def contracts(draw):
    grids = [grid.band_names for grid in BAND_SETS["all"].grids]
    chosen = draw(st.lists(st.sampled_from(grids), min_size=1, unique=True))
    bands = tuple(b for grid in chosen for b in draw(st.lists(st.sampled_from(grid), min_size=1, unique=True)))
    numbers = st.floats(-1e6, 1e6, allow_nan=False)
    size = len(bands)
    stats = st.builds(
        BandStatistics,
        st.text(max_size=5),
        st.just(bands),
        st.lists(numbers, min_size=size, max_size=size),
        st.lists(st.floats(1e-6, 1e6), min_size=size, max_size=size),
    )
    names = st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=5, unique=True)
    text = st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3)
    return DataContract(
        draw(st.sampled_from(ARCHIVE_VERSIONS)),
        bands,
        tuple(draw(st.lists(names, min_size=1, max_size=2))),
        draw(st.dictionaries(st.sampled_from(["s1", "s2"]), st.text(max_size=5))),
        draw(st.none() | st.sampled_from(RESAMPLINGS)),
        draw(st.none() | stats),
        draw(st.text(max_size=5)),
        draw(text),
    )


@settings(deadline=None, max_examples=40)
@given(contracts())
def test_from_dict_is_the_inverse_of_to_dict(contract):
    assert DataContract.from_dict(contract.to_dict()) == contract
    assert DataContract.from_dict(json.loads(json.dumps(contract.to_dict()))) == contract


@settings(deadline=None, max_examples=40)
@given(contracts())
def test_every_contract_takes_its_own_data(contract):
    contract.require(contract)
    contract.require_same_archive(contract)


def test_to_dict_is_what_other_programs_read():
    assert model("rgb", hashes={"train.csv": "abc"}, split="official v2").to_dict() == {
        "archive_version": "v2",
        "bands": ["B04", "B03", "B02"],
        "grids": {"s2_10m": {"bands": ["B04", "B03", "B02"], "shape": [120, 120, 3], "dtype": "uint16"}},
        "units": {"s2": "L2A digital number (reflectance x 10000)"},
        "class_names": [list(CLASSES_19.names)],
        "resampling": "bilinear",
        "statistics": {
            "name": "v2_reben_120_nearest",
            "bands": ["B04", "B03", "B02"],
            "mean": [588.4096069335938, 614.0556640625, 438.3720703125],
            "std": [684.56884765625, 603.2968139648438, 607.02685546875],
        },
        "split": "official v2",
        "hashes": {"train.csv": "abc"},
    }


def test_units_follow_from_the_sensors():
    assert records().units == {"s2": "L2A digital number (reflectance x 10000)", "s1": "sigma0 in dB"}
    assert model("rgb").units.keys() == {"s2"}


def test_contract_may_be_made_of_lists():
    contract = DataContract("v1", ["VV", "VH"], [list(CLASSES_43.names)])
    assert contract.bands == ("VV", "VH")
    assert contract.class_names == (CLASSES_43.names,)
    assert contract.band_set == BandSet(("VV", "VH"))


def test_nomenclature_of_a_model_is_its_label_set():
    assert model().nomenclature == CLASSES_19
    with pytest.raises(ContractError, match="43 classes and 19 classes; choose one"):
        _ = records().nomenclature


def test_unknown_key_is_refused():
    with pytest.raises(UnknownNameError, match="unknown contract key 'band'; did you mean bands"):
        DataContract.from_dict({**model().to_dict(), "band": ["B02"]})


def test_missing_key_is_named():
    data = model().to_dict()
    del data["class_names"]
    with pytest.raises(ConfigError, match="not a data contract: .*class_names"):
        DataContract.from_dict(data)


def test_grids_that_do_not_follow_from_the_bands_are_refused():
    data = records().to_dict()
    data["grids"]["s2_20m"]["shape"] = [120, 120, 6]
    with pytest.raises(
        ContractError, match=r"grids of a contract follow from its bands; written are .*\[120, 120, 6\]"
    ):
        DataContract.from_dict(data)


def test_grids_may_be_left_out():
    data = records().to_dict()
    del data["grids"]
    assert DataContract.from_dict(data) == records()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"archive_version": "v3"}, UnknownNameError, "unknown archive version 'v3'"),
        ({"resampling": "bicubi"}, UnknownNameError, "unknown resampling 'bicubi'; did you mean bicubic"),
        ({"bands": ("B02", "B10")}, UnknownNameError, "unknown band 'B10'"),
        ({"bands": ("B02", "B05", "B03")}, ConfigError, "neighbours"),
        ({"class_names": ()}, ConfigError, "label sets of distinct class names"),
        ({"class_names": ((),)}, ConfigError, "label sets of distinct class names"),
        ({"class_names": (("Pastures", "Pastures"),)}, ConfigError, "label sets of distinct class names"),
    ],
)
def test_values_that_cannot_be_are_refused(changes, error, message):
    with pytest.raises(error, match=message):
        records(**changes)


def test_statistics_of_other_bands_are_refused():
    wrong = published_statistics("v1_official_tf").of(BandSet(("B02", "B03", "B04")))
    with pytest.raises(ConfigError, match=r"bands \('B04', 'B03', 'B02'\), statistics of \('B02', 'B03', 'B04'\)"):
        model("rgb", statistics=wrong)


@pytest.mark.parametrize("bands", BAND_SETS)
def test_records_of_all_bands_feed_every_model(bands):
    model(bands).require(records())


def test_model_of_43_classes_takes_records_that_know_43_and_19():
    model(class_names=(CLASSES_43.names,)).require(records())


def test_lacking_bands_are_named_with_both_sides():
    with pytest.raises(ContractError) as info:
        model("s1s2").require(records(bands=BAND_SETS["s2_12"].bands, units={}), here="my model", there="the shards")
    message = str(info.value)
    assert "my model needs B02 B03 B04 B08 B05 B06 B07 B8A B11 B12 VV VH" in message
    assert "the shards has B02 B03 B04 B08 B05 B06 B07 B8A B11 B12 B01 B09 (lacks VV VH)" in message


def test_permuted_classes_are_named_at_their_index():
    alphabetical = tuple(sorted(CLASSES_19.names))
    with pytest.raises(ContractError, match=r"at index 0 model has 'Urban fabric'; records has 'Agro-forestry areas'"):
        model().require(records(class_names=(alphabetical,)))
    swapped = (*CLASSES_19.names[:17], CLASSES_19.names[18], CLASSES_19.names[17])
    with pytest.raises(ContractError, match=r"at index 17 model has 'Inland waters'; records has 'Marine waters'"):
        model().require(records(class_names=(CLASSES_43.names, swapped)))


def test_other_number_of_classes_is_named():
    with pytest.raises(ContractError, match="model has 43 classes; records has 19 classes"):
        model(class_names=(CLASSES_43.names,)).require(records(class_names=(CLASSES_19.names,)))


def test_other_unit_is_named_with_both_sides():
    linear = {"s2": BANDS["B02"].unit, "s1": "sigma0, linear"}
    with pytest.raises(ContractError, match=r"unit of s1: model takes 'sigma0 in dB'; records has 'sigma0, linear'"):
        model("s1s2").require(records(units=linear))
    model("s2").require(records(units=linear))  # a sensor the model does not use


def test_every_difference_is_in_one_message():
    with pytest.raises(ContractError) as info:
        model("s1").require(records(bands=("B02",), class_names=(("x",),), units={"s1": "sigma0, linear"}))
    message = str(info.value)
    assert all(start in message for start in ("bands: model needs VV VH", "unit of s1:", "classes: model has 19"))


def test_resampling_and_statistics_of_a_model_need_not_be_in_the_records():
    model(resampling="bicubic").require(records(resampling=None, statistics=None))


def test_other_archive_version_is_refused_for_scores_only():
    v1 = records(archive_version="v1")
    model().require(v1)
    with pytest.raises(ContractError, match="model was made from archive v2, test shards from archive v1"):
        model().require_same_archive(v1, there="test shards")


def test_replace_validates_too():
    assert model().replace(split="mine").split == "mine"
    with pytest.raises(UnknownNameError):
        model().replace(archive_version="v9")


def test_eurosat_is_an_archive_of_s2_with_a_unit_of_its_own():
    eurosat = DataContract("eurosat", ("B04", "B03", "B02"), (CLASSES_EUROSAT.names,))
    assert eurosat.units == {"s2": "L1C digital number (reflectance x 10000)"}
    assert DataContract.from_dict(eurosat.to_dict()) == eurosat
    assert archive_title("eurosat") == "EuroSAT"
    assert archive_title("v2") == "BigEarthNet v2"
    with pytest.raises(ConfigError, match="archive eurosat holds bands of s2 only, got VV VH; choose others"):
        eurosat.replace(bands=("VV", "VH"), units={})


def test_another_archive_is_refused_whatever_is_accepted():
    eurosat = DataContract("eurosat", ("B04", "B03", "B02"), (CLASSES_EUROSAT.names,))
    for accept in ("", ACCEPT_OVERLAP):
        with pytest.raises(
            ContractError, match="model was made from BigEarthNet v2, records from EuroSAT: other pixels"
        ):
            model("rgb").require_same_archive(eurosat, accept=accept)
    assert eurosat.require_same_archive(eurosat)


def test_the_default_label_set_is_the_only_one_or_19_classes():
    assert records().default_nomenclature == CLASSES_19
    assert model(class_names=(CLASSES_43.names,)).default_nomenclature == CLASSES_43
    assert model(class_names=(("a", "b"),)).default_nomenclature.names == ("a", "b")
