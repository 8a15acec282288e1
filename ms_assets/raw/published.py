"""Statistics that Yambda's authors publish of its three sizes (arXiv 2505.22238 and the dataset's card)."""

SPREAD_50M = {
    "per_user_mean": 4779.0,
    "per_user_std": 5560.8,
    "per_user_q25": 687,
    "per_user_median": 2653.5,
    "per_user_q75": 6856.5,
    "per_user_max": 27_699,
    "per_song_mean": 51.2,
    "per_song_median": 3,
    "per_song_q75": 12,
    "per_song_max": 42_960,
}

STATISTICS: dict[str, dict[str, dict[str, float]]] = {
    "50m": {
        "multi_event": {"n_events": 47_790_449, "n_users": 10_000, "n_songs": 934_057, **SPREAD_50M},
        "listens": {"n_events": 46_467_212},
        "likes": {"n_events": 881_456},
        "dislikes": {"n_events": 107_776},
        "unlikes": {"n_events": 312_972},
        "undislikes": {"n_events": 21_033},
    },
    "500m": {
        "multi_event": {"n_users": 100_000, "n_songs": 3_004_578},
        "listens": {"n_events": 466_512_103},
        "likes": {"n_events": 9_033_960},
        "dislikes": {"n_events": 1_128_113},
    },
    "5b": {
        "multi_event": {"n_users": 1_000_000, "n_songs": 9_390_623},
        "listens": {"n_events": 4_649_567_411},
        "likes": {"n_events": 89_334_605},
        "dislikes": {"n_events": 11_579_143},
        "unlikes": {"n_events": 32_944_520},
        "undislikes": {"n_events": 2_434_208},
    },
}
"""Published statistics by scale, file and column of raw/statistics_report."""


def differences(scale: str, report: list[dict[str, float | str | None]]) -> tuple[dict[str, str], int]:
    """Published figures that differ from the report's rows, each as "found …, published …", and how many agree.

    A published mean has one decimal; a figure agrees when it rounds to what was published.
    """
    published, differing, n_equal = STATISTICS.get(scale, {}), {}, 0
    for row in report:
        for name, figure in published.get(str(row["file"]), {}).items():
            found = row[name]
            if found is not None and round(float(found), 1) == figure:
                n_equal += 1
            else:
                differing[f"{row['file']}.{name}"] = f"found {found}, published {figure}"
    return differing, n_equal
