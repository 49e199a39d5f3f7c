"""GPT-2's two older files, vocab.json and merges.txt, as an equivalent tokenizer.json."""

import json
from pathlib import Path
from typing import Any

from gptlab.data.hugging_face_files import CONFIG, TOKENIZER_CONFIG
from gptlab.errors import DataError
from gptlab.parsing import parse_json

VOCAB, MERGES, ADDED = "vocab.json", "merges.txt", "added_tokens.json"
CLASSES = ("GPT2Tokenizer", "GPT2TokenizerFast")  # these cut words by GPT-2's rule
MODEL_TYPES = ("gpt2", "gpt_neo", "gptj", "phi", "starcoder2")  # these use one of the two
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def has_both(folder: Path) -> bool:
    """Say whether a folder has the two files."""
    return all((folder / name).is_file() for name in (VOCAB, MERGES))


def tokenizer_json(folder: Path, end_of_text: str) -> str:
    """Convert the two files to a tokenizer.json.

    Args:
        folder: where they are.
        end_of_text: the token to mark as special, if the vocabulary has it.

    Raises:
        DataError: a file is damaged, or another file next to it requires a rule for words other than GPT-2's.
    """
    _refuse_other_rules(folder)
    vocabulary = _object(folder / VOCAB)
    lines = (folder / MERGES).read_text(encoding="utf-8-sig").split("\n")
    merges = [
        line.rstrip("\r").split(" ") for line in lines if line.strip() and not line.startswith("#version")
    ]
    for merge in merges:
        if len(merge) != 2:
            raise DataError(
                f"tokenizer {folder / MERGES}: {' '.join(merge)!r} is not a merge; write two tokens per line"
            )
    special = {"content": end_of_text, "special": True, "id": vocabulary.get(end_of_text)}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    absent = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix")
    off = ("fuse_unk", "byte_fallback", "ignore_merges")
    model: dict[str, Any] = {"type": "BPE"} | dict.fromkeys(absent) | dict.fromkeys(off, False)
    model |= {"vocab": vocabulary, "merges": merges}
    content: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [special | flags] if end_of_text in vocabulary else [],
        "normalizer": None,
        "pre_tokenizer": BYTE_LEVEL,
        "post_processor": None,
        "decoder": BYTE_LEVEL,
        "model": model,
    }
    return json.dumps(content)


def _refuse_other_rules(folder: Path) -> None:
    remedy = "load it in transformers and save it, which writes tokenizer.json"
    if (folder / ADDED).is_file():
        raise DataError(f"tokenizer {folder / ADDED}: has tokens that {VOCAB} lacks; {remedy}")
    said = _object(folder / TOKENIZER_CONFIG)
    kind = said.get("tokenizer_class")
    if kind is None:
        model_type = _object(folder / CONFIG).get("model_type", "gpt2")
        if model_type not in MODEL_TYPES:
            raise DataError(f"tokenizer {folder}: {VOCAB} does not say how {model_type} cuts words; {remedy}")
    elif kind not in CLASSES:
        raise DataError(f"tokenizer {folder}: {VOCAB} does not say how {kind} cuts words; {remedy}")
    for key in ("add_prefix_space", "add_bos_token"):
        if said.get(key):
            raise DataError(f"tokenizer {folder}: {key} in {TOKENIZER_CONFIG} changes the text; {remedy}")


def _object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = parse_json(path.read_bytes())
    except ValueError as error:
        raise DataError(f"tokenizer {path}: is not JSON ({error}); get it again") from None
    if not isinstance(content, dict):
        raise DataError(f"tokenizer {path}: is not a JSON object; get it again")
    return content
