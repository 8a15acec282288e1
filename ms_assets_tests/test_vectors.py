"""Vector and list columns survive the way between tables and arrays."""

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from ms_assets import vectors
from ms_assets.vectors import Ragged, embeddings, fixed_size_list, vector_column

VECTORS = np.arange(12, dtype=np.float32).reshape(4, 3)


@pytest.mark.parametrize("type_", [pa.list_(pa.float32()), pa.list_(pa.float64()), pa.list_(pa.float32(), 3)])
def test_a_column_of_equal_lists_is_a_matrix(type_):
    table = pa.table({"v": pa.array(VECTORS.tolist(), type_)})
    found = vector_column(table, "v")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, VECTORS)


def test_only_the_rows_of_a_slice_are_read():
    table = pa.table({"v": VECTORS.tolist()})
    np.testing.assert_array_equal(vector_column(table.slice(1, 2), "v"), VECTORS[1:3])
    chunked = pa.concat_tables([table.slice(2), table.slice(0, 1)])
    np.testing.assert_array_equal(vector_column(chunked, "v"), VECTORS[[2, 3, 0]])


def test_vectors_come_back_through_duckdb():
    con = duckdb.connect()
    con.register("vectors", pa.table({"v": fixed_size_list(VECTORS)}))
    assert con.sql("SELECT list_sum(v) FROM vectors").fetchall() == [(3,), (12,), (21,), (30,)]
    np.testing.assert_array_equal(vector_column(con.sql("SELECT v FROM vectors").to_arrow_table(), "v"), VECTORS)


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [2, 0, 3, 1]], ids=["as stored", "in another order"])
def test_embeddings_come_in_the_order_of_their_key_some_rows_at_a_time(order, monkeypatch):
    monkeypatch.setattr(vectors, "ROWS", 3)
    columns = {"song_id": pa.array(np.arange(7, 11)[order], pa.int32()), "embedding": fixed_size_list(VECTORS[order])}
    with duckdb.connect() as con:
        table = con.from_arrow(pa.table(columns))
        np.testing.assert_array_equal(embeddings(table, "song_id"), VECTORS)
        assert embeddings(table.filter("song_id > 99"), "song_id").shape == (0, 0)


@pytest.mark.parametrize("rows", [[[1.0], None], [[1.0, 2.0], [3.0]], [[1.0], [2.0, 3.0, 4.0]], [[], [1.0, 2.0]]])
def test_lists_that_make_no_matrix_are_refused(rows):
    with pytest.raises(ValueError, match="column v: expected lists of one length in every row"):
        vector_column(pa.table({"v": pa.array(rows, pa.list_(pa.float32()))}), "v")


def test_a_column_without_rows_is_an_empty_matrix():
    assert vector_column(pa.table({"v": pa.array([], pa.list_(pa.float32()))}), "v").shape[0] == 0


def test_lists_keep_their_rows_and_a_null_counts_as_empty():
    column = pa.array([[3, 1], None, [], [2]], pa.list_(pa.int32()))
    ragged = Ragged.from_column(pa.table({"v": column}), "v")
    assert ragged.values.tolist() == [3, 1, 2]
    assert ragged.offsets.tolist() == [0, 2, 2, 2, 3]
    assert ragged.lengths.tolist() == [2, 0, 0, 1]
    assert ragged.rows().tolist() == [0, 0, 3]
