import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigearth_tf.errors import ConfigError, LabelError, UnknownNameError
from bigearth_tf.nomenclature import (
    CLASSES_19,
    CLASSES_43,
    CLASSES_EUROSAT,
    CLC_CODES,
    CLC_GLACIERS,
    CLC_NODATA,
    CLC_UNLABELED,
    MAP_43_TO_19,
    clc_codes_to_labels,
    labels_43_to_19,
    nomenclature,
)

NOMENCLATURES = (CLASSES_43, CLASSES_19)
LAND_PRINCIPALLY = "Land principally occupied by agriculture, with significant areas of natural vegetation"
ORDER_19 = (
    "Urban fabric",
    "Industrial or commercial units",
    "Arable land",
    "Permanent crops",
    "Pastures",
    "Complex cultivation patterns",
    LAND_PRINCIPALLY,
    "Agro-forestry areas",
    "Broad-leaved forest",
    "Coniferous forest",
    "Mixed forest",
    "Natural grassland and sparsely vegetated areas",
    "Moors, heathland and sclerophyllous vegetation",
    "Transitional woodland, shrub",
    "Beaches, dunes, sands",
    "Inland wetlands",
    "Coastal wetlands",
    "Inland waters",
    "Marine waters",
)
DROPPED = {
    "Road and rail networks and associated land": 122,
    "Port areas": 123,
    "Airports": 124,
    "Mineral extraction sites": 131,
    "Dump sites": 132,
    "Construction sites": 133,
    "Green urban areas": 141,
    "Sport and leisure facilities": 142,
    "Bare rock": 332,
    "Burnt areas": 334,
    "Intertidal flats": 423,
}

any_nomenclature = st.sampled_from(NOMENCLATURES)
subsets = any_nomenclature.flatmap(
    lambda names: st.tuples(st.just(names), st.lists(st.sampled_from(names.names), unique=True))
)


@pytest.fixture(scope="module")
def facts(shared):
    return lambda name: json.loads((shared / "facts" / name).read_text())


def test_the_19_classes_are_in_their_published_order():
    assert CLASSES_19.names == ORDER_19
    assert len(CLASSES_19) == 19


def test_the_43_classes_are_in_clc_code_order():
    assert len(CLASSES_43) == 43
    assert list(CLC_CODES) == sorted(CLC_CODES)
    assert tuple(CLC_CODES.values()) == CLASSES_43.names


@pytest.mark.parametrize(
    ("name", "index", "alphabetical", "code"),
    [
        ("Continuous urban fabric", 0, 11, 111),
        ("Discontinuous urban fabric", 1, 12, 112),
        ("Airports", 5, 1, 124),
        ("Non-irrigated arable land", 11, 25, 211),
        ("Transitional woodland/shrub", 28, 39, 324),
        ("Sea and ocean", 42, 36, 523),
    ],
)
def test_43_spot_checks(name, index, alphabetical, code):
    assert CLASSES_43.index(name) == index
    assert CLASSES_43.names[index] == name
    assert CLASSES_43.alphabetical[index] == alphabetical
    assert CLC_CODES[code] == name


@pytest.mark.parametrize(
    ("name", "index", "alphabetical"),
    [
        ("Urban fabric", 0, 18),
        ("Arable land", 2, 1),
        ("Agro-forestry areas", 7, 0),
        ("Transitional woodland, shrub", 13, 17),
        ("Marine waters", 18, 11),
    ],
)
def test_19_spot_checks(name, index, alphabetical):
    assert CLASSES_19.index(name) == index
    assert CLASSES_19.alphabetical[index] == alphabetical


def test_eleven_classes_are_dropped():
    assert {name for name, target in MAP_43_TO_19.items() if target is None} == set(DROPPED)
    assert {CLC_CODES[code]: code for code in DROPPED.values()} == DROPPED


def test_22_classes_merge_into_9():
    groups = {}
    for name, target in MAP_43_TO_19.items():
        groups.setdefault(target, []).append(name)
    del groups[None]
    merged = {target: names for target, names in groups.items() if len(names) > 1}
    assert merged == {
        "Urban fabric": ["Continuous urban fabric", "Discontinuous urban fabric"],
        "Arable land": ["Non-irrigated arable land", "Permanently irrigated land", "Rice fields"],
        "Permanent crops": [
            "Vineyards",
            "Fruit trees and berry plantations",
            "Olive groves",
            "Annual crops associated with permanent crops",
        ],
        "Natural grassland and sparsely vegetated areas": ["Natural grassland", "Sparsely vegetated areas"],
        "Moors, heathland and sclerophyllous vegetation": ["Moors and heathland", "Sclerophyllous vegetation"],
        "Inland wetlands": ["Inland marshes", "Peatbogs"],
        "Coastal wetlands": ["Salt marshes", "Salines"],
        "Inland waters": ["Water courses", "Water bodies"],
        "Marine waters": ["Coastal lagoons", "Estuaries", "Sea and ocean"],
    }
    assert sum(map(len, merged.values())) == 22


