"""Containers that share a home: their processes have equal ids, and each is still told from the others."""

import json
import shutil
import subprocess

import pytest

from ms_assets_tests.workplace import RUN, talking_processes

IN_A_CONTAINER = ["unshare", "--map-root-user", "-pf", "--mount-proc", "--kill-child"]
SPILLING = '''
import hashlib, json, os, sys
from ms_assets.defs.platform.resources import DuckDB

connection = DuckDB(temp_directory=sys.argv[1], memory="256MiB", threads=2).connection
first, n = int(sys.argv[2]), 4_000_000
batches = connection.sql(f"""
    SELECT i, hash(i) AS h, repeat(md5(i::VARCHAR), 3) AS text
    FROM range({first}, {first + n}) t(i) ORDER BY h, i
""").to_arrow_reader(100_000)
part = next(batches)
spilled = connection.cursor().sql("SELECT path FROM duckdb_temporary_files()").fetchall()
print("\\n" + json.dumps([os.getpid(), [path for path, in spilled]]), flush=True)
sys.stdin.readline()

n_found, total, last, right = 0, 0, 0, True
while part is not None:
    i, h, texts = part["i"].to_numpy(), part["h"].to_numpy(), part["text"][:20].to_pylist()
    right &= bool((h[1:] >= h[:-1]).all()) and int(h[0]) >= last
    right &= texts == [hashlib.md5(str(number).encode()).hexdigest() * 3 for number in i[:20].tolist()]
    n_found, total, last = n_found + len(i), total + int(i.sum()), int(h[-1])
    part = next(batches, None)
print("\\n" + json.dumps([right, n_found == n, total == n * (2 * first + n - 1) // 2]), flush=True)
'''


@pytest.fixture
def start():
    """Processes in containers of their own, which speak up and wait for a line; killed in the end."""
    if shutil.which("unshare") is None or subprocess.run([*IN_A_CONTAINER, "true"], check=False).returncode:
        pytest.skip("this system lets nobody make a process namespace of their own")
    with talking_processes(*IN_A_CONTAINER) as start:
        yield start


def answer(process):
    """The next line of JSON; DuckDB may draw its progress, which ends in no new line, before it."""
    return next(json.loads(line) for line in process.stdout if line.startswith("["))


def test_two_containers_spill_into_one_home_at_once_and_both_results_are_right(start, tmp_path):
    both = [start(SPILLING, tmp_path / "tmp", first) for first in (0, 10_000_000)]
    (pid, files), (other_pid, other_files) = map(answer, both)
    assert pid == other_pid
    assert files
    assert other_files
    assert set(files).isdisjoint(other_files)
    for process in both:
        process.stdin.write("go on\n")
        process.stdin.flush()
    assert [answer(process) for process in both] == [[True, True, True]] * 2


def test_a_writer_waits_for_a_container_that_has_the_scale_and_for_one_that_was_killed_no_longer(start, tmp_path):
    first = start(RUN, tmp_path, "one", "50m")
    assert first.stdout.readline() == "has the turn\n"
    second = start(RUN, tmp_path, "other", "50m")
    assert [second.stdout.readline() for _ in range(2)] == ["waits for one\n"] * 2
    first.kill()
    assert "has the turn\n" in second.stdout
    assert start(RUN, tmp_path, "third", "50m").stdout.readline() == "waits for other\n"
