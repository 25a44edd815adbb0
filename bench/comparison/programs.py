"""The programs that are compared: where they are, how they are started, and what they answer."""
import dataclasses
import json
import os
import pathlib
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
# Large temporaries of the MPI libraries are mapped and faulted in on every call unless malloc keeps its blocks.
KEEP_BLOCKS = {"MALLOC_MMAP_THRESHOLD_": "4000000000", "MALLOC_TRIM_THRESHOLD_": "8000000000"}
OURS = ("lockstep_backend", "lockstep_user")
OPERATIONS = ("all_reduce", "reduce", "reduce_scatter", "all_gather", "gather", "scatter", "broadcast", "all_to_all",
              "barrier", "sendrecv")
OPERATIONS_OF_TORCH = ("all_reduce", "all_gather", "broadcast", "barrier")
END_SECONDS = 30  # For a program to end after its last result; Lockstep measures the machine's limits once more.


@dataclasses.dataclass(frozen=True)
class Program:
    """One that is compared: `command` runs a sweep once the operation and the sizes are appended."""
    name: str
    command: list
    environment: dict
    start_seconds: float = 10  # Before it measures: starting ranks and what else it does first.
    streams: bool = True       # It prints each result when it has it, not all of them at the end.


@dataclasses.dataclass
class Sweep:
    """What all programs measure in turn: one operation among `nproc` ranks."""
    operation: str
    nproc: int
    sizes: list  # Nominal bytes, each `factor` times the one before; empty for barrier.
    factor: int
    seconds_per_size: float
    patience: float  # Seconds for one size; a program that says nothing for so long is stopped.
    network: object = None  # comparison.network.Network where the ranks are on several hosts.
    programs: list = dataclasses.field(default_factory=list)

    @property
    def title(self):
        return f"{self.operation}, {self.network.title if self.network else f'{self.nproc} ranks'}"


