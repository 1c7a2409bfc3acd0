"""The pytest plugin: a fixture, a marker and an option. It is loaded in every run, so it imports nothing heavy."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from gradscope.records import ModelResult
    from gradscope.testing.record import Recorder

MARKER = "gradscope(**settings): settings of gradscope.testing.assert_gradient_flow for this test, needs_lag=50"
RECORDER = pytest.StashKey["Recorder"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--gradscope-update-baseline`, and where the baseline is."""
    group = parser.getgroup("gradscope")
    group.addoption(
        "--gradscope-update-baseline",
        action="store_true",
        help="write what the fixture gradscope measures to the baseline file; its findings are accepted",
    )
    parser.addini("gradscope_baseline", "baseline file of the fixture gradscope, from the root folder", default="")


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known: --strict-markers refuses others."""
    config.addinivalue_line("markers", MARKER)
    if config.getoption("--gradscope-update-baseline"):
        file = config.getini("gradscope_baseline")
        if not file:
            raise pytest.UsageError("--gradscope-update-baseline needs a file: set gradscope_baseline in the ini file")
        folder = (Path(config.rootpath) / file).parent
        if not folder.is_dir():
            raise pytest.UsageError(f"--gradscope-update-baseline: there is no folder {folder}; make it first")


class Gradscope:
    """What the fixture gives to a test: call it with a model, as `assert_gradient_flow`."""

    def __init__(self, name: str, settings: dict[str, Any], config: pytest.Config) -> None:
        self.name = name
        self.settings = settings
        self._config = config
        self._calls = 0

    def __call__(self, model: Any, x: Any = None, **settings: Any) -> ModelResult:
        """Assert gradient flow; with a baseline file, also that nothing got worse.

        Raises:
            AssertionError: a finding that the baseline does not accept.
            UsageError: something asked for cannot be had.
        """
        __tracebackhide__ = True
        from gradscope.testing.record import assert_recorded

        self._calls += 1
        name = self.name if self._calls == 1 else f"{self.name} #{self._calls}"
        return assert_recorded(recorder(self._config), name, model, x, self.settings | settings)


@pytest.fixture
def gradscope(request: pytest.FixtureRequest) -> Gradscope:
    """Assert gradient flow: `gradscope(model, x, needs_lag=50)`."""
    marks = reversed(list(request.node.iter_markers("gradscope")))
    settings = {name: value for mark in marks for name, value in mark.kwargs.items()}
    return Gradscope(re.sub(r"\s+", " ", request.node.nodeid), settings, request.config)


def recorder(config: pytest.Config) -> Recorder:
    """The run's one recorder, made when the first test measures something."""
    from gradscope.testing.record import Recorder

    if RECORDER not in config.stash:
        path = config.getini("gradscope_baseline")
        file = str(Path(config.rootpath) / path) if path else None
        config.stash[RECORDER] = Recorder(file, config.getoption("--gradscope-update-baseline"), config.rootpath)
    return config.stash[RECORDER]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the baseline; a worker of pytest-xdist hands over what it measured instead."""
    config = session.config
    if RECORDER not in config.stash:
        return
    if hasattr(config, "workeroutput"):
        config.workeroutput["gradscope"] = config.stash[RECORDER].handed_over()
        config.workeroutput["gradscope_unheld"] = config.stash[RECORDER].unheld
    elif config.getoption("--gradscope-update-baseline"):
        from gradscope.errors import UsageError

        try:
            config.stash[RECORDER].write()
        except UsageError as error:
            pytest.exit(f"gradscope: {error}", returncode=pytest.ExitCode.USAGE_ERROR)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Name the tests that a baseline is there for, and says nothing of."""
    unheld = sorted(set(config.stash[RECORDER].unheld)) if RECORDER in config.stash else []
    if unheld:
        more = f" and {len(unheld) - 3} more" if len(unheld) > 3 else ""
        terminalreporter.write_line(
            f"gradscope: not in the baseline yet, so nothing holds them: {', '.join(unheld[:3])}{more}; "
            "pytest --gradscope-update-baseline adds them"
        )


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Take what a worker of pytest-xdist measured."""
    output = getattr(node, "workeroutput", {})
    if output.get("gradscope"):
        recorder(node.config).take(output["gradscope"], output["gradscope_unheld"])
