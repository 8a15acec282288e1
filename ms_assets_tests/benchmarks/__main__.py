"""`python -m ms_assets_tests.benchmarks generate FOLDER`: data of Yambda's size and distributions, on any machine."""

import argparse
import logging
import os
from pathlib import Path

from ms_assets.raw.sample import generate
from ms_assets_tests.benchmarks import data
from ms_assets_tests.benchmarks.shapes import SHAPES


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


if __name__ == "__main__":
    main()
