"""Training a byte-level BPE with GPT-2's rule for words."""

import re
from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING

from gptlab.data.tokenizer import END_OF_TEXT, MAX_VOCAB_SIZE
from gptlab.errors import DataError
from gptlab.progress import Progress

LONG_WORD = 10_000  # characters; a word of ten times as many takes the trainer eight seconds

if TYPE_CHECKING:
    import tokenizers


def train_tokenizer(documents: Iterable[str], vocab_size: int) -> "tokenizers.Tokenizer":
    """Train a byte-level BPE with GPT-2's rule for words; its `save(path)` writes what load_tokenizer reads.

    Args:
        documents: the text to learn from, read once.
        vocab_size: how many ids, including the 256 bytes and end-of-text; too little text gives fewer.

    Raises:
        DataError: `vocab_size` cannot hold the bytes, or does not fit the shards' uint16.

    Source: Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword Units"; Radford et
    al. 2019, section 2.2.
    """
    if not 257 <= vocab_size <= MAX_VOCAB_SIZE:
        raise DataError(
            f"vocab_size {vocab_size:,}: must lie between 257 (bytes, end-of-text) and {MAX_VOCAB_SIZE:,}"
        )
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    with Progress("reading text for the tokenizer", unit=" documents") as progress:

        def counted() -> Iterable[str]:
            for document in documents:
                yield from _cut_long_words(document)
                progress.advance()

        tokenizer.train_from_iterator(counted(), trainer)
    return tokenizer


def _cut_long_words(text: str) -> list[str]:
    """Cut words longer than twice LONG_WORD, as the trainer's time grows with the square of a word's length."""
    cuts = [at for at in range(LONG_WORD, len(text), LONG_WORD) if _LONG_WORD.match(text, at)]
    return [text[start:stop] for start, stop in pairwise((0, *cuts, len(text)))]


_LONG_WORD = re.compile(
    "|".join(f"(?:{kind}){{{LONG_WORD}}}" for kind in (r"\s", r"[^\W\d_]", r"\d", r"[^\w\s]|_"))
)
