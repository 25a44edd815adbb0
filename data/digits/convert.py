#!/usr/bin/env python3
"""Converts scikit-learn's digits.csv.gz into the IDX files of this folder; README.md says where it comes from.

    convert.py <digits.csv.gz> [<output directory>]        default: the folder of this script

Needs Python 3 and nothing else. The same input gives the same bytes.
"""

import gzip
import os
import struct
import sys

SAMPLES, TEST_SAMPLES = 1797, 357
SIDE, DARKEST, CLASSES = 8, 16, 10


def read_samples(path):
    """Rows of (64 values 0..16, label)."""
    samples = []
    with gzip.open(path, "rt", encoding="ascii") as file:
        for number, line in enumerate(file, 1):
            row = [int(value) for value in line.split(",")]
            pixels, label = row[:-1], row[-1]
            if len(pixels) != SIDE * SIDE or not all(0 <= value <= DARKEST for value in pixels):
                raise ValueError(f"{path}:{number}: expected {SIDE * SIDE} values from 0 to {DARKEST}")
            if not 0 <= label < CLASSES:
                raise ValueError(f"{path}:{number}: label {label} is not below {CLASSES}")
            samples.append((pixels, label))
    if len(samples) != SAMPLES:
        raise ValueError(f"{path}: {len(samples)} samples, expected {SAMPLES}")
    return samples


def is_test(index):
    """Spreads the test samples evenly over the file: every fifth one, about."""
    return (index + 1) * TEST_SAMPLES // SAMPLES > index * TEST_SAMPLES // SAMPLES


def write_idx(directory, split, samples):
    scale = [round(value * 255 / DARKEST) for value in range(DARKEST + 1)]
    with open(os.path.join(directory, f"{split}-images-idx3-ubyte"), "wb") as file:
        file.write(struct.pack(">IIII", 0x00000803, len(samples), SIDE, SIDE))
        for pixels, _ in samples:
            file.write(bytes(scale[value] for value in pixels))
    with open(os.path.join(directory, f"{split}-labels-idx1-ubyte"), "wb") as file:
        file.write(struct.pack(">II", 0x00000801, len(samples)))
        file.write(bytes(label for _, label in samples))


def main(arguments):
    if len(arguments) not in (1, 2) or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if arguments in (["-h"], ["--help"]) else 2
    directory = arguments[1] if len(arguments) == 2 else os.path.dirname(os.path.abspath(__file__))
    samples = read_samples(arguments[0])
    for split, wanted in (("train", False), ("test", True)):
        part = [sample for index, sample in enumerate(samples) if is_test(index) == wanted]
        write_idx(directory, split, part)
        print(f"{split}: {len(part)} images")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
