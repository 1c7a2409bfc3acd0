"""The user's Python files, imported as `python file.py` imports them; projects of equal names live side by side."""

from __future__ import annotations

import ast
import importlib
import importlib.machinery
import importlib.util
import os
import site
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import Any

from gradscope.errors import UsageError
from gradscope.files.paths import existing_file
from gradscope.isolation.caller_state import SETTINGS, kept_settings, prints_aside, session
from gradscope.registry import unknown
from gradscope.text import safe_text

OURS = frozenset({"gradscope", "torch", "numpy", "__main__"})
"""Modules that no file of a user's replaces while they are at work."""
TELLING = ("gradient mode", "default number type", "default device", "deterministic algorithms", "working folder")
"""Settings whose change on import is said."""
OWN = ("default number type", "working folder")
"""Settings that code which sets them on import finds so when a model is made."""
_active: list[Project] = []


class Project:
    """Folders of the user's with the modules that came from them, which nobody else sees.

    While it is active its folders are searched first, and a loaded module of the same name that is not its own (of the
    standard library, of another project, of the caller's) is out of sight: `import utils` is the file beside.
    """

    def __init__(self, first: Sequence[str], last: Sequence[str] = ()) -> None:
        """Take the folders that are searched before all others, and those after."""
        self.first, self.last = [*dict.fromkeys(first)], [*dict.fromkeys(last)]
        self.modules: dict[str, ModuleType] = {}
        self.changed: list[str] = []
        """Settings of the process that its code changed on import; they were put back."""
        self._added: list[str] = []
        self._own_settings: dict[str, Any] = {}

    @contextmanager
    def active(self, *, loading: bool = False) -> Iterator[None]:
        """Its modules are the ones that imports find.

        Args:
            loading: whether it is imported just now: then modules of the standard library too give way to its files,
                later only to those that it has imported.
        """
        if not loading and _active and _active[-1] is self:
            yield
            return
        path, before, bytecode = list(sys.path), dict(sys.modules), sys.dont_write_bytecode
        hidden = {name: before[name] for name in self._hidden(before, loading)}
        for name in hidden:
            del sys.modules[name]
        sys.modules.update(self.modules)
        sys.path[:] = dict.fromkeys([*self.first, *self._added, *path, *self.last])
        # What is written within one second of the last time would be taken from the compiled file of that time.
        sys.dont_write_bytecode = True
        if loading:
            importlib.invalidate_caches()
        _active.append(self)
        try:
            yield
        finally:
            _active.pop()
            self._added = [folder for folder in sys.path if folder not in (*path, *self.first, *self.last)]
            for name in [name for name, module in sys.modules.items() if before.get(name) is not module]:
                if self._owns(name):
                    self.modules[name] = sys.modules[name]
            for name in self.modules:
                sys.modules.pop(name, None)
            sys.modules.update({name: before[name] for name in {*hidden, *self.modules} & before.keys()})
            sys.path[:], sys.dont_write_bytecode = path, bytecode

    @contextmanager
    def building(self) -> Iterator[None]:
        """Its code is imported, or called to make a model: in the folder and number type that it has set itself."""
        changed: list[str] = []
        with kept_settings(changed), self.active(loading=True):
            for name, value in self._own_settings.items():
                SETTINGS[name].write(value)
            try:
                yield
            finally:
                self._own_settings = {name: SETTINGS[name].read() for name in OWN}
        self.changed = [name for name in TELLING if name in (*self.changed, *changed)]

    def bound(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, called with the project's modules."""

        @wraps(function, updated=())
        def call(*args: Any, **kwargs: Any) -> Any:
            with self.active():
                return function(*args, **kwargs)

        return call

    def _folders(self) -> list[str]:
        return [*self.first, *self._added, *self.last]

    def _hidden(self, loaded: dict[str, ModuleType], loading: bool) -> list[str]:
        """Loaded modules that stand where one of its own would."""
        tops = {name for folder in [*self.first, *self._added] if not _is_library(folder) for name in _names(folder)}
        tops -= OURS | set(sys.builtin_module_names)
        if not loading:
            tops -= sys.stdlib_module_names - self.modules.keys()
        tops |= {name.partition(".")[0] for name in self.modules}
        return [name for name in loaded if name.partition(".")[0] in tops and not _is_frozen(loaded[name])]

    def _owns(self, name: str) -> bool:
        """Whether a module, or the package it lies in, was found in one of its folders."""
        top = sys.modules.get(name.partition(".")[0])
        if top is None or name.partition(".")[0] in OURS:
            return False
        places = [str(place) for place in getattr(top, "__path__", ())] or [getattr(top, "__file__", None) or ""]
        folders = {os.path.realpath(folder) for folder in self._folders() if not _is_library(folder)}
        return any(place and os.path.realpath(os.path.dirname(place)) in folders for place in places)


def _names(folder: str) -> Iterator[str]:
    """Names under which what lies in a folder is imported."""
    try:
        entries = list(os.scandir(folder or "."))
    except OSError:
        return
    for entry in entries:
        stem, dot, suffix = entry.name.partition(".")
        if f"{dot}{suffix}" in importlib.machinery.all_suffixes() or (
            not dot and os.path.isfile(os.path.join(entry.path, "__init__.py"))
        ):
            yield stem


def _is_frozen(module: ModuleType) -> bool:
    """Whether Python itself had it before any file: nothing stands in for it."""
    return getattr(getattr(module, "__spec__", None), "origin", None) in ("frozen", "built-in")


def _is_library(folder: str) -> bool:
    """Whether a folder holds what is installed, which belongs to all."""
    paths = {*sysconfig.get_paths().values(), *site.getsitepackages(), site.getusersitepackages()}
    ours = Path(__file__).resolve().parents[2]
    return Path(folder).resolve() in {ours, *(Path(path).resolve() for path in paths)}


def _project(key: tuple[str, ...], first: Sequence[str], last: Sequence[str]) -> Project:
    """The project of these folders; one for all that a run loads from them."""
    known = session.get()
    if known is None:
        return Project(first, last)
    found: Project = known.setdefault(("project", *key), Project(first, last))
    return found


def load_file(path: Path, folders: Sequence[str] = ()) -> tuple[ModuleType, Project]:
    """A file of the user's, executed once in a run, and the project it belongs to.

    Its own folder is searched first, as `python file.py` does, then `folders`; the working directory last. A file of
    a package that imports relatively (`from .layers import Cell`) is imported as `python -m package.file`.

    Raises:
        Exception: whatever it raises itself.
    """
    path = path.resolve()
    _, package = _package(path)
    first, last = searched(path, folders)
    if package and _is_relative(path):
        name = ".".join((*package, path.stem)) if path.stem != "__init__" else ".".join(package)
        project = _project(("package", *first), first, last)
    else:
        taken = path.stem in OURS or path.stem in sys.stdlib_module_names
        name = f"user_{path.stem}" if taken else path.stem
        project = _project(("script", *first), first, last)
    with project.building():
        if name not in project.modules:
            if package and name != path.stem:
                importlib.import_module(name)
            else:
                _execute(name, path)
        module = sys.modules[name]
    return module, project


def searched(path: Path, folders: Sequence[str]) -> tuple[list[str], list[str]]:
    """Where what a file imports is looked for: before what is installed, and after."""
    path = path.resolve()
    root, package = _package(path)
    here = str(path.parent)
    if package and _is_relative(path):
        return [str(root), *folders], [here, str(root), *_cwd()]
    return [here, *folders], [str(root), *_cwd()]


def file_of(word: str, folders: Sequence[str] = ()) -> str | None:
    """The file behind `file.py:attr` or `package.module:attr` as `refer` finds it; nothing is imported.

    None for what lies nowhere, or is installed beside Python's own library.
    """
    place = word.rpartition(":")[0] or word
    if place.endswith(".py") or not all(part.isidentifier() for part in place.split(".")):
        return place
    return found_file(place, [*folders, *_cwd(), *sys.path])


def found_file(name: str, path: Sequence[str]) -> str | None:
    """The file of a module in folders, from the working folder where it lies below that; None for a library's."""
    importlib.invalidate_caches()
    searched: Sequence[str] | None = list(path)
    spec = None
    for part in name.split("."):
        if searched is None:
            return None
        # By its last name alone: folders without __init__.py look up the packages above them among what is imported.
        spec = importlib.machinery.PathFinder.find_spec(part, searched)
        if spec is None:
            return None
        searched = spec.submodule_search_locations
    file = spec.origin if spec is not None and spec.has_location else None
    if file is None or any(_is_library(str(folder)) for folder in Path(file).resolve().parents):
        return None
    beside = os.path.relpath(file)
    return os.path.abspath(file) if beside.startswith("..") else beside


def load_module(name: str, folders: Sequence[str] = ()) -> tuple[ModuleType, Project]:
    """A module by its name, in `folders`, in the working directory, or installed.

    Raises:
        Exception: whatever it raises itself.
    """
    top = name.partition(".")[0]
    searched = [*folders, *_cwd()]
    known = top in sys.modules and not any(top in _names(folder) for folder in searched)
    project = Project([]) if top in OURS or known else _project(("module", *searched), searched, [])
    with project.building():
        module = importlib.import_module(name)
    return module, project


def _cwd() -> list[str]:
    try:
        return [os.getcwd()]
    except OSError:
        return []


def _package(path: Path) -> tuple[Path, list[str]]:
    """The folder above the outermost package that holds a file, and the packages' names."""
    folder = path.parent
    names: list[str] = []
    while (folder / "__init__.py").is_file() and folder != folder.parent:
        names.insert(0, folder.name)
        folder = folder.parent
    return folder, names


def _is_relative(path: Path) -> bool:
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return False  # importing it says what is wrong
    return any(isinstance(node, ast.ImportFrom) and node.level for node in ast.walk(tree))


def _execute(name: str, path: Path) -> None:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path.name} is no Python file")
    module = importlib.util.module_from_spec(spec)
    # dataclasses, typing and pickle look a module up by its name while it is executed.
    sys.modules[name] = module
    arguments = sys.argv
    sys.argv = [str(path)]
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    finally:
        sys.argv = arguments


