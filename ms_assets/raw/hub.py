"""Download of a dataset's files from the Hugging Face Hub into the hub client's cache, each once and verified."""

import logging
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from huggingface_hub import HfApi, constants, get_hf_file_metadata, hf_hub_url, is_offline_mode
from huggingface_hub.errors import HfHubHTTPError

from ms_assets.files import flush, published, sha256, size_of
from ms_assets.raw.hub_cache import content_of, link_of, locked, reference
from ms_assets.raw.transfer import (
    MB,
    REQUEST_ATTEMPTS,
    HubError,
    may_pass,
    one_line,
    receive,
    with_retries,
)

logger = logging.getLogger(__name__)
COMMIT = re.compile("[0-9a-f]{40}")
GB = 1e9
SHA256 = re.compile("[0-9a-f]{64}")


def resolve_revision(dataset: str, revision: str, attempts: int = REQUEST_ATTEMPTS) -> str:
    """Resolve a branch or tag of the dataset to the commit that it names today; a full commit is returned as it is.

    Raises:
        HubError: the hub cannot be reached, or it has no such dataset or revision.
    """
    if COMMIT.fullmatch(revision):
        return revision
    what = f"{dataset} at revision {revision}"
    timeout = constants.HF_HUB_ETAG_TIMEOUT
    with _explaining(what):
        info = with_retries(what, lambda: HfApi().dataset_info(dataset, revision=revision, timeout=timeout), attempts)
        if not COMMIT.fullmatch(info.sha or ""):
            raise HubError(f"{what}: the hub answered {info.sha!r}; expected a commit of 40 hexadecimal digits")
        return str(info.sha)


def commit_to_read(dataset: str, revision: str) -> str:
    """Resolve a branch or tag as the client does: offline (`HF_HUB_OFFLINE`) to the commit that the cache has for it.

    Otherwise the hub is asked, and the cache learns the commit unless it has one, for tools that are offline later.
    """
    known = reference(dataset, revision)
    if is_offline_mode() and known.is_file():
        return known.read_text().strip()
    commit = resolve_revision(dataset, revision)
    if commit != revision and not known.exists():
        with suppress(OSError), published(known) as unfinished:  # the cache may be another's, for reading alone
            unfinished.write_text(commit)
    return commit


def download(dataset: str, commit: str, file: str, verified: Path) -> Path:
    """Fetch one file of the dataset at a commit into the hub client's cache (`HF_HOME`).

    A cached file with the right SHA-256 is taken without asking the hub, whoever put it there. Otherwise the download
    goes into a partial file, resumes where an earlier attempt broke off, and gets its name once size and SHA-256 are
    right. `verified` is a folder of small notes on the files whose SHA-256 was right.

    Raises:
        HubError: the hub cannot be reached, has no such file or gives a wrong one, or the disk is too small.
    """
    what = f"{dataset}/{file} at revision {commit[:12]}"
    link = link_of(dataset, commit, file)
    with _explaining(what):
        if link.is_symlink() and _is_whole(content_of(dataset, link.readlink().name), verified):
            return link
        url = hf_hub_url(dataset, file, repo_type="dataset", revision=commit)
        stated, size = _published(what, url)
        blob = content_of(dataset, stated)
        with locked(dataset, stated):
            for folder in (blob.parent, link.parent):
                folder.mkdir(parents=True, exist_ok=True)
            if not _is_whole(blob, verified):
                blob.unlink(missing_ok=True)
                _fetch(what, url, size, blob)
                _note(blob, verified)
            link.unlink(missing_ok=True)
            link.symlink_to(os.path.relpath(blob, link.parent))
    return link


def _published(what: str, url: str) -> tuple[str, int]:
    """SHA-256 and size in bytes that the hub states for a file."""
    metadata = with_retries(what, lambda: get_hf_file_metadata(url))
    if not SHA256.fullmatch(metadata.etag or "") or metadata.size is None:
        raise HubError(
            f"{what}: the hub states ETag {metadata.etag!r} and size {metadata.size}; "
            "expected a sha256 and bytes, without which nothing can be verified"
        )
    return str(metadata.etag), metadata.size


def _is_whole(blob: Path, verified: Path) -> bool:
    """True if a cached file has the content that its name states; its SHA-256 is computed once, then remembered."""
    if not blob.is_file() or not SHA256.fullmatch(blob.name):
        return False
    note = verified / blob.name
    if note.is_file() and note.read_text() == _fingerprint(blob):
        return True
    logger.info("verifying %s, which is in the cache", blob)
    found = sha256(blob)
    if found == blob.name:
        _note(blob, verified)
        return True
    logger.warning("%s has sha256 %s; it is not used but fetched again", blob, found)
    return False


def _note(blob: Path, verified: Path) -> None:
    with published(verified / blob.name) as note:
        note.write_text(_fingerprint(blob))


def _fingerprint(blob: Path) -> str:
    status = blob.stat()
    return f"{status.st_size} {status.st_mtime_ns}"


def _fetch(what: str, url: str, size: int, blob: Path) -> None:
    """Download a file beside its place, verify it, move it there; a broken attempt's bytes are kept for the next."""
    # A fixed name, so that a killed process's bytes are found; `hf cache prune` knows its ending.
    partial = blob.with_name(f"{blob.name}.resumable.incomplete")
    if size_of(partial) > size:
        partial.unlink()
    here, started = size_of(partial), time.monotonic()
    _require_space(what, blob.parent, size - here)
    logger.info("fetching %s: %.1f MB, of which %.1f MB are here", what, size / MB, here / MB)
    try:
        receive(what, url, partial, size)
        flush(partial)
    except Exception as error:
        raise _explained(what, error, f" The next run resumes from {size_of(partial)} of {size} bytes.") from error
    seconds = max(time.monotonic() - started, 1e-3)
    logger.info("received %s at %.1f MB/s; verifying it", what, (size - here) / MB / seconds)
    found = sha256(partial)
    if found != blob.name:
        partial.unlink()
        raise HubError(f"{what}: arrived with sha256 {found}; expected {blob.name}. The next run starts over.")
    partial.replace(blob)
    flush(blob.parent)


def _require_space(what: str, folder: Path, missing: int) -> None:
    free = shutil.disk_usage(folder).free
    if missing > free:
        raise HubError(
            f"{what}: {missing / GB:.2f} GB are still missing, but {folder} has {free / GB:.2f} GB free; "
            "make room, or point HF_HOME at a larger disk."
        )


@contextmanager
def _explaining(what: str) -> Iterator[None]:
    try:
        yield
    except HubError:
        raise
    except Exception as error:  # the client passes on errors of its HTTP library, which has changed before
        raise _explained(what, error) from error


def _explained(what: str, error: Exception, resume: str = "") -> HubError:
    if isinstance(error, HubError):
        return HubError(f"{what}: {error}.{resume}")
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if status in (401, 403):
        advice = "The dataset is private or gated, or there is none: accept its terms on the hub and set HF_TOKEN."
    elif status == 404:
        advice = "Check MS_ASSETS_SOURCE (the dataset) and MS_ASSETS_REVISION."
    elif status is None and isinstance(error, OSError) and not isinstance(error, ConnectionError):
        place = "" if error.filename else f" in {constants.HF_HUB_CACHE}"
        return HubError(f"{what}: cannot be stored{place} ({one_line(error)}).{resume}")
    else:
        advice = "Offline, point MS_ASSETS_SOURCE at a folder that holds the dataset in the hub's layout."
    return HubError(f"{what}: the hub did not give it ({one_line(error)}).{resume} {advice}", may_pass(error))
