"""GPT-2's tokenizer, by tiktoken, or faster by gigatoken if that is installed."""

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

CHECKED_EVERY = 997  # one text in this many, chosen by its length in characters
LONG_BLANK = 100_000  # blanks in a row; tiktoken fails on ten times as many


class GPT2Tokenizer(Tokenizer):
    """GPT-2's byte-level BPE by tiktoken, which downloads the vocabulary once.

    If gigatoken is installed, it encodes for the shards, several times faster. tiktoken remains the reference: the
    tokens of one text in CHECKED_EVERY are compared with tiktoken's.

    Raises:
        DataError: the vocabulary is not cached and cannot be downloaded.

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
        # With no special token allowed or disallowed this equals encode_ordinary, and is 1.5 times as fast.
        with cutting('"gpt2"', text):
            parts = [
                self._encoding.encode_to_numpy(part, disallowed_special=()) for part in cut_long_blanks(text)
            ]
        return np.concatenate(parts).astype(np.uint16)

    @cached_property
    def _fast(self) -> Callable[[str], npt.NDArray[np.uint32]] | None:
        """Gigatoken's encoder; None if it is not installed or disagrees on PROBES."""
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

    def __reduce__(self) -> tuple[type["GPT2Tokenizer"], tuple[()]]:
        # Each worker builds its own, as the libraries' encoders do not pickle well.
        return GPT2Tokenizer, ()


def cut_long_blanks(text: str) -> list[str]:
    """Cut a text after very long runs of blanks, at places where GPT-2's rule for words cuts it anyway.

    tiktoken searches for the end of a run with a stack entry per blank, and a million blanks overflow the stack. The
    rule makes one word of all blanks but the last, which joins the next word. Cut before the last blank, the others
    are at the end of a text, where they are still one word, and tiktoken finds it at once.
    """
    parts: list[str] = []
    start = 0
    for at in range(LONG_BLANK, len(text), LONG_BLANK):  # a longer run covers at least one of these places
        run = _BLANKS.match(text, at)
        if run is not None and start < run.end() - 1 and run.end() < len(text):
            parts.append(text[start : run.end() - 1])
            start = run.end() - 1
    return [*parts, text[start:]]


# Unicode's White_Space, which is \s in tiktoken; Python's \s also has U+001C to U+001F.
_BLANKS = re.compile("[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+")
