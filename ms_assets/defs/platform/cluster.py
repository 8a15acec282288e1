"""Steps on a cluster: as jobs of Ray, or as pods of Kubernetes, each with what the table says that it needs.

Steps have the settings of their run that decide what they make and where, and find all others, passwords among them,
in the environment of the machine that they run on.
"""

import urllib.request
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import dagster as dg
from dagster._core.events import DagsterEvent
from dagster._core.execution.plan.objects import StepRetryData
from dagster._core.execution.retries import RetryMode
from dagster._core.executor.step_delegating import StepDelegatingExecutor
from dagster._core.executor.step_delegating.step_handler.base import StepHandler

from ms_assets.defs.platform.extras import missing
from ms_assets.defs.platform.needs import Needs
from ms_assets.tracking import AT_ONCE

LOST = ("JOB_SUPERVISOR_ACTOR_DIED", "JOB_SUPERVISOR_ACTOR_START_TIMEOUT", "Discovered failed Kubernetes job")
"""Words in the reason why a step ended without a result of its own, where its machine was lost or none was free."""
AGAIN = 3
"""Number of times that a step is done again whose machine was lost."""
SECONDS_BETWEEN_CHECKS = 10
THREADS = "OMP_NUM_THREADS"


class ClusterError(RuntimeError):
    """The cluster cannot be used as it is; the message names the setting and the next step."""


class StepsElsewhere(StepDelegatingExecutor):
    """Dagster's executor of steps elsewhere, with a policy of its own for those whose machine was lost.

    Dagster would try them again by the policies of their assets alone, which would repeat a wrong setting as well.
    """

    def __init__(self, handler: StepHandler) -> None:
        super().__init__(handler, RetryMode.ENABLED, check_step_health_interval_seconds=SECONDS_BETWEEN_CHECKS)

    def log_failure_or_retry_event_after_error(
        self, step_context: Any, err_info: Any, known_state: Any
    ) -> DagsterEvent:
        """Log that a step is done again if its machine was lost, and otherwise that it failed."""
        times = known_state.get_retry_state().get_attempt_count(step_context.step.key)
        if times < AGAIN and any(word in err_info.message for word in LOST):
            again: Any = StepRetryData
            return DagsterEvent.step_retry_event(step_context, again(error=err_info))
        return super().log_failure_or_retry_event_after_error(step_context, err_info, known_state)


def on_ray(address: str, needs: Callable[[str], Needs], settings: Mapping[str, str]) -> StepsElsewhere:
    """Executor that submits steps as jobs of the Ray cluster whose dashboard has the address.

    settings: variables of the environment that steps have from their run.

    Raises:
        ClusterError: the address does not answer as Ray's dashboard does, or the extra `ray` is not installed.
    """
    found = f"RAY_ADDRESS: found {address!r}"
    if not address.startswith(("http://", "https://")):
        raise ClusterError(f"{found}, expected the address of the cluster's dashboard such as http://head:8265")
    try:
        from dagster_ray.core.executor import RayStepHandler
        from ray.job_submission import JobSubmissionClient
    except ModuleNotFoundError as error:
        raise ClusterError(missing("MS_ASSETS_EXECUTOR: found ray", "ray", error)) from error
    try:
        with urllib.request.urlopen(f"{address.rstrip('/')}/api/version", timeout=AT_ONCE):
            client = JobSubmissionClient(address)
    except (OSError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise ClusterError(f"{found}, where no Ray cluster answers ({reason}); start it, or correct it") from error

    class RaySteps(RayStepHandler):  # type: ignore[misc, unused-ignore]  # Any where the extra is missing
        """Steps as jobs of Ray, with the resources of the table."""

        def launch_step(self, step_handler_context: Any) -> Iterator[DagsterEvent]:
            needed = needs(self._get_step_key(step_handler_context))
            self.num_cpus, self.memory, self.num_gpus = needed.cpus, needed.memory, needed.gpus
            self.env_vars = [f"{name}={value}" for name, value in _variables(needed, settings).items()]
            yield from super().launch_step(step_handler_context)

    return StepsElsewhere(RaySteps(client, None, None, None, None, None, None))


def on_kubernetes(
    init: dg.InitExecutorContext, steps: list[str], needs: Callable[[str], Needs], settings: Mapping[str, str]
) -> StepsElsewhere:
    """Executor that starts steps as pods, which are otherwise like those of Dagster's run launcher.

    settings: variables of the environment that steps have from their run.

    Raises:
        ClusterError: the extra `k8s` is not installed, or this process is in no cluster of Kubernetes.
    """
    try:
        from dagster_k8s import k8s_job_executor
        from kubernetes.config import ConfigException
    except ModuleNotFoundError as error:
        raise ClusterError(missing("MS_ASSETS_EXECUTOR: found k8s", "k8s", error)) from error
    create = k8s_job_executor.executor_creation_fn
    assert create is not None, "the executor of Kubernetes creates one"
    config = {"retries": {"enabled": {}}, "per_step_k8s_config": {step: pod(needs(step), settings) for step in steps}}
    try:
        executor: Any = create(init._replace(executor_config=config))
    except ConfigException as error:
        raise ClusterError(
            f"MS_ASSETS_EXECUTOR: found 'k8s', but this process is in no cluster of Kubernetes ({error}); start runs "
            "there, as deploy/helm/values.yaml does, or unset the variable"
        ) from error
    return StepsElsewhere(executor._step_handler)


def pod(needed: Needs, settings: Mapping[str, str]) -> dict[str, Any]:
    """Configuration of a step's pod, as `dagster-k8s` takes it: what it asks for, and variables of its environment."""
    wanted = {"cpu": str(needed.cpus), "memory": str(needed.memory)}
    cards = {"nvidia.com/gpu": str(needed.gpus)} if needed.gpus else {}
    return {
        "container_config": {
            "resources": {"requests": wanted | cards, "limits": {"memory": wanted["memory"]} | cards},
            "env": [{"name": name, "value": value} for name, value in _variables(needed, settings).items()],
        }
    }


def _variables(needed: Needs, settings: Mapping[str, str]) -> dict[str, str]:
    return {**settings, THREADS: str(needed.cpus)}