def run_quietly(command, **options):
    """The output of a short command, or an empty string."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, **options).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


# ---- finding ----

def find_python_with_torch():
    for python in ("python3", "/usr/bin/python3"):
        if run_quietly([python, "-c", "import torch; print(torch.__version__)"]):
            return python
    return None


def find_program(build, name):
    """A program of the build tree; None where it was not built."""
    for path in sorted(build.rglob(name)):
        if path.is_file() and os.access(path, os.X_OK):
            return str(path)
    return None


def build_peers(build):
    """Brings Lockstep and its peers, which are no part of an ordinary build, up to date.

    A folder without CMake's cache, or of somebody else, stays as it is.
    """
    cache = build / "CMakeCache.txt"
    if not cache.is_file() or cache.stat().st_uid != os.geteuid():
        return
    print("building lockstep and what it is compared with (target bench_peers)", file=sys.stderr, flush=True)
    command = ["cmake", "--build", str(build), "--parallel", str(len(os.sched_getaffinity(0))), "--target", "lockstep",
               "bench_peers"]
    try:
        subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True)
    except OSError as error:
        print(f"compare: cannot build the peers ({error}); with those that are there", file=sys.stderr)
    except subprocess.CalledProcessError as error:
        last = "\n".join(error.output.splitlines()[-5:])
        print(f"{last}\ncompare: cannot build the peers (all of it: {' '.join(command)}); with those that are there",
              file=sys.stderr)


def mpi_programs(build, nproc):
    """Each MPI with its own mpirun; variants of how Open MPI moves bytes inside a host."""
    found = []
    program, mpirun = find_program(build, "openmpi_bench"), shutil.which("mpirun.openmpi")
    if program and mpirun:
        start = [mpirun, "-np", str(nproc), "--oversubscribe", "--bind-to", "none"]
        if os.geteuid() == 0:
            start.append("--allow-run-as-root")
        vader = ["--mca", "pml", "ob1", "--mca", "btl", "vader,self", "--mca", "btl_vader_single_copy_mechanism"]
        variants = {"openmpi": ([], {}), "openmpi_copy": (vader + ["none"], KEEP_BLOCKS),
                    "openmpi_cma": (vader + ["cma"], KEEP_BLOCKS)}
        if "ucx" in run_quietly(["ompi_info", "--param", "pml", "all"]):
            variants["openmpi_ucx"] = (["--mca", "pml", "ucx", "--mca", "pml_ucx_tls", "any", "--mca",
                                        "pml_ucx_devices", "any", "-x", "UCX_TLS=posix,sysv,cma,self"], KEEP_BLOCKS)
        for name, (flags, environment) in variants.items():
            found.append(Program(name, start + flags + [program, "--peer", name], environment))
    program, mpirun = find_program(build, "mpich_bench"), shutil.which("mpirun.mpich")
    if program and mpirun:
        for name, environment in (("mpich", {}), ("mpich_keep", KEEP_BLOCKS)):
            found.append(Program(name, [mpirun, "-np", str(nproc), program, "--peer", name], environment))
    return found


def find_lockstep(build):
    lockstep = find_program(build, "lockstep")
    if lockstep is None:
        sys.exit(f"compare: no program 'lockstep' under {build}; build it first")
    return lockstep


def find_programs(build, operation, nproc, torch=True):
    """Lockstep with both kinds of memory, and every peer that was built or is installed and has the operation."""
    ranks = ["--nproc", str(nproc)]
    lockstep = find_lockstep(build)
    found = [Program(f"lockstep_{memory}", [lockstep, "bench", *ranks, "--memory", memory], {}, start_seconds=30,
                     streams=False) for memory in ("backend", "user")]
    gloo = find_program(build, "gloo_bench")
    if gloo:
        algorithms = ("ring", "bcube") if operation == "all_reduce" else ("ring",)
        found += [Program(f"gloo_{name}", [gloo, *ranks, "--algorithm", name], {}) for name in algorithms]
    found += mpi_programs(build, nproc)
    python = find_python_with_torch() if torch and operation in OPERATIONS_OF_TORCH else None
    if python:
        found.append(Program("torch_gloo", [python, str(ROOT / "bench/peers/torch_gloo_bench.py"), *ranks],
                             {"OMP_NUM_THREADS": "1"}, start_seconds=60))
    return found


# ---- sizes ----

def parse_bytes(text):
    """'4', '64K', '256M', '1G' in powers of 1024."""
    shift = {"K": 10, "M": 20, "G": 30}.get(text[-1:], 0)
    return int(text[:-1] if shift else text) << shift


def sizes_between(low, high, factor):
    """low, low * factor ... up to high: the sizes that the programs make of the same flags."""
    sizes = [low]
    while sizes[-1] <= high // factor:
        sizes.append(sizes[-1] * factor)
    return sizes


def runs_of(sizes, factor):
    """`sizes` as unbroken sequences: what one start of a program can measure."""
    runs = []
    for size in sizes:
        if runs and runs[-1][-1] * factor == size:
            runs[-1].append(size)
        else:
            runs.append([size])
    return runs


# ---- running ----

def json_lines(text):
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def measure_limits(lockstep):
    rows = json_lines(run_quietly([lockstep, "bench", "limits", "--json", "--max-bytes", "16K"]))
    return rows[-1] if rows else {"measured": False}


@dataclasses.dataclass
class Answer:
    """What one start of a program came to."""
    rows: list
    silent: bool = False  # It was stopped, since it said nothing for too long.
    error: str = ""       # The last line of what it complained of; empty where it ended well.


def stop(process):
    """Ends a program with its ranks: mpirun needs the time to end those that it started elsewhere."""
    for how, seconds in ((signal.SIGTERM, 10), (signal.SIGKILL, 10)):
        try:
            os.killpg(process.pid, how)
        except ProcessLookupError:
            pass
        try:
            process.wait(timeout=seconds)
            return
        except subprocess.TimeoutExpired:
            continue


def read_rows(process, first_patience, patience):
    """The JSON lines of a program's output, and whether it fell silent before its end."""
    rows, rest, limit = [], b"", time.monotonic() + first_patience
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            if not selector.select(timeout=max(0.0, limit - time.monotonic())):
                return rows, True
            data = os.read(process.stdout.fileno(), 1 << 16)
            if not data:
                return rows, False
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                if line.startswith(b"{"):
                    rows.append(json.loads(line))
                    limit = time.monotonic() + patience


