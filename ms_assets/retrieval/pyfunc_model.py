"""What MLflow runs to serve a model: this file, copied beside the model's data, in place of a pickle.

It needs `ms_assets` in the environment that serves. Rows of `uid, k, exclude_heard` are answered with the kind of the
answer, songs and scores.
"""

import logging
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature, set_model
from mlflow.pyfunc import PythonModel, PythonModelContext
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import Array

from ms_assets.registry import Candidate
from ms_assets.retrieval.recommender import TOP_K
from ms_assets.retrieval.served import Service
from ms_assets.training.trained import TrainedModel

logger = logging.getLogger(__name__)

SIGNATURE = ModelSignature(
    inputs=Schema(
        [ColSpec(DataType.long, "uid"), ColSpec(DataType.long, "k"), ColSpec(DataType.boolean, "exclude_heard")]
    ),
    outputs=Schema(
        [
            ColSpec(DataType.long, "uid"),
            ColSpec(DataType.string, "answer"),
            ColSpec(Array(DataType.long), "item_ids"),
            ColSpec(Array(DataType.double), "scores"),
        ]
    ),
)
REQUIREMENTS = [f"{name}=={version(name)}" for name in ("ms_assets", "mlflow")]
SCORING_SERVER = "mlflow.pyfunc.scoring_server.app"
"""The module that is being imported while MLflow's server loads its model, and in no other program."""


def candidate(folder: Path, example_uid: int, training: TrainedModel, run_id: str | None) -> Candidate:
    """What is registered of the data files in a folder.

    Args:
        folder: written by `served.write`.
        example_uid: a known user for the input example; beside them stands one whom nobody can know.
        training: the model of training/lightgcn.
        run_id: its MLflow run, if the store has it.
    """
    return Candidate(
        data=sorted(folder.iterdir()),
        code=Path(__file__),
        signature=SIGNATURE,
        example=pd.DataFrame({"uid": [example_uid, -1], "k": [10, 10], "exclude_heard": [True, False]}),
        requirements=REQUIREMENTS,
        run_id=run_id,
        metrics={"best_validation_ndcg": training.best.validation_ndcg},
        inputs=training.inputs,
    )


class SongsForUsers(PythonModel):
    """Answers by embeddings and index; users whom it does not know get the songs that are popular of late."""

    def load_context(self, context: PythonModelContext) -> None:
        """Read the model's files."""
        if SCORING_SERVER in sys.modules:
            _answer_without_stack_traces()
        self.service = Service.read(Path(context.artifacts["users"]).parent)

    def predict(self, context: PythonModelContext, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:
        """One row of answer for each row of the question.

        Raises:
            MlflowException: naming the row whose k is out of range; or without detail, which is in the log.
        """
        uid, k, exclude_heard = (model_input[name].to_numpy() for name in ("uid", "k", "exclude_heard"))
        wrong = np.flatnonzero((k < 1) | (k > TOP_K))
        if len(wrong):
            raise MlflowException.invalid_parameter_value(
                f"k: found {k[wrong[0]]} in row {wrong[0]}, expected 1 to {TOP_K}"
            )
        try:
            answers = self.service.answer(uid, k, exclude_heard)
        except Exception:
            logger.exception("no answer to %d rows", len(uid))
            raise MlflowException("the model could not answer; its log says why") from None
        return pd.DataFrame(
            {
                "uid": uid,
                "answer": [answer.kind for answer in answers],
                "item_ids": [answer.items.tolist() for answer in answers],
                "scores": [answer.scores.astype(float).tolist() for answer in answers],
            }
        )


def _answer_without_stack_traces() -> None:
    # MLflow's server answers a body that it cannot parse with the stack trace, paths of this machine included, and has
    # no setting for that. All its errors are written by this one method.
    whole = MlflowException.serialize_as_json

    def without_stack_trace(self: MlflowException) -> str:
        self.json_kwargs.pop("stack_trace", None)
        return whole(self)  # type: ignore[no-untyped-call]

    MlflowException.serialize_as_json = without_stack_trace  # type: ignore[method-assign]


set_model(SongsForUsers())
