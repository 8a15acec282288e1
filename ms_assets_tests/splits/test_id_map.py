"""Ids find their place as in a dictionary."""

import random

import numpy as np
import pytest

from ms_assets.splits.id_map import UNKNOWN, IdMap

LAST = 2**32 - 1
rng = random.Random(0)
LISTS = {
    "dense": range(1_000),
    "dense, not from 0": range(640, 1_500),
    "sparse": sorted(rng.sample(range(10_000_000), 2_000)),
    "one of each page of 64": [64 * page + page % 64 for page in range(300)],
    "around the ends of pages": [62, 63, 64, 65, 127, 128, 191, 256],
    "the extremes": [0, LAST],
    "close to the extremes": [1, 63, 64, LAST - 64, LAST - 1],
    "one": [7],
    "none": [],
}


@pytest.mark.parametrize("type_", [np.int64, np.uint32, np.uint64])
@pytest.mark.parametrize("ids", LISTS.values(), ids=LISTS)
def test_ids_are_found_as_in_a_dictionary(ids, type_):
    place = {id_: position for position, id_ in enumerate(ids)}
    near = {id_ + step for id_ in [*list(ids)[:500], 0, LAST] for step in (-65, -64, -1, 0, 1, 64)}
    asked = [*ids, *ids, *rng.choices(range(2**32), k=500), *(id_ for id_ in near if 0 <= id_ <= LAST)]
    rng.shuffle(asked)
    found = IdMap(np.array(ids, np.int64)).positions(np.array(asked, type_))
    assert found.tolist() == [place.get(id_, UNKNOWN) for id_ in asked]


@pytest.mark.parametrize("spread", [30, 500, 200_000], ids="one in {}".format)
def test_an_id_takes_few_bytes_however_far_the_next_one_is(spread):
    ids = spread * np.arange(20_000) + np.random.default_rng(0).integers(spread, size=20_000)
    held = [array.nbytes for array in vars(IdMap(ids)).values() if isinstance(array, np.ndarray)]
    assert 0 < sum(held) <= 130 * len(ids)


def test_no_question_has_no_answer():
    assert IdMap(np.array([3])).positions(np.array([], np.uint32)).tolist() == []
