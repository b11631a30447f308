"""Pieces of HTML show what they were given, and nothing that a name or message holds becomes a tag."""

from html.parser import HTMLParser

import pytest

from bigearth_tf.explorer import cards
from bigearth_tf.explorer.predictor import ClassRow

_TEXTS = ("url", "picture", "name", "split", "country", "time", "corner")
EVIL = '<img src=x onerror="alert(1)">\'&'


class _Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text = [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def read(html):
    parser = _Tags()
    parser.feed(html)
    return parser


ROW = ClassRow("Urban fabric", 0.25, 0.5, False, True, False)


@pytest.mark.parametrize(
    "html",
    [
        cards.patch_card(labels=[EVIL], **dict.fromkeys(_TEXTS, EVIL)),
        cards.figure(EVIL, EVIL, EVIL, EVIL),
        cards.class_bars([ClassRow(EVIL, 0.5, 0.5, True, None, True)], EVIL),
        cards.facts_table({EVIL: EVIL}),
        cards.chips([EVIL], ""),
        cards.chips([], EVIL),
        cards.message(EVIL, "problem"),
    ],
    ids=["card", "figure", "bars", "facts", "chips", "no chips", "message"],
)  # fmt: skip
def test_no_text_becomes_a_tag(html):
    assert not [attributes for _, attributes in read(html).tags if "onerror" in attributes]
    assert EVIL in read(html).text or EVIL in str(read(html).tags)


def test_a_card_leads_to_its_patch():
    found = read(
        cards.patch_card(
            url="/?patch=a",
            picture="/p.png",
            name="a",
            labels=["Pastures", "Moors"],
            split="test",
            country="Austria",
            time="2017-06-14T10:10:31",
            corner="1.  0.985",
        )
    )
    tags = dict(found.tags)
    assert (tags["a"]["href"], tags["img"]["src"], tags["img"]["alt"]) == ("/?patch=a", "/p.png", "a")
    assert tags["i"] == {"class": "dot", "style": "background:#009e73", "title": "test"}
    assert found.text == "1.  0.985Pastures; MoorsAustria · 2017-06-14"


def test_a_bar_shows_probability_threshold_and_what_was_missed():
    found = read(cards.class_bars([ROW], "Urban fabric"))
    classes = {attributes.get("class"): attributes for _, attributes in found.tags}
    assert classes["fill"]["style"] == "width:25.00%"
    assert classes["mark"]["style"] == "left:50.00%"
    assert classes["bar missed chosen"]["data-class"] == "Urban fabric"
    assert found.text == "Urban fabric○ missed25.0%"


def test_an_overlay_lies_over_the_picture():
    sources = [
        attributes["src"] for tag, attributes in read(cards.figure("/a.png", "A", "a", "/b.png")).tags if tag == "img"
    ]
    assert sources == ["/a.png", "/b.png"]
