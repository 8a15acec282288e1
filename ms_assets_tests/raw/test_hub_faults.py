"""A hub that breaks, lies, or is overrun: either the right file or a clear error, never a wrong one under its name."""

import hashlib
import itertools
import shutil

import httpx2
import pytest

from ms_assets.raw import transfer
from ms_assets_tests.loopback_hub import serve
from ms_assets_tests.raw.downloads import DATASET, FILE, MB, SIZE, outcome
from ms_assets_tests.workplace import until


@pytest.fixture
def content(place):
    return place.offer()


@pytest.fixture
def hub(place, content):
    with serve(place.offered, DATASET) as hub:
        yield hub


def first_bytes_asked(hub):
    return [int(request.range.removeprefix("bytes=").split("-")[0]) for request in hub.bodies()]


def test_a_connection_that_drops_every_megabyte_is_resumed_where_it_broke(place, hub, content):
    hub.drop_after = MB
    assert place.download(hub).path.read_bytes() == content
    assert first_bytes_asked(hub) == [n * MB for n in range(7)]
    assert hub.body_bytes == SIZE


def test_more_drops_than_attempts_do_no_harm_as_long_as_bytes_arrive(place, hub, content):
    hub.drop_after = MB // 10
    assert place.download(hub, first="transfer.FILE_ATTEMPTS = 2").path.read_bytes() == content


def test_a_connection_that_drops_at_once_is_given_up_with_what_is_here(place, hub):
    hub.drop_after = MB
    place.download(hub, first="resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, -1))")
    here = place.partial().stat().st_size
    hub.drop_after = 0
    error = place.download(hub).error
    assert error.startswith(f"HubError: {DATASET}/{FILE} at revision ")
    assert "RemoteProtocolError" in error
    assert f"The next run resumes from {here} of {SIZE} bytes." in error
    assert place.finished() == []


def test_a_killed_download_goes_on_where_it_stopped(place, hub, content):
    hub.silent_after = MB + MB // 8
    process = place.start(hub)
    until(lambda: sum(place.blobs().values()) > MB, process)
    process.kill()
    outcome(process)
    here = place.partial().stat().st_size
    assert MB < here < SIZE
    assert place.finished() == []

    hub.silent_after = None
    asked = len(hub.bodies())
    assert place.download(hub).path.read_bytes() == content
    assert [request.range for request in hub.bodies()[asked:]] == [f"bytes={here}-{SIZE - 1}"]
    assert hub.body_bytes < SIZE + MB // 4


def test_wrong_bytes_never_get_the_name_and_do_not_stay(place, hub, content):
    hub.wrong_bytes = True
    error = place.download(hub).error
    assert hashlib.sha256(content).hexdigest() in error
    assert "arrived with sha256" in error
    assert place.blobs() == {}
    assert place.finished() == []
    hub.wrong_bytes = False
    assert place.download(hub).path.read_bytes() == content


def test_wrong_bytes_left_by_an_earlier_run_are_found_out(place, hub, content):
    hub.wrong_bytes, hub.drop_after = True, MB
    place.download(hub, first="resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, -1))")
    hub.wrong_bytes, hub.drop_after = False, None
    assert "arrived with sha256" in place.download(hub).error
    assert place.finished() == []
    assert place.download(hub).path.read_bytes() == content


@pytest.mark.parametrize("kind", ["HEAD", "GET"])
def test_a_hub_that_is_overrun_is_asked_again(place, hub, content, kind):
    hub.statuses[kind] = [429, 500, 502, 503]
    assert place.download(hub).path.read_bytes() == content
    assert len(hub.asked(kind)) == 5


@pytest.mark.parametrize("headers", [{"Retry-After": "1"}, {"RateLimit": '"resolvers";r=0;t=1'}])
def test_the_wait_that_the_hub_asks_for_is_kept(place, hub, headers):
    hub.statuses["GET"], hub.headers = [0, 429], headers
    log = place.download(hub, first="transfer.PIECE_BYTES = 4_000_000").log
    assert "429 Too Many Requests" in log
    assert "trying again in 1.0 s" in log


def test_waits_grow_up_to_a_minute(place, hub):
    hub.statuses["GET"] = [503] * 9
    first = "import time; time.sleep = lambda seconds: None; transfer.FIRST_WAIT_SECONDS = 1"
    log = place.download(hub, first=first).log
    waits = [float(line.split()[-2]) for line in log.splitlines() if "trying again in" in line]
    longest = (1, 2, 4, 8, 16, 32, 60, 60, 60)
    assert [n / 2 <= wait <= n for n, wait in zip(longest, waits, strict=True)] == 9 * [True]


def test_a_hub_that_stays_down_is_given_up_after_a_bounded_number_of_attempts(place, hub):
    hub.statuses["GET"] = [503] * 100
    error = place.download(hub).error
    assert "503 Service Unavailable" in error
    assert f"The next run resumes from 0 of {SIZE} bytes." in error
    assert len(hub.bodies()) == 10


