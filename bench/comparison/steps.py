"""Training steps: what step_bench measures, and whether it keeps what is promised."""
import collections
import dataclasses
import json
import statistics
import subprocess
import sys

from comparison import plot, report
from comparison.programs import ROOT, run_quietly

MODELS = ("lenet", "mlp", "resnet18", "gpt")
# Of 2 ranks of one thread. DDP's samples per second, as a share of those of the same ranks without synchronisation,
SHARES = {"lenet": 0.97, "mlp": 0.94, "resnet18": 0.96, "gpt": 0.98}
# and as a multiple of PyTorch's.
MULTIPLES = {"lenet": 1.5, "mlp": 1.6, "resnet18": 1.6, "gpt": 1.07}
EXTRA_MIB = 2.0    # Memory of a rank with DDP, beyond that of the same training alone.
SENTINEL_PERCENT = 1.0  # Of a step's time, mean of all steps; to be stayed under.
HOST_COST_NS = 1000.0  # Of a parameter in a step, where the backend does nothing; to be stayed under.


class StepResults:
    """Rows of step_bench; a value is the median of the rounds."""

    def __init__(self, rows):
        self.rows = rows
        self.values = collections.defaultdict(list)
        for row in rows:
            for field, value in row.items():
                if isinstance(value, (int, float)):
                    self.values[row["event"], row["peer"], row.get("model"), row.get("mode"), field].append(value)

    def median(self, event, peer, model, mode, field):
        """None where it was not measured."""
        values = self.values.get((event, peer, model, mode, field))
        return statistics.median(values) if values else None

    def step(self, model, field, peer="lockstep", mode="ddp"):
        return self.median("step", peer, model, mode, field)

    def models(self):
        found = {row.get("model") for row in self.rows}
        return [model for model in MODELS if model in found]

    def rounds(self):
        return max((row["round"] for row in self.rows if "round" in row), default=0)


# ---- running ----

@dataclasses.dataclass
class Measured:
    """What step_bench printed, and why that is not all of it; empty where it is."""
    rows: list
    failure: str = ""


