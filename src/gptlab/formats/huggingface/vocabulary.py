"""A tokenizer written as the files that AutoTokenizer reads."""

import json
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from gptlab.data.hugging_face_files import TOKENIZER_CONFIG
from gptlab.data.tokenizer import END_OF_TEXT, FILE, Tokenizer

if TYPE_CHECKING:
    import tokenizers

SPECIAL_TOKENS = "special_tokens_map.json"


def write_tokenizer(tokenizer: Tokenizer, folder: Path, context: int) -> None:
    """Write the files; a tokenizer that came from a file keeps that file unchanged."""
    tokenizer.save(folder)
    if not (folder / FILE).exists():
        (folder / FILE).write_text(byte_level_bpe(tokenizer).to_str(pretty=True), encoding="utf-8")
    special = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "unk_token": END_OF_TEXT}
    config = {
        # Any other class builds its own tokenizer from the vocabulary; this one uses the file as it is.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context,
        # Versions before 5 drop spaces before punctuation unless told.
        "clean_up_tokenization_spaces": False,
        **special,
    }
    (folder / TOKENIZER_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (folder / SPECIAL_TOKENS).write_text(json.dumps(special, indent=2) + "\n", encoding="utf-8")


def byte_level_bpe(tokenizer: Tokenizer) -> "tokenizers.Tokenizer":
    """Rebuild in the library tokenizers a byte-level BPE whose ids are the ranks of its merges, as in tiktoken.

    It splits words by GPT-2's rule, which makes no difference to a vocabulary of single bytes.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    letters = _letters()
    vocabulary = [token for id_, token in enumerate(tokenizer.vocabulary) if id_ not in tokenizer.special]
    spelled = {token: "".join(letters[byte] for byte in token) for token in vocabulary}
    ids = {token: id_ for id_, token in enumerate(tokenizer.vocabulary)}
    merges = [_last_merge(token, ids) for token in vocabulary if len(token) > 1]
    model = models.BPE(
        vocab={spelled[token]: ids[token] for token in vocabulary} | {END_OF_TEXT: tokenizer.end_of_text},
        merges=[(spelled[left], spelled[right]) for left, right in merges],
    )
    rebuilt = Tokenizer(model)
    rebuilt.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rebuilt.decoder = decoders.ByteLevel()
    rebuilt.post_processor = processors.ByteLevel(trim_offsets=False)
    rebuilt.add_special_tokens([AddedToken(END_OF_TEXT, normalized=False, special=True)])
    return rebuilt


def _last_merge(token: bytes, ids: dict[bytes, int]) -> tuple[bytes, bytes]:
    # The two parts that every earlier merge leaves of a token's bytes.
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 2:
        ranks = [ids.get(left + right, len(ids)) for left, right in pairwise(parts)]
        at = ranks.index(min(ranks))
        parts = [*parts[:at], parts[at] + parts[at + 1], *parts[at + 2 :]]
    left, right = parts
    return left, right


def _letters() -> list[str]:
    # GPT-2 spells a byte as its Latin-1 letter if that is printable, else as the next letter after Latin-1.
    from tokenizers import pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    further = iter(letter for letter in alphabet if ord(letter) > 255)
    return [chr(byte) if chr(byte) in alphabet else next(further) for byte in range(256)]
