"""`python -m ms_assets publish`: a training goes to a model repository of a hub on loopback, whole, or not at all."""

import json

import dagster as dg
import faiss
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from huggingface_hub import ModelCard, constants

from ms_assets.__main__ import main
from ms_assets.defs.platform.lineage import Lineage, Made
from ms_assets.files import sha256
from ms_assets.settings import SplitSettings, TrainingSettings
from ms_assets.training.trained import Epoch, TrainedModel
from ms_assets_tests.loopback_hub import COMMIT, serve

REPO = "somebody/songs"
PUSHED = {"README.md", "song_embeddings.parquet", "song_index.faiss", "leaderboard.parquet", "settings.json"}
VECTORS = np.eye(3, dtype=np.float32)
FIGURES = [
    ("lightgcn", "all", 10, "ndcg", 0.125, 0.11, 0.14, 7),
    ("lightgcn", "discovery", 10, "recall", 0.0625, 0.05, 0.07, 7),
    ("lightgcn", "all", 10, "novelty", None, None, None, 0),
    ("lightgcn", "all", 10, "auc", 0.75, 0.7, 0.8, 7),
    ("popular", "all", 10, "ndcg", 0.5, 0.4, 0.6, 7),
]


class Home:
    """A home with what a training of `50m` leaves, by hand."""

    def __init__(self, folder, scale="50m", **events):
        self.data, self.scale = folder / "data", scale
        self.records = Lineage(self.data)
        tables = {"item_id": [5, 6, 7], "embedding": list(VECTORS), "cold": [False, False, True]}
        self.put("raw/multi_event", {"uid": [70_001]}, **{"source": "somebody/yambda", "revision": COMMIT, **events})
        self.put("raw/song_ids", {"item_id": [5, 6, 7], "song": ["a", "b", "c"]})
        self.put("splits/train", {"user_id": [0]}, "raw/multi_event", **SplitSettings().model_dump())
        self.train(seed=0)
        self.put("training/song_embeddings", tables, "training/lightgcn")
        self.put("retrieval/queries", {"uid": [70_001], "embedding": [VECTORS[0]]}, "training/lightgcn")
        index = faiss.IndexIDMap(faiss.IndexFlatIP(3))
        index.add_with_ids(VECTORS, np.array([5, 6, 7]))
        faiss.write_index(index, str(file := self.place("retrieval/song_index", ".faiss")))
        with file.open("ab") as end:  # what it was built from follows the index
            end.write(b"{}" + (2).to_bytes(8, "little"))
        self.note("retrieval/song_index", file, "training/lightgcn", "training/song_embeddings", "retrieval/queries")
        columns = ("method", "view", "k", "metric", "mean", "ci_low", "ci_high", "n_users")
        self.put("evaluation/leaderboard", pl.DataFrame(FIGURES, columns, orient="row"), "retrieval/queries")

    def train(self, **settings):
        epoch = Epoch(1, 0.5, 0.1, 0.01, 1.0)
        model = TrainedModel(TrainingSettings(**settings), {}, epoch, [epoch])
        torch.save(model.to_dict(), file := self.place("training/lightgcn", ".pt"))
        self.note("training/lightgcn", file, "splits/train")

    def place(self, key, ending):
        file = self.data / key / f"{self.scale}{ending}"
        file.parent.mkdir(parents=True, exist_ok=True)
        return file

    def put(self, key, table, *inputs, **metadata):
        file = self.place(key, ".parquet")
        pq.write_table(table.to_arrow() if isinstance(table, pl.DataFrame) else pa.table(table), file)
        self.note(key, file, *inputs, **metadata)

    def note(self, key, file, *inputs, **metadata):
        made = self.records.inputs(map(dg.AssetKey.from_user_string, inputs), self.scale)
        told = {"name": file.name, "version": sha256(file), "run_id": "run"}
        self.records.note(
            dg.AssetKey.from_user_string(key), self.scale, Made.of(file, made, self.scale, metadata, **told)
        )

    def content(self, key, ending=".parquet"):
        return self.place(key, ending).read_bytes()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with serve(tmp_path / "hub", "nothing/here") as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        monkeypatch.setenv("MS_ASSETS_HOME", str(tmp_path / "home"))
        yield hub


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home")


@pytest.fixture
def publish(capsys):
    def command(*options, scale="50m"):
        with pytest.raises(SystemExit) as end:
            main(["publish", scale, "--repo", REPO, *options])
        status = end.value.code or 0
        return (1, status) if isinstance(status, str) else (status, capsys.readouterr().out)

    return command


def test_without_yes_it_tells_what_it_would_push_and_asks_the_hub_for_nothing(hub, home, publish):
    status, said = publish()
    assert status == 0 and hub.requests == []
    sizes = {name: int(size.replace(",", "")) for size, _, name in map(str.split, said.splitlines()[:-1])}
    assert sizes.keys() == PUSHED
    assert sizes["song_index.faiss"] == len(home.content("retrieval/song_index", ".faiss"))
    last = said.splitlines()[-1]
    assert last == f"not pushed; to push {sum(sizes.values()):,} bytes to {hub.endpoint}/{REPO}: add --yes"


