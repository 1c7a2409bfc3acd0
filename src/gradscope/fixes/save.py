"""A remedy as files: the changed weights, and the lines of PyTorch that make the same change."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import save as as_bytes

from gradscope.atomic import write_file
from gradscope.errors import UsageError
from gradscope.fixes.run import Measured
from gradscope.records import ModelResult, RunSpec
from gradscope.text import safe_text
from gradscope.verdicts import best_remedy

NO_NAME = re.compile(r"[^A-Za-z0-9.=,+-]+")
"""What a file's name is spared."""


def save(found: Sequence[Measured], spec: RunSpec, model: ModelResult) -> str:
    """Write the remedy that was asked for, else the one that is recommended; returns what was written, in words.

    Raises:
        UsageError: the remedy that was asked for was not measured, or the folder cannot be written to.
    """
    best = best_remedy(model.fixes, model.status, model.summary.gradient_share)
    wanted, name = spec.remedy or (best.name if best is not None else None), safe_text(model.name)
    chosen = next((one for one in found if one.remedy.name == wanted), None)
    if chosen is None:
        names = ", ".join(one.remedy.name for one in found) or "none"
        if spec.remedy is not None or not found:
            raise UsageError(f"--save: {spec.remedy or 'no remedy'} does not suit {name} (measured: {names})")
        why = f"{wanted} changes no weights" if wanted else "no remedy makes it better"
        return f"--save wrote nothing for {name}: {why}; --remedy NAME writes one all the same (measured: {names})"
    # Several models, and runs of others in the same folder, have the same remedies.
    stem = f"{NO_NAME.sub('_', model.name).strip('_.') or 'model'}-{chosen.remedy.name.replace(' ', '_')}"
    folder = Path(spec.save or ".")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--save '{safe_text(folder)}': {error.strerror}; name a folder that can be written") from None
    paths = [folder / f"{stem}.py"]
    write_file(paths[0], f"{_head(chosen, stem)}{chosen.treated.code}".encode())
    if chosen.treated.weights:
        paths.insert(0, folder / f"{stem}.safetensors")
        weights = {key: value.detach().cpu().contiguous().clone() for key, value in chosen.treated.weights.items()}
        write_file(paths[0], as_bytes(weights))
    about = "" if chosen.treated.weights else " (no weights: it changes the training)"
    return f"{chosen.remedy.name} for {name} written to {safe_text(' and '.join(map(str, paths)))}{about}"


def _head(chosen: Measured, stem: str) -> str:
    """What the lines are, and where the weights that were measured are; some lines draw others at random."""
    said = f"# {chosen.remedy.name}: {chosen.treated.change}\n"
    if not chosen.treated.weights:
        return said
    said += f'# What was measured: load_state_dict(safetensors.torch.load_file("{stem}.safetensors"))'
    drawn = any(word in chosen.treated.code for word in ("uniform_", "orthogonal_", "model = "))
    return f"{said}; these lines draw anew.\n" if drawn else f"{said}\n"
