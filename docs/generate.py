"""Write docs/config.md, docs/export.md, docs/files.md and the tree in README.md from the code.

The first lists the keys of a recipe, their choices and the commands; the second says which class of transformers
holds which model; the third has a phrase for each file, taken from its docstring, and the tree one for each folder.

python docs/generate.py      `make docs` runs this; a test fails if a page is stale
"""

import ast
import inspect
import io
import os
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping
from contextlib import redirect_stdout, suppress
from itertools import product
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

import tyro

from gptlab import cli, recipe, recipe_keys
from gptlab.data.load_tokenizer import TOKENIZERS
from gptlab.data.prepare.engines import ENGINES
from gptlab.data.sources.files import HUB_FORMATS
from gptlab.data.sources.table import SOURCES
from gptlab.eval.hellaswag import PROTOCOLS
from gptlab.formats.gguf.architectures import ARCHITECTURES
from gptlab.formats.huggingface.classes import FORMATS as HF_CLASSES
from gptlab.formats.huggingface.classes import OWN, format_of, parts
from gptlab.model.gpt import NORM_ORDERS, SIZES, ModelConfig
from gptlab.model.mlp import MLPS
from gptlab.model.norm import NORMS
from gptlab.model.position import POSITIONS
from gptlab.recipe import SHORTHANDS
from gptlab.train.schedule import SCHEDULES

DOCS = Path(__file__).parent
SOURCE = DOCS.parent / "src" / "gptlab"
TREE = "<!-- tree: written by `make docs` from the first sentence of each folder -->"
END_OF_TREE = "<!-- end of the tree -->"
COLUMN = 24  # of the phrases

HEAD = """\
<!-- Written by docs/generate.py. Change the docstrings in src/gptlab and run `make docs`. -->

# Configuration

A recipe is a TOML file with the sections below; keys that it leaves out keep their defaults. Several recipes merge
from left to right, and flags come last:

    gptlab train recipes/gpt2_124m.toml recipes/with/rope.toml --optim.lr 3e-4 --out runs/rope

If a later file changes the `name` of [optim], it replaces the whole section, as each optimizer has its own keys. TOML
has no null: where a key may be none, leave it out, or write `"none"` if its default is something else (`None` on the
command line). `gptlab config RECIPE...` prints the result, which is itself a recipe.
"""

FILES_HEAD = """\
<!-- Written by docs/generate.py. Change the docstrings in src/gptlab and run `make docs`. -->

# Every file

Each with the first sentence of its docstring. The README shows the folders alone.
"""

COMMANDS_HEAD = """\
# Commands

Every command takes `--help`, and `--json FILE` to write its result for programs. Exit codes: 0 success, 1 an error,
explained in one line, 2 a command line that cannot be understood, 75 interrupted but saved (run it again), 130
stopped by hand.
"""

EXPORT_HEAD = """\
<!-- Written by docs/generate.py. Change src/gptlab/formats/huggingface/classes and run `make docs`. -->

# Export

`gptlab export MODEL OUT` writes a Hugging Face folder of the first class below that computes the same. The folder
gets its name only after transformers has loaded it and produced the model's own ids, logits (within 1e-4 nats and
1e-5 of the largest, in float32) and greedy text. `AutoModelForCausalLM`, `AutoTokenizer`,
`pipeline("text-generation")` and `lm_eval --model hf` take the folder as it is; only the last class, which brings its
own file, also needs `trust_remote_code=True`.

Every class holds untied heads. Every class holds grouped heads too: one without them repeats the shared heads. A bias
that the class has and the model lacks is zero, a gain is one, and RoPE that turns nothing stands for no position
(this needs an even number of channels a head). Rows that only pad the vocabulary are left out.

`gptlab import` reads these folders back, and `gptlab eval`, `gptlab sample` and `gptlab.load` run them as our own
models, without any code from the folder. The model that comes back equals the exported one bit for bit, except for
VaultGemmaForCausalLM, where a product and a sum round each number once.

The folder holds a model card, README.md, with the loss curve. From the run's files it states the architecture, the
data, the recipe, the scores at that checkpoint (from training and from every `gptlab eval` since) with protocol,
items and standard error, the machine and the hours; anything the files do not say is called unknown. If the GPU is
known, the card estimates energy and cost from the hours, and states its assumptions. `--licence mit` states the
licence, which no file knows. A card that somebody changed is not overwritten.

Most classes cannot normalise the embeddings before the first block, and no weights can undo that; NanoChatForCausalLM
always does.
"""

