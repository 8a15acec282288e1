"""Imported data, from the command line to the splits: the same as in Yambda's layout, with settings of their own."""

import random
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import mlflow
import pandas as pd
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from ms_assets.__main__ import main
from ms_assets.defs.platform.lineage import InconsistentInputsError
from ms_assets.defs.platform.scales import check_run_config, like, own_defaults
from ms_assets.files import DamagedFileError
from ms_assets.raw.importing import import_events
from ms_assets.raw.own import Import, folder_in
from ms_assets.raw.schema import SourceError
from ms_assets.retrieval.methods import METHODS
from ms_assets.settings import SongSettings, SplitSettings, TrainingSettings, UserSettings
from ms_assets_tests.benchmarks.sets import config
from ms_assets_tests.conftest import Platform
from ms_assets_tests.worlds import Event, World

DIVIDED = ("splits/train", "splits/validation", "splits/test", "splits/negatives", "splits/ground_truth", "graph/edges")
PROTOCOLS = ("per_user", "global_temporal")
RULES = {
    "splits__users": {"min_events": 3, "max_events": 1_000},
    "splits__songs": {"require_audio": False},
    "split_events": {"test_start": 26_000_000 - 86_400},
}


def events():
    """Events of 20 users over ten days, at distinct times, sorted as a source is."""
    draw = random.Random(0)
    times = draw.sample(range(25_200_000, 26_000_000), 600)
    rows = []
    for timestamp in times:
        kind = draw.choices(["listen", "like", "dislike", "unlike", "undislike"], [8, 2, 1, 1, 1])[0]
        percent = draw.randrange(101) if kind == "listen" else None
        rows.append(Event(draw.randrange(100, 120), timestamp, draw.randrange(500, 540), 1, percent, None, kind))
    return sorted(rows)


def as_csv(path, rows, digits=3):
    """Write events with text for ids, of so many digits, and ISO times, in no order."""
    frame = pl.DataFrame(rows, list(Event._fields), orient="row").sample(fraction=1, shuffle=True, seed=0)
    uid, item_id = (pl.col(name).cast(pl.String).str.zfill(digits) for name in ("uid", "item_id"))
    frame.select(
        listener=pl.format("u{}", uid),
        track=pl.format("song {}", item_id),
        when=pl.from_epoch("timestamp").dt.strftime("%Y-%m-%dT%H:%M:%S+00:00"),
        action=pl.col("event_type").replace("listen", "play"),
        share=pl.col("played_ratio_pct") / 100,
        is_organic="is_organic",
    ).write_csv(path)
    return path


NAMED = {"columns": {"time": "when", "ratio": "share"}, "types": {"play": "listen"}}


@dataclass(frozen=True)
class Both:
    """A home in which the same events were divided as `50m` and as imported ones, and these tables by protocol."""

    platform: Platform
    divided: dict[str, dict[str, list[pl.DataFrame]]]


@pytest.fixture(scope="module")
def both(platform_at, tmp_path_factory):
    platform, rows, divided = platform_at(tmp_path_factory.mktemp("own")), events(), {}
    World(rows, []).write(platform.source)
    import_events(as_csv(platform.source / "log.csv", rows), folder_in(platform.home), **NAMED)
    for protocol in PROTOCOLS:
        config = {**RULES, "split_events": {**RULES["split_events"], "protocol": protocol}}
        for scale in ("50m", "own"):
            platform.materialise(*DIVIDED, "raw/user_ids", scale=scale, config=config)
        divided[protocol] = {
            key: [pl.read_parquet(platform.file(key, scale)) for scale in ("50m", "own")] for key in DIVIDED
        }
    return Both(platform, divided)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("key", DIVIDED)
def test_an_import_in_any_order_is_divided_as_the_same_events_in_yambdas_layout(both, protocol, key):
    one, other = both.divided[protocol][key]
    assert len(one) > 0
    assert one.equals(other)


