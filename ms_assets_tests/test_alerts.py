"""Alerts: each failed run and check is told once, to a webhook or by mail, even if the target is down for a while."""

import base64
import email.policy
import socket
import ssl
import subprocess
import threading
import time
from contextlib import contextmanager, suppress
from shutil import which

import dagster as dg
import pytest

from ms_assets.definitions import define
from ms_assets.defs.platform import alerts
from ms_assets.defs.platform.messages import Alerts, Message, Target, UndeliveredError
from ms_assets.defs.platform.resources import Environment
from ms_assets.defs.platform.scales import SCALES
from ms_assets_tests.webhook import Webhook
from ms_assets_tests.workplace import free_port

RUNS, CHECKS = alerts.sensors()
MESSAGE = Message("run-failed.1", "ms_assets: run failed", {"error": "ValueError: no user has heard “Ænima”"})


@pytest.fixture
def webhook():
    hook = Webhook()
    yield hook
    hook.close()


@contextmanager
def mail_server(refuses="", certificate=()):
    """A server that speaks SMTP to one client after the other; it keeps envelopes with passwords, and messages.

    certificate: files of a certificate and its key, for a server that encrypts from the first byte.
    """
    got = []

    def talk(line):
        line.write(b"220 here\r\n")
        envelope = []
        while said := line.readline().decode().strip():
            command = said.split(":")[0].split(" ")[0].upper()
            envelope += [said] if command in ("AUTH", "MAIL", "RCPT") else []
            answers = {
                "EHLO": "250-here\r\n250 AUTH PLAIN",
                "AUTH": "235 known",
                "DATA": "354 go on",
                "QUIT": "221 bye",
            }
            line.write(f"{'550 no' if command == refuses else answers.get(command, '250 fine')}\r\n".encode())
            if command == "DATA":
                got.append((envelope, b"".join(iter(line.readline, b".\r\n"))))
                line.write(b"250 taken\r\n")
            if command == "QUIT":
                return

    def serve():
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with suppress(OSError), secured(connection) as safe, safe.makefile("rwb", 0) as line:
                talk(line)

    def secured(connection):
        if not certificate:
            return connection
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        return context.wrap_socket(connection, server_side=True)

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1], got
        server.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def instance():
    """The history of all runs, in files as a home has it."""
    with dg.instance_for_test() as instance:
        yield instance


def run(instance, *, step_fails):
    """A run whose step fails, or one of whose checks fails and another warns; its id."""

    @dg.asset(key=["splits", "users"], partitions_def=SCALES)
    def users():
        if step_fails:
            try:
                raise KeyError("uid")
            except KeyError as error:
                raise ValueError("no user has between 40 and 2,000 events. Lower min_events.\nmore") from error

    def check(name, passed, severity):
        @dg.asset_check(asset=users, name=name)
        def checked():
            return dg.AssetCheckResult(passed=passed, severity=severity, metadata={"n_rows": 3})

        return checked

    error, warning = dg.AssetCheckSeverity.ERROR, dg.AssetCheckSeverity.WARN
    checks = [check("are_dense", False, error), check("are_known", True, error), check("are_many", False, warning)]
    definitions = dg.Definitions([users], asset_checks=checks, jobs=[dg.define_asset_job("pipeline")])
    config = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    done = definitions.resolve_job_def("pipeline").execute_in_process(
        instance=instance, partition_key="50m", run_config=config, raise_on_error=False
    )
    return done.run_id


def fail(instance, *problems):
    """Failed checks that a program reports, in no run."""
    for problem in problems:
        instance.report_runless_asset_event(
            dg.AssetCheckEvaluation(
                asset_key=dg.AssetKey("users"), check_name="are_many", passed=False, metadata={}, description=problem
            )
        )


def tick(sensor, instance, target, cursor, since=None, ui=""):
    """The cursor after a tick, and what the tick says; an error that ends the tick is raised."""
    resources = {"alerts": Alerts(target=target, ui=ui)}
    with dg.build_sensor_context(instance, cursor, resources=resources, last_sensor_start_time=since) as context:
        done = sensor.evaluate_tick(context)
    return done.cursor or cursor, done.skip_message


def latest(instance):
    """Cursor behind all that has happened."""
    kinds = dg.DagsterEventType.RUN_FAILURE, dg.DagsterEventType.ASSET_CHECK_EVALUATION
    events = [
        alerts.SqlEventLogStorage.get_event_records(instance.event_log_storage, dg.EventRecordsFilter(kind), 1)
        for kind in kinds
    ]
    return str(max([0, *(record.storage_id for records in events for record in records)]))


