#!/usr/bin/env python3
"""PyTorch's own DistributedDataParallel on Gloo as it is shipped, measured as bench/steps measures Lockstep's.

The same models, batches and optimizer, ranks on the same CPUs; blocks of steps with and without synchronisation
alternate within the same processes; the number is the slowest rank's median step. Prints rows as JSON.
"""
import argparse
import ctypes
import functools
import json
import math
import os
import pathlib
import resource
import statistics
import sys
import time

sys.dont_write_bytecode = True
import torch_models  # noqa: E402
import torch_ranks  # noqa: E402

ENVIRONMENT = ("OMP_NUM_THREADS", "OPENBLAS_CORETYPE", "OPENBLAS_NUM_THREADS", "OPENBLAS_L2_SIZE",
               "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
MEMORY_STEPS = 4


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=torch_models.NAMES, default="mlp")
    parser.add_argument("--nproc", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--blocks", type=int, default=10)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--memory", choices=["nosync", "ddp"], help="instead: memory of a rank, so trained")
    return parser.parse_args()


def page_faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


class Trainer:
    """Training of one replica by SGD with momentum, and what its steps took."""

    def __init__(self, torch, forward, parameters, batch):
        self.forward, (self.inputs, targets) = forward, batch
        self.targets = targets.flatten()
        self.cross_entropy = torch.nn.functional.cross_entropy
        self.optimizer = torch.optim.SGD(parameters, lr=0.01, momentum=0.9)
        self.reset()

    def reset(self):
        self.times, self.cpu_times, self.faults, self.last_loss = [], [], 0, 0.0

    def step(self):
        self.optimizer.zero_grad()
        loss = self.cross_entropy(self.forward(self.inputs).flatten(0, -2), self.targets)
        loss.backward()
        self.optimizer.step()
        self.last_loss = loss.item()

    def run(self, steps):
        self.step()  # Brings the replica's memory back into cache.
        for _ in range(steps):
            faults, cpu, start = page_faults(), time.process_time(), time.perf_counter()
            self.step()
            self.times.append((time.perf_counter() - start) * 1e3)
            self.cpu_times.append((time.process_time() - cpu) * 1e3)
            self.faults += page_faults() - faults


def make_trainer(torch, model, mode, rank):
    """The trainer, and the number of its parameters."""
    torch.manual_seed(0)
    net = torch_models.make(torch, model)
    forward = torch.nn.parallel.DistributedDataParallel(net) if mode == "ddp" else net
    torch.manual_seed(100 + rank)
    trainer = Trainer(torch, forward, net.parameters(), torch_models.batch(torch, model))
    return trainer, sum(parameter.numel() for parameter in net.parameters())


def chosen_kernels(library):
    """' (SkylakeX)': which of its kernels OpenBLAS has chosen, as bench/steps/environment.cpp says it."""
    name = getattr(ctypes.CDLL(str(library)), "openblas_get_corename", None)
    if name is None:
        return ""
    name.restype = ctypes.c_char_p
    return f" ({name().decode()})"


def blas_library():
    for line in pathlib.Path("/proc/self/maps").read_text().splitlines():
        path = pathlib.Path(line[line.index("/"):]) if "/" in line else pathlib.Path()
        if "blas" in path.name:
            return f"{path.parent.name}/{path.name}{chosen_kernels(path)}"
    return "unknown"


def describe_environment():
    cpus = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    return {"freed_memory": "as the C library does", "cpus_of_rank_0": cpus, "blas": blas_library(),
            **{name: os.environ[name] for name in ENVIRONMENT if name in os.environ}}


def row_of(torch, event, arguments, mode, params):
    return {"event": event, "peer": "pytorch", "model": arguments.model, "mode": mode, "nproc": arguments.nproc,
            "threads": arguments.threads, "batch": torch_models.BATCH[arguments.model], "params": params,
            "torch": torch.__version__, "environment": describe_environment()}


def time_steps(torch, dist, arguments, rank):
    """Rows of both modes."""
    trainers = {}
    for mode in ("nosync", "ddp"):
        trainers[mode], params = make_trainer(torch, arguments.model, mode, rank)
    for trainer in trainers.values():
        trainer.run(arguments.steps)
        trainer.reset()
    for block in range(arguments.blocks):
        for mode in ("nosync", "ddp") if block % 2 == 0 else ("ddp", "nosync"):
            dist.barrier()
            trainers[mode].run(arguments.steps)
    steps = arguments.blocks * arguments.steps
    if not math.isfinite(trainers["ddp"].last_loss):
        raise RuntimeError(f"{arguments.model}: the loss is {trainers['ddp'].last_loss}")
    rows = []
    for mode, trainer in trainers.items():
        worst = torch.tensor([statistics.median(trainer.times), statistics.median(trainer.cpu_times),
                              trainer.faults / steps], dtype=torch.float64)
        dist.all_reduce(worst, op=dist.ReduceOp.MAX)
        step_ms, cpu_ms, faults = worst.tolist()
        rate = torch_models.BATCH[arguments.model] * arguments.nproc / step_ms * 1e3
        rows.append({**row_of(torch, "step", arguments, mode, params), "step_ms": round(step_ms, 3),
                     "samples_per_s": round(rate, 3), "cpu_ms": round(cpu_ms, 3), "faults": round(faults, 3),
                     "steps": steps})
    return rows


class MallInfo(ctypes.Structure):
    """glibc's struct mallinfo2."""
    _fields_ = [(name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks",
                                                     "fsmblks", "uordblks", "fordblks", "keepcost")]


def memory_bytes():
    """In use, and resident; as bench/steps/measure.cpp counts them."""
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = MallInfo
    info = mallinfo2()
    fields = dict(line.split(":", 1) for line in pathlib.Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    anonymous, shared = (int(fields[name].split()[0]) << 10 for name in ("Anonymous", "Pss_Shmem"))
    return [info.uordblks + info.hblkhd + shared, anonymous + shared]


def measure_memory(torch, dist, arguments, rank):
    """One row: the largest rank's."""
    trainer, params = make_trainer(torch, arguments.model, arguments.memory, rank)
    trainer.run(MEMORY_STEPS)
    worst = torch.tensor(memory_bytes())
    if dist:
        dist.all_reduce(worst, op=dist.ReduceOp.MAX)
    used, resident = worst.tolist()
    return [{**row_of(torch, "memory", arguments, arguments.memory, params), "bytes": used,
             "resident_bytes": resident}]


def cpus_of(rank, nproc):
    """This rank's equal share of the CPUs; all where there is not one for each."""
    cpus = sorted(os.sched_getaffinity(0))
    if nproc > len(cpus):
        return cpus
    return cpus[len(cpus) * rank // nproc:len(cpus) * (rank + 1) // nproc]


def run_rank(arguments, rank, directory):
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    os.sched_setaffinity(0, cpus_of(rank, arguments.nproc))
    import torch
    import torch.distributed as dist
    torch.set_num_threads(arguments.threads)
    alone = arguments.memory == "nosync"
    if not alone:
        dist.init_process_group("gloo", init_method=f"file://{directory}/meet", rank=rank, world_size=arguments.nproc)
    measure = measure_memory if arguments.memory else time_steps
    rows = measure(torch, None if alone else dist, arguments, rank)
    if rank == 0:
        for row in rows:
            print(json.dumps(row), flush=True)
    if not alone:
        dist.barrier()
        dist.destroy_process_group()


def main():
    arguments = parse_arguments()
    return torch_ranks.run_ranks("torch_ddp_bench", arguments.nproc, functools.partial(run_rank, arguments))


if __name__ == "__main__":
    sys.exit(main())
