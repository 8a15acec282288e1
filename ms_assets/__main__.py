"""Command line of the package: `python -m ms_assets --help` lists the commands; a scale alone prints its leaderboard.

The exit status is 2 for an unknown or incomplete command, 1 for a command that fails.
"""

import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast
from uuid import uuid4

import click
import dagster as dg
import polars as pl
import pyarrow.parquet as pq

from ms_assets import __version__
from ms_assets.definitions import define
from ms_assets.defs.platform import metrics, runs
from ms_assets.defs.platform.io_managers import ModelIOManager, TableIOManager
from ms_assets.defs.platform.lineage import InconsistentInputsError
from ms_assets.defs.platform.objects import BucketError
from ms_assets.defs.platform.resources import DuckDB, Environment, MLflow
from ms_assets.defs.platform.scales import SCALES
from ms_assets.evaluation import champion, leaderboard, publishing
from ms_assets.files import DamagedFileError, published, size_of, sweep
from ms_assets.raw.importing import EVENT_COLUMNS, import_events
from ms_assets.raw.own import OWN, folder_in
from ms_assets.raw.schema import SourceError
from ms_assets.registry import DATA, ChampionError, Registry
from ms_assets.reranking.served import TwoStages
from ms_assets.retrieval.recommender import TOP_K
from ms_assets.settings import SplitSettings
from ms_assets.splits.export import FORMS, export
from ms_assets.streams import Relation, TableWriter
from ms_assets.tracking import StoreError, is_database

R = TypeVar("R")
EVENTS, PARTS, TRAINED = ("raw", "multi_event"), ("splits", "train"), ("training", "lightgcn")
LEADERBOARD = ("evaluation", "leaderboard")
of_scale = click.argument("scale", type=click.Choice(SCALES.get_partition_keys()))


@click.group()
def commands() -> None:
    """Print the leaderboard of a scale; import own events; list registered models, promote one, roll back."""


@commands.command("champion")
@of_scale
def list_models(scale: str) -> None:
    """List the registered models and mark the champion."""
    _print_champion(_registry(scale))


@commands.command()
@of_scale
@click.argument("version", type=int)
def promote(scale: str, version: int) -> None:
    """Make a version the champion."""
    champion.by_hand(registry := _registry(scale), version)
    _print_champion(registry)


@commands.command()
@of_scale
def rollback(scale: str) -> None:
    """Make the former champion the champion again."""
    champion.roll_back(registry := _registry(scale))
    _print_champion(registry)


def _columns(command: Any) -> Any:
    """Options that name the column of each thing that events hold."""
    for what in reversed(EVENT_COLUMNS):
        command = click.option(f"--{what}", metavar="COLUMN", help=COLUMN_HELP[what])(command)
    return command


COLUMN_HELP = {
    "user": "Column of users' ids: text or whole numbers.",
    "song": "Column of songs' ids: text or whole numbers.",
    "time": "Column of times: ISO 8601, dates, or (milli)seconds since 1970.",
    "type": "Column of event types; without one, every event is a listen.",
    "organic": "Column that tells the user's own choices (true) from recommended songs.",
    "ratio": "Column of the played share or percent of the song.",
    "played": "Column of the played time; with --duration, in place of --ratio.",
    "duration": "Column of the song's length.",
    "rating": "Column of ratings, in place of --ratio: the lowest counts as nothing played, the highest as all.",
}


@commands.command("import")
@click.argument("events", nargs=-1, required=True)
@_columns
@click.option("--map", "mapped", metavar="NAME=TYPE", multiple=True, help="Event type that a name stands for.")
@click.option("--deduplicate", is_flag=True, help="Keep one of several events of equal user, song, time and type.")
@click.option("--audio", metavar="FILE", help="Table of audio vectors: song, audio.")
@click.option("--artists", metavar="FILE", help="Table of artists: song, artist.")
@click.option("--albums", metavar="FILE", help="Table of albums: song, album.")
def import_own(
    events: tuple[str, ...], mapped: tuple[str, ...], deduplicate: bool, audio: str | None, artists: str | None,
    albums: str | None, **named: str | None,
) -> None:  # fmt: skip
    """Import EVENTS as the scale `own`: CSV, JSON Lines or Parquet; files, folders, patterns, or addresses (s3://…).

    Columns are guessed by their names unless they are named here. A former import stays if this one fails.
    """
    environment = Environment.read()
    types = {name: kind for name, _, kind in (pair.partition("=") for pair in mapped)}
    with runs.writing_turn(environment.locks, OWN, f"import-{uuid4()}"):
        sweep(environment.home / "source", OWN)
        report = import_events(
            events,
            folder_in(environment.home),
            columns={what: name for what, name in named.items() if name is not None},
            types=types,
            deduplicate=deduplicate,
            audio=audio,
            artists=artists,
            albums=albums,
            connection=_resource("duckdb", DuckDB).connection,
        )
    _print_report(report)