GGUF = """\
# GGUF

`gptlab export MODEL OUT.gguf --to gguf [--dtype float16]` writes one file with weights, tokenizer and shape for
llama.cpp and the programs built on it (`pip install "gptlab[gguf]"`). It works for the models that the last column of
the first table names; others are refused with the reason, as are tokenizers that do not split words as GPT-2's does.
Where llama-cpp-python is installed, the file gets its name only after llama.cpp has loaded it, split a text into the
same ids, and computed the model's logits as closely as the number format allows: within half a hundredth of their
standard deviation in float32, 0.03 of it in float16 and 0.15 in bfloat16. Norms, biases and positions stay float32.
For shorter formats, pass the file to llama.cpp's `llama-quantize`.
"""

PUBLISH = """\
# Publishing

`gptlab publish MODEL OWNER/NAME` exports to a temporary folder, compares, and pushes the folder in one commit with
the hub's own client; log in with `hf auth login`, or set HF_TOKEN. The repository is private unless you pass
`--public`, and a public one is not pushed to without it. An export is the same bytes every time, so a second call,
after a dropped connection or a kill, sends only what the hub lacks, and a third sends nothing. Files of an earlier
export that this one lacks are deleted; other files stay. A repository with a model that gptlab did not write is left
alone.

To publish a card of your own, export first, change README.md, and publish the export: it keeps its card.
"""

IMPORT = """\
# Import

`gptlab import SOURCE OUT` makes a run of step 0 that `gptlab eval`, `sample` and `export` treat like any other;
`gptlab train OUT/config.toml --data.path DATA --out RUN` trains it further, with a new optimizer and schedule
(`[train] init_from`, which takes any gptlab model).

| source | what is read |
| --- | --- |
| a Hugging Face folder | any class above, whoever wrote it, if its config fits our switches; misfits are named |
| llm.c's `.bin` | versions 3 (float32) and 5 (bfloat16), without the rows that pad the vocabulary |
| nanoGPT's `ckpt.pt`, build-nanogpt's `model_N.pt` and the like | the state dict, whatever wrapped the model |

Reading a folder comes with proof: an export of the model that was read must give the same config and tensors, and
transformers' logits must be the same. A folder whose weights are a pickle is refused.

The last kind of file is a pickle too, the only one that gptlab opens. torch opens it with `weights_only`, which makes
tensors and plain containers and nothing else; a file that holds more is refused by the name of what it holds. (An
object whose class is called `...Config`, which build-nanogpt saves, is read as its values, without its class.) Such a
file says little about its model. gptlab assumes GPT-2's parts, with the exact GELU where nanoGPT wrote it (until June
2023 nanoGPT computed GPT-2's own approximation) and the file's own n_head. For any other architecture name a recipe
with `--like RECIPE`, and add `--rope-pairs neighbours` if RoPE turned channels 2i and 2i + 1 together, as in the
paper and in Meta's own code.
"""

# The switches that matter once norm, order, position and MLP are chosen.
SETTINGS: dict[str, dict[str, Any]] = {
    "with biases": {},
    "without": {"bias": False},
    "QK-norm": {"qk_norm": True},
    "QK-norm, no bias": {"bias": False, "qk_norm": True},
    "soft cap, no bias": {"bias": False, "logit_soft_cap": 30.0},
}

# The key of a recipe, or the argument, that chooses from each table.
CHOICES: dict[str, Mapping[str, Any]] = {
    "[model] norm": NORMS,
    "[model] norm_order": NORM_ORDERS,
    "[model] position": POSITIONS,
    "[model] mlp": MLPS,
    "[optim] name": recipe.KINDS["optim"],
    "[schedule] name": SCHEDULES,
    "[eval] protocol": PROTOCOLS,
    "tokenizer": TOKENIZERS,
    "engine": ENGINES,
}


def page() -> str:
    """Return the whole of docs/config.md."""
    parts = [HEAD, *map(section, recipe.SECTIONS), *choices(), COMMANDS_HEAD, *map(command, cli.COMMANDS)]
    return "\n".join(parts)


def export_page() -> str:
    """Return the whole of docs/export.md."""
    classes = (
        (f"`{name}`", summary(form), needs(form.holds), in_llama_cpp(name))
        for name, form in HF_CLASSES.items()
    )
    what = table(("class", "what it is", "what it needs", "in llama.cpp"), classes)
    which = table(("norm", "order", "position", "MLP", *SETTINGS), combinations())
    foot = f"A dash means `{OWN}`, as for every other combination.\n"
    return "\n".join((EXPORT_HEAD, what, "# Which class holds what\n", which, foot, GGUF, PUBLISH, IMPORT))


