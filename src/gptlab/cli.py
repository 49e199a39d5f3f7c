"""The command line: a table of commands, one of which is imported and run.

Nothing heavy is imported until a command needs it, so that `gptlab --help` answers at once.
"""

import functools
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict, get_origin

from gptlab.errors import INTERRUPTED, ConfigError, GptlabError, did_you_mean
from gptlab.machine.before_torch import keep_freed, spin_briefly
from gptlab.outputs import require_writable_file
from gptlab.parsing import check_numbers
from gptlab.terminal import standard_streams

COMMANDS = {
    "demo": "Run the whole pipeline on text that comes with Python, in minutes on a CPU.",
    "new": "Write a folder to start a project from: a recipe, a study and a README.",
    "data prepare": "Turn documents into shards of tokens; run again to continue.",
    "data merge": "Merge the parts of a preparation.",
    "data fetch": "Download ready-made shards from the Hugging Face hub; run again to continue.",
    "data adopt": "Write a manifest for a folder of llm.c's or modded-nanogpt's .bin files; the files stay unchanged.",
    "data verify": "Check every shard of a prepared folder against its manifest.",
    "data inspect": "Show what a prepared folder holds: counts, lengths, duplicates, some documents.",
    "data contamination": "Search the training shards for word n-grams of a task's items.",
    "data list": "List the sources known by name, and the ready-made sets of shards.",
    "data tokenizer": "Train a byte-level BPE tokenizer.",
    "plan": "Turn a budget into a recipe: which size, how many tokens, what it will score and cost; or judge a run.",
    "train": "Train a model, or continue an unfinished run in OUT.",
    "study": "Compare variants over seeds at an equal budget, with statistics and a page; run again to continue.",
    "tune": "Find a recipe's best learning rate by short whole runs; run again to continue.",
    "slurm": "Write a Slurm batch file that trains, saves before the time limit and requeues itself.",
    "doctor": "Show what this machine and a folder's drive can do for a run.",
    "bench": "Measure a recipe's training step: speed, share of the machine's, memory, and where the time goes.",
    "eval": "Score a model on tasks, or compare two checkpoints; runs keep their scores for report and model card.",
    "lm-eval": "Run lm-evaluation-harness's own command line, with the model `gptlab` available.",
    "sample": "Write text with a model.",
    "export": "Export a model as a Hugging Face folder, or as a GGUF file for llama.cpp.",
    "publish": "Push a model and its card to the Hugging Face hub; run again to continue after a lost connection.",
    "import": "Turn a Hugging Face folder, llm.c's .bin, or nanoGPT's ckpt.pt and files like it, into a run.",
    "report": "Write a page about runs, with curves and a table of results.",
    "check": "Test an architecture: causality, order, relative shift, cache, gradients.",
    "config": "Print the resolved recipe with every key, itself a recipe.",
}
"""Every command, and what it does; `commands` has a file for each."""

FLAGS_HELP = Path(__file__).parent / "commands" / "flags.txt"
"""What `--help` says of the keys of a recipe; written by docs/generate.py, for it takes torch to know them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 success, 1 a named error, 2 usage, 75 interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    patient = words[:1] in (["train"], ["demo"])  # their results matter more than their output
    try:
        with standard_streams(patient=patient):
            return _run(words)
    except BrokenPipeError:
        return 1  # whoever read our output, `head` perhaps, has seen enough
    except OSError as error:  # from output that was still unwritten
        print(f"gptlab: {error.filename or 'the system'}: {error.strerror or error}", file=sys.stderr)
        return 1


def _run(words: list[str]) -> int:
    name = next((name for name in COMMANDS if words[: len(name.split())] == name.split()), None)
    if name is None:
        return _overview(words)
    words = words[len(name.split()) :]
    try:
        json_file = _take_json_file(words)
        # Data commands read files of any name and size, and their workers must stay small.
        if not name.startswith("data "):
            _check_encoding(words)
            keep_freed()
            spin_briefly()
        result = _parse(name, words)
        if json_file is not None:
            json_file.parent.mkdir(parents=True, exist_ok=True)
            json_file.write_text(json.dumps(result, indent=1, default=str) + "\n", encoding="utf-8")
    except GptlabError as error:
        print(f"gptlab {name}: {error}", file=sys.stderr)
        return INTERRUPTED if error.continues else 1
    except BrokenPipeError:
        raise
    except OSError as error:
        print(f"gptlab {name}: {error.filename or 'the system'}: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"gptlab {name}: stopped", file=sys.stderr)
        return 130
    return INTERRUPTED if result.get("status") == "interrupted" else 0


def command(name: str) -> Callable[..., dict[str, Any]]:
    """Return the function of a command, whose parameters are its arguments and flags."""
    file = name.replace(" ", "_").replace("-", "_")
    return import_module(f"gptlab.commands.{'import_' if file == 'import' else file}").run


def _overview(words: list[str]) -> int:
    wanted = not words or words[0] in ("-h", "--help", "help")
    if words[:1] == ["--version"]:
        from gptlab import __version__

        print(f"gptlab {__version__}")
        return 0
    lines = ["usage: gptlab COMMAND ... [--json FILE]", ""]
    lines += [f"  {name:<16} {what}" for name, what in COMMANDS.items()]
    lines += ["", "gptlab COMMAND --help shows its arguments; --json FILE writes the result for programs."]
    print("\n".join(lines), file=sys.stdout if wanted else sys.stderr)
    if not wanted:
        meant = did_you_mean(" ".join(words[:2]), COMMANDS) or did_you_mean(words[0], COMMANDS)
        print(f"\ngptlab: there is no command {' '.join(words[:2])!r}{meant}", file=sys.stderr)
    return 0 if wanted else 2


def _check_encoding(words: Sequence[str]) -> None:
    """Refuse arguments that the terminal's encoding cannot decode: no model, picture or recipe can hold them."""
    for word in words:
        strange = re.search("[\ud800-\udfff]", word)
        if strange is not None:
            byte, encoding = ord(strange[0]) & 0xFF, sys.getfilesystemencoding().upper()
            before = word[: strange.start()][-40:]
            raise ConfigError(
                f"an argument has the byte 0x{byte:02X} after {before!r}, which is not {encoding}; "
                "write it in UTF-8 under LC_ALL=C.UTF-8, and rename any file of that name"
            )