def reason(complaints):
    """The last line of a program's stderr, but rather the program's own than its launcher's about it."""
    lines = [line for line in complaints.decode(errors="replace").splitlines() if any(map(str.isalnum, line))]
    ours = [line for line in lines if line.startswith("lockstep bench:")]
    own = [line for line in lines if not line.startswith("lockstep run:")]
    return (ours or own or lines or ["it said nothing"])[-1].strip()


def start(program, flags, patience, sizes):
    """Runs a program once; `sizes` is how many it is to measure."""
    with tempfile.TemporaryFile() as complaints:
        try:
            process = subprocess.Popen(program.command + flags, stdout=subprocess.PIPE, stderr=complaints,
                                       stdin=subprocess.DEVNULL, start_new_session=True,
                                       env={**os.environ, **program.environment})
        except OSError as error:
            return Answer([], error=str(error))
        with process:
            try:
                first = program.start_seconds + patience * (1 if program.streams else sizes)
                rows, silent = read_rows(process, first, patience)
                if not silent:
                    process.wait(timeout=END_SECONDS)
            except subprocess.TimeoutExpired:
                silent = True
            finally:
                if process.poll() is None:
                    stop(process)
        if silent:
            return Answer(rows, silent=True)
        if process.returncode == 0:
            return Answer(rows)
        complaints.seek(0)
        return Answer(rows, error=f"exit code {process.returncode}: {reason(complaints.read())}")


def flags_of(sweep, sizes):
    flags = [sweep.operation, "--json", "--seconds-per-size", str(sweep.seconds_per_size)]
    if sizes:
        flags += ["--min-bytes", str(sizes[0]), "--max-bytes", str(sizes[-1]), "--step-factor", str(sweep.factor)]
    return flags


class Runner:
    """Runs the programs of one sweep round after round, and remembers which sizes a program cannot do in time."""

    GIVE_UP = 2  # Sizes at which a program fell silent, before it is left out.

    def __init__(self, sweep):
        self.sweep = sweep
        self.silent = {}  # program -> sizes at which it fell silent
        self.failed = {}  # program -> why it is left out
        self.broke = {}   # program -> why it ended, the last time that it did so after some results

    def run(self, program):
        """The result lines of one round of one program."""
        rows = []
        skipped = self.silent.setdefault(program.name, [])
        if not self.sweep.sizes:
            return [] if skipped or program.name in self.failed else self.measure(program, [], rows)
        wanted = [size for size in self.sweep.sizes if size not in skipped]
        while wanted and program.name not in self.failed and len(skipped) < self.GIVE_UP:
            run = runs_of(wanted, self.sweep.factor)[0]
            known = len(skipped)
            self.measure(program, run, rows)
            # After a silence the next size may still go well: where ranks share CPUs small ones can be the slow ones.
            done = skipped[-1] if len(skipped) > known else run[-1]
            wanted = [size for size in wanted if size > done]
        return rows

    def measure(self, program, sizes, rows):
        answer = start(program, flags_of(self.sweep, sizes), self.sweep.patience, max(1, len(sizes)))
        results = [row for row in answer.rows if row.get("event") == "result"]
        rows += results
        if answer.silent:
            last = results[-1]["bytes"] if results else 0
            size = next((size for size in sizes if size > last), sizes[-1] if sizes else 0)
            self.silent[program.name].append(size)
            print(f"compare: {program.name} gave no result for {size} bytes within {self.sweep.patience:g} s",
                  file=sys.stderr)
        elif answer.error:
            print(f"compare: {program.name}: {answer.error}", file=sys.stderr)
            (self.broke if results else self.failed)[program.name] = answer.error
        return rows
