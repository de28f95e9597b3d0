"""One of several processes that agree, without devices: ADDRESS COUNT NUMBER. Prints JSON."""

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
    processes.SECONDS_BETWEEN_LOOKS = 0.05
    processes.join(address, count, number)
    found: dict[str, Any] = {
        "once": processes.once(lambda: (1, 2.5)),
        "together": processes.together(lambda: number),
        "failures": [],
    }
    for first in range(count):

        def fail(first: int = first) -> None:
            if number >= first:
                raise DiskError(f"from {number}")

        found["failures"].append(str(failure_of(lambda fail=fail: processes.together(fail))))

    def diverge() -> None:
        raise NotFiniteError(3, "loss inf")

    found["not finite"] = failure_of(lambda: processes.once(diverge)).args
    found["unknown"] = str(failure_of(lambda: processes.once(lambda: {}["x"])))
    found["nested"] = processes.once(lambda: processes.once(lambda: 5))

    stop, save = processes.Agreement(), processes.Agreement()
    dice = random.Random(number)
    found["saved"] = []
    for place in range(10_000):
        time.sleep(dice.random() * 0.004)
        # A save follows the one before it, however long an agreement takes on a busy machine: one
        # that is requested while another is pending would be the same.
        n_saved = len(found["saved"])
        if n_saved < 3 and place == max(found["saved"], default=0) + 20:
            is_last = n_saved == 2
            if number == 0:
                save.ask()
            if number == count - 1 and is_last:
                stop.ask("SIGTERM")
            if is_last:  # no process continues before a save and the stop are pending together
                processes.together(lambda: None)
        if save.reached() is not None:
            found["saved"].append(place)
            save.start_over()
        if (what := stop.reached()) is not None:
            found["stopped"] = [place, what]
            break
    found["unsaved"] = save.asked_anywhere()
    found["everywhere"] = processes.everywhere(number)
    late = processes.Agreement()  # asked for when nobody comes to such a place any more
    if number == 1:
        late.ask("SIGINT")
    found["late"] = late.asked_anywhere()
    found["never"] = processes.Agreement().asked_anywhere()
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
