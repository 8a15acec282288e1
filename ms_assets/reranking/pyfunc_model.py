"""MLflow model that serves recommendations; MLflow copies this file beside the model's data, in place of a pickle.

It needs `ms_assets` in the environment that serves. It answers rows of `uid, k, exclude_heard, stage`, and of the
columns in BEYOND, with the kind of the answer, songs and scores. The signature takes any values, since for typed
columns MLflow makes true of the text "false" and −2⁶³ of 2⁶³; the model checks every value itself.
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
import pyarrow as pa
import pyarrow.parquet as pq
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature, set_model
from mlflow.pyfunc import PythonModel, PythonModelContext
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import AnyType, Array
from numpy.typing import NDArray

from ms_assets.registry import Candidate
from ms_assets.reranking.served import TwoStages
from ms_assets.retrieval.recommender import TOP_K
from ms_assets.retrieval.served import SONGS, USERS, Answer, Question
from ms_assets.training.trained import TrainedModel

logger = logging.getLogger(__name__)

ANY = AnyType()  # type: ignore[no-untyped-call]
BEYOND = ("recent", "ages", "similar_to", "without_artists", "only_songs", "why")
"""Columns of a request that ask for more than a user's list; a row asks for nothing more where they are null."""
STAGES = {"retrieval": False, "ranked": True}
"""Stages of an answer, and whether it is the second."""
ABSENT = object()
"""Value of a row that has none in a column."""
MOST_LISTED = 10_000
"""Largest length of a list in a request."""
REQUIREMENTS = [f"{name}=={version(name)}" for name in ("ms_assets", "mlflow")]
INT64 = int(np.iinfo(np.int64).min), int(np.iinfo(np.int64).max)
DIGITS = re.compile(r"[+-]?[0-9]{1,20}")
EXACT = 2**53
"""Float below which every integer is a float of its own."""
SCORING_SERVER = "mlflow.pyfunc.scoring_server.app"
"""Module that is imported while MLflow's server loads its model, and in no other program."""


def candidate(folder: Path, example_uid: Any, training: TrainedModel, run_id: str | None) -> Candidate:
    """Model to register, made from the data files in a folder.

    Args:
        folder: folder that `served.write` has filled.
        example_uid: id of a known user for the input example, which also holds an unknown one.
        training: model of training/lightgcn.
        run_id: MLflow run of the training, if the store has it.
    """
    return Candidate(
        data=sorted(folder.iterdir()),
        code=Path(__file__),
        signature=_signature(folder),
        example=pd.DataFrame(
            {"uid": [example_uid, -1], "k": 10, "exclude_heard": [True, False], "stage": ["ranked", "retrieval"]}
        ),
        requirements=REQUIREMENTS,
        run_id=run_id,
        metrics={"best_validation_ndcg": training.best.validation_ndcg},
        inputs=training.inputs,
    )


