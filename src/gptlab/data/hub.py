"""The Hugging Face hub: a data set's files, listed at one commit and downloaded."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from gptlab.errors import DataError

PATIENCE = 5  # how often a hub that is too busy is asked again
LONGEST_WAIT_S = 300.0

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class HubFile:
    """A file of a repository."""

    path: str
    """Where it lies in the repository."""
    bytes: int
    """Its size."""
    sha256: str | None
    """Of its content; None where the hub knows none, as of small files of text."""


def list_files(repository: str, revision: str | None) -> tuple[str, list[HubFile], list[dict[str, Any]]]:
    """List a data set's files.

    Returns:
        The commit they are of, the files, and the configurations that the data set's card names.

    Raises:
        DataError: the hub cannot be reached, or has no such data set or revision for us.
    """
    from huggingface_hub import HfApi

    info = _ask(repository, lambda: HfApi().dataset_info(repository, revision=revision, files_metadata=True))
    card: dict[str, Any] = info.card_data.to_dict() if info.card_data else {}
    files = [
        HubFile(file.rfilename, file.size or 0, file.lfs.sha256 if file.lfs else None)
        for file in info.siblings or ()
    ]
    return info.sha or "", files, card.get("configs") or []


def download(repository: str, commit: str, path: str, folder: Path) -> Path:
    """Download a file into a folder, or the rest of it where a part is there.

    Raises:
        DataError: the hub cannot be reached, or has no such file for us.
    """
    from huggingface_hub import hf_hub_download

    def fetch() -> str:
        return hf_hub_download(repository, path, repo_type="dataset", revision=commit, local_dir=folder)

    return Path(_ask(repository, fetch))


def _ask(repository: str, question: Callable[[], Answer]) -> Answer:
    """Ask the hub something; one that is too busy is asked again when it says so."""
    from huggingface_hub import errors
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        for asked in range(PATIENCE + 1):
            try:
                return question()
            except errors.HfHubHTTPError as error:
                if error.response.status_code not in (429, 503) or asked == PATIENCE:
                    raise
                time.sleep(_wait_s(error.response.headers.get("Retry-After"), asked))
        raise AssertionError("the last question was answered or raised")
    except errors.RepositoryNotFoundError as error:
        raise DataError(
            f"hf:{repository}: the hub has no such data set, or it is private or gated; check the name, accept "
            "its terms on its page, or log in: set HF_TOKEN"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise DataError(
            f"hf:{repository}: the hub has no such revision of it; leave @REVISION out"
        ) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        raise DataError(f"hf:{repository}: the hub answers with status {status}; try again later") from error
    except (errors.HTTPError, OSError) as error:  # pyright: ignore[reportPrivateImportUsage]
        if isinstance(error, OSError) and error.errno is not None:  # the disk's, not the hub's
            raise
        raise DataError(
            f"hf:{repository}: the hub cannot be reached ({type(error).__name__}); what is there stays, run again"
        ) from error
    finally:
        if shown:
            enable_progress_bars()


def _wait_s(retry_after: str | None, asked: int) -> float:
    seconds = float(retry_after) if retry_after and retry_after.isdecimal() else 2.0**asked
    return min(seconds, LONGEST_WAIT_S)
