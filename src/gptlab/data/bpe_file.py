"""A byte-level BPE in the JSON of Hugging Face's tokenizers library."""

import json
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from gptlab.data.tokenizer import END_OF_TEXT, FILE, PROBES, Tokenizer, blaming, cutting, utf8
from gptlab.data.tokenizer_file import NEEDS_BYTE_LEVEL, changes, traps
from gptlab.errors import DataError
from gptlab.parsing import parse_json

if TYPE_CHECKING:
    import tokenizers


class BPEFile(Tokenizer):
    """A byte-level BPE in the JSON of Hugging Face's tokenizers library.

    It cuts text as that library does without special tokens, truncation and padding. The tokens of every text are
    compared with its bytes, so that a loss is an error and never goes unnoticed.

    Raises:
        DataError: the text is not such a tokenizer, has no end-of-text token, or would lose part of a text.
    """

    def __init__(self, text: str, origin: str = FILE) -> None:
        import tokenizers

        if (trap := _trap(text)) is not None:
            raise DataError(f"tokenizer {origin}: {trap}")
        with _refusing(origin):
            self._tokenizer = tokenizers.Tokenizer.from_str(text)
        self._text, self.origin = text, origin
        ids = self._tokenizer.get_vocab(with_added_tokens=True)
        if END_OF_TEXT not in ids:
            raise DataError(f"tokenizer {origin}: has no {END_OF_TEXT} token; add it as a special token")
        if max(ids.values()) >= len(text):
            raise DataError(
                f"tokenizer {origin}: has id {max(ids.values()):,}, but is too short to list all lower ids; number "
                "them without gaps"
            )
        if len(set(ids.values())) < len(ids):
            raise DataError(f"tokenizer {origin}: gives two tokens the same id; renumber them")
        with _refusing(origin):
            self._switch_off()
            said = json.loads(self._tokenizer.to_str())
            change = next(changes(said), None)
        if change is not None:
            raise DataError(f"tokenizer {origin}: {change}")
        added = self._tokenizer.get_added_tokens_decoder()
        vocabulary = [b""] * (max(ids.values()) + 1)
        for token, id_ in ids.items():
            vocabulary[id_] = token.encode() if id_ in added else self._from_alphabet(token)
        for token in added.values():
            self._check_meaning(token, said["model"]["vocab"])
        special = [id_ for id_, token in added.items() if token.special]
        super().__init__(FILE, vocabulary, ids[END_OF_TEXT], special)
        self.origin = origin
        self.bytes_per_token = len(_ENGLISH) / len(self.encode(_ENGLISH))
        for probe in self._probes(token.content for token in added.values()):
            self.encode(probe)

    def _switch_off(self) -> None:
        """Switch off everything but cutting a text, and keep text from becoming end-of-text."""
        altered = self._tokenizer.truncation is not None or self._tokenizer.padding is not None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True  # the property means: encode them as ordinary text
        for token in self._tokenizer.get_added_tokens_decoder().values():
            if token.content == END_OF_TEXT and not token.special:
                token.special = altered = True
                self._tokenizer.add_special_tokens([token])
        if altered:  # also in the copy next to shards and models, which other programs read
            self._text = self._tokenizer.to_str(pretty=True)

    def _from_alphabet(self, token: str) -> bytes:
        try:
            return bytes(_ALPHABET[letter] for letter in token)
        except KeyError:
            raise DataError(
                f'tokenizer {self.origin}: token "{token}" is not spelled in bytes; {NEEDS_BYTE_LEVEL}'
            ) from None

    def _check_meaning(self, token: "tokenizers.AddedToken", model: dict[str, int]) -> None:
        """Refuse an added token that stands for itself in text, but for other bytes in the model."""
        spelled = token.content in model and set(token.content) <= _ALPHABET.keys()
        if spelled and not token.special and self._from_alphabet(token.content) != token.content.encode():
            raise DataError(
                f'tokenizer {self.origin}: its added token "{token.content}" is the model\'s spelling of other '
                "bytes; remove it from the added tokens"
            )

    def _probes(self, added: Iterable[str]) -> Iterator[str]:
        """Make texts that may lose something: at either end, next to added tokens, in any byte."""
        yield from PROBES
        yield from (" ", "\n", "\r\n", "  both ends \t", "\r\n lines\r\n\r\n of\r\nWindows\r\n")
        single = {token[0] for token in self.vocabulary if len(token) == 1}
        yield "".join(letter for letter in _ALL_BYTES if single.issuperset(letter.encode()))
        for token in added:
            yield from (
                token,
                f"{token} \n ends",
                f"stands  {token}\t between",
                f"begins\r\n {token}",
                token * 2,
            )

    def encode(self, text: str) -> list[int]:
        raw = utf8(text)
        with cutting(self.origin, text):
            # One text at a time: the library's own threads would compete with the workers of prepare.
            batch = self._tokenizer.encode_batch_fast([raw.decode()], add_special_tokens=False)
        ids = batch[0].ids
        # This check costs a twentieth of the library's time.
        if not self.special.isdisjoint(ids) or raw != b"".join(map(self.vocabulary.__getitem__, ids)):
            raise DataError(f"tokenizer {self.origin}: {self._loss(raw, ids)}")
        return ids

    @property
    def frame(self) -> tuple[list[int], list[int]]:
        """What the file's post_processor puts around a text."""
        whole, text = (self._tokenizer.encode("a", add_special_tokens=framed).ids for framed in (True, False))
        at = next(at for at in range(len(whole)) if whole[at : at + len(text)] == text)
        before, behind = whole[:at], whole[at + len(text) :]
        if strange := [id_ for id_ in (*before, *behind) if id_ >= self.vocab_size]:
            raise DataError(
                f"tokenizer {self.origin}: its post_processor puts id {strange[0]:,} around a text, but the last id "
                f"is {self.vocab_size - 1:,}; fix its special_tokens"
            )
        return before, behind

    def _loss(self, raw: bytes, ids: Iterable[int]) -> str:
        """Explain why the tokens of a text do not spell it."""
        beginning = f"a text that begins {raw[:40].decode(errors='ignore')!r}"
        single = {token[0] for token in self.vocabulary if len(token) == 1}
        for byte in sorted(set(raw) - single):
            return (
                f"has no token for the byte 0x{byte:02X}, which is in {beginning}; remove it from the text, or "
                "choose another tokenizer"
            )
        for id_ in sorted(self.special.intersection(ids)):
            return (
                f"makes the special token {self.vocabulary[id_].decode(errors='replace')} out of ordinary text, "
                f"{beginning}; remove it from the model's merges"
            )
        return f"decoding does not give back {beginning}; {NEEDS_BYTE_LEVEL}"

    @property
    def files(self) -> dict[str, bytes]:
        return {FILE: self._text.encode()}

    def __reduce__(self) -> tuple[type["BPEFile"], tuple[str, str]]:
        # The library's own pickling forgets encode_special_tokens on the way to a worker.
        return BPEFile, (self._text, self.origin)


