"""Settings of every step: name, type, default, range and reason.

Plain pydantic models, so that a notebook can use them without Dagster. The defaults here suit Yambda's
`50m`; `scales.py` lists what differs at other scales, and a run's config overrides both.
"""

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

SMALLEST_BATCH, LARGEST_BATCH = 8_192, 262_144
LARGEST_PIECE = 8_192
"""Edges of a piece whose rows of 128 numbers the C library keeps for the next piece: larger ones it gives back."""
DEFAULT_TEMPERATURE = 0.1
DEFAULT_LENGTH_POWER = 0.1
PUBLISHED_LAST_TIMESTAMP = 26_000_000
"""Yambda's last timestamp, seconds after its first event."""
LARGEST_SEED = 2**32 - 1
"""Largest seed of NumPy's generators."""
LARGEST_COUNT = 2**31 - 1
"""Largest number that every library takes for a count, signed 32 bits."""
LARGEST_RATE = 1e38
"""Largest power of ten of a 32-bit float."""


class Settings(BaseModel):
    """Base class of settings: unknown names are refused, and values cannot change once they are validated."""

    model_config = ConfigDict(extra="forbid", frozen=True)


S = TypeVar("S", bound=Settings)


def validated(model: type[S], values: Mapping[str, Any]) -> S:
    """Build settings from values by name.

    Raises:
        ValueError: one sentence that names each setting, what was found and what was expected.
    """
    try:
        return model(**values)
    except ValidationError as error:
        found = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or model.__name__}: {problem['msg']} (found {problem['input']!r})"
            if problem["loc"]
            else problem["msg"].removeprefix("Value error, ")
            for problem in error.errors()
        )
        raise ValueError(f"{model.__name__}: {found}") from None


def _known_device(device: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,2})?", device):
        raise ValueError("expected auto, cpu, cuda or cuda:N, N below 100")
    return device


Device = Annotated[str, AfterValidator(_known_device)]


class UserSettings(Settings):
    """Filter of users by their number of events."""

    min_events: int = Field(680, ge=1, le=LARGEST_COUNT, description="Users with fewer raw events are left out.")
    max_events: int = Field(6800, ge=1, le=LARGEST_COUNT, description="Users with more raw events are left out.")

    @model_validator(mode="after")
    def _range_is_not_empty(self) -> Self:
        if self.min_events > self.max_events:
            raise ValueError(f"min_events ({self.min_events}) must not exceed max_events ({self.max_events})")
        return self


class SongSettings(Settings):
    """Filter of songs by audio."""

    require_audio: bool = Field(
        True,
        description="Leave out songs without an audio embedding; otherwise they stay, with unknown audio.",
    )


class SplitSettings(Settings):
    """Division of events into train, validation and test."""

    protocol: Literal["per_user", "global_temporal"] = Field(
        "per_user",
        description="per_user: the first train_ratio of each user's events are for training, the next "
        "validation_ratio for validation, the rest for testing. global_temporal: one cut in time for all users, as "
        "Yambda's authors do.",
    )
    train_ratio: float = Field(0.8, gt=0, lt=1, description="Share of a user's events for training (per_user).")
    validation_ratio: float = Field(0.1, ge=0, lt=1, description="Share of a user's events for validation (per_user).")
    test_start: int = Field(
        PUBLISHED_LAST_TIMESTAMP - 86_400,
        ge=0,
        le=2**62,
        description="First second of the test part (global_temporal); set it for data that ends at another time than "
        "Yambda.",
    )

    @model_validator(mode="after")
    def _leaves_a_test_part(self) -> Self:
        if self.train_ratio + self.validation_ratio >= 1:
            raise ValueError(
                f"train_ratio ({self.train_ratio}) + validation_ratio ({self.validation_ratio}) must stay "
                "below 1, or no test part is left"
            )
        return self


