#!/usr/bin/env python3
"""The reference: PyTorch's own DistributedDataParallel on Gloo trains the models of the step benchmark.
The variant sync_batch_norm is one network with BatchNorm and the whole batch instead.

usage: ddp_models.py DIRECTORY STEPS SCENARIO...        SCENARIO: MODEL:VARIANT:BATCH:LR
Two ranks. Writes each scenario's initial weights, all parameters as float32, to DIRECTORY/SCENARIO, and prints one JSON
line: {SCENARIO: [losses of rank 0, losses of rank 1]}. Inputs are those of ddp_pytorch_test.cpp.
"""
import contextlib
import json
import os
import sys

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn as nn
import torch.nn.functional as F
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "bench", "peers"))
import torch_models  # noqa: E402

WORLD = 2


class WithSpare(nn.Module):
    """A model with one layer more that only some forwards use, and another that none does."""

    def __init__(self, net, classes):
        super().__init__()
        self.net, self.spare, self.never = net, nn.Linear(classes, classes), nn.Linear(classes, classes)
        self.uses_spare = True

    def forward(self, x):
        x = self.net(x)
        return x + self.spare(x) if self.uses_spare else x


def make(model, variant):
    net = torch_models.make(torch, model)
    if variant not in ("unused", "static"):
        return net
    return WithSpare(net, torch_models.VOCABULARY if model == "gpt" else torch_models.CLASSES)


def integers(count, salt):
    i = torch.arange(count)
    return (i * 7919 + i * i % 1013 * 31 + salt * 104729) % 1009


def batch(model, n, salt):
    if model == "gpt":
        inputs = integers(n * torch_models.TOKENS, salt) % torch_models.VOCABULARY
        return inputs.view(n, -1), (inputs * 5 + 3) % torch_models.VOCABULARY
    shape = {"lenet": (3, 32, 32), "mlp": (784,), "resnet18": (3, 64, 64)}[model]
    inputs = integers(n * torch.Size(shape).numel(), salt).float() / 504.5 - 1
    return inputs.view(n, *shape), (torch.arange(n) * 3 + salt) % 10


def train(rank, directory, steps, scenario):
    model, variant, n, lr = scenario.split(":")
    n = int(n)
    net = make(model, variant)
    flat = torch.from_file(os.path.join(directory, scenario), size=sum(p.numel() for p in net.parameters()))
    nn.utils.vector_to_parameters(flat.clone(), net.parameters())
    if variant == "sync_batch_norm":
        net.double()
    ddp = nn.parallel.DistributedDataParallel(net, find_unused_parameters=variant == "unused",
                                              static_graph=variant == "static")
    if variant == "fp16":
        ddp.register_comm_hook(None, default_hooks.fp16_compress_hook)
    optimizer = torch.optim.SGD(net.parameters(), lr=float(lr), momentum=0.9)
    micros = 2 if variant == "no_sync" else 1
    losses = []

    def step(number):
        optimizer.zero_grad()
        if variant == "unused":
            net.uses_spare = number % 3 == 0 if rank == 1 else number % 2 == 0
        total = 0
        for micro in range(micros):
            inputs, targets = batch(model, n, number % 5 * WORLD + rank + 100 * micro)
            with contextlib.nullcontext() if micro + 1 == micros else ddp.no_sync():
                output = ddp(inputs)
                loss = F.cross_entropy(output.flatten(0, -2), targets.flatten()) / micros
                loss.backward()
            total += loss.item()
        optimizer.step()
        losses.append(total)

    def step_alone(number):
        """Of both ranks' batches, of which rank 1's has one sample more, in one network."""
        optimizer.zero_grad()
        parts = [batch(model, n + r, number % 5 * WORLD + r) for r in range(WORLD)]
        output = net(torch.cat([inputs for inputs, _ in parts]).double())
        F.cross_entropy(output, torch.cat([targets for _, targets in parts])).backward()
        optimizer.step()
        losses.append(F.cross_entropy(output.split([n, n + 1])[rank], parts[rank][1]).item())

    if variant == "sync_batch_norm":
        for number in range(steps):
            step_alone(number)
    elif variant.startswith("join"):
        with ddp.join(divide_by_initial_world_size=variant == "join"):
            for number in range(steps if rank == 1 else steps * 3 // 5):
                step(number)
    else:
        for number in range(steps):
            step(number)
    return losses


def run(rank, directory, steps, scenarios, queue):
    torch.set_num_threads(1)
    meeting = "file://" + os.path.join(os.path.abspath(directory), "meeting")
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=WORLD)
    for scenario in scenarios:
        both = [None] * WORLD
        dist.all_gather_object(both, train(rank, directory, steps, scenario))
        if rank == 0:
            queue.put((scenario, both))
    dist.barrier()


def main():
    directory, steps, scenarios = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    for scenario in scenarios:
        torch.manual_seed(3)
        flat = nn.utils.parameters_to_vector(make(*scenario.split(":")[:2]).parameters()).detach()
        flat.numpy().tofile(os.path.join(directory, scenario))
    queue = mp.get_context("spawn").SimpleQueue()
    mp.spawn(run, args=(directory, steps, scenarios, queue), nprocs=WORLD)
    print(json.dumps(dict(queue.get() for _ in scenarios)))


if __name__ == "__main__":
    main()
