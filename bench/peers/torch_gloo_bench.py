#!/usr/bin/env python3
"""PyTorch's c10d on Gloo, measured as `lockstep bench` measures: one JSON object a line.

Each rank rewrites its data and passes a barrier before every timed call; a sample is the slowest rank's time; every
size is checked against exact inputs. The cost of the Python call is part of the number, as it is for its users.
"""
import argparse
import functools
import json
import os
import sys
import time

sys.dont_write_bytecode = True
import torch_ranks  # noqa: E402

POISON = 90.0
OPERATIONS = ("all_reduce", "all_gather", "broadcast", "barrier")


def parse_bytes(text):
    """'4', '64K', '256M', '1G' in powers of 1024."""
    shift = {"K": 10, "M": 20, "G": 30}.get(text[-1:].upper(), 0)
    return int(text[:-1] if shift else text) << shift


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("operation", nargs="?", default="all_reduce", help=", ".join(OPERATIONS))
    parser.add_argument("--nproc", type=int, default=2)
    parser.add_argument("--min-bytes", type=parse_bytes, default=4)
    parser.add_argument("--max-bytes", type=parse_bytes, default=256 << 20)
    parser.add_argument("--step-factor", type=int, default=4)
    parser.add_argument("--seconds-per-size", type=float, default=0.4)
    parser.add_argument("--json", action="store_true", help="accepted for symmetry; the output is always JSON")
    arguments = parser.parse_args()
    if arguments.operation not in OPERATIONS:
        sys.exit(f"torch_gloo_bench: '{arguments.operation}' is not measured here; there are {', '.join(OPERATIONS)}")
    return arguments


class Sweep:
    """One rank of one sweep."""

    def __init__(self, torch, dist, arguments, rank):
        self.torch, self.dist, self.arguments, self.rank = torch, dist, arguments, rank
        self.ranks = arguments.nproc

    def contribution(self, rank, count):
        return ((self.torch.arange(count) + 3 * rank) % 4).float()

    def prepare(self, size):
        """Allocates the buffers of one message size; returns (rewrite, call, wrong)."""
        torch, dist, operation = self.torch, self.dist, self.arguments.operation
        if operation == "barrier":
            return (lambda: None), dist.barrier, (lambda: 0)
        count = max(1, size // 4 // (self.ranks if operation == "all_gather" else 1))
        mine = self.contribution(self.rank, count)
        data = torch.empty(count)
        rewrite = lambda: data.copy_(mine)
        if operation == "all_reduce":
            expected = sum(self.contribution(rank, count) for rank in range(self.ranks))
            return rewrite, lambda: dist.all_reduce(data), lambda: int((data != expected).sum())
        if operation == "broadcast":
            expected = self.contribution(0, count)
            return rewrite, lambda: dist.broadcast(data, 0), lambda: int((data != expected).sum())
        output = torch.full((self.ranks * count,), POISON)
        parts = list(output.split(count))
        expected = torch.cat([self.contribution(rank, count) for rank in range(self.ranks)])
        return rewrite, lambda: dist.all_gather(parts, data), lambda: int((output != expected).sum())

    def slowest(self, times):
        """Element by element the largest of all ranks."""
        largest = self.torch.tensor(times, dtype=self.torch.float64)
        self.dist.all_reduce(largest, op=self.dist.ReduceOp.MAX)
        return largest.tolist()

    def measure(self, size):
        rewrite, call, count_wrong = self.prepare(size)

        def timed():
            rewrite()
            self.dist.barrier()
            start = time.perf_counter()
            call()
            return time.perf_counter() - start

        timed()
        wrong = count_wrong()
        calls = 20 if size <= 64 << 10 else 3 if size < 256 << 20 else 1
        start = time.perf_counter()
        for _ in range(calls):
            timed()
        cycle = self.slowest([(time.perf_counter() - start) / calls])[0]
        least = 5 if size < 256 << 20 else 3
        samples = int(max(least, min(10000, self.arguments.seconds_per_size / cycle)))
        times = [timed() for _ in range(samples)]
        wrong += count_wrong()
        total = self.torch.tensor([float(wrong)])
        self.dist.all_reduce(total)
        return sorted(self.slowest(times)), int(total.item())

    def report(self, size, times, wrong):
        p50 = times[len(times) // 2] * 1e6
        factor = {"all_reduce": 2 * (self.ranks - 1) / self.ranks,
                  "all_gather": (self.ranks - 1) / self.ranks}.get(self.arguments.operation, 1)
        print(json.dumps({
            "event": "result", "op": self.arguments.operation, "peer": "torch_gloo", "memory": "user",
            "nproc": self.ranks, "bytes": size, "count": size // 4, "dtype": "f32", "fresh": True,
            "min_us": round(times[0] * 1e6, 3), "p50_us": round(p50, 3),
            "p99_us": round(times[min(len(times) - 1, len(times) * 99 // 100)] * 1e6, 3),
            "algbw_GBps": size / p50 * 1e-3, "busbw_GBps": size / p50 * 1e-3 * factor,
            "samples": len(times), "wrong": wrong}), flush=True)

    def run(self):
        arguments = self.arguments
        size = 0 if arguments.operation == "barrier" else arguments.min_bytes
        while True:
            times, wrong = self.measure(size)
            if self.rank == 0:
                self.report(size, times, wrong)
            size *= arguments.step_factor
            if size == 0 or size > arguments.max_bytes:
                return


def run_rank(arguments, rank, directory):
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    import torch
    import torch.distributed as dist
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{directory}/meet", rank=rank, world_size=arguments.nproc)
    Sweep(torch, dist, arguments, rank).run()
    dist.barrier()
    dist.destroy_process_group()


def main():
    arguments = parse_arguments()
    return torch_ranks.run_ranks("torch_gloo_bench", arguments.nproc, functools.partial(run_rank, arguments))


if __name__ == "__main__":
    sys.exit(main())
