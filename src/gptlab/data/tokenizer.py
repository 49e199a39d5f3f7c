"""Tokenizers: text to ids and back, without loss.

A tokenizer is its vocabulary, a list of byte strings by id, and a way to cut text into them. All else, such
as decoding and the hash that ties shards to models, follows from the vocabulary, whichever library cuts.
Ordinary text never becomes a special token, not even text that spells one.
"""

import base64
import hashlib
import json
import re
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gptlab.data import vocab_merges
from gptlab.data.tokenizer_file import BYTE_LEVEL, changes, traps
from gptlab.errors import DataError, brief
from gptlab.parsing import parse_json
from gptlab.progress import Progress

if TYPE_CHECKING:
    import tokenizers

END_OF_TEXT = "<|endoftext|>"
FILE = "tokenizer.json"
MAX_VOCAB_SIZE = 65_536  # ids 0 to 65,535: what the shards' uint16 can hold
CHECKED_EVERY = 997  # one text in so many, by its length in characters
LONG_WORD = 10_000  # characters; a word ten times as long takes the trainer eight seconds
LONG_BLANK = 100_000  # characters of a run of blanks; tiktoken gives up on ten times as many


class Tokenizer(ABC):
    """A vocabulary and a way to cut text into it.

    Args:
        name: its name in TOKENIZERS, or `tokenizer.json` for one that came from a file.
        vocabulary: the bytes each id stands for, empty for an id that is not used.
        end_of_text: the id that precedes every document.
        special: the ids, end-of-text among them, that stand for no text.
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
        self.name = name
        self.vocabulary = list(vocabulary)
        self.end_of_text = end_of_text
        self.special = frozenset(special) | {end_of_text}
        self.bytes_per_token = bytes_per_token

    @property
    def vocab_size(self) -> int:
        """How many ids there are, unused ones included."""
        return len(self.vocabulary)

    @cached_property
    def hash(self) -> str:
        """sha256 of the vocabulary: equal hashes mean that equal ids stand for equal bytes."""
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
        """Return the ids below `rows` that stand for nothing: a model's vocabulary may be filled up with them."""
        known = len(self.vocabulary)
        return [id_ for id_ in range(rows) if id_ >= known or not self.vocabulary[id_]]

    def document_start(self, purpose: str) -> int:
        """Return end-of-text, which begins a document.

        Args:
            purpose: what needs it.

        Raises:
            DataError: there is none, as among single characters.
        """
        if self.end_of_text >= self.vocab_size:
            raise DataError(
                f"tokenizer {self.name}: has no {END_OF_TEXT} token, which {purpose} begins with; a model of single "
                "characters can be sampled and scored, not trained further or exported"
            )
        return self.end_of_text

    @property
    def frame(self) -> tuple[list[int], list[int]]:
        """The ids that stand in front of a text and behind it where a model reads one; most have none."""
        return [], []

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Cut ordinary text into ids, without its frame."""

    def encode_array(self, text: str) -> npt.NDArray[np.uint16]:
        """Encode into the shards' type, without the detour over Python integers where the library allows."""
        return np.array(self.encode(text), np.uint16)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode several texts."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        """Write ids as text; bytes that are no UTF-8, such as half a letter, become U+FFFD."""
        return b"".join(self.vocabulary[id_] for id_ in ids).decode("utf-8", errors="replace")

    @property
    def files(self) -> dict[str, bytes]:
        """The files that find this tokenizer again, by name; none where its own name is enough."""
        return {}

    def save(self, folder: Path) -> None:
        """Write this tokenizer's files to a folder."""
        for name, content in self.files.items():
            (folder / name).write_bytes(content)


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
        with _cutting('"gpt2"', text):
            return [id_ for part in cut_long_blanks(text) for id_ in self._encoding.encode_ordinary(part)]

    def encode_array(self, text: str) -> npt.NDArray[np.uint16]:
        if self._fast is None:
            return self._reference(text)
        with _cutting('"gpt2"', text):
            tokens: npt.NDArray[np.uint16] = self._fast(text).astype(np.uint16)
        if len(text) % CHECKED_EVERY == 0 and not np.array_equal(tokens, self._reference(text)):
            raise DataError(
                f'tokenizer "gpt2": gigatoken and tiktoken differ on a text that begins {text[:40]!r}; uninstall '
                "gigatoken, and delete what was prepared with it"
            )
        return tokens

    def _reference(self, text: str) -> npt.NDArray[np.uint16]:
        # With no special token allowed or disallowed this is encode_ordinary, and half as fast again.
        with _cutting('"gpt2"', text):
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


