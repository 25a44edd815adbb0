"""Comparison across several hosts of this machine: what is started how, and what the wire allows.

The hosts are network namespaces that `hosts` (bench/peers) makes anew for every program: links of a chosen rate, and a
delay. Lockstep's own launcher starts Lockstep and Gloo; each MPI's mpirun starts its own, and enters the other hosts
through an agent that is called as ssh would be.
"""
import dataclasses
import re
import secrets
import shutil

from comparison.programs import Program, find_lockstep, find_program
from comparison.results import format_bytes, format_us, is_ours

BURST_BYTES = 128 << 10  # What a link that was idle lets through at once, beyond its rate (tests/support/hosts.cpp).
FRAMING = 0.956  # Payload of a full TCP segment, as a share of the Ethernet frame that the rate counts.
BACKENDS = ("gloo", "mpi", "auto", "hier")
AUTO = "lockstep_auto"  # What a user has who chooses nothing.
BULK_BYTES = 1 << 20   # From here on the wire decides,
BULK_SHARE = 0.9       # and so much of what it allows is to be reached.
# Bytes over each host's link, one way, per byte of the vector: (hosts) -> factor.
LINK_BYTES = {
    "all_reduce": lambda hosts: 2 * (hosts - 1) / hosts,
    "reduce_scatter": lambda hosts: (hosts - 1) / hosts,
    "all_gather": lambda hosts: (hosts - 1) / hosts,
    "broadcast": lambda hosts: 1,
}


def parse_rate(text):
    """Bits a second of tc's '1gbit', '100mbit'."""
    match = re.fullmatch(r"(\d+)([kmg])bit", text)
    if not match or int(match[1]) == 0:
        raise ValueError(text)
    return int(match[1]) * {"k": 10 ** 3, "m": 10 ** 6, "g": 10 ** 9}[match[2]]


@dataclasses.dataclass(frozen=True)
class Network:
    hosts: int
    nproc_per_host: int
    rate: str
    delay_us: int

    @property
    def nproc(self):
        return self.hosts * self.nproc_per_host

    @property
    def title(self):
        delay = f", {self.delay_us} us each way" if self.delay_us else ""
        return f"{self.hosts} hosts with {self.nproc_per_host} rank(s) each, links of {self.rate}{delay}"

    @property
    def file_part(self):
        delay = f"_{self.delay_us}us" if self.delay_us else ""
        return f"{self.hosts}hosts_{self.nproc_per_host}ranks_{self.rate}{delay}"

    def limit_us(self, operation, size):
        """The least that the links allow: one delay, and the bytes that must cross the busiest. None if not known."""
        if operation not in LINK_BYTES:
            return None
        bits = 8 * size * LINK_BYTES[operation](self.hosts)
        return self.delay_us + bits / (parse_rate(self.rate) * FRAMING) * 1e6

    def is_bulk(self, operation, size):
        """Whether so many bytes cross a link that its burst, which the limit leaves out, is a small part of them."""
        return operation in LINK_BYTES and size * LINK_BYTES[operation](self.hosts) >= 8 * BURST_BYTES

    def is_possible(self, operation, size, time_us):
        """False for a time that no bytes over these links can have taken."""
        if operation not in LINK_BYTES:
            return True
        least = size * LINK_BYTES[operation](self.hosts) - BURST_BYTES
        return time_us >= self.delay_us + max(0, 8 * least / parse_rate(self.rate) * 1e6)


# ---- programs ----

def on_hosts(build, network, *flags):
    hosts = find_program(build, "hosts")
    if hosts is None:
        return None
    return [hosts, "--hosts", str(network.hosts), "--rate", network.rate, "--delay-us", str(network.delay_us), *flags,
            "--"]


def openmpi(network, cpus):
    start = [shutil.which("mpirun.openmpi"), "--allow-run-as-root", "--mca", "plm_rsh_agent", "{agent}", "--mca",
             "plm_rsh_no_tree_spawn", "1", "--host", f"{{list:{network.nproc_per_host}}}", "--mca", "pml", "ob1",
             "--mca", "btl", "tcp,vader,self", "--mca", "btl_tcp_if_include", "eth0", "--mca", "oob_tcp_if_include",
             "eth0", "--bind-to", "none"]
    # Every host takes all CPUs to be its own.
    return start + (["--mca", "mpi_yield_when_idle", "1"] if network.nproc > cpus else [])


def mpich(network):
    return [shutil.which("mpirun.mpich"), "-launcher", "ssh", "-launcher-exec", "{agent}", "-hosts",
            f"{{list:{network.nproc_per_host}}}", "-iface", "eth0", "-np", str(network.nproc)]


