"""ItemKNN and iALS, both by the library `implicit`: what histories alone say, and of graph songs alone.

Both take the number of a user's positive train events with a song for their confidence in it.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from ms_assets.retrieval.recommendations import History, Recommender
from ms_assets.retrieval.recommenders import FACTORS, nearest

SONGS_PER_USER = 300
"""Songs of a user that similarities are computed from: their cost grows with the square of that."""
ITERATIONS = 8

ITEM_KNN_GRID = [
    {"similarity": similarity, "neighbours": neighbours} for similarity in ("bm25", "cosine") for neighbours in (50, 20)
]
IALS_GRID = [{"alpha": alpha, "regularization": 10.0} for alpha in (1.0, 3.0, 10.0)]


def item_knn(
    history: History, n_graph_songs: int, similarity: Literal["bm25", "cosine"], neighbours: int
) -> Recommender:
    """Songs like those of the user's: the sum over these of similarity times number of events (Deshpande and Karypis,
    2004, with BM25 or cosine similarities).

    Similarities are those of songs among their `neighbours` nearest, over each user's most played songs. A list ends
    where no neighbour is left.
    """
    from implicit.nearest_neighbours import ItemItemRecommender, bm25_weight, normalize

    by_song = _matrix(_most_played(history), n_graph_songs).T
    weighted = bm25_weight(by_song, K1=1.2, B=0.75) if similarity == "bm25" else normalize(by_song)
    model = ItemItemRecommender(K=neighbours)
    model.fit(weighted.T.tocsr(), show_progress=False)
    matrix = _matrix(history, n_graph_songs)

    def recommend(user: NDArray[np.int64], n: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        songs, scores = model.recommend(user, matrix[user], N=n, filter_already_liked_items=False)
        return songs.astype(np.int64), np.where(songs < 0, 0, scores).astype(np.float32)

    return recommend


def ials(history: History, n_graph_songs: int, alpha: float, regularization: float, seed: int) -> Recommender:
    """Weighted matrix factorisation by alternating least squares (Hu, Koren and Volinsky, 2008), 64 factors.

    A song has weight alpha · number of events where the user heard it, 1 elsewhere.
    """
    from implicit.cpu.als import AlternatingLeastSquares
    from threadpoolctl import threadpool_limits

    # The library runs threads of its own, each of which would start a BLAS pool.
    with threadpool_limits(1, "blas"):
        model = AlternatingLeastSquares(FACTORS, regularization, alpha, iterations=ITERATIONS, random_state=seed)
        model.fit(_matrix(history, n_graph_songs), show_progress=False)
    return nearest(model.user_factors, model.item_factors)


def _matrix(history: History, n_graph_songs: int) -> csr_matrix:
    """Positive train events, float32 [n_users, n_graph_songs]."""
    songs = history.songs
    counts = history.n_events.astype(np.float32)
    return csr_matrix((counts, songs.values, songs.offsets), shape=(len(songs.lengths), n_graph_songs))


def _most_played(history: History) -> History:
    order, rows = history.by_plays(), history.songs.rows()
    kept = np.zeros(len(order), np.bool_)
    kept[order] = np.arange(len(order)) - history.songs.offsets[rows] < SONGS_PER_USER
    return history.keep(kept)
