"""`mlflow models serve` with a champion of planted quality: what it answers, and that nothing brings it down."""

import json
import random
import re

import mlflow
import pandas as pd
import pytest
from click.testing import CliRunner

from ms_assets_tests import planted
from ms_assets_tests.planted import HEARD, ITEM_ID, POPULAR, UID, WANTED, model
from ms_assets_tests.scoring import JSON, Server, serving

N_MALFORMED = 1_000
VALID = {"uid": int(UID[0]), "k": 3, "exclude_heard": True, "stage": "ranked"}
"""Of a model without a second stage, which answers by retrieval."""
LEAK = re.compile(r"Traceback|file:|stack_trace|site-packages|\bline \d+, in |(?<![\w:/.])/(?:[\w.-]+/)+[\w.-]+")
"""A stack trace, or a path of more than one part."""


@pytest.fixture(scope="module")
def registry(store):
    registry = planted.new_registry(store)
    registry.promote(planted.register(registry, model(0)), {})
    return registry


@pytest.fixture(scope="module")
def server(registry, tmp_path_factory):
    with serving(registry, tmp_path_factory.mktemp("server") / "log") as server:
        yield server


def test_a_known_user_gets_songs_of_their_taste_with_scores_best_first(server):
    [new, any_] = server.ask(VALID, {**VALID, "exclude_heard": False})
    assert new["uid"] == any_["uid"] == VALID["uid"]
    assert new["answer"] == any_["answer"] == "personal"
    assert new["item_ids"] == ITEM_ID[WANTED[0, :3]].tolist()
    assert any_["item_ids"] == ITEM_ID[HEARD[0, :3]].tolist()
    assert new["scores"] == sorted(new["scores"], reverse=True)
    assert any_["scores"][-1] > new["scores"][0]


def test_a_stranger_gets_what_is_popular_and_is_told_so(server):
    [answer] = server.ask({"uid": 5, "k": 2, "exclude_heard": True})
    assert answer == {
        "uid": 5,
        "answer": "popular",
        "item_ids": ITEM_ID[[0, 2]].tolist(),
        "scores": POPULAR["score"].to_pylist()[:2],
    }


def test_the_server_answers_questions_for_songs_beside_those_for_users(server):
    heard = ITEM_ID[HEARD[1]].tolist()
    found = server.ask(
        VALID,
        {"recent": heard, "ages": [60.0, 50, 40, 30, 20, 10], "k": 4},
        {"similar_to": heard[0], "k": 5},
        {"uid": int(UID[1]), "k": 3, "only_songs": ITEM_ID[WANTED[1, :5]].tolist(), "why": True},
    )
    assert [answer["answer"] for answer in found] == ["personal", "recent", "similar", "personal"]
    assert found[0]["item_ids"] == ITEM_ID[WANTED[0, :3]].tolist()
    assert not set(found[1]["item_ids"]) & set(heard)
    assert found[3]["item_ids"] == ITEM_ID[WANTED[1, :3]].tolist()
    assert all(set(because) <= set(heard) and len(because) == 3 for because in found[3]["because"])


WRONG = [("recent", "[1]"), ("recent", [1, "x"]), ("why", "true"), ("similar_to", [1]), ("only_songs", {"a": 1}),
         ("ages", [1])]  # fmt: skip


@pytest.mark.parametrize(("column", "value"), WRONG)
def test_a_malformed_question_for_songs_is_refused_by_its_column_and_row(server, column, value):
    status, text = server.post(json.dumps({"dataframe_records": [VALID, {**VALID, column: value}]}))
    assert status == 400, text
    assert re.search(rf"{column}: found .* in row 1, expected ", json.loads(text)["message"])
    assert_up(server)


@pytest.mark.parametrize("k", [0, -1, 101, 10**9])
def test_a_k_out_of_range_is_refused_by_its_row_with_what_is_expected(server, k):
    status, text = server.post(json.dumps({"dataframe_records": [VALID, {**VALID, "k": k}]}))
    assert status == 400
    assert f"k: found {k} in row 1, expected 1 to 100" in json.loads(text)["message"]


REFUSED = [
    *(("exclude_heard", value) for value in ("false", "true", "no", "0", "", 2, -1, 0.5, [], [False], {"a": 1})),
    *(("uid", value) for value in (2**63, 2**64 - 1, -(2**63) - 1, 10**25, 1.5, 2.0**60, True, None, "x", "12.0", [7])),
    *(("k", value) for value in (2**63, 2.5, True, "", [3], None)),
    *(("stage", value) for value in ("Ranked", "", 1, ["ranked"])),
]


