"""Inputs of a training: tensors made from tables, and settings adapted to the memory of the device."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from ms_assets.settings import TrainingSettings
from ms_assets.streams import Relation
from ms_assets.training import devices, memory
from ms_assets.training.data import GraphTensors, TrainingData

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData


def training_data(graph: "HeteroData", negatives: Relation, ground_truth: Relation) -> TrainingData:
    """Training data: graph of the train part, explicit negatives, and validation part of `splits/ground_truth`."""
    tensors = GraphTensors.of(graph)
    disliked = negatives.to_arrow_table()
    validation = ground_truth.filter("split = 'validation'").to_arrow_table()
    explicit = (disliked[name].to_numpy() for name in ("user_id", "song_id"))
    user, song, relevance = (validation[name].to_numpy() for name in ("user_id", "song_id", "adjusted_relevance"))
    return TrainingData(tensors, tensors.pairs(*explicit), tensors.pairs(user, song, relevance=relevance))


def last_train_events(train: Relation, n_users: int) -> NDArray[np.int64]:
    """Second of each user's last train event, int64 [n_users]: −1 for none, the largest if a time is unknown."""
    unknown = np.iinfo(np.int64).max
    last = f"if(count(*) > count(timestamp), {unknown}, max(timestamp)::BIGINT) AS last"
    found = train.aggregate(f"user_id, {last}").to_arrow_table()
    seconds = np.full(n_users, -1)
    seconds[found["user_id"].to_numpy()] = found["last"].to_numpy()
    return seconds


def fitted(settings: TrainingSettings, graph: GraphTensors) -> tuple[TrainingSettings, torch.device]:
    """Adapt settings to the memory of the device that they name; returns them and the device.

    Raises:
        ValueError: this machine has no such device, or not enough of them for the ranks.
        NotEnoughMemoryError: not even the smallest pieces of a step fit on the device, or, where that is another, main
            memory does not hold the graph's network.
    """
    device, sizes = devices.resolve(settings.device), memory.Sizes.of(graph)
    devices.refuse_too_many(settings.ranks, device)
    if device.type != "cpu":
        memory.refuse_without_room_beside(sizes, settings, devices.free_bytes(devices.CPU))
    return memory.fitted(sizes, settings, devices.free_bytes(device), str(device)), device
