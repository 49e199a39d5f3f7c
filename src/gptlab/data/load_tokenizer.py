"""Loading a tokenizer by its name or from a file."""

from collections.abc import Callable
from pathlib import Path

from gptlab.data import vocab_merges
from gptlab.data.bpe_file import BPEFile
from gptlab.data.characters import characters
from gptlab.data.gpt2_tokenizer import GPT2Tokenizer
from gptlab.data.tokenizer import END_OF_TEXT, FILE, Bytes, Tokenizer
from gptlab.errors import DataError


def load_tokenizer(spec: str | Path) -> Tokenizer:
    """Load a tokenizer by its name in TOKENIZERS, or by the path of a JSON file or of its folder.

    The folder may have vocab.json and merges.txt instead; the JSON may be the vocabulary of a character-level model.

    Raises:
        DataError: there is no such name or file, or the file is neither a lossless byte-level BPE nor a vocabulary of
            characters.
    """
    if isinstance(spec, str) and spec in TOKENIZERS:
        return TOKENIZERS[spec]()
    path = Path(spec) / FILE if Path(spec).is_dir() else Path(spec)
    try:
        older = path.name == vocab_merges.VOCAB or (Path(spec).is_dir() and not path.exists())
        if older and vocab_merges.has_both(path.parent):
            return BPEFile(vocab_merges.tokenizer_json(path.parent, END_OF_TEXT), str(path.parent))
        # Some editors write a byte order mark, which is not JSON.
        text = path.read_text(encoding="utf-8-sig")
        return characters(text, str(path)) or BPEFile(text, str(path))
    except FileNotFoundError:
        raise DataError(
            f'tokenizer "{path}": no such name or file; the names are {", ".join(TOKENIZERS)}'
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"tokenizer {path}: cannot be read ({error})") from error


TOKENIZERS: dict[str, Callable[[], Tokenizer]] = {"gpt2": GPT2Tokenizer, "bytes": Bytes}
