# fill.py FOLDER: writes into it until no byte goes in any more, neither as data nor as files so small that btrfs keeps them with their names.
import os
import sys
import time

folder = sys.argv[1]
os.makedirs(folder, exist_ok=True)


def fill(path, size):
    with open(path, "wb", buffering=0) as file:
        while file.write(b"x" * size):
            pass


for turn in range(2):
    names = (f"{folder}/{time.time_ns()}" for _ in range(100_000))
    for size in (1 << 20, 4096, 512):
        try:
            fill(next(names), size)
        except OSError:
            pass
    try:
        for name in names:
            with open(name, "wb") as file:
                file.write(b"x" * 1500)
    except OSError:
        pass
    os.sync()
