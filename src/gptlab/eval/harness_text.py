"""Texts to ids and back as lm-evaluation-harness's own `hf` model does it, on a run or a Hugging Face folder.

If transformers is installed, its own tokenizer reads a folder and the folder's chat template. Our tokenizer reads a
run, or a folder without transformers; it finds special tokens in a text as transformers does.

Source: lm-evaluation-harness 0.4.13, models/huggingface.py.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gptlab.data.hugging_face_files import CONFIG, TOKENIZER_CONFIG
from gptlab.data.tokenizer import Tokenizer
from gptlab.errors import TaskError, brief

Turns = list[dict[str, str]]
TEMPLATE_FILES = f"{TOKENIZER_CONFIG} (chat_template) or chat_template.jinja"


class OwnText:
    """Our tokenizer.

    Args:
        tokenizer: the model's.
        model: its path, for messages.
        add_bos_token: whether end-of-text precedes a text; None means as the tokenizer's file says.
        why: why there is no chat template.
    """

    def __init__(
        self, tokenizer: Tokenizer, model: str, *, add_bos_token: bool | None = None, why: str = ""
    ) -> None:
        self._tokenizer, self._why = tokenizer, why
        known = {id_ for id_ in tokenizer.special if id_ < tokenizer.vocab_size}
        spelled = {tokenizer.decode([id_]): id_ for id_ in known}
        self._special = {text: id_ for text, id_ in spelled.items() if text}
        self.end = tokenizer.end_of_text
        # What precedes a text without a context; a vocabulary of single characters has none.
        self.prefix = self.end if self.end in known else None
        self.bos = self.eos = None if self.prefix is None else tokenizer.decode([self.end])
        self.name = model.replace("/", "__")
        added = add_bos_token and self.prefix is not None
        self._before, self._behind = ([self.end], list[int]()) if added else tokenizer.frame
        longest_first = sorted(self._special, key=len, reverse=True)
        self._cut = re.compile("(" + ("|".join(map(re.escape, longest_first)) or "(?!)") + ")")

    def encode(self, text: str, *, framed: bool) -> list[int]:
        """Return a text's ids; if framed, with the tokens that the tokenizer puts around a text."""
        ids: list[int] = []
        for number, part in enumerate(self._cut.split(text)):
            ids += [self._special[part]] if number % 2 else self._tokenizer.encode(part) if part else []
        return [*self._before, *ids, *self._behind] if framed else ids

    def decode(self, ids: Sequence[int], *, special: bool) -> str:
        """Return the text of ids, with special tokens spelled out or left out."""
        left_out = () if special else self._tokenizer.special
        return self._tokenizer.decode(id_ for id_ in ids if id_ not in left_out)

    def template(self, asked: bool | str) -> str:
        raise TaskError(
            f"--apply_chat_template: {self._why}; leave it out, or give a Hugging Face folder whose "
            f"{TEMPLATE_FILES} has one"
        )

    def chat(self, turns: Turns, *, prompting: bool, options: Mapping[str, Any]) -> str:
        return self.template(True)


class FolderText:
    """A folder's tokenizer, read by transformers.

    Args:
        folder: a Hugging Face folder.
        rows: entries of the model's vocabulary.
        end: the token that ends a text if the folder does not say.
        add_bos_token: whether the tokenizer puts its BOS token first; None means its own setting.

    Raises:
        ImportError: transformers is not installed.
        TaskError: transformers cannot read the tokenizer.
    """

    def __init__(self, folder: Path, rows: int, end: int, *, add_bos_token: bool | None = None) -> None:
        from transformers import AutoTokenizer

        self._folder, self._rows = folder, rows
        options = {} if add_bos_token is None else {"add_bos_token": add_bos_token}
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False, **options
            )
        except Exception as error:  # transformers passes on whatever its parts raise
            raise TaskError(
                f"{folder}: transformers cannot read its tokenizer ({brief(error)}); fix its files"
            ) from error
        told: int | None = self._tokenizer.eos_token_id
        self.end = end if told is None else told
        self.bos: str | None = self._tokenizer.bos_token
        self.eos: str | None = self.decode([self.end], special=True)
        first: int | None = self._tokenizer.bos_token_id
        self.prefix: int | None = self.end if first is None else first
        self.name = str(self._tokenizer.name_or_path).replace("/", "__")

    def encode(self, text: str, *, framed: bool) -> list[int]:
        # The harness's own rule cuts texts longer than the context.
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=framed, verbose=False)
        if ids and max(ids) >= self._rows:
            raise TaskError(
                f"{self._folder}: its tokenizer has id {max(ids):,}, but its model {self._rows:,} rows; put the "
                "model's own tokenizer there"
            )
        return ids

    def decode(self, ids: Sequence[int], *, special: bool) -> str:
        return self._tokenizer.decode(list(ids), skip_special_tokens=not special)

    def template(self, asked: bool | str) -> str:
        found: Any = self._tokenizer.chat_template
        if not found:
            raise TaskError(
                f"--apply_chat_template: {self._folder} has no chat template; leave it out, or add one to "
                f"{TEMPLATE_FILES}"
            )
        if isinstance(asked, str):
            # `hf` would note the name and apply the default one.
            names = f"is called {', '.join(found)}" if isinstance(found, dict) else "has no name"
            raise TaskError(
                f"--apply_chat_template {asked}: a name is not honoured, and {self._folder}'s template {names}; "
                "give the option without a name to get the default"
            )
        if isinstance(found, dict) and "default" not in found:
            raise TaskError(
                f"--apply_chat_template: none of {self._folder}'s templates, {', '.join(found)}, is called "
                "default; rename one of them"
            )
        return found["default"] if isinstance(found, dict) else found

    def chat(self, turns: Turns, *, prompting: bool, options: Mapping[str, Any]) -> str:
        self.template(True)

        def written(turns: Turns) -> str:
            return self._tokenizer.apply_chat_template(
                turns,
                tokenize=False,
                add_generation_prompt=prompting,
                continue_final_message=not prompting,
                **options,
            )

        try:
            from jinja2.exceptions import TemplateError

            try:
                return written(turns)
            except TemplateError:  # some have no system turn
                return written([turn for turn in turns if turn["role"] != "system"])
        except Exception as error:  # a template is a program
            raise TaskError(
                f"--apply_chat_template: {self._folder}'s template fails ({brief(error)}); fix it, or leave the "
                "option out"
            ) from error


def text_of(
    model: Path | None, tokenizer: Tokenizer, rows: int, add_bos_token: bool | None
) -> OwnText | FolderText:
    """Return what reads and writes a model's texts.

    Args:
        model: a run, a checkpoint or a Hugging Face folder; None if it has no path.
        tokenizer: the model's, as we read it.
        rows: entries of its vocabulary.
        add_bos_token: as in `--model_args`.
    """
    if model is not None and (model / CONFIG).is_file():
        try:
            return FolderText(model, rows, tokenizer.end_of_text, add_bos_token=add_bos_token)
        except ImportError:
            why = 'chat templates need transformers: pip install "gptlab[hf]"'
    else:
        why = f"{model or 'this model'} has no chat template, as it is not a Hugging Face folder"
    return OwnText(tokenizer, str(model or tokenizer.name), add_bos_token=add_bos_token, why=why)