@pytest.mark.parametrize(("column", "value"), REFUSED, ids=map(str, REFUSED))
@pytest.mark.parametrize("form", ["records", "split", "instances"])
def test_a_value_of_another_kind_or_out_of_range_is_refused_by_its_column_and_row(server, column, value, form):
    rows = [VALID, {**VALID, column: value}]
    split = {"columns": list(VALID), "data": [list(row.values()) for row in rows]}
    body = {
        "records": {"dataframe_records": rows}, "split": {"dataframe_split": split}, "instances": {"instances": rows}
    }[form]  # fmt: skip
    if form == "instances" and value is True:
        pytest.skip("MLflow makes one array of a column of instances, in which true beside integers is 1")
    status, text = server.post(json.dumps(body))
    assert status == 400, text
    if form != "instances":
        assert re.search(rf"{column}: found .* in row 1, expected ", json.loads(text)["message"])


@pytest.mark.parametrize(
    ("flags", "meant"),
    [
        ([False, None], [False, True]),
        ([None, None], [True, True]),
        ([False, "absent"], [False, True]),
        (["absent", "absent"], [True, True]),
        ([0, 1], [False, True]),
        ([0, None], [False, True]),
        ([0, True, None, "absent"], [False, True, True, True]),
    ],
)
def test_a_flag_left_out_or_null_is_true_beside_any_other_rows(server, flags, meant):
    rows = [{name: value for name, value in {**VALID, "exclude_heard": flag}.items() if value != "absent"}
            for flag in flags]  # fmt: skip
    found = [answer["item_ids"] == ITEM_ID[WANTED[0, :3]].tolist() for answer in server.ask(*rows)]
    assert found == meant


@pytest.mark.parametrize(
    "text", ["{uid},3,false\n{uid},3,\n", "{uid},3,0\n{uid},3,1\n", "{uid},3.0,False\n{uid},3,TRUE\n"]
)
def test_csv_means_what_json_means(server, text):
    body = "uid,k,exclude_heard\n" + text.format(uid=VALID["uid"])
    status, said = server.post(body, {"Content-Type": "text/csv"})
    assert status == 200, said
    found = [answer["item_ids"] == ITEM_ID[WANTED[0, :3]].tolist() for answer in json.loads(said)["predictions"]]
    assert found == [False, True]


def test_csv_with_a_wrong_word_is_refused_by_that_word(server):
    body = "uid,k,exclude_heard\n1000,3,true\n1000,3,maybe\n"
    status, said = server.post(body, {"Content-Type": "text/csv"})
    assert status == 400
    assert "exclude_heard: found 'maybe' in row 1, expected true or false" in json.loads(said)["message"]


def anything(rng: random.Random, depth: int = 0):
    """A JSON value of any kind; nulls, NaN, huge numbers and paths among them."""
    leaves = [None, True, -1, 0, 1.5, 10**30, -(2**63), float("nan"), float("inf"), "", "x", "1e5", "é\u0000", [], {}]
    if depth > 3 or rng.random() < 0.6:
        return rng.choice(leaves)
    if rng.random() < 0.5:
        return [anything(rng, depth + 1) for _ in range(rng.randint(1, 4))]
    return {rng.choice(["uid", "k", "exclude_heard", "a", ""]): anything(rng, depth + 1) for _ in range(3)}


def a_wrong_row(rng: random.Random):
    """A row with something wrong about it that no conversion mends."""
    row: dict = dict(VALID)
    field = rng.choice(["uid", "k", "k", "missing"])
    if field == "missing":
        del row[rng.choice(["uid", "k"])]
    elif field == "uid":
        row["uid"] = rng.choice([None, "nobody", [1, [2]], {"a": 1}, float("nan"), float("inf"), 10**25])
    else:
        row["k"] = rng.choice([None, "ten", [3], -5, 0, 101, 2**62, float("-inf"), 10**20])
    return row


