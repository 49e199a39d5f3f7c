"""Which steps of a tokenizer.json would change a text, lose some of it or add to it.

Such files are made for other programs, and may fold letters, remove blanks, or cut the same text differently each
time. Text comes back whole only if every step keeps it, so this file lists the steps that do, and refuses all others
by name.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

NEEDS_BYTE_LEVEL = 'gptlab needs a lossless byte-level BPE such as "gptlab data tokenizer" makes'


def changes(said: dict[str, Any]) -> Iterator[str]:
    """Describe each fault that would change a text, with its remedy.

    Args:
        said: the file as the library read it, with all defaults filled in.
    """
    yield from _of_model(said["model"])
    steps = _flat(said["normalizer"], "normalizers")
    cuts = _flat(said["pre_tokenizer"], "pretokenizers")
    for step in steps:
        if step["type"] != "ByteLevel":
            yield f"its normalizer {step['type']} changes the text before it is cut; {NEEDS_BYTE_LEVEL}"
    for cut in cuts:
        if cut["type"] not in _CUTS:
            yield f"its pre_tokenizer {cut['type']} removes blanks from a text; {NEEDS_BYTE_LEVEL}"
        elif (fault := _CUTS[cut["type"]]) is not None and cut[fault[0]] == fault[1]:
            yield f"its pre_tokenizer {cut['type']} {fault[2]}"
    # A second ByteLevel would spell the letters of the first again.
    spellings = sum(step["type"] == "ByteLevel" for step in steps + cuts)
    if spellings != 1:
        yield f"it has {spellings} ByteLevel steps instead of one; {NEEDS_BYTE_LEVEL}"
    for processor in _flat(said["post_processor"], "processors"):
        if processor["type"] == "TemplateProcessing":
            whole = [piece["Sequence"]["id"] for piece in processor["single"] if "Sequence" in piece]
            if whole != ["A"]:
                yield (
                    f"its post_processor TemplateProcessing repeats the text {len(whole)} times (single); leave one "
                    "$A there"
                )
    for token in said["added_tokens"]:
        # Special tokens never occur in a text, so their flags do not matter.
        for side in ("lstrip", "rstrip"):
            if token[side] and not token["special"]:
                yield f'its added token "{token["content"]}" swallows blanks ({side}); set {side} to false'


def traps(raw: Any) -> Iterator[str]:
    """Describe each fault that the library would crash on or misread.

    Args:
        raw: the parsed JSON of the file, of any shape.
    """
    match raw:
        case {"model": {"type": "WordPiece"}}:  # its prefix does no harm, and `changes` refuses the model
            pass
        case {"model": {"continuing_subword_prefix": prefix}} if prefix:
            # The library cuts merges by the prefix's bytes; a cut inside a character aborts the process.
            yield _affix("continuing_subword_prefix", prefix)
        case _:
            pass
    match raw:
        case {"added_tokens": [*tokens]}:
            named = [token for token in tokens if isinstance(token, dict) and "content" in token]
            for name, times in Counter(str(token["content"]) for token in named).items():
                # The library uses the flags of the first, but shows and writes those of the last.
                if times > 1:
                    yield f'its added token "{name}" is listed {times} times; leave only one'
        case _:
            pass


def _of_model(model: dict[str, Any]) -> Iterator[str]:
    if model["type"] != "BPE":
        yield f"its model is {model['type']}, which cannot give every text back; {NEEDS_BYTE_LEVEL}"
        return
    if model["dropout"]:
        yield (
            f"its dropout of {model['dropout']:g} cuts a text differently each time; set model.dropout to null"
        )
    if model["end_of_word_suffix"]:
        yield _affix("end_of_word_suffix", model["end_of_word_suffix"])


def _affix(key: str, affix: object) -> str:
    return f'its {key} "{affix}" is part of the tokens but not of the text; {NEEDS_BYTE_LEVEL}'


def _flat(step: dict[str, Any] | None, name: str) -> list[dict[str, Any]]:
    """List the steps of a sequence, nested sequences included."""
    if step is None:
        return []
    if step["type"] != "Sequence":
        return [step]
    return [single for part in step[name] for single in _flat(part, name)]


_PREFIXES = (
    "add_prefix_space",
    True,
    "adds a blank before a text (add_prefix_space); set add_prefix_space to false",
)
_REMOVES = "behavior", "Removed", "removes what it matches (behavior Removed); set its behavior to Isolated"

_CUTS: dict[str, tuple[str, object, str] | None] = {
    "ByteLevel": _PREFIXES,
    "Digits": None,
    "FixedLength": None,
    "Punctuation": _REMOVES,
    "Split": _REMOVES,
}
"""The steps that cut a text and can keep all of it, each with the key and value that change it. UnicodeScripts is not
one of them: it loses a blank at the beginning of a text."""
