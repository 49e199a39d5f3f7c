"""The files of a data set on the Hugging Face hub, fetched one by one as they are needed.

hf:OWNER/NAME[@REVISION][:CONFIGURATION_OR_PATH]

A source's revision is written in the same way, with the commit that the hub had when it was found: it is a source
itself, the same for ever.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gptlab.data.sources.files import FORMATS, Piece, cut_file, file_format, text_bytes
from gptlab.data.sources.hub import HubFile, Repository, downloaded
from gptlab.data.sources.hub_splits import choose, configurations, listed, to_train_on
from gptlab.data.sources.inputs import Input, Source
from gptlab.errors import DataError
from gptlab.progress import StatusLine, quantity
from gptlab.storage import check_room

PREFIX = "hf:"


@dataclass(frozen=True)
class Remote(Input):
    """A file on the hub."""

    repository: Repository
    """Where it is."""
    file: HubFile
    """Which one it is."""
    column: str | None
    """Which column holds the documents."""

    @staticmethod
    def of(repository: Repository, file: HubFile, column: str | None) -> "Remote":
        """Make an input of a file."""
        key = hashlib.sha256(repr((repository.name, repository.commit, file.path, column)).encode())
        return Remote(key.hexdigest()[:32], text_bytes(file.path, file.bytes), repository, file, column)

    @property
    def download(self) -> int:
        return self.file.bytes

    def fetched(self, folder: Path) -> int:
        return downloaded(self.file, folder)

    def open(self, folder: Path) -> Sequence[Piece]:
        folder.mkdir(parents=True, exist_ok=True)
        check_room(folder, self.file.bytes - self.fetched(folder))
        path = self.repository.download(self.file, folder.resolve())  # engines may read it from elsewhere
        stamp = f"{PREFIX}{self.repository.name}@{self.repository.commit}:{self.file.path}"
        return list(cut_file(path, self.column, stamp))

    def close(self, folder: Path) -> None:
        (folder / self.file.path).unlink(missing_ok=True)


def find_remote(name: str, text_column: str | None = None) -> Source:
    """Find a data set on the hub, and say what was chosen of it.

    Args:
        name: hf:OWNER/NAME[@REVISION][:CONFIGURATION_OR_PATH].
        text_column: which column of .jsonl and .parquet files holds the documents.

    Raises:
        DataError: the hub cannot be reached, has no such data set for us, or no such files in it.
    """
    repository_name, revision, wanted = split_name(name.removeprefix(PREFIX))
    if not all(repository_name.partition("/")):
        raise DataError(f'source "{name}": must be hf:OWNER/NAME[@REVISION][:CONFIGURATION_OR_PATH]')
    repository = Repository.find(repository_name, revision)
    choice = choose(repository.card, wanted, PREFIX + repository_name)
    files = {file.path: file for file in repository.list_files(choice.folder) if choice.matches(file.path)}
    readable = [path for path in files if file_format(Path(path))]
    if not readable:
        holds = f"nothing is {choice.label}" if not files else f"{choice.label} holds {listed(files)}"
        configs = dict.fromkeys(configurations(repository.card))
        raise DataError(
            f"{PREFIX}{repository_name}: {holds}; gptlab reads {', '.join(FORMATS)}, choose a path"
            + (f" or one of the configurations {listed(configs)}" if configs else "")
        )
    left_out = choice.left_out
    if choice.by_name:
        # Several kinds of files hold the same text in several ways.
        kind = max((file_format(Path(path)) for path in readable), key=list(FORMATS).index)
        same = [path for path in readable if file_format(Path(path)) == kind]
        others = len(readable) - len(same)
        readable, left_out = to_train_on(same)
        if not readable:
            raise DataError(
                f"{PREFIX}{repository_name}: its files are for {' and '.join(left_out)}; name a path to train on it"
            )
        if others:
            left_out = (*left_out, f"{others:,} file(s) that are not {kind}")
    inputs = tuple(Remote.of(repository, files[path], text_column) for path in readable)
    if not any(part.bytes for part in inputs):
        raise DataError(f'source "{name}": its files are empty; choose others')
    size = quantity(sum(part.download for part in inputs), "B")
    StatusLine().show(
        f"{PREFIX}{repository_name} at {repository.commit[:12]}, {choice.label}: {len(inputs):,} file(s), {size}"
        + (f"; left out: {', '.join(left_out)}" if left_out else ""),
        final=True,
    )
    state = f"{PREFIX}{repository_name}@{repository.commit}" + (f":{wanted}" if wanted else "")
    return Source(name, state, inputs)


def split_name(name: str) -> tuple[str, str | None, str]:
    """Split NAME[@REVISION][:REST] into its parts."""
    head, _, rest = name.partition(":")
    head, _, revision = head.partition("@")
    return head, revision or None, rest


def on_the_hub(
    repository: str, wanted: str, revision: str | None = None
) -> Callable[[str, str | None], Source]:
    """Make a finder of NAME[@REVISION][:CONFIGURATION_OR_PATH] for a repository.

    Args:
        repository: OWNER/NAME.
        wanted: the configuration or path that is meant where none is named.
        revision: the revision that is meant where none is named; None is the main branch.
    """

    def find(name: str, text_column: str | None) -> Source:
        _, asked, rest = split_name(name)
        at = asked or revision
        full = PREFIX + repository + (f"@{at}" if at else "") + f":{rest or wanted}"
        return replace(find_remote(full, text_column), name=name)

    return find
