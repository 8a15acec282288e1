"""The assets that other people's scripts rely on, written out by hand."""

PUBLISHED = {"raw/multi_event", "raw/embeddings", "raw/artist_item_mapping", "raw/album_item_mapping"}
ON_REQUEST = {"raw/listens", "raw/likes", "raw/dislikes", "raw/unlikes", "raw/undislikes"}
"""Published tables that nothing needs; the job `pipeline` leaves them out."""
ASKED_FOR = {"training/hyperparameter_study", "training/ablation", "evaluation/user_metrics_json"}
"""Experiments of many trainings, and an export; the job `pipeline` leaves them out too."""
METHODS = {
    "lightgcn",
    "lightgcn_replay",
    "popular",
    "decayed_popularity",
    "random",
    "replay",
    "item_knn",
    "ials",
    "collaborative_filtering",
    "content_based",
}
TABLES = {
    *PUBLISHED,
    "raw/column_report",
    "raw/statistics_report",
    "splits/candidate_songs",
    "splits/users",
    "splits/songs",
    "splits/train",
    "splits/validation",
    "splits/test",
    "splits/negatives",
    "splits/ground_truth",
    "graph/edges",
    "graph/statistics",
    "training/user_embeddings",
    "training/song_embeddings",
    "retrieval/cold_songs",
    *(f"retrieval/{method}" for method in METHODS),
    "retrieval/served_model",
    "evaluation/user_metrics",
    "evaluation/official_user_metrics",
    "evaluation/recall_curve",
    "evaluation/slices",
    "evaluation/exposure",
    "evaluation/differences",
    "evaluation/leaderboard",
    "evaluation/champion",
}
"""What the job `pipeline` writes as Parquet."""
CHECKPOINT = "training/lightgcn"
REPORT = "evaluation/report"
PICTURES = ("ndcg_by_method", "recall_by_k", "ndcg_by_history_length", "exposure_of_head_and_tail")
OTHERS = {
    "graph/bipartite_graph": [".pt"],
    CHECKPOINT: [".pt"],
    "retrieval/song_index": [".faiss"],
    REPORT: ["/report.md", "/report.html", *(f"/{name}.{kind}" for name in PICTURES for kind in ("png", "svg"))],
}
"""What it writes otherwise: how the files' names go on after the scale."""
GROUPS = {"raw", "splits", "graph", "training", "retrieval", "evaluation"}
SCALES = ["sample", "50m", "500m", "5b"]
