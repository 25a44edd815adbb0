"""What Lockstep promises of its speed, and whether measurements keep it.

Every promise is of a band of sizes; its worst cell decides. Ratios are times of others by our time, so more is better.
"""
import dataclasses

from comparison.programs import OURS
from comparison.results import PYTORCH, format_bytes

KI, MI = 1 << 10, 1 << 20
LIBRARIES = ("gloo_", "openmpi", "mpich", PYTORCH)  # How their programs' names begin.
MEMORY = {"lockstep_backend": "backend memory", "lockstep_user": "user memory"}


@dataclasses.dataclass(frozen=True)
class Requirement:
    operation: str
    nproc: int
    low: int  # Bytes; both ends belong to the band.
    high: int
    ours: str
    measure: str  # best: times the best library's; pytorch: times PyTorch's; us: our time; limit: share of the limit
    bound: float  # At least, but for us: below.

    @property
    def text(self):
        what = {"best": "not slower than the best peer" if self.bound == 1 else
                        f"at least {self.bound:g} x as fast as the best peer",
                "pytorch": f"at least {self.bound:g} x as fast as PyTorch on Gloo",
                "us": f"under {self.bound:g} us",
                "limit": f"at least {self.bound:g} of the machine's limit"}[self.measure]
        band = f"{format_bytes(self.low)} .. {format_bytes(self.high)}"
        return f"{self.operation}, {self.nproc} ranks, {band}, {MEMORY[self.ours]}: {what}"


def all_reduce_requirements():
    """One row of the table for each band: backend memory, user memory, PyTorch."""
    for low, high, backend, user, pytorch in ((4, 4 * KI, 1, 1, 300), (16 * KI, 256 * KI, 3.5, 1, 100),
                                              (MI, 16 * MI, 4.5, 1.5, 40), (64 * MI, 256 * MI, 2.3, 1.8, 9)):
        yield Requirement("all_reduce", 2, low, high, "lockstep_backend", "best", backend)
        if low == 4:
            yield Requirement("all_reduce", 2, 4, KI, "lockstep_backend", "us", 0.5)
        yield Requirement("all_reduce", 2, low, high, "lockstep_user", "best", user)
        yield Requirement("all_reduce", 2, low, high, "lockstep_backend", "pytorch", pytorch)


REQUIREMENTS = (
    *all_reduce_requirements(),
    *(Requirement("all_reduce", nproc, 4, 16 * MI, ours, "best", 1) for nproc in (4, 8) for ours in OURS),
    *(Requirement(operation, 2, 64 * KI, 64 * MI, "lockstep_backend", "best", 2)
      for operation in ("reduce_scatter", "all_gather", "broadcast")),
    Requirement("all_reduce", 2, 256 * KI, 4 * MI, "lockstep_backend", "limit", 0.85),
)


@dataclasses.dataclass(frozen=True)
class Cell:
    """One size of a requirement's band: what was reached, and by which peer it is measured."""
    size: int
    value: float
    peer: str = ""


@dataclasses.dataclass(frozen=True)
class Verdict:
    requirement: Requirement
    worst: Cell | None  # None where nothing of the band was measured.
    reached: float      # The worst cell by the bound; 1 or more holds.
    lost: tuple = ()    # Sizes that others did and Lockstep did not.
    possible: Cell | None = None  # The worst cell of one that takes the machine's limit; None where none is known.

    @property
    def holds(self):
        return self.worst is not None and not self.lost and self.reached >= 1

    @property
    def text(self):
        if self.lost:
            return f"**fails**: no result of {', '.join(format_bytes(size) for size in self.lost)}"
        if self.worst is None:
            return "not measured"
        if self.holds:
            return "holds"
        kind = "over" if self.requirement.measure == "us" else "short"
        missing = (1 / self.reached - 1) if kind == "over" else (1 - self.reached)
        return f"**{kind} by {100 * missing:.0f} %**" if missing >= 0.005 else f"**{kind} by less than 1 %**"

    @property
    def cell(self):
        if self.worst is None:
            return "-"
        against = f" ({self.worst.peer})" if self.worst.peer else ""
        return self.written(self.worst) + against

    @property
    def limit(self):
        return "-" if self.possible is None else self.written(self.possible)

    def written(self, cell):
        unit = {"us": " us", "limit": " of the limit"}.get(self.requirement.measure, " x")
        return f"{format_bytes(cell.size)}: {cell.value:.2f}{unit}"