def malformed(rng: random.Random) -> tuple[str | bytes, dict[str, str], bool]:
    """A body, its headers, and whether it is wrong for certain."""
    kind = rng.randrange(9)
    if kind == 0:  # JSON of any kind
        return json.dumps(anything(rng)), JSON, False
    if kind == 1:
        wrapped = rng.choice(["dataframe_records", "dataframe_split", "instances", "inputs", "messages", "prompt"])
        return json.dumps({wrapped: anything(rng)}), JSON, False
    if kind in (2, 3):
        rows = [VALID] * rng.randrange(4) + [a_wrong_row(rng)]
        return json.dumps({"dataframe_records": rows}), JSON, True
    if kind == 4:
        columns = rng.sample(["uid", "k", "exclude_heard", "uid", "other"], rng.randint(0, 4))
        data = [[anything(rng, 3) for _ in range(rng.randrange(5))] for _ in range(rng.randrange(3))]
        return json.dumps({"dataframe_split": {"columns": columns, "data": data}}), JSON, False
    if kind == 5:  # cut, or with bytes exchanged
        whole = bytearray(json.dumps({"dataframe_records": [VALID] * 3}).encode())
        whole[rng.randrange(20)] = rng.randrange(256)
        return bytes(whole[: rng.randrange(1, 60)]), JSON, True
    if kind == 6:
        body = rng.choice(["", '"a\n', "a,b\n1,2,3,4\n", "uid,k,exclude_heard\nx,y,z\n", "uid,k\n1,\n", "\x00" * 50])
        return body, {"Content-Type": "text/csv"}, True
    if kind == 7:
        body = rng.choice([b"", b"PAR1", b"PAR1" + rng.randbytes(40) + b"PAR1"])
        return body, {"Content-Type": "application/vnd.apache.parquet"}, True
    body = json.dumps({"dataframe_records": [VALID]})
    types = ["text/html", "application/json; charset=latin-1", "application/json; a=b", ";;;", "multipart/form-data"]
    return body, rng.choice([{}, *({"Content-Type": type_} for type_ in types)]), True


HUGE = {
    "rows of text": json.dumps({"dataframe_records": [{**VALID, "uid": "x" * 100}] * 20_000}),
    "no JSON": "x" * 5_000_000,
    "nested lists": "[" * 1_000_000,
    "nested objects": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "a long number": '{"dataframe_records": [{"uid": ' + "9" * 100_000 + "}]}",
}


def assert_up(server: Server):
    assert server.process.poll() is None
    assert server.ask(VALID)[0]["item_ids"] == ITEM_ID[WANTED[0, :3]].tolist()


def test_a_thousand_malformed_requests_bring_nothing_down_and_find_out_no_path(server):
    rng = random.Random(0)
    refused = 0
    for number in range(N_MALFORMED):
        body, headers, is_wrong = malformed(rng)
        status, text = server.post(body, headers)
        assert not LEAK.search(text), (body, text)
        assert 400 <= status <= 500 if is_wrong else status in (200, 400, 500), (body, status, text)
        refused += status >= 400
        if number % 100 == 0:
            assert_up(server)
    assert refused > 0.8 * N_MALFORMED
    assert_up(server)


@pytest.mark.parametrize("body", HUGE.values(), ids=HUGE)
def test_a_huge_body_is_refused_and_the_next_request_answered(server, body):
    status, text = server.post(body)
    assert status in (400, 500)
    assert not LEAK.search(text)
    assert_up(server)


def test_no_other_page_of_the_server_tells_a_path(server):
    for method in ("GET", "PUT", "DELETE"):
        for page in ("/", "/invocations", "/docs", "/openapi.json", "/../../etc/passwd", "/version", "/a%00b"):
            connection = server.connect()
            connection.request(method, page)
            answer = connection.getresponse()
            assert "passwd" not in answer.read().decode() and answer.status < 500
            connection.close()
    assert_up(server)


def test_the_server_listens_on_loopback_alone(server):
    listening = re.findall(r"Uvicorn running on http://([\d.]+):", server.log.read_text())
    assert listening == ["127.0.0.1"]


def test_a_frame_is_scored_in_a_program_and_by_the_command_line_like_by_the_server(
    server, registry, store, tmp_path, monkeypatch
):
    frame = pd.DataFrame({"uid": [*UID[:20], 5], "k": 4, "exclude_heard": [True, False] * 10 + [True]})
    served = [
        {**answer, "scores": pytest.approx(answer["scores"], abs=1e-6)}
        for answer in server.ask(*json.loads(frame.to_json(orient="records")))
    ]
    uri = f"models:/{registry.name}@champion"
    assert mlflow.pyfunc.load_model(uri).predict(frame).to_dict("records") == served
    frame.to_csv(tmp_path / "questions.csv", index=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.tracking_uri)
    files = ["-i", str(tmp_path / "questions.csv"), "-o", str(tmp_path / "answers.json"), "-t", "csv"]
    from mlflow.cli import cli  # which takes long to import, and not every process of the tests comes here

    run = CliRunner().invoke(cli, ["models", "predict", "-m", uri, "--env-manager", "local", *files])
    assert run.exit_code == 0, run.output
    assert json.loads((tmp_path / "answers.json").read_text())["predictions"] == served