def _print_report(report: Mapping[str, Any]) -> None:
    print(f"read {report['n_read']:,} events of {len(report['sources']):,} files")
    for what, name in report["columns"].items():
        print(f"  {what}: column {name}")
    for rule, n in report["n_dropped"].items():
        print(f"dropped {n:,}: {rule}")
    types = ", ".join(f"{n:,} {kind}" for kind, n in report["n_by_type"].items())
    print(
        f"kept {report['n_events']:,} events ({types}) of {report['n_users']:,} users and {report['n_songs']:,} songs"
    )
    for what, n in report["songs_known_by"].items():
        print(f"{what}: known of {n:,} songs")
    print("next: dg launch --job pipeline --partition own")


@commands.command("export")
@of_scale
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--form", type=click.Choice([*FORMS]), default="rectools", show_default=True, help="Library to read it.")
def export_splits(scale: str, folder: Path, form: str) -> None:
    """Write train, validation and test of a scale to FOLDER for another library, with the data's own ids."""
    splits = ("train", "validation", "test", "users", "songs")
    tables = _load(scale, *(("splits", name) for name in splits), ("raw", "user_ids"), ("raw", "song_ids"))
    parts, others = dict(zip(splits[:3], tables, strict=False)), tables[3:]
    for file, n in export(_resource("duckdb", DuckDB).connection, folder, form, scale, parts, *others).items():
        print(f"{file}: {n:,} events")


@commands.command()
@of_scale
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--k", type=click.IntRange(1, TOP_K), default=TOP_K, show_default=True, help="Length of the lists.")
@click.option("--include-heard", is_flag=True, help="Keep the songs that the user has heard.")
@click.option("--retrieval", is_flag=True, help="LightGCN's songs alone, without the second stage.")
def recommend(scale: str, file: Path, k: int, include_heard: bool, retrieval: bool) -> None:
    """Write the champion's songs for all users to FILE, as Parquet: user, rank, song, score; ids are the data's own."""
    registry = _registry(scale)
    if (champion := registry.champion()) is None:
        raise ChampionError(f"{registry.name} has no champion; materialise evaluation/champion for {scale} first")
    with registry.files(champion) as folder:
        lists = TwoStages.read(folder / DATA).everybody(k, not include_heard, not retrieval)
        with published(file) as unfinished, TableWriter(unfinished) as writer:
            writer.fill(lists)
    print(f"{file}: {pq.read_metadata(file).num_rows:,} rows, by version {champion.number} of {registry.name}")


@commands.command()
@of_scale
@click.option("--repo", required=True, metavar="OWNER/NAME", help="Model repository; if there is none, a private one.")
@click.option("--with-users", is_flag=True, help="Push users' vectors, too, which are personal data.")
@click.option("--yes", is_flag=True, help="Push; otherwise the command tells what it would push.")
def publish(scale: str, repo: str, with_users: bool, yes: bool) -> None:
    """Push embeddings, index, settings, metrics and a model card of a scale to a model repository of the hub."""
    address = publishing.target(repo)
    with runs.writing_turn(Environment.read().locks, scale, f"publish-{uuid4()}"):
        publication = _publication(scale, repo, with_users)
        contents = {name: size_of(what) if isinstance(what, Path) else len(what)
                    for name, what in publication.contents().items()}  # fmt: skip
        for name, size in contents.items():
            print(f"{size:>15,} bytes  {name}")
        if yes:
            print(f"pushed: {publishing.push(publication)}")
        else:
            print(f"not pushed; to push {sum(contents.values()):,} bytes to {address}: add --yes")


PUBLISHED = {
    publishing.SONGS: ("training", "song_embeddings"),
    publishing.INDEX: ("retrieval", "song_index"),
    publishing.OWN_SONGS: ("raw", "song_ids"),
    publishing.USERS: ("retrieval", "queries"),
    publishing.BOARD: LEADERBOARD,
}
"""Artefacts by the name that they are pushed under."""


