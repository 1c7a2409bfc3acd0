"""The user's files do here what they do under `python file.py`, and nothing of them is left behind."""

from __future__ import annotations

import math
import sys
import threading
from pathlib import Path

import pytest

import gradscope
from gradscope.errors import UsageError

NET = """
import torch
from torch import nn

{imports}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(1, 1)

    def forward(self, x):
        {late}
        h, outputs = x.new_zeros(len(x), 1), []
        for t in range(x.shape[1]):
            h = {gain} * h + x[:, t, :1] + 0 * self.inner(h)
            outputs.append(h)
        return torch.stack(outputs, 1)
"""
FOLDERS = (0.5, 0.9)
SMALL = {"length": 8, "batch": 2}


def lay(folder: Path, files: dict[str, str]) -> Path:
    """Write files below a folder."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def net(imports: str = "", gain: str = "GAIN", late: str = "pass") -> str:
    """A network whose gain per step is what its imports say."""
    return NET.format(imports=imports, gain=gain, late=late)


def gains(*words: str, **settings: object) -> list[float]:
    """e^rate of each model: the gain per step, since the networks are linear in their state."""
    rates = [model.summary.rate for model in gradscope.compare(*words, **SMALL, **settings).models]
    return [round(math.exp(rate), 9) for rate in rates if rate is not None]


LAYOUTS = {
    "helper beside": ("net.py", {"net.py": net("from helper import GAIN"), "helper.py": "GAIN = {gain}"}),
    "helper of helper": (
        "net.py",
        {"net.py": net("from one import GAIN"), "one.py": "from two import GAIN", "two.py": "GAIN = {gain}"},
    ),
    "name of an installed package": ("net.py", {"net.py": net("from yaml import GAIN"), "yaml.py": "GAIN = {gain}"}),
    "name of a loaded module": ("net.py", {"net.py": net("from torchgen import GAIN"), "torchgen.py": "GAIN = {gain}"}),
    "name in the standard library": (
        "net.py",
        {"net.py": net("from calendar import GAIN"), "calendar.py": "GAIN = {gain}"},
    ),
    "imported in forward": (
        "net.py",
        {"net.py": net(gain="gain()", late="from late import gain"), "late.py": "def gain():\n    return {gain}"},
    ),
    "imported by name in forward": (
        "net.py",
        {
            "net.py": net("import importlib", "found.GAIN", "found = importlib.import_module('late')"),
            "late.py": "GAIN = {gain}",
        },
    ),
    "package beside": (
        "net.py",
        {
            "net.py": net("from parts.layers import GAIN"),
            "parts/__init__.py": "",
            "parts/layers.py": "from .numbers import GAIN",
            "parts/numbers.py": "GAIN = {gain}",
        },
    ),
    "folder without __init__": (
        "net.py",
        {"net.py": net("from parts.layers import GAIN"), "parts/layers.py": "GAIN = {gain}"},
    ),
    "relative import in a package": (
        "src/pkg/rel.py",
        {
            "src/pkg/__init__.py": "",
            "src/pkg/rel.py": net("from .layers import GAIN"),
            "src/pkg/layers.py": "from pkg.numbers import GAIN",
            "src/pkg/numbers.py": "GAIN = {gain}",
        },
    ),
    "relative import of the package above": (
        "pkg/models/rel.py",
        {
            "pkg/__init__.py": "",
            "pkg/models/__init__.py": "from .rel import Net",
            "pkg/models/rel.py": net("from ..random import GAIN"),
            "pkg/random.py": "GAIN = {gain}",
        },
    ),
    "path added by the file": (
        "scripts/net.py",
        {
            "scripts/net.py": net(
                "import os, sys\nsys.path.append(os.path.join(os.path.dirname(__file__), '..', 'lib'))\n"
                "from own import GAIN",
                late="import later_own",
            ),
            "lib/own.py": "GAIN = {gain}",
            "lib/later_own.py": "",
        },
    ),
    "dataclass and future annotations": (
        "net.py",
        {
            "net.py": "from __future__ import annotations\n"
            + net(
                "from dataclasses import dataclass, KW_ONLY\nimport typing\n@dataclass\nclass Config:\n"
                "    gain: float = {gain}\n    _: KW_ONLY = None\nGAIN = Config().gain",
                late="typing.get_type_hints(Config)",
            )
        },
    ),
    "annotations in a helper": (
        "net.py",
        {
            "net.py": net("from config import Config\nGAIN = Config().gain", late="Config(1.0)"),
            "config.py": "from __future__ import annotations\nfrom dataclasses import dataclass\nimport typing\n"
            "@dataclass\nclass Config:\n    gain: float = {gain}\n    kinds: typing.ClassVar[int] = 3\n",
        },
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_two_folders_of_one_project_live_side_by_side(layout: str, tmp_path: Path) -> None:
    main, files = LAYOUTS[layout]
    import yaml  # noqa: F401  # loaded already by somebody else

    for gain in FOLDERS:
        lay(tmp_path / str(gain), {name: text.replace("{gain}", str(gain)) for name, text in files.items()})
    path, modules = list(sys.path), dict(sys.modules)
    words = [str(tmp_path / str(gain) / main) + ":Net" for gain in (*FOLDERS, FOLDERS[0])]
    assert gains(*words) == [0.5, 0.9, 0.5]
    assert sys.path == path
    assert {name: sys.modules.get(name) for name in modules} == modules
    assert not [name for name, module in sys.modules.items() if str(tmp_path) in str(getattr(module, "__file__", ""))]


def test_a_helper_that_was_edited_is_read_again(tmp_path: Path) -> None:
    lay(tmp_path, {"net.py": net("from helper import GAIN"), "helper.py": "GAIN = 0.5"})
    assert gains(f"{tmp_path}/net.py:Net") == [0.5]
    lay(tmp_path, {"helper.py": "GAIN = 0.9"})
    assert gains(f"{tmp_path}/net.py:Net") == [0.9]


def test_modules_by_name_are_the_callers_own_where_they_are_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay(tmp_path, {"byname/__init__.py": "", "byname/net.py": net("from .helper import GAIN"), "byname/helper.py": ""})
    monkeypatch.chdir(tmp_path)
    for gain in FOLDERS:
        lay(tmp_path, {"byname/helper.py": f"GAIN = {gain}"})
        assert gains("byname.net:Net") == [gain]
        assert "byname" not in sys.modules
    lay(tmp_path / "there", {"elsewhere_net.py": net("GAIN = 0.7")})
    assert gains("elsewhere_net:Net", import_path=[tmp_path / "there"]) == [0.7]
    with pytest.raises(UsageError, match="is no folder"):
        gains("elsewhere_net:Net", import_path=[tmp_path / "gone"])


def test_loss_and_task_files_are_found_by_the_same_rules(tmp_path: Path) -> None:
    loss = "from scales import SCALE\n\ndef loss(output):\n    import late_part\n    return SCALE * output.sum()\n"
    for name, scale in (("a", 1.0), ("b", 100.0)):
        lay(tmp_path / name, {"loss.py": loss, "scales.py": f"SCALE = {scale}", "late_part.py": ""})
    lay(tmp_path, {"net.py": net("GAIN = 0.5"), "scales.py": "SCALE = None"})
    found = [
        gradscope.analyze(f"{tmp_path}/net.py:Net", loss=f"{tmp_path}/{name}/loss.py:loss", **SMALL).models[0]
        for name in ("a", "b")
    ]
    sizes = [model.series.values["log10_grad_input"][-1] for model in found]
    assert sizes[1] - sizes[0] == pytest.approx(2.0)
    assert "scales" not in sys.modules


def test_model_and_loss_of_one_folder_share_their_modules(tmp_path: Path) -> None:
    lay(
        tmp_path,
        {
            "out.py": "class Extra:\n    pass\n",
            "net.py": net("from out import Extra\nGAIN = 0.5").replace(
                "return torch.stack(outputs, 1)", "return torch.stack(outputs, 1), Extra()"
            ),
            "loss.py": "from out import Extra\n\ndef loss(output):\n    assert isinstance(output[1], Extra)\n"
            "    return output[0].sum()\n",
        },
    )
    found = gradscope.analyze(f"{tmp_path}/net.py:Net", loss=f"{tmp_path}/loss.py:loss", **SMALL).models[0]
    assert found.summary.rate is not None


def test_the_own_name_and_arguments_are_those_of_python(tmp_path: Path) -> None:
    checks = "import sys\nassert sys.argv == [__file__]\nassert sys.modules[__name__].__file__ == __file__\nGAIN = 0.5"
    lay(tmp_path, {"net.py": net(checks), "random.py": net(checks)})
    assert gains(f"{tmp_path}/net.py:Net", f"{tmp_path}/random.py:Net") == [0.5, 0.5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import gone_neighbour", "No module named 'gone_neighbour'; it must import by itself"),
        ("1 / 0", "ZeroDivisionError"),
        ("raise SystemExit(3)", "SystemExit"),
        ("def Net(:", "SyntaxError"),
        ("from .layers import Cell", "no known parent package"),
    ],
)
def test_files_that_fail_are_one_line_and_leave_nothing(text: str, message: str, tmp_path: Path) -> None:
    lay(tmp_path, {"net.py": f"import beside\n{text}", "beside.py": ""})
    path = list(sys.path)
    with pytest.raises(UsageError, match=message):
        gains(f"{tmp_path}/net.py:Net")
    assert sys.path == path
    assert not {"net", "beside"} & set(sys.modules)


def test_two_threads_import_their_own_neighbours(tmp_path: Path) -> None:
    found: dict[float, list[float]] = {}
    for gain in FOLDERS:
        files = {"net.py": net(gain="gain()", late="from late import gain"), "late.py": f"def gain(): return {gain}"}
        lay(tmp_path / str(gain), files)

    def work(gain: float) -> None:
        found[gain] = [gains(f"{tmp_path}/{gain}/net.py:Net")[0] for _ in range(3)]

    workers = [threading.Thread(target=work, args=(gain,)) for gain in FOLDERS]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert found == {gain: [gain] * 3 for gain in FOLDERS}
