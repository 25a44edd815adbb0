#!/usr/bin/env python3
"""Writes sampler_golden.txt: what PyTorch's own DistributedSampler gives, for distributed_sampler_test.cpp.

    make_sampler_golden.py > sampler_golden.txt        needs torch

    <samples> <ranks> <shuffle> <seed> <epoch> <drop_last> : <rank 0's indices> / <rank 1's> ...   lists ("-": empty)
    <samples> <ranks> <shuffle> <seed> <epoch> <drop_last> # <checksum>                            the same as a number

The checksum is FNV-1a (64 bits), taken over numbers instead of bytes: for each rank its count, then its indices.
"""

import itertools

import torch
from torch.utils.data import DistributedSampler

SIZES = (1, 2, 3, 5, 7, 8, 10, 97, 1000, 4099)
RANKS = (1, 2, 3, 4, 5, 8, 17)
SEEDS_AND_EPOCHS = ((0, 0), (0, 1), (42, 0), (42, 7), (2**32 + 7, 3), (2**63, 1))
WHOLE = ((10, 3, True, 0, 0, False), (10, 3, True, 0, 0, True), (10, 3, True, 0, 1, False), (10, 4, False, 0, 0, False),
         (3, 8, True, 5, 2, False), (3, 8, True, 5, 2, True), (1, 5, True, 9, 0, False), (7, 7, True, 1, 0, False))


def lists(size, ranks, shuffle, seed, epoch, drop_last):
    result = []
    for rank in range(ranks):
        sampler = DistributedSampler(range(size), ranks, rank, shuffle, seed, drop_last)
        sampler.set_epoch(epoch)
        result.append(list(sampler))
        assert len(sampler) == len(result[-1])
    return result


def checksum(rank_lists):
    value = 0xCBF29CE484222325
    for indices in rank_lists:
        for number in [len(indices)] + indices:
            value = ((value ^ number) * 0x100000001B3) % 2**64
    return value


def key(*case):
    return " ".join(str(int(field)) for field in case)


def main():
    print(f"torch {torch.__version__}")
    for case in WHOLE:
        print(key(*case), ":", " / ".join(" ".join(map(str, indices)) or "-" for indices in lists(*case)))
    for size, ranks, drop_last in itertools.product(SIZES, RANKS, (False, True)):
        for seed, epoch in SEEDS_AND_EPOCHS:
            case = (size, ranks, True, seed, epoch, drop_last)
            print(key(*case), "#", f"{checksum(lists(*case)):016x}")
        case = (size, ranks, False, 0, 0, drop_last)
        print(key(*case), "#", f"{checksum(lists(*case)):016x}")


if __name__ == "__main__":
    main()
