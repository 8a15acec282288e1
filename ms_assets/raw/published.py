"""Statistics that Yambda's authors publish of its three sizes (arXiv 2505.22238 and the dataset's card)."""

import tomllib
from pathlib import Path

STATISTICS: dict[str, dict[str, dict[str, float]]] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())
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
