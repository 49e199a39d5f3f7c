"""Push a folder to a model repository on the Hugging Face hub, in one commit.

The client library asks the hub what it has, by file hashes, and sends what is missing. So a second call continues
where the first broke off, and a third has nothing to do.
"""

import sys
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypedDict

from gptlab.data.hugging_face_files import CONFIG
from gptlab.errors import ExportError
from gptlab.formats.huggingface.write import mark_of, read_mark

NO_TOKEN = (
    "there is no token for the Hugging Face hub; create one with write access in the hub's settings, and log in with "
    "`hf auth login`, or set HF_TOKEN"
)


class Pushed(TypedDict):
    """The state of the hub after a push."""

    repository: str
    url: str
    """Of the commit."""
    private: bool
    changed: bool
    """Whether the push changed anything."""


def open_repository(name: str, *, public: bool, of: str) -> None:
    """Create a repository, or check that an existing one may be used.

    Args:
        name: OWNER/NAME.
        public: whether others may see it.
        of: the fingerprint of the run or model to push.

    Raises:
        ExportError: nobody is logged in, the hub cannot be reached or refuses, the repository is public without
            `public`, or it holds another model.
    """
    from huggingface_hub import HfApi, get_token

    if not all(name.partition("/")):
        raise ExportError(f"{name}: is not the name of a repository; write OWNER/NAME")
    if get_token() is None:
        raise ExportError(f"{name}: {NO_TOKEN}")
    with _told(name):
        api = HfApi()
        api.create_repo(name, private=not public, exist_ok=True)
        info = api.model_info(name)
        if not info.private and not public:
            raise ExportError(
                f"{name}: exists and is public; pass --public to push to it, or choose another name"
            )
        if CONFIG in {file.rfilename for file in info.siblings or ()}:
            with tempfile.TemporaryDirectory() as folder:
                api.hf_hub_download(name, CONFIG, local_dir=folder)
                mark = read_mark(Path(folder))
                if mark is None:
                    raise ExportError(f"{name}: holds a model that gptlab did not write; choose another name")
                if mark_of(mark) not in (of, None):
                    raise ExportError(f"{name}: holds another model of gptlab's; choose another name")


def push(folder: Path, name: str, *, names: Sequence[str], message: str, public: bool) -> Pushed:
    """Send an export to an open repository.

    Args:
        folder: what to send.
        name: OWNER/NAME.
        names: files that an export may have; those that the folder lacks are deleted on the hub.
        message: of the commit.
        public: whether others may see it, once it is complete.

    Raises:
        ExportError: the hub cannot be reached or refuses, or the connection breaks.
    """
    from huggingface_hub import HfApi

    gone = [each for each in names if not (folder / each).exists()]
    with _told(name):
        api = HfApi()
        before = api.model_info(name)
        commit = api.upload_folder(
            repo_id=name,
            folder_path=folder,
            allow_patterns=list(names),
            delete_patterns=gone,
            commit_message=message,
        )
        if public and before.private:
            api.update_repo_settings(name, private=False)
    changed = commit.oid != before.sha
    return {"repository": name, "url": str(commit.commit_url), "private": not public, "changed": changed}


@contextmanager
def _told(name: str) -> Generator[None]:
    """Turn the client library's errors into one line without the token; show its bars only in a terminal."""
    from huggingface_hub import constants, errors
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from huggingface_hub.utils.logging import get_verbosity, set_verbosity, set_verbosity_error

    shown, verbosity = not are_progress_bars_disabled(), get_verbosity()
    set_verbosity_error()  # this module reports what matters
    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        yield
    except errors.HFValidationError:
        raise ExportError(f"{name}: is not the name of a repository; write OWNER/NAME") from None
    except errors.HfHubHTTPError as error:
        raise ExportError(f"{name}: {_answered(error)}") from None
    except (errors.HTTPError, OSError, RuntimeError, ValueError) as error:  # pyright: ignore[reportPrivateImportUsage]
        lost = (errors.HTTPError, ConnectionError, TimeoutError)  # pyright: ignore[reportPrivateImportUsage]
        cause = error if isinstance(error, lost) else error.__cause__ or error
        if isinstance(cause, errors.HfHubHTTPError):
            raise ExportError(f"{name}: {_answered(cause)}") from None
        if isinstance(cause, OSError) and cause.errno is not None and cause.filename is not None:
            raise  # an error of this machine's disk
        if isinstance(cause, lost):
            what = f"the connection to {constants.ENDPOINT} failed ({type(cause).__name__})"
        else:
            what = f"the upload failed ({type(cause).__name__}: {_without_token(str(cause))})"
        raise ExportError(
            f"{name}: {what}; what has arrived stays there, run again to send the rest"
        ) from None
    finally:
        set_verbosity(verbosity)
        if shown:
            enable_progress_bars()


def _answered(error: Any) -> str:
    status, said = error.response.status_code, _without_token(error.server_message or "")
    because = f' ("{said}")' if said else ""
    if status == 401:
        return (
            f"the hub does not accept the token{because}; log in again with `hf auth login`, or set HF_TOKEN"
        )
    if status == 403:
        return f"the token may not write there{because}; create one that may, or choose an OWNER of your own"
    return f"the hub answers with status {status}{because}; what has arrived stays there, run again later"


def _without_token(text: str) -> str:
    from huggingface_hub import get_token

    token = get_token()
    line = " ".join(text.split())
    return line.replace(token, "...") if token else line