def _publication(scale: str, repo: str, with_users: bool) -> publishing.Publication:
    """Publication of what is stored for a scale, which was all made by one training."""
    tables = _resource("io_manager", TableIOManager)
    lineage = tables.lineage
    lineage.refresh(scale)
    events, parts, trained, figures = map(dg.AssetKey, (EVENTS, PARTS, TRAINED, LEADERBOARD))
    left_out = {*(() if with_users else (publishing.USERS,)), *(() if scale == OWN else (publishing.OWN_SONGS,))}
    chosen = {name: dg.AssetKey(key) for name, key in PUBLISHED.items() if name not in left_out}
    made = lineage.together([events, parts, trained, *chosen.values()], scale)
    for key in (trained, *chosen.values()):
        lineage.fetch(key, scale)
    file = {key: lineage.file(key, made[key.to_user_string()]) for key in (trained, *chosen.values())}
    source, split, board = (made[key.to_user_string()] for key in (events, parts, figures))
    return publishing.Publication(
        repo=repo,
        scale=scale,
        artefacts={name: file[key] for name, key in chosen.items()},
        settings={
            "ms_assets": __version__,
            "training": ModelIOManager(base_dir=tables.base_dir).read(file[trained]).settings.model_dump(),
            "split": {name: split.metadata[name] for name in SplitSettings.model_fields},
            "versions": {**board.origins, figures.to_user_string(): board.version},
        },
        board=tables.read(file[figures]).pl(),
        source=source.metadata["source"],
        revision=source.metadata["revision"],
    )


def _load(scale: str, *keys: tuple[str, str]) -> list[Relation]:
    definitions = define(Environment.read())
    return [cast(Relation, definitions.load_asset_value(key, partition_key=scale)) for key in keys]


@commands.command("metrics")
@click.argument("file", type=click.Path(path_type=Path), required=False)
def show_metrics(file: Path | None) -> None:
    """Print metrics of all artefacts for Prometheus, or write them to FILE, which is there whole or not at all."""
    tables = _resource("io_manager", TableIOManager)
    for scale in SCALES.get_partition_keys():
        tables.refresh(scale)
    text = metrics.exposition(tables.lineage)
    if file is None:
        print(text, end="")
        return
    with published(file) as unfinished:
        unfinished.write_text(text)


@commands.command("mlflow")
def serve_mlflow() -> None:
    """Serve MLflow's UI for the store of this home."""
    store = _store()
    if not is_database(uri := store.tracking_uri):
        sys.exit(f"MLFLOW_TRACKING_URI: {uri} is served already")
    store.open()
    server = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--workers", "1"]
    sys.exit(subprocess.call([*server, "--backend-store-uri", uri]))


def _registry(scale: str) -> Registry:
    return _store().registry(scale)


def _store() -> MLflow:
    return _resource("mlflow", MLflow)


def _resource(name: str, kind: type[R]) -> R:
    resources = define(Environment.read()).resources or {}
    return cast(R, resources[name])


def _print_leaderboard(scale: str) -> None:
    environment = Environment.read()
    frame = _load(scale, LEADERBOARD)[0].pl()
    for view, k in frame.select("view", "k").unique().sort("view", "k", descending=[True, False]).rows():
        print(f"\n{scale}, view {view}, K = {k}")
        _print_table(leaderboard.summary(frame, view, k))
    print(
        f"""
Tables, graph, embeddings and index: {environment.data}
Lineage, checks, pictures:           make ui      then http://127.0.0.1:3000
Training curves, registered models:  make mlflow  then http://127.0.0.1:5000"""
    )


def _print_champion(registry: Registry) -> None:
    print(f"\nregistered model {registry.name}, served as models:/{registry.name}@champion")
    _print_table(champion.history(registry))
    former = registry.former()
    print(f"A rollback returns to version {former.number}." if former else "There is no former champion to return to.")


def _print_table(table: pl.DataFrame) -> None:
    with pl.Config(
        tbl_hide_dataframe_shape=True, tbl_hide_column_data_types=True, float_precision=4, tbl_rows=-1,
        tbl_cols=-1, fmt_str_lengths=200, tbl_width_chars=160,
    ):  # fmt: skip
        print(table)


for name in SCALES.get_partition_keys():
    about = f"Print the leaderboard of {name}, and where to look next."
    commands.add_command(click.Command(name, callback=partial(_print_leaderboard, name), help=about))


EXPECTED = (
    BucketError, ChampionError, DamagedFileError, FileNotFoundError, InconsistentInputsError, publishing.PublishError,
    SourceError, StoreError,
)  # fmt: skip
"""Errors whose message is all that a user needs."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command in `arguments`, by default the process's own, and exit."""
    try:
        commands(arguments, prog_name="python -m ms_assets")
    except EXPECTED as problem:
        sys.exit(str(problem))


if __name__ == "__main__":
    main()
