"""Steps on a cluster: what is refused before work begins, what is done again, and a real run on two raylets."""

import http.server
import importlib.util
import socket
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import pytest
import torch
import yaml
from dagster._cli.api import _execute_step_command_body
from dagster._core.executor.step_delegating.step_handler.base import CheckStepHealthResult, StepHandler

from ms_assets.definitions import define, elsewhere
from ms_assets.defs.platform import cluster
from ms_assets.defs.platform.cluster import AGAIN, ClusterError, StepsElsewhere, on_ray, pod
from ms_assets.defs.platform.executor import executor_by_scale
from ms_assets.defs.platform.io_managers import TorchIOManager
from ms_assets.defs.platform.locks import FileLocks
from ms_assets.defs.platform.needs import GIB, Needs
from ms_assets.defs.platform.objects import KIND, Bucket
from ms_assets.defs.platform.resources import Environment
from ms_assets.defs.platform.scales import PARTITION_TAG, SCALES
from ms_assets.defs.platform.sessions import SessionLocks
from ms_assets.defs.platform.shared import SharedLineage
from ms_assets.raw.own import OWN
from ms_assets_tests import postgres, s3
from ms_assets_tests.homes import MODEL, comparable
from ms_assets_tests.raylets import NODES
from ms_assets_tests.raylets import running as cluster_of
from ms_assets_tests.workplace import ROOT, SHORTLY, Workplace, free_port, until

CONFIG = {"ops": {op: {"config": SHORTLY[op]} for op in ("splits__users", "training__lightgcn")}}
DATABASE = "postgresql://ann:secret@host/x"


def installed(package):
    return pytest.mark.skipif(
        not importlib.util.find_spec(package),
        reason=f"needs the extra: pip install '.[{package.removeprefix('dagster_')}]'",
    )


def environment(monkeypatch, home, **variables):
    for name, value in {"MS_ASSETS_HOME": str(home), **variables}.items():
        monkeypatch.setenv(name, value)
    return Environment.read()


def test_steps_run_on_this_machine_with_locks_in_files_unless_a_cluster_is_named(monkeypatch, tmp_path):
    found = environment(monkeypatch, tmp_path, MS_ASSETS_DATABASE=DATABASE)
    assert found.executor == "local" and found.locks == FileLocks(tmp_path) and elsewhere(found) is None
    assert define(found).resources["model_files"].locks_database == ""


@pytest.mark.parametrize("executor", ["ray", "k8s"])
def test_on_a_cluster_the_locks_are_in_the_database_whose_password_the_ui_does_not_show(
    monkeypatch, tmp_path, executor
):
    found = environment(monkeypatch, tmp_path, MS_ASSETS_DATABASE=DATABASE, MS_ASSETS_EXECUTOR=executor)
    assert found.locks == SessionLocks(DATABASE) and elsewhere(found)
    shown = repr(define(found).resources["model_files"])
    assert "MS_ASSETS_DATABASE" in shown and "secret" not in shown


