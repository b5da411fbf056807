"""The floors of the house: in which direction the files of a package may import, read from their syntax trees.

Every arrow counts: at a file's head, inside a function, under TYPE_CHECKING, and a string that names a module
("unet3d.a.b" or "unet3d.a.b:function"), by which registries import. `from package import module` points to the module; that
Python runs `package/__init__.py` on the way is not an arrow.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

# From top to bottom, with the files and folders of each. An arrow goes to the same or a lower floor.
FLOORS: dict[str, tuple[str, ...]] = {
    "cli": ("start", "cli", "__main__", "api"),
    "commands": ("commands",),
    "measure": ("measure",),
    "ranks": ("ranks",),
    "planning": ("planning",),
    "results": ("results",),
    "engines": ("engines",),
    "brats": ("brats",),
    "network": ("network",),
    "devices": ("devices",),
    "config": ("config",),
    "ground": (
        "__init__",
        "errors",
        "signals",
        "streams",
        "files",
        "json_files",
        "locks",
        "caches",
        "places",
        "version",
        "workload",
        "installed",
        "progress",
        "columns",
    ),
}
ORDER = list(FLOORS)
# The one arrow that may point up: from the package's own __init__.py to its Python API, for `unet3d.run`.
API = "api"


@dataclass(frozen=True)
class Arrow:
    """One file names another."""

    source: str
    target: str
    path: Path
    line: int

    @property
    def lifted(self) -> bool:
        """Whether this is the one arrow that may point up."""
        return self.target == f"{self.source}.{API}" and "." not in self.source


def modules(package: Path) -> dict[str, Path]:
    """Dotted name to file of every module of the package in this folder; a package's name stands for its __init__.py."""
    named = {}
    for path in sorted(package.rglob("*.py")):
        words = path.relative_to(package.parent).with_suffix("").parts
        named[".".join(words[:-1] if words[-1] == "__init__" else words)] = path
    return named


def arrows(package: Path) -> list[Arrow]:
    """Every arrow from a module of the package to another of its modules."""
    named = modules(package)
    return [
        Arrow(source, target, path, line)
        for source, path in named.items()
        for target, line in _named_in(path, source, named)
        if target != source
    ]


def floor(module: str) -> str | None:
    """The floor that a module of the package is on; None where no floor has its file or folder."""
    words = module.split(".")
    room = words[1] if len(words) > 1 else "__init__"
    return next((name for name, rooms in FLOORS.items() if room in rooms), None)


def homeless(package: Path) -> list[str]:
    """One line for each module that is on no floor."""
    return [f"{path}: {module} is on no floor" for module, path in modules(package).items() if floor(module) is None]


def turned(package: Path) -> list[str]:
    """One line for each arrow that points to a higher floor."""
    lines = []
    for arrow in arrows(package):
        here, there = floor(arrow.source), floor(arrow.target)
        if here is None or there is None or arrow.lifted:
            continue
        if ORDER.index(there) < ORDER.index(here):
            lines.append(
                f"{arrow.path}:{arrow.line}: {arrow.source} on the floor {here} points up to "
                f"{arrow.target} on the floor {there}"
            )
    return lines


def rings(package: Path) -> list[str]:
    """One line for each group of files that reach each other, with the arrows among them."""
    kept = [arrow for arrow in arrows(package) if not arrow.lifted]
    graph: dict[str, set[str]] = {module: set() for module in modules(package)}
    for arrow in kept:
        graph[arrow.source].add(arrow.target)
    lines = []
    for ring in _strongly_connected(graph):
        inside = {
            f"{arrow.path}:{arrow.line} {arrow.source} on the floor {floor(arrow.source)} -> "
            f"{arrow.target} on the floor {floor(arrow.target)}"
            for arrow in kept
            if arrow.source in ring and arrow.target in ring
        }
        lines.append("\n    ".join([f"{len(ring)} files in a ring:", *sorted(inside)]))
    return sorted(lines)


def unused(package: Path, users: Iterable[Path]) -> list[str]:
    """One line for each module that no program reaches.

    Programs are the package's cli.py, __init__.py, every __main__.py, modules that run as scripts themselves, and what the
    users name: scripts, container files and programs beside the package, but no tests.
    """
    named = modules(package)
    reached: set[str] = set()
    graph: dict[str, set[str]] = {module: set() for module in named}
    for arrow in arrows(package):
        graph[arrow.source].add(arrow.target)
    for module in named:
        # Importing a module runs the packages around it.
        if "." in module:
            graph[module].add(module.rpartition(".")[0])
    waiting = {package.name, f"{package.name}.cli"} & set(named)
    waiting |= {module for module, path in named.items() if path.name == "__main__.py" or _is_script(path)}
    for path in users:
        waiting |= _named_by_user(path, package.name, named)
    while waiting:
        module = waiting.pop()
        reached.add(module)
        waiting |= graph[module] - reached
    return [f"{named[module]}: {module} is reached by no program, by tests at most" for module in sorted(set(named) - reached)]


def _named_in(path: Path, source: str, named: dict[str, Path]) -> Iterator[tuple[str, int]]:
    """(module, line) of every mention of a module of the package in a Python file."""
    package = source if path.name == "__init__.py" else source.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        for target in _mentions(node, package, named):
            yield target, node.lineno


def _mentions(node: ast.AST, package: str, named: dict[str, Path]) -> list[str]:
    """The modules that one node of a syntax tree names. package: where relative imports start."""
    if isinstance(node, ast.Import):
        targets = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            words = package.split(".")
            base = ".".join([*words[: len(words) - node.level + 1], *filter(None, [node.module])])
        targets = [f"{base}.{alias.name}" for alias in node.names]
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        text = node.value.partition(":")[0]
        targets = [text] if re.fullmatch(r"\w+(\.\w+)+", text) and re.fullmatch(r"[\w.]+(:\w+)?", node.value) else []
    else:
        return []
    # What follows the module's name is a function or a class in it.
    least = 2 if isinstance(node, ast.Constant) else 1
    return [module for module in (_longest(target, named, least) for target in targets) if module]


def _longest(target: str, named: dict[str, Path], least: int) -> str | None:
    """The module with the longest name that begins this dotted one and has as many words at least."""
    words = target.split(".")
    tries = (".".join(words[:count]) for count in range(len(words), least - 1, -1))
    return next((module for module in tries if module in named), None)


def _is_script(path: Path) -> bool:
    return re.search(r"^if __name__ == ['\"]__main__['\"]:", path.read_text(encoding="utf-8"), re.MULTILINE) is not None


def _named_by_user(path: Path, package: str, named: dict[str, Path]) -> set[str]:
    """The modules that a file beside the package names: by import, by `-m`, by path."""
    if path.suffix == ".py":
        return {target for target, _ in _named_in(path, path.stem, named)}
    text = path.read_text(encoding="utf-8")
    words = re.findall(rf"\b{package}(?:[./]\w+)+", text)
    matches = (_longest(word.removesuffix(".py").replace("/", "."), named, 2) for word in words)
    return {module for module in matches if module}


def _strongly_connected(graph: dict[str, set[str]]) -> list[set[str]]:
    """The groups of two or more nodes that reach each other (Tarjan's algorithm)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in graph[node]:
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            group = set(stack[stack.index(node) :])
            del stack[stack.index(node) :]
            if len(group) > 1:
                groups.append(group)

    for node in graph:
        if node not in index:
            visit(node)
    return groups


def report(package: Path, users: Sequence[Path] = ()) -> list[str]:
    """Everything that is wrong with a package's floors; empty where the house stands."""
    return [*homeless(package), *turned(package), *rings(package), *unused(package, users)]
