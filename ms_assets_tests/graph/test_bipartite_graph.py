"""The PyG graph holds what the tables say, and loads without running code."""

import dagster as dg
import duckdb
import numpy as np
import pyarrow as pa
import pytest
import torch

from ms_assets.graph import bipartite
from ms_assets.graph.bipartite import bipartite_graph, song_audio
from ms_assets.machine import NotEnoughMemoryError
from ms_assets_tests.worlds import CODES, DAY, Rules, World, listen, reaction, unit_vector

T = 26_000_000 - DAY
EVENTS = [
    listen(4, 0, 20, 30),
    listen(4, 1, 20, None),
    reaction("like", 4, 2, 30),
    listen(9, 0, 30),
    reaction("dislike", 9, 1, 10),
    listen(4, T, 40),
]
WORLD = World(EVENTS, [40, 10, 30, 20], artists=[(2, 30), (1, 30), (1, 10)], albums=[(8, 20)])


@pytest.fixture(scope="module")
def built(tmp_path_factory, platform_at):
    platform = platform_at(tmp_path_factory.mktemp("graph"))
    platform.split(WORLD, Rules(protocol="global_temporal"), "graph/statistics")
    return platform


@pytest.fixture(scope="module")
def graph(built):
    return built.graph()


def test_nodes_stand_in_the_order_of_dense_ids(graph):
    assert graph["user"].uid.tolist() == [4, 9]
    assert graph["user"].num_nodes == 2
    assert graph["song"].item_id.tolist() == [20, 30, 10, 40]
    assert graph["song"].in_graph.tolist() == [True, True, False, False]


def test_a_song_has_its_own_normalised_audio(graph):
    assert graph["song"].x.dtype == torch.float32
    assert graph["song"].x.tolist() == [unit_vector(item_id) for item_id in (20, 30, 10, 40)]


def test_a_song_has_all_its_artists_and_albums(graph):
    song = graph["song"]
    assert song.artist_offsets.tolist() == [0, 0, 2, 3, 3]
    assert song.artist_ids.tolist() == [0, 1, 0]
    assert song.album_offsets.tolist() == [0, 1, 1, 1, 1]
    assert song.album_ids.tolist() == [0]


def test_edges_carry_type_count_ratio_and_weight(graph, built):
    edges = graph["user", "interacts", "song"]
    ends = list(zip(*edges.edge_index.tolist(), strict=True))
    found = dict(zip(ends, edges.edge_attr.tolist(), strict=True))
    assert found == {
        (0, 0): pytest.approx([1, 2, 0.3, 0.7]),
        (0, 1): pytest.approx([2, 1, 1.0, 1.0]),
        (1, 1): pytest.approx([1, 1, 1.0, 0.7]),
    }


def test_the_graph_comes_back_through_dagster_as_it_lies_in_the_file(built, graph):
    key = dg.AssetKey(["graph", "bipartite_graph"])
    loaded = built.definitions.load_asset_value(key, partition_key="50m")
    assert str(loaded) == str(graph)
    assert torch.equal(loaded["song"].x, graph["song"].x)


def test_statistics_count_nodes_edges_and_degrees(built):
    numbers = {row["name"]: row["value"] for row in built.rows("graph/statistics")}
    assert numbers["n_users"] == 2
    assert numbers["n_songs"] == 4
    assert numbers["n_cold_songs"] == 2
    assert numbers["n_edges"] == 3
    assert numbers["density"] == 3 / (2 * 2)
    assert numbers["n_songs_without_artist"] == 2
    assert numbers["n_songs_with_several_artists"] == 1
    assert numbers["n_songs_without_album"] == 3
    assert numbers["n_listen_edges"] == 2
    assert numbers["mean_played_ratio_listen"] == pytest.approx((0.3 + 1) / 2)
    assert [numbers[f"user_degree_p{q}"] for q in (0, 50, 100)] == [1, 1.5, 2]
    assert [numbers[f"song_degree_p{q}"] for q in (0, 50, 100)] == [1, 1.5, 2]


