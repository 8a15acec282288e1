"""The columns of the room's tables, and the columns of earlier tables that each is made of."""

from typing import Any

from ms_assets.defs.platform.schemas import columns, each

HEARD = each("splits/train", "user_id", "song_id")
VALIDATED = each("splits/ground_truth", "split", "user_id", "song_id", "adjusted_relevance")
PLACED = ("training/user_embeddings.embedding", "training/song_embeddings.embedding", "retrieval/cold_songs.embedding")
"""Users and songs as the index has them."""

COLD_SONGS = columns(
    song_id=("INTEGER", "dense song id", "splits/songs.song_id"),
    item_id=("BIGINT", "Yambda's song id", "splits/songs.item_id"),
    known_artist=(
        "BOOLEAN",
        "an artist of the song has a song with train events",
        *each("splits/songs", "artist_ids", "in_graph"),
    ),
    embedding=(
        "FLOAT[]",
        "direction by encoding and artist; length by calibration",
        "training/song_embeddings.embedding",
        "training/user_embeddings.embedding",
        "splits/songs.artist_ids",
        *HEARD,
        *VALIDATED,
    ),
)

SERVED_MODEL = columns(
    name=("VARCHAR", "registered model"),
    version=("BIGINT", "its version; that of an earlier run if the files are the same"),
    content=("VARCHAR", "sha256 over its files", *PLACED, *HEARD, "retrieval/decayed_popularity.song_id"),
)


def recommendations(*sources: str) -> dict[str, Any]:
    """What every recommender gives; sources: the columns that its scores are made of."""
    return columns(
        view=("VARCHAR", "all, or discovery: songs with the user's positive train events left out"),
        user_id=("INTEGER", "dense user id", "splits/users.user_id"),
        uid=("BIGINT", "Yambda's user id", "splits/users.uid"),
        rank=("INTEGER", "1 to 100 within view and user", *sources, *HEARD),
        song_id=("INTEGER", "dense song id", "splits/songs.song_id", *sources, *HEARD),
        item_id=("BIGINT", "Yambda's song id", "splits/songs.item_id", *sources, *HEARD),
        score=("FLOAT", "what the method ranks by", *sources),
    )
