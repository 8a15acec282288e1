"""MLflow model that serves recommendations; MLflow copies this file beside the model's data, in place of a pickle.

It needs `ms_assets` in the environment that serves. It answers rows of `uid, k, exclude_heard, stage` with the kind of
the answer, songs and scores. The signature takes any values, since for typed columns MLflow makes true of the text
"false" and −2⁶³ of 2⁶³; the model checks every value itself.
"""

import logging
import math
import re
import reprlib
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature, set_model
from mlflow.pyfunc import PythonModel, PythonModelContext
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import AnyType, Array
from numpy.typing import NDArray

from ms_assets.registry import Candidate
from ms_assets.reranking.served import TwoStages
from ms_assets.retrieval.recommender import TOP_K
from ms_assets.training.trained import TrainedModel

logger = logging.getLogger(__name__)

ANY = AnyType()  # type: ignore[no-untyped-call]
SIGNATURE = ModelSignature(
    inputs=Schema(
        [
            ColSpec(ANY, "uid"),
            ColSpec(ANY, "k"),
            ColSpec(ANY, "exclude_heard", required=False),
            ColSpec(ANY, "stage", required=False),
        ]
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
INT64 = int(np.iinfo(np.int64).min), int(np.iinfo(np.int64).max)
OPTIONAL = ("exclude_heard", "stage")
"""Columns that a request may leave out."""
STAGES = {"retrieval": False, "ranked": True}
"""Stages of an answer, and whether it is the second."""
DIGITS = re.compile(r"[+-]?[0-9]{1,20}")
EXACT = 2**53
"""Float below which every integer is a float of its own."""
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
        example=pd.DataFrame(
            {"uid": [example_uid, -1], "k": 10, "exclude_heard": [True, False], "stage": ["ranked", "retrieval"]}
        ),
        requirements=REQUIREMENTS,
        run_id=run_id,
        metrics={"best_validation_ndcg": training.best.validation_ndcg},
        inputs=training.inputs,
    )


class SongsForUsers(PythonModel):
    """MLflow model that recommends in one stage or two; unknown users get the songs that are popular of late."""

    def load_context(self, context: PythonModelContext) -> None:
        """Read the model's files."""
        if SCORING_SERVER in sys.modules:
            _prepare_server()
        self.service = TwoStages.read(Path(context.artifacts["users"]).parent)

    def predict(self, context: PythonModelContext, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:
        """Recommend songs, one row of the answer for each row of the request.

        Raises:
            MlflowException: names the row, the column, what was found and what was expected; any other error is
                described in the log alone.
        """
        flags, stages = (model_input.get(n, pd.Series(None, model_input.index, object, n)) for n in OPTIONAL)
        uid = _checked(model_input["uid"], lambda value: _integer(value, *INT64), f"{INT64[0]} to {INT64[1]}")
        k = _checked(model_input["k"], lambda value: _integer(value, 1, TOP_K), f"1 to {TOP_K}")
        exclude_heard = _checked(flags, _flag, "true or false, 1 or 0, without quotes, or null for true")
        is_ranked = _checked(stages, _stage, "retrieval, ranked, or null for ranked")
        try:
            answers = self.service.answer(uid, k, exclude_heard, is_ranked)
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


def _checked(values: pd.Series, convert: Callable[[Any], int | None], expected: str) -> NDArray[Any]:
    """Convert values to int64 [n], or to flags; a value that gives None is refused by its column and row."""
    plain = [value.item() if isinstance(value, np.generic) else value for value in values]
    found = [convert(value) for value in plain]
    if wrong := [row for row, value in enumerate(found) if value is None]:
        # A CSV column with one wrong word is text throughout: its words that would do alone are not to blame.
        row = min(wrong, key=lambda row: str(plain[row]).lower() in ("true", "false"))
        raise MlflowException.invalid_parameter_value(
            f"{values.name}: found {reprlib.repr(plain[row])} in row {row}, expected {expected}"
        )
    return np.array(found, np.bool_ if convert in (_flag, _stage) else np.int64)


def _integer(value: Any, low: int, high: int) -> int | None:
    """Integer within limits, also as a whole float or in digits; None for any other value."""
    is_whole = isinstance(value, float) and abs(value) < EXACT and value.is_integer()
    if is_whole or (isinstance(value, str) and DIGITS.fullmatch(value)):
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high else None


def _is_missing(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def _flag(value: Any) -> bool | None:
    """Flag from a boolean, 0, 1, or a missing value, which is true; None for any other value."""
    if _is_missing(value):
        return True
    return bool(value) if isinstance(value, int | float) and value in (0, 1) else None


def _stage(value: Any) -> bool | None:
    """True for the second stage, and for a missing value; False for retrieval; None for any other value."""
    return True if _is_missing(value) else STAGES.get(value) if isinstance(value, str) else None


def _prepare_server() -> None:
    """Replace two functions of MLflow's scoring server, in its own process alone.

    It answers a body that it cannot parse with a stack trace, which contains paths of this machine, and it cannot read
    CSV for a signature that takes any values. It has no setting for either.
    """
    from mlflow.pyfunc import scoring_server

    whole, parse = MlflowException.serialize_as_json, scoring_server.parse_csv_input

    def without_stack_trace(self: MlflowException) -> str:
        self.json_kwargs.pop("stack_trace", None)
        return whole(self)  # type: ignore[no-untyped-call]

    def read_csv(csv_input: Any, schema: Any = None) -> pd.DataFrame:
        return parse(csv_input)

    MlflowException.serialize_as_json = without_stack_trace  # type: ignore[method-assign]
    scoring_server.parse_csv_input = read_csv


set_model(SongsForUsers())
