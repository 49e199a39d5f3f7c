"""What a tokenizer.json says besides its vocabulary: which of it would change, lose or add to a text.

Such files were made for other programs, which may fold letters, take blanks away, or cut the same text
differently each time. What the vocabulary can spell comes back whole only where every step leaves it alone, so
the steps that do are listed here, and every other is refused by its name.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

BYTE_LEVEL = 'gptlab needs a lossless byte-level BPE such as "gptlab data tokenizer" makes'


def changes(said: dict[str, Any]) -> Iterator[str]:
    """Name what would change a text, each with what to do about it.

    Args:
        said: the file as the library understood it, with everything that it had left out.
    """
    yield from _of_model(said["model"])
    steps = _flat(said["normalizer"], "normalizers")
    cuts = _flat(said["pre_tokenizer"], "pretokenizers")
    for step in steps:
        if step["type"] != "ByteLevel":
            yield f"its normalizer {step['type']} changes the text before it is cut; {BYTE_LEVEL}"
    for cut in cuts:
        if cut["type"] not in _CUTS:
            yield f"its pre_tokenizer {cut['type']} takes blanks out of a text; {BYTE_LEVEL}"
        elif (fault := _CUTS[cut["type"]](cut)) is not None:
            yield f"its pre_tokenizer {cut['type']} {fault}"
    # Bytes are spelled as letters once: a second time would spell the letters.
    spellings = sum(step["type"] == "ByteLevel" for step in steps + cuts)
    if spellings != 1:
        yield f"it has {spellings} steps of the type ByteLevel, where one must spell bytes; {BYTE_LEVEL}"
    for processor in _flat(said["post_processor"], "processors"):
        if processor["type"] == "TemplateProcessing":
            whole = [piece["Sequence"]["id"] for piece in processor["single"] if "Sequence" in piece]
            if whole != ["A"]:
                yield (
                    f"its post_processor TemplateProcessing has the text {len(whole)} times in it (single); leave "
                    "one $A there"
                )
    for token in said["added_tokens"]:
        # Special ones never meet a text, so that theirs do not matter.
        for side in ("lstrip", "rstrip"):
            if token[side] and not token["special"]:
                yield f'its added token "{token["content"]}" swallows blanks ({side}); set {side} to false'


def traps(raw: Any) -> Iterator[str]:
    """Name what the library must not be given.

    Args:
        raw: what the file says, whatever that may be.
    """
    match raw:
        case {"model": {"type": "WordPiece"}}:  # its prefix does no harm, and it is refused by its name
            pass
        case {"model": {"continuing_subword_prefix": prefix}} if prefix:
            # Merges are cut by its bytes, and one cut within a letter ends the whole process.
            yield _affix("continuing_subword_prefix", prefix)
        case _:
            pass
    match raw:
        case {"added_tokens": [*tokens]}:
            named = [token for token in tokens if isinstance(token, dict) and "content" in token]
            for name, times in Counter(str(token["content"]) for token in named).items():
                # The first one's flags stay in force, and the last one's are shown and written.
                if times > 1:
                    yield f'its added token "{name}" is there {times} times; leave one of them'
        case _:
            pass


def _of_model(model: dict[str, Any]) -> Iterator[str]:
    if model["type"] != "BPE":
        yield f"its model is {model['type']}, which not every text comes back from; {BYTE_LEVEL}"
        return
    if model["dropout"]:
        yield (
            f"its dropout of {model['dropout']:g} cuts a text differently each time; set model.dropout to null"
        )
    if model["end_of_word_suffix"]:
        yield _affix("end_of_word_suffix", model["end_of_word_suffix"])


def _affix(key: str, affix: object) -> str:
    return f'its {key} "{affix}" is spelled in tokens and is in no text; {BYTE_LEVEL}'


def _flat(step: dict[str, Any] | None, name: str) -> list[dict[str, Any]]:
    """List the steps of a sequence, and of those within it."""
    if step is None:
        return []
    if step["type"] != "Sequence":
        return [step]
    return [single for part in step[name] for single in _flat(part, name)]


def _keeps(cut: dict[str, Any]) -> str | None:
    return None


def _unless_removed(cut: dict[str, Any]) -> str | None:
    if cut["behavior"] == "Removed":
        return "takes out what it finds (behavior Removed); set its behavior to Isolated"
    return None


def _unless_prefixed(cut: dict[str, Any]) -> str | None:
    if cut["add_prefix_space"]:
        return "puts a blank before a text (add_prefix_space); set add_prefix_space to false"
    return None


_CUTS: dict[str, Callable[[dict[str, Any]], str | None]] = {
    "ByteLevel": _unless_prefixed,
    "Digits": _keeps,
    "FixedLength": _keeps,
    "Punctuation": _unless_removed,
    "Split": _unless_removed,
}
"""The steps that cut a text and keep all of it, each with what is wrong with one, if anything. UnicodeScripts is none
of them: it loses a blank that a text begins with."""
