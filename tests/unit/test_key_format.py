"""How keys are written: what is mistyped or cut is known for no key without being looked for."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from app.domain.key_format import MOST_CHARS, is_key, new_key


def test_a_new_key_is_one_and_no_two_are_alike() -> None:
    keys = {new_key() for _ in range(1000)}
    assert len(keys) == 1000
    assert all(is_key(key) and re.fullmatch("gno_[0-9A-Za-z]{49}", key) and len(key) < MOST_CHARS for key in keys)


@given(st.integers(4, 52), st.sampled_from("0aZ9xYq"))
def test_another_character_makes_it_none(place: int, character: str) -> None:
    key = new_key()
    changed = key[:place] + character + key[place + 1 :]
    assert is_key(changed) is (changed == key)


def test_what_is_cut_lengthened_or_of_other_letters_is_none() -> None:
    key = new_key()
    for text in ("", "gno_", key[:-1], key + "a", " " + key, key.swapcase(), "gn_short", "ünïcode" * 10):
        assert not is_key(text), text


def test_keys_of_before_are_keys_still() -> None:
    assert is_key("gn_" + "aB3-_" * 8 + "xyz")


@given(st.text(max_size=80))
def test_any_text_can_be_asked_about(text: str) -> None:
    assert is_key(text) is False
