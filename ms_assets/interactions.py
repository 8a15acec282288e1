"""Sparse matrix of user–song pairs, the one type for them in every room."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Integers = NDArray[np.integer]

AT_ONCE = 1 << 20
"""Number of pairs whose users and songs are held at a time."""


@dataclass(frozen=True)
class Interactions:
    """A sparse matrix [n_users, n_songs]: distinct pairs, sorted by user, then song, with any number of values each.

    Pairs are stored as keys, so that a look-up is a binary search and a set operation a merge.
    """

    keys: NDArray[np.int64]
    """Keys user · n_songs + song of the pairs, ascending, each once."""
    n_users: int
    n_songs: int
    values: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """Arrays [n_pairs] by name, such as the number of events or the relevance of each pair."""
    _known: dict[tuple[str | int, ...], Any] = field(default_factory=dict, init=False, compare=False, repr=False)
    """Cached results by method and arguments, because metrics ask for them repeatedly."""

    @classmethod
    def of(cls, user: Integers, song: Integers, n_users: int, n_songs: int, **values: NDArray[Any]) -> Self:
        """Build the matrix from pairs in any order; a pair given twice counts once, unless it has values.

        Raises:
            ValueError: an id is out of range, or a pair with values is given twice.
        """
        if len(user) and not (0 <= user.min() <= user.max() < n_users and 0 <= song.min() <= song.max() < n_songs):
            raise ValueError(
                f"interactions: found users {user.min()} to {user.max()} and songs {song.min()} to {song.max()}, "
                f"expected users below {n_users} and songs below {n_songs}"
            )
        keys = np.multiply(user, n_songs, dtype=np.int64)
        keys += song
        order = np.argsort(keys) if values else None
        if order is None:
            keys.sort()
        else:
            keys = keys[order]
        first = np.append(True, keys[1:] != keys[:-1])[: len(keys)]
        if values and not first.all():
            user_twice, song_twice = divmod(int(keys[~first][0]), n_songs)
            raise ValueError(f"interactions: user {user_twice} and song {song_twice} are given twice, expected once")
        return cls(keys[first], n_users, n_songs, {name: array[order] for name, array in values.items()})

    @classmethod
    def of_table(cls, rows: pa.Table, n_users: int, n_songs: int) -> Self:
        """Build the matrix from the columns user_id and song_id; all others are values by name."""
        values = {name: rows[name].to_numpy() for name in rows.column_names}
        return cls.of(values.pop("user_id"), values.pop("song_id"), n_users, n_songs, **values)

    @classmethod
    def of_tables(cls, tables: Iterable[pa.Table], n_users: int, n_songs: int) -> Self:
        """Build the matrix from tables, at least one, of consecutive users each, as `of_table` does from all at once.

        Beside the matrix itself it holds the pairs of one table: kept until the end, the pairs of all would be as much
        again, and a C library keeps small blocks that are freed.
        """
        keys, values = np.empty(0, np.int64), dict[str, NDArray[Any]]()
        for part in (cls.of_table(rows, n_users, n_songs) for rows in tables):
            values = values or {name: np.empty(0, array.dtype) for name, array in part.values.items()}
            for whole, array in ((keys, part.keys), *((values[name], part.values[name]) for name in values)):
                n_before = len(whole)
                whole.resize(n_before + len(array), refcheck=False)  # moves pages, and copies none
                whole[n_before:] = array
        return cls(keys, n_users, n_songs, values)

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.keys)

    @cached_property
    def user(self) -> NDArray[np.int64]:
        """User of each pair, int64 [n_pairs]."""
        return self.keys // self.n_songs

    @cached_property
    def song(self) -> NDArray[np.int64]:
        """Song of each pair, int64 [n_pairs]."""
        return self.keys % self.n_songs

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """Position of each user's first pair, and the number of pairs at the end, int64 [n_users + 1]."""
        return np.searchsorted(self.keys, np.arange(self.n_users + 1) * self.n_songs)

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Number of pairs of each user, int64 [n_users]."""
        return np.diff(self.offsets)

    def csr(self, values: NDArray[Any], n_songs: int | None = None) -> "csr_matrix":
        """SciPy's sparse matrix of a value for each pair, float32 [n_users, n_songs].

        n_songs: number of songs that pairs name, the first ones; by default all.
        """
        from scipy.sparse import csr_matrix

        song = np.remainder(self.keys, self.n_songs, out=np.empty(len(self), np.int32), casting="unsafe")
        parts = values.astype(np.float32), song, self.offsets
        return csr_matrix(parts, shape=(self.n_users, self.n_songs if n_songs is None else n_songs))

    def pairs_of(self, users: range) -> slice:
        """Positions of the pairs of consecutive users."""
        return slice(int(self.offsets[users.start]), int(self.offsets[users.stop]))

    def blocks(self) -> Iterator[tuple[slice, NDArray[np.int64], NDArray[np.int64]]]:
        """Iterate over all pairs, some users' at a time: their positions, users and songs, the latter int64 [n]."""
        firsts = np.flatnonzero(np.diff(self.offsets[:-1] // AT_ONCE, prepend=-1))
        for first, end in pairwise([*firsts.tolist(), self.n_users]):
            pairs = self.pairs_of(range(first, end))
            yield pairs, *np.divmod(self.keys[pairs], self.n_songs)

    def of_songs(self, values: NDArray[Any] | None = None) -> Floats:
        """Sum a value of each pair, or 1, by song, float64 [n_songs]."""
        total = np.zeros(self.n_songs)
        for pairs, _, song in self.blocks():
            total += np.bincount(song, None if values is None else values[pairs], minlength=self.n_songs)
        return total

    def take(self, users: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Songs of some users, user after user, and each song's position in `users`; both int64 [n]."""
        pairs, place = self._pairs_of(users)
        return self.keys[pairs] % self.n_songs, place

    def keep(self, kept: Flags) -> Self:
        """Keep the pairs for which `kept` [n_pairs] is true; users and songs stay numbered as they are."""
        values = {name: array[kept] for name, array in self.values.items()}
        return type(self)(self.keys[kept], self.n_users, self.n_songs, values)

    def of_users(self, users: NDArray[np.int64]) -> Self:
        """Keep the pairs of some users, given in ascending order, and renumber these users from 0."""
        pairs, place = self._pairs_of(users)
        values = {name: array[pairs] for name, array in self.values.items()}
        return type(self)(place * self.n_songs + self.keys[pairs] % self.n_songs, len(users), self.n_songs, values)

    def without(self, others: "Interactions") -> Self:
        """Remove the pairs that `others` holds too."""
        return self.keep(~self.among(others))

    def among(self, others: "Interactions") -> Flags:
        """Flags of the pairs that `others` holds too, bool [n_pairs]."""
        return others._find(self.keys) < len(others)

    def places(self, songs: Integers) -> NDArray[np.int64]:
        """Positions of the pairs of every user with some songs, int64 [n_users, k]; n_pairs where there is none.

        songs: int [n_users, k], −1 where a list has ended.
        """
        wanted = np.arange(self.n_users)[:, None] * self.n_songs + songs
        return np.where(songs >= 0, self._find(wanted), len(self))

    def gains(self, name: str, songs: Integers) -> Floats:
        """Values of the pairs of every user with some songs, 0 where there is no pair, float64 [n_users, k]."""
        return np.append(self.values[name], 0.0)[self.places(songs)]

    def n_positive(self, name: str) -> NDArray[np.int64]:
        """Number of pairs of each user with a value above 0, int64 [n_users]; computed once."""
        if ("n", name) not in self._known:
            self._known["n", name] = np.bincount(self.user[self.values[name] > 0], minlength=self.n_users)
        return self._known["n", name]

    def ideal_dcg(self, name: str, k: int) -> Floats:
        """DCG of the best possible list of k songs, by a value that is at least 0, float64 [n_users]; computed once."""
        if ("ideal", name, k) not in self._known:
            positive, n = np.flatnonzero(self.values[name] > 0), self.n_positive(name)
            user, worth = self.user[positive], self.values[name][positive]
            rank = np.arange(len(user)) - (np.cumsum(n) - n)[user] + 1
            gain = np.where(rank <= k, worth[np.lexsort((-worth, user))] / np.log2(rank + 1), 0.0)
            self._known["ideal", name, k] = np.bincount(user, gain, minlength=self.n_users).astype(np.float64)
        return self._known["ideal", name, k]

    def _pairs_of(self, users: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Positions of the pairs of some users, user after user, and each pair's position in `users`; int64 [n]."""
        lengths = self.counts[users]
        place = np.repeat(np.arange(len(users)), lengths)
        return np.arange(len(place)) + (self.offsets[users] - (np.cumsum(lengths) - lengths))[place], place

    def _find(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        if not len(self):
            return np.zeros(keys.shape, np.int64)
        found = np.searchsorted(self.keys, keys)
        known = self.keys[found.clip(max=len(self) - 1)] == keys
        return np.where(known, found, len(self))
