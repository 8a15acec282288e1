"""Data with planted taste, audio and artists: what songs are known by helps warm songs, and carries cold ones."""

import numpy as np
import polars as pl
import pytest

from ms_assets.defs.platform.scales import SCALE_DEFAULTS
from ms_assets.interactions import Interactions
from ms_assets.raw.sample import SampleShape, generate
from ms_assets.retrieval import cold_start
from ms_assets.retrieval.dataset import Dataset
from ms_assets.retrieval.tuning import Tuner
from ms_assets.settings import TrainingSettings
from ms_assets.vectors import Ragged, vector_column

pytestmark = pytest.mark.slow
SHAPE = SampleShape(seed=11, n_users=1_000, n_songs=20_000, n_listens=300_000, fresh=0.2)
USERS = {"min_events": 40, "max_events": 5_000}
TRAINING = SCALE_DEFAULTS["sample"][TrainingSettings]
ONE_TEMPERATURE = {"temperature": 0.15}
"""Both models differ in what they know alone, and nobody has to wait for the race of temperatures."""
NOTHING_KNOWN = {"audio": False, "metadata": False, "song_residual": True}
K_WARM, K_COLD = 10, 100


class Trained:
    """Embeddings of one training, and what the test part holds that users have not heard in train."""

    def __init__(self, platform):
        tables = {name: platform.file(f"training/{name}_embeddings") for name in ("user", "song")}
        self.users, self.songs = (
            vector_column(pl.read_parquet(file).to_arrow(), "embedding") for file in tables.values()
        )
        graph = platform.graph()
        self.audio, self.n_warm = graph["song"].x.numpy(), int(graph["song"].in_graph.sum())
        self.heard = graph["user", "interacts", "song"].edge_index.numpy()
        truth = pl.DataFrame(platform.rows("splits/ground_truth"))
        positive = truth.filter((pl.col("split") == "test") & (pl.col("base_relevance") > 0))
        self.targets = np.zeros((len(self.users), len(self.songs)), bool)
        self.targets[positive["user_id"], positive["song_id"]] = True
        self.targets[*self.heard] = False
        self.artists = Ragged(graph["song"].artist_ids.numpy(), graph["song"].artist_offsets.numpy())
        self.known = self._of_known_artists(graph["song"])
        self.tuner = self._tuner(truth.filter(pl.col("split") == "validation"))

    def _tuner(self, validation):
        user, song, relevance = (validation[name].to_numpy() for name in ("user_id", "song_id", "adjusted_relevance"))
        users, songs = np.arange(len(self.users)), np.arange(len(self.songs))
        shape = len(users), len(songs)
        wanted = Interactions.of(user, song, *shape, relevance=relevance)
        return Tuner.of(Dataset(users, songs, self.n_warm, Interactions.of(*self.heard, *shape), validation=wanted))

    def _of_known_artists(self, songs):
        lists = np.split(songs.artist_ids.numpy(), songs.artist_offsets.numpy()[1:-1])
        heard = set(np.concatenate(lists[: self.n_warm]).tolist())
        return np.array([bool(heard.intersection(artists.tolist())) for artists in lists])

    @property
    def warm(self):
        return np.arange(len(self.songs)) < self.n_warm

    def taste_in_audio(self):
        """Each user's mean audio vector, what content-based recommendation searches with."""
        total = np.zeros((len(self.users), self.audio.shape[1]), np.float32)
        np.add.at(total, self.heard[0], self.audio[self.heard[1]])
        return total

    def found(self, scores, wanted, candidates, k):
        """Whether each of a user's k best candidates is wanted of them, and how many are wanted; users with any."""
        scores, targets = scores.copy(), self.targets & wanted
        scores[*self.heard], scores[:, ~candidates] = -np.inf, -np.inf
        best = np.argsort(-scores, axis=1)[:, :k]
        some = targets.any(axis=1)
        return np.take_along_axis(targets, best, axis=1)[some], targets.sum(axis=1)[some]

    def recall(self, scores, wanted, candidates, k):
        hits, n_wanted = self.found(scores, wanted, candidates, k)
        return (hits.sum(axis=1) / n_wanted).mean()

    def ndcg(self, scores, wanted, candidates, k):
        hits, n_wanted = self.found(scores, wanted, candidates, k)
        gain = 1 / np.log2(np.arange(2, k + 2))
        return (hits @ gain / np.cumsum(gain)[np.minimum(n_wanted, k) - 1]).mean()


