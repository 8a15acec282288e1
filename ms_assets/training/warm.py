"""Warm start: a training begins where a former one on earlier events ended.

Users and songs are found again by their own ids, artists and albums by the songs that they share. What both trainings
know takes the former parameters. Newcomers take the start that they would have had anyhow, a spectrum of the new graph,
turned into the former training's directions by the rotation that fits the users and songs of both best. So a start
needs no training of its own, and the former choices of temperature and length power hold.
"""

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ms_assets.settings import TrainingSettings
from ms_assets.training.data import GraphTensors, SongFeatures
from ms_assets.training.network import Network, unit
from ms_assets.training.trained import TrainedModel

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData

logger = logging.getLogger(__name__)

FORM = (
    "embedding_dim", "layers", "song_lengths", "song_residual", "audio", "metadata", "edge_weights",
)  # fmt: skip
"""Settings that give a network its parameters, or their meaning."""
CHOSEN = ("spectrum_power", "length_power", "temperature")
"""Settings that a race has chosen for the former training, and that hold unless they are given."""
WHOLE = ("encoder.projection", "encoder.no_audio", "encoder.audio_scale", "encoder.metadata_scale", "edge_weights")
"""Beginnings of the names of parameters that belong to no user, song or owner alone."""
MOST_LATER = 0.01
"""Largest share of users of both trainings whose former train part may reach beyond the present one."""
OWNERS = ("artist", "album")


class ColdStartNeededError(ValueError):
    """A former training does not fit the present one; names what differs."""


def nodes(graph: "HeteroData", user: NDArray[Any], song: NDArray[Any], last: NDArray[np.int64]) -> dict[str, Any]:
    """Describe the nodes of a graph, for a later training to find them again, by tensors and plain values.

    Args:
        graph: users and songs, cold ones included.
        user, song: the data's own ids, int64 or text, in the order of the graph's.
        last: second of each user's last train event, int64 [n_users].
    """
    ids = {"user": user, "song": song}
    known = {what: torch.tensor(a) if a.dtype.kind == "i" else a.tolist() for what, a in ids.items()}
    lists = {f"{owner}_{part}": graph["song"][f"{owner}_{part}"] for owner in OWNERS for part in ("ids", "offsets")}
    return {**known, **lists, "last": torch.from_numpy(last), "audio": graph["song"].x.shape[1]}


@dataclass(frozen=True, eq=False)
class Former:
    """Former training: its state, and where the present users, songs and owners stand in it."""

    state: Mapping[str, Tensor]
    settings: TrainingSettings
    rows: Mapping[str, Tensor]
    """Former dense id of each `user`, `song`, `artist` and `album`, int64; −1 for newcomers."""

    @classmethod
    def of(cls, former: TrainedModel, now: Mapping[str, Any], settings: TrainingSettings) -> Self:
        """Find present nodes, as `nodes` describes them, in a former training.

        Its state is the one that has not seen its validation part, which may be that of now. A user whose former train
        part reaches beyond the present one is a newcomer: what was learned there may be held out now.

        Raises:
            ColdStartNeededError: the former training does not fit; names the settings, or how many users do not.
        """
        before, state = former.nodes, former.validated.state
        _refuse_other_form(former, now, settings)
        user, song = (_places(before[what], now[what]) for what in ("user", "song"))
        known = user >= 0
        n_known, n_songs = int(known.sum()), int((song >= 0).sum())
        if not n_known or not n_songs:
            raise _misfit(f"{n_known:,} users and {n_songs:,} songs of it are known here", "some of both")
        later = known & (before["last"][user.clamp(min=0)] > now["last"])
        if (n_later := int(later.sum())) > MOST_LATER * n_known:
            raise _misfit(
                f"{n_later:,} of {n_known:,} users have later events in its train part than in this one",
                f"a hundredth of them at most, as in a division of more events by equal settings; {n_later:,} would "
                "be judged by what it has learned",
            )
        logger.info("warm start: %d of %d users, %d of %d songs are known", n_known, len(user), n_songs, len(song))
        rows = {owner: _owners(before, now, song, owner) for owner in OWNERS}
        rows |= {"user": user.masked_fill(later, -1), "song": song.masked_fill(song >= len(state["log_lengths"]), -1)}
        return cls(state, former.settings, rows)

    def chosen(self, settings: TrainingSettings, names: Collection[str] = CHOSEN) -> TrainingSettings:
        """Settings with what the race chose for the former training where they leave it open; names: of what."""
        open_ = {name: getattr(self.settings, name) for name in names if getattr(settings, name) is None}
        return settings.model_copy(update=open_)