def test_one_class_is_renamed_and_nine_keep_their_name():
    single = {n: t for n, t in MAP_43_TO_19.items() if t and list(MAP_43_TO_19.values()).count(t) == 1}
    assert {n: t for n, t in single.items() if n != t} == {
        "Transitional woodland/shrub": "Transitional woodland, shrub"
    }
    assert len(single) == 10


def test_names_and_indices_are_the_official_ones(facts):
    for number, names in ((43, CLASSES_43), (19, CLASSES_19)):
        labels = facts(f"labels{number}.json")["labels"]
        assert tuple(label["name"] for label in labels) == names.names
        assert tuple(label["index_alphabetical"] for label in labels) == names.alphabetical
        assert [label["index"] for label in labels] == [names.index(label["name"]) for label in labels]


def test_codes_and_map_are_the_official_ones(facts):
    labels = facts("labels43.json")["labels"]
    assert {label["clc_code"]: label["name"] for label in labels} == CLC_CODES
    assert {label["name"]: label["label19"] for label in labels} == MAP_43_TO_19
    codes_19 = {label["name"]: label["clc_codes"] for label in facts("labels19.json")["labels"]}
    for name in CLASSES_19.names:
        assert [code for code, wide in CLC_CODES.items() if MAP_43_TO_19[wide] == name] == codes_19[name]


def test_the_map_is_the_official_one(facts):
    official = facts("map43to19.json")
    assert {t: [n for n in MAP_43_TO_19 if MAP_43_TO_19[n] == t] for t in official["merged"]} == official["merged"]
    for name in official["kept_one_to_one"]:
        assert MAP_43_TO_19[name] == official["renamed"].get(name, name)


def test_reference_map_codes_are_the_official_ones(facts):
    official = facts("reference_map_codes.json")
    assert official["nodata"] == CLC_NODATA
    assert official["unlabeled_code"] == CLC_UNLABELED
    codes = {row["code"]: row for row in official["codes"]}
    assert set(codes) - {CLC_UNLABELED} == {*CLC_CODES, CLC_GLACIERS}
    for code, row in codes.items():
        expected = () if row["index19"] is None else (CLASSES_19.names[row["index19"]],)
        assert clc_codes_to_labels([code]) == expected


@settings(deadline=None)
@given(subsets)
def test_decode_is_the_inverse_of_encode(case):
    names, labels = case
    vector = names.encode(labels)
    assert vector.dtype == np.uint8
    assert vector.shape == (len(names),)
    assert vector.sum() == len(labels)
    assert names.decode(vector) == names.in_order(labels) == tuple(sorted(labels, key=names.index))


@settings(deadline=None)
@given(subsets, st.randoms(use_true_random=False))
def test_order_and_repetition_of_labels_do_not_matter(case, random):
    names, labels = case
    shuffled = labels * 2
    random.shuffle(shuffled)
    np.testing.assert_array_equal(names.encode(shuffled), names.encode(labels))


@settings(deadline=None)
@given(subsets)
def test_alphabetical_vectors_say_the_same(case):
    names, labels = case
    ours = names.encode(labels)
    alphabetical = names.to_alphabetical(ours)
    assert [sorted(names.names)[i] for i in np.flatnonzero(alphabetical)] == sorted(labels)
    np.testing.assert_array_equal(names.from_alphabetical(alphabetical), ours)


@pytest.mark.parametrize("names", NOMENCLATURES, ids=["43", "19"])
def test_alphabetical_permutations_are_inverse(names):
    vectors = np.arange(3 * len(names)).reshape(3, len(names))
    np.testing.assert_array_equal(names.from_alphabetical(names.to_alphabetical(vectors)), vectors)
    np.testing.assert_array_equal(names.to_alphabetical(names.from_alphabetical(vectors)), vectors)
    assert sorted(names.alphabetical) == list(range(len(names)))
    assert tuple(sorted(names.names)[i] for i in names.alphabetical) == names.names


