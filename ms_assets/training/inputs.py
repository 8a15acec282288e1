"""Inputs of a training: from tables to tensors, and from the settings asked for to those that fit."""

from typing import TYPE_CHECKING

from ms_assets.settings import TrainingSettings
from ms_assets.streams import Relation
from ms_assets.training import devices, memory
from ms_assets.training.data import GraphTensors, TrainingData

if TYPE_CHECKING:
    import torch
    from torch_geometric.data import HeteroData


def training_data(graph: "HeteroData", negatives: Relation, ground_truth: Relation) -> TrainingData:
    """Graph of the train part, its explicit negatives, and the validation part of `splits/ground_truth`."""
    tensors = GraphTensors.of(graph)
    disliked = negatives.to_arrow_table()
    validation = ground_truth.filter("split = 'validation'").to_arrow_table()
    explicit = (disliked[name].to_numpy() for name in ("user_id", "song_id"))
    user, song, relevance = (validation[name].to_numpy() for name in ("user_id", "song_id", "adjusted_relevance"))
    return TrainingData(tensors, tensors.pairs(*explicit), tensors.pairs(user, song, relevance=relevance))


def fitted(settings: TrainingSettings, graph: GraphTensors) -> tuple[TrainingSettings, "torch.device"]:
    """Settings that fit into the memory of the device that they name, and that device.

    Raises:
        ValueError: this machine has no such device.
        NotEnoughMemoryError: not even the smallest pieces of a step fit.
    """
    device = devices.resolve(settings.device)
    return memory.fitted(memory.Sizes.of(graph), settings, devices.free_bytes(device), str(device)), device
