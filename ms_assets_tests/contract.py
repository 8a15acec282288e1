"""The assets that other people's scripts rely on, written out by hand."""

ASSETS = {
    "raw": "multi_event embeddings artist_item_mapping album_item_mapping listens likes dislikes unlikes undislikes "
    "user_ids song_ids artist_ids album_ids column_report statistics_report",
    "splits": "candidate_songs users songs train validation test ground_truth negatives",
    "graph": "edges bipartite_graph statistics",
    "training": "lightgcn user_embeddings song_embeddings hyperparameter_study ablation",
    "retrieval": "queries cold_songs song_index lightgcn lightgcn_replay popular decayed_popularity random replay "
    "item_knn session_knn transitions ials bpr collaborative_filtering graph_filter ease content_based own_lists",
    "reranking": "features pool ranker ranked ablation served_model",
    "evaluation": "user_metrics user_metrics_json official_user_metrics recall_curve slices exposure differences "
    "leaderboard report champion",
}
"""Names of assets by room, which is the group too."""
KEYS = {f"{room}/{name}" for room, names in ASSETS.items() for name in names.split()}
PUBLISHED = {"raw/multi_event", "raw/embeddings", "raw/artist_item_mapping", "raw/album_item_mapping"}
OWN_IDS = {"raw/user_ids", "raw/song_ids", "raw/artist_ids", "raw/album_ids"}
"""Ids of imported data; empty for Yambda."""
ON_REQUEST = {"raw/listens", "raw/likes", "raw/dislikes", "raw/unlikes", "raw/undislikes"}
"""Published tables that nothing needs; the job `pipeline` leaves them out."""
ASKED_FOR = {
    "training/hyperparameter_study",
    "training/ablation",
    "reranking/ablation",
    "evaluation/user_metrics_json",
}
"""Experiments of many trainings, and an export; the job `pipeline` leaves them out too."""
NO_METHODS = {"queries", "cold_songs", "song_index", "own_lists"}
METHODS = set(ASSETS["retrieval"].split()) - NO_METHODS | {"ranked"}
CHECKPOINT = "training/lightgcn"
REPORT = "evaluation/report"
PICTURES = ("ndcg_by_method", "recall_by_k", "ndcg_by_history_length", "exposure_of_head_and_tail")
OTHERS = {
    "graph/bipartite_graph": [".pt"],
    CHECKPOINT: [".pt"],
    "retrieval/song_index": [".faiss"],
    "reranking/ranker": ["/ranker.json", *(f"/{view}_{n}.txt" for view in ("all", "discovery") for n in range(3))],
    REPORT: ["/report.md", "/report.html", *(f"/{name}.{kind}" for name in PICTURES for kind in ("png", "svg"))],
}
"""Assets that the job `pipeline` does not write as Parquet: how the files' names go on after the scale."""
TABLES = KEYS - set(OTHERS) - ON_REQUEST - ASKED_FOR
"""Assets that the job `pipeline` writes as Parquet."""
SCALES = ["sample", "50m", "500m", "5b", "own"]
