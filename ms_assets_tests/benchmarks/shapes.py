"""Data of the sizes and distributions that Yambda publishes for 50m, and of a tenth of it; graphs of larger scales."""

from collections.abc import Iterable
from dataclasses import replace
from math import log
from statistics import NormalDist

from ms_assets.defs.platform import needs
from ms_assets.raw.sample import Curve, SampleShape
from ms_assets.training.memory import Sizes


def through(quantiles: Iterable[tuple[float, float]]) -> Curve:
    """The curve through these quantiles: (share, value)."""
    return tuple((NormalDist().inv_cdf(share), log(value)) for share, value in quantiles)


ACTIVITY = [
    (0.0005, 5), (0.25, 687), (0.5, 2_653.5), (0.75, 6_856.5), (0.9, 13_300), (0.95, 17_600), (0.99, 24_500),
    (0.9999, 27_699),
]  # fmt: skip
"""Of a user: 90 and 95 % are those of 5b's listens, 99 % is fitted to the published mean and deviation."""
POPULARITY = [
    (0.001, 0.45), (0.2, 0.9), (0.5, 1.2), (0.675, 1.6), (0.8375, 6), (0.9, 12.5), (0.97, 67), (0.99, 330),
    (0.999, 3_000), (0.999_999, 40_000),
]  # fmt: skip
"""Of a song: fitted by trial to the published events per song; many of the songs are never heard."""
FIFTY_MILLION = SampleShape(
    n_users=10_000, n_songs=1_500_000, n_listens=46_470_000, n_scenes=100, scenes_per_user=8,
    activity=through(ACTIVITY), popularity=through(POPULARITY), favourites=100, loyalty=0.2, replay=0.4,
    like=0.041, dislike=0.0147, snub=0.003, unlike=0.355, undislike=0.226,
)  # fmt: skip
FIVE_MILLION = replace(FIFTY_MILLION, n_users=1_050, n_songs=470_000, n_listens=4_880_000)
SHAPES = {"50m": FIFTY_MILLION, "5m": FIVE_MILLION}

OWNERS = {"500m": 600_000, "5b": 1_900_000}
GRAPHS = {scale: Sizes(**needs.SHAPES[scale]._asdict(), n_owners=n_owners) for scale, n_owners in OWNERS.items()}
"""Graphs of the larger scales."""
EVENTS = {"500m": 480_000_000, "5b": 4_790_000_000}
"""Events of the larger scales before users and songs are chosen, as published."""
