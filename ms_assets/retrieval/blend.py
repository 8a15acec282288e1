"""LightGCN's new songs and the user's own in one list."""

import numpy as np
from numpy.typing import NDArray

from ms_assets.retrieval.recommendations import History, Recommender

BLEND_GRID = [{"replay_weight": weight} for weight in (1.0, 0.0, 0.125, 0.25, 0.5, 2.0, 4.0)]


def lightgcn_replay(
    lightgcn: Recommender,
    users: NDArray[np.float32],
    songs: NDArray[np.float32],
    history: History,
    replay_weight: float,
) -> Recommender:
    """LightGCN's scores, those of the user's own songs raised by how often they were played.

        score = user · song + weight · log(1 + n) / log(1 + most),

    n the user's positive train events with the song, most those with the user's most played. A song never heard scores
    as in `lightgcn`, so `discovery` shows the same songs.

    users, songs: embeddings float32 [n_users, d], [n_graph_songs, d].
    """
    offsets = history.songs.offsets

    def own(user: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        pairs = slice(offsets[user], offsets[user + 1])
        heard, plays = history.songs.values[pairs], np.log1p(history.n_events[pairs])
        return heard, (songs[heard] @ users[user] + replay_weight * plays / plays.max(initial=1)).astype(np.float32)

    def recommend(user: NDArray[np.int64], n: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        found, scores = lightgcn(user, n)
        blended, values = np.full_like(found, -1), np.zeros_like(scores)
        for row, one in enumerate(user):
            heard, raised = own(one)
            new = (found[row] >= 0) & ~np.isin(found[row], heard)
            candidates, both = np.concatenate([heard, found[row][new]]), np.concatenate([raised, scores[row][new]])
            best = np.argsort(-both, kind="stable")[: found.shape[1]]
            blended[row, : len(best)], values[row, : len(best)] = candidates[best], both[best]
        return blended, values

    return recommend