class TrainingSettings(Settings):
    """Settings of LightGCN: size, loss and optimisation."""

    embedding_dim: int = Field(128, ge=4, le=1024, description="Dimensions of user and song embeddings.")
    layers: int = Field(3, ge=0, le=8, description="Propagation layers, over which embeddings are averaged.")
    song_lengths: bool = Field(
        True, description="Learn the length of every song's embedding; otherwise all have length 1."
    )
    length_power: float | None = Field(
        None,
        ge=0,
        le=2,
        description="Power of a song's number of edges at which its learned length begins. By default the race's "
        "choice, or .1.",
    )
    song_residual: bool = Field(
        True, description="Learn a residual vector per graph song, added to the encoding of its audio and metadata."
    )
    audio: bool = Field(True, description="Encode songs from their audio.")
    metadata: bool = Field(True, description="Encode songs from their artists and albums.")
    balance_scales: bool = Field(
        True, description="Scale audio and metadata before training to the same mean norm; otherwise by 1."
    )
    edge_weights: Literal["learned", "heuristic", "uniform"] = Field(
        "learned",
        description="learned from event type, count and played ratio; heuristic by event type; or uniform.",
    )
    spectral_start: bool = Field(
        True, description="Start from a truncated SVD of the graph instead of random embeddings."
    )
    spectrum: Literal["normalised", "plain"] = Field(
        "normalised",
        description="Matrix of the spectral start. normalised: edge weights over the roots of degrees. plain: edge "
        "weights as they are, 1 for every pair if they are uniform, and songs begin at the lengths of their vectors.",
    )
    spectrum_power: float | None = Field(
        None,
        ge=0,
        le=16,
        description="Power of the singular values by which dimensions of a normalised spectral start weigh; the higher "
        "it is, the fewer of them count. By default the race's choice, or 1.",
    )
    objective: Literal["bpr", "softmax"] = Field(
        "softmax",
        description="Loss of a positive against neutral negatives. bpr: it should outscore each of them. softmax: it "
        "should have the largest share among all songs, estimated from them.",
    )
    epochs: int = Field(20, ge=1, le=10_000, description="Maximum number of passes over all positive edges.")
    patience: int = Field(
        4,
        ge=1,
        le=10_000,
        description="Epochs without a better validation NDCG before training stops; that of the start counts after ten "
        "million edges.",
    )
    batch_size: int | None = Field(
        None,
        ge=1,
        le=LARGEST_COUNT,
        description="Positive edges per step; by default a sixteenth of all, between 8,192 and 262,144.",
    )
    accumulation: int | None = Field(
        None,
        ge=1,
        le=LARGEST_COUNT,
        description="Pieces per step, whose gradients are accumulated to save memory; the step stays the same. By "
        "default pieces have at most 8,192 edges, 262,144 on a GPU, fewer where memory is short.",
    )
    group_size: int = Field(
        64, ge=1, le=SMALLEST_BATCH, description="Positives of a batch that share one draw of neutral negatives."
    )
    neutral_negatives: int = Field(
        256, ge=1, le=65_536, description="Random songs drawn as negatives for a group of positives."
    )
    neutral_weight: float = Field(0.31, ge=0, le=1e6, description="Weight of the neutral negatives in the loss.")
    hard_weight: float = Field(1.0, ge=0, le=1e6, description="Weight of the explicit negatives in the loss.")
    margin: float = Field(0.0, ge=0, le=2, description="Difference by which a positive should outscore a negative.")
    temperature: float | None = Field(
        None,
        ge=1e-6,
        le=10,
        description="Divisor of score differences; below 1 it sharpens. By default the race's choice, or .1.",
    )
    race: bool = Field(
        True,
        description="Choose on the validation part what no default wins on all data, unless it is given: the powers of "
        "the spectrum and of lengths, by the start alone; the temperature, by short trainings, except of large graphs; "
        "and whether training is better than a plain SVD of the graph's pairs or of its edge weights.",
    )
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="Optimiser; sgd runs with momentum.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of sgd.")
    learning_rate: float = Field(
        0.005, gt=0, le=LARGEST_RATE, description="Peak learning rate, reached after the warm-up; then a cosine to 0."
    )
    warmup_epochs: float = Field(1.0, ge=0, le=10_000, description="Epochs over which the learning rate rises.")
    weight_decay: float = Field(
        1e-4, ge=0, le=1, description="Weight decay of user, artist and album embeddings and of residuals."
    )
    max_gradient_norm: float = Field(
        1.0, ge=1e-6, le=LARGEST_RATE, description="Norm to which longer gradients are clipped."
    )
    edge_weight_interval: int = Field(
        10,
        ge=1,
        le=LARGEST_COUNT,
        description="Steps between two updates of the edge weights, which are frozen in between.",
    )
    refit: bool = Field(
        False,
        description="Train again on train and validation together, for the best number of epochs, and keep that model.",
    )
    checkpoint_seconds: float = Field(
        60,
        ge=0,
        le=1e9,
        description="Seconds between two checkpoints, from which an interrupted training resumes; "
        "nine times as long as a save takes, if that is more. 0: after every step.",
    )
    replace_checkpoint: bool = Field(
        False,
        description="Discard the checkpoint of an interrupted training on different data or settings, which otherwise "
        "is an error.",
    )
    use_study: bool = Field(
        False,
        description="Take the best settings that training/hyperparameter_study found for this scale; the run config "
        "overrides them.",
    )
    warm_start: bool = Field(
        False,
        description="Begin with the stored training of this scale, of equal size and form, made from earlier events: "
        "what both know keeps its parameters, and the race's choices hold; if the spectral start alone is better on "
        "validation, only the temperature does.",
    )
    validation_users: int = Field(
        2_000, ge=1, le=LARGEST_COUNT, description="Maximum number of users drawn for validation."
    )
    seed: int = Field(0, ge=0, le=LARGEST_SEED, description="Seed of every random choice in training.")
    device: Device = Field("auto", description="Compute device: auto, cpu, cuda or cuda:N.")
    ranks: int = Field(
        1,
        ge=1,
        le=64,
        description="Processes of this machine that train together, each with as many columns of the embeddings, on "
        "cores of the CPU or a card each; the result stays the same, apart from rounding.",
    )

    @model_validator(mode="after")
    def _columns_can_be_divided(self) -> Self:
        if self.embedding_dim % self.ranks:
            raise ValueError(
                f"ranks: found {self.ranks}, expected a divisor of embedding_dim ({self.embedding_dim}), for each rank "
                "holds as many columns"
            )
        return self

    @model_validator(mode="after")
    def _songs_are_something(self) -> Self:
        if not (self.audio or self.metadata or self.song_residual):
            raise ValueError("audio, metadata and song_residual are all off: a song must be known by one of them")
        return self

    @property
    def sharpness(self) -> float:
        """Temperature, τ: the given one, or .1."""
        return self.temperature or DEFAULT_TEMPERATURE

    @property
    def initial_spectrum_power(self) -> float:
        """Power of the singular values in a normalised spectral start: the given one, or 1."""
        return 1.0 if self.spectrum_power is None else self.spectrum_power

    @property
    def initial_length_power(self) -> float:
        """Power of a song's number of edges at which its length begins: the given one, or .1; 0 for fixed lengths."""
        if not self.song_lengths:
            return 0.0
        return DEFAULT_LENGTH_POWER if self.length_power is None else self.length_power

    def step_size(self, n_edges: int) -> int:
        """Number of positive edges per step when training on n_edges."""
        return min(self.batch_size or min(max(n_edges // 16, SMALLEST_BATCH), LARGEST_BATCH), max(n_edges, 1))

    def n_pieces(self, n_edges: int) -> int:
        """Number of pieces per step when training on n_edges."""
        return self.accumulation or math.ceil(self.step_size(n_edges) / LARGEST_PIECE)


class StudySettings(Settings):
    """Settings of the hyper-parameter study: number of trials and their length."""

    trials: int = Field(
        30, ge=1, le=100_000, description="Total number of trials, earlier runs included; more continue a study."
    )
    epochs: int | None = Field(
        None, ge=1, le=10_000, description="Maximum epochs per trial; by default as in training."
    )
    seed: int = Field(0, ge=0, le=LARGEST_SEED, description="Seed of the trials, and of every training in them.")
    device: Device = Field("auto", description="Compute device: auto, cpu, cuda or cuda:N.")


class AblationSettings(Settings):
    """Settings of the ablation."""

    seeds: int = Field(1, ge=1, le=100, description="Trainings per variant, with seeds from 0.")


class IndexSettings(Settings):
    """Settings of the song index."""

    queries: Literal["batch", "single"] = Field(
        "batch",
        description="batch: all users at once, as for the tables of recommendations. single: one user at a time, as in "
        "a service; a large catalogue is then indexed by a graph (HNSW) instead of inverted lists (IVF).",
    )


class EvaluationSettings(Settings):
    """Settings of the evaluation."""

    ks: list[int] = Field([10, 100], description="Lengths at which recommendation lists are cut, 1 to 100.")

    @model_validator(mode="after")
    def _lengths_exist(self) -> Self:
        if not self.ks or sorted(set(self.ks)) != self.ks or self.ks[0] < 1 or self.ks[-1] > 100:
            raise ValueError(f"ks: found {self.ks}, expected ascending lengths within 1 and 100")
        return self
