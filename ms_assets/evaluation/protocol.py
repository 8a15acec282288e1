"""Protocol of a split, read from its tables, and its comparability with published figures."""

from dataclasses import dataclass

from ms_assets.evaluation import published
from ms_assets.raw.published import STATISTICS
from ms_assets.settings import PUBLISHED_LAST_TIMESTAMP
from ms_assets.splits.protocols import GAP
from ms_assets.streams import Relation

TEST_START = PUBLISHED_LAST_TIMESTAMP - 86_400
"""Second at which Yambda's authors cut; the last day is their test part."""


Spans = dict[str, tuple[int, int] | None]
"""First and last second of train, validation and test; None for a part without a known time."""


def spans_of(**parts: Relation) -> Spans:
    """First and last second of each part; parts: splits/train, validation and test by name."""
    spans = {name: part.aggregate("min(timestamp), max(timestamp)").fetchall()[0] for name, part in parts.items()}
    return {name: None if span[0] is None else span for name, span in spans.items()}


def is_global(spans: Spans) -> bool:
    """True if every test event is later than every train and validation event, across all users."""
    test, last = spans["test"], _last_before_test(spans)
    return test is not None and last is not None and last < test[0]


def _last_before_test(spans: Spans) -> int | None:
    return max((span[1] for name, span in spans.items() if name != "test" and span), default=None)


@dataclass(frozen=True)
class Protocol:
    """Protocol and size of the data, read from the tables."""

    scale: str
    spans: Spans
    n_users: int
    n_raw_users: int
    """Number of users in raw/multi_event."""
    n_songs: int
    n_raw_songs: int
    differing: dict[str, str]
    """Published figures that differ from those of the raw events, in words."""

    @classmethod
    def of(cls, scale: str, spans: Spans, users: Relation, songs: Relation, multi_event: Relation) -> "Protocol":
        """Compare splits/users and splits/songs with the raw events, and these with Yambda's published figures."""
        counts = {"n_events": "*", "n_users": "DISTINCT uid", "n_songs": "DISTINCT item_id"}
        [row] = multi_event.aggregate(", ".join(f"count({what})" for what in counts.values())).fetchall()
        raw, wanted = dict(zip(counts, row, strict=True)), STATISTICS.get(scale, {}).get("multi_event", {})
        differing = {
            name: f"found {raw[name]:,}, published {wanted[name]:,}"
            for name in raw
            if raw[name] != wanted.get(name, raw[name])
        }
        return cls(scale, spans, len(users), raw["n_users"], len(songs), raw["n_songs"], differing)

    @property
    def name(self) -> str:
        """Name of the protocol in the settings of `split_events`."""
        return "global_temporal" if is_global(self.spans) else "per_user"

    @property
    def obstacles(self) -> list[str]:
        """Differences from the authors' protocol, in words; empty if there are none."""
        test, last = self.spans["test"], _last_before_test(self.spans)
        if test is None or last is None or not is_global(self.spans):
            return ["users are divided one by one, the authors cut at one time for everybody (global_temporal)"]
        found = []
        if self.scale not in published.RESULTS:
            found.append(f"{self.scale} is no size of Yambda")
        if test[0] < TEST_START or last >= TEST_START - GAP:
            found.append(
                f"train and validation end at {last:,} and the test part begins at {test[0]:,}; the authors test from "
                f"{TEST_START:,} on, after a gap of {GAP:,} (test_start)"
            )
        if self.n_users < self.n_raw_users:
            found.append(f"{self.n_users:,} of {self.n_raw_users:,} users take part (min_events, max_events)")
        if self.n_songs < self.n_raw_songs:
            found.append(f"{self.n_songs:,} of {self.n_raw_songs:,} songs are in the catalogue (require_audio)")
        return found

    @property
    def matches(self) -> bool:
        """True if users, songs and division are those of the authors' protocol."""
        return not self.obstacles

    @property
    def comparable(self) -> bool:
        """True if official figures can be compared with the published ones."""
        return self.matches and not self.differing

    def verdict(self) -> str:
        """Sentence that says if official figures are comparable with the published ones, and if not, why."""
        if self.comparable:
            return "Official figures are comparable with the published table: same events, users, songs and division."
        reasons = self.obstacles or [
            "the protocol is the authors', but the events are not the published ones: "
            + "; ".join(f"{name} {text}" for name, text in self.differing.items())
        ]
        return f"Figures are not comparable with the published table: {'; '.join(reasons)}."
