"""A data set on the Hugging Face hub as a source, whose files are fetched one by one as they are needed.

hf:OWNER/NAME[@REVISION][:CONFIGURATION_OR_PATH]

The revision of such a source has the same form, with the commit that the hub had when the source was found. It names
the same files for ever.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gptlab.amounts import quantity
from gptlab.data.room import check_room
from gptlab.data.sources.files import HUB_FORMATS, cut_file, file_format
from gptlab.data.sources.hub import HubFile, Repository, downloaded
from gptlab.data.sources.hub_splits import choose, configurations, listed, to_train_on
from gptlab.data.sources.piece import Piece, text_bytes
from gptlab.data.sources.source import File, Source
from gptlab.errors import DataError
from gptlab.progress import StatusLine

PREFIX = "hf:"


@dataclass(frozen=True)
class Remote(File):
    """A file on the hub."""

    repository: Repository
    """The repository it is in."""
    file: HubFile
    """Its entry there."""
    column: str | None
    """The column that holds the documents; None finds it."""

    @staticmethod
    def of(repository: Repository, file: HubFile, column: str | None) -> "Remote":
        """Name a file by its repository, commit, path and column."""
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
        path = self.repository.download(self.file, folder.resolve())  # workers may run in another folder
        stamp = f"{PREFIX}{self.repository.name}@{self.repository.commit}:{self.file.path}"
        return list(cut_file(path, self.column, stamp))

    def close(self, folder: Path) -> None:
        (folder / self.file.path).unlink(missing_ok=True)


def find_remote(name: str, text_column: str | None = None) -> Source:
    """Find a data set on the hub, and show which of its files were chosen.

    Raises:
        DataError: the hub cannot be reached, or gives us no such data set or no such files.
    """
    repository_name, revision, wanted = split_name(name.removeprefix(PREFIX))
    if not all(repository_name.partition("/")):
        raise DataError(f'source "{name}": must be hf:OWNER/NAME[@REVISION][:CONFIGURATION_OR_PATH]')
    repository = Repository.find(repository_name, revision)
    choice = choose(repository.card, wanted, PREFIX + repository_name)
    files = {file.path: file for file in repository.list_files(choice.folder) if choice.matches(file.path)}
    readable = [path for path in files if file_format(path)]
    if not readable:
        holds = f"no file matches {choice.label}" if not files else f"{choice.label} holds {listed(files)}"
        configs = configurations(repository.card)
        raise DataError(
            f"{PREFIX}{repository_name}: {holds}; gptlab reads {', '.join(HUB_FORMATS)}, choose a path"
            + (f" or one of the configurations {listed(configs)}" if configs else "")
        )
    left_out = choice.left_out
    if choice.by_name:
        # Files in several formats usually hold the same text.
        kind = max(map(file_format, readable), key=HUB_FORMATS.index)
        same = [path for path in readable if file_format(path) == kind]
        others = len(readable) - len(same)
        readable, left_out = to_train_on(same)
        if not readable:
            raise DataError(
                f"{PREFIX}{repository_name}: its files are for {' and '.join(left_out)}; name a path to train on it"
            )
        if others:
            left_out = (*left_out, f"{others:,} file(s) that are not {kind}")
    chosen = tuple(Remote.of(repository, files[path], text_column) for path in readable)
    if not any(file.bytes for file in chosen):
        raise DataError(f'source "{name}": its files are empty; choose others')
    size = quantity(sum(file.download for file in chosen), "B")
    StatusLine().show(
        f"{PREFIX}{repository_name} at {repository.commit[:12]}, {choice.label}: {len(chosen):,} file(s), {size}"
        + (f"; left out: {', '.join(left_out)}" if left_out else ""),
        final=True,
    )
    state = f"{PREFIX}{repository_name}@{repository.commit}" + (f":{wanted}" if wanted else "")
    return Source(name, state, chosen)


def split_name(name: str) -> tuple[str, str | None, str]:
    """Split NAME[@REVISION][:REST] into its parts."""
    head, _, rest = name.partition(":")
    head, _, revision = head.partition("@")
    return head, revision or None, rest


def on_the_hub(
    repository: str, wanted: str, revision: str | None = None
) -> Callable[[str, str | None], Source]:
    """Make a function that finds NAME[@REVISION][:CONFIGURATION_OR_PATH] in a repository.

    `wanted` and `revision` are those of a name that has none; None is the main branch.
    """

    def find(name: str, text_column: str | None) -> Source:
        _, asked, rest = split_name(name)
        at = asked or revision
        full = PREFIX + repository + (f"@{at}" if at else "") + f":{rest or wanted}"
        return replace(find_remote(full, text_column), name=name)

    return find
