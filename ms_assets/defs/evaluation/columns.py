"""The columns of the room's tables, and the columns of earlier tables that each is made of."""

from ms_assets.defs.platform.schemas import columns, each
from ms_assets.evaluation import champion, metrics
from ms_assets.evaluation import exposure as exposures
from ms_assets.evaluation.certainty import CONFIDENCE
from ms_assets.retrieval.methods import METHODS

METHOD = ("VARCHAR", "recommender")
VIEW = ("VARCHAR", "all; discovery: songs heard in train are neither candidates nor targets")
LISTED = [f"retrieval/{name}.{column}" for name in METHODS for column in ("view", "uid", "rank", "song_id")]
HEARD = each("splits/train", "user_id", "song_id")
TESTED = each("splits/ground_truth", "split", "user_id", "song_id")
EVENTS = each("splits/test", "user_id", "song_id", "event_type", "played_ratio")
OFFICIAL_VIEW = ("VARCHAR", "official_listen_plus or official_like: which events are targets")
BOARD_VIEW = ("VARCHAR", f"{VIEW[1]}; {OFFICIAL_VIEW[1]}, by the arithmetic of Yambda's authors")
K = ("INTEGER", "length of the list")
UID = ("BIGINT", "Yambda's user id", "splits/users.uid")


def _interval(*sources: str) -> dict[str, tuple[str, ...]]:
    return {
        "ci_low": ("DOUBLE", f"lower end of the {CONFIDENCE:.0%} bootstrap interval over users", *sources),
        "ci_high": ("DOUBLE", "upper end of the interval", *sources),
    }


USER_METRICS = columns(
    method=METHOD,
    view=VIEW,
    k=K,
    uid=UID,
    **{
        name: ("DOUBLE", f"{text}; null where undefined", *LISTED, *HEARD, *metrics.SOURCES[name])
        for name, text in metrics.METRICS.items()
    },
)

OFFICIAL_USER_METRICS = columns(
    method=METHOD,
    view=OFFICIAL_VIEW,
    k=K,
    uid=UID,
    dcg=("DOUBLE", "discounted gain of the list, 1 for a target", *LISTED, *EVENTS),
    ideal_dcg=("DOUBLE", "that of the best list, a target for each target event", *EVENTS),
    recall=("DOUBLE", "songs found over target events", *LISTED, *EVENTS),
)

SLICED = (
    *(*HEARD, *TESTED, "splits/ground_truth.base_relevance", "splits/ground_truth.adjusted_relevance"),
    *each("splits/songs", "in_graph", "n_train_plays"),
    *each("splits/test", "user_id", "song_id", "event_type", "is_organic"),
)

SLICES = columns(
    method=METHOD,
    view=VIEW,
    k=K,
    slice=("VARCHAR", "what is cut: history length, song, popularity, event"),
    value=("VARCHAR", "the part: a quarter of the users; warm, cold; head, tail; organic, recommended"),
    metric=("VARCHAR", "ndcg, recall or hit, of the targets in the slice alone"),
    mean=("DOUBLE", "mean over the users with a target in the slice", *LISTED, *SLICED),
    **_interval(*LISTED, *SLICED),
    n_users=("BIGINT", "users with a target in the slice", *SLICED),
)

RECALL_CURVE = columns(
    method=METHOD,
    view=VIEW,
    k=("INTEGER", "length of the list, every one up to the longest"),
    recall=(
        "DOUBLE",
        "mean recall over the users with a relevant song",
        *LISTED,
        *HEARD,
        *metrics.SOURCES["recall"],
    ),
)

EXPOSURE = columns(
    method=METHOD,
    view=BOARD_VIEW,
    k=K,
    **{
        name: ("DOUBLE", text, *LISTED, *each("splits/songs", "in_graph", "n_train_plays"))
        for name, text in exposures.METRICS.items()
    },
)

MEASURED = (
    *each("evaluation/user_metrics", *metrics.METRICS),
    *each("evaluation/official_user_metrics", "dcg", "ideal_dcg", "recall"),
)

DIFFERENCES = columns(
    view=BOARD_VIEW,
    k=K,
    metric=("VARCHAR", "metric"),
    method=("VARCHAR", "the method that is compared with all others"),
    other=("VARCHAR", "the other method"),
    difference=("DOUBLE", "the method's mean minus the other's", *MEASURED),
    **_interval(*MEASURED),
    n_users=("BIGINT", "users for whom the metric is defined of both", *MEASURED),
)

LEADERBOARD = columns(
    method=METHOD,
    view=BOARD_VIEW,
    k=K,
    metric=("VARCHAR", "metric"),
    mean=(
        "DOUBLE",
        "mean over the users for whom the metric is defined",
        *MEASURED,
        *each("evaluation/exposure", *exposures.COMPARED),
    ),
    **_interval(*MEASURED),
    n_users=("BIGINT", "users for whom the metric is defined", *MEASURED),
)

COMPARED = (
    *each("splits/ground_truth", "split", "user_id", "song_id", "adjusted_relevance"),
    *HEARD,
    "retrieval/served_model.content",
)
JUDGED = ("challenger_mean", "champion_mean", "difference", "ci_low", "ci_high")

CHAMPION = columns(**{name: (*told, *COMPARED) if name in JUDGED else told for name, told in champion.COLUMNS.items()})