class Bytes(Tokenizer):
    """UTF-8's 256 bytes, and end-of-text: nothing to train, nothing to download.

    Source: Xue et al. 2022, "ByT5: Towards a Token-Free Future with Pre-trained Byte-to-Byte Models".
    """

    def __init__(self) -> None:
        vocabulary = [bytes([byte]) for byte in range(256)] + [END_OF_TEXT.encode()]
        super().__init__("bytes", vocabulary, end_of_text=256, bytes_per_token=1.0)

    def encode(self, text: str) -> list[int]:
        return list(utf8(text))

    def encode_array(self, text: str) -> npt.NDArray[np.uint16]:
        return np.frombuffer(utf8(text), np.uint8).astype(np.uint16)


class BPEFile(Tokenizer):
    """A byte-level BPE in the JSON of Hugging Face's tokenizers library.

    It cuts a text as that library does without special tokens, truncation and padding. Every text is held against
    its bytes: what its tokens do not spell is refused, never passed on.

    Args:
        text: the file's content.
        origin: the file's path, for error messages.

    Raises:
        DataError: the text is no such tokenizer, has no end-of-text token, or loses something of a text.
    """

    def __init__(self, text: str, origin: str = FILE) -> None:
        import tokenizers

        if (trap := _trap(text)) is not None:
            raise DataError(f"tokenizer {origin}: {trap}")
        with _refusing(origin):
            self._tokenizer = tokenizers.Tokenizer.from_str(text)
        self._text, self._origin = text, origin
        ids = self._tokenizer.get_vocab(with_added_tokens=True)
        if END_OF_TEXT not in ids:
            raise DataError(f"tokenizer {origin}: has no {END_OF_TEXT} token; add it as a special token")
        if max(ids.values()) >= len(text):
            raise DataError(
                f"tokenizer {origin}: has id {max(ids.values()):,}, and is too short to name all ids below; number "
                "them without gaps"
            )
        if len(set(ids.values())) < len(ids):
            raise DataError(f"tokenizer {origin}: gives an id to two tokens; number them anew")
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
        self.bytes_per_token = len(_ENGLISH) / len(self.encode(_ENGLISH))
        for probe in self._probes(token.content for token in added.values()):
            self.encode(probe)

    def _switch_off(self) -> None:
        """Switch off what is no part of cutting a text, and see to it that no text becomes end-of-text."""
        altered = self._tokenizer.truncation is not None or self._tokenizer.padding is not None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True  # as ordinary text, the property means
        for token in self._tokenizer.get_added_tokens_decoder().values():
            if token.content == END_OF_TEXT and not token.special:
                token.special = altered = True
                self._tokenizer.add_special_tokens([token])
        if altered:  # in the copy beside shards and models as well, which others read
            self._text = self._tokenizer.to_str(pretty=True)

    def _from_alphabet(self, token: str) -> bytes:
        try:
            return bytes(_ALPHABET[letter] for letter in token)
        except KeyError:
            raise DataError(
                f'tokenizer {self._origin}: token "{token}" is not spelled in bytes; {BYTE_LEVEL}'
            ) from None

    def _check_meaning(self, token: "tokenizers.AddedToken", model: dict[str, int]) -> None:
        """Refuse an added token that stands for itself in a text, and for other bytes in the model."""
        spelled = token.content in model and set(token.content) <= _ALPHABET.keys()
        if spelled and not token.special and self._from_alphabet(token.content) != token.content.encode():
            raise DataError(
                f'tokenizer {self._origin}: its added token "{token.content}" is the model\'s spelling of other '
                "bytes; take it out of the added tokens"
            )

    def _probes(self, added: Iterable[str]) -> Iterator[str]:
        """Make texts in which something may be lost: at either end, beside added tokens, in any byte there is."""
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
        with _cutting(self._origin, text):
            # One text at a time: the library's own threads would fight with the workers of prepare.
            batch = self._tokenizer.encode_batch_fast([raw.decode()], add_special_tokens=False)
        ids = batch[0].ids
        # Costs a twentieth of the library's own time.
        if not self.special.isdisjoint(ids) or raw != b"".join(map(self.vocabulary.__getitem__, ids)):
            raise DataError(f"tokenizer {self._origin}: {self._loss(raw, ids)}")
        return ids

    @property
    def frame(self) -> tuple[list[int], list[int]]:
        """What the file's post_processor puts around a text."""
        whole, text = (self._tokenizer.encode("a", add_special_tokens=framed).ids for framed in (True, False))
        at = next(at for at in range(len(whole)) if whole[at : at + len(text)] == text)
        return whole[:at], whole[at + len(text) :]

    def _loss(self, raw: bytes, ids: Iterable[int]) -> str:
        """Say what became of a text that did not become tokens that spell it."""
        beginning = f"a text that begins {raw[:40].decode(errors='ignore')!r}"
        single = {token[0] for token in self.vocabulary if len(token) == 1}
        for byte in sorted(set(raw) - single):
            return (
                f"has no token for the byte 0x{byte:02X}, which is in {beginning}; take it out of the text, or "
                "choose another tokenizer"
            )
        for id_ in sorted(self.special.intersection(ids)):
            return (
                f"makes the special token {self.vocabulary[id_].decode(errors='replace')} out of ordinary text, "
                f"{beginning}; take it out of the model's merges"
            )
        return f"decoding does not give the text back, {beginning}; {BYTE_LEVEL}"

    @property
    def files(self) -> dict[str, bytes]:
        return {FILE: self._text.encode()}

    def __reduce__(self) -> tuple[type["BPEFile"], tuple[str, str]]:
        # The library's own pickling forgets encode_special_tokens on the way to a worker.
        return BPEFile, (self._text, self._origin)