def _take_json_file(words: list[str]) -> Path | None:
    at = next((at for at, word in enumerate(words) if word == "--json" or word.startswith("--json=")), None)
    if at is None:
        return None
    _, given, name = words.pop(at).partition("=")
    if not given and at < len(words):
        name = words.pop(at)
    if not name:
        raise ConfigError("--json: names no file; write --json FILE")
    file = Path(name)
    require_writable_file(file, "--json")
    return file


def _parse(name: str, words: list[str]) -> dict[str, Any]:
    import tyro

    function = command(name)
    if any(p.kind is p.VAR_POSITIONAL for p in inspect.signature(function).parameters.values()):
        return function(*words)  # another program's arguments
    for parameter in inspect.signature(function).parameters.values():
        kind, shown = parameter.annotation, parameter.name.upper()
        if parameter.kind is parameter.POSITIONAL_ONLY and get_origin(kind) is not Annotated:
            shown = f"[{shown} ...]" if get_origin(kind) is tuple else shown
            as_named = tyro.conf.arg(metavar=shown, help_behavior_hint="")
            function.__annotations__[parameter.name] = Annotated[kind, as_named]
        elif parameter.name.endswith("_") and get_origin(kind) is not Annotated:  # `from` is Python's word
            function.__annotations__[parameter.name] = Annotated[
                kind, tyro.conf.arg(name=parameter.name[:-1])
            ]
    more_help = ""
    if "flags" in inspect.signature(function).parameters:
        helps = not {"-h", "--help"}.isdisjoint(words)
        more_help = FLAGS_HELP.read_text(encoding="utf-8") if helps else ""
        # Here a choice is spelled out, as in TOML: --model.bias False; elsewhere --verify or --no-verify.
        in_words = tyro.conf.FlagConversionOff
        kind = TypedDict("Flags", {}) if helps else flags_type()
        function.__annotations__["flags"] = Annotated[kind, tyro.conf.arg(name=""), in_words]

    @functools.wraps(function)
    def checked(*given: Any, **named: Any) -> dict[str, Any]:
        for key, value in named.items():
            try:
                check_numbers({} if key == "flags" else value, "--" + key.replace("_", "-"))
            except ValueError as error:
                raise ConfigError(str(error)) from None
        return function(*given, **named)

    try:
        return tyro.cli(
            checked,
            args=words,
            prog=f"gptlab {name}",
            description=(inspect.getdoc(function) or "").partition("\n")[0],
        )
    except SystemExit as end:
        print(more_help, end="")
        if end.code and "flags" in inspect.signature(function).parameters:
            for line in _called_elsewhere(words):
                print(f"gptlab {name}: {line}", file=sys.stderr)
        raise


def _called_elsewhere(words: Sequence[str]) -> Iterator[str]:
    """Say what gptlab calls a flag that other programs have."""
    from gptlab.recipe_keys import ELSEWHERE

    for flag in (word.partition("=")[0] for word in words):
        key = ELSEWHERE.get(flag.rpartition(".")[2].lstrip("-").replace("-", "_"))
        if key is not None:
            yield f"{flag} is --{key.replace('_', '-')} here"


def flags_type() -> Any:
    """Return the type of the flags of `gptlab train`: RunConfig's sections, with every key optional."""
    import tyro

    from gptlab.recipe import KINDS, SECTIONS, SHORTHANDS
    from gptlab.recipe_keys import entries, table_of

    def section(name: str, kinds: Sequence[type[Any]]) -> Any:
        keys: dict[str, Any] = {
            key: NotRequired[
                Annotated[hint, tyro.conf.arg(help=text, help_behavior_hint=f"(default: {default})")]
            ]
            for kind in reversed(kinds)  # of keys that several have, the first one's
            for key, hint, default, text in entries(kind)
            if table_of(hint) is None  # too much for a flag: it takes a file
        }
        if len(kinds) > 1:
            keys["name"] = NotRequired[Literal[tuple(KINDS[name])]]
        if name == "model":
            keys |= {
                key: NotRequired[Annotated[hint, tyro.conf.arg(help=text)]]
                for key, (hint, text) in SHORTHANDS.items()
            }
        return TypedDict(f"{name.title()}Flags", keys)  # type: ignore[operator]

    sections = {
        name: section(name, list(KINDS[name].values()) if name in KINDS else [kind])
        for name, kind in SECTIONS.items()
    }
    return TypedDict("Flags", {name: NotRequired[kind] for name, kind in sections.items()})  # type: ignore[operator]
