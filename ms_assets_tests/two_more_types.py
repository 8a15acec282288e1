"""A world with two event types that Yambda has not; `test_events.py` runs it over a table that knows them.

python -m ms_assets_tests.two_more_types FOLDER   writes what the rooms make of the world, as JSON
"""

import json
import sys
from pathlib import Path

from ms_assets.graph.bipartite import INTERACTS
from ms_assets.training.edge_weights import EdgeWeightMLP
from ms_assets.training.objectives import positive_weights
from ms_assets_tests.conftest import Platform
from ms_assets_tests.worlds import Event, Rules, World, listen, reaction

T = Rules.test_start


def clip(timestamp: int, item_id: int, percent: int) -> Event:
    return Event(1, timestamp, item_id, 1, percent, 180, "clip")


EVENTS = [
    listen(1, 0, 10), clip(10, 10, 50), clip(20, 10, 100), clip(30, 20, 0), reaction("skip", 1, 40, 30),
    clip(T, 20, 50), reaction("skip", 1, T + 10, 20),
]  # fmt: skip


def main(folder: Path) -> None:
    platform = Platform(folder)
    keys = ("splits/negatives", "splits/ground_truth", "graph/statistics")
    platform.split(World(EVENTS, [10, 20, 30]), Rules(protocol="global_temporal"), *keys)
    attributes = platform.graph()[INTERACTS].edge_attr
    found = {name: platform.rows(f"splits/{name}") for name in ("train", "negatives", "ground_truth")}
    found |= {
        "edges": platform.rows("graph/edges"),
        "statistics": {row["name"]: row["value"] for row in platform.rows("graph/statistics")},
        "attributes": attributes.tolist(),
        "positive_weights": positive_weights(attributes).tolist(),
        "learned_from": EdgeWeightMLP(attributes).rows.tolist(),
    }
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