def test_imported_tables_are_linked_and_ids_are_those_of_the_log(both):
    both = both.platform
    assert both.file("raw/multi_event", "own").is_symlink()
    users = pl.read_parquet(both.file("splits/users", "own")).join(
        pl.read_parquet(both.file("raw/user_ids", "own")), "uid", maintain_order="left"
    )
    yambda = pl.read_parquet(both.file("splits/users"))
    assert users["user"].to_list() == [f"u{uid}" for uid in yambda["uid"]]
    assert pl.read_parquet(both.file("raw/user_ids")).columns == ["uid", "user"]
    assert pl.read_parquet(both.file("raw/user_ids")).is_empty()


SETS = Path(__file__).parents[2] / "shared" / "data"
needs_sets = pytest.mark.skipif(not SETS.is_dir(), reason="needs ../shared/data beside the repository")


@needs_sets
def test_a_real_log_as_csv_in_any_order_is_divided_as_in_yambdas_layout(platform_at, tmp_path):
    for one, other in divided_both_ways(platform_at(tmp_path), SETS / "lastfm", "global_temporal"):
        assert len(one) > 0
        assert one.equals(other)


def imported_too(platform, folder):
    """Link a set in Yambda's layout as the source, and import the same as CSV and tables with text for ids.

    Audio is that of the import in both, because the sets have numbers of 64 bits and their own norms.
    """
    made, own = platform.home.parent, folder_in(platform.home)
    song, artist = (
        pl.format(text, pl.col(name).cast(pl.String).str.zfill(10))
        for text, name in (("song {}", "item_id"), ("a {}", "artist_id"))
    )
    pl.read_parquet(folder / "embeddings.parquet").select(song=song, audio="embed").write_parquet(
        made / "audio.parquet"
    )
    artists = pl.read_parquet(folder / "artist_item_mapping.parquet").select(song=song, artist=artist)
    artists.write_csv(made / "artists.csv")
    rows = pl.read_parquet(folder / "flat/50m/multi_event.parquet").rows()
    log = as_csv(made / "log.csv", rows, digits=10)
    import_events(log, own, audio=made / "audio.parquet", artists=made / "artists.csv", **NAMED)
    for name in ("flat", "artist_item_mapping.parquet", "album_item_mapping.parquet"):
        (platform.source / name).symlink_to(folder / name)
    songs = pl.read_parquet(own / "song_ids.parquet").with_columns(given=pl.col("song").str.tail(10).cast(pl.UInt32))
    audio = pl.read_parquet(own / "embeddings.parquet").join(songs, "item_id", maintain_order="left")
    vectors = audio.select(pl.col("given").alias("item_id"), "embed", "normalized_embed")
    vectors.write_parquet(platform.source / "embeddings.parquet")


def divided_both_ways(platform, folder, protocol):
    """Tables of a set in Yambda's layout and, beside each, those of its events as CSV."""
    imported_too(platform, folder)
    config = {**RULES, "split_events": {**RULES["split_events"], "protocol": protocol}}
    for scale in ("50m", "own"):
        platform.materialise(*DIVIDED, scale=scale, config=config)
    for key in DIVIDED:
        one, other = (pl.read_parquet(platform.file(key, scale)) for scale in ("50m", "own"))
        if key != "splits/negatives":  # of listens alone there are none
            yield one, other


SHORT = {"epochs": 1, "embedding_dim": 8, "neutral_negatives": 8, "race": False}


@needs_sets
@pytest.mark.slow
@pytest.mark.parametrize("name", ["lastfm", "wikipedia"])
def test_a_real_log_as_csv_in_any_order_has_the_leaderboard_of_the_same_in_yambdas_layout(platform_at, tmp_path, name):
    one, other = boards_both_ways(platform_at(tmp_path), SETS / name)
    assert len(one) > 0
    assert_frame_equal(one, other, rel_tol=0, abs_tol=1e-12)


def boards_both_ways(platform, folder):
    """Leaderboards of a set in Yambda's layout and of the same as CSV, by settings of its division for both."""
    imported_too(platform, folder)
    divided, settings = config(folder), SplitSettings()
    divided["split_events"]["test_start"] = settings.test_start  # by default an import's last day
    for scale in ("50m", "own"):
        platform.materialise("evaluation/leaderboard", scale=scale, config={**divided, "training__lightgcn": SHORT})
        yield pl.read_parquet(platform.file("evaluation/leaderboard", scale))


