"""Files of byte-level tokenizers as other programs might have written them; equal seeds give equal files."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mutations import Traps, encoded, strange_json

END = "<|endoftext|>"
CONTENTS = (
    *(
        " ",
        "  ",
        "    ",
        "\n",
        "\r\n",
        "\t",
        "\u00a0",
        "the",
        " the",
        "The",
        "a",
        "7",
        "E",
        "\u0120the",
        "\u0120",
    ),
    *(
        "\u00e9",
        "e\u0301",
        "\u4f60",
        "\U0001f642",
        "\u010a",
        "<tab>",
        "<|im_start|>",
        "<unk>",
        "<0x41>",
        "end",
    ),
    *(
        "endoftext",
        "<|",
        "|>",
        "<|endoftext",
        END,
        f" {END}",
        f"{END}\n",
        f"{END}{END}",
        "of the",
        "don't",
        "",
    ),
)
PIECES = (
    *CONTENTS,
    *(
        "x",
        " y",
        "9",
        "123,45",
        "'s",
        "'LL",
        "-",
        "=-",
        "...",
        "\r",
        "\x0b",
        "\x1c",
        "\x00",
        "\u2028",
        "\u3000",
        "\ufb01",
    ),
    *(
        "\u00c5",
        "A\u030a",
        "\u0130",
        "\u00df",
        "\u2460",
        "\ufeff",
        "\ufffd",
        "\u0645\u0631\u062d",
        "\u043f\u0440\u0438",
    ),
    *(
        "\u2581",
        "\u2581a",
        "\U0001f469\u200d\U0001f680",
        "\U00040000",
        "\U000e0001",
        "\u00f1",
        "##a",
        "</w>",
        "<pad>",
    ),
)
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
BEHAVIORS = ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous")
PATTERNS = (
    {"String": " "},
    {"String": END},
    {"Regex": r"\s+"},
    {"Regex": r"\S+"},
    {"Regex": r"\p{N}{1,2}"},
    {"Regex": r"\r?\n"},
    {"Regex": r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"},
)
Raw = dict[str, Any]


def originals() -> list[str]:
    """Train what the mutants are made of: GPT-2's rule for words, Llama 3's, SmolLM's."""
    from tokenizers import (
        AddedToken,
        Regex,
        Tokenizer,
        decoders,
        models,
        pre_tokenizers,
        processors,
        trainers,
    )

    def byte_level(use_regex: bool) -> Any:
        return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)

    llama = pre_tokenizers.Split(Regex(PATTERNS[-1]["Regex"]), "isolated")
    rules = (
        byte_level(True),
        pre_tokenizers.Sequence([llama, byte_level(False)]),
        pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level(True)]),
        byte_level(False),
    )
    draw = random.Random(0)
    # Else the last rule, which does not cut, would learn special tokens as words.
    words = [piece for piece in PIECES if "endoftext" not in piece and "im_start" not in piece]
    lines = [
        "".join(draw.choices(words, k=30)) + "The end of the text, and of the house." for _ in range(300)
    ]
    files: list[str] = []
    for rule in rules:
        made = Tokenizer(models.BPE())
        made.pre_tokenizer, made.decoder = rule, decoders.ByteLevel()
        made.post_processor = processors.ByteLevel(trim_offsets=True)
        trainer = trainers.BpeTrainer(
            vocab_size=420,
            special_tokens=[END, "<|im_start|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        made.train_from_iterator(lines, trainer)
        made.add_tokens([AddedToken("    ", normalized=False)])
        files.append(made.to_str())
    return files


def mutant(original: str, draw: random.Random) -> bytes:
    """Change one to four things of a file."""
    raw = json.loads(original)
    for _ in range(draw.choice((1, 1, 1, 2, 2, 3, 4))):
        draw.choice(CHANGES)(raw, draw)
    text = json.dumps(raw, ensure_ascii=draw.random() < 0.5)
    if draw.random() < 0.1:
        nowhere = Traps(Path("/nowhere"), Path("/nowhere.json"))
        return strange_json(text.encode(), draw, nowhere)
    return encoded(text, draw)


def texts(draw: random.Random, content: bytes) -> list[str]:
    """Write texts with whatever may be cut strangely, the file's own added tokens above all."""
    try:
        tokens = [str(token["content"]) for token in json.loads(content.decode("utf-8-sig"))["added_tokens"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        tokens = []
    said = [
        "",
        " ",
        "\r\n",
        "  blanks at both ends \t\n",
        f"before {END} after",
        END,
        f"{END}{END} x",
        "x" * 300 + " " * 99,
    ]
    for token in tokens:
        said += [token, f"a {token} b", f" {token}", f"{token}\n", f"a{token}b", f"{token} {token}{token}"]
    said += ["".join(draw.choices((*PIECES, *tokens), k=draw.choice((1, 2, 3, 5, 30)))) for _ in range(25)]
    return [text for text in dict.fromkeys(said) if not _has_surrogate(text)]


def _has_surrogate(text: str) -> bool:
    return any("\ud800" <= letter <= "\udfff" for letter in text)


def _truncation(raw: Raw, draw: random.Random) -> None:
    raw["truncation"] = {
        "direction": draw.choice(("Right", "Left")),
        "max_length": draw.choice((0, 1, 3, 255)),
        "strategy": draw.choice(("LongestFirst", "OnlyFirst", "OnlySecond")),
        "stride": draw.choice((0, 0, 1, 5)),
    }


def _padding(raw: Raw, draw: random.Random) -> None:
    raw["padding"] = {
        "strategy": draw.choice(("BatchLongest", {"Fixed": 40})),
        "direction": draw.choice(("Right", "Left")),
        "pad_to_multiple_of": draw.choice((None, 8)),
        "pad_id": draw.choice((0, 1, 70)),
        "pad_type_id": 0,
        "pad_token": draw.choice((END, "a")),
    }


def _a_normalizer(draw: random.Random) -> Raw:
    flag = lambda: draw.random() < 0.5  # noqa: E731
    return draw.choice(
        (
            *({"type": kind} for kind in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Nmt")),
            {"type": "ByteLevel"},
            {"type": "Strip", "strip_left": flag(), "strip_right": flag()},
            {"type": "Prepend", "prepend": draw.choice((" ", "\u2581", ""))},
            {
                "type": "Replace",
                "pattern": draw.choice(PATTERNS),
                "content": draw.choice((" ", "", "\u2581")),
            },
            {
                "type": "BertNormalizer",
                "clean_text": flag(),
                "handle_chinese_chars": flag(),
                "strip_accents": draw.choice((None, True, False)),
                "lowercase": flag(),
            },
        )
    )


def _normalizer(raw: Raw, draw: random.Random) -> None:
    several = [_a_normalizer(draw) for _ in range(draw.randrange(3))]
    raw["normalizer"] = draw.choice((None, _a_normalizer(draw), {"type": "Sequence", "normalizers": several}))
    if draw.random() < 0.2:  # the one that spells bytes, in the place of the step that does
        raw["normalizer"], raw["pre_tokenizer"] = {"type": "ByteLevel"}, None


def _a_cut(draw: random.Random) -> Raw:
    flag = lambda: draw.random() < 0.5  # noqa: E731
    return draw.choice(
        (
            *(
                {"type": kind}
                for kind in ("Whitespace", "WhitespaceSplit", "BertPreTokenizer", "UnicodeScripts")
            ),
            {"type": "ByteLevel", "add_prefix_space": flag(), "trim_offsets": flag(), "use_regex": flag()},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": flag(), "use_regex": flag()},
            {"type": "Digits", "individual_digits": flag()},
            {"type": "Punctuation", "behavior": draw.choice(BEHAVIORS)},
            {
                "type": "Split",
                "pattern": draw.choice(PATTERNS),
                "behavior": draw.choice(BEHAVIORS),
                "invert": flag(),
            },
            {"type": "CharDelimiterSplit", "delimiter": draw.choice(" a\n")},
            {"type": "FixedLength", "length": draw.choice((1, 3, 100))},
            {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": flag()},
        )
    )


def _pre_tokenizer(raw: Raw, draw: random.Random) -> None:
    old, new = raw["pre_tokenizer"], _a_cut(draw)
    steps = [step for step in draw.choice(([new, old], [old, new], [new], [])) if step is not None]
    raw["pre_tokenizer"] = draw.choice((None, new, *[{"type": "Sequence", "pretokenizers": steps}] * 6))


def _a_flag_of_a_cut(raw: Raw, draw: random.Random) -> None:
    cuts = [raw["pre_tokenizer"]]
    while cuts:
        cut = cuts.pop() or {}
        cuts += cut.get("pretokenizers", [])
        for key in ("add_prefix_space", "trim_offsets", "use_regex", "individual_digits", "invert"):
            if key in cut and draw.random() < 0.4:
                cut[key] = not cut[key]
        if "behavior" in cut:
            cut["behavior"] = draw.choice(BEHAVIORS)


def _post_processor(raw: Raw, draw: random.Random) -> None:
    special = {"SpecialToken": {"id": END, "type_id": 0}}
    whole = {"Sequence": {"id": "A", "type_id": 0}}
    template = {
        "type": "TemplateProcessing",
        "single": draw.choice(([special, whole], [whole, special], [whole], [special], [], [whole, whole])),
        "pair": [whole, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {END: {"id": END, "ids": [0], "tokens": [END]}},
    }
    byte_level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    ends = {"sep": [END, 0], "cls": [END, 0]}
    roberta = {"type": "RobertaProcessing", **ends, "trim_offsets": True, "add_prefix_space": True}
    one = draw.choice((template, template, byte_level, roberta, {"type": "BertProcessing", **ends}))
    raw["post_processor"] = draw.choice((None, one, {"type": "Sequence", "processors": [byte_level, one]}))


def _decoder(raw: Raw, draw: random.Random) -> None:
    raw["decoder"] = draw.choice((None, {"type": "Fuse"}, {"type": "ByteFallback"}))


def _model(raw: Raw, draw: random.Random) -> None:
    key, values = draw.choice(
        (
            ("dropout", (None, 0.0, 0.1, 0.9, 1.0)),
            ("unk_token", (None, END, "a", "nowhere", "<|im_start|>", "q")),
            ("continuing_subword_prefix", (None, "", "##", "a")),
            ("end_of_word_suffix", (None, "", "</w>", "a")),
            ("fuse_unk", (True, False)),
            ("byte_fallback", (True, False)),
            ("ignore_merges", (True, False)),
        )
    )
    raw["model"][key] = draw.choice(values)


def _another_model(raw: Raw, draw: random.Random) -> None:
    vocabulary = raw["model"]["vocab"]
    raw["model"] = draw.choice(
        (
            {"type": "WordLevel", "vocab": vocabulary, "unk_token": END},
            {
                "type": "WordPiece",
                "vocab": vocabulary,
                "unk_token": END,
                "continuing_subword_prefix": draw.choice(("", "##")),
                "max_input_chars_per_word": draw.choice((5, 100)),
            },
            {
                "type": "Unigram",
                "unk_id": 0,
                "vocab": [[token, -1.0] for token in vocabulary],
                "byte_fallback": draw.random() < 0.5,
            },
        )
    )


def _vocabulary(raw: Raw, draw: random.Random) -> None:
    vocabulary, merges = raw["model"]["vocab"], raw["model"].get("merges")
    if not isinstance(vocabulary, dict) or not isinstance(merges, list) or not vocabulary or not merges:
        return
    kind = draw.choice(("letter", "letter", "swap", "merges", "shuffle", "special", "spelled", "gap"))
    if kind == "letter":  # a byte without a token
        letter = draw.choice([token for token in vocabulary if len(token) == 1] or list(vocabulary))
        vocabulary[draw.choice(("spare", "<0x41>", f"<0x{ord(letter) % 256:02X}>"))] = vocabulary.pop(letter)
        raw["model"]["merges"] = [pair for pair in merges if letter not in "".join(pair)]
    elif kind == "swap":
        one, other = draw.choice(list(vocabulary)), draw.choice(list(vocabulary))
        vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    elif kind == "merges":
        raw["model"]["merges"] = merges[: draw.randrange(len(merges))]
    elif kind == "shuffle":
        draw.shuffle(merges)
    elif kind == "special":  # so that the model itself arrives at end-of-text, or at what is like it
        word = draw.choice((END, "<|im_start|>", "endoftext"))
        so_far = word[0]
        for letter in word[1:]:
            merges.append([so_far, letter])
            so_far += letter
            vocabulary.setdefault(so_far, max(vocabulary.values()) + 1)
    elif kind == "spelled":
        vocabulary[draw.choice(("\u4f60", "\u2581x", "a b", "<unk>", "\u0120\u0120x"))] = (
            max(vocabulary.values()) + 1
        )
    else:
        vocabulary["far"] = max(vocabulary.values()) + draw.choice((2, 100, 10**9))


def _added(raw: Raw, draw: random.Random) -> None:
    content = draw.choice(CONTENTS)
    vocabulary = raw["model"]["vocab"]
    known = vocabulary.get(content) if isinstance(vocabulary, dict) else None
    next_ = 1 + max((token["id"] for token in raw["added_tokens"]), default=len(vocabulary))
    id_ = draw.choice((known if known is not None else next_,) * 5 + (0, 5, next_ + 3))
    raw["added_tokens"].append(
        {"id": id_, "content": content, **{flag: draw.random() < 0.35 for flag in FLAGS}}
    )


def _a_flag_of_a_token(raw: Raw, draw: random.Random) -> None:
    if raw["added_tokens"]:
        token = draw.choice(raw["added_tokens"])
        flag = draw.choice(FLAGS)
        token[flag] = not token[flag]


def _all_flags_of_a_token(raw: Raw, draw: random.Random) -> None:
    if raw["added_tokens"]:
        draw.choice(raw["added_tokens"]).update({flag: draw.random() < 0.5 for flag in FLAGS})


def _a_token_less(raw: Raw, draw: random.Random) -> None:
    if raw["added_tokens"]:
        raw["added_tokens"].remove(draw.choice(raw["added_tokens"]))


CHANGES: tuple[Callable[[Raw, random.Random], None], ...] = (
    *(_truncation, _padding, _normalizer, _pre_tokenizer, _a_flag_of_a_cut, _post_processor, _decoder),
    *(_model, _model, _another_model, _vocabulary, _vocabulary, _added, _added, _added),
    *(_a_flag_of_a_token, _a_flag_of_a_token, _all_flags_of_a_token, _a_token_less),
)
