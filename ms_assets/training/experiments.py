"""Trainings that are compared with one another: how a study and an ablation have them done."""

from collections.abc import Callable
from dataclasses import asdict, dataclass

from ms_assets.defs.platform.resources import ComputeDevice, MLflowRun
from ms_assets.settings import TrainingSettings
from ms_assets.training import trainer
from ms_assets.training.inputs import Inputs, fitted
from ms_assets.training.trainer import Epoch, Trained

Listener = Callable[[Epoch], bool | None]
"""Told of every epoch; training ends when it answers True."""


@dataclass(frozen=True)
class Fitted:
    """A training, and the MLflow run that tells of it."""

    trained: Trained
    mlflow_run_id: str


Fit = Callable[[str, TrainingSettings, Listener], Fitted]
"""Trains under a name to show; raises what `memory.fitted` and `trainer.train` raise."""


def within(run: MLflowRun, device: ComputeDevice, inputs: Inputs) -> Fit:
    """Trainings of the same inputs, each an MLflow run within this one."""

    def fit(name: str, asked: TrainingSettings, listener: Listener) -> Fitted:
        settings, processor = fitted(asked, inputs[0], device)
        with run.child(name) as child:
            child.log_settings({**settings.model_dump(), "device": str(processor)})

            def tell(epoch: Epoch) -> bool | None:
                child.log_metrics(asdict(epoch), step=epoch.number)
                return listener(epoch)

            trained = trainer.train(*inputs, settings, processor, tell)
        return Fitted(trained, child.run_id)

    return fit