def refer(word: str, folders: Sequence[str] = ()) -> tuple[Any, Project]:
    """What `module:attr` or `file.py:attr` names, and its project; `folders` are searched too.

    Raises:
        UsageError: it cannot be imported, or has no such attribute.
    """
    place, _, dotted = word.rpartition(":")
    if not place:
        raise UsageError(f"cannot read '{safe_text(word)}' as a model; give a family, a file or file.py:attr")
    is_file = place.endswith(".py")
    if is_file and not Path(place).is_file():
        raise UsageError(f"no file '{safe_text(place)}'; check the path before the last colon")
    folders = import_folders(folders)
    try:
        found, project = load_file(Path(place), folders) if is_file else load_module(place, folders)
    except (Exception, SystemExit) as error:
        what = f"{type(error).__name__}: {safe_text(error)}"
        raise UsageError(f"cannot import '{safe_text(place)}': {what}; it must import by itself") from error
    for part in dotted.split("."):
        if not hasattr(found, part):
            names = [name for name in vars(found) if not name.startswith("_")] if hasattr(found, "__dict__") else []
            near = unknown("attribute", part, names).partition(" (one of")[0]
            raise UsageError(f"'{safe_text(place)}' has no attribute '{safe_text(part)}': {near}")
        found = getattr(found, part)
    return found, project


