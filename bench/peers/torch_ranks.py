"""The ranks of a benchmark in Python: forked, so that each pins itself and sets its variables before it loads torch."""
import os
import sys
import tempfile


def run_ranks(name, nproc, run):
    """Calls `run(rank, directory)` in `nproc` processes, which meet in that directory; the program's exit code."""
    with tempfile.TemporaryDirectory(prefix=f"{name}_") as directory:
        workers = []
        for rank in range(nproc):
            pid = os.fork()
            if pid == 0:
                try:
                    run(rank, directory)
                    os._exit(0)
                except BaseException as error:  # The child must not return into the parent's clean-up.
                    print(f"{name}: rank {rank}: {error}", file=sys.stderr)
                    os._exit(1)
            workers.append(pid)
        failed = [pid for pid in workers if os.waitpid(pid, 0)[1] != 0]
    return 1 if failed else 0
