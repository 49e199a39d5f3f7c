"""Tokenizers: text to ids and back, without loss.

A tokenizer is a vocabulary, a list of byte strings by id, and a way to cut text into them. Everything else, such as
decoding and the hash that ties shards to models, follows from the vocabulary, whichever library cuts the text.
Ordinary text never becomes a special token, not even text that spells one.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gptlab.errors import DataError, brief

END_OF_TEXT = "<|endoftext|>"
FILE = "tokenizer.json"
MAX_VOCAB_SIZE = 65_536  # ids 0 to 65,535: what the shards' uint16 can hold


class Tokenizer(ABC):
    """A vocabulary and a way to cut text into it.

    Args:
        name: its name in TOKENIZERS, or `tokenizer.json` for one from a file.
        vocabulary: the bytes that each id stands for; empty for unused ids.
        end_of_text: the id before every document.
        special: the ids that stand for no text; end-of-text is always one of them.
        bytes_per_token: about how many bytes of English a token covers, for estimates only.
    """

    def __init__(
        self,
        name: str,
        vocabulary: Sequence[bytes],
        end_of_text: int,
        special: Iterable[int] = (),
        bytes_per_token: float = 4.0,
    ) -> None:
        self.name = self.origin = name
        """`origin` is its name in messages: for a file, the path."""
        self.vocabulary = list(vocabulary)
        self.end_of_text = end_of_text
        self.special = frozenset(special) | {end_of_text}
        self.bytes_per_token = bytes_per_token

    @property
    def vocab_size(self) -> int:
        """The number of ids, including unused ones."""
        return len(self.vocabulary)

    @cached_property
    def hash(self) -> str:
        """sha256 of the vocabulary: if hashes are equal, equal ids stand for equal bytes."""
        digest = hashlib.sha256(self.end_of_text.to_bytes(4, "little"))
        for token in self.vocabulary:
            digest.update(len(token).to_bytes(4, "little") + token)
        return digest.hexdigest()

    @cached_property
    def token_bytes(self) -> npt.NDArray[np.int64]:
        """How many bytes of text each id stands for; 0 for special and unused ids."""
        return np.array(
            [0 if id_ in self.special else len(token) for id_, token in enumerate(self.vocabulary)], np.int64
        )

    def unknown_below(self, rows: int) -> list[int]:
        """Return the ids below `rows` that stand for nothing; models may pad their vocabulary with such ids."""
        known = len(self.vocabulary)
        return [id_ for id_ in range(rows) if id_ >= known or not self.vocabulary[id_]]

    def document_start(self, remedy: str) -> int:
        """Return end-of-text, which begins a document.

        Raises:
            DataError: the tokenizer has none, like one of single characters; ends with `remedy`.
        """
        if self.end_of_text >= self.vocab_size:
            raise DataError(f"tokenizer {self.origin}: has no {END_OF_TEXT} to begin a text with; {remedy}")
        return self.end_of_text

    @property
    def frame(self) -> tuple[list[int], list[int]]:
        """The ids that a model expects before and after a text; usually none."""
        return [], []

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Cut ordinary text into ids, without its frame."""

    def encode_array(self, text: str) -> npt.NDArray[np.uint16]:
        """Encode into the shards' type, without Python integers in between if the library can."""
        return np.array(self.encode(text), np.uint16)

    def decode(self, ids: Iterable[int]) -> str:
        """Turn ids into text; bytes that are not UTF-8, such as half a character, become U+FFFD."""
        return b"".join(self.vocabulary[id_] for id_ in ids).decode("utf-8", errors="replace")

    @property
    def files(self) -> dict[str, bytes]:
        """The files to load this tokenizer from again, by name; none if its name is enough."""
        return {}

    def save(self, folder: Path) -> None:
        """Write this tokenizer's files to a folder."""
        for name, content in self.files.items():
            (folder / name).write_bytes(content)


class Bytes(Tokenizer):
    """The 256 bytes of UTF-8, and end-of-text: nothing to train, nothing to download.

    Source: Xue et al. 2022, "ByT5: Towards a Token-Free Future with Pre-trained Byte-to-Byte Models".
    """

    def __init__(self) -> None:
        vocabulary = [bytes([byte]) for byte in range(256)] + [END_OF_TEXT.encode()]
        super().__init__("bytes", vocabulary, end_of_text=256, bytes_per_token=1.0)

    def encode(self, text: str) -> list[int]:
        return list(utf8(text))

    def encode_array(self, text: str) -> npt.NDArray[np.uint16]:
        return np.frombuffer(utf8(text), np.uint8).astype(np.uint16)


def cutting(origin: str, text: str) -> AbstractContextManager[None]:
    """Name the text if a library fails to cut it."""
    return blaming(
        lambda error: (
            f"tokenizer {origin}: cannot cut a text of {len(text):,} characters that begins {text[:40]!r} "
            f"({brief(error)}); split it into several documents, or leave it out"
        )
    )


@contextmanager
def blaming(say: Callable[[BaseException], str]) -> Generator[None]:
    """Turn whatever a library raises into a DataError of one line; a panic in Rust is not even an Exception."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        raise DataError(say(error)) from error


def utf8(text: str) -> bytes:
    """Encode a text as UTF-8; lone surrogates, which UTF-8 cannot spell, become U+FFFD, as in tiktoken."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


# Capitals, spaces, a combining accent, an emoji: what a lossy tokenizer loses. All of ASCII, but not all bytes, as
# SmolLM's and BLOOM's tokenizers lack some that hardly any text contains.
_ASCII = "".join(map(chr, range(32, 127)))
_PROBE = f"A probe,  of\n\t e\u0301 \u2028\U0001f642 {END_OF_TEXT}. {_ASCII}"

# What GPT-2's rule for words distinguishes: contractions, runs of spaces, digits, punctuation, other scripts.
PROBES = (
    _PROBE,
    "I'll say it's THEY'RE, we'd, 'tis  12,345.67   \n\n \t x\r\n  end ",
    "na\u00efve \u4f60\u597d\u4e16\u754c \u0645\u0631\u062d\u0628\u0627 \u043f\u0440\u0438\u0432\u0435\u0442",
    "\u00bd \u2160 \u00a0\u3000 \ufffd\x00",
    "a" * 300 + " " * 300 + "1" * 300 + "\n" * 300 + "=-" * 150,
)
