"""The loop of a fleet: dispatches of several steps, evaluations, checkpoints."""

import functools
import math
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.data.in_memory import Images, eval_images
from vit_jax.data.pipeline import Data
from vit_jax.fleet.member import Member, Results
from vit_jax.fleet.program import FleetProgram, Inputs
from vit_jax.parallel import sharding
from vit_jax.parallel.distributed import StopSignals
from vit_jax.training.guard import FaultyStep
from vit_jax.training.loop import Interrupted
from vit_jax.training.metrics import main_metrics


class Clock:
    """Says when to stop: after a signal, or before a deadline.

    Args:
        deadline: in seconds of `time.monotonic()`; None for none.
    """

    def __init__(self, signals: StopSignals, deadline: float | None) -> None:
        self._signals, self._deadline = signals, deadline
        self._longest = 0.0

    def took(self, seconds: float) -> None:
        """Notes the seconds between two calls of `stop`."""
        self._longest = max(self._longest, seconds)

    def stop(self) -> str:
        """The reason to stop now, "" to go on."""
        if signal := self._signals.stop():
            return signal.name
        ahead = time.monotonic() + 2 * self._longest
        return "deadline" if self._deadline and ahead > self._deadline else ""


class SideBySide:
    """Runs at the same step of schedules of the same rhythm.

    Args:
        states: one for each member, on the host.
        slots: runs of the compiled program; unused slots repeat the last member.
        steps: most steps of a dispatch.
        name: the group's name, printed with the progress.
    """

    def __init__(
        self,
        program: FleetProgram,
        members: list[Member],
        states: list[Any],
        slots: int,
        steps: int,
        name: str,
    ) -> None:
        padding = slots - len(members)
        self.program, self.steps, self.name = program, steps, name
        self.alive = dict(enumerate(members))
        self.first, self.lengths = members[0], members[0].lengths
        members = members + members[-1:] * padding
        states = states + states[-1:] * padding
        stacked = jax.tree.map(lambda *x: np.stack(x), *states)
        self.states = jax.device_put(stacked, sharding.replicated(program.mesh))
        configs = [member.config for member in members]
        self.keys = jax.vmap(program.make_keys)(jnp.array([c.seed for c in configs]))
        self.decays = jnp.array([c.optim.weight_decay for c in configs], jnp.float32)
        self.feed = Feed(members, steps)
        self.stops = (
            self.lengths.eval_every,
            self.lengths.checkpoint_every,
            *self.lengths.evaluators.values(),
        )
        # First step, count and metrics of the dispatch in progress.
        self.sent: tuple[int, int, Any] | None = None
        self.compiled, self.last = False, 0.0

    def run(self, start: int, clock: Clock) -> None:
        """Trains to the end of the schedule.

        Raises:
            Interrupted: after a signal or before the deadline; all is saved.
        """
        total, step = self.lengths.total, start
        if start == total:
            self.evaluate(start)
            return
        inputs = self.feed(step, self.until(step))
        while step < total and self.alive:
            begin, count = time.perf_counter(), self.until(step)
            self.states, rows = self.program.run(
                self.states, inputs, self.keys, self.decays, count
            )
            # The host gathers the next inputs while the device is busy.
            if step + count < total:
                inputs = self.feed(step + count, self.until(step + count))
            self.accept()
            self.sent = step, count, rows
            step += count
            stop = clock.stop() if step < total else ""
            if stop or self.stops_at(step):
                self.accept()
                self.evaluate(step)
                if stop or self.lengths.due(self.lengths.checkpoint_every, step):
                    self.save(step)
                if stop and self.alive:
                    raise Interrupted(f"{stop} at step {step} of {total}")
                # Evaluations and saves do not count in the speed of the training.
                self.last = time.perf_counter()
            # The first dispatch includes compilation.
            if step > start + count:
                clock.took(time.perf_counter() - begin)

    def stops_at(self, step: int) -> bool:
        """Whether anything but training is due."""
        return any(self.lengths.due(every, step) for every in self.stops)

    def until(self, step: int) -> int:
        """The number of steps to the next event, at most those of a dispatch."""
        ends = [(step // every + 1) * every for every in self.stops if every]
        return min(step + self.steps, self.lengths.total, *ends) - step

    def accept(self) -> None:
        """Hands the metrics of the dispatch in progress to the members, if any."""
        if self.sent is None:
            return
        start, count, rows = self.sent
        rows, self.sent = jax.device_get(rows), None
        now = time.perf_counter()
        # The time of the first dispatch includes compilation.
        speed = count / (now - self.last) if self.compiled else math.nan
        self.compiled, self.last = True, now
        for slot, member in list(self.alive.items()):
            for number in range(count):
                step = start + number + 1
                row = {name: float(x[number, slot]) for name, x in rows.items()}
                try:
                    member.accept(step, row, speed)
                except FaultyStep as fault:
                    member.fail(step, fault)
                    print(f"{self.name}: {member.workdir}: {member.failure}")
                    del self.alive[slot]
                    break

    def evaluate(self, step: int) -> None:
        """Runs the evaluations that are due at a step."""
        results: dict[int, Results] = {slot: {} for slot in self.alive}
        if not results:
            return
        averages = [("", self.states.params), ("_ema", self.states.ema)]
        averages = [pair for pair in averages if pair[1] is not None]
        if self.lengths.due(self.lengths.eval_every, step):
            for split in self.first.config.eval.splits:
                for suffix, params in averages:
                    means = self.evaluate_split(split, params)
                    for slot, values in results.items():
                        values[split + suffix] = means[slot]
        for name, every in self.lengths.evaluators.items():
            if self.lengths.due(every, step):
                evaluator = self.first.evaluator(name, self.program)
                for suffix, params in averages:
                    for slot, values in results.items():
                        own = jax.tree.map(lambda x, slot=slot: x[slot], params)
                        values[name + suffix] = evaluator(own)
        for slot, values in results.items():
            if values:
                member = self.alive[slot]
                member.evaluated(step, values)
                text = "  ".join(f"{k}: {main_metrics(v)}" for k, v in values.items())
                head = f"{member.workdir.name} step {step}/{self.lengths.total}"
                print(f"{head}  {text}", flush=True)

    def evaluate_split(self, split: str, params: Any) -> list[dict[str, float]]:
        """Means over a split for each slot, every example once."""
        size = self.first.config.eval.batch_size
        batches = eval_batches(self.first.data, split, size)
        sums = [self.program.evaluate(params, batch) for batch in batches]
        totals = jax.tree.map(
            lambda *x: np.sum(x, 0, np.float64), *jax.device_get(sums)
        )
        count = totals.pop("count")
        return [
            {name: float(x[slot] / count[slot]) for name, x in totals.items()}
            | {"count": float(count[slot])}
            for slot in range(len(count))
        ]

    def save(self, step: int) -> None:
        """A checkpoint of each run, in the background."""
        states = jax.device_get(self.states)
        for slot, member in self.alive.items():
            state = jax.tree.map(lambda x, slot=slot: x[slot], states)
            member.save(step, state, self.program.mesh)


class Feed:
    """Examples and learning rates of the next steps of all slots.

    The data sets are on the device, except on CPUs, where the host gathers faster.
    """

    def __init__(self, members: list[Member], steps: int) -> None:
        self.members, self.steps = members, steps
        distinct = list({id(m.images): m.images for m in members}.values())
        starts = np.cumsum([0] + [len(images.label) for images in distinct])
        start_of = {id(x): start for x, start in zip(distinct, starts, strict=False)}
        self.starts = [start_of[id(member.images)] for member in members]
        self.images, self.take = distinct[0], take_images
        if len(distinct) > 1:
            self.images = Images(*map(np.concatenate, zip(*distinct, strict=True)))
        if jax.default_backend() != "cpu":
            self.images, self.take = jax.device_put(self.images), jax.jit(take_images)

    def __call__(self, step: int, count: int) -> Inputs:
        """The inputs of `count` steps after `step`, padded to a whole dispatch."""
        pairs = [member.inputs(step, count) for member in self.members]
        numbers = np.stack(
            [n + start for (n, _), start in zip(pairs, self.starts, strict=True)], 1
        )
        rates = np.stack([rates for _, rates in pairs], 1)
        numbers, rates = (
            np.pad(x, [(0, self.steps - count)] + [(0, 0)] * (x.ndim - 1))
            for x in (numbers, rates)
        )
        images = self.take(self.images, numbers.astype(np.int32))
        return Inputs({"image": images.image, "label": images.label}, rates)


def take_images(images: Images, numbers: Any) -> Images:
    """Images and labels by their numbers; the result has the shape of `numbers`."""
    return Images(*(x[numbers] for x in images))


@functools.lru_cache(maxsize=4)
def eval_batches(data: Data, split: str, batch_size: int) -> list[dict[str, Any]]:
    """A split on the device: image, label, mask and index; the last is padded."""
    images = eval_images(data, split)
    total = len(images.label)
    index = np.arange(-(-total // batch_size) * batch_size)
    columns = take_images(images, np.minimum(index, total - 1))._asdict()
    columns |= {"mask": index < total, "index": index.astype(np.int32)}
    return [
        jax.device_put({k: x[i : i + batch_size] for k, x in columns.items()})
        for i in range(0, total, batch_size)
    ]
