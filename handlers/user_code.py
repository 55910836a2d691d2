# SPDX-License-Identifier: Apache-2.0
"""Finds the user's Python file and reads from its syntax, without executing it, which process runs what.

`handle`, adapter hooks and a SageMaker script run in the worker process (`handlers/worker`), formatters in this one
(`handlers/user_formatters.py`). Called at start by `resolve.py`.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.machinery import PathFinder
from pathlib import Path

from serving.config.options import ASYNC_SERVICE, HUGGINGFACE
from serving.errors import ConfigError, Problem

HOOKS = ("register_adapter", "update_adapter", "unregister_adapter")
_FORMATTER_MARKS = frozenset({"input_formatter", "output_formatter", "is_input_formatter", "is_output_formatter"})
_SHADOWS = ("serving", "handlers", "djl_python")


@dataclass(frozen=True, slots=True)
class UserCode:
    """A Python file that goes with the model.

    Attributes:
        path: the file.
        module: its dotted name where the entry point is one, else None.
        is_direct: it is the entry point itself; otherwise LMI's built-in service is, and tries it first.
        is_named: `option.entryPoint` is set, whatever to.
        has_handler: it defines the handler function.
        hooks: the adapter hooks it defines.
        is_script: it is a complete SageMaker script: `model_fn` and `predict_fn`.
        has_formatters: it has decorated formatters, or a lone `input_fn` or `output_fn`.
        syntax_error: why it cannot be read, in one line; empty if it can. Then what it has is read from its text.
    """

    path: Path
    module: str | None = None
    is_direct: bool = True
    is_named: bool = False
    has_handler: bool = False
    hooks: tuple[str, ...] = ()
    is_script: bool = False
    has_formatters: bool = False
    syntax_error: str = ""

    @property
    def needs_worker(self) -> bool:
        """Something in it runs in the worker process."""
        return self.has_handler or self.is_script

    @property
    def is_custom(self) -> bool:
        """A custom handler stands for it, if only to say that the file cannot be read."""
        return self.needs_worker or bool(self.syntax_error)


def find(model_dir: Path | None, entry_point: str | None, handler: str, warnings: list[str]) -> UserCode | None:
    """The user's file, read; None where there is none.

    Args:
        model_dir: the model directory, if there is one.
        entry_point: `option.entryPoint`: a file of the model directory, an absolute path, a dotted module name, one of
            LMI's services, or nothing.
        handler: name of the handler function.
        warnings: is added to.

    Raises:
        ConfigError: the entry point names something that is not there (`NOT_FOUND`).
    """
    is_direct = entry_point not in (ASYNC_SERVICE, HUGGINGFACE)
    module = None
    if is_direct and entry_point is not None:
        path, module = _named(model_dir, entry_point)
    elif model_dir is not None and (model_dir / "model.py").is_file():
        path = model_dir / "model.py"
    else:
        return None
    if model_dir is not None:
        warnings += [
            f"{name} in the model directory hides this server's package of the same name from its Python files"
            for name in _SHADOWS
            if (model_dir / name).is_dir() or (model_dir / f"{name}.py").is_file()
        ]
    code = read(path, handler, is_direct, module, warnings)
    return replace(code, is_named=entry_point is not None)


def read(
    path: Path,
    handler: str = "handle",
    is_direct: bool = True,
    module: str | None = None,
    warnings: list[str] | None = None,
) -> UserCode:
    """What stands in one file."""
    source = path.read_bytes()
    try:
        tree = ast.parse(source, str(path))
    except (SyntaxError, ValueError) as error:
        text = source.decode("utf-8", "replace")
        where = f"line {error.lineno}" if isinstance(error, SyntaxError) else "its bytes"
        return UserCode(
            path,
            module,
            is_direct,
            has_handler=re.search(rf"\bdef\s+{re.escape(handler)}\b", text) is not None,
            has_formatters=any(mark in text for mark in _FORMATTER_MARKS),
            syntax_error=f"{type(error).__name__} in {path.name}, {where}: {getattr(error, 'msg', error)}",
        )
    names = set(_bound_names(tree.body, path.parent))
    has_formatters = _has_marks(tree, path, set())
    is_script = not has_formatters and {"model_fn", "predict_fn"} <= names
    lone = not has_formatters and not is_script and bool({"input_fn", "output_fn"} & names)
    if warnings is not None and "predict_fn" in names and not is_script:
        warnings.append(f"{path.name}: predict_fn is not applied: a SageMaker script has model_fn beside it")
    hooks = tuple(hook for hook in HOOKS if hook in names)
    if warnings is not None and hooks and handler not in names:
        warnings.append(f"{path.name}: {', '.join(hooks)} are not called: adapter hooks stand beside a {handler}")
    return UserCode(
        path,
        module,
        is_direct,
        has_handler=handler in names,
        hooks=hooks,
        is_script=is_script and handler not in names,
        has_formatters=has_formatters or lone,
    )


def _named(model_dir: Path | None, entry_point: str) -> tuple[Path, str | None]:
    """The file of an entry point, and the module's name where it is one."""
    base = model_dir or Path.cwd()
    if entry_point.endswith(".py") or "/" in entry_point:
        path = (base / entry_point).resolve()
        if not path.is_file():
            raise _missing(entry_point, f"there is no file {path}")
        return path, None
    places = [str(base)]
    *parents, last = entry_point.split(".")
    for parent in parents:
        found = PathFinder.find_spec(parent, places) or (PathFinder.find_spec(parent) if parent == parents[0] else None)
        if found is None or found.submodule_search_locations is None:
            raise _missing(entry_point, f"there is no package {parent!r}")
        places = list(found.submodule_search_locations)
    spec = PathFinder.find_spec(last, places) or (None if parents else PathFinder.find_spec(last))
    if spec is None or spec.origin is None:
        raise _missing(entry_point, "neither the model directory nor the installed packages have it")
    return Path(spec.origin), entry_point