def test_a_hub_that_stays_down_before_the_first_byte_is_given_up_soon(place, hub):
    hub.statuses["HEAD"] = [502] * 100
    assert "502 Bad Gateway" in place.download(hub).error
    assert len(hub.asked("HEAD")) == 5


def test_a_hub_that_falls_silent_is_given_up(place, hub):
    hub.silent_after = 0
    error = place.download(hub, first="transfer.FILE_ATTEMPTS = 1; constants.HF_HUB_DOWNLOAD_TIMEOUT = 0.2").error
    assert "ReadTimeout" in error
    assert place.finished() == []


def test_a_hub_that_always_sends_everything_is_put_up_with(place, hub, content):
    hub.drop_after = 3 * MB
    place.download(hub, first="resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, -1))")
    assert place.partial().stat().st_size == 2 * MB
    hub.drop_after, hub.ignores_range = None, True
    assert place.download(hub).path.read_bytes() == content


def test_a_hub_that_always_starts_anew_and_breaks_off_is_given_up(place, hub):
    hub.drop_after, hub.ignores_range = MB, True
    assert "RemoteProtocolError" in place.download(hub).error
    assert len(hub.bodies()) == 11
    assert place.finished() == []


def test_a_hub_that_breaks_off_now_earlier_now_later_in_the_same_bytes_is_given_up(monkeypatch):
    monkeypatch.setattr(transfer, "FIRST_WAIT_SECONDS", 0)
    here = itertools.cycle([1, 2])
    attempts = []

    def attempt():
        attempts.append(next(here))
        raise httpx2.ReadError("broken") if len(attempts) < 20 else AssertionError("would never have ended")

    with pytest.raises(httpx2.ReadError):
        transfer.with_retries("a file", attempt, attempts=5, arrived=lambda: attempts[-1] if attempts else 0)
    assert len(attempts) == 7


def test_an_answer_that_ends_early_without_saying_so_is_resumed(place, hub, content):
    hub.drop_after, hub.without_length = MB, True
    assert place.download(hub).path.read_bytes() == content


def test_empty_answers_are_given_up(place, hub):
    hub.drop_after, hub.without_length = 0, True
    assert "ended without any new bytes" in place.download(hub).error
    assert len(hub.bodies()) == 10


def test_a_partial_answer_from_elsewhere_in_the_file_is_never_appended(place, hub, content):
    hub.drop_after = MB
    place.download(hub, first="resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, -1))")
    hub.drop_after, hub.shift = None, -MB
    error = place.download(hub).error
    assert f"sent Content-Range 'bytes {MB}-{SIZE - 1}/{SIZE}'; expected bytes {2 * MB}-… of {SIZE}" in error
    assert place.partial().read_bytes() == content[: 2 * MB]


@pytest.mark.parametrize("stated", [SIZE - MB, SIZE + MB])
def test_a_file_of_another_size_than_stated_is_refused(place, hub, stated):
    hub.size_of_head = stated
    assert f"/{SIZE}'; expected bytes 0-… of {stated}" in place.download(hub).error
    hub.ignores_range = True
    assert f"answered 200 with {SIZE} bytes; expected {stated}" in place.download(hub).error
    hub.without_length = True
    assert place.download(hub).code == 1
    assert place.finished() == []


def test_a_position_beyond_the_file_is_a_clear_error(place, hub):
    hub.size_of_head, hub.shift = SIZE, SIZE
    assert "416" in place.download(hub).error
    assert len(hub.bodies()) == 1


def test_a_file_without_a_published_sha256_is_refused_unseen(place, hub):
    hub.etag = "0123456789abcdef0123456789abcdef01234567"
    error = place.download(hub).error
    assert "the hub states ETag '0123456789abcdef" in error
    assert "expected a sha256" in error
    assert hub.bodies() == []


def test_a_disk_that_fills_up_is_named_and_nothing_is_lost(place, hub, content):
    error = place.download(hub, first="resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, -1))").error
    assert f"cannot be stored in {place.cache}/hub (OSError: [Errno 27] File too large)" in error
    assert f"The next run resumes from {2 * MB} of {SIZE} bytes." in error
    assert place.finished() == []
    assert place.download(hub).path.read_bytes() == content
    assert first_bytes_asked(hub) == [0, 2 * MB]


def test_a_file_larger_than_the_disk_is_refused_before_its_first_byte(place, hub):
    hub.size_of_head = 10**16
    error = place.download(hub).error
    free = shutil.disk_usage(place.folder).free / 1e9
    assert f"10000000.00 GB are still missing, but {place.cache}" in error
    assert float(error.split(" has ")[1].split()[0]) == pytest.approx(free, rel=0.1)
    assert "HF_HOME" in error
    assert hub.bodies() == []


def test_two_processes_at_once_fetch_once(place, hub, content):
    hub.bytes_per_second = 6 * MB
    both = [place.start(hub), place.start(hub)]
    assert [outcome(process).path.read_bytes() == content for process in both] == [True, True]
    assert len(hub.bodies()) == 1
