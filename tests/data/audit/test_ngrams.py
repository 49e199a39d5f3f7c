import string
from itertools import chain

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gptlab.data.audit import ngrams as ngrams_module
from gptlab.data.audit.ngrams import Ngrams, words

TYPOGRAPHIC = {*map(chr, chain(range(0x2010, 0x2028), range(0x2030, 0x205F)))}
# Few words, so that n-grams are repeated, shared, and nearly shared.
TEXT = st.lists(st.sampled_from(["a", "B", "b.", "c", "d-e", "x", "—"]), max_size=30).map(" ".join)


@pytest.fixture(scope="module")
def janitor():
    """lm-evaluation-harness's own normalisation and n-grams."""
    from lm_eval.decontamination import janitor

    return janitor


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters=TYPOGRAPHIC)))
def test_words_are_the_harness_words(janitor, text: str):
    assert words(text) == janitor.Janitor().normalize_string(text).split()
    assert words(text.encode()) == words(text)


def test_punctuation_vanishes_and_words_stay():
    typographic = (
        "\N{LEFT DOUBLE QUOTATION MARK}Don\N{RIGHT SINGLE QUOTATION MARK}t\N{HORIZONTAL ELLIPSIS}\N{EM DASH}"
    )
    assert words(f"{typographic} STOP!\N{NO-BREAK SPACE}({string.punctuation}) x-y") == ["dont", "stop", "xy"]
    # The spaces and line breaks in the same Unicode block still separate words.
    assert words("a\u2009b\u2028c\u202fd\u205fe") == ["a", "b", "c", "d", "e"]
    assert words("".join(sorted(TYPOGRAPHIC))) == []
    assert words(b"caf\xc3\xa9 \xff") == ["café", "\ufffd"]
    assert words("\ud800") == []


@given(texts=st.lists(TEXT, min_size=1, max_size=5), other=TEXT, n=st.integers(1, 5))
def test_the_n_grams_are_the_harness_n_grams(janitor, texts: list[str], other: str, n: int):
    def grams(text: str) -> list[str]:
        return [" ".join(words(text)[at : at + n]) for at in range(len(words(text)) - n + 1)]

    if n > 1:
        assert grams(other) == list(janitor.word_ngrams(" ".join(words(other)), n))
    ours = Ngrams(texts, n)
    every = set(chain.from_iterable(map(grams, texts)))
    assert ours.count == len(every)
    spelled = {}
    for numbers, text in zip(ours.by_text, texts, strict=True):
        assert len(numbers) == len(grams(text))
        spelled |= dict(zip(numbers.tolist(), grams(text), strict=True))
    assert sorted(spelled) == list(range(len(every)))
    assert set(spelled.values()) == every
    places, numbers = ours.find(ours.spell(other.encode()))
    expected = [(at, gram) for at, gram in enumerate(grams(other)) if gram in every]
    assert [(at, spelled[number]) for at, number in zip(places.tolist(), numbers, strict=True)] == expected


@given(texts=st.lists(TEXT, min_size=1, max_size=3), other=TEXT)
def test_equal_hashes_are_not_equal_words(texts: list[str], other: str):
    assume(words(other))
    honest = Ngrams(texts, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            ngrams_module.Ngrams, "_hash", lambda self, spelled: np.zeros(max(len(spelled) - 1, 0), "u8")
        )
        colliding = Ngrams(texts, 2)
        places, numbers = colliding.find(colliding.spell(other.encode()))
    assert set(places.tolist()) <= set(honest.find(honest.spell(other.encode()))[0].tolist())
    assert colliding.count <= 1
    assert set(numbers.tolist()) <= {0}
