"""Table of event types: relevance, edge weight and loss weight of each, from which every room derives what it needs.

A new type is one more entry of EVENT_TYPES. Metrics that name a type themselves (plays, listen+, likes, dislikes) stay
with that type.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

Line = tuple[float, float]
"""Intercept and slope over the played ratio of an event, 0 to 1."""


@dataclass(frozen=True)
class EventType:
    """Weights of one event type; a type without an edge weight is an explicit negative."""

    code: int
    """Number of the type in edge attributes, at least 1; graphs store it, so it never changes."""
    relevance: Line = (0, 0)
    """Share of a held-out event in the relevance of its song; an unknown played ratio counts as 0."""
    edge_weight: float | None = None
    """Heuristic weight of an edge, above 0 and at most 1; None for explicit negatives, which make no edges."""
    edge_ratio: float | None = None
    """Played ratio of an edge, 0 to 1; None for the mean of the known ratios of its events."""
    loss: Line = (0, 0)
    """Weight of an edge in the training loss."""

    @property
    def is_positive(self) -> bool:
        """True if events of this type make edges and train recommenders; other types are explicit negatives."""
        return self.edge_weight is not None


EVENT_TYPES = {
    "listen": EventType(code=1, relevance=(0, 0.7), edge_weight=0.7, edge_ratio=None, loss=(0.3, 0.7)),
    "like": EventType(code=2, relevance=(1, 0), edge_weight=1.0, edge_ratio=1.0, loss=(1.0, 0)),
    "dislike": EventType(code=3),
    "unlike": EventType(code=4),
    "undislike": EventType(code=5, relevance=(0.3, 0), edge_weight=0.3, edge_ratio=0.5, loss=(0.5, 0)),
}
"""Every event type that data may hold, by name."""
REMEDY = "leave such events out, or add the type to EVENT_TYPES in ms_assets/events.py"
POSITIVES = {name: kind for name, kind in EVENT_TYPES.items() if kind.is_positive}
NEGATIVES = {name: kind for name, kind in EVENT_TYPES.items() if not kind.is_positive}
LARGEST_CODE = max(kind.code for kind in EVENT_TYPES.values())


def name_of(code: float) -> str:
    """Name of the type with a code, or the code itself where no type has it."""
    return next((name for name, kind in EVENT_TYPES.items() if kind.code == code), f"code {code:g}")


class UnknownEventTypeError(ValueError):
    """An event or an edge has an unexpected type."""

    def __init__(self, found: object, expected: Iterable[str]) -> None:
        super().__init__(_refusal(str(found), expected))


def sql_case(values: Mapping[str, object]) -> str:
    """SQL that maps the column event_type to a value for each type, NULL to NULL; any other type is an error."""
    cases = " ".join(f"WHEN '{name}' THEN {value}" for name, value in values.items())
    refusal = _refusal("' || event_type || '", values)
    return f"(CASE event_type {cases} ELSE error('{refusal}') END)"


def listed(names: Iterable[str]) -> str:
    """Names as a phrase: `listen, like or undislike`."""
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last


def _refusal(found: str, expected: Iterable[str]) -> str:
    return f"event_type: found {found}, expected {listed(expected)}; {REMEDY}"


IS_POSITIVE, IS_NEGATIVE = (
    sql_case({name: kind.is_positive is positive for name, kind in EVENT_TYPES.items()}) for positive in (True, False)
)
"""SQL conditions on the column event_type; a type that is not in the table is an error."""
KNOWN = sql_case({name: f"'{name}'" for name in EVENT_TYPES})
"""SQL: the column event_type itself; a type that is not in the table is an error."""
