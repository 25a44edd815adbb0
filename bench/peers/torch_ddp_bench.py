#!/usr/bin/env python3
"""PyTorch's own DistributedDataParallel on Gloo, measured as bench/step_bench measures Lockstep's.

The same models, batches and optimizer; blocks of steps with and without synchronisation alternate within the same
processes; the number is the slowest rank's median step.
"""
import argparse
import json
import os
import statistics
import sys
import tempfile
import time

BATCH = 64
CLASSES = 10
ENVIRONMENT = ("OMP_NUM_THREADS", "OPENBLAS_CORETYPE", "OPENBLAS_NUM_THREADS", "OPENBLAS_L2_SIZE",
               "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=["mlp", "lenet"], default="mlp")
    parser.add_argument("--nproc", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--blocks", type=int, default=20)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def build(torch, model):
    """The model, and one batch of its images."""
    nn = torch.nn
    if model == "mlp":
        net = nn.Sequential(nn.Linear(784, 2048), nn.ReLU(), nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, CLASSES))
        return net, lambda: torch.randn(BATCH, 784)
    net = nn.Sequential(nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
                        nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(),
                        nn.Linear(84, CLASSES))
    return net, lambda: torch.randn(BATCH, 3, 32, 32)


class Trainer:
    """Training of one replica: the module, its optimizer and this rank's batch."""

    def __init__(self, torch, forward, parameters, images):
        self.torch, self.forward, self.images = torch, forward, images
        self.labels = torch.randint(CLASSES, (BATCH,))
        self.optimizer = torch.optim.SGD(parameters, lr=0.01, momentum=0.9)

    def run_block(self, steps, times):
        for step in range(-1, steps):
            start = time.perf_counter()
            self.optimizer.zero_grad()
            loss = self.torch.nn.functional.cross_entropy(self.forward(self.images), self.labels)
            loss.backward()
            self.optimizer.step()
            if step >= 0:
                times.append((time.perf_counter() - start) * 1e3)


def measure(torch, dist, arguments, rank):
    """The slowest rank's median step in milliseconds, by mode."""
    trainers = {}
    for mode in ("nosync", "ddp"):
        torch.manual_seed(0)
        net, images = build(torch, arguments.model)
        forward = torch.nn.parallel.DistributedDataParallel(net) if mode == "ddp" else net
        torch.manual_seed(100 + rank)
        trainers[mode] = Trainer(torch, forward, net.parameters(), images())
    for trainer in trainers.values():
        trainer.run_block(arguments.steps, [])
    times = {mode: [] for mode in trainers}
    for _ in range(arguments.blocks):
        for mode, trainer in trainers.items():
            dist.barrier()
            trainer.run_block(arguments.steps, times[mode])
    medians = torch.tensor([statistics.median(times[mode]) for mode in trainers], dtype=torch.float64)
    dist.all_reduce(medians, op=dist.ReduceOp.MAX)
    return dict(zip(trainers, medians.tolist()))


def report(torch, arguments, step_ms):
    rate = {mode: BATCH * arguments.nproc / value * 1e3 for mode, value in step_ms.items()}
    environment = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    for mode, value in step_ms.items():
        if arguments.json:
            print(json.dumps({"event": "step", "peer": "pytorch", "model": arguments.model, "mode": mode,
                              "nproc": arguments.nproc, "threads": arguments.threads, "step_ms": round(value, 3),
                              "samples_per_s": round(rate[mode], 3), "steps": arguments.blocks * arguments.steps,
                              "torch": torch.__version__, "environment": environment}), flush=True)
        else:
            print(f"  pytorch  {mode:8}{value:9.2f} ms a step{rate[mode]:12.2f} samples/s", flush=True)
    if not arguments.json:
        print(f"  pytorch ddp reaches {100 * step_ms['nosync'] / step_ms['ddp']:.1f} % of nosync "
              f"(torch {torch.__version__}, Gloo)", flush=True)


def run_rank(arguments, rank, directory):
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    import torch
    import torch.distributed as dist
    torch.set_num_threads(arguments.threads)
    dist.init_process_group("gloo", init_method=f"file://{directory}/meet", rank=rank, world_size=arguments.nproc)
    step_ms = measure(torch, dist, arguments, rank)
    if rank == 0:
        report(torch, arguments, step_ms)
    dist.barrier()
    dist.destroy_process_group()


def main():
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory(prefix="torch_ddp_bench_") as directory:
        workers = []
        for rank in range(arguments.nproc):
            pid = os.fork()
            if pid == 0:
                try:
                    run_rank(arguments, rank, directory)
                    os._exit(0)
                except BaseException as error:  # The child must not return into the parent's clean-up.
                    print(f"torch_ddp_bench: rank {rank}: {error}", file=sys.stderr)
                    os._exit(1)
            workers.append(pid)
        failed = [pid for pid in workers if os.waitpid(pid, 0)[1] != 0]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