def find_programs(build, operation, network, cpus):
    """Lockstep with each of its backends, and every peer that was built; what cannot run here says so when it is."""
    each, first = on_hosts(build, network), on_hosts(build, network, "--first-only")
    if each is None:
        raise FileNotFoundError(f"no program 'hosts' under {build}; build the target bench_peers")
    lockstep = find_lockstep(build)
    token = {"LOCKSTEP_JOB_TOKEN": secrets.token_hex(16)}
    launch = each + [lockstep, "run", "--nnodes", str(network.hosts), "--node-rank", "{host}", "--master-addr",
                     "{first}", "--master-port", "29500", "--nproc-per-node", str(network.nproc_per_host), "--quiet",
                     "--no-prefix", "--cpu-bind", "none", "--"]
    found = []
    for backend in BACKENDS:
        if backend == "mpi":
            if not shutil.which("mpirun.openmpi"):
                continue
            start = first + openmpi(network, cpus) + ["-x", "MASTER_ADDR={first}", "-x", "LOCKSTEP_JOB_TOKEN"]
        else:
            start = launch
        found.append(Program(f"lockstep_{backend}", start + [lockstep, "bench", "--backend", backend], token,
                             start_seconds=30))
    gloo = find_program(build, "gloo_bench")
    if gloo:
        algorithms = ("ring", "halving_doubling") if operation == "all_reduce" else ("ring",)
        found += [Program(f"gloo_{name}", launch + [gloo, "--meet", "{meet}", "--address", "{address}", "--algorithm",
                                                    name], token, start_seconds=30) for name in algorithms]
    # UCX, below MPICH, would find that the hosts are one machine and go past the links.
    tcp_only = {"UCX_TLS": "tcp,self", "UCX_NET_DEVICES": "eth0"}
    # Lockstep has Open MPI send only, within its process; the peer is to have the better of both as well.
    for name, start, environment in (("openmpi", openmpi(network, cpus), {}),
                                     ("openmpi_send", openmpi(network, cpus) + ["--mca", "btl_tcp_flags", "1"], {}),
                                     ("mpich", mpich(network), tcp_only)):
        program = find_program(build, f"{name.removesuffix('_send')}_bench")
        if program and start[0]:
            found.append(Program(name, first + start + [program, "--peer", name], environment, start_seconds=30))
    return found


# ---- report ----

def past_the_links(sweep, results):
    """{program: a size} of those that were faster than the links allow: they found that the hosts are one machine."""
    found = {}
    for name in sorted(results.programs()):
        for size in results.sizes():
            time = results.median(name, size)
            if time is not None and not sweep.network.is_possible(sweep.operation, size, time):
                found.setdefault(name, size)
    return found


def best(sweep, results, size, ours):
    """(us, name) of the fastest of ours, or of the peers, that kept to the links; None where there is none."""
    excluded = past_the_links(sweep, results)
    times = [(results.median(name, size), name) for name in results.programs()
             if is_ours(name) == ours and name not in excluded]
    return min((pair for pair in times if pair[0] is not None), default=None)


def table(sweep, results):
    names = [program.name for program in sweep.programs]
    header = ["bytes", *names, "wire's limit", "best peer", "best of ours", "is faster by", "reaches of the limit"]
    lines = ["| " + " | ".join(header) + " |", "|" + "---:|" * len(header)]
    for size in results.sizes():
        ours, peer = best(sweep, results, size, ours=True), best(sweep, results, size, ours=False)
        bound = results.bound(size)
        cells = [format_bytes(size)] + [format_us(results.median(name, size)) for name in names]
        cells += [format_us(bound), peer[1] if peer else "-", ours[1] if ours else "-"]
        cells.append(f"{peer[0] / ours[0]:.2f} x" if ours and peer else "-")
        bulk = sweep.network.is_bulk(sweep.operation, size)
        cells.append(f"{100 * bound / ours[0]:.0f} %" if ours and bound and bulk else "-")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def verdicts(sweep, results):
    """Lines: is our fastest no slower than the best peer, is what `auto` chooses, and how much of the wire is used."""
    excluded = past_the_links(sweep, results)
    against, of_auto, shares = [], [], []
    for size in results.sizes():
        ours, peer = best(sweep, results, size, ours=True), best(sweep, results, size, ours=False)
        bound = results.bound(size)
        if ours and peer:
            against.append((peer[0] / ours[0], size, peer[1]))
        auto = None if AUTO in excluded else results.median(AUTO, size)
        if auto and peer:
            of_auto.append((peer[0] / auto, size, peer[1]))
        if ours and bound and size >= BULK_BYTES and sweep.network.is_bulk(sweep.operation, size):
            shares.append((bound / ours[0], size))
    lines = [f"- **{name} does not count**: at {format_bytes(size)} it was faster than the links allow, so it went "
             "past them." for name, size in excluded.items()]
    # The first takes the best of ours at each size, which no user has.
    for what, ratios in (("Not slower than the best peer", against), ("The same of what `auto` chooses", of_auto)):
        if ratios:
            ratio, size, name = min(ratios)
            lines.append(f"- {what}: {'holds' if ratio >= 1 else '**fails**'}, worst at {format_bytes(size)}: "
                         f"{ratio:.2f} x ({name}).")
    if shares:
        share, size = min(shares)
        lines.append(f"- At least {100 * BULK_SHARE:.0f} % of the wire's limit from {format_bytes(BULK_BYTES)}: "
                     f"{'holds' if share >= BULK_SHARE else '**fails**'}, worst at {format_bytes(size)}: "
                     f"{100 * share:.0f} %.")
    if not against and not shares:
        lines.append("- No verdict: nothing of ours was measured beside a peer or a limit.")
    return "\n".join(lines)


def how_it_is_measured(network, rounds):
    return (f"Median microseconds of {rounds} interleaved round(s); in each the median over the samples of the slowest "
            "rank, each rank by its own clock.\nHosts are network namespaces of this machine and share its CPUs. The "
            f"wire's limit is one delay, and the bytes that must cross a link at {FRAMING:g} of its rate: Ethernet, IP "
            "and TCP take the rest; no share of it is given where a link's burst is more than an eighth of them.\n"
            "`openmpi_send` is Open MPI with btl_tcp_flags=1 (send only), which Lockstep asks of it too.")