def combinations() -> Iterable[tuple[str, ...]]:
    """List the combinations that a class of transformers holds, with equal rows merged."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for norm, order, position, mlp in product(*parts().values()):
        switches = {"norm": norm, "norm_order": order, "position": position, "mlp": mlp}
        names = [format_of(ModelConfig(**switches, **setting)) for setting in SETTINGS.values()]
        if set(names) != {OWN}:
            held = ("-" if name == OWN else f"`{name.removesuffix('ForCausalLM')}`" for name in names)
            rows.setdefault((norm, order, position, *held), []).append(mlp)
    merged: dict[tuple[str, ...], list[str]] = {}
    for (norm, *others), mlps in rows.items():
        merged.setdefault((", ".join(mlps), *others), []).append(norm)
    for (mlps, order, position, *held), norms in merged.items():
        yield (", ".join(norms), order, position, mlps, *held)


def needs(holds: Mapping[str, Iterable[object]]) -> str:
    """Write which choices of each switch a class has."""
    return "; ".join(f"{key} {spelled(values)}" for key, values in holds.items())


def in_llama_cpp(name: str) -> str:
    """Write which of llama.cpp's architectures runs a class, and its further conditions."""
    found = ARCHITECTURES.get(name)
    if found is None:
        return "-"
    return f"`{found.name}`" + (f" with {needs(found.holds)}" if found.holds else "")


def spelled(values: Iterable[object]) -> str:
    """Write the choices of a switch that fit."""
    return " or ".join("none" if value is None else str(value) for value in values)


def section(name: str) -> str:
    """Describe the keys of one section, for each of its kinds."""
    if name not in recipe.KINDS:
        return section_of_kind(f"[{name}]", recipe.SECTIONS[name])
    kinds = recipe.KINDS[name].items()
    return "\n".join(section_of_kind(f'[{name}] name = "{each}"', kind) for each, kind in kinds)


def section_of_kind(heading: str, kind: type[Any]) -> str:
    """Describe the keys of one kind of a section."""
    rows = [
        (f"`{key}`", recipe_keys.type_name(hint), f"`{written(default)}`", text)
        for key, hint, default, text in recipe_keys.entries(kind)
    ]
    if heading == "[model]":
        rows += [
            (f"`{key}`", recipe_keys.type_name(hint), "", text) for key, (hint, text) in SHORTHANDS.items()
        ]
    return f"## {heading}\n\n{summary(kind)}\n\n{table(('key', 'type', 'default', 'meaning'), rows)}"


def choices() -> list[str]:
    """Describe the entries of every table that a key or an argument chooses from."""
    keys = list(next(iter(SIZES.values())))
    sizes = table(
        ("size", *keys), ((f"`{name}`", *map(str, numbers.values())) for name, numbers in SIZES.items())
    )
    found = ["# Choices\n", f"## [model] size\n\n{sizes}"]
    for title, entries in CHOICES.items():
        rows = ((f"`{name}`", summary(entry)) for name, entry in entries.items())
        found.append(f"## {title}\n\n{table(('name', 'what it is'), rows)}")
    rows = [(f"`{name}`", entry.description) for name, entry in SOURCES.items()]
    rows.append(("a file or folder", f"of {', '.join(f'`{suffix}`' for suffix in HUB_FORMATS)}"))
    found.append(f"## source\n\n{table(('name', 'what it is'), rows)}")
    return found


def command(name: str) -> str:
    """Describe one command and its arguments."""
    function = cli.command(name)
    texts = arguments(function)
    usage, rows = [f"gptlab {name}"], []
    for parameter in inspect.signature(function).parameters.values():
        shown, hint = written_argument(parameter)
        usage.append(shown if parameter.default is parameter.empty and "..." not in shown else f"[{shown}]")
        flagged = parameter.kind is parameter.KEYWORD_ONLY and parameter.default is not parameter.empty
        rows.append(
            (
                f"`{shown}`",
                f"`{written(parameter.default)}`" if flagged else "",
                f"{texts[parameter.name]}{hint}",
            )
        )
    body = f"## gptlab {name}\n\n{summary(function)}\n\n    {' '.join(usage)}\n"
    return f"{body}\n{table(('argument', 'default', 'meaning'), rows)}" if rows else body


def written_argument(parameter: inspect.Parameter) -> tuple[str, str]:
    """Return an argument as the user types it, and what its type adds to its meaning."""
    name = parameter.name
    flag = f"--{name.rstrip('_').replace('_', '-')}"
    if name == "flags":
        return "--SECTION.KEY VALUE ...", " Written with hyphens: `--train.batch-tokens 4096`."
    if parameter.kind is parameter.VAR_POSITIONAL:
        return f"{name.upper()} ...", ""
    if parameter.kind is parameter.POSITIONAL_ONLY:
        return (f"{name.upper()} ..." if "tuple" in str(parameter.annotation) else name.upper()), ""
    if parameter.annotation is bool:
        return f"{flag}, --no-{name}", ""
    chosen = recipe_keys.type_name(parameter.annotation) if "Literal" in str(parameter.annotation) else ""
    value = {"int": "N", "float": "X"}.get(
        recipe_keys.type_name(parameter.annotation).split(" ")[0], name.rstrip("_").upper()
    )
    return f"{flag} {value}", f" One of {chosen.replace(' or ', ', ')}." if chosen else ""


