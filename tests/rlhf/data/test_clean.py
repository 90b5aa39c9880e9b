import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.data.clean import clean_text


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
    ],
)
def test_clean_text(dirty: str, clean: str) -> None:
    assert clean_text(dirty) == clean


@given(st.text(alphabet="ab <>/&;amplt#38brp\n\r\t \xa0\u2028`", max_size=40))
def test_cleaning_again_changes_nothing(text: str) -> None:
    once = clean_text(text)
    assert clean_text(once) == once
    assert once == once.strip()
