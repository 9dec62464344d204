"""A digest of the code that determines a run's numbers. A different digest means that the code has changed.

It covers the script and all its direct and indirect imports from the three scripts, nets, beyond, datasets and
common/quality. It is computed from syntax trees, so comments, docstrings and formatting do not change it. Neither does
DEFAULTS, the table of the options' default values: the values that a run used are among its settings.

The rest of common/ is not covered. After a change of the schedule or the seeds in run.py, of distributed.py or of
devices.py that changes numbers, repeat all runs.
"""

import ast
import hashlib

from datasets.files import ROOT

CODE = ROOT / "code"


def path_of(module):
    """The file of a module that belongs to the digest; None for any other module."""
    folder, _, name = module.partition(".")
    if folder in ("nets", "beyond") or module == "common.quality" or folder.startswith("a3_"):
        return CODE / (f"{folder}/{name}.py" if name else f"{folder}.py")
    return ROOT / f"datasets/{name}.py" if folder == "datasets" and name else None


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_defaults(node):
    return isinstance(node, ast.Assign) and [getattr(target, "id", "") for target in node.targets] == ["DEFAULTS"]


def compared(tree):
    """The syntax tree without docstrings and DEFAULTS."""
    tree.body = [node for node in tree.body if not is_defaults(node)]
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return tree


def plain(node):
    """A syntax tree as nested lists. Unlike ast.dump, the result is the same in all versions of Python."""
    if isinstance(node, ast.AST):
        fields = [(name, value) for name, value in ast.iter_fields(node) if value not in (None, [])]
        return [type(node).__name__, *([name, plain(value)] for name, value in fields if name != "kind")]
    return [plain(part) for part in node] if isinstance(node, list) else repr(node)


def files_of(script):
    """The files that the digest of a script covers. `script` is relative to code/."""
    found, waiting = set(), [CODE / script]
    while waiting:
        path = waiting.pop()
        if path not in found and path.is_file():
            found.add(path)
            waiting += filter(None, map(path_of, imported(ast.parse(path.read_bytes()))))
    return sorted(found)


def code_digest(script):
    trees = [plain(compared(ast.parse(path.read_bytes()))) for path in files_of(script)]
    return hashlib.sha256(repr(trees).encode()).hexdigest()[:16]