def _signature(folder: Path) -> ModelSignature:
    """Signature of the model whose files are in a folder; its ids are numbers or text, as the data came with them."""
    users, songs = (
        DataType.long if pa.types.is_integer(pq.read_schema(folder / file).field(name).type) else DataType.string
        for file, name in ((USERS, "uid"), (SONGS, "item_id"))
    )
    # A row without `uid` may name songs; the model says what is missing.
    names = ("uid", "k", "exclude_heard", "stage", *BEYOND)
    inputs = [ColSpec(ANY, name, required=name == "k") for name in names]
    outputs = [
        ColSpec(users, "uid", required=False),
        ColSpec(DataType.string, "answer"),
        ColSpec(Array(songs), "item_ids"),
        ColSpec(Array(DataType.double), "scores"),
        ColSpec(Array(Array(songs)), "because", required=False),
    ]
    return ModelSignature(inputs=Schema([*inputs]), outputs=Schema([*outputs]))


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
        stages = model_input.get("stage", pd.Series(None, model_input.index, object, "stage"))
        told = _checked(stages, _stage, "retrieval, ranked, or null for ranked")
        questions, is_ranked = self._questions(model_input), [stage is ABSENT or stage for stage in told]
        try:
            answers = self._answers(questions, is_ranked)
        except Exception:
            logger.exception("a request of %d rows failed", len(questions))
            raise MlflowException("the model could not answer; its log says why") from None
        columns = {
            "uid": [question.uid for question in questions],
            "answer": [answer.kind for answer in answers],
            "item_ids": [answer.items.tolist() for answer in answers],
            "scores": [answer.scores.astype(float).tolist() for answer in answers],
        }
        if any(question.why for question in questions):
            columns["because"] = [[ids.tolist() for ids in answer.because] for answer in answers]
        return pd.DataFrame(columns)

    def _questions(self, rows: pd.DataFrame) -> list[Question]:
        """Question of each row; a row with a value that means nothing is refused."""
        known = self.service.retrieval
        (user, whose), (song, which) = _id(known.users.values), _id(known.songs.values)
        artist, who = _id(known.artists[0] if "without_artists" in rows else known.songs.values)
        flag, lists = "true or false, 1 or 0, without quotes", f"a list of at most {MOST_LISTED:,} values"
        forms: dict[str, tuple[Convert, str]] = {
            "uid": (user, whose),
            "k": (lambda value: _integer(value, 1, TOP_K), f"1 to {TOP_K}"),
            "exclude_heard": (_flag, f"{flag}, or null for true"),
            "recent": (_list(song), f"{lists}, each {which}"),
            "ages": (_list(_seconds), f"{lists}, each a number of seconds from 0 on"),
            "similar_to": (song, which),
            "without_artists": (_list(artist), f"{lists}, each {who}"),
            "only_songs": (_list(song), f"{lists}, each {which}"),
            "why": (_flag, f"{flag}, or null for false"),
        }
        found = {name: _checked(rows[name], *forms[name]) for name in forms if name in rows}
        given = [
            {name: values[row] for name, values in found.items() if values[row] is not ABSENT}
            for row in range(len(rows))
        ]
        for row, question in enumerate(given):
            if "k" not in question:
                raise _refused("k", None, row, forms["k"][1])
            if not question.keys() & {"uid", "recent", "similar_to"}:
                raise _refused("uid", None, row, f"{whose}, or `recent` or `similar_to` beside it")
            if {"recent", "similar_to"} <= question.keys():
                raise _refused("similar_to", question["similar_to"], row, "null beside `recent`")
            if "ages" in question and len(question["ages"]) != (n := len(question.get("recent", ()))):
                raise _refused("ages", rows["ages"].iloc[row], row, f"as many as `recent` has songs, {n}")
        return [Question(**question) for question in given]

    def _answers(self, questions: list[Question], is_ranked: list[bool]) -> list[Answer]:
        """Answers to all questions, those for users' lists together."""
        usual = [question == Question(question.k, question.uid, question.exclude_heard) for question in questions]
        asked = [(q.uid, q.k, q.exclude_heard, in_two) for q, in_two in zip(questions, is_ranked, strict=True)]
        lists = [one for one, is_usual in zip(asked, usual, strict=True) if is_usual]
        together = iter(self.service.answer(*map(np.array, zip(*lists, strict=True))) if lists else ())
        return [
            next(together) if is_usual else self.service.ask(question, in_two)
            for question, in_two, is_usual in zip(questions, is_ranked, usual, strict=True)
        ]


Convert = Callable[[Any], Any]
"""Function that converts a value, and gives None for one that means nothing."""


def _checked(values: pd.Series, convert: Convert, expected: str) -> list[Any]:
    """Convert values; null gives ABSENT, and a value that gives None is refused by its column and row."""
    plain = [value.item() if isinstance(value, np.generic) else value for value in values]
    found = [ABSENT if _is_null(value) else convert(value) for value in plain]
    if wrong := [row for row, value in enumerate(found) if value is None]:
        # A CSV column with one wrong word is text throughout: its words that would do alone are not to blame.
        row = min(wrong, key=lambda row: str(plain[row]).lower() in ("true", "false"))
        raise _refused(str(values.name), plain[row], row, expected)
    return found


def _refused(column: str, found: Any, row: int, expected: str) -> MlflowException:
    said = f"{column}: found {reprlib.repr(found)} in row {row}, expected {expected}"
    return MlflowException.invalid_parameter_value(said)


def _is_null(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def _id(known: NDArray[Any]) -> tuple[Convert, str]:
    """Conversion of values to ids like the known ones, and the values that it takes in words."""
    if known.dtype.kind == "U":
        return _text, "an id as the data have it, in quotes"
    return lambda value: _integer(value, *INT64), f"{INT64[0]} to {INT64[1]}"


def _text(value: Any) -> str | None:
    """Text from text or a whole number; None for any other value."""
    whole = _integer(value, *INT64)
    return value if isinstance(value, str) else None if whole is None else str(whole)


def _list(convert: Convert) -> Convert:
    """Conversion of lists with a conversion of what they hold."""

    def converted(values: Any) -> tuple[Any, ...] | None:
        if not isinstance(values, list | tuple | np.ndarray) or len(values) > MOST_LISTED:
            return None
        found = tuple(map(convert, values))
        return None if None in found else found

    return converted


def _seconds(value: Any) -> float | None:
    """Number of seconds from 0 on; None for any other value."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and 0 <= value < math.inf else None


def _integer(value: Any, low: int, high: int) -> int | None:
    """Integer within limits, also as a whole float or in digits; None for any other value."""
    is_whole = isinstance(value, float) and abs(value) < EXACT and value.is_integer()
    if is_whole or (isinstance(value, str) and DIGITS.fullmatch(value)):
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high else None


def _flag(value: Any) -> bool | None:
    """Flag from a boolean, 0 or 1; None for any other value."""
    return bool(value) if isinstance(value, int | float) and value in (0, 1) else None


def _stage(value: Any) -> bool | None:
    """True for the second stage, False for retrieval; None for any other value."""
    return STAGES.get(value) if isinstance(value, str) else None


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