def import_folders(folders: Sequence[str]) -> list[str]:
    """The folders of --import-path.

    Raises:
        UsageError: one that is none.
    """
    for folder in folders:
        if not Path(folder).is_dir():
            raise UsageError(f"--import-path '{safe_text(folder)}' is no folder; name the one that holds your code")
    return [str(Path(folder).resolve()) for folder in folders]


def loaded_module(name: str) -> tuple[ModuleType, Project] | None:
    """A module that this run or the caller has imported; nothing is imported here."""
    for project in (session.get() or {}).values():
        if isinstance(project, Project) and name in project.modules:
            return project.modules[name], project
    module = sys.modules.get(name)
    return None if module is None else (module, Project([]))


def load_function(reference: str, flag: str) -> Callable[..., Any]:
    """The function that `path/to/file.py:function` names, called with what lies beside the file.

    Raises:
        UsageError: no such file or function, not callable, or the file itself fails.
    """
    file, colon, name = reference.rpartition(":")
    shown = safe_text(reference)
    if not colon or not file.endswith(".py") or not name:
        raise UsageError(f"{flag} '{shown}' names no function; write path/to/file.py:function")
    path = existing_file(file, flag)
    with user_code(f"{flag} '{shown}': importing the file"):
        module, project = load_file(path)
    if not hasattr(module, name):
        public = [known for known, value in vars(module).items() if callable(value) and not known.startswith("_")]
        raise UsageError(f"{flag} '{shown}': {unknown('function', name, [safe_text(known, 40) for known in public])}")
    function = getattr(module, name)
    if not callable(function):
        raise UsageError(f"{flag} '{shown}' is a {type(function).__name__}, not a function; name a function")
    return project.bound(function)


@contextmanager
def user_code(what: str) -> Iterator[None]:
    """Turn any failure of the user's code into one line; what it prints goes to stderr, away from the report.

    Raises:
        UsageError: the code raised, or asked the process to exit.
    """
    try:
        with prints_aside():
            yield
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {error}".rstrip(": ")
        raise UsageError(f"{what} failed: {safe_text(reason)}; run it by itself or pass --debug") from error
