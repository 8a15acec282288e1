"""Trainings that are compared with one another: how a study and an ablation have them done."""

from collections.abc import Callable
from dataclasses import asdict, replace

from ms_assets.settings import TrainingSettings
from ms_assets.tracking import MLflowRun
from ms_assets.training import trainer
from ms_assets.training.data import TrainingData
from ms_assets.training.inputs import fitted
from ms_assets.training.trained import Epoch, TrainedModel

Listener = Callable[[Epoch], bool | None]
"""Told of every epoch; training ends when it answers True."""
Fit = Callable[[str, TrainingSettings, Listener], TrainedModel]
"""Trains under a name to show; raises what `inputs.fitted` and `trainer.fit` raise."""


def within(run: MLflowRun, data: TrainingData) -> Fit:
    """Trainings on the same data, each an MLflow run within this one."""

    def fit(name: str, asked: TrainingSettings, listener: Listener) -> TrainedModel:
        settings, device = fitted(asked, data.graph)
        with run.child(name) as child:
            child.log_settings({**settings.model_dump(), "device": str(device)})

            def tell(epoch: Epoch) -> bool | None:
                child.log_metrics(asdict(epoch), step=epoch.number)
                return listener(epoch)

            return replace(trainer.fit(data, settings, device, tell), mlflow_run_id=child.run_id)

    return fit
