"""Pictures and tables as metadata that the Dagster UI renders."""

from collections.abc import Mapping

import dagster as dg
import polars as pl

from ms_assets import pictures


def image(png: bytes, title: str) -> dg.MetadataValue:
    """A picture."""
    return dg.MetadataValue.md(pictures.to_markdown(png, title))


def images(pngs: Mapping[str, bytes]) -> dict[str, dg.MetadataValue]:
    """Pictures by title."""
    return {title: image(png, title) for title, png in pngs.items()}


def table(frame: pl.DataFrame) -> dg.MetadataValue:
    """A small frame, every row of it."""
    return dg.MetadataValue.md(pictures.table_to_markdown(frame))
