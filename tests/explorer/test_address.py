"""An address says what a page shows, and survives whatever stands in it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigearth_tf.explorer.address import TABS, Address
from bigearth_tf.explorer.catalogue import Choice
from bigearth_tf.explorer.views import VIEWS

WORDS = st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=20), max_size=3).map(tuple)


@given(
    splits=WORDS,
    countries=WORDS,
    labels=WORDS,
    text=st.text(st.characters(codec="utf-8"), max_size=20),
    view=st.sampled_from(list(VIEWS)),
    page=st.integers(1, 10**5),
    tab=st.sampled_from(["browse", "map"]),
    color=st.sampled_from(["split", "country"]),
)
def test_a_url_brings_back_the_page_that_it_came_from(splits, countries, labels, text, view, page, tab, color):
    address = Address(tab, Choice(splits, countries, labels, text), view, page, color=color)
    assert Address.from_query(address.url().partition("?")[2]) == address


def test_the_first_page_has_the_shortest_address():
    assert Address().url() == "/"


def test_what_is_changed_is_in_the_url_and_the_choice_is_kept():
    address = Address(choice=Choice(labels=("Marine waters",)))
    assert address.url(tab="patch", patch="S2A_x") == "/?tab=patch&patch=S2A_x&label=Marine+waters"
    assert address.patch == ""


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("patch=S2A_x", Address(tab="patch", patch="S2A_x")),
        ("tab=map&patch=S2A_x", Address(tab="map", patch="S2A_x")),
        ("own=abc", Address(tab="own", own="abc")),
        ("tab=patch", Address()),
        ("tab=nonsense&view=infra&color=loud", Address()),
        ("page=0", Address()),
        ("page=-1", Address()),
        ("page=²", Address()),
        ("page=99999999999999999999", Address()),
        ("&&&==%zz", Address()),
    ],
)
def test_what_a_query_says_wrongly_is_left_out(query, shown):
    assert Address.from_query(query) == shown


def test_a_word_of_the_query_has_an_end():
    assert len(Address.from_query("text=" + "x" * 10_000).choice.text) == 300


def test_a_query_of_thousands_of_words_shows_the_first_page():
    assert Address.from_query("&".join(["label=a"] * 5000)).tab in TABS
