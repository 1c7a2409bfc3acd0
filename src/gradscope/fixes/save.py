"""A remedy as files: the changed weights, and the lines of PyTorch that make the same change."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import save as as_bytes

from gradscope.atomic import write_file
from gradscope.errors import UsageError
from gradscope.fixes.run import Measured
from gradscope.records import RunSpec
from gradscope.text import safe_text


def save(found: Sequence[Measured], spec: RunSpec) -> str:
    """Write the remedy that was asked for, else the best one that has weights; returns what was written, in words.

    Raises:
        UsageError: no such remedy was measured, or the folder cannot be written to.
    """
    suits = [one for one in found if one.treated.weights or spec.remedy is not None]
    chosen = next((one for one in suits if spec.remedy in (None, one.remedy.name)), None)
    if chosen is None:
        names = ", ".join(one.remedy.name for one in found) or "none"
        raise UsageError(
            f"--save: {spec.remedy or 'a remedy with weights'} does not suit this model (measured: {names})"
        )
    folder, stem = Path(spec.save or "."), chosen.remedy.name.replace(" ", "_")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--save '{safe_text(folder)}': {error.strerror}; name a folder that can be written") from None
    paths = [folder / f"{stem}.py"]
    write_file(paths[0], f"# {chosen.remedy.name}: {chosen.treated.change}\n{chosen.treated.code}".encode())
    if chosen.treated.weights:
        paths.insert(0, folder / f"{stem}.safetensors")
        weights = {key: value.detach().cpu().contiguous() for key, value in chosen.treated.weights.items()}
        write_file(paths[0], as_bytes(weights))
    return f"{chosen.remedy.name} written to {safe_text(' and '.join(map(str, paths)))}"
