"""Steps of a run side by side on one machine, as its memory and cores allow."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from dagster._core.execution.plan.active import ActiveExecution
from dagster._core.execution.plan.step import ExecutionStep
from dagster._core.executor import multiprocess

from ms_assets.defs.platform.locks import Ask
from ms_assets.defs.platform.needs import Needs
from ms_assets.defs.platform.runs import SECONDS_BETWEEN_LOOKS, WAITING
from ms_assets.machine import cores, free_memory

Take = Callable[[str, ExitStack], Ask]
"""Function that takes a pool's lock until a stack is closed, and gives the question whose turn it is."""


class Room:
    """Memory and cores of the machine, and the turns at pools, for the steps that run at the same time.

    Memory is what is free while no step runs; steps need what the table says. One that needs more than there is runs
    alone. Threads are not divided: a step has as many beside others as alone, and so the same result.
    """

    def __init__(self, needs: Callable[[str], Needs], take: Take, say: Callable[[str], None]) -> None:
        self._needs, self._take, self._say = needs, take, say
        self._memory = 0
        self._asked: dict[str, tuple[ExitStack, Ask]] = {}
        self._in_pool: dict[str, str] = {}
        """Key of the step that has the turn at each pool."""
        self._told: str | None = None

    def choose(self, running: Sequence[ExecutionStep], waiting: Sequence[ExecutionStep]) -> list[ExecutionStep]:
        """Choose the steps to start beside those that run."""
        self._leave_pools(running)
        if not running:
            self._memory = free_memory()
        chosen: list[ExecutionStep] = []
        for step in waiting:
            if self._fits([*running, *chosen, step]) and self._has_turn(step):
                chosen.append(step)
        return chosen

    def close(self) -> None:
        """Leave all pools."""
        self._leave_pools([])
        for stack, _ in self._asked.values():
            stack.close()

    def _fits(self, steps: Sequence[ExecutionStep]) -> bool:
        together, most = [self._needs(step.key) for step in steps], cores()
        return len(steps) == 1 or (
            sum(needs.memory for needs in together) <= self._memory
            and sum(min(needs.cpus, most) for needs in together) <= most
        )

    def _has_turn(self, step: ExecutionStep) -> bool:
        pool = step.pool
        if pool is None:
            return True
        if pool in self._in_pool:
            return False
        if pool not in self._asked:
            stack = ExitStack()
            self._asked[pool] = stack, self._take(pool, stack)
        if holder := self._asked[pool][1]():
            if holder != self._told:
                self._say(WAITING.format(pool, holder))
                self._told = holder
            return False
        self._in_pool[pool] = step.key
        return True

    def _leave_pools(self, running: Sequence[ExecutionStep]) -> None:
        for pool, key in list(self._in_pool.items()):
            if key not in {step.key for step in running}:
                del self._in_pool[pool]
                self._asked.pop(pool)[0].close()


class _Steps(ActiveExecution):
    """Dagster's account of a run's steps, which offers only those to be started for which there is room."""

    def __init__(self, *given: Any, room: Room, **named: Any) -> None:
        super().__init__(*given, **named)
        self._room = room

    def get_steps_to_execute(self, limit: int | None = None) -> Sequence[ExecutionStep]:
        self._update()
        waiting, running = self._executable, [self.get_step_by_key(key) for key in self._in_flight]
        chosen = [step.key for step in self._room.choose(running, [self.get_step_by_key(key) for key in waiting])]
        self._executable = list(chosen)
        started = super().get_steps_to_execute(limit)
        self._executable += [key for key in waiting if key not in chosen]
        if waiting and not (running or started):
            time.sleep(SECONDS_BETWEEN_LOOKS)  # for a pool
        return started


@contextmanager
def side_by_side(room: Room) -> Iterator[None]:
    """Let Dagster's executor of processes start steps only as there is room, until the end of the block."""
    module: Any = multiprocess
    whole = module.ActiveExecution
    module.ActiveExecution = partial(_Steps, room=room)
    try:
        yield
    finally:
        module.ActiveExecution = whole
        room.close()
