"""Single requests to MLflow's server over the sample's model: how long each takes, beside what it is made of."""

import http.client
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import numpy as np
from numpy.typing import NDArray

from ms_assets.definitions import define
from ms_assets.defs.platform.resources import Environment
from ms_assets.registry import DATA, Registry
from ms_assets.reranking.served import TwoStages
from ms_assets.retrieval import exact
from ms_assets.retrieval.served import ModelData
from ms_assets_tests.benchmarks import report
from ms_assets_tests.scoring import JSON, serving

SERVED = dg.AssetSelection.keys("reranking/served_model")
SCALE, K = "sample", 10
STAGES = {"ranked": True, "retrieval": False}
WARM_UP, N_REQUESTS, CLIENTS = 300, 3_000, (1, 2, 4)


def serving_section() -> str:
    """Train on the sample, serve, and ask: some minutes."""
    with tempfile.TemporaryDirectory() as place:
        return _section(_trained(Path(place)), Path(place) / "log")


def _section(registry: Registry, log: Path) -> str:
    with registry.files(registry.version(1)) as folder:
        known, service = ModelData.read(folder / DATA), TwoStages.read(folder / DATA)
    load = os.getloadavg()[0]
    with serving(registry, log) as server:
        ask, ask_retrieval = (_asking(known.uid, stage) for stage in STAGES)
        _time(server.connect(), ask, WARM_UP)
        alone = _time(server.connect(), ask, N_REQUESTS)
        by_retrieval = _time(server.connect(), ask_retrieval, N_REQUESTS)
        floor = _time(server.connect(), lambda _: ("GET", "/ping", None), N_REQUESTS)
        rates = [(n, _requests_per_second(server.connect, ask, n)) for n in CLIENTS]
    by_service, by_first_stage = (
        _repeat(lambda uid, stage=stage: service.answer(uid, *map(np.array, ([K], [True], [STAGES[stage]]))), known.uid)
        for stage in STAGES
    )
    by_exact = _repeat(lambda uid: _exact(known, uid), known.uid)
    rows = [
        (name, *(f"{1e3 * at:.2f}" for at in np.percentile(seconds, [50, 95, 99])), f"{1 / seconds.mean():,.0f}")
        for name, seconds in (
            ("`mlflow models serve`: a user, ten new songs, in two stages", alone),
            ("of which HTTP: `/ping` of the same server", floor),
            ("of which the answer: `TwoStages.answer` in a program", by_service),
            ("`mlflow models serve`: the same by retrieval alone", by_retrieval),
            ("of which the answer in a program", by_first_stage),
            ("exact search of one user in a program, for comparison", by_exact),
        )
    ]
    median = [float(np.median(seconds)) for seconds in (alone, floor, by_service)]
    concurrent = ", ".join(f"{rate:,.0f} by {n}" for n, rate in rates)
    return "\n".join(
        [
            f"{N_REQUESTS:,} single requests after {WARM_UP} to warm up, one after the other over one connection, "
            f"server and client on the same machine, its load average {load:.1f} before; "
            f"the sample's model: {len(known.uid):,} users, "
            f"{len(known.item_id):,} songs, {known.songs.shape[1]} dimensions. {report.machine()}.",
            "",
            report.table(("", "median, ms", "p95, ms", "p99, ms", "per second"), rows),
            "",
            f"**The median request takes {1e3 * median[0]:.1f} ms**, {median[0] / median[1]:.1f} × an empty one; "
            f"{(median[0] - median[1] - median[2]) / median[0]:.0%} of it is MLflow's parsing and checking. Requests a "
            f"second, by clients at a time: {concurrent}.",
        ]
    )


def _trained(home: Path) -> Registry:
    definitions = define(Environment(home, "", "main", f"sqlite:///{home}/mlflow/mlflow.db"))
    keys = SERVED.upstream().resolve(definitions.resolve_asset_graph())
    with dg.DagsterInstance.ephemeral() as instance:
        job = definitions.resolve_implicit_global_asset_job_def()
        job.execute_in_process(instance=instance, partition_key=SCALE, asset_selection=list(keys))
    registry = (definitions.resources or {})["mlflow"].registry(SCALE)
    registry.promote(registry.version(1), {"reason": "to be measured"})
    return registry


Request = tuple[str, str, str | None]


def _asking(uid: NDArray[np.int64], stage: str) -> Callable[[int], Request]:
    def ask(number: int) -> Request:
        row = {"uid": int(uid[number % len(uid)]), "k": K, "exclude_heard": True, "stage": stage}
        return "POST", "/invocations", json.dumps({"dataframe_records": [row]})

    return ask


def _time(connection: http.client.HTTPConnection, ask: Callable[[int], Request], n: int) -> NDArray[np.float64]:
    """Seconds of each of n requests over one connection."""
    seconds = np.empty(n)
    for number in range(n):
        method, page, body = ask(number)
        started = time.perf_counter()
        connection.request(method, page, body, JSON if body else {})
        answer = connection.getresponse()
        answer.read()
        seconds[number] = time.perf_counter() - started
        if answer.status != 200:
            raise RuntimeError(f"status {answer.status} of request {number}")
    return seconds


def _requests_per_second(
    connect: Callable[[], http.client.HTTPConnection], ask: Callable[[int], Request], n_clients: int
) -> float:
    n = N_REQUESTS // n_clients
    clients = [threading.Thread(target=_time, args=(connect(), ask, n)) for _ in range(n_clients)]
    started = time.perf_counter()
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    return n * n_clients / (time.perf_counter() - started)


def _repeat(answer: Callable[[NDArray[np.int64]], object], uid: NDArray[np.int64]) -> NDArray[np.float64]:
    seconds = np.empty(WARM_UP + N_REQUESTS)
    for number in range(len(seconds)):
        one = uid[number % len(uid)][None]
        started = time.perf_counter()
        answer(one)
        seconds[number] = time.perf_counter() - started
    return seconds[WARM_UP:]


def _exact(known: ModelData, uid: NDArray[np.int64]) -> object:
    user = np.flatnonzero(known.uid == uid)
    return exact.search(known.users[user], known.songs, K + int(known.heard.counts[user[0]]))
