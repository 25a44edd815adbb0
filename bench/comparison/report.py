"""The report of a comparison: tables, what it ran on, and the medians as JSON lines."""
import dataclasses
import json
import os
import pathlib
import platform
import re
import sys

from comparison import network
from comparison.programs import KEEP_BLOCKS, OURS, ROOT, find_python_with_torch, run_quietly
from comparison.results import PYTORCH, format_bytes, format_us

ENVIRONMENT = ("OMP_NUM_THREADS", "OPENBLAS_CORETYPE", "OPENBLAS_NUM_THREADS", "GLIBC_TUNABLES", "LOCKSTEP_WAIT")


# ---- the machine ----

def cpu_name():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def hardware_name():
    """The CPU's name as a part of a file name."""
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\(.*?\)", "", cpu_name()).lower()).strip("-")


def caches(folder=pathlib.Path("/sys/devices/system/cpu/cpu0/cache")):
    """'L1d 48K, L2 2048K, L3 ...' of CPU 0, as the kernel says."""
    found = []
    for index in sorted(folder.glob("index*")):
        try:
            level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        except OSError:  # Many virtual machines of ARM don't say how large a cache is.
            continue
        if kind != "Instruction":
            found.append(f"L{level}{'d' if level == '1' else ''} {size}")
    return ", ".join(found) or "unknown"


def versions(programs):
    """What was compared: name and version, for those that took part."""
    names = " ".join(programs)
    found = []
    if "openmpi" in names:
        found += re.findall(r"Open MPI[^\n]*|mpirun[^\n]*", run_quietly(["mpirun.openmpi", "--version"]))[:1]
    if "mpich" in names:
        found += ["MPICH " + v for v in re.findall(r"Version:\s*(\S+)", run_quietly(["mpirun.mpich", "--version"]))[:1]]
    if "gloo_" in names:
        found += ["Gloo " + run_quietly(["dpkg-query", "-W", "-f=${Version}", "libgloo-dev"])]
    if PYTORCH in names:
        found += ["torch " + run_quietly([find_python_with_torch(), "-c", "import torch; print(torch.__version__)"])]
    revision = run_quietly(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"])
    return ["Lockstep " + (revision.strip() or "unversioned")] + [text.strip() for text in found]


def command_line():
    """The command without what is only true of this machine."""
    words = ["bench/compare"]
    for word in sys.argv[1:]:
        words.append("BUILD" if words[-1] == "--build" else "DIR" if words[-1] == "--out" else word)
    return " ".join(words)


def limits_line(limits):
    if not limits.get("measured"):
        return "not measured"
    copy, add = limits["copy_GBps"], limits["add_GBps"]
    return (f"{limits['handoff_ns']:.0f} to {limits['handoff_ns_after']:.0f} ns, copy {copy['one']:.1f} / "
            f"{copy['both']:.1f}, add {add['one']:.1f} / {add['both']:.1f} GB/s")


# ---- one sweep ----

def table(sweep, results):
    if sweep.network:
        return network.table(sweep, results)
    names = [program.name for program in sweep.programs]
    ours = [name for name in OURS if name in names]
    header = ["bytes", *names, "best peer", *(f"{name} is faster by" for name in ours)]
    if results.shares:
        header += ["machine's limit", "lockstep_backend reaches"]
    lines = ["| " + " | ".join(header) + " |", "|" + "---:|" * len(header)]
    for size in results.sizes():
        best = results.best_peer(size)
        cells = [format_bytes(size)] + [format_us(results.median(name, size)) for name in names]
        cells.append(best[1] if best else "-")
        for name in ours:
            time = results.median(name, size)
            cells.append(f"{best[0] / time:.1f} x" if best and time else "-")
        if results.shares:
            share = results.share(size)
            cells += [format_us(results.bound(size)), "-" if share is None else f"{100 * share:.0f} %"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def troubles(runner):
    """What is missing in the table, and why."""
    lines = []
    for name, sizes in runner.silent.items():
        if sizes:
            left = ", and was left out from then on" if len(sizes) >= runner.GIVE_UP else ""
            lines.append(f"- {name} gave no result within {runner.sweep.patience:g} s for "
                         f"{', '.join(format_bytes(size) for size in sizes)}{left}.")
    lines += [f"- {name} was left out: {why}" for name, why in runner.failed.items()]
    lines += [f"- {name} failed after some of its results: {why}" for name, why in runner.broke.items()]
    return lines


def section(runner, results, picture):
    """The table of one sweep, its plot, and the machine's limits around its rounds."""
    sweep = runner.sweep
    shown = [f"![{sweep.title}]({picture})", ""] if picture else []
    rounds = [f"- {'before' if i == 0 else f'after round {i}'}: {limits_line(limits)}"
              for i, limits in enumerate(results.limits)]
    missing = troubles(runner)
    return "\n".join([table(sweep, results), "", *shown, *missing, *([""] if missing else []),
                      "Limits of the machine (hand-off between two cores; memory-sized streams, one core / both):", "",
                      *rounds])


def footer(measured, watch):
    """What it was measured with; `measured` are pairs of a runner and its results."""
    wrong = {f"{name}, {runner.sweep.title}": count for runner, results in measured
             for name, count in results.wrong.items() if count}
    environment = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    environment = environment or "none of " + ", ".join(ENVIRONMENT)
    keep = " ".join(f"{name}={value}" for name, value in KEEP_BLOCKS.items())
    checked = "every size of every program was checked, nothing wrong" if not wrong else f"**wrong elements: {wrong}**"
    programs = sorted({name for _, results in measured for name in results.programs()})
    return f"""- Command: `{command_line()}`
- Machine: {cpu_name()}, {len(os.sched_getaffinity(0))} CPUs, caches {caches()}
- System: {platform.system()} {platform.release()}
- Versions: {', '.join(versions(programs))}
- Environment: {environment}; peers with a variant in their name (_copy, _cma, _ucx, _keep) also {keep}
- Values: {checked}
- {watch.says()}
"""


def how_it_is_measured(rounds):
    return (f"Median microseconds of {rounds} interleaved round(s); in each the median over the samples of the slowest "
            "rank.\n`lockstep_backend` reduces in memory that the backend hands out, `lockstep_user` in any other "
            "memory.")


def medians_as_json(sweep, results):
    lines = []
    for program in sweep.programs:
        for size in results.sizes():
            time = results.median(program.name, size)
            if time is not None:
                lines.append(json.dumps({"event": "median", "op": sweep.operation, "peer": program.name,
                                         "nproc": sweep.nproc, "bytes": size, "dtype": "f32", "fresh": True,
                                         "p50_us": round(time, 4), "rounds": len(results.times[program.name, size]),
                                         **(dataclasses.asdict(sweep.network) if sweep.network else {})}))
    return lines
