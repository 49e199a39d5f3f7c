"""Mutants of tokenizer files: each is refused in a line, or cuts texts as transformers does, and loses nothing."""

import pickle
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tokenizer_mutants import END, mutant, originals, texts

from gptlab.data.load_tokenizer import load_tokenizer
from gptlab.data.tokenizer import Tokenizer
from gptlab.errors import DataError

FEW, MANY = 100, 5_000


def theirs(content: bytes, path: Path) -> tuple[Any, Any]:
    """Load a file as the library and as transformers do, what is switched off there as well; None for a refusal.

    End-of-text is special, as the configuration beside an exported model makes it; transformers is asked only
    about files where it is so already, as it does not always take that configuration's word.
    """
    import tokenizers
    import transformers

    library = tokenizers.Tokenizer.from_buffer(content.removeprefix(b"\xef\xbb\xbf"))
    path.write_bytes(content.removeprefix(b"\xef\xbb\xbf"))
    try:
        fast = transformers.PreTrainedTokenizerFast(tokenizer_file=str(path), split_special_tokens=True)
    except Exception:  # a stride longer than its window, for one
        fast = None
    library.no_truncation()
    library.no_padding()
    library.encode_special_tokens = True
    for token in library.get_added_tokens_decoder().values():
        if token.content == END and not token.special:
            token.special, fast = True, None
            library.add_special_tokens([token])
    return library, fast


def their_ids(library: Any, fast: Any, text: str) -> list[int]:
    ids = library.encode(text, add_special_tokens=False).ids
    if fast is not None:
        options = {"add_special_tokens": False, "truncation": False, "padding": False}
        assert fast(text, **options)["input_ids"] == ids, "transformers and its library differ"
    return ids


def problem_of(ours: Tokenizer, content: bytes, path: Path, draw: random.Random) -> str | None:
    """Say what an accepted file does to a text that it should not."""
    library, fast = theirs(content, path)
    worker = pickle.loads(pickle.dumps(ours))
    for text in texts(draw, content):
        raw = text.encode()
        try:
            ids = ours.encode(text)
        except DataError:
            expected = library.encode(text, add_special_tokens=False).ids
            if b"".join(ours.vocabulary[id_] for id_ in expected) == raw and not ours.special & set(expected):
                return f"refuses {text!r} without need"
            continue
        if ids != their_ids(library, fast, text):
            return f"{text!r} is {ids}, theirs {their_ids(library, fast, text)}"
        if ours.decode(ids) != text:
            return f"{text!r} comes back as {ours.decode(ids)!r}"
        if ours.special & set(ids):
            return f"{text!r} becomes special: {ids}"
        if worker.encode(text) != ids or ours.encode_array(text).tolist() != ids:
            return f"{text!r} is cut in several ways"
    return None


def go_through(count: int, folder: Path) -> Counter[str]:
    """Try mutants; return how many ended how."""
    pytest.importorskip("transformers")
    files, path = originals(), folder / "tokenizer.json"
    ends, problems = Counter[str](), list[str]()
    for number in range(count):
        draw = random.Random(f"tokenizer {number}")
        content = mutant(draw.choice(files), draw)
        path.write_bytes(content)
        try:
            ours = load_tokenizer(path)
        except DataError as error:
            said = str(error)
            assert said.isprintable(), number
            kind = re.sub(r"0x\w\w|\"[^\"]*\"|[\d,.]+", "_", said.removeprefix(f"tokenizer {path}: "))
            ends[kind[:60]] += 1
            continue
        problem = problem_of(ours, content, folder / "theirs.json", draw)
        ends["accepted"] += 1
        if problem is not None:
            problems.append(f"mutant {number}: {problem}")
    assert not problems, f"{len(problems)} of {count}:\n" + "\n".join(problems)[:4000]
    return ends


def test_some_tokenizers(tmp_path: Path) -> None:
    ends = go_through(FEW, tmp_path)
    # Neither by refusing all, nor by taking all.
    assert FEW / 10 < ends["accepted"] < FEW * 9 / 10


@pytest.mark.long
def test_many_tokenizers(tmp_path: Path) -> None:
    for end, times in go_through(MANY, tmp_path).most_common():
        print(f"{times:6,}  {end}")