def _trap(text: str) -> str | None:
    """Say what is wrong with a file that the library must not read."""
    try:
        return next(traps(parse_json(text)), None)
    except ValueError as error:
        return f'is not JSON ({error}), so the tokenizers library cannot read it; make one with "gptlab data tokenizer"'


def _refusing(origin: str) -> AbstractContextManager[None]:
    """Refuse a tokenizer that the library fails to read."""
    return _blaming(
        lambda error: (
            f"tokenizer {origin}: the tokenizers library cannot read it ({error}); make one with "
            '"gptlab data tokenizer"'
        )
    )


def _cutting(origin: str, text: str) -> AbstractContextManager[None]:
    """Name the text that a library fails to cut."""
    return _blaming(
        lambda error: (
            f"tokenizer {origin}: cannot cut a text of {len(text):,} characters that begins {text[:40]!r} "
            f"({brief(error)}); cut it into several documents, or leave it out"
        )
    )


@contextmanager
def _blaming(say: Callable[[BaseException], str]) -> Generator[None]:
    """Turn whatever a library raises into one line. A panic in Rust is not even an Exception.

    Raises:
        DataError: it raised something.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        raise DataError(say(error)) from error


def utf8(text: str) -> bytes:
    """Return a text's bytes; lone surrogates, which UTF-8 cannot spell, become U+FFFD, as in tiktoken."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


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


