#!/usr/bin/env python3
"""The reference: PyTorch's own DistributedDataParallel on Gloo trains a model on IDX images.

usage: pytorch_ddp.py MODEL DATA_DIRECTORY WORLD_SIZE BATCH_PER_RANK STEPS LR MOMENTUM SEED WEIGHTS
Writes the initial weights to WEIGHTS (TorchScript, which torch::load reads in C++), trains STEPS steps, and prints one
JSON line: {"losses": [...]}, the mean over ranks of each step's loss.
"""
import json
import os
import struct
import sys

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data.distributed import DistributedSampler


class LeNet(nn.Module):
    """For images of 8x8, where both convolutions are padded."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, 5, padding=2)
        self.fc1 = nn.Linear(64, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc1(x.flatten(1)))
        return self.fc3(F.relu(self.fc2(x)))


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(64, 96)
        self.fc2 = nn.Linear(96, 96)
        self.fc3 = nn.Linear(96, 10)

    def forward(self, x):
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x.flatten(1))))))


def read_idx(directory):
    with open(os.path.join(directory, "train-images-idx3-ubyte"), "rb") as f:
        _, n, h, w = struct.unpack(">iiii", f.read(16))
        images = torch.frombuffer(bytearray(f.read()), dtype=torch.uint8).view(n, 1, h, w)
    with open(os.path.join(directory, "train-labels-idx1-ubyte"), "rb") as f:
        f.read(8)
        labels = torch.frombuffer(bytearray(f.read()), dtype=torch.uint8).long()
    return images.float() / 255, labels


def train(rank, args, queue):
    model, directory, world, batch, steps, lr, momentum, seed, weights = args
    torch.set_num_threads(1)
    meeting = "file://" + os.path.abspath(weights) + ".meeting"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world)
    net = {"lenet": LeNet, "mlp": Mlp}[model]()
    net.load_state_dict(torch.jit.load(weights).state_dict())
    images, labels = read_idx(directory)
    sampler = DistributedSampler(labels, world, rank, shuffle=True, seed=seed)
    ddp = nn.parallel.DistributedDataParallel(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=momentum)
    losses = []
    epoch = 0
    while len(losses) < steps:
        sampler.set_epoch(epoch)
        order = torch.tensor(list(sampler))
        for indices in order.split(batch):
            optimizer.zero_grad()
            loss = F.cross_entropy(ddp(images[indices]), labels[indices])
            loss.backward()
            optimizer.step()
            mean = loss.detach().double()
            dist.all_reduce(mean)
            losses.append(mean.item() / world)
            if len(losses) == steps:
                break
        epoch += 1
    if rank == 0:
        queue.put(losses)
    dist.barrier()


def main():
    model, directory, weights = sys.argv[1], sys.argv[2], sys.argv[9]
    args = (model, directory, int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]), float(sys.argv[6]),
            float(sys.argv[7]), int(sys.argv[8]), weights)
    torch.manual_seed(args[7])
    torch.jit.script({"lenet": LeNet, "mlp": Mlp}[model]()).save(weights)
    queue = mp.get_context("spawn").SimpleQueue()
    mp.spawn(train, args=(args, queue), nprocs=args[2])
    print(json.dumps({"losses": queue.get()}))


if __name__ == "__main__":
    main()