def needed(platform):
    """The assets that the served model stands on, with the lists of two recommenders alone."""
    before = dg.AssetSelection.keys("reranking/served_model").upstream()
    keys = {key.to_user_string() for key in before.resolve(platform.definitions.resolve_asset_graph())}
    return keys - {f"retrieval/{name}" for name in METHODS if name not in ("lightgcn", "decayed_popularity")}


def test_the_served_model_takes_and_answers_the_ids_of_the_log(both):
    platform = both.platform
    by_artist = pl.DataFrame(
        {"song": [f"song {n}" for n in range(500, 540)], "artist": [f"a {n % 4}" for n in range(40)]}
    )
    by_artist.write_csv(platform.source / "artists.csv")
    log, folder = as_csv(platform.source / "log.csv", events()), folder_in(platform.home)
    import_events(log, folder, artists=platform.source / "artists.csv", **NAMED)
    platform.materialise(*needed(platform), scale="own", config={**RULES, "training__lightgcn": SHORT}, alone=True)
    [row] = platform.rows("reranking/served_model", "own")
    registry = platform.definitions.resources["mlflow"].registered(row["name"])
    with registry.files(registry.version(row["version"])) as files:
        model = mlflow.pyfunc.load_model(str(files))
        rows = [
            {"uid": "u101", "k": 5},
            {"uid": "nobody", "k": 5},
            {"recent": ["song 501", "song 502"], "k": 5},
            {"similar_to": "song 501", "k": 5},
            {"uid": "u101", "k": 20, "without_artists": ["a 1", "a 2"]},
        ]
        found = model.predict(pd.DataFrame(rows))
    assert found["answer"].to_list()[1:4] == ["popular", "recent", "similar"]
    assert {found["answer"][0], found["answer"][4]} <= {"ranked", "personal"}
    heard = pl.read_parquet(platform.file("splits/train", "own")).join(
        pl.read_parquet(platform.file("splits/users", "own")), "user_id"
    ).join(pl.read_parquet(platform.file("splits/songs", "own")), "song_id")  # fmt: skip
    own = {table: pl.read_parquet(platform.file(f"raw/{table}", "own")) for table in ("user_ids", "song_ids")}
    known = heard.join(own["user_ids"], "uid").join(own["song_ids"], "item_id").filter(user="u101")["song"]
    for songs in found["item_ids"]:
        assert set(songs) <= {f"song {n}" for n in range(500, 540)} and len(set(songs)) == len(songs) > 0
    assert not set(found["item_ids"][0]) & set(known) and len(known) > 0
    assert {int(song[-3:]) % 4 for song in found["item_ids"][4]} <= {0, 3}


def test_settings_follow_from_the_data(platform, tmp_path):
    import_events(as_csv(tmp_path / "log.csv", events()), folder_in(platform.home), **NAMED)
    platform.materialise("splits/train", scale="own", config={"split_events": {"protocol": "global_temporal"}})
    made = {key: platform.lineage.history(_key(key), "own")[0].metadata for key in ("splits/users", "splits/train")}
    assert (made["splits/users"]["min_events"], made["splits/users"]["max_events"]) == (5, 1_000)
    assert made["splits/train"]["test_start"] == events_end() - 86_400


def _key(name):
    return dg.AssetKey.from_user_string(name)


def events_end():
    return max(row.timestamp for row in events())


def imported(tmp_path, **report):
    usual = {"n_events": 1_000, "events_per_user_median": 40, "events_per_user_p99": 300, "last_second": 10**9}
    return Import(tmp_path, {**usual, **report})


SIZES = {
    "few events a user": ({"events_per_user_median": 3}, UserSettings, {"min_events": 1, "max_events": 3_000}),
    "one event a user": ({"events_per_user_median": 1, "events_per_user_p99": 2}, UserSettings,
                         {"min_events": 1, "max_events": 1_000}),
    "many events a user": ({}, UserSettings, {"min_events": 5, "max_events": 3_000}),
    "a last day": ({}, SplitSettings, {"test_start": 10**9 - 86_400}),
    "less than a day": ({"last_second": 50}, SplitSettings, {"test_start": 0}),
    "no audio needed": ({}, SongSettings, {"require_audio": False}),
    "a hundred million events": ({"n_events": 10**8}, TrainingSettings, {}),
    "a billion events": ({"n_events": 10**9}, TrainingSettings,
                         {"embedding_dim": 64, "batch_size": 1_048_576, "epochs": 8}),
}  # fmt: skip