def test_alphabetical_probabilities_move_to_the_right_class():
    scores = np.linspace(0, 1, 19)  # in alphabetical order: Agro-forestry areas first, Urban fabric last
    ours = CLASSES_19.from_alphabetical(scores)
    assert ours[CLASSES_19.index("Agro-forestry areas")] == 0.0
    assert ours[CLASSES_19.index("Urban fabric")] == 1.0
    assert ours[CLASSES_19.index("Arable land")] == pytest.approx(1 / 18)


def test_slash_is_of_the_43_and_comma_of_the_19():
    slash, comma = "Transitional woodland/shrub", "Transitional woodland, shrub"
    assert CLASSES_43.encode([slash]).sum() == CLASSES_19.encode([comma]).sum() == 1
    with pytest.raises(LabelError, match=r"did you mean Transitional woodland, shrub.*19 classes.*exactly"):
        CLASSES_19.encode([slash])
    with pytest.raises(LabelError, match=r"did you mean Transitional woodland/shrub.*43 classes"):
        CLASSES_43.encode([comma])
    assert labels_43_to_19([slash]) == (comma,)
    with pytest.raises(LabelError, match="Transitional woodland, shrub"):
        labels_43_to_19([comma])


@pytest.mark.parametrize("name", ["pastures", "Pastures ", "", "Pasture"])
def test_names_must_match_exactly(name):
    with pytest.raises(LabelError, match="exactly"):
        CLASSES_19.index(name)


def test_label_outside_is_never_dropped_silently():
    with pytest.raises(LabelError, match="Glaciers"):
        labels_43_to_19(["Pastures", "Glaciers and perpetual snow"])


def test_43_to_19_merges_drops_and_sorts():
    assert labels_43_to_19(["Sea and ocean", "Estuaries", "Airports", "Continuous urban fabric"]) == (
        "Urban fabric",
        "Marine waters",
    )
    assert labels_43_to_19(DROPPED) == ()
    assert labels_43_to_19(CLASSES_43.names) == CLASSES_19.names
    assert labels_43_to_19([]) == ()


def test_reference_map_values_give_labels_in_clc_order():
    assert clc_codes_to_labels([523, 211, 231, 211]) == ("Arable land", "Pastures", "Marine waters")
    assert clc_codes_to_labels(np.array([[313, 311]], np.uint16).ravel()) == ("Broad-leaved forest", "Mixed forest")


@pytest.mark.parametrize("code", [999, 0, 335, *DROPPED.values()])
def test_unlabeled_reference_map_values_give_no_label(code):
    assert clc_codes_to_labels([code]) == ()
    assert clc_codes_to_labels([code, 312]) == ("Coniferous forest",)


@pytest.mark.parametrize("code", [1, 44, 100, 210, 524, 998, 65535])
def test_value_that_no_reference_map_holds_is_named(code):
    with pytest.raises(LabelError, match=f"got {code}$"):
        clc_codes_to_labels([211, code])


@pytest.mark.parametrize("length", [0, 18, 20, 43])
def test_decode_refuses_another_length(length):
    with pytest.raises(ConfigError, match=rf"\(19,\), got \({length},\)"):
        CLASSES_19.decode(np.zeros(length))
    with pytest.raises(ConfigError, match=r"got \(1, 19\)"):
        CLASSES_19.decode(np.zeros((1, 19)))


def test_nomenclature_by_number_text_and_itself():
    assert nomenclature(43) is nomenclature("43") is nomenclature(CLASSES_43) is CLASSES_43
    assert nomenclature(19) is CLASSES_19


@pytest.mark.parametrize("number", [20, "nineteen", 0])
def test_unknown_nomenclature_is_named(number):
    with pytest.raises(UnknownNameError, match=f"unknown nomenclature '{number}'"):
        nomenclature(number)


def test_eurosat_has_ten_classes_in_alphabetical_order():
    # written out from the class folders of the published set
    assert CLASSES_EUROSAT.names == (
        "AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial", "Pasture", "PermanentCrop",
        "Residential", "River", "SeaLake",
    )  # fmt: skip
    assert CLASSES_EUROSAT.alphabetical == tuple(range(10))
    assert nomenclature(10) is nomenclature("10") is CLASSES_EUROSAT


def test_an_unknown_number_of_classes_lists_those_that_are_known():
    with pytest.raises(UnknownNameError, match="unknown nomenclature '20'; known: 43 classes, 19 classes, 10 classes"):
        nomenclature(20)
