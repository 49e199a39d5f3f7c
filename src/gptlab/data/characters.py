"""A vocabulary of single characters, as in nanoGPT's character-level models, from JSON.

nanoGPT keeps it in meta.pkl. gptlab reads no pickles, so the owner of the file converts it to JSON with AS_JSON.
"""

import json
from collections.abc import Mapping

from gptlab.data.tokenizer import FILE, Tokenizer
from gptlab.errors import DataError
from gptlab.parsing import parse_json

AS_JSON = (
    "import json, pickle; json.dump(pickle.load(open('meta.pkl', 'rb'))['stoi'], open('meta.json', 'w'))"
)


class Characters(Tokenizer):
    """Each character is a token; there is no end-of-text, and `end_of_text` is an id outside the vocabulary.

    Raises:
        DataError: an entry is not one character, or the ids are not 0, 1, 2, ...
    """

    def __init__(self, ids: Mapping[str, int], origin: str = FILE) -> None:
        self._ids = dict(ids)
        for character in self._ids:
            if len(character) != 1:
                raise DataError(
                    f'tokenizer {origin}: "{character}" is not one character; a vocabulary of words needs merges.txt '
                    "next to its vocab.json"
                )
        if sorted(self._ids.values()) != list(range(len(ids))):
            raise DataError(f"tokenizer {origin}: its ids must be 0 to {len(ids) - 1}, each used once")
        vocabulary = [character.encode() for character in sorted(self._ids, key=self._ids.__getitem__)]
        super().__init__(FILE, vocabulary, end_of_text=len(vocabulary), bytes_per_token=1.0)
        self.origin = origin

    def encode(self, text: str) -> list[int]:
        try:
            return [self._ids[character] for character in text]
        except KeyError as error:
            raise DataError(
                f"tokenizer {self.origin}: has no token for {error}, which is in a text that begins {text[:40]!r}; "
                "remove it from the text"
            ) from None

    @property
    def files(self) -> dict[str, bytes]:
        return {FILE: json.dumps(self._ids).encode()}

    def __reduce__(self) -> tuple[type["Characters"], tuple[dict[str, int], str]]:
        return Characters, (self._ids, self.origin)


def characters(text: str, origin: str) -> Characters | None:
    """Make a tokenizer of nanoGPT's `stoi`, its `itos`, or its whole meta; None if the text is anything else.

    Raises:
        DataError: as for Characters.
    """
    try:
        content = parse_json(text)
    except ValueError:
        return None
    if isinstance(content, dict):
        content = content.get("stoi") or content.get("itos") or content
    if isinstance(content, list):
        content = {str(id_): letter for id_, letter in enumerate(content)}
    if not isinstance(content, dict) or not content:
        return None
    if all(type(id_) is int for id_ in content.values()):
        return Characters(content, origin)
    if all(isinstance(letter, str) and id_.isdecimal() and len(id_) < 10 for id_, letter in content.items()):
        return Characters({letter: int(id_) for id_, letter in content.items()}, origin)
    return None