def cell_of(requirement, results, size, ours):
    """Of a program that takes `ours` us; None where there is nothing to compare with."""
    if requirement.measure == "us":
        return Cell(size, ours)
    if requirement.measure == "limit":
        share = results.share(size)
        return None if share is None else Cell(size, share)
    best = results.best_peer(size) if requirement.measure == "best" else (results.median(PYTORCH, size), "")
    return None if best is None or best[0] is None else Cell(size, best[0] / ours, best[1])


def worst_of(requirement, cells):
    """The cell that decides; None where there is none."""
    pick = max if requirement.measure == "us" else min
    return pick((cell for cell in cells if cell is not None), key=lambda cell: cell.value, default=None)


def possible_of(requirement, results, band):
    """The worst cell of a program that takes the machine's limit, as it was measured beside the others."""
    if requirement.measure == "limit":
        return None
    bounds = [(size, results.bound(size, requirement.ours)) for size in band]
    return worst_of(requirement, [cell_of(requirement, results, size, bound) for size, bound in bounds if bound])


def judge(requirement, results):
    """The verdict on one requirement; `results` of its sweep, or None where it was not run."""
    if results is None:
        return Verdict(requirement, None, 0)
    band = [size for size in results.sizes() if requirement.low <= size <= requirement.high]
    times = {size: results.median(requirement.ours, size) for size in band}
    lost = tuple(size for size in band if times[size] is None)
    worst = worst_of(requirement, [cell_of(requirement, results, size, ours) for size, ours in times.items() if ours])
    if worst is None:
        return Verdict(requirement, None, 0, lost)
    if requirement.measure == "us":
        # Under, not at.
        reached = requirement.bound / worst.value if worst.value != requirement.bound else 1 - 1e-9
    else:
        reached = worst.value / requirement.bound
    return Verdict(requirement, worst, reached, lost, possible_of(requirement, results, band))


def judge_all(results_by_sweep):
    """All verdicts; `results_by_sweep` by (operation, ranks)."""
    return [judge(requirement, results_by_sweep.get((requirement.operation, requirement.nproc)))
            for requirement in REQUIREMENTS]


def missing_libraries(results_by_sweep):
    """Without one of them a verdict says less."""
    programs = {name for results in results_by_sweep.values() for name in results.programs()}
    return [library.strip("_") for library in LIBRARIES if not any(name.startswith(library) for name in programs)]


def summary(verdicts, results_by_sweep):
    """The table: what is required, the worst cell that was measured, whether it holds, and what the machine allows."""
    lines = ["| required | worst measured | verdict | at the machine's limit |", "|---|---:|---|---:|"]
    lines += [f"| {verdict.requirement.text} | {verdict.cell} | {verdict.text} | {verdict.limit} |"
              for verdict in verdicts]
    measured = [verdict for verdict in verdicts if verdict.worst is not None or verdict.lost]
    lines += ["", f"{sum(verdict.holds for verdict in verdicts)} of {len(measured)} that were measured hold."]
    if any(verdict.possible for verdict in verdicts):
        lines += ["", "The last column is the worst cell of a program that takes the machine's limit: by the model, "
                  "from what was measured before the same runs (docs/performance.md); a cell may be beyond it."]
    missing = missing_libraries(results_by_sweep)
    if missing:
        lines += ["", f"**Not compared with {', '.join(missing)}**: no results of it."]
    return "\n".join(lines)
