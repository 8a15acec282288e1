"""Settings out of range and unknown names are refused by name, before anything runs."""

import math
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest
from pydantic import ValidationError

from ms_assets.definitions import define
from ms_assets.defs.platform.resources import Environment
from ms_assets.defs.platform.scales import CONFIGURED_OPS, check_run_config, config_schema
from ms_assets.settings import SplitSettings, UserSettings
from ms_assets_tests.conftest import unchanged
from ms_assets_tests.worlds import World, listen

REFUSED = {
    "min_events below 1": ("splits__users", {"min_events": 0}, "min_events"),
    "max_events below 1": ("splits__users", {"min_events": 1, "max_events": 0}, "max_events"),
    "min above max": ("splits__users", {"min_events": 9, "max_events": 8}, r"min_events \(9\) .*max_events \(8\)"),
    "min above the default max": ("splits__users", {"min_events": 6_801}, r"max_events \(6800\)"),
    "unknown protocol": ("split_events", {"protocol": "random"}, "protocol"),
    "no train part": ("split_events", {"train_ratio": 0.0}, "train_ratio"),
    "train only": ("split_events", {"train_ratio": 1.0, "validation_ratio": 0.0}, "train_ratio"),
    "negative validation": ("split_events", {"validation_ratio": -0.1}, "validation_ratio"),
    "not a number": ("split_events", {"train_ratio": float("nan")}, "train_ratio"),
    "no test part": (
        "split_events",
        {"train_ratio": 0.75, "validation_ratio": 0.25},
        r"train_ratio \(0.75\) \+ validation_ratio \(0.25\)",
    ),
    "no test part with the default": ("split_events", {"train_ratio": 0.9}, r"validation_ratio \(0.1\)"),
    "negative time": ("split_events", {"test_start": -1}, "test_start"),
    "unknown name": ("split_events", {"ratio": 0.8}, "ratio"),
}


@pytest.mark.parametrize(("op", "config", "named"), REFUSED.values(), ids=REFUSED)
def test_a_setting_out_of_range_is_refused_by_op_and_name(op, config, named):
    with pytest.raises(ValueError, match=f"run config of {op}: .*{named}"):
        check_run_config({"ops": {op: {"config": config}}}, "50m")


def test_settings_of_an_op_that_does_not_exist_are_refused_by_its_name():
    with pytest.raises(ValueError, match="splits__user"):
        check_run_config({"ops": {"splits__user": {"config": {"min_events": 1}}}}, "50m")


@pytest.mark.parametrize("train", [n / 100 for n in range(1, 100)])
def test_ratios_that_sum_to_one_leave_no_test_part_whatever_their_binary_sum(train):
    rest = round(1 - train, 2)
    with pytest.raises(ValidationError, match="must stay below 1"):
        SplitSettings(train_ratio=train, validation_ratio=rest)


@pytest.mark.parametrize(
    ("op", "config"),
    [
        ("splits__users", {"min_events": 1, "max_events": 1}),
        ("splits__users", {"min_events": None}),
        ("splits__users", None),
        ("split_events", {"protocol": "global_temporal"}),
        ("split_events", {"train_ratio": 0.5, "validation_ratio": 0}),
    ],
)
def test_a_setting_in_range_is_accepted(op, config):
    check_run_config({"ops": {op: {"config": config}}}, "50m")


def test_what_is_not_given_is_the_default_of_the_scale():
    # By default a user of the sample has at most 2,000 events, one of 50m at most 6,800.
    config = {"ops": {"splits__users": {"config": {"min_events": 3_000}}}}
    check_run_config(config, "50m")
    with pytest.raises(ValueError, match=r"max_events \(2000\)"):
        check_run_config(config, "sample")


def test_the_defaults_are_the_contract():
    assert UserSettings().model_dump() == {"min_events": 680, "max_events": 6_800}
    assert SplitSettings().model_dump() == {
        "protocol": "per_user",
        "train_ratio": 0.8,
        "validation_ratio": 0.1,
        "test_start": 26_000_000 - 86_400,
    }


def test_checked_settings_do_not_change():
    with pytest.raises(ValidationError, match="frozen"):
        UserSettings().min_events = 0


def test_a_run_takes_defaults_where_the_config_says_none(platform):
    World([listen(1, i, 10) for i in range(680)] + [listen(2, i, 10) for i in range(679)], [10]).write(platform.source)
    platform.materialise("splits/users", config={"splits__users": {"min_events": None}})
    assert [row["uid"] for row in platform.rows("splits/users")] == [1]


def test_a_run_with_an_unknown_field_is_refused_by_its_name_before_anything_runs(platform):
    World([listen(1, 0, 10)], [10]).write(platform.source)
    error = pytest.raises(dg.DagsterInvalidConfigError, match='unexpected config entry "min_event"')
    with unchanged(platform), error:
        platform.materialise("splits/users", config={"splits__users": {"min_event": 1}})