def run(step_bench, flags, measured):
    """Adds the rows that step_bench prints; nothing once it has failed."""
    if measured.failure:
        return
    with subprocess.Popen([step_bench, "--json", *flags], stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.startswith("{"):
                measured.rows.append(json.loads(line))
                print(progress(measured.rows[-1]), file=sys.stderr, flush=True)
    if process.returncode != 0:
        measured.failure = f"step_bench {' '.join(flags)} ended with code {process.returncode}"


def progress(row):
    if row["event"] == "host_cost":
        return f"host cost: {row['ns_per_parameter']:.0f} ns a parameter"
    what = f"{row['step_ms']:.2f} ms a step" if row["event"] == "step" else f"{row['bytes'] / 2 ** 20:.1f} MiB"
    number = f"round {row['round']}, " if row["event"] == "step" else ""
    return f"{number}{row['model']}, {row['peer']} {row['mode']}: {what}"


def measure(step_bench, rounds, quick, with_pytorch):
    """Measured: rows of the steps, of memory and of the host's cost, up to where step_bench fails."""
    peer = ["--with-pytorch"] if with_pytorch else []
    fewer = ["--blocks", "3"] if quick else []
    measured = Measured([])
    for flags in (["--rounds", str(rounds), *peer, *fewer], ["--memory", *peer], ["--host-cost"]):
        run(step_bench, flags, measured)
    return measured


# ---- what is promised ----

@dataclasses.dataclass(frozen=True)
class Verdict:
    required: str
    measured: str  # "-" where it was not.
    reached: float | None  # The measured by the required; 1 or more holds.

    @property
    def text(self):
        if self.reached is None:
            return "not measured"
        if self.reached >= 1:
            return "holds"
        missing = 100 * (1 - self.reached)
        return f"**short by {missing:.0f} %**" if missing >= 0.5 else "**short by less than 1 %**"


def at_least(required, value, bound, form):
    return Verdict(required, "-" if value is None else form.format(value), None if value is None else value / bound)


def at_most(required, value, bound, form):
    if value is None:
        return Verdict(required, "-", None)
    return Verdict(required, form.format(value), 1.0 if value <= bound else bound / value)


def judge(results):
    verdicts = [at_least(f"{model}: DDP keeps {bound} of the speed without synchronisation",
                         results.step(model, "share"), bound, "{:.3f}") for model, bound in SHARES.items()]
    verdicts += [at_least(f"{model}: {bound:g} x PyTorch's DDP on Gloo", results.step(model, "vs_pytorch"), bound,
                          "{:.2f} x") for model, bound in MULTIPLES.items()]
    for model in MODELS:
        extra = results.median("memory", "lockstep", model, "ddp", "extra_bytes")
        verdicts.append(at_most(f"{model}: at most {EXTRA_MIB:g} MiB more memory of a rank than training alone",
                                None if extra is None else extra / 2 ** 20, EXTRA_MIB, "{:.1f} MiB"))
        verdicts.append(at_most(f"{model}: the sentinel takes under {SENTINEL_PERCENT:g} % of a step",
                                results.step(model, "sentinel_percent"), SENTINEL_PERCENT - 0.001, "{:.2f} %"))
    # Under, not at.
    cost = results.median("host_cost", "lockstep", None, None, "ns_per_parameter")
    verdicts.append(at_most(f"hooks, bookkeeping and launch: under {HOST_COST_NS / 1000:g} us a parameter and step",
                            cost, HOST_COST_NS - 1, "{:.0f} ns"))
    return verdicts


def summary(verdicts):
    lines = ["| required | measured | verdict |", "|---|---:|---|"]
    lines += [f"| {verdict.required} | {verdict.measured} | {verdict.text} |" for verdict in verdicts]
    known = [verdict for verdict in verdicts if verdict.reached is not None]
    lines += ["", f"{sum(verdict.reached >= 1 for verdict in known)} of {len(known)} that were measured hold."]
    return "\n".join(lines)


# ---- writing ----

def environments(rows):
    """What each peer ran with, once."""
    found = {}
    for row in rows:
        found.setdefault(row["peer"], (row["torch"], row["environment"]))
    return [f"- {peer}: torch {torch}, {json.dumps(environment)}" for peer, (torch, environment) in found.items()]


def document(results, table, picture):
    """The report; `table` is what tools/bench_table makes of the rows, `picture` the plot's file."""
    first = results.rows[0]
    how = (f"{first['nproc']} ranks of {first['threads']} thread(s), each on CPUs of its own; SGD with momentum. "
           f"Medians of {results.rounds()} interleaved round(s);\nin each the median step of the slowest rank, with "
           "and without synchronisation in alternating blocks of the same processes.\n"
           "A barrier instead of DDP: the same ranks wait for each other at the end of backward and exchange nothing; "
           "what that\ncosts (noise of two ranks, memory that both use at the same moments) DDP pays as well.\n"
           "PyTorch is as shipped, with the same libtorch and BLAS; Lockstep keeps freed memory in both.\n"
           "Memory in use is what malloc has given out and a rank's part of what ranks share, after training; resident "
           "also\nthe most that a step needed at once, and how the heap came to lie. `alone` has no process group.")
    footer = [f"- Command: `{report.command_line()}`",
              f"- Machine: {report.cpu_name()}, caches {report.caches()}",
              f"- Versions: {', '.join(report.versions([]))}", *environments(results.rows)]
    return "\n\n".join(["# Training steps of DistributedDataParallel", summary(judge(results)), how, table,
                        f"![Share of the speed without synchronisation]({picture})", "## What it ran on",
                        "\n".join(footer)]) + "\n"


def bench_table(path):
    return run_quietly([sys.executable, str(ROOT / "tools/bench_table"), str(path)]).strip()


def draw(results):
    """Shares of the speed without synchronisation: ours, PyTorch's, what is required."""
    models = results.models()
    series = {title: [results.step(model, "share", peer) for model in models]
              for title, peer in (("Lockstep", "lockstep"), ("PyTorch on Gloo", "pytorch"))}
    series = {title: shares for title, shares in series.items() if any(shares)}
    return plot.draw_bars("DistributedDataParallel: share of the speed without synchronisation", models, series,
                          [SHARES.get(model) for model in models])


def write(measured, out, stem):
    """Writes <stem>.jsonl, .svg and .md into the folder `out`; returns the verdicts' table and the report's path.

    Where step_bench failed it is <stem>_unfinished.jsonl alone, which replaces no whole run's, and this program ends.
    """
    out.mkdir(parents=True, exist_ok=True)
    lines = out / (f"{stem}_unfinished.jsonl" if measured.failure else f"{stem}.jsonl")
    lines.write_text("".join(json.dumps(row) + "\n" for row in measured.rows))
    if measured.failure:
        sys.exit(f"compare: {measured.failure}; the {len(measured.rows)} rows before that are in {lines}")
    results = StepResults(measured.rows)
    (out / f"{stem}.svg").write_text(draw(results))
    path = out / f"{stem}.md"
    path.write_text(document(results, bench_table(lines), f"{stem}.svg"))
    return summary(judge(results)), path
