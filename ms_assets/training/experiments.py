"""Experiments: the trainings that a study or an ablation compares, each in an MLflow run of its own."""

from collections.abc import Callable
from dataclasses import asdict, replace

from ms_assets.settings import TrainingSettings
from ms_assets.tracking import MLflowRun
from ms_assets.training import trainer
from ms_assets.training.data import TrainingData
from ms_assets.training.inputs import fitted
from ms_assets.training.trained import Epoch, TrainedModel

Listener = Callable[[Epoch], bool | None]
"""Function that is called with every epoch; training stops if it returns True."""
Fit = Callable[[str, TrainingSettings, Listener], TrainedModel]
"""Function that trains under a name to show; raises what `inputs.fitted` and `trainer.fit` raise."""


def within(run: MLflowRun, data: TrainingData) -> Fit:
    """Function that trains on the same data, each time in an MLflow run nested in this one."""

    def fit(name: str, asked: TrainingSettings, listener: Listener) -> TrainedModel:
        settings, device = fitted(asked, data.graph)
        with run.child(name) as child:
            child.log_settings({**settings.model_dump(), "device": str(device)})

            def tell(epoch: Epoch) -> bool | None:
                child.log_metrics(asdict(epoch), step=epoch.number)
                return listener(epoch)

            return replace(trainer.fit(data, settings, device, tell), mlflow_run_id=child.run_id)

    return fit