def test_a_failed_run_is_told_once_with_its_step_its_error_and_a_link(instance, webhook):
    cursor = latest(instance)
    run_id = run(instance, step_fails=True)
    cursor, said = tick(RUNS, instance, webhook.address, cursor, ui="https://dagster.example.com/")
    assert said == "1 failures were told"
    [told] = webhook.got
    assert {name: told[name] for name in told if name not in ("id", "text")} == {
        "subject": "ms_assets: run failed: splits__users of 50m",
        "run_id": run_id,
        "job": "pipeline",
        "partition": "50m",
        "step": "splits__users",
        "error": "ValueError: no user has between 40 and 2,000 events.",
        "link": f"https://dagster.example.com/runs/{run_id}",
    }
    assert run_id in told["id"]
    assert told["text"].startswith(f"{told['subject']}\nrun_id: {run_id}\n")
    assert tick(RUNS, instance, webhook.address, cursor) == (cursor, "0 failures were told")
    assert len(webhook.got) == 1


def test_a_run_that_died_between_its_steps_says_why(instance, webhook):
    cursor = latest(instance)
    run = instance.create_run_for_job(dg.JobDefinition(name="retrain", graph_def=dg.GraphDefinition("retrain")))
    instance.report_run_failed(run, "The process of this run has died: it was killed, or the machine went down.")
    tick(RUNS, instance, webhook.address, cursor)
    [told] = webhook.got
    assert (told["job"], told["partition"], "step" in told) == ("retrain", "none", False)
    assert told["error"] == "The process of this run has died: it was killed, or the machine went down."


def test_failed_checks_and_warnings_are_told_and_checks_that_pass_are_not(instance, webhook):
    cursor = latest(instance)
    run_id = run(instance, step_fails=False)
    tick(CHECKS, instance, webhook.address, cursor)
    assert {(told["run_id"], told["subject"]) for told in webhook.got} == {
        (run_id, "ms_assets: check failed: are_dense of 50m"),
        (run_id, "ms_assets: check warns: are_many of 50m"),
    }
    for told in webhook.got:
        assert (told["asset"], told["error"]) == ("splits/users", "n_rows 3")


def test_nothing_is_lost_or_told_twice_while_the_target_is_down_or_refuses(instance, webhook):
    cursor = latest(instance)
    fail(instance, "first", "second", "third")
    with pytest.raises(UndeliveredError) as down:
        tick(CHECKS, instance, f"http://127.0.0.1:{free_port()}/secret", cursor)
    said = str(down.value)
    assert said.startswith("MS_ASSETS_ALERTS: http://127.0.0.1 did not take the message about check-failed.")
    assert said.endswith("; the next tick tries again") and "ConnectError" in said and "secret" not in said
    webhook.statuses = [200, 500]  # the first is told; the second is not, which ends the tick, but keeps the first
    cursor, said = tick(CHECKS, instance, webhook.address, cursor)
    assert said == "1 failures were told"
    webhook.statuses = [302]  # an answer that another address would take has told nobody
    with pytest.raises(UndeliveredError):
        tick(CHECKS, instance, webhook.address, cursor)
    cursor, said = tick(CHECKS, instance, webhook.address, cursor)
    assert said == "2 failures were told"
    assert [told["error"] for told in webhook.got] == ["first", "second", "third"]
    assert len({told["id"] for told in webhook.got}) == 3


def test_a_slow_target_leaves_the_rest_to_the_next_tick(instance, webhook, monkeypatch):
    cursor = latest(instance)
    fail(instance, "first", "second")
    clock = iter([0.0, 0.0, 21.0, 100.0, 100.0])
    monkeypatch.setattr(alerts, "monotonic", lambda: next(clock))
    cursor, said = tick(CHECKS, instance, webhook.address, cursor)
    assert said == "1 failures were told"
    tick(CHECKS, instance, webhook.address, cursor)
    assert [told["error"] for told in webhook.got] == ["first", "second"]


def test_what_failed_before_the_sensor_was_switched_on_is_not_told(instance, webhook):
    fail(instance, "before")
    since = time.time()
    cursor, said = tick(CHECKS, instance, webhook.address, None, since)
    assert (said, webhook.got) == ("0 failures were told", [])
    fail(instance, "after")
    tick(CHECKS, instance, webhook.address, cursor, since)
    assert [told["error"] for told in webhook.got] == ["after"]