def load_tokenizer(spec: str | Path) -> Tokenizer:
    """Find a tokenizer by its name in TOKENIZERS, or by the path of a JSON file or of its folder.

    A folder may have vocab.json and merges.txt instead, and the JSON may be a character-level model's vocabulary.

    Raises:
        DataError: there is no such name or file, or the file is neither a lossless byte-level BPE nor a vocabulary
            of characters.
    """
    from gptlab.data.characters import characters  # which makes a Tokenizer

    if isinstance(spec, str) and spec in TOKENIZERS:
        return TOKENIZERS[spec]()
    path = Path(spec) / FILE if Path(spec).is_dir() else Path(spec)
    try:
        older = path.name == vocab_merges.VOCAB or (Path(spec).is_dir() and not path.exists())
        if older and vocab_merges.has_both(path.parent):
            return BPEFile(vocab_merges.tokenizer_json(path.parent, END_OF_TEXT), str(path.parent))
        # A mark at the beginning, as some editors write, is no part of the JSON.
        text = path.read_text(encoding="utf-8-sig")
        return characters(text, str(path)) or BPEFile(text, str(path))
    except FileNotFoundError:
        raise DataError(
            f'tokenizer "{spec}": no such name or file; the names are {", ".join(TOKENIZERS)}'
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"tokenizer {path}: cannot be read ({error})") from error


def train_tokenizer(documents: Iterable[str], vocab_size: int) -> "tokenizers.Tokenizer":
    """Train a byte-level BPE with GPT-2's rule for words; its `save(path)` writes what load_tokenizer reads.

    Args:
        documents: the text to learn from, read once.
        vocab_size: how many ids, the 256 bytes and end-of-text included; fewer come out of too little text.

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
    """Cut a text within words of more than twice LONG_WORD, as the trainer's time grows with a word's square."""
    cuts = [at for at in range(LONG_WORD, len(text), LONG_WORD) if _LONG_WORD.match(text, at)]
    return [text[start:stop] for start, stop in pairwise((0, *cuts, len(text)))]


def _alphabet() -> dict[str, int]:
    """GPT-2's spelling of bytes as letters: printable Latin-1 stands for itself, the rest moves behind it."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


_ALPHABET = _alphabet()
# Unicode's White_Space, which is \s to tiktoken; Python's has U+001C to U+001F besides.
_BLANKS = re.compile("[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+")
_LONG_WORD = re.compile(
    "|".join(f"(?:{kind}){{{LONG_WORD}}}" for kind in (r"\s", r"[^\W\d_]", r"\d", r"[^\w\s]|_"))
)
_ENGLISH = (
    "The size of a text is known before it is cut into tokens, and how many there will be has to be guessed from "
    "that. A small vocabulary knows only letters and the commonest words, so it needs two or three times as many "
    "tokens as a large one. In 1998, for example, few programs had more than some thousand words to choose from."
)
# Capitals, spaces, an accent apart from its letter, an emoji: what a lossy tokenizer folds away. All of ASCII, but
# not all bytes: SmolLM's and BLOOM's lack some that hardly any text has.
_ASCII = "".join(map(chr, range(32, 127)))
# Letters with every first byte that UTF-8 has, every later one, and all of ASCII.
_CODES = range(0xC0), range(0xC0, 0x800, 0x40), range(0x800, 0xD800, 0x400), range(0xE000, 0x110000, 0x1000)
_ALL_BYTES = "".join(chr(code) for codes in _CODES for code in codes)
_PROBE = f"A probe,  of\n\t e\u0301 \u2028\U0001f642 {END_OF_TEXT}. {_ASCII}"

# What GPT-2's rule for words tells apart: contractions, runs of spaces, digits, marks, other scripts.
PROBES = (
    _PROBE,
    "I'll say it's THEY'RE, we'd, 'tis  12,345.67   \n\n \t x\r\n  end ",
    "na\u00efve \u4f60\u597d\u4e16\u754c \u0645\u0631\u062d\u0628\u0627 \u043f\u0440\u0438\u0432\u0435\u0442",
    "\u00bd \u2160 \u00a0\u3000 \ufffd\x00",
    "a" * 300 + " " * 300 + "1" * 300 + "\n" * 300 + "=-" * 150,
)

TOKENIZERS: dict[str, Callable[[], Tokenizer]] = {"gpt2": GPT2, "bytes": Bytes}
