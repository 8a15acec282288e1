"""A study over trainings of made-up quality."""

import math

from ms_assets.settings import StudySettings, TrainingSettings
from ms_assets.training import study as studies
from ms_assets.training.trained import Epoch, TrainedModel

BASE = TrainingSettings(epochs=4, layers=2, neutral_negatives=16, learning_rate=0.02, temperature=0.15)
SIDE_BY_SIDE = """
import os, sys
from ms_assets_tests.training.trials import Trainings, searched
other = os.fork()
searched(sys.argv[1], int(sys.argv[2]), Trainings())
if other:
    sys.exit(os.waitpid(other, 0)[1])
"""
"""Two processes that search one study, parted once both have imported what they need."""


def goodness(settings):
    """A made-up quality: best at a learning rate of 0.01 and three layers, whatever the rest."""
    return 1 / (1 + abs(math.log10(settings.learning_rate / 0.01)) + abs(settings.layers - 3))


class Trainings:
    """Stands for training: a curve that rises to the goodness of its settings, and whose listener may stop it."""

    def __init__(self):
        self.settings, self.n_epochs = [], []

    def __call__(self, name, settings, listener):
        self.settings.append(settings)
        history = []
        for number in range(1, settings.epochs + 1):
            ndcg = goodness(settings) * number / settings.epochs
            history.append(Epoch(number, 1.0, ndcg, 0.1, float(number)))
            if listener(history[-1]):
                break
        self.n_epochs.append(len(history))
        return TrainedModel(settings, {}, history[-1], history, mlflow_run_id=f"run of {name}")


def searched(url, n_trials, fit, seed=0):
    study = studies.open_study(url, "taste", BASE)
    studies.search(study, StudySettings(trials=n_trials, seed=seed), BASE, fit)
    return study