def test_steps_elsewhere_have_the_settings_of_their_run_whatever_is_set_there(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own").mkdir()
    given = {"MS_ASSETS_EXECUTOR": "ray", "MS_ASSETS_SOURCE": "own", "MS_ASSETS_LAYOUT": "sequential"}
    found = environment(monkeypatch, "home", MS_ASSETS_DATABASE=DATABASE, **given)
    sent = {
        "MS_ASSETS_EXECUTOR": "ray", "MS_ASSETS_HOME": f"{tmp_path}/home", "MS_ASSETS_LAYOUT": "sequential",
        "MS_ASSETS_MEMORY": "1GiB", "MS_ASSETS_REVISION": "main", "MS_ASSETS_SOURCE": f"{tmp_path}/own",
    }  # fmt: skip
    assert found.of_steps == sent
    in_bucket = environment(monkeypatch, "s3://team/music", MS_ASSETS_SOURCE="yandex/yambda").of_steps
    assert in_bucket == sent | {"MS_ASSETS_HOME": "s3://team/music", "MS_ASSETS_SOURCE": "yandex/yambda"}


def test_an_executor_that_does_not_exist_is_refused(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="MS_ASSETS_EXECUTOR: found 'spark', expected local, ray or k8s"):
        environment(monkeypatch, tmp_path, MS_ASSETS_EXECUTOR="spark")


def test_a_cluster_without_a_database_is_refused(monkeypatch, tmp_path):
    with pytest.raises(
        ValueError, match="MS_ASSETS_EXECUTOR: found 'ray', but no MS_ASSETS_DATABASE, expected the Post"
    ):
        environment(monkeypatch, tmp_path, MS_ASSETS_EXECUTOR="ray")


@pytest.mark.parametrize("address", ["", "auto", "ray://head:10001", "head:8265"])
def test_an_address_that_is_not_of_a_dashboard_is_refused(address):
    with pytest.raises(
        ClusterError, match=f"RAY_ADDRESS: found '{address}', expected the address of the cluster's dash"
    ):
        on_ray(address, dict, {})


@installed("dagster_ray")
def test_an_address_where_nobody_answers_is_refused_in_one_sentence():
    address = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(ClusterError) as raised:
        on_ray(address, dict, {})
    said = str(raised.value)
    assert said.startswith(f"RAY_ADDRESS: found {address!r}, where no Ray cluster answers (")
    assert "Connection refused" in said and said.endswith("; start it, or correct it") and "\n" not in said


@installed("dagster_ray")
def test_an_address_where_somebody_else_answers_is_refused_in_one_sentence():
    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(404)

        def log_message(self, *said):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(ClusterError, match=r"where no Ray cluster answers \(HTTP Error 404"):
            on_ray(f"http://127.0.0.1:{server.server_port}", dict, {})
        server.shutdown()


@pytest.mark.parametrize("package", ["dagster_ray.core.executor", "ray.job_submission"])
def test_without_the_extra_for_ray_a_request_for_it_says_what_to_install(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    expected = (
        r"MS_ASSETS_EXECUTOR: found ray, .* package [\w.]+ is missing; install the extra: pip install 'ms_assets\[ray"
    )
    with pytest.raises(ClusterError, match=expected):
        on_ray("http://127.0.0.1:1", dict, {})


def test_without_the_extra_for_kubernetes_a_request_for_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "dagster_k8s", None)
    with pytest.raises(
        ClusterError, match=r"package dagster_k8s is missing; install the extra: pip install 'ms_assets\[k8s"
    ):
        cluster.on_kubernetes(None, [], dict, {})


def test_imported_data_are_refused_on_a_cluster_whose_machines_share_a_bucket_alone(tmp_path):
    records = SharedLineage(tmp_path / "data", Bucket("s3://team/music"))
    made = executor_by_scale(tmp_path, FileLocks(tmp_path), lambda: GIB, cluster.on_kubernetes, records)
    init = dg.InitExecutorContext(dg.reconstructable(once), made, {}, dg.DagsterInstance.ephemeral())
    run = SimpleNamespace(dagster_run=SimpleNamespace(tags={PARTITION_TAG: OWN}), instance=init.instance)
    expected = (
        "MS_ASSETS_EXECUTOR: found steps on a cluster, expected local for the scale own with MS_ASSETS_HOME=s3://tea"
    )
    with pytest.raises(ValueError, match=expected):
        next(made.executor_creation_fn(init).execute(run, None))


@installed("dagster_k8s")
def test_a_run_outside_kubernetes_is_refused_in_one_sentence():
    init = dg.InitExecutorContext(dg.reconstructable(once), losing, {}, dg.DagsterInstance.ephemeral())
    with pytest.raises(
        ClusterError, match=r"found 'k8s', but this process is in no cluster of Kubernetes \(.*\); start"
    ):
        cluster.on_kubernetes(init, [], dict, {})


class Losing(StepHandler):
    """Steps on machines that are lost, one for each reason that is left, or that run in this process at once."""

    name, reasons = "Losing", []

    def launch_step(self, step_handler_context):
        if not self.reasons:
            args, run = step_handler_context.execute_step_args, step_handler_context.dagster_run
            list(_execute_step_command_body(args, step_handler_context.instance, run))
        yield from ()

    def check_step_health(self, step_handler_context):
        return CheckStepHealthResult.unhealthy(self.reasons.pop()) if self.reasons else CheckStepHealthResult.healthy()

    def terminate_step(self, step_handler_context):
        yield from ()


@dg.executor(requirements=dg.multiple_process_executor_requirements())
def losing(init):
    return StepsElsewhere(Losing())


@dg.op(config_schema={"wrong": dg.Field(bool, default_value=False)})
def work(context):
    if context.op_config["wrong"]:
        raise ValueError("a wrong setting")


@dg.job(executor_def=losing)
def once():
    work()


@pytest.fixture
def tried(monkeypatch, tmp_path):
    """Run the job on machines that are lost for reasons; gives whether it succeeded, and how often it was tried."""
    monkeypatch.setattr(cluster, "SECONDS_BETWEEN_CHECKS", 0)
    monkeypatch.setenv("DAGSTER_STEP_DELEGATING_EXECUTOR_SLEEP_SECONDS", "0.01")

    def run(*reasons, wrong=False):
        monkeypatch.setattr(Losing, "reasons", list(reasons))
        config = {"ops": {"work": {"config": {"wrong": wrong}}}}
        with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
            done = dg.execute_job(dg.reconstructable(once), instance, run_config=config)
            events = [event.event_type_value for event in done.all_events]
        return done.success, 1 + events.count("STEP_UP_FOR_RETRY")

    return run


REASON = "Discovered failed Ray job of a step. Error type: {}."


@pytest.mark.slow
def test_a_step_whose_machine_is_lost_is_done_again_a_few_times(tried):
    lost = REASON.format("JOB_SUPERVISOR_ACTOR_DIED")
    assert tried() == (True, 1)
    assert tried(lost) == (True, 2)
    assert tried(*[lost] * AGAIN) == (True, 1 + AGAIN)
    assert tried(*[lost] * (AGAIN + 1)) == (False, 1 + AGAIN)


@pytest.mark.slow
def test_a_step_that_fails_by_itself_is_not_done_again(tried):
    assert tried(wrong=True) == (False, 1)
    assert tried(REASON.format("JOB_ENTRYPOINT_COMMAND_ERROR")) == (False, 1)


@dg.asset(partitions_def=SCALES)
def value():
    return {"weight": torch.zeros(3)}


def on_machines(home, others, database):
    """Job whose run is on a machine with a home, and whose steps are on one that has another folder in its place."""
    home = Path(home)

    class OnAnother(Losing):
        def launch_step(self, step_handler_context):
            home.rename(kept := home.with_name("kept"))
            home.symlink_to(others)
            try:
                yield from super().launch_step(step_handler_context)
            finally:
                home.unlink()
                kept.rename(home)

    stored = TorchIOManager(base_dir=str(home / "data"), locks_database=database)
    executor = executor_by_scale(home, stored.locks, dict, lambda *_: StepsElsewhere(OnAnother()))
    job = dg.define_asset_job("on_machines", [value])
    made = dg.Definitions(assets=[value], jobs=[job], resources={"io_manager": stored}, executor=executor)
    return made.get_job_def("on_machines")


@installed("dagster_postgres")
@pytest.mark.parametrize("is_shared", [True, False])
def test_a_step_on_a_machine_that_does_not_share_the_home_of_its_run_is_refused(monkeypatch, tmp_path, is_shared):
    monkeypatch.setenv("DAGSTER_STEP_DELEGATING_EXECUTOR_SLEEP_SECONDS", "0.01")
    (home := tmp_path / "home").mkdir()
    others = tmp_path / ("kept" if is_shared else "others")
    with postgres.running() as server, dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        job = dg.build_reconstructable_job(__name__, "on_machines", (str(home), str(others), server.create("locks")))
        done = dg.execute_job(job, instance, tags={PARTITION_TAG: "sample"})
    said = "".join(str(event.event_specific_data) for event in done.all_events)
    expected = f"MS_ASSETS_HOME: found {home} on {socket.gethostname()}, where run {done.run_id} has not begun; let "
    assert (done.success, expected in said) == (is_shared, not is_shared)
    assert [file.name for file in tmp_path.rglob("*.pt")] == ["sample.pt"] * is_shared
    assert not [*home.glob("alive/*")]


STEPS = """
import sys
import dagster as dg
from ms_assets.definitions import defs

ASSETS = dg.AssetSelection.assets(*(key.split("/") for key in KEYS)).upstream()
some = dg.define_asset_job("some", ASSETS, executor_def=defs.executor)
job = dg.Definitions.merge(defs, dg.Definitions(jobs=[some])).get_job_def

def chosen():
    return job("some")

if __name__ == "__main__":
    import steps
    with dg.DagsterInstance.from_config(".") as instance:
        tags = {"dagster/partition": "sample"}
        done = dg.execute_job(dg.reconstructable(steps.chosen), instance, run_config=CONFIG, tags=tags)
        sys.exit(not done.success)
"""
KEYS = ("retrieval/popular", "retrieval/lightgcn")
"""Two recommenders, one of which is trained; everything before them is made, too."""


def place_of(folder, **variables):
    """A place in which the two recommenders run, with all that they stand on."""
    place = Workplace(folder)
    (folder / "steps.py").write_text(STEPS.replace("KEYS", repr(KEYS)).replace("CONFIG", repr(CONFIG)))
    place.environment |= {"OMP_NUM_THREADS": "1", **variables}
    return place


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Artefacts of the steps on this machine alone."""
    place = place_of(tmp_path_factory.mktemp("alone"))
    run = place.run("python", "steps.py")
    assert run.returncode == 0, run.stdout
    return comparable(place.home, MODEL)


@installed("dagster_ray")
@pytest.mark.slow
@pytest.mark.parametrize("home", ["folder", "bucket"])
@pytest.mark.parametrize("lost", [False, True], ids=["both raylets live", "one is killed in the middle of a step"])
def test_two_raylets_make_the_artefacts_of_one_machine(tmp_path, alone, home, lost):
    with postgres.running() as server, ExitStack() as stack:
        place = place_of(tmp_path, MS_ASSETS_DATABASE=server.create("history"), MS_ASSETS_EXECUTOR="ray")
        bucket = None
        if home == "bucket":
            place.environment["MLFLOW_TRACKING_URI"] = postgres.of_sqlalchemy(server.create("mlflow"))
            bucket = stack.enter_context(s3.home_of(place))
        other = tmp_path / "other"
        raylets = stack.enter_context(cluster_of(place.environment | {"MS_ASSETS_HOME": str(other)}, tmp_path))
        place.environment["RAY_ADDRESS"] = raylets.address
        log = stack.enter_context((tmp_path / "run.log").open("w"))
        run = place.start("python", "steps.py", home=bucket and bucket.address, stdout=log)
        if lost:
            until(raylets.steps_on_the_second, run)
            raylets.lose_the_second()
        assert run.wait() == 0, (tmp_path / "run.log").read_text()
        tried_again = server.ask(
            "history", "SELECT count(*) FROM event_logs WHERE dagster_event_type = 'STEP_UP_FOR_RETRY'"
        )
        held = server.ask("history", "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
        if bucket:
            s3.read_all(bucket, place.home, "sample")
            for node in NODES[: 1 if lost else 2]:
                assert (tmp_path / node / bucket.address.removeprefix(KIND) / "data").exists()
    assert comparable(place.home, MODEL) == alone and not other.exists()
    assert tried_again == [str(int(lost))] and held == ["0"]


@installed("dagster_ray")
@pytest.mark.slow
@pytest.mark.parametrize("home", ["folder", "bucket"])
def test_the_whole_pipeline_on_two_raylets_makes_the_artefacts_of_one_machine(pipeline, sample_home, tmp_path, home):
    place = Workplace(tmp_path)
    with postgres.running() as server, ExitStack() as stack:
        place.environment |= {
            "MS_ASSETS_DATABASE": server.create("history"), "MS_ASSETS_EXECUTOR": "ray", "OMP_NUM_THREADS": "1",
            "MLFLOW_TRACKING_URI": postgres.of_sqlalchemy(server.create("mlflow")),
        }  # fmt: skip
        bucket = stack.enter_context(s3.home_of(place)) if home == "bucket" else None
        raylets = stack.enter_context(cluster_of(place.environment, tmp_path))
        place.environment["RAY_ADDRESS"] = raylets.address
        run = place.launch("--job", "pipeline", config=SHORTLY, home=bucket and bucket.address)
        assert run.returncode == 0, run.stdout
        assert server.ask("mlflow", "SELECT status FROM runs") == ["FINISHED"]
        if bucket:
            s3.read_all(bucket, place.home, "sample")
    assert comparable(place.home) == comparable(sample_home)


def test_a_pod_asks_for_what_its_step_needs():
    found = pod(Needs(2, 3 * GIB), {"MS_ASSETS_HOME": "/data"})["container_config"]
    assert found == {
        "resources": {"requests": {"cpu": "2", "memory": str(3 * GIB)}, "limits": {"memory": str(3 * GIB)}},
        "env": [{"name": "MS_ASSETS_HOME", "value": "/data"}, {"name": "OMP_NUM_THREADS", "value": "2"}],
    }
    with_cards = pod(Needs(8, GIB, 2), {})["container_config"]["resources"]
    assert with_cards["requests"]["nvidia.com/gpu"] == with_cards["limits"]["nvidia.com/gpu"] == "2"


VALUES = yaml.safe_load((ROOT / "deploy/helm/values.yaml").read_text())
[CODE] = VALUES["dagster-user-deployments"]["deployments"]


def test_the_values_for_dagsters_chart_set_what_the_platform_reads(monkeypatch):
    given = {variable["name"]: variable["value"] for variable in CODE["env"]}
    documented = (ROOT / "README.md").read_text()
    assert all(f"`{name}`" in documented for name in given)
    found = environment(monkeypatch, given["MS_ASSETS_HOME"], **given, MS_ASSETS_DATABASE=DATABASE)
    assert elsewhere(found).func is cluster.on_kubernetes
    [volume], [mount] = CODE["volumes"], CODE["volumeMounts"]
    assert volume["name"] == mount["name"] and mount["mountPath"] == str(found.home)


@installed("dagster_k8s")
def test_kubernetes_finds_nothing_wrong_in_the_pod_of_a_step_that_the_values_make():
    """Dagster builds the pod from the values and the table, by the types of Kubernetes' own client."""
    from dagster_k8s.container_context import K8sContainerContext
    from dagster_k8s.job import DagsterK8sJobConfig, UserDefinedDagsterK8sConfig, construct_dagster_k8s_job

    # As the chart hands them on: from the run launcher what it has, and from the deployment nothing about security.
    launcher = VALUES["runLauncher"]["config"]["k8sRunLauncher"]
    given = K8sContainerContext.create_from_config(
        {"k8s": {
            "resources": launcher["resources"], "security_context": launcher["securityContext"],
            "run_k8s_config": {"pod_spec_config": launcher["runK8sConfig"]["podSpecConfig"]},
        }}
    ).merge(K8sContainerContext.create_from_config(
        {"k8s": {
            "env": CODE["env"], "env_secrets": [secret["name"] for secret in CODE["envSecrets"]],
            "volumes": CODE["volumes"], "volume_mounts": CODE["volumeMounts"], "resources": CODE["resources"],
            "run_k8s_config": {"pod_spec_config": {"automount_service_account_token": True}},
        }}
    ))  # fmt: skip
    of_step = UserDefinedDagsterK8sConfig.from_dict(pod(Needs(2, 3 * GIB, 1), {"MS_ASSETS_HOME": "/of/the/run"}))
    context = given.merge(K8sContainerContext(run_k8s_config=of_step))
    image = f"{CODE['image']['repository']}:{CODE['image']['tag']}"
    config = DagsterK8sJobConfig(job_image=image, dagster_home="/app")
    job = construct_dagster_k8s_job(
        config, ["dagster", "api", "execute_step"], "step", context.run_k8s_config
    ).to_dict()
    [container] = job["spec"]["template"]["spec"]["containers"]
    secured = job["spec"]["template"]["spec"]["security_context"]
    assert (secured["run_as_user"], secured["run_as_non_root"], secured["fs_group"]) == (1000, True, 1000)
    assert container["security_context"]["capabilities"]["drop"] == ["ALL"]
    assert container["security_context"]["allow_privilege_escalation"] is False
    assert container["resources"]["limits"]["memory"] == str(3 * GIB)
    assert container["image"] == image
    assert container["resources"]["requests"] == {"cpu": "2", "memory": str(3 * GIB), "nvidia.com/gpu": "1"}
    named = {variable["name"]: variable["value"] for variable in container["env"]}
    assert named["OMP_NUM_THREADS"] == "2" and named["MS_ASSETS_EXECUTOR"] == "k8s"
    assert named["MS_ASSETS_HOME"] == "/of/the/run"  # of several, Kubernetes takes the last
    [mount] = container["volume_mounts"]
    assert mount["mount_path"] == "/data"
    assert job["spec"]["template"]["spec"]["volumes"][0]["persistent_volume_claim"]["claim_name"] == "ms-assets"
