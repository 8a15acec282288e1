"""Figures in one style, and figures and tables as Markdown that the Dagster UI renders."""

import base64
import io
from typing import TYPE_CHECKING, Any

import polars as pl

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PALETTE = ["#4c6ef5", "#f59f00", "#12b886", "#e64980", "#868e96", "#7048e8", "#228be6"]


def figure(width: float = 8, height: float = 4) -> "Figure":
    """Create a blank figure, its size in inches, which needs no display."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def png(picture: "Figure") -> bytes:
    """Render a figure as PNG; equal figures give equal bytes."""
    buffer = io.BytesIO()
    picture.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def svg(picture: "Figure") -> bytes:
    """Render a figure as SVG; equal figures give equal bytes."""
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "ms_assets"}):
        picture.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def data_uri(image: bytes) -> str:
    """Encode a PNG as a data URI."""
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"


def to_markdown(image: bytes, title: str) -> str:
    """Embed a PNG in one line of Markdown."""
    return f"![{title}]({data_uri(image)})"


def table_to_markdown(frame: pl.DataFrame) -> str:
    """Format a frame as a Markdown table; floats with four decimals, nulls as a dash."""

    def shown(value: Any) -> str:
        return "–" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)

    rows = [frame.columns, ["---"] * frame.width, *([shown(v) for v in row] for row in frame.rows())]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
