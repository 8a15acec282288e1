"""MLflow model that serves recommendations; MLflow copies this file beside the model's data, in place of a pickle.

It needs `ms_assets` in the environment that serves. It answers rows of `uid, k, exclude_heard` with the kind of the
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
"""Module that is imported while MLflow's server loads its model, and in no other program."""


def candidate(folder: Path, example_uid: int, training: TrainedModel, run_id: str | None) -> Candidate:
    """Model to register, made from the data files in a folder.

    Args:
        folder: folder that `served.write` has filled.
        example_uid: known user for the input example, which also holds an unknown one.
        training: model of training/lightgcn.
        run_id: MLflow run of the training, if the store has it.
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
    """MLflow model that recommends by embeddings and index; unknown users get the songs that are popular of late."""

    def load_context(self, context: PythonModelContext) -> None:
        """Read the model's files."""
        if SCORING_SERVER in sys.modules:
            _answer_without_stack_traces()
        self.service = Service.read(Path(context.artifacts["users"]).parent)

    def predict(self, context: PythonModelContext, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:
        """Recommend songs, one row of the answer for each row of the request.

        Raises:
            MlflowException: names the row whose k is out of range; any other error is described in the log alone.
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
            logger.exception("a request of %d rows failed", len(uid))
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
    # MLflow's server answers a body that it cannot parse with a stack trace, which contains paths of this machine, and
    # has no setting against that. This method serialises all its errors.
    whole = MlflowException.serialize_as_json

    def without_stack_trace(self: MlflowException) -> str:
        self.json_kwargs.pop("stack_trace", None)
        return whole(self)  # type: ignore[no-untyped-call]

    MlflowException.serialize_as_json = without_stack_trace  # type: ignore[method-assign]


set_model(SongsForUsers())
