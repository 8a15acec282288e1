"""Work for several ranks, in a module that they import quickly; and threads in their place, to try many."""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import torch

from ms_assets.training import race, trainer
from ms_assets.training.columns import Columns
from ms_assets_tests.training.graphs import data_of
from ms_assets_tests.training.tastes import EXPLICIT, GRAPH, WANTED, settings_of

DATA = data_of(GRAPH, EXPLICIT, WANTED)
UNVALIDATED = data_of(GRAPH, EXPLICIT)
"""Nothing to choose an epoch by: the last one is kept."""
FEW = {"embedding_dim": 12, "epochs": 2, "edge_weight_interval": 4, "neutral_negatives": 8, "batch_size": 240}
RACED = settings_of(**FEW)
BPR = settings_of(**FEW | {"learning_rate": 2.0}, objective="bpr", race=False, optimizer="sgd", max_gradient_norm=0.05)
LONGER = settings_of(**FEW | {"epochs": 4}, patience=4, checkpoint_seconds=0)


def everything(device, columns, data, unvalidated, checkpoint, found=None):
    """Train in one of two ranks all that the tests compare; at last the second one is killed."""
    raced = race.train(data, RACED, device, columns=columns)
    bpr = race.train(unvalidated, BPR, device, columns=columns)
    trainer.fit(unvalidated, LONGER, device, lambda epoch: epoch.number == 2, checkpoint, columns=columns)
    if not columns.first:
        os.kill(os.getpid(), signal.SIGKILL)
    found |= {"raced": raced, "bpr": bpr, "threads": torch.get_num_threads()}
    columns.sum(torch.ones(3))


def endless(device, columns, folder):
    """Leave a word in the folder, then train for ever."""
    (folder / str(columns.number)).write_text(str(os.getpid()))
    while True:
        columns.sum(torch.ones(1))


class Threaded(Columns):
    """Columns of one of several threads, which meet at a barrier."""

    def __init__(self, number, of, barrier, places):
        super().__init__(number, of)
        self.barrier, self.places = barrier, places

    def copy_first(self, x):
        x.copy_(self._collected(x)[0])

    def _add_up(self, x):
        x.copy_(torch.stack(self._collected(x)).sum(dim=0))

    def _collected(self, x):
        self.places[self.number] = x.clone()
        self.barrier.wait()
        found = list(self.places)
        self.barrier.wait()
        return found


def in_threads(n, work):
    """Call work with the columns of each of n threads; gives what they return, or raises what the first one raises."""
    barrier, places = threading.Barrier(n), [None] * n

    def one(number):
        try:
            return work(Threaded(number, n, barrier, places))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(n) as pool:
        return [each.result() for each in [pool.submit(one, number) for number in range(n)]]
