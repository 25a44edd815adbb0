"""What was measured, and how it is written."""
import collections
import statistics

# Its numbers hold the cost of a call from Python, so it is compared with apart from the libraries.
PYTORCH = "torch_gloo"


def is_ours(program):
    return program.startswith("lockstep_")


def format_bytes(size):
    for shift, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if size >> shift and size % (1 << shift) == 0:
            return f"{size >> shift} {unit}"
    return f"{size} B"


def format_us(value):
    if value is None:
        return "-"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


class Results:
    """Of one sweep: p50 of every round, by program and size, and the machine's limits around the rounds.

    `wire_limit`: us for a size, where the ranks are on several hosts.
    """

    def __init__(self, wire_limit=None):
        self.wire_limit = wire_limit
        self.times = collections.defaultdict(list)
        self.wrong = collections.Counter()
        self.spoilt = set()  # (program, size) that was wrong in a round: it has no time, whatever the others took.
        self.bounds = collections.defaultdict(list)
        self.shares = collections.defaultdict(list)
        self.limits = []
        self.rounds = 0

    def check(self, program, rows):
        self.wrong[program] += sum(row["wrong"] for row in rows)

    def add(self, program, rows):
        for row in rows:
            if row["wrong"]:
                self.spoilt.add((program, row["bytes"]))
                continue
            self.times[program, row["bytes"]].append(row["p50_us"])
            if is_ours(program) and "limit_us" in row:
                self.bounds[program, row["bytes"]].append(row["limit_us"])
            if program == "lockstep_backend" and "limit_us" in row:
                # Of one run, since the machine is another one in the next.
                self.shares[row["bytes"]].append(row["limit_us"] / row["p50_us"])

    def median(self, program, size):
        times = self.times.get((program, size))
        return statistics.median(times) if times and (program, size) not in self.spoilt else None

    def bound(self, size, program="lockstep_backend"):
        """us: the least that the machine allows in a program's memory, or the wire; None where that is not known."""
        if self.wire_limit:
            return self.wire_limit(size)
        bounds = self.bounds.get((program, size))
        return statistics.median(bounds) if bounds else None

    def share(self, size):
        """How much of the machine's limit is reached in backend memory: 1 is all of it."""
        spoilt = ("lockstep_backend", size) in self.spoilt
        return statistics.median(self.shares[size]) if size in self.shares and not spoilt else None

    def sizes(self):
        """Of all that was measured: one at which all were wrong is missing in no table."""
        return sorted({size for _, size in [*self.times, *self.spoilt]})

    def programs(self):
        return {program for program, _ in self.times}

    def best_peer(self, size):
        """(us, name) of the fastest library that is not ours; None where none was measured."""
        others = [(self.median(name, size), name) for name in self.programs() if not is_ours(name) and name != PYTORCH]
        return min((pair for pair in others if pair[0] is not None), default=None)
