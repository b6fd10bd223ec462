"""Prints how many steps of a run take so many seconds, judged by some of them after the slow first ones.

    python scripts/results/timed_runs.py 60 experiment=simclr_mnist

The other scripts give rows as many steps as fit into their time.
"""

import argparse
import subprocess
import sys
import time

from harness import composed, environment, python

from ssl_runner.errors import UserError

WARM, TIMED = 20, 40  # steps
LATE = 1_000_000  # the step whose batch is the first: nothing grows any more


def steps_in(seconds: float, words: list[str], threads: int | None = None, processes: int = 1) -> int:
    """How many steps of this run take so long.

    In processes of its own: the allocator that makes steps fast keeps their memory, which the run itself will need.
    """
    command = [*python(processes), __file__, str(seconds), *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=environment(threads))
    if done.returncode:
        raise SystemExit(done.returncode)
    return int(done.stdout.splitlines()[-1])


def promised(seconds: float, words: list[str]) -> int | None:
    """The steps; None on other processes than the first."""
    from ssl_runner.runtime import process_group
    from ssl_runner.runtime.step_context import StepContext
    from ssl_runner.wiring import wire

    process_group.init()
    run = wire.wire(composed([*words, "trainer.max_epochs=null", "trainer.max_steps=1000"]))
    run.algorithm.train()
    began = 0.0
    with run.trainer.process_settings():  # among them the allocator's, without which a step takes half as long again
        for step in range(WARM + TIMED):
            if step == WARM:
                began = time.perf_counter()
            context = StepContext(step, 1000, run.seed, run.device)
            run.trainer.step(run.algorithm, run.batching.batch(LATE + step), run.optimizer, context, measure=False)
    took = time.perf_counter() - began
    process_group.shutdown()
    return None if process_group.rank() else max(1, round(seconds * TIMED / took))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seconds", type=float, metavar="SECONDS", help="of training")
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="what makes the run, as for ssl-train")
    asked = parser.parse_args()
    try:
        steps = promised(asked.seconds, asked.overrides)
    except UserError as error:
        sys.exit(str(error))
    if steps is not None:
        print(steps)


if __name__ == "__main__":
    main()