def test_one_commit_brings_the_files_byte_for_byte_without_users_and_a_card_in_the_hubs_form(hub, home, publish):
    status, said = publish("--yes")
    assert (status, hub.commits) == (0, 1)
    assert said.splitlines()[-1] == f"pushed: {hub.endpoint}/{REPO}/commit/{COMMIT}"
    [made] = hub.made
    assert (made["organization"], made["name"], made["visibility"]) == ("somebody", "songs", "private")
    files = hub.models[REPO]
    assert files.keys() == PUSHED | {".gitattributes"}
    assert files["song_embeddings.parquet"] == home.content("training/song_embeddings")
    assert files["leaderboard.parquet"] == home.content("evaluation/leaderboard")
    index = faiss.deserialize_index(np.frombuffer(files["song_index.faiss"], np.uint8))
    assert index.search(VECTORS[1:2], 1)[1].tolist() == [[6]]
    assert all(b"70001" not in content and b"70_001" not in content for content in files.values())
    settings = json.loads(files["settings.json"])
    assert settings["training"]["seed"] == 0 and settings["split"]["train_ratio"] == SplitSettings().train_ratio
    assert settings["versions"]["training/lightgcn"] == sha256(home.place("training/lightgcn", ".pt"))
    assert {request.token for request in hub.requests if request.method == "POST"} == {"Bearer hf_secret"}

    card = ModelCard(files["README.md"].decode())
    assert (card.data.library_name, card.data.datasets, card.data.model_name) == (
        "ms_assets", ["somebody/yambda"], "songs"
    )  # fmt: skip
    found = {(each.metric_type, each.metric_args["view"], each.metric_args["k"]): each for each in
             card.data.eval_results}  # fmt: skip
    assert {key: each.metric_value for key, each in found.items()} == {
        ("ndcg", "all", 10): 0.125, ("recall", "discovery", 10): 0.0625,
    }  # fmt: skip
    each = found["ndcg", "all", 10]
    assert (each.dataset_type, each.dataset_config, each.dataset_split) == ("somebody/yambda", "50m", "test")
    assert each.dataset_revision == COMMIT
    assert "| all | 10 | ndcg | 0.1250 | 0.1100 | 0.1400 | 7 |" in card.text
    assert "No file holds users, neither their ids nor their vectors." in card.text


def test_users_are_pushed_on_request_and_removed_by_the_next_push_without_them(hub, home, publish):
    publish("--with-users", "--yes")
    assert hub.models[REPO].keys() == PUSHED | {".gitattributes", "queries.parquet"}
    assert hub.models[REPO]["queries.parquet"] == home.content("retrieval/queries")
    assert b"Vectors of users are in `queries.parquet`" in hub.models[REPO]["README.md"]
    hub.models[REPO]["notes.md"] = b"somebody's own"
    publish("--yes")
    assert hub.models[REPO].keys() == PUSHED | {".gitattributes", "notes.md"}


def test_imported_songs_keep_their_ids_and_the_folder_of_the_data_stays_unnamed(hub, tmp_path, publish):
    home = Home(tmp_path / "home", "own", source="/home/me/data", revision="local folder")
    publish("--yes", scale="own")
    files = hub.models[REPO]
    assert files["song_ids.parquet"] == home.content("raw/song_ids")
    assert all(b"/home/me" not in content for content in files.values())
    card = ModelCard(files["README.md"].decode())
    assert (card.data.datasets, {each.dataset_type for each in card.data.eval_results}) == (None, {"own"})


def test_artefacts_of_two_trainings_are_refused_with_the_one_to_make_again(hub, home, publish):
    home.train(seed=1)
    status, said = publish("--yes")
    assert status == 1 and hub.requests == []
    assert "do not belong together: they come from two versions of training/lightgcn; materialise" in said


def test_missing_artefacts_are_named(hub, home, publish):
    for key, ending in (("retrieval/song_index", ".faiss"), ("evaluation/leaderboard", ".parquet")):
        home.place(key, ending).unlink()
    assert publish("--yes") == (1, "materialise retrieval/song_index, evaluation/leaderboard for 50m first")
    assert hub.requests == []


def test_a_repository_without_an_owner_is_refused(hub, home, publish):
    said = publish("--repo", "songs")
    assert said == (1, "--repo: found 'songs', expected OWNER/NAME of a model repository")


def test_without_a_token_it_says_what_to_set(hub, home, publish, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    advice = f"Set HF_TOKEN to a token that may write to {REPO}, or run `hf auth login`."
    assert publish("--yes") == (1, f"{REPO}: no token of the hub is set. {advice}")
    assert hub.requests == []


def test_a_hub_that_refuses_keeps_what_it_has_and_what_was_sent_is_not_sent_again(hub, home, publish):
    hub.models[REPO] = before = {"README.md": b"a former training"}
    hub.statuses["POST"] = [0, 0, 0, 0, 403]  # the commit, after all files
    status, said = publish("--yes")
    assert status == 1 and hub.models[REPO] == before and len(hub.large) == 3
    assert said.startswith(f"{REPO}: the hub did not take the files (") and "Set HF_TOKEN to a token" in said
    assert "hf_secret" not in said
    hub.requests.clear()
    assert publish("--yes")[0] == 0
    assert [request for request in hub.requests if request.method == "PUT"] == []
    assert hub.models[REPO].keys() == PUSHED