def arguments(function: Callable[..., Any]) -> dict[str, str]:
    """Return a docstring's sentence for each argument."""
    _, _, text = (inspect.getdoc(function) or "").partition("Args:\n")
    found: dict[str, str] = {}
    for line in textwrap.dedent(text.partition("\n\n")[0]).splitlines():
        name, colon, meaning = line.partition(": ")
        if colon and not line.startswith(" "):
            found[name] = meaning
        elif found:
            found[list(found)[-1]] += f" {line.strip()}"
    return found


def summary(documented: Any) -> str:
    """Return the first paragraph of a docstring on one line."""
    return " ".join((inspect.getdoc(documented) or "").partition("\n\n")[0].split())


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Write a table of Markdown."""
    cells = [list(head), *(list(row) for row in rows)]
    cells.insert(1, ["---"] * len(cells[0]))
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |\n" for row in cells)


def written(value: Any) -> str:
    """Write a default as a recipe would."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(written, value))}]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def readme() -> str:
    """Return README.md with a fresh tree."""
    text = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    before, begin, rest = text.partition(TREE)
    _, end, after = rest.partition(END_OF_TREE)
    return f"{before}{begin}\n```\n{tree(SOURCE, '', folders_only=True)}```\n{end}{after}"


def files_page() -> str:
    """Return docs/files.md."""
    return f"{FILES_HEAD}\n```\n{tree(SOURCE, '')}```\n"


def tree(folder: Path, indent: str, *, folders_only: bool = False) -> str:
    """Describe a folder's files, unless only folders are wanted, then its folders."""
    lines = [f"{indent}{folder.name + '/':<{COLUMN - len(indent)}} {phrase(folder / '__init__.py')}\n"]
    indent += "  "
    files = [file for file in sorted(folder.glob("*.py")) if not file.name.startswith("__")]
    if folders_only:
        pass
    elif folder.name == "commands":  # their names say it all
        lines += textwrap.wrap(
            ", ".join(file.stem for file in files), 110, initial_indent=indent, subsequent_indent=indent
        )
        lines[1:] = [f"{line}\n" for line in lines[1:]]
    else:
        lines += [f"{indent}{file.stem:<{COLUMN - len(indent)}} {phrase(file)}\n" for file in files]
    folders = [each for each in sorted(folder.iterdir()) if (each / "__init__.py").is_file()]
    lines += [tree(each, indent, folders_only=folders_only) for each in folders]
    return "".join(lines)


def phrase(file: Path) -> str:
    """Return the beginning of the first sentence of a file's docstring."""
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    sentence = " ".join(text.partition("\n\n")[0].split())
    sentence = re.split(r"[.?] (?=[A-Z])", sentence)[0].rstrip(".")
    # The tree already shows the file's name, and the file explains the phrase.
    own = re.match(rf"(?:`?gptlab[\w -]*`?|{file.stem}s?|\S+): ", sentence, re.IGNORECASE)
    sentence = sentence[own.end() :] if own else sentence
    short = sentence if file.stem == "__init__" else re.split("[:;] ", sentence)[0]
    return short[0].upper() + short[1:] if own and short.split()[0].isalpha() else short


def flags_help() -> str:
    """Write what `--help` says of the keys of a recipe, 80 columns wide."""

    def takes(flags: Any) -> None:
        pass

    takes.__annotations__["flags"] = Annotated[
        cli.flags_type(), tyro.conf.arg(name=""), tyro.conf.FlagConversionOff
    ]
    said = io.TextIOWrapper(io.BytesIO(), "utf-8")
    with patch.dict(os.environ, COLUMNS="80"), redirect_stdout(said), suppress(SystemExit):
        tyro.cli(takes, args=["--help"])
    said.seek(0)
    _, box, keys = said.read().partition("╭─ model options")
    return box + keys


PAGES: dict[str, Callable[[], str]] = {
    "config.md": page,
    "export.md": export_page,
    "files.md": files_page,
    "../README.md": readme,
    "../src/gptlab/commands/flags.txt": flags_help,
}

if __name__ == "__main__":
    for name, write in PAGES.items():
        (DOCS / name).write_text(write(), encoding="utf-8")
        print((DOCS / name).resolve())