def _missing(entry_point: str, why: str) -> ConfigError:
    remedy = f"name a file of the model directory, such as model.py, or {ASYNC_SERVICE}"
    return ConfigError([Problem("NOT_FOUND", f"entryPoint={entry_point!r}: {why}", remedy=remedy)])


def _names_of_sibling(directory: Path, module: str) -> Iterator[str]:
    """What `from module import *` brings from a file of the same directory."""
    path = directory / f"{module.replace('.', '/')}.py"
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return
    stars = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.names[0].name == "*"]
    yield from _bound_names([node for node in tree.body if node not in stars], directory)


def _bound_names(body: list[ast.stmt], directory: Path) -> Iterator[str]:
    """The names that a module's top level defines, conditional ones included."""
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield statement.name
        elif isinstance(statement, ast.Assign):
            yield from (
                name.id for target in statement.targets for name in ast.walk(target) if isinstance(name, ast.Name)
            )
        elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            yield statement.target.id
        elif isinstance(statement, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in statement.names)
            if isinstance(statement, ast.ImportFrom) and statement.names[0].name == "*":
                yield from _names_of_sibling(directory, statement.module or "")
        for block in ("body", "orelse", "finalbody"):
            if isinstance(statement, ast.If | ast.Try | ast.With):
                yield from _bound_names(getattr(statement, block, []), directory)
        if isinstance(statement, ast.Try):
            for clause in statement.handlers:
                yield from _bound_names(clause.body, directory)


def _has_marks(tree: ast.AST, path: Path, seen: set[Path]) -> bool:
    """A formatter's decorator or mark is used in the file, or in one beside it that it imports names from."""
    seen.add(path)
    marks = set(_FORMATTER_MARKS)
    siblings = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            marks |= {alias.asname for alias in node.names if alias.name in _FORMATTER_MARKS and alias.asname}
            siblings.append(path.parent / f"{(node.module or '').replace('.', '/')}.py")
    for node in ast.walk(tree):
        name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
        if name in marks:
            return True
    return any(_file_has_marks(sibling, seen) for sibling in siblings if sibling not in seen)


def _file_has_marks(path: Path, seen: set[Path]) -> bool:
    try:
        return _has_marks(ast.parse(path.read_bytes()), path, seen)
    except (OSError, SyntaxError, ValueError):
        return False