@torch.no_grad()
def start_from_former(network: Network, graph: GraphTensors, former: Former) -> None:
    """Set a network's parameters to the former ones; what is new keeps the start that the network has, turned."""
    n, state, encoder = network.n_graph_songs, former.state, network.encoder
    features = graph.features.select(torch.arange(n))
    user, song = former.rows["user"], former.rows["song"][:n]
    old_user, old_song = user >= 0, song >= 0
    users, songs = network.start(features).tensor_split([network.n_users])
    for name, value in [*network.named_parameters(), *network.named_buffers()]:
        if name in state and value.shape == state[name].shape and name.startswith(WHOLE):
            value.copy_(state[name])
    for owner, row in former.rows.items():
        if owner in encoder.owners:
            _rows(encoder.owners[owner].get_parameter("weight"), row, state[f"encoder.owners.{owner}.weight"])
    directions = encoder(features).clone()  # of songs that share one encoding it is a view
    if network.residual is not None:
        directions[old_song] += state["residual"][song[old_song]]
    known = unit(torch.cat([state["users"][user[old_user]], directions[old_song]]))
    left, _, right = torch.linalg.svd(torch.cat([users[old_user], songs[old_song]]).T @ known)
    users, songs = users @ left @ right, songs @ left @ right
    songs[old_song] = directions[old_song]
    network.users.copy_(users)
    network.users[old_user] = state["users"][user[old_user]]
    _place_new_owners(network, features, songs, former)
    if network.residual is not None:
        network.residual.copy_(songs - encoder(features))
    lengths = state["log_lengths"][song[old_song]]
    network.log_lengths.add_((lengths - network.log_lengths[old_song]).mean())
    network.log_lengths[old_song] = lengths


def _place_new_owners(network: Network, features: SongFeatures, songs: Tensor, former: Former) -> None:
    """Let new artists, then albums, explain what the rest leaves of their songs, shrunk as in `spectral.py`."""
    encoder = network.encoder
    if not encoder.uses_metadata:
        return
    weight = encoder.projection.weight[:, -songs.shape[1] :] * encoder.metadata_scale
    for owner, embedding in encoder.owners.items():
        (ids, offsets), table = features.owners[owner], embedding.get_parameter("weight")
        song = torch.arange(len(songs)).repeat_interleave(offsets.diff())
        left = (songs - encoder(features)) @ torch.linalg.pinv(weight.T)
        count = torch.bincount(ids, minlength=len(table))[:, None]
        shrunk = torch.zeros_like(table).index_add(0, ids, left[song]) / (count + 1)
        new = former.rows[owner] < 0
        table[: len(new)][new] = shrunk[: len(new)][new]


def _rows(table: Tensor, row: Tensor, former: Tensor) -> None:
    """Take known rows from a former table; new ones are zero."""
    table.zero_()
    table[: len(row)][row >= 0] = former[row[row >= 0]]


def _refuse_other_form(former: TrainedModel, now: Mapping[str, Any], settings: TrainingSettings) -> None:
    if not former.nodes:
        raise _misfit("it was made by a version that kept no ids", "one made since")
    for name in FORM:
        if (found := getattr(former.settings, name)) != (wanted := getattr(settings, name)):
            raise _misfit(f"its {name} is {found}", f"{wanted}")
    if settings.audio and former.nodes["audio"] != now["audio"]:
        raise _misfit(f"its audio vectors have {former.nodes['audio']} numbers", f"{now['audio']}")


def _misfit(found: str, expected: str) -> ColdStartNeededError:
    return ColdStartNeededError(
        f"warm_start: the former training does not fit: {found}, expected {expected}; train without warm_start"
    )


def _places(before: Any, now: Any) -> Tensor:
    """Places of present ids among former ones, int64; −1 for those that are new."""
    old, new = np.asarray(before), np.asarray(now)
    if old.dtype.kind != new.dtype.kind or not len(old):
        return torch.full((len(new),), -1)
    order = np.argsort(old, kind="stable")
    place = order[np.searchsorted(old, new, sorter=order).clip(max=len(old) - 1)]
    return torch.from_numpy(np.where(old[place] == new, place, -1))


def _owners(before: Mapping[str, Any], now: Mapping[str, Any], song: Tensor, owner: str) -> Tensor:
    """Former id of each present artist or album, found by the songs of both, whose lists are in the order of ids."""
    (ids, offsets), (old_ids, old_offsets) = (
        (known[f"{owner}_ids"], known[f"{owner}_offsets"]) for known in (now, before)
    )
    of_song = torch.arange(len(song)).repeat_interleave(offsets.diff())
    equally_long = (song >= 0) & (offsets.diff() == old_offsets.diff()[song.clamp(min=0)])
    here = equally_long[of_song]
    within = torch.arange(len(ids)) - offsets[of_song]
    found = torch.full((int(ids.max()) + 1 if len(ids) else 1,), -1)
    found[ids[here]] = old_ids[old_offsets[song[of_song[here]]] + within[here]]
    return found
