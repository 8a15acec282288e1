"""Every number that someone might want to change: its name, type, range and reason.

Plain pydantic models, so that a notebook can use them without Dagster. The defaults here suit Yambda's
`50m`; `scales.py` lists what differs at other scales, and a run's config overrides both.
"""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

PUBLISHED_LAST_TIMESTAMP = 26_000_000
"""Yambda's last timestamp, seconds after its first event."""


class Settings(BaseModel):
    """A group of settings: unknown names are refused, and a value once checked stays as it is."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class UserSettings(Settings):
    """Which users take part."""

    min_events: int = Field(680, ge=1, description="Users with fewer raw events are left out.")
    max_events: int = Field(6800, ge=1, description="Users with more raw events are left out.")

    @model_validator(mode="after")
    def _range_is_not_empty(self) -> Self:
        if self.min_events > self.max_events:
            raise ValueError(f"min_events ({self.min_events}) must not exceed max_events ({self.max_events})")
        return self


class SplitSettings(Settings):
    """How each user's events are divided into train, validation and test."""

    protocol: Literal["per_user", "global_temporal"] = Field(
        "per_user",
        description="per_user: the first train_ratio of each user's events train, the next validation_ratio "
        "validate, the rest test. global_temporal: one cut in time for everybody, as Yambda's authors do.",
    )
    train_ratio: float = Field(0.8, gt=0, lt=1, description="Share of a user's events that train (per_user).")
    validation_ratio: float = Field(
        0.1, ge=0, lt=1, description="Share of a user's events that validate (per_user)."
    )
    test_start: int = Field(
        PUBLISHED_LAST_TIMESTAMP - 86_400,
        ge=0,
        description="First second of the test part (global_temporal); own data ends elsewhere than Yambda.",
    )

    @model_validator(mode="after")
    def _leaves_a_test_part(self) -> Self:
        if self.train_ratio + self.validation_ratio >= 1:
            raise ValueError(
                f"train_ratio ({self.train_ratio}) + validation_ratio ({self.validation_ratio}) must stay "
                "below 1, or no test part is left"
            )
        return self
