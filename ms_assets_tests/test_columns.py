"""The file that declares the columns of a room's tables, and the errors about it."""

import pytest

from ms_assets.defs.platform import schemas
from ms_assets.defs.platform.schemas import LINEAGE, SCHEMA, columns

DECLARED = """
[sources]
heard = ["splits/train.{user_id,song_id}"]
all_of_it = ["heard", "raw/{$files}.uid"]

["room/{first,second}"]
uid = ["BIGINT", "$user of Yambda", "heard", "splits/train.song_id"]

["room/first"]
name = ["VARCHAR", "name"]
score = ["DOUBLE", "score", "{$made_of}", "all_of_it"]

["room/broken"]
uid = %s
"""


@pytest.fixture
def declare(tmp_path, monkeypatch):
    monkeypatch.setattr(schemas, "DEFS", tmp_path)

    def declare(broken='["BIGINT", "id"]'):
        (tmp_path / "room").mkdir()
        (tmp_path / "room" / "columns.toml").write_text(DECLARED % broken)

    yield declare
    schemas._written.cache_clear()


def traced(metadata):
    return {
        name: {f"{source.asset_key.to_user_string()}.{source.column_name}" for source in sources}
        for name, sources in metadata[LINEAGE].deps_by_column.items()
    }


def test_columns_come_in_order_with_words_in_their_texts(declare):
    declare()
    found = columns("room/first", user="user id", files="a,b", made_of="")[SCHEMA].columns
    assert [(column.name, column.type, column.description) for column in found] == [
        ("uid", "BIGINT", "user id of Yambda"),
        ("name", "VARCHAR", "name"),
        ("score", "DOUBLE", "score"),
    ]


def test_braces_names_and_words_stand_for_sources_and_none_is_given_twice(declare):
    declare()
    heard = {"splits/train.user_id", "splits/train.song_id"}
    found = traced(columns("room/first", user="", files="a,b", made_of="graph/edges.weight,heard"))
    assert found == {"uid": heard, "score": {"graph/edges.weight", *heard, "raw/a.uid", "raw/b.uid"}}
    assert traced(columns("room/second", user="")) == {"uid": heard}


def test_a_table_that_is_not_declared_is_an_error_that_names_the_file(declare, tmp_path):
    declare()
    with pytest.raises(ValueError) as error:
        columns("room/third")
    expected = "expected columns of room/third, found those of room/first, room/second, room/broken"
    assert str(error.value) == f"{tmp_path}/room/columns.toml: {expected}"


@pytest.mark.parametrize(
    "broken",
    ['"BIGINT"', '["BIGINT"]', "7", '["BIGINT", 7]', '["BIGINT", "id of $nobody"]', '["BIGINT", "id", "heart"]',
     '["BIGINT", "id", "splits.train.user_id"]', "{type = 'BIGINT'}"],
)  # fmt: skip
def test_a_column_that_is_declared_otherwise_is_an_error_that_names_file_and_table(declare, tmp_path, broken):
    declare(broken)
    with pytest.raises(ValueError) as error:
        columns("room/broken")
    assert str(error.value).startswith(
        f"{tmp_path}/room/columns.toml: uid of room/broken: expected [type, description, *sources]"
    )


def test_a_file_that_is_no_toml_is_an_error_that_names_it(declare, tmp_path):
    declare("BIGINT")
    with pytest.raises(ValueError) as error:
        columns("room/first")
    assert str(error.value).startswith(f"{tmp_path}/room/columns.toml: ")
