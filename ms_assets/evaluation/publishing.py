"""Publication of a training on the Hugging Face Hub: its files, its model card, and one commit of both."""

import json
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from ms_assets import pictures
from ms_assets.evaluation.leaderboard import SHOWN

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

CARD, SETTINGS = "README.md", "settings.json"
INDEX, SONGS, USERS, OWN_SONGS, BOARD = (
    "song_index.faiss",
    "song_embeddings.parquet",
    "queries.parquet",
    "song_ids.parquet",
    "leaderboard.parquet",
)
FILES = {
    SONGS: "a vector for each song: `item_id`, `embedding`, `cold` (true for songs that nobody had heard)",
    INDEX: "Faiss index of all songs by inner product; its ids are `item_id`s",
    OWN_SONGS: "the song that each `item_id` stands for in the data",
    USERS: "a vector for each user, by which the index is searched: `uid`, `embedding`",
    BOARD: "means of all methods by view, metric and K, with 95 % intervals over users",
    SETTINGS: "settings of the training and of the division, and the versions of all data behind it",
}
"""Files of a publication beside the card, by name, with their contents."""
TOKEN = "Set HF_TOKEN to a token that may write to {repo}, or run `hf auth login`."
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
TAGS = ["recommendation", "music", "lightgcn", "graph-neural-network", "faiss"]


class PublishError(RuntimeError):
    """A training cannot be pushed; the message says what is missing, or what the hub answered."""


@dataclass(frozen=True)
class Publication:
    """Training of a scale with its figures, as it goes to a model repository."""

    repo: str
    """Owner and name of the repository."""
    scale: str
    artefacts: Mapping[str, Path]
    """Files of the training by their names in FILES."""
    settings: Mapping[str, Any]
    """Content of SETTINGS."""
    board: pl.DataFrame
    """Table evaluation/leaderboard."""
    source: str
    """Dataset of the hub that the events come from; another source has no commit and is not named."""
    revision: str
    """Commit of the dataset."""

    def contents(self) -> dict[str, Path | bytes]:
        """Files to push by name: those that are there, or their content."""
        settings = json.dumps(self.settings, indent=1, sort_keys=True).encode()
        return {CARD: self.card().encode(), **self.artefacts, SETTINGS: settings}

    def card(self) -> str:
        """Model card: the hub's metadata in YAML, then what the files are, figures, and how to use them."""
        from huggingface_hub import ModelCardData

        data = ModelCardData(
            library_name="ms_assets",
            tags=TAGS,
            pipeline_tag="graph-ml",
            datasets=[self.source] if self._on_hub else None,
            model_name=self.repo.partition("/")[2],
            eval_results=self._results(),
        )
        return f"---\n{data.to_yaml()}\n---\n\n{self._text()}"

    @property
    def _on_hub(self) -> bool:
        from ms_assets.raw.hub import COMMIT

        return COMMIT.fullmatch(self.revision) is not None

    def _figures(self) -> pl.DataFrame:
        """Main figures of LightGCN."""
        found = self.board.filter(pl.col("metric").is_in(SHOWN), method="lightgcn").drop_nulls("mean")
        return found.sort("view", "k", "metric")

    def _results(self) -> "list[EvalResult]":
        from huggingface_hub import EvalResult

        return [
            EvalResult(
                task_type="recommendation",
                dataset_type=self.source if self._on_hub else self.scale,
                dataset_name=f"{self.source}, {self.scale}" if self._on_hub else self.scale,
                dataset_config=self.scale,
                dataset_split="test",
                dataset_revision=self.revision if self._on_hub else None,
                metric_type=row["metric"],
                metric_name=f"{row['metric']}@{row['k']}, view {row['view']}",
                metric_value=row["mean"],
                metric_args={"k": row["k"], "view": row["view"]},
            )
            for row in self._figures().iter_rows(named=True)
        ]

    def _text(self) -> str:
        data = f"{self.source} at commit {self.revision}" if self._on_hub else "data that are not on the hub"
        figures = self._figures().select("view", "k", "metric", "mean", "ci_low", "ci_high", "n_users")
        listed = "\n".join(f"| `{name}` | {FILES[name]} |" for name in (*self.artefacts, SETTINGS))
        return TEXT.format(
            repo=self.repo, scale=self.scale, data=data, files=listed, figures=pictures.table_to_markdown(figures),
            users=WITH_USERS if USERS in self.artefacts else WITHOUT_USERS,
        )  # fmt: skip


WITH_USERS = "Vectors of users are in `queries.parquet`, by numbers; it holds no names and no events."
WITHOUT_USERS = "No file holds users, neither their ids nor their vectors."
TEXT = """# {repo}

LightGCN, a graph neural network, over who heard which song: vectors of songs, such that users lie near the songs that
they listen to. Trained by `ms_assets` on the scale `{scale}` of {data}. {users}

| file | |
|---|---|
{files}

## Figures

Means over users of the test part. View `all`: any song may be recommended; `discovery`: songs that the user has not
heard before.

{figures}

## Use

```python
import faiss
import polars as pl
from huggingface_hub import snapshot_download

folder = snapshot_download("{repo}")
songs = pl.read_parquet(f"{{folder}}/song_embeddings.parquet")
index = faiss.read_index(f"{{folder}}/song_index.faiss")
scores, item_ids = index.search(songs["embedding"].to_numpy()[:1], 10)  # songs like the first one
```
"""


def target(repo: str) -> str:
    """Address of a model repository.

    Raises:
        PublishError: its name is none.
    """
    from huggingface_hub import constants

    if not REPOSITORY.fullmatch(repo):
        raise PublishError(f"--repo: found {repo!r}, expected OWNER/NAME of a model repository")
    return f"{constants.ENDPOINT}/{repo}"


def push(publication: Publication) -> str:
    """Push a publication as one commit, and return its address; a repository that is not there is made, private.

    Files of an earlier publication that this one lacks are removed by the same commit. What the hub has already is not
    sent again, so that the same call goes on where a broken one ended.

    Raises:
        PublishError: there is no token, or the hub does not take the files.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token

    repo = publication.repo
    if not (token := get_token()):
        raise PublishError(f"{repo}: no token of the hub is set. {TOKEN.format(repo=repo)}")
    api = HfApi(token=token)
    with _explaining(repo):
        api.create_repo(repo, private=True, exist_ok=True)
        contents = publication.contents()
        there = {file.rfilename for file in api.model_info(repo).siblings or ()}
        added = [CommitOperationAdd(name, content) for name, content in contents.items()]
        gone = [CommitOperationDelete(name) for name in sorted(there & FILES.keys() - contents.keys())]
        done = api.create_commit(repo, [*added, *gone], commit_message=f"Training of the scale {publication.scale}")
    return str(done.commit_url)


@contextmanager
def _explaining(repo: str) -> Iterator[None]:
    from huggingface_hub.errors import HfHubHTTPError

    from ms_assets.raw.transfer import one_line

    try:
        # The client takes tables for data sets, which have repositories of their own.
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            yield
    except Exception as error:  # the client passes on errors of its HTTP library, which has changed before
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
        advice = TOKEN.format(repo=repo) if status in (401, 403) else "The same command goes on where this one ended."
        raise PublishError(f"{repo}: the hub did not take the files ({one_line(error)}). {advice}") from error
