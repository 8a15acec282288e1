"""Pictures for people: figures in one style, as Markdown that the Dagster UI renders."""

import base64
import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PALETTE = ["#4c6ef5", "#f59f00", "#12b886", "#e64980", "#868e96", "#7048e8", "#228be6"]


def figure(width: float = 8, height: float = 4) -> "Figure":
    """A blank figure, inches, drawn without a display."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def to_markdown(picture: "Figure", title: str) -> str:
    """Embed a figure as PNG in one line of Markdown."""
    buffer = io.BytesIO()
    picture.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return f"![{title}](data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()})"
