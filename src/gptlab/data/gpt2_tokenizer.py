"""GPT-2's tokenizer, as tiktoken cuts and as gigatoken does where it is installed."""

import base64
import re
import tempfile
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gptlab.data.tokenizer import PROBES, Tokenizer, cutting
from gptlab.errors import DataError

CHECKED_EVERY = 997  # one text in so many, by its length in characters


LONG_BLANK = 100_000  # characters of a run of blanks; tiktoken gives up on ten times as many


class GPT2(Tokenizer):
    """GPT-2's byte-level BPE, as tiktoken cuts it, which downloads its vocabulary once.

    Where gigatoken is installed it encodes for the shards, several times faster; tiktoken stays the reference,
    against which one text in CHECKED_EVERY is held.

    Raises:
        DataError: the vocabulary is neither cached nor to be had.

    Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.2.
    """

    def __init__(self) -> None:
        import tiktoken

        try:
            self._encoding = tiktoken.get_encoding("gpt2")
        except (OSError, ValueError) as error:
            raise DataError(
                f'tokenizer "gpt2": its vocabulary cannot be downloaded ({type(error).__name__}); set '
                'TIKTOKEN_CACHE_DIR to a folder that holds it, or choose "bytes" or a tokenizer file'
            ) from error
        ids = range(self._encoding.n_vocab)
        vocabulary = [self._encoding.decode_single_token_bytes(id_) for id_ in ids]
        super().__init__("gpt2", vocabulary, self._encoding.eot_token)

    def encode(self, text: str) -> list[int]:
        with cutting('"gpt2"', text):
            return [id_ for part in cut_long_blanks(text) for id_ in self._encoding.encode_ordinary(part)]

    def encode_array(self, text: str) -> npt.NDArray[np.uint16]:
        if self._fast is None:
            return self._reference(text)
        with cutting('"gpt2"', text):
            tokens: npt.NDArray[np.uint16] = self._fast(text).astype(np.uint16)
        if len(text) % CHECKED_EVERY == 0 and not np.array_equal(tokens, self._reference(text)):
            raise DataError(
                f'tokenizer "gpt2": gigatoken and tiktoken differ on a text that begins {text[:40]!r}; uninstall '
                "gigatoken, and delete what was prepared with it"
            )
        return tokens

    def _reference(self, text: str) -> npt.NDArray[np.uint16]:
        # With no special token allowed or disallowed this is encode_ordinary, and half as fast again.
        with cutting('"gpt2"', text):
            parts = [
                self._encoding.encode_to_numpy(part, disallowed_special=()) for part in cut_long_blanks(text)
            ]
        return np.concatenate(parts).astype(np.uint16)

    @cached_property
    def _fast(self) -> Callable[[str], npt.NDArray[np.uint32]] | None:
        """The encoder of gigatoken; None where it is not installed or does not agree about PROBES."""
        try:
            from gigatoken.gigatoken_rs import BPETokenizer
        except ImportError:
            return None
        with tempfile.TemporaryDirectory() as folder:
            ranks = Path(folder) / "gpt2.tiktoken"
            ranks.write_bytes(
                b"".join(
                    b"%s %d\n" % (base64.b64encode(token), id_)
                    for id_, token in enumerate(self.vocabulary[: self.end_of_text])
                )
            )
            encode: Callable[[str], npt.NDArray[np.uint32]] = BPETokenizer.from_tiktoken(ranks, "gpt2").encode
        agrees = all(np.array_equal(encode(text), self._reference(text)) for text in PROBES)
        return encode if agrees else None

    def __reduce__(self) -> tuple[type["GPT2"], tuple[()]]:
        # A worker builds its own: neither library's encoder travels well.
        return GPT2, ()


def cut_long_blanks(text: str) -> list[str]:
    """Cut a text, where GPT-2's rule for words does so too, behind very long runs of blanks.

    In finding such a run's end tiktoken remembers each of its blanks, of which a million overflow its stack. The rule
    makes one word of all blanks but the last, which goes to what follows: without what follows, the blanks up to
    there are at a text's end and the same one word, which is found at once.
    """
    parts: list[str] = []
    start = 0
    for at in range(LONG_BLANK, len(text), LONG_BLANK):  # any longer run covers one of these places
        run = _BLANKS.match(text, at)
        if run is not None and start < run.end() - 1 and run.end() < len(text):
            parts.append(text[start : run.end() - 1])
            start = run.end() - 1
    return [*parts, text[start:]]


# Unicode's White_Space, which is \s to tiktoken; Python's has U+001C to U+001F besides.
_BLANKS = re.compile("[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+")
