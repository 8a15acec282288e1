"""Command line of the package: `python -m ms_assets --help` lists the commands; a scale alone prints its leaderboard.

The exit status is 2 for an unknown or incomplete command, 1 for a command that fails.
"""

import subprocess
import sys
from functools import partial
from typing import cast

import click
import polars as pl

from ms_assets.definitions import define
from ms_assets.defs.platform.resources import Environment, MLflow
from ms_assets.defs.platform.scales import SCALES
from ms_assets.evaluation import champion, leaderboard
from ms_assets.registry import ChampionError, Registry
from ms_assets.streams import Relation
from ms_assets.tracking import StoreError, is_database

LEADERBOARD = ("evaluation", "leaderboard")
of_scale = click.argument("scale", type=click.Choice(SCALES.get_partition_keys()))


@click.group()
def commands() -> None:
    """Print the leaderboard of a scale; list its registered models, promote a version, roll the champion back."""


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
    resources = define(Environment.read()).resources or {}
    return cast(MLflow, resources["mlflow"])


def _print_leaderboard(scale: str) -> None:
    environment = Environment.read()
    frame = cast(Relation, define(environment).load_asset_value(LEADERBOARD, partition_key=scale)).pl()
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


def main(arguments: list[str] | None = None) -> None:
    """Run the command in `arguments`, by default the process's own, and exit."""
    try:
        commands(arguments, prog_name="python -m ms_assets")
    except (FileNotFoundError, ChampionError, StoreError) as problem:
        sys.exit(str(problem))


if __name__ == "__main__":
    main()