@pytest.fixture(scope="module")
def platform(platform_at, tmp_path_factory):
    platform = platform_at(tmp_path_factory.mktemp("planted"))
    generate(platform.source, SHAPE, scale="50m")
    wanted = ("graph/bipartite_graph", "splits/ground_truth", "splits/negatives", "splits/validation")
    platform.materialise(*wanted, config={"splits__users": USERS})
    return platform


def trained(platform, **changed):
    keys = [f"training/{name}" for name in ("lightgcn", "user_embeddings", "song_embeddings")]
    platform.materialise(*keys, config={"training__lightgcn": {**TRAINING, **ONE_TEMPERATURE, **changed}}, alone=True)
    return Trained(platform)


@pytest.fixture(scope="module")
def knowing(platform):
    return trained(platform)


@pytest.fixture(scope="module")
def unknowing(platform, knowing):  # after the other, whose files it replaces
    return trained(platform, **NOTHING_KNOWN)


def test_by_audio_and_metadata_more_of_the_warm_songs_are_found(knowing, unknowing):
    recall = [m.recall(m.users @ m.songs.T, m.warm, m.warm, K_COLD) for m in (knowing, unknowing)]
    # 1.19 and 1.26 times as many with seeds 0 and 1: by the bound no seed is left to chance, on any processor.
    assert recall[0] > 1.1 * recall[1] > 0


def test_by_audio_and_metadata_songs_that_few_have_heard_are_ranked_twice_as_well(knowing, unknowing):
    n_edges = np.bincount(knowing.heard[1], minlength=len(knowing.songs))
    rare = knowing.warm & (n_edges <= np.median(n_edges[knowing.warm]))
    ndcg = [m.ndcg(m.users @ m.songs.T, rare, rare, K_WARM) for m in (knowing, unknowing)]
    assert ndcg[0] > 2 * ndcg[1] > 0


def test_cold_songs_are_found_ten_times_as_often_as_by_raw_audio_in_the_trained_space(knowing):
    raw = np.concatenate([knowing.songs[: knowing.n_warm], knowing.audio[knowing.n_warm :]])
    everything = np.ones(len(raw), bool)
    found, by_raw_audio = (
        knowing.recall(knowing.users @ songs.T, ~knowing.warm, everything, K_COLD) for songs in (knowing.songs, raw)
    )
    assert found >= 10 * by_raw_audio
    assert found > 3 * K_COLD / len(raw)


def test_cold_songs_of_known_artists_are_found_at_least_as_often_as_by_content(knowing):
    cold = ~knowing.warm & knowing.known
    model, content = (
        knowing.recall(scores, cold, cold, K_COLD)
        for scores in (knowing.users @ knowing.songs.T, knowing.taste_in_audio() @ knowing.audio.T)
    )
    assert cold.sum() > 300
    assert model >= content > K_COLD / cold.sum()


def test_placed_by_artist_and_calibrated_cold_songs_are_found_more_often_still(knowing):
    n, users = knowing.n_warm, knowing.users
    trained, everything = knowing.songs[:n], np.ones(len(knowing.songs), bool)
    placed, _ = cold_start.directions(knowing.songs[n:], trained, knowing.artists)
    fit = cold_start.calibrate(users, trained, placed, knowing.tuner)
    by_encoding, by_raw_audio, calibrated = (
        knowing.recall(users @ np.concatenate([trained, cold]).T, ~knowing.warm, everything, K_COLD)
        for cold in (knowing.songs[n:], knowing.audio[n:], fit.length * placed)
    )
    assert calibrated > 1.1 * by_encoding
    assert calibrated >= 10 * by_raw_audio
    assert abs(fit.share_after - fit.wanted_share) < 1e-3 < abs(fit.share_before - fit.wanted_share)