def everything() -> dg.JobDefinition:
    """A job of all assets, as a run's process builds it from the environment, with the project's executor."""
    jobs = dg.Definitions(jobs=[dg.define_asset_job("everything")])
    return dg.Definitions.merge(define(Environment.read()), jobs).resolve_job_def("everything")


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """Point the environment at a tiny folder and an empty home; gives the home."""
    World([listen(1, i, 10) for i in range(10)], [10]).write(tmp_path / "source", "500m")
    monkeypatch.setenv("MS_ASSETS_SOURCE", str(tmp_path / "source"))
    monkeypatch.setenv("MS_ASSETS_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    return tmp_path / "home"


def test_a_run_with_a_setting_out_of_range_is_refused_before_its_first_step(environment):
    config = {"ops": {"split_events": {"config": {"train_ratio": 1.5}}}}
    with dg.DagsterInstance.local_temp() as instance:
        run = dg.execute_job(
            dg.reconstructable(everything), instance, run_config=config, tags={"dagster/partition": "500m"}
        )
    assert not run.success
    [failure] = [event for event in run.all_events if event.is_run_failure]
    assert "run config of split_events: SplitSettings: train_ratio: " in str(failure.event_specific_data)
    assert not [event for event in run.all_events if event.is_step_event]
    assert not environment.exists()


def test_a_run_without_a_scale_is_refused_before_its_first_step_in_one_sentence(environment):
    with dg.DagsterInstance.local_temp() as instance:
        run = dg.execute_job(dg.reconstructable(everything), instance)
    [failure] = [event for event in run.all_events if event.is_run_failure]
    assert "this run has no scale; " in str(failure.event_specific_data)
    assert not [event for event in run.all_events if event.is_step_event]
    assert not environment.exists()


def test_the_command_runs_a_large_scale_with_a_process_per_step(environment, tmp_path):
    program = [str(Path(sys.executable).with_name("dagster")), "asset", "materialize"]
    options = ["-m", "ms_assets.definitions", "--select", "raw/artist_item_mapping", "--partition", "500m"]
    run = subprocess.run([*program, *options], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "Launching subprocess" in run.stdout + run.stderr
    assert (environment / "data/raw/artist_item_mapping/500m.parquet").is_symlink()


@pytest.mark.parametrize("op", CONFIGURED_OPS)
def test_the_launchpad_tells_of_every_setting_what_it_does_and_its_default(op):
    for name, field in config_schema(CONFIGURED_OPS[op]).items():
        what, default = field.description.rsplit(" (default ", 1)
        assert what.endswith((".", ")")), name
        assert default.startswith(str(CONFIGURED_OPS[op].model_fields[name].default)), name
        assert not field.is_required


NUMBERS = {
    f"{model.__name__}.{name}": (op, name, schema)
    for op, model in CONFIGURED_OPS.items()
    for name, field in model.model_json_schema()["properties"].items()
    for schema in field.get("anyOf", [field])
    if schema.get("type") in ("integer", "number")
}
"""Every number among the settings, with its JSON schema."""


def bounds(schema):
    """The least and the greatest number that a schema takes, both included."""
    step = 1 if schema["type"] == "integer" else 1e-9
    low, high = schema.get("minimum"), schema.get("maximum")
    low = schema["exclusiveMinimum"] + step if low is None else low
    return low, schema["exclusiveMaximum"] - step if high is None else high


@pytest.mark.parametrize("number", NUMBERS)
def test_every_number_has_a_least_and_a_greatest_value_and_others_are_refused_by_name(number):
    op, name, schema = NUMBERS[number]
    low, high = bounds(schema)
    for value in (low - 1, high + max(1, high), -(2**70), 2**70 if schema["type"] == "integer" else math.inf):
        with pytest.raises(ValueError, match=f"run config of {op}: .*{name}"):
            check_run_config({"ops": {op: {"config": {name: value}}}}, "50m")
    for value in (low, high):
        with suppress_others(name):
            check_run_config({"ops": {op: {"config": {name: value}}}}, "50m")


@contextmanager
def suppress_others(name):
    """Let pass the refusal of a number that only another setting excludes."""
    try:
        yield
    except ValueError as error:
        assert f": {name}: " not in str(error)


@pytest.mark.parametrize("device", ["cuda:100", "cuda:-1", "gpu", ""])
def test_a_device_that_no_machine_has_is_refused_by_name(device):
    with pytest.raises(ValueError, match=r"device: .*expected auto, cpu, cuda or cuda:N"):
        check_run_config({"ops": {"training__lightgcn": {"config": {"device": device}}}}, "50m")
