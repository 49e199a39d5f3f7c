"""Data sets on the Hugging Face hub: listing their files, and downloading them checked against the hub's hash.

The client library decides which hub to ask and as whom: HF_ENDPOINT, HF_TOKEN, HF_HOME.
"""

import hashlib
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from gptlab.amounts import duration
from gptlab.errors import DataError
from gptlab.progress import Progress
from gptlab.storage import file_sha256

# Between attempts; together they outlast the five minutes of the hub's rate limits.
WAITS_S = (1, 4, 16, 64, 256)
MAX_WAIT_S = 300  # the hub may ask for more, but then we give up
TRANSIENT = (408, 429, 500, 502, 503, 504)

CLIENT_FOLDER = Path(
    ".cache", "huggingface"
)  # where the client library keeps its own files next to downloads

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class HubFile:
    """A file of a repository."""

    path: str
    """Its path in the repository."""
    bytes: int
    """Its size."""
    blob: str
    """Git's hash of its content; of a large file, git's hash of the pointer to it."""
    sha256: str | None
    """sha256 of its content; None if the hub has none, as for small text files."""


@dataclass(frozen=True)
class Repository:
    """A data set on the hub, at one commit."""

    name: str
    """OWNER/NAME."""
    commit: str
    """The commit's hash."""
    card: Mapping[str, Any]
    """The head of its README."""

    @staticmethod
    def find(name: str, revision: str | None = None) -> "Repository":
        """Look up a data set; `revision` is a branch, tag or commit, and None the main branch.

        Raises:
            DataError: the hub cannot be reached, or gives us no such data set or revision.
        """
        from huggingface_hub import HfApi

        with _hub(name, revision):
            info = _patiently(lambda: HfApi().dataset_info(name, revision=revision))
        return Repository(name, info.sha or "", info.card_data.to_dict() if info.card_data else {})

    def list_files(self, folder: str = "") -> list[HubFile]:
        """List the files in a folder and below it, sorted by path; none if there is no such folder.

        Raises:
            DataError: the hub cannot be reached, or refuses.
        """
        from huggingface_hub import HfApi
        from huggingface_hub.errors import EntryNotFoundError
        from huggingface_hub.hf_api import RepoFile

        def listed() -> list[HubFile]:
            found: list[HubFile] = []
            entries = HfApi().list_repo_tree(
                self.name, folder or None, recursive=True, revision=self.commit, repo_type="dataset"
            )
            try:
                with Progress("listing", unit=" files") as progress:
                    for entry in entries:
                        if isinstance(entry, RepoFile):
                            sha256 = entry.lfs.sha256 if entry.lfs else None
                            found.append(HubFile(entry.path, entry.size, entry.blob_id, sha256))
                            progress.advance()
            except EntryNotFoundError:
                return []
            return sorted(found, key=lambda file: file.path)

        with _hub(self.name, self.commit):
            return _patiently(listed)

    def download(self, file: HubFile, folder: Path) -> Path:
        """Download a file to its path below a folder, unless it is there already.

        Only one download at a time may use the folder. After a dropped connection a download resumes; after a kill it
        begins again.

        Raises:
            DataError: the hub cannot be reached, gives us no such file, or a different file arrived.
        """
        from huggingface_hub import hf_hub_download

        # Another process cannot resume what a killed one left.
        for part in (folder / CLIENT_FOLDER).rglob("*.incomplete"):
            part.unlink()
        with _hub(self.name, self.commit, file.path):
            path = _patiently(
                lambda: hf_hub_download(
                    self.name, file.path, repo_type="dataset", revision=self.commit, local_dir=folder
                ),
                outages=True,
            )
        if damage := _damage(Path(path), file):
            Path(path).unlink()
            raise DataError(f"file {path}: {damage}; run again to fetch it again")
        return Path(path)