def test_a_mail_has_the_recipients_the_subject_and_the_facts():
    with mail_server() as (port, got):
        Target.of(f"smtp://127.0.0.1:{port}?to=a@example.com,b@example.com&from=c@example.com").send(MESSAGE)
    [(envelope, mail)] = got
    assert [said.partition(">")[0].upper() for said in envelope] == [
        "MAIL FROM:<C@EXAMPLE.COM", "RCPT TO:<A@EXAMPLE.COM", "RCPT TO:<B@EXAMPLE.COM"
    ]  # fmt: skip
    read = email.message_from_bytes(mail, policy=email.policy.default)
    assert (read["Subject"], read["To"], read["From"]) == (
        "ms_assets: run failed", "a@example.com, b@example.com", "c@example.com"
    )  # fmt: skip
    assert read["Message-ID"] == "<run-failed.1@ms-assets.invalid>"
    assert read.get_content().splitlines() == MESSAGE.text.splitlines()


def test_a_mail_server_that_refuses_is_named_with_its_reason():
    with mail_server(refuses="RCPT") as (port, got), pytest.raises(UndeliveredError) as refused:
        Target.of(f"smtp://127.0.0.1:{port}?to=a@example.com").send(MESSAGE)
    assert "smtp://127.0.0.1 did not take the message about run-failed.1 (SMTPRecipientsRefused: " in str(refused.value)
    assert got == []


def test_a_password_is_not_sent_to_a_server_without_encryption():
    with mail_server() as (port, got), pytest.raises(UndeliveredError) as refused:
        Target.of(f"smtp://me:hidden@127.0.0.1:{port}?to=a@example.com").send(MESSAGE)
    assert "the password was not sent; expected STARTTLS" in str(refused.value)
    assert "hidden" not in str(refused.value) and got == []


@pytest.mark.skipif(not which("openssl"), reason="needs openssl to make a certificate")
def test_a_password_goes_to_a_server_whose_certificate_is_trusted_and_to_no_other(tmp_path, monkeypatch):
    files = [str(tmp_path / name) for name in ("certificate.pem", "key.pem")]
    told = [
        "-nodes",
        "-subj",
        "/CN=here",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
        "-out",
        files[0],
        "-keyout",
        files[1],
    ]
    elliptic = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    subprocess.run(["openssl", "req", "-x509", *elliptic, *told], check=True, capture_output=True)
    with mail_server(certificate=files) as (port, got):
        target = Target.of(f"smtps://me:it%27s%20secret@127.0.0.1:{port}?to=a@example.com")
        with pytest.raises(UndeliveredError, match="CERTIFICATE_VERIFY_FAILED"):
            target.send(MESSAGE)
        assert got == []
        monkeypatch.setenv("SSL_CERT_FILE", files[0])
        target.send(MESSAGE)
    [(envelope, _)] = got
    assert base64.b64decode(envelope[0].removeprefix("AUTH PLAIN ")) == b"\0me\0it's secret"


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("hooks.example.com/secret", "://None"),
        ("ftp://me:secret@example.com", "ftp://example.com"),
        ("smtp://me:secret@mail.example.com", "smtp://mail.example.com"),
        ("https:///secret", "https://None"),
    ],
)
def test_a_target_that_is_none_is_refused_without_its_secrets_when_definitions_load(tmp_path, address, found):
    with pytest.raises(ValueError) as refused:
        define(Environment(tmp_path, "", "main", "", alerts=address))
    assert str(refused.value).startswith(
        f"MS_ASSETS_ALERTS: found {found}, expected https://host/path for a webhook, or"
    )
    assert "secret" not in str(refused.value)


def test_sensors_are_there_and_on_only_where_a_target_is_named(tmp_path):
    without = define(Environment(tmp_path, "", "main", ""))
    assert {sensor.name for sensor in without.sensors} & {"run_failures", "check_failures"} == set()
    address = "https://hooks.example.com/secret"
    found = define(Environment(tmp_path, "", "main", "", alerts=address))
    states = {sensor.name: sensor.default_status for sensor in found.sensors}
    assert states["run_failures"] == states["check_failures"] == dg.DefaultSensorStatus.RUNNING
    assert "secret" not in str(found.resources["alerts"])
