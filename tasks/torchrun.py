"""`torchrun` that tells the main host which rank failed first: `python -m tasks.torchrun ARGUMENTS`."""

import sys

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run

from rlhf.common.command import FAILED
from tasks.host_messages import tell


def main(arguments: list[str]) -> int:
    """Run processes as torchrun does; gives the exit code."""
    try:
        # torch has no types for them
        run(parse_args(arguments))  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        tell(failed={"rank": rank, "code": failure.exitcode})
        return FAILED
    # it has ended them by then
    except SignalException as end:
        return 128 + end.sigval
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