def downloaded(file: HubFile, folder: Path) -> int:
    """Return how many bytes of a file have arrived in `folder` so far."""
    try:
        if (folder / file.path).exists():
            return file.bytes
        parts = (folder / CLIENT_FOLDER).rglob("*.incomplete")
        return min(sum(part.stat().st_size for part in parts), file.bytes)
    except FileNotFoundError:  # it has just been moved into place
        return file.bytes


def _damage(path: Path, file: HubFile) -> str | None:
    size = path.stat().st_size
    if size != file.bytes:
        return f"{size:,} bytes arrived, the hub lists {file.bytes:,}"
    if file.sha256 is not None:
        same = file_sha256(path) == file.sha256
    else:
        # Small files are blobs of git: https://git-scm.com/book/en/v2/Git-Internals-Git-Objects
        same = hashlib.sha1(b"blob %d\0" % size + path.read_bytes()).hexdigest() == file.blob
    return None if same else "its hash differs from the one the hub lists"


def _patiently(ask: Callable[[], Answer], *, outages: bool = False) -> Answer:
    """Ask again while the hub is busy; with `outages` also while it cannot be reached."""
    from huggingface_hub import errors

    for wait in chain(WAITS_S, [None]):
        try:
            return ask()
        except errors.HfHubHTTPError as error:
            told = _told_to_wait(error)
            if error.response.status_code not in TRANSIENT or wait is None or (told or 0) > MAX_WAIT_S:
                raise
            wait = max(wait, told or 0)
        except (errors.HTTPError, OSError) as error:  # pyright: ignore[reportPrivateImportUsage]
            wanted = isinstance(error.__cause__ or error, errors.OfflineModeIsEnabled)
            if not outages or wanted or _of_the_disk(error) or wait is None:
                raise
        time.sleep(wait)
    raise AssertionError


def _of_the_disk(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno is not None  # errors of the hub have no number


def _told_to_wait(error: Any) -> int | None:
    seconds = str(error.response.headers.get("Retry-After", ""))
    return int(seconds) if seconds.isdecimal() else None


@contextmanager
def _hub(repository: str, revision: str | None, path: str = "") -> Generator[None, None, None]:
    """Turn what the client library raises into one line, and keep it from drawing its own progress bars."""
    from huggingface_hub import constants, errors
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    place = f"hf:{repository}" + (f"@{revision[:12]}" if revision else "") + (f":{path}" if path else "")
    try:
        yield
    except errors.GatedRepoError as error:
        raise DataError(
            f"hf:{repository}: is gated; accept its terms at {constants.ENDPOINT}/datasets/{repository}, and set "
            "HF_TOKEN to log in"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise DataError(
            f"hf:{repository}: the hub has no such data set, or it is private or gated; check the name, accept "
            "its terms on its page, or set HF_TOKEN to log in"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise DataError(f"{place}: the hub has no such revision; name a branch, a tag or a commit") from error
    except errors.RemoteEntryNotFoundError as error:
        raise DataError(f"{place}: the hub no longer has this file; choose another revision") from error
    except errors.HfHubHTTPError as error:
        raise DataError(f"{place}: {_answered(error)}") from error
    except errors.HFValidationError as error:
        raise DataError(f"hf:{repository}: is not the name of a data set; write hf:OWNER/NAME") from error
    except (errors.HTTPError, OSError) as error:  # pyright: ignore[reportPrivateImportUsage]
        if _of_the_disk(error):
            raise
        cause = error.__cause__ or error
        raise DataError(
            f"{place}: the hub cannot be reached at {constants.ENDPOINT} ({type(cause).__name__}); run again, "
            "finished work is kept"
        ) from error
    finally:
        if shown:
            enable_progress_bars()


def _answered(error: Any) -> str:
    status, told = error.response.status_code, _told_to_wait(error)
    if status in (401, 403):
        return f"the hub refuses with status {status}; set HF_TOKEN to a token that may read it"
    if status == 429 and told:
        return f"the hub asks us to wait for {duration(told)}; run again then, finished work is kept"
    return f"the hub answers with status {status}; run again later, finished work is kept"
