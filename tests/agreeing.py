"""One of several processes that test agreements without devices: ADDRESS COUNT NUMBER.

Prints the results as JSON.
"""

import json
import random
import sys
import time
from typing import Any

from genrec_jax.core import processes
from genrec_jax.core.errors import DiskError, NotFiniteError


def failure_of(work: Any) -> Exception:
    try:
        work()
    except Exception as error:
        return error
    raise AssertionError("it did not fail")


def main(address: str, count: int, number: int) -> None:
    processes.SECONDS_BETWEEN_LOOKUPS = 0.05
    processes.join(address, count, number)
    results: dict[str, Any] = {
        "process 0": processes.run_on_process_0(lambda: (1, 2.5)),
        "barrier": processes.barrier(lambda: number),
        "failures": [],
    }
    for first in range(count):

        def fail(first: int = first) -> None:
            if number >= first:
                raise DiskError(f"from {number}")

        results["failures"].append(str(failure_of(lambda fail=fail: processes.barrier(fail))))

    def diverge() -> None:
        raise NotFiniteError(3, "loss inf")

    results["not finite"] = failure_of(lambda: processes.run_on_process_0(diverge)).args
    results["unknown"] = str(failure_of(lambda: processes.run_on_process_0(lambda: {}["x"])))
    results["nested"] = processes.run_on_process_0(lambda: processes.run_on_process_0(lambda: 5))

    stop, save = processes.Agreement(), processes.Agreement()
    dice = random.Random(number)
    results["saved"] = []
    for poll in range(10_000):
        time.sleep(dice.random() * 0.004)
        # A save is requested after the previous one is done, however long an agreement takes on a
        # busy machine: a request while another is pending has no effect.
        n_saved = len(results["saved"])
        if n_saved < 3 and poll == max(results["saved"], default=0) + 20:
            is_last = n_saved == 2
            if number == 0:
                save.request()
            if number == count - 1 and is_last:
                stop.request("SIGTERM")
            if is_last:  # all processes wait until a save and the stop are both requested
                processes.barrier(lambda: None)
        if save.poll() is not None:
            results["saved"].append(poll)
            save.reset()
        if (what := stop.poll()) is not None:
            results["stopped"] = [poll, what]
            break
    results["unsaved"] = save.pending_anywhere()
    results["gathered"] = processes.all_gather(number)
    late = processes.Agreement()  # requested after the last poll
    if number == 1:
        late.request("SIGINT")
    results["late"] = late.pending_anywhere()
    results["never"] = processes.Agreement().pending_anywhere()
    print(json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
