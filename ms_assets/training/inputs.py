"""What a training is given: from tables to arrays, and from the settings asked for to those that fit."""

from typing import TYPE_CHECKING

from ms_assets.defs.platform.resources import ComputeDevice
from ms_assets.ranking import Judgements
from ms_assets.settings import TrainingSettings
from ms_assets.streams import Relation
from ms_assets.training import memory
from ms_assets.training.steps import Pairs

if TYPE_CHECKING:
    import torch
    from torch_geometric.data import HeteroData

Inputs = tuple["HeteroData", Pairs, Judgements]
"""The graph, the explicit negatives, and the relevance of songs in the validation part."""


def of(graph: "HeteroData", negatives: Relation, ground_truth: Relation) -> Inputs:
    """Read the tables `splits/negatives` and `splits/ground_truth`."""
    rows = ground_truth.filter("split = 'validation'").to_arrow_table()
    user, song, relevance = (rows[name].to_numpy() for name in ("user_id", "song_id", "adjusted_relevance"))
    validation = Judgements.of(user, song, relevance, graph["user"].num_nodes, graph["song"].num_nodes)
    return graph, pairs(negatives), validation


def pairs(negatives: Relation) -> Pairs:
    """The columns user_id and song_id."""
    table = negatives.project("user_id, song_id").to_arrow_table()
    return table["user_id"].to_numpy(), table["song_id"].to_numpy()


def fitted(
    settings: TrainingSettings, graph: "HeteroData", device: ComputeDevice
) -> tuple[TrainingSettings, "torch.device"]:
    """The settings as they fit into the memory of the device that they name, and that device."""
    processor = device.resolve(settings.device)
    sizes, free = memory.Sizes.of(graph), device.free_bytes(processor)
    return memory.fitted(sizes, settings, free, str(processor)), processor