def test_audio_finds_its_song_in_whatever_order_and_that_of_other_songs_is_left_out():
    rows = [(9, [3.0, 4.0]), (2, [1.0, 0.0]), (5, None), (7, [0.0, 1.0])]
    listed = ", ".join(f"({item}, {vector or 'NULL'}::FLOAT[])" for item, vector in rows)
    embeddings = duckdb.sql(f"SELECT * FROM (VALUES {listed}) AS t(item_id, normalized_embed)")
    audio, has_audio = song_audio(np.array([7, 5, 9, 4]), embeddings)
    assert audio.tolist() == [[0, 1], [0, 0], [3, 4], [0, 0]]
    assert has_audio.tolist() == [True, False, True, False]
    nobody, none = song_audio(np.empty(0, np.int64), embeddings)
    assert nobody.shape == (0, 2)
    assert len(none) == 0


def test_edges_are_taken_a_batch_at_a_time():
    n, size = 40, 10_000
    kinds = np.array(["listen", "like", "undislike"])
    rng = np.random.default_rng(0)
    columns = {
        "user_id": rng.integers(2, size=n * size, dtype=np.int32),
        "song_id": rng.integers(3, size=n * size, dtype=np.int32),
        "event_type": kinds[rng.integers(3, size=n * size)],
        "n_events": rng.integers(1, 50, size=n * size),
        "played_ratio": rng.random(n * size),
        "weight": rng.random(n * size),
    }
    held = []

    def batches():
        for first in range(0, n * size, size):
            held.append(pa.total_allocated_bytes())
            yield pa.record_batch({name: pa.array(array[first : first + size]) for name, array in columns.items()})

    songs = pa.table({"item_id": [5, 6, 7], "in_graph": [True] * 3, "artist_ids": [[0]] * 3, "album_ids": [[0]] * 3})
    audio = np.array([unit_vector(5)] * 3, np.float32), np.ones(3, bool)
    # An upper bound of their number is enough.
    graph = bipartite_graph(pa.table({"uid": [3, 4]}), songs, audio, n * size + 7, batches())
    found = graph["user", "interacts", "song"]
    assert found.edge_index.dtype == torch.int32
    assert found.edge_index.tolist() == [columns["user_id"].tolist(), columns["song_id"].tolist()]
    numbers = [columns[name] for name in ("n_events", "played_ratio", "weight")]
    wanted = np.stack([[CODES[kind] for kind in columns["event_type"].tolist()], *numbers], axis=1)
    assert np.array_equal(found.edge_attr.numpy(), wanted.astype(np.float32))
    # Two batches at most, of less than 50 bytes a row.
    assert max(held) - held[0] < 2 * 50 * size


def test_a_graph_that_does_not_fit_is_refused_with_its_sizes_and_a_way_out(monkeypatch):
    gib = 2**30
    monkeypatch.setattr(bipartite, "free_memory", lambda: 16 * gib)
    audio = duckdb.sql("SELECT [0.5::FLOAT] AS normalized_embed LIMIT 0")  # as long as Yambda's
    bipartite.refuse_without_room(100_000, 3_000_000, 60_000_000, audio)
    with pytest.raises(NotEnoughMemoryError) as refusal:
        bipartite.refuse_without_room(1_000_000, 9_400_000, 600_000_000, audio)
    # 24 bytes an edge, 512 a song.
    for word in (
        "600,000,000 edges, 1,000,000 users",
        "edges 13.41 GiB",
        "audio 4.48 GiB",
        "only 16.00 GiB",
        "min_events",
    ):
        assert word in str(refusal.value)


def test_an_edge_to_a_song_that_is_not_there_is_refused():
    songs = pa.table({"item_id": [5], "in_graph": [True], "artist_ids": [[0]], "album_ids": [[0]]})
    edges = pa.table(
        {
            "user_id": [0],
            "song_id": [1],
            "event_type": ["like"],
            "n_events": [1],
            "played_ratio": [1.0],
            "weight": [1.0],
        }
    )
    audio = np.float32([unit_vector(5)]), np.ones(1, bool)
    with pytest.raises(ValueError, match="song_id runs from 1 to 1, expected 0 to 0"):
        bipartite_graph(pa.table({"uid": [3]}), songs, audio, 1, edges.to_batches())
