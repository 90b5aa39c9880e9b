import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.data.clean import Change, clean, clean_text

EVERYTHING = ("html", "characters", "blanks")


@pytest.mark.parametrize(
    "text",
    [
        "What is the difference between <b> and <strong>?",
        "Vec<u> and Map<p, i>; f&lt;T&gt; is written so; AT&amp;T",
        "def f():\n    x = 1\n\n\n\n    return x  \n",
        "  indented, and two blanks at the end  ",
        "ភាសា\u200bខ្មែរ می\u200cخواهم 👩\u200d🔬 a\xa0b \u2028 c \ufeff",
        "a\ttab",
    ],
)
def test_what_was_written_stays(text: str) -> None:
    assert clean(text) == (text, [])


def test_line_ends_and_what_no_tokenizer_knows_are_always_seen_to() -> None:
    assert clean_text("one\r\ntwo\rthree\n") == "one\ntwo\nthree\n"
    assert clean_text("a\x00b\x1b[0m c\x7f") == "ab[0m c"


def test_what_a_wrong_encoding_leaves_of_quotes_and_dashes_is_told() -> None:
    euros = "10\u20ac \u2013 20\u20ac\u2026 \xe9\xa0".encode("cp1252").decode("latin-1")
    (change,) = clean(euros)[1]
    assert change == Change("unusable_characters", euros, "10  20 \xe9\xa0")
    # where rare line ends become plain ones, a NEL is one
    assert clean("a\x85b", ("characters",)) == ("a\nb", [Change("characters", "a\x85b", "a\nb")])


@pytest.mark.parametrize(
    ("dirty", "clean"),
    [
        ("  one \r\ntwo\rthree  ", "one\ntwo\nthree"),
        ("a\n\n\n\n\nb", "a\n\nb"),
        ("Tom &amp; Ann &lt;3", "Tom & Ann <3"),
        ("&amp;amp;", "&"),
        ("one<br/>two<BR>three", "one\ntwo\nthree"),
        ("<p>Some <b>bold</b> text</p>", "Some bold text"),
        ("a\xa0b\u200bc\x00d", "a bcd"),
        ("1. first\n   - indented", "1. first\n   - indented"),
        ("5 < 7 and 8 > 3; AT&T", "5 < 7 and 8 > 3; AT&T"),
        ("Use ```<b>x</b> &amp; y``` here", "Use ```<b>x</b> &amp; y``` here"),
        ("<html><b>kept</b></html>", "<html><b>kept</b></html>"),
        ("write to <me@example.org>", "write to <me@example.org>"),
        ("a &#13; b", "a\n b"),
    ],
)
def test_all_that_can_be_asked_for(dirty: str, clean: str) -> None:
    assert clean_text(dirty, EVERYTHING) == clean


@pytest.mark.parametrize(
    ("name", "cleaned"),
    [
        ("html", " bold \xa0 & \n\n\n\n x "),
        ("characters", " <b>bold</b>   &amp; \n\n\n\n x "),
        ("blanks", "<b>bold</b> \xa0 &amp;\n\nx"),
    ],
)
def test_each_name_does_its_own_and_tells_the_first_place(name: str, cleaned: str) -> None:
    text = " <b>bold</b> \xa0 &amp; \n\n\n\n x "
    expected = cleaned.replace("\n\nx", "\n\n x") if name == "blanks" else cleaned
    found, changes = clean(text, (name,))
    assert found == expected and [change.name for change in changes] == [name]


def test_an_example_shows_the_place_alone() -> None:
    text = "word " * 100 + "a\r\nb" + " word" * 100
    (change,) = clean(text)[1]
    assert change == Change("line_ends", text[481:521], text.replace("\r", "")[481:521])
    assert "a\r\nb" in change.before and "a\nb" in change.after


@settings(deadline=None)
@given(
    st.text(alphabet="ab <>/&;amplt#38brp\n\r\t \xa0\u2028\u200b\x00`", max_size=40),
    st.sets(st.sampled_from(EVERYTHING)),
)
def test_cleaning_again_changes_nothing(text: str, names: set[str]) -> None:
    once = clean_text(text, names)
    assert clean(once, names) == (once, [])