def _trap(text: str) -> str | None:
    """Describe the fault of a file that the library must not read, if it has one."""
    try:
        return next(traps(parse_json(text)), None)
    except ValueError as error:
        return f'is not JSON ({error}), so the tokenizers library cannot read it; make one with "gptlab data tokenizer"'


def _refusing(origin: str) -> AbstractContextManager[None]:
    """Turn the library's errors into one line about a tokenizer that it cannot read."""
    return blaming(
        lambda error: (
            f"tokenizer {origin}: the tokenizers library cannot read it ({error}); make one with "
            '"gptlab data tokenizer"'
        )
    )


def _alphabet() -> dict[str, int]:
    """Map letters to bytes as GPT-2 does: printable Latin-1 stands for itself, other bytes for the letters after it."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


_ALPHABET = _alphabet()

# A sample to estimate bytes per token with. Unfinished preparations depend on the estimate, so it must not change.
_ENGLISH = (
    "The size of a text is known before it is cut into tokens, and how many there will be has to be guessed from "
    "that. A small vocabulary knows only letters and the commonest words, so it needs two or three times as many "
    "tokens as a large one. In 1998, for example, few programs had more than some thousand words to choose from."
)

# Characters with every first byte and every later byte of UTF-8, and all of ASCII.
_CODES = range(0xC0), range(0xC0, 0x800, 0x40), range(0x800, 0xD800, 0x400), range(0xE000, 0x110000, 0x1000)
_ALL_BYTES = "".join(chr(code) for codes in _CODES for code in codes)
