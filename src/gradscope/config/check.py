"""Names and ranges that need no file opened."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import chain

from gradscope.config.words import LOSSES, model_file, parse_model
from gradscope.errors import UsageError
from gradscope.records import RunSpec
from gradscope.registry import FIXES, RULES, TASKS, TRAINING_RULES, unknown
from gradscope.text import safe_text

CHOICES: Mapping[str, tuple[str, ...]] = {
    "sequence": ("random", "zeros", "impulse", "sine"),
    "tokens": ("word", "char", "byte"),
    "scale": ("none", "standard"),
    "dtype": ("float64", "float32"),
    "cell": ("linear-concat", "tanh-concat"),
    "nonlinearity": ("tanh", "relu"),
    "layout": ("batch-first", "time-first"),
    "lags": ("fixed", "spread"),
    "fail_on": ("never", "warning", "error"),
}
PRESETS = ("smdebug", "autotrainer")
DEVICES = ("cpu", "cuda", "mps", "xpu")
MINIMUM: Mapping[str, int] = {
    "length": 2,
    "batch": 1,
    "input_size": 0,
    "hidden": 1,
    "layers": 1,
    "needs_lag": 1,
    "anchors": 1,
    "burn_in": 0,
    "item": 0,
    "seed": 0,
    "seeds": 1,
    "train_steps": 1,
    "state_size": 1,
}
SYNTHETIC_LENGTH, SYNTHETIC_BATCH = 200, 8
"""Steps and sequences where nothing says how many."""
FEATURES = 16
"""Features per step where neither sequence nor model says how many."""
OF_CODE = ("args", "weights", "layout", "state_size")
OF_FILES = ("cell", "nonlinearity")
OF_FAMILIES = ("hidden", "layers")
OTHERS: Mapping[str, tuple[str, ...]] = {
    "family": (*OF_CODE, *OF_FILES, "key", "state"),
    "file": (*OF_CODE, *OF_FAMILIES),
    "code": (*OF_FILES, *OF_FAMILIES),
}
"""What a kind of model has no use for, because it is about other kinds."""


def idle(spec: RunSpec) -> dict[str, str]:
    """Settings that nothing of a run reads, by name with the reason: the models are of another kind, and so on."""
    is_text = spec.text is not None or (spec.input or "").lower().endswith(".txt")
    found = {}
    if spec.input is not None or spec.text is not None or spec.task is not None:
        found["sequence"] = "a sequence is given already"
    if not is_text:
        found["tokens"] = "there is no text" if spec.input is None else "the input is no text"
    if not spec.probe:
        found["train_steps"] = "nothing is trained without --probe"
    for name in (*OF_CODE, *OF_FILES, *OF_FAMILIES, "key", "state") if spec.models else ():
        if not any(_takes(word, name, spec.trust) for word in spec.models):
            own = f"; an argument of your class is --arg {name}=..." if name in OF_FAMILIES and _has_code(spec) else ""
            found[name] = f"{' '.join(safe_text(word) for word in spec.models)} takes none{own}"
    default = RunSpec()
    return {name: why for name, why in found.items() if getattr(spec, name) != getattr(default, name)}


def _has_code(spec: RunSpec) -> bool:
    return any(":" in word and not parse_model(word).is_family and model_file(word) is None for word in spec.models)


def _takes(word: str, name: str, trust: bool) -> bool:
    """Whether a model may read a setting; of what may be anything, such as a folder, it is taken to."""
    parsed = parse_model(word)
    if parsed.is_family:
        return name not in OTHERS["family"] and name not in parsed.options
    if model_file(word) is not None:
        return trust or name not in OTHERS["file"]
    return ":" not in word or name not in OTHERS["code"]


def check(spec: RunSpec, origin: Mapping[str, str]) -> None:
    """Refuse a value outside its names or range, and settings that contradict each other.

    Raises:
        UsageError: one line with the value, where it came from, and what is allowed.
    """
    for name, names in CHOICES.items():
        value = getattr(spec, name)
        if value is not None and value not in names:
            raise UsageError(f"{unknown(name.replace('_', '-'), value, names)} ({origin[name]})")
    for name, least in MINIMUM.items():
        value = getattr(spec, name)
        if value is not None and value < least:
            why = " (a gradient through time needs a step to go back)" if name == "length" else ""
            raise UsageError(f"{name} is {value} ({origin[name]}); it must be at least {least}{why}")
    for name in ("loss", "device"):
        _check_shape(name, getattr(spec, name), origin[name])
    for name in ("select", "ignore"):
        for code in getattr(spec, name):
            if not any(rule.startswith(code) for rule in (*RULES, *TRAINING_RULES)):
                raise UsageError(f"{unknown('rule', code, (*RULES, *TRAINING_RULES))} ({origin[name]})")
    for word in spec.models:
        try:
            parse_model(word)
        except UsageError as error:
            # The command line shows itself which word is meant; a file has to be named with its line.
            where = f" ({origin['models']})" if ":" in origin["models"] else ""
            raise UsageError(f"{error}{where}") from None
    _check_together(spec, origin)


def idle_of_all(specs: Iterable[RunSpec]) -> dict[str, str]:
    """Settings that none of several runs reads, with the reasons."""
    every = iter(specs)
    found = {name: [why] for name, why in idle(next(every)).items()}
    for spec in every:
        if not found:
            break
        own = idle(spec)
        found = {name: [*told, own[name]] for name, told in found.items() if name in own}
    return {name: "; ".join(dict.fromkeys(told)) for name, told in found.items()}


def refuse_idle(specs: Iterable[RunSpec], origin: Mapping[str, str]) -> None:
    """Flags that no run of a command reads. What a file says may be for other commands; a flag is for this one.

    Raises:
        UsageError: there is one.
    """
    every = iter(specs)
    first = next(every)
    for name, why in idle_of_all(chain([first], every)).items():
        if origin[name].startswith("--"):
            shown = safe_text(getattr(first, name), 40)
            raise UsageError(f"{name} is {shown} ({origin[name]}), and nothing here reads it: {why}; leave it out")


def _check_shape(name: str, value: str, where: str) -> None:
    if name == "loss":
        fine = value in LOSSES or re.fullmatch(r".+\.py:[^:]+", value)
        names = (*LOSSES, "file.py:function")
    else:
        fine = re.fullmatch(r"cpu|mps|(cuda|xpu)(:\d+)?", value)
        names = (*DEVICES, "cuda:0")
    if not fine:
        raise UsageError(f"{unknown(name, value, names)} ({where})")


def _check_task(spec: RunSpec, origin: Mapping[str, str]) -> None:
    """A task brings its own sequence and loss, and is made for one lag."""
    if spec.task is None:
        if spec.probe:
            _check_own_probe(spec, origin)
        return
    if spec.task not in TASKS and not re.fullmatch(r".+\.py:[^:]+", spec.task):
        raise UsageError(f"{unknown('task', spec.task, (*TASKS, 'file.py:function'))} ({origin['task']})")
    if spec.needs_lag is None:
        raise UsageError(f"task '{spec.task}' ({origin['task']}) is made for a lag; add --lag, such as --lag 100")
    for name in ("input", "text", "target", "length", "columns"):
        if getattr(spec, name):
            raise UsageError(
                f"both task ({origin['task']}) and {name} ({origin[name]}) are given; a task brings its own sequence, "
                f"as long as the lag asks: leave out {name}, give --lag"
            )
    if spec.loss != "final":
        raise UsageError(f"both task ({origin['task']}) and loss ({origin['loss']}) are given; a task brings its own")


def _check_own_probe(spec: RunSpec, origin: Mapping[str, str]) -> None:
    """A probe without a task is of data that ask for something."""
    if spec.input is None and spec.text is None:
        raise UsageError(f"a probe ({origin['probe']}) trains on a task; add --task recall --lag 50, or --input FILE")
    if spec.needs_lag is None:
        raise UsageError(f"a probe ({origin['probe']}) of your own data needs a lag; add --lag, such as --lag 20")
    if spec.loss not in ("ce", "mse"):
        raise UsageError(
            f"loss {safe_text(spec.loss)} ({origin['loss']}) asks for no answers that a probe could train on; use "
            "--loss ce or mse, or write the task as --task file.py:function"
        )


def _check_presets(spec: RunSpec, origin: Mapping[str, str]) -> None:
    for name in spec.preset:
        if name not in PRESETS:
            raise UsageError(f"{unknown('preset', name, PRESETS)} ({origin['preset']})")


def _check_fixes(spec: RunSpec, origin: Mapping[str, str]) -> None:
    if spec.remedy is not None and spec.remedy not in FIXES:
        raise UsageError(f"{unknown('remedy', spec.remedy, FIXES)} ({origin['remedy']})")
    if spec.remedy is not None and spec.save is None:
        raise UsageError(f"remedy ({origin['remedy']}) names what --save writes; add --save DIR")
    for name in ("save", "remedy"):
        if getattr(spec, name) is not None and not spec.fix:
            raise UsageError(f"{name} ({origin[name]}) is about measured remedies; add --fix")


def _check_together(spec: RunSpec, origin: Mapping[str, str]) -> None:
    _check_presets(spec, origin)
    _check_fixes(spec, origin)
    _check_task(spec, origin)
    if spec.input is not None and spec.text is not None:
        raise UsageError(f"both input ({origin['input']}) and text ({origin['text']}) are given; choose one sequence")
    if spec.columns and spec.input is None:
        raise UsageError(f"columns ({origin['columns']}) need a file to choose from; add --input FILE")
    if spec.state is not None and spec.state_size is not None:
        raise UsageError(
            f"both state ({origin['state']}) and state_size ({origin['state_size']}) are given; the file has a size"
        )
    own = [word for word in spec.models if not parse_model(word).is_family and model_file(word) is None]
    if spec.vocab is not None and spec.embedding is None and spec.models and not own:
        raise UsageError(f"vocab ({origin['vocab']}) names the rows of an embedding; add --embedding KEY")
    is_text = spec.text is not None or (spec.input or "").lower().endswith(".txt")
    if spec.embedding is not None and not is_text:
        raise UsageError(f"embedding ({origin['embedding']}) turns tokens into vectors; add --text or --input FILE.txt")
    synthetic = spec.input is None and spec.text is None and spec.task is None
    own_length = any(parse_model(word).name.endswith((".npy", ".npz", ".jsonl")) for word in spec.models)
    length = spec.length or (SYNTHETIC_LENGTH if synthetic and not own_length else None)
    if spec.needs_lag is not None and length is not None and spec.needs_lag >= length:
        raise UsageError(
            f"needs_lag is {spec.needs_lag} ({origin['needs_lag']}); over {length} steps it must lie in "
            f"1..{length - 1}; lower it or raise --length"
        )
    if length is not None and spec.burn_in >= length:
        raise UsageError(
            f"burn_in is {spec.burn_in} ({origin['burn_in']}); of {length} steps it must leave at least one; "
            f"lower it or raise --length"
        )
    batch = spec.batch or (SYNTHETIC_BATCH if synthetic and not own_length else None)
    if batch is not None and spec.item >= batch:
        raise UsageError(
            f"item is {spec.item} ({origin['item']}); of {batch} sequences it must lie in 0..{batch - 1}; "
            f"lower it or raise --batch"
        )
