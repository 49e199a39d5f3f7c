"""Word n-grams of some texts, and finding them in other texts.

Words are separated by whitespace, in lower case and without punctuation: that of ASCII, as in lm-evaluation-harness,
and the typographic quotes and dashes of Unicode, which would hide a copy.

Source: Brown et al. (2020), https://arxiv.org/abs/2005.14165, appendix C; lm-evaluation-harness,
decontamination/janitor.py.
"""

import re
import string
from collections.abc import Sequence
from itertools import accumulate, chain, repeat

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint32]  # numbers of words; 0 is any word that is in none of the texts
Integers = npt.NDArray[np.int64]

_LOWER = bytes.maketrans(string.ascii_uppercase.encode(), string.ascii_lowercase.encode())
_ASCII_PUNCTUATION = string.punctuation.encode()
# UTF-8 of U+2010 to U+205E, except the spaces and line breaks among them.
_TYPOGRAPHIC = re.compile(rb"\xe2(?:\x80[\x90-\xa7\xb0-\xbf]|\x81[\x80-\x9e])")
_FILTER_SLOTS = 16  # per n-gram: other n-grams pass the filter one time in this many
_MULTIPLIER = np.uint64(
    0x9E3779B97F4A7C15
)  # 2^64 over the golden ratio; any odd number with well spread bits would do


def words(text: str | bytes) -> list[str]:
    """Split text into words; bytes that are not UTF-8 become U+FFFD."""
    raw = text.encode(errors="replace") if isinstance(text, str) else text
    plain = _TYPOGRAPHIC.sub(b"", raw).translate(_LOWER, _ASCII_PUNCTUATION)
    return plain.decode("utf-8", errors="replace").split()


class Ngrams:
    """The word n-grams of some texts, numbered from 0.

    Args:
        texts: the texts.
        n: the number of words in an n-gram, at least one; a shorter text has no n-grams.
    """

    def __init__(self, texts: Sequence[str], n: int) -> None:
        self.n = n
        self._numbers: dict[str, int] = {}
        spelled = [
            [self._numbers.setdefault(word, len(self._numbers) + 1) for word in words(text)] for text in texts
        ]
        self._words = np.fromiter(chain.from_iterable(spelled), np.uint32)
        lengths = list(map(len, spelled))
        starts = [
            start + np.arange(max(length - n + 1, 0))
            for start, length in zip(accumulate(lengths, initial=0), lengths, strict=False)
        ]
        # A random number for each word, the same in every run.
        self._random = np.random.default_rng(0).integers(2**64, size=len(self._numbers) + 1, dtype=np.uint64)
        places = np.concatenate([np.empty(0, np.int64), *starts])
        self._hashes, first, numbers = np.unique(
            self._hash(self._words)[places], return_index=True, return_inverse=True
        )
        self._places = places[first]
        self.by_text: list[Integers] = np.split(numbers, np.cumsum([part.size for part in starts])[:-1])
        """The n-grams of each text, in the text's order."""
        bits = max(_FILTER_SLOTS * self.count - 1, 1).bit_length()
        self._shift = np.uint64(64 - bits)
        self._filter = np.zeros(2**bits, np.bool_)
        self._filter[self._hashes >> self._shift] = True

    @property
    def count(self) -> int:
        """The number of different n-grams."""
        return self._hashes.size

    def spell(self, text: bytes) -> Words:
        """Split UTF-8 text into words, and look up the number of each."""
        found = words(text)
        return np.fromiter(map(self._numbers.get, found, repeat(0)), np.uint32, len(found))

    def find(self, spelled: Words) -> tuple[Integers, Integers]:
        """Find these n-grams in a sequence of words; return the positions where they begin, and their numbers.

        Each find is checked word by word. An n-gram is missed only if another of these n-grams has the same 64-bit
        hash; with two million n-grams that happens in one case in ten million.
        """
        hashes = self._hash(spelled)
        places = np.flatnonzero(self._filter[hashes >> self._shift])
        numbers = np.searchsorted(self._hashes, hashes[places])
        # A hash after the last has no number; any number will do, as the comparison below rejects it.
        numbers[numbers == self.count] = 0
        window = np.arange(self.n)
        ours = self._words[self._places[numbers][:, None] + window]
        same = (ours == spelled[places[:, None] + window]).all(axis=1)
        return places[same], numbers[same]

    def _hash(self, spelled: Words) -> npt.NDArray[np.uint64]:
        """Hash every n consecutive words with a polynomial of the words' random numbers."""
        values = self._random[spelled]
        count = max(values.size - self.n + 1, 0)
        hashes = np.zeros(count, np.uint64)
        for position in range(self.n):
            hashes = hashes * _MULTIPLIER + values[position : position + count]
        return hashes
