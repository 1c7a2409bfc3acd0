"""Damage files and read them, in a process that may be killed: `python fuzz_worker.py FOLDER FIRST LAST`.

Prints a line before and after every file, so that whoever watches knows which one took the process down.
"""

from __future__ import annotations

import json
import random
import resource
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from gradscope.errors import UsageError
from gradscope.loading.model_file import source_from_file
from gradscope.records import RunSpec
from gradscope.sequences.make_batch import make_batch

HDF5 = (".h5", ".keras")
ROOM = 2 * 2**30
"""Bytes of address space that reading one damaged file may take."""


def bases(folder: Path) -> list[tuple[str, bytes]]:
    """Whole files of every kind that is read: suffix and content."""
    torch.manual_seed(0)
    weights = torch.nn.LSTM(3, 4, 2).state_dict()
    numbers = np.random.default_rng(0).standard_normal((6, 3, 3))
    path = folder / "base"
    found = []

    def keep(suffix: str) -> None:
        found.append((suffix, path.read_bytes()))

    torch.save({"model_state": weights, "step": 3, "name": "x"}, path)
    keep(".pt")
    torch.save(weights, path, _use_new_zipfile_serialization=False)
    keep(".pth")
    save_file(weights, path)
    keep(".safetensors")
    with path.open("wb") as file:
        np.savez(file, **{name: value.numpy() for name, value in weights.items()})
    keep(".npz")
    with path.open("wb") as file:
        np.savez_compressed(file, chain=numbers)
    keep(".npz")
    with path.open("wb") as file:
        np.save(file, numbers)
    keep(".npy")
    path.write_text("a,b\n" + "".join(f"{row[0]},{row[1]}\n" for row in numbers[0].tolist() * 3))
    keep(".csv")
    path.unlink()
    return found + foreign(folder, weights)


def foreign(folder: Path, weights: dict[str, torch.Tensor]) -> list[tuple[str, bytes]]:
    """Files as other frameworks lay them out, of those whose readers are installed."""
    found, path = [], folder / "base"
    w, r = weights["weight_ih_l0"].numpy(), weights["weight_hh_l0"].numpy()
    if find_spec("h5py"):
        import h5py

        entry = {"class_name": "LSTM", "config": {"name": "lstm", "activation": "tanh"}}
        config = json.dumps({"class_name": "Sequential", "config": {"layers": [entry]}})
        with h5py.File(path, "w") as file:
            file.attrs["model_config"], file.attrs["keras_version"] = config, "2.15.0"
            file["lstm/lstm_cell/kernel:0"], file["lstm/lstm_cell/recurrent_kernel:0"] = w.T, r.T
        found.append((".h5", path.read_bytes()))
        with zipfile.ZipFile(folder / "zip", "w") as archive:
            archive.writestr("config.json", config)
            archive.write(path, "model.weights.h5")
        found.append((".keras", (folder / "zip").read_bytes()))
        (folder / "zip").unlink()
        path.unlink()
    if find_spec("onnx"):
        import onnx

        tensors = [onnx.numpy_helper.from_array(a[None], name) for a, name in ((w, "W"), (r, "R"))]
        node = onnx.helper.make_node("LSTM", ["X", "W", "R"], ["Y"], name="l", hidden_size=4)
        model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], [], tensors), producer_name="x")
        found.append((".onnx", model.SerializeToString()))
    if find_spec("msgpack"):
        import msgpack

        tree = {}
        for gate in "ifgo":
            for side, size in (("i", 3), ("h", 4)):
                array = np.ones((size, 4), np.float32)
                content = msgpack.packb((array.shape, "float32", array.tobytes()))
                tree[side + gate] = {"kernel": msgpack.ExtType(1, content)}
        found.append((".msgpack", msgpack.packb({"params": tree})))
    return found


def damaged(content: bytes, draw: random.Random, other: bytes) -> bytes:
    """One of the ways in which files come to harm."""
    data, way = bytearray(content), draw.randrange(7)
    place = draw.randrange(len(data))
    head = draw.randrange(min(len(data), 400))
    if way == 0:
        return bytes(data[:place])
    if way == 1:
        for _ in range(draw.randint(1, 8)):
            data[draw.randrange(len(data))] = draw.randrange(256)
    elif way == 2:
        data[head] = draw.randrange(256)
    elif way == 3:
        data[place:place] = draw.randbytes(draw.randint(1, 64))
    elif way == 4:
        del data[place : place + draw.randint(1, 64)]
    elif way == 5:
        start, size = draw.randrange(len(other)), draw.randint(1, 256)
        data[place : place + size] = other[start : start + size]
    else:
        data[head : head + 8] = draw.choice((b"\xff" * 8, b"\0" * 8, b"\x7f" + b"\xff" * 7, b"9" * 8))
    return bytes(data)


def read(path: Path) -> str:
    """`loads`, or the one line that is said; anything else escapes."""
    try:
        if path.suffix == ".csv":
            make_batch(RunSpec(input=str(path)), seed=0)
        else:
            source = source_from_file(str(path), None, RunSpec(length=4, batch=1))
            source.make(source.input_size or 0, 0)
        if path.suffix == ".npy":
            make_batch(RunSpec(input=str(path)), seed=0)
    except UsageError as error:
        said = str(error)
        if "\n" in said or not said:
            raise RuntimeError(f"not one line: {said!r}") from error
        return "refused"
    return "loads"


def say(line: str) -> None:
    """A line for whoever watches."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(folder: Path, first: int, last: int) -> None:
    """Files `first` to `last`; each number stands for the same damage every time."""
    whole = bases(folder)
    # Each HDF5 file is read in a process of its own, so that a worker would spend most of its time on these two kinds.
    kinds = [kind for kind in whole if kind[0] not in HDF5] * 12 + [kind for kind in whole if kind[0] in HDF5]
    with open("/proc/self/statm") as file:
        held = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + ROOM, held + ROOM))
    for number in range(first, last):
        draw = random.Random(number)
        suffix, content = kinds[number % len(kinds)]
        path = folder / f"damaged{suffix}"
        path.write_bytes(damaged(content, draw, draw.choice(kinds)[1]))
        say(f"start {number} {suffix}")
        outcome = read(path)
        path.unlink()
        if left := list(folder.iterdir()):
            raise RuntimeError(f"files were written: {left}")
        say(f"done {number} {outcome}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