@pytest.mark.parametrize("case", SIZES)
def test_defaults_fit_the_size_of_the_data(tmp_path, case):
    report, model, wanted = SIZES[case]
    assert own_defaults(imported(tmp_path, **report)).get(model, {}) == wanted


def test_a_run_takes_a_process_per_step_where_imported_data_are_large(tmp_path):
    assert [like(imported(tmp_path, n_events=n)) for n in (10**5, 10**8, 10**9, 10**10)] == ["50m", "50m", "500m", "5b"]


def test_the_run_config_is_checked_against_the_datas_own_defaults(tmp_path):
    config = {"ops": {"splits__users": {"config": {"min_events": 2_000}}}}
    check_run_config(config, "own", imported(tmp_path))
    with pytest.raises(ValueError, match=r"min_events \(2000\) must not exceed max_events \(1000\)"):
        check_run_config(config, "own", imported(tmp_path, events_per_user_p99=10))


def test_without_an_import_the_next_step_is_named(platform):
    with pytest.raises(
        SourceError, match=r"no events were imported for the scale own; run `python -m ms_assets import"
    ):
        platform.materialise("raw/multi_event", scale="own")


def test_tables_of_two_imports_are_refused(platform, tmp_path):
    rows = events()
    import_events(as_csv(tmp_path / "log.csv", rows), folder_in(platform.home), **NAMED)
    platform.materialise("splits/train", scale="own")
    import_events(as_csv(tmp_path / "log.csv", rows[:-1]), folder_in(platform.home), **NAMED)
    with pytest.raises(DamagedFileError, match=r"raw/multi_event was materialised for own .* materialise it again"):
        platform.materialise("splits/users", scale="own", alone=True)
    platform.materialise("raw/multi_event", scale="own", alone=True)
    with pytest.raises(InconsistentInputsError, match="two versions of import"):
        platform.materialise("splits/candidate_songs", scale="own", alone=True)


def test_an_equal_import_again_changes_nothing(platform, tmp_path):
    rows = events()
    for _ in range(2):
        import_events(as_csv(tmp_path / "log.csv", rows), folder_in(platform.home), **NAMED)
        platform.materialise("splits/users", scale="own")
    one, other = platform.lineage.history(_key("raw/multi_event"), "own")
    assert (one.version, one.origins) == (other.version, other.origins)


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Run the command line over an empty home: its exit status, and what it says."""
    monkeypatch.setenv("MS_ASSETS_HOME", str(tmp_path / "home"))

    def run(*arguments):
        with pytest.raises(SystemExit) as exit_:
            main([*map(str, arguments)])
        said = capsys.readouterr()
        return exit_.value.code, said.out + said.err

    return run


def test_the_command_imports_and_says_what_it_read_dropped_and_kept(command, tmp_path):
    log = as_csv(tmp_path / "log.csv", events())
    log.write_text(log.read_text() + ",song 1,2020-01-01,play,1,1\n")
    status, said = command("import", log, "--time", "when", "--ratio", "share", "--map", "play=listen")
    assert status == 0, said
    assert "read 601 events of 1 files" in said
    assert "user: column listener" in said and "ratio: column share" in said
    assert "dropped 1: no user" in said
    assert "kept 600 events" in said and "of 20 users and 40 songs" in said
    assert Import.read(folder_in(tmp_path / "home")).report["n_events"] == 600
    assert not list((tmp_path / "home/alive").iterdir())


def test_the_command_ends_with_one_sentence_where_it_fails(command, tmp_path):
    status, said = command("import", tmp_path / "nowhere.csv")
    assert status.startswith(f"{tmp_path}/nowhere.csv: no such file")
    assert said == ""
    assert not folder_in(tmp_path / "home").exists()
