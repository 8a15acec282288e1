"""Files of a dataset on the Hugging Face Hub."""

import logging
from pathlib import Path

logger = logging.getLogger(__name__)


class HubError(RuntimeError):
    """The hub could not give a file."""


def resolve_revision(dataset: str, revision: str) -> str:
    """The commit that a branch, tag or commit of the dataset names today.

    Raises:
        HubError: the hub cannot be reached, or it has no such dataset or revision.
    """
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(dataset, revision=revision).sha or revision
    except Exception as error:  # the client lets errors of its HTTP library through, which has changed before
        raise _explained(dataset, revision, error) from error


def download(dataset: str, commit: str, file: str) -> Path:
    """One file of the dataset at a commit, in the hub's own cache (`HF_HOME`), fetched only when not there yet.

    Raises:
        HubError: the hub cannot be reached, or the dataset has no such file.
    """
    from huggingface_hub import hf_hub_download

    logger.info("fetching %s of %s at %s", file, dataset, commit[:12])
    try:
        return Path(hf_hub_download(dataset, file, repo_type="dataset", revision=commit))
    except Exception as error:  # the client lets errors of its HTTP library through, which has changed before
        raise _explained(f"{dataset}/{file}", commit, error) from error


def _explained(what: str, revision: str, error: Exception) -> HubError:
    return HubError(
        f"{what} at revision {revision}: the hub gave none ({type(error).__name__}: {error}). "
        "Offline, point MS_ASSETS_SOURCE at a folder that holds the dataset in the hub's layout."
    )
