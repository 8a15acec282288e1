"""What the platform takes, on data of Yambda's size and distributions that any machine can make.

`python -m ms_assets_tests.benchmarks COMMAND`; what is measured goes to docs/benchmarks.md.
"""

import argparse
import logging
import os
from pathlib import Path

import ms_assets.defs.platform.resources  # noqa: F401 - first, as in any run: it chooses the pages of tensors
from ms_assets.machine import free_memory
from ms_assets.raw.sample import generate
from ms_assets_tests.benchmarks import (
    data,
    epoch,
    evaluation,
    importing,
    kernels,
    measure,
    quality,
    rehearse,
    report,
    retrieval,
    serving,
    sets,
    stages,
)
from ms_assets_tests.benchmarks.shapes import GRAPHS, SHAPES


def main(arguments: list[str] | None = None) -> None:
    """Run the subcommand that the arguments name."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    parser = argparse.ArgumentParser(prog="python -m ms_assets_tests.benchmarks", description=__doc__)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("generate", help="write a folder that works as MS_ASSETS_SOURCE")
    command.add_argument("folder", type=Path, help="kept as it is when it is there already")
    command.add_argument("--events", choices=SHAPES, default="50m", help="either size goes to the partition 50m")
    command.add_argument(
        "--times", type=int, default=1, help="if above 1, 500m too: the events so often, by other users"
    )
    command.add_argument("--threads", type=int, default=min(os.cpu_count() or 1, 8), help="100 MB of memory each")
    command.set_defaults(run=_generate)
    command = commands.add_parser("tables", help="raw tables, splits and edges of 50m beside the floor")
    command.add_argument("folder", type=Path, help="written by generate")
    command.add_argument("--repeat", type=int, default=3, help="times; the median is reported")
    command.set_defaults(run=_tables)
    command = commands.add_parser("import", help="the events as a log in CSV, beside DuckDB's reading of it")
    command.add_argument("folder", type=Path, help="written by generate")
    command.add_argument("--repeat", type=int, default=3, help="times; the median is reported")
    command.set_defaults(run=_import)
    command = commands.add_parser("scaling", help="the same over several sizes")
    command.add_argument("sources", nargs="+", help="FOLDER:SCALE, for example data/5m:50m data/50m:50m data/50m:500m")
    command.set_defaults(run=_scaling)
    command = commands.add_parser("kernels", help="propagation beside PyG's LGConv")
    command.set_defaults(run=lambda chosen: _publish("Propagation", kernels.section(kernels.measure())))
    command = commands.add_parser("epoch", help="a graph of 50m's size: seconds, memory, and larger ones by arithmetic")
    command.add_argument("--card", action="store_true", help="50m's and 500m's on a GPU, the former on the CPU too")
    command.set_defaults(run=_epoch)
    command = commands.add_parser("evaluation", help="50m's metrics and leaderboard, and beside a loop over users")
    command.set_defaults(run=lambda chosen: _publish("Evaluation", evaluation.section(evaluation.evaluation())))
    command = commands.add_parser("quality", help="ranking and time beside the algorithm of LightGCN's authors")
    command.add_argument("folder", type=Path, help="in the hub's layout, divided by time, for the partition 50m")
    command.add_argument("--seeds", type=int, default=2, help="trainings, by seeds from 0")
    command.add_argument(
        "--all", action="store_true", help="every recommender on each of the sets in the folder, or on those of --sets"
    )
    command.add_argument("--sets", nargs="*", help="names of subfolders")
    command.add_argument("--refit", action="store_true", help="with --all, train once more on train and validation")
    command.set_defaults(run=_quality)
    command = commands.add_parser("ablation", help="what each part of the model is worth on real sets, by validation")
    command.add_argument("folder", type=Path, help="with a subfolder for each set, in the hub's layout")
    command.add_argument("--seeds", type=int, default=3, help="trainings of each variant, by seeds from 0")
    command.add_argument("--sets", nargs="*", help="names of subfolders")
    command.set_defaults(run=_ablation)
    command = commands.add_parser("index", help="the song index of 934,057 songs beside exact search")
    command.set_defaults(run=lambda _: _publish("Index", retrieval.index_section()))
    command = commands.add_parser("serving", help="single requests to MLflow's server over the sample's model")
    command.set_defaults(run=lambda _: _publish("Serving", serving.serving_section()))
    command = commands.add_parser("rehearse", help="what a scale needs, by fractions of a graph of its shape")
    command.add_argument("scale", choices=GRAPHS)
    command.add_argument(
        "--fractions", nargs="+", type=float, default=rehearse.FRACTIONS, help="two at least, ascending"
    )
    command.add_argument(
        "--memory",
        type=float,
        help="GiB for one fraction more, the largest that fits; by default what is free, 0: none",
    )
    command.add_argument(
        "--set", nargs="+", default=[], metavar="NAME=VALUE", help="settings of the training, such as embedding_dim=16"
    )
    command.add_argument("--folder", type=Path, help="where artefacts lie meanwhile; by default the system's")
    command.set_defaults(run=_rehearse)
    chosen = parser.parse_args(arguments)
    chosen.run(chosen)


def _generate(chosen: argparse.Namespace) -> None:
    if not chosen.folder.is_dir():
        generate(chosen.folder, SHAPES[chosen.events], data.GENERATED, chosen.threads)
    if chosen.times > 1:
        data.repeat(chosen.folder, chosen.times)
    print(f"{'':24}{'generated':>14}{'published 50m':>16}{'ratio':>8}")
    for statistic, (found, published) in data.comparison(chosen.folder).items():
        print(f"{statistic:24}{round(found, 3):14,}{published:16,}{found / published:8.3f}")


def _tables(chosen: argparse.Namespace) -> None:
    run = measure.tables(chosen.folder.absolute(), data.GENERATED, on_request=True, repeat=chosen.repeat)
    _publish("Tables", report.tables_section(run))


def _import(chosen: argparse.Namespace) -> None:
    _publish("Import", importing.section(*importing.measure(chosen.folder.absolute(), chosen.repeat)))


def _scaling(chosen: argparse.Namespace) -> None:
    runs = []
    for source in chosen.sources:
        folder, _, scale = source.rpartition(":")
        runs.append(measure.tables(Path(folder).absolute(), scale, on_request=False, repeat=1))
        logging.info("%s: %.1f s, %d MiB", source, measure.total(runs[-1].steps), runs[-1].peak_mib)
    _publish("Scaling", report.scaling_section(runs))


def _epoch(chosen: argparse.Namespace) -> None:
    if chosen.card:
        runs = [("50m", "cpu"), ("50m", "cuda"), ("500m", "cuda")]
        _publish("Epoch on a card", epoch.card_section([epoch.measure(*run) for run in runs]))
        return
    _publish("Epoch", epoch.section([epoch.measure("50m", "cpu")]))


def _quality(chosen: argparse.Namespace) -> None:
    if chosen.all:
        measured = {folder.name: sets.measure(folder, chosen.seeds, chosen.refit) for folder in _sets(chosen)}
        _publish("Recommenders", sets.section(measured))
        return
    split = quality.Split.of(chosen.folder)
    plain = quality.theirs(split)
    trained = [quality.ours(split, plain.converged[0], seed) for seed in range(chosen.seeds)]
    _publish("Quality", quality.section(split, plain, trained))


def _rehearse(chosen: argparse.Namespace) -> None:
    available = free_memory() if chosen.memory is None else int(chosen.memory * 2**30)
    settings = stages.settings_of(chosen.scale, **dict(given.split("=", 1) for given in chosen.set))
    runs = rehearse.rehearse(chosen.scale, chosen.fractions, settings, available, chosen.folder)
    _publish(f"Rehearsal of {chosen.scale}", rehearse.section(chosen.scale, runs))


def _ablation(chosen: argparse.Namespace) -> None:
    measured = {folder.name: sets.ablation(folder, chosen.seeds) for folder in _sets(chosen)}
    _publish("Parts of the model", sets.ablation_section(measured, chosen.seeds))


def _sets(chosen: argparse.Namespace) -> list[Path]:
    names = chosen.sets or sorted(path.name for path in chosen.folder.iterdir() if path.is_dir())
    return [chosen.folder / name for name in names]


def _publish(heading: str, text: str) -> None:
    report.publish(heading, text)
    print(text)


if __name__ == "__main__":
    main()
