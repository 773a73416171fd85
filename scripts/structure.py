"""Print the structure of the package as tables: lines, import circles, branching on types, names that leak.

    python scripts/structure.py                  # the working tree
    python scripts/structure.py --files          # a row a file too
    python scripts/structure.py --against main   # before and after, "before" being a revision

A Gaussian likelihood takes a log-determinant beside residuals: functions of `calibration` that do are told by name,
since copies of it are among them. A built-in kernel, noise, prior or sampler is known to the files that use its name:
it is written in one of them, and the others may have to change with it.

A room is a folder or a file of `uqms`, as in docs/architecture.md. Code lines have neither blank lines nor comments nor
docstrings. Only the standard library is needed.
"""

import argparse
import ast
import io
import re
import subprocess
import sys
import tarfile
import tokenize
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

PACKAGE = "uqms"
TOP, TYPES, INSIDE = "top-level", "type-only", "in functions"
LAYOUT = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER,
    tokenize.ENCODING,
}  # fmt: skip
PATTERNS = {
    "uses of is_exact(...)": r"(?<!def )\bis_exact\(",
    "comparisons of .form": r"\.form (?:==|!=|in|not in) ",
    "hasattr(problem, ...)": r"\bhasattr\((?:self\.)?problem\b",
    "problem: Any": r"\bproblem: Any\b",
}


LOG_DETERMINANT, RESIDUALS = re.compile(r"log_?det"), {"residual", "zbar", "cell_mean", "squares"}
STARTS = ("uqms.calibration.single:SingleCalibration.__init__", "uqms.calibration.problem:Calibration.__init__")
BUILT_IN = {"kernel": "Matern32", "noise": "StudentTNoise", "prior": "Gamma", "sampler": "Metropolis"}


@dataclass(frozen=True)
class Import:
    """One module that a file imports, and where: at the top, for type checkers only, or inside of a function."""

    module: str
    names: tuple[str, ...]
    kind: str


class File:
    """One Python file, parsed."""

    def __init__(self, path: str, source: str) -> None:
        self.path, self.source = path, source
        self.tree = ast.parse(source)
        parts = PurePosixPath(path).with_suffix("").parts
        self.is_package = parts[-1] == "__init__"
        self.module = ".".join(parts[:-1] if self.is_package else parts)

    @property
    def package(self) -> str:
        """Package that holds the file."""
        return self.module if self.is_package else self.module.rpartition(".")[0]

    @property
    def room(self) -> str:
        """Top-level folder or file."""
        parts = self.module.split(".")
        return parts[1] if len(parts) > 1 else f"{PACKAGE} itself"

    @property
    def lines(self) -> int:
        """Number of all lines."""
        return len(self.source.splitlines())

    @cached_property
    def code(self) -> set[int]:
        """Numbers of the lines that hold code."""
        held: set[int] = set()
        for token in tokenize.generate_tokens(io.StringIO(self.source).readline):
            if token.type not in LAYOUT:
                held.update(range(token.start[0], token.end[0] + 1))
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
                first = node.body[0]
                if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                    if isinstance(first.value.value, str):
                        held.difference_update(range(first.lineno, (first.end_lineno or first.lineno) + 1))
        return held

    @cached_property
    def text(self) -> str:
        """The code lines alone, without comments at their ends."""
        lines = self.source.splitlines()
        for token in tokenize.generate_tokens(io.StringIO(self.source).readline):
            if token.type == tokenize.COMMENT:
                row, column = token.start
                lines[row - 1] = lines[row - 1][:column]
        return "\n".join(lines[row - 1] for row in sorted(self.code))

    @cached_property
    def imports(self) -> list[Import]:
        """What it imports, everywhere."""
        return list(self._imports(self.tree.body, TOP))

    def _imports(self, body: Iterable[ast.AST], kind: str) -> Iterator[Import]:
        for node in body:
            if isinstance(node, ast.Import):
                yield from (Import(alias.name, (), kind) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield Import(self._absolute(node), tuple(alias.name for alias in node.names), kind)
            elif isinstance(node, ast.If) and _is_type_checking(node.test):
                yield from self._imports(node.body, TYPES)
                yield from self._imports(node.orelse, kind)
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                yield from self._imports(ast.iter_child_nodes(node), INSIDE)
            else:
                yield from self._imports(ast.iter_child_nodes(node), kind)

    def _absolute(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = self.package.split(".")
        base = parts[: len(parts) - node.level + 1]
        return ".".join([*base, *([node.module] if node.module else [])])


def _is_type_checking(test: ast.AST) -> bool:
    name = test.attr if isinstance(test, ast.Attribute) else test.id if isinstance(test, ast.Name) else ""
    return name == "TYPE_CHECKING"


def _tests_surrogates(node: ast.AST) -> bool:
    """Return whether this is isinstance(..., a class named like a surrogate)."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance"):
        return False
    return len(node.args) == 2 and "Surrogate" in ast.unparse(node.args[1])


def _names(tree: ast.AST) -> set[str]:
    """Return every name that code defines, imports or reads; not what strings say."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute):
            found.add(node.id if isinstance(node, ast.Name) else node.attr)
        elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.alias):
            found.add(node.name)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
    return found


def _is_density_of_data(function: ast.FunctionDef) -> bool:
    """Return whether there is a log-determinant, by name or as logarithm of a diagonal, beside a name for residuals."""
    names = _names(function)
    calls = (node for node in ast.walk(function) if isinstance(node, ast.Call) and node.args)
    logs = (node for node in calls if ast.unparse(node.func).rpartition(".")[2] == "log")
    found = any(map(LOG_DETERMINANT.search, names)) or any("diag" in ast.unparse(node.args[0]) for node in logs)
    return found and bool(names & RESIDUALS)


class Structure:
    """What is counted of all files of a tree."""

    def __init__(self, sources: Mapping[str, str]) -> None:
        self.files = [File(path, source) for path, source in sorted(sources.items())]
        self.by_module = {file.module: file for file in self.files}

    @property
    def rooms(self) -> list[str]:
        """Names of all rooms."""
        return sorted({file.room for file in self.files})

    def sizes(self, room: str) -> tuple[int, int, int]:
        """Return files, lines and code lines of a room."""
        own = [file for file in self.files if file.room == room]
        return len(own), sum(file.lines for file in own), sum(len(file.code) for file in own)

    def targets(self, file: File, kinds: Sequence[str]) -> set[str]:
        """Return the modules of this tree that a file imports in the given ways."""
        found = set()
        for one in file.imports:
            if one.kind not in kinds:
                continue
            modules = [f"{one.module}.{name}" for name in one.names]
            inner = [module for module in modules if module in self.by_module]
            found.update(inner)
            if len(inner) < len(modules) or not modules:
                found.add(one.module)
        return (found & set(self.by_module)) - {file.module}

    def circles(self, room: str, kinds: Sequence[str]) -> list[list[str]]:
        """Return the groups of files of a room that import each other, the largest first."""
        inside = {file.module for file in self.files if file.room == room}
        graph = {module: self.targets(self.by_module[module], kinds) & inside for module in sorted(inside)}
        groups = [sorted(group) for group in strongly_connected(graph) if len(group) > 1]
        return sorted(groups, key=lambda group: (-len(group), group))

    @cached_property
    def operations(self) -> list[str]:
        """Names of the PyTensor operations: classes that descend from `Op`."""
        bases = {}
        for node in self._nodes:
            if isinstance(node, ast.ClassDef):
                bases[node.name] = [ast.unparse(base).rpartition(".")[2] for base in node.bases]
        found: set[str] = set()
        while new := {name for name, of in bases.items() if name not in found and {"Op", *found} & set(of)}:
            found |= new
        return sorted(found)

    @cached_property
    def counts(self) -> dict[str, int]:
        """Numbers of what should become few."""
        text = "\n".join(file.text for file in self.files)
        found = {name: len(re.findall(pattern, text)) for name, pattern in PATTERNS.items()}
        return {
            "PyTensor Op classes": len(self.operations),
            "isinstance(..., ...Surrogate)": sum(map(_tests_surrogates, self._nodes)),
            **found,
            "underscore names imported across packages": len(self.leaks),
            "file names used more than once": len(self.duplicates),
        }

    @cached_property
    def densities(self) -> list[str]:
        """Functions of `calibration` that take a log-determinant of residuals: what may be a likelihood of the data."""
        return [
            f"{file.module.partition('calibration.')[2]}.{node.name}"
            for file in self.files
            if file.room == "calibration"
            for node in ast.walk(file.tree)
            if isinstance(node, ast.FunctionDef) and _is_density_of_data(node)
        ]

    def users(self, name: str) -> list[str]:
        """Return the names of the files whose code has a name; what a package only passes on does not count."""
        return [file.module for file in self.files if not file.is_package and name in _names(file.tree)]

    @property
    def _nodes(self) -> Iterator[ast.AST]:
        return (node for file in self.files for node in ast.walk(file.tree))

    @cached_property
    def leaks(self) -> list[str]:
        """Names with an underscore that a file imports from a package which it is not in."""
        found = []
        for file in self.files:
            for one in file.imports:
                if one.module.split(".")[0] != PACKAGE:
                    continue
                for module, name in self._owned(one):
                    owner = module
                    if not (file.package == owner or file.package.startswith(f"{owner}.")):
                        found.append(f"{file.path}: {module}.{name}")
        return found

    def _owned(self, one: Import) -> Iterator[tuple[str, str]]:
        """Yield the package that owns an underscore name, and the name."""
        parts = one.module.split(".")
        private = [i for i, part in enumerate(parts) if part.startswith("_")]
        if private:  # a private module, or something in it
            yield ".".join(parts[: private[0]]), ".".join([*parts[private[0] :], ",".join(one.names)])
            return
        file = self.by_module.get(one.module)
        owner = one.module if file is None or file.is_package else one.module.rpartition(".")[0]
        for name in one.names:
            if name.startswith("_") and not name.startswith("__"):
                yield owner, name

    @cached_property
    def duplicates(self) -> dict[str, list[str]]:
        """Paths by file name, of names that several files have."""
        names = defaultdict(list)
        for file in self.files:
            name = PurePosixPath(file.path).name
            if not name.startswith("__"):
                names[name].append(file.path)
        return {name: paths for name, paths in sorted(names.items()) if len(paths) > 1}


def strongly_connected(graph: Mapping[str, set[str]]) -> list[set[str]]:
    """Return the strongly connected components of a graph (Tarjan 1972, doi:10.1137/0201010), without recursion."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    on_stack: set[str] = set()
    found: list[set[str]] = []
    for root in graph:
        if root in index:
            continue
        work = [(root, iter(sorted(graph[root])))]
        index[root] = low[root] = len(index)
        stack.append(root)
        on_stack.add(root)
        while work:
            node, children = work[-1]
            child = next(children, None)
            if child is None:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    group = set()
                    while node not in group:
                        last = stack.pop()
                        on_stack.discard(last)
                        group.add(last)
                    found.append(group)
            elif child not in index:
                index[child] = low[child] = len(index)
                stack.append(child)
                on_stack.add(child)
                work.append((child, iter(sorted(graph[child]))))
            elif child in on_stack:
                low[node] = min(low[node], index[child])
    return found


# ---------------------------------------------------------------------------------------------------------------- path
class Walk:
    """The way of one argument through a tree: the functions that it is passed to, in the order of the code.

    What is computed of it, or keeps it, goes on under its name; so do attributes of `self` that hold it, in all methods
    of the class. A call is followed where its function is known by name: one of the same file, one that the file
    imports, or a method of `self`. Each function is entered once. Files are noted as functions are entered, not when
    they return.
    """

    def __init__(self, tree: Structure) -> None:
        self.tree = tree
        self.functions: dict[tuple[str, str], tuple[ast.FunctionDef, ast.ClassDef | None]] = {}
        for file in tree.files:
            for node in file.tree.body:
                if isinstance(node, ast.FunctionDef):
                    self.functions[file.module, node.name] = node, None
                elif isinstance(node, ast.ClassDef):
                    for one in node.body:
                        if isinstance(one, ast.FunctionDef):
                            self.functions[file.module, f"{node.name}.{one.name}"] = one, node
        self.held: set[tuple[str, str, str]] = set()  # module, class and attribute that hold it
        self.entered: set[tuple[str, str]] = set()
        self.stays: list[str] = []

    def from_(self, start: str, parameter: str) -> list[str]:
        """Return the files, one for each stay, from "module:function" on."""
        module, _, name = start.partition(":")
        self._enter(module, name, {parameter})
        return self.stays

    def _enter(self, module: str, name: str, known: set[str]) -> None:
        if (module, name) in self.entered:
            return
        self.entered.add((module, name))
        function, owner = self.functions[module, name]
        self._stay(module)
        known = set(known)
        for statement in _in_order(function.body):
            for call in (node for node in ast.walk(statement) if isinstance(node, ast.Call)):
                self._follow(module, owner, call, known)
            if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None:
                if self._has(module, owner, statement.value, known):
                    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
                    self._keep(module, owner, targets, known)

    def _stay(self, module: str) -> None:
        if not self.stays or self.stays[-1] != module:
            self.stays.append(module)

    def _keep(self, module: str, owner: ast.ClassDef | None, targets: Iterable[ast.AST], known: set[str]) -> None:
        for target in (node for one in targets for node in ast.walk(one)):
            if isinstance(target, ast.Name) and target.id != "self":
                known.add(target.id)
            elif (name := _own(target)) and owner is not None:
                self.held.add((module, owner.name, name))

    def _has(self, module: str, owner: ast.ClassDef | None, node: ast.AST, known: set[str]) -> bool:
        """Return whether an expression contains it."""
        for one in ast.walk(node):
            if isinstance(one, ast.Name) and one.id in known:
                return True
            if owner is not None and (module, owner.name, _own(one)) in self.held:
                return True
        return False

    def _follow(self, module: str, owner: ast.ClassDef | None, call: ast.Call, known: set[str]) -> None:
        own = _own(call.func) if owner is not None else ""
        of_class = (module, owner.name) if owner is not None else ()
        if own and owner is not None:
            target = module, f"{owner.name}.{own}"
        elif isinstance(call.func, ast.Name):
            target = self._imported(module, call.func.id)
        else:
            return
        if target not in self.functions:
            return
        names = [one.arg for one in (*self.functions[target][0].args.posonlyargs, *self.functions[target][0].args.args)]
        names = names[1:] if own else names
        given = list(zip(names, call.args, strict=False)) + [(one.arg, one.value) for one in call.keywords if one.arg]
        taken = {name for name, value in given if self._has(module, owner, value, known)}
        if taken or (own and any(key[:2] == of_class for key in self.held)):
            self._enter(*target, taken)

    def _imported(self, module: str, name: str) -> tuple[str, str]:
        for one in self.tree.by_module[module].imports:
            if name in one.names:
                return one.module, name
        return module, name


def _own(node: ast.AST) -> str:
    """Return the name of an attribute of `self`, "" of anything else."""
    own = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    return node.attr if own and isinstance(node, ast.Attribute) else ""


def _in_order(body: Iterable[ast.stmt]) -> Iterator[ast.AST]:
    """Yield statements without a body, and the heads of those that have one, in the order of the code."""
    for node in body:
        inner = [part for name in ("body", "orelse", "finalbody") for part in getattr(node, name, [])]
        if not inner:
            yield node
            continue
        for name, value in ast.iter_fields(node):
            if name in ("test", "iter", "value") and isinstance(value, ast.AST):
                yield value
            elif name == "items":
                yield from (one.context_expr for one in value)
        yield from _in_order(inner)


# ------------------------------------------------------------------------------------------------------------- reading
def working_tree(root: Path) -> dict[str, str]:
    """Return the sources of the package below a folder, by path."""
    return {
        path.relative_to(root).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted((root / PACKAGE).rglob("*.py"))
    }


def at_revision(root: Path, revision: str) -> dict[str, str]:
    """Return the sources of the package at a git revision, by path."""
    done = subprocess.run(
        ["git", "archive", "--format=tar", revision, PACKAGE], cwd=root, capture_output=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"git archive {revision}: {done.stderr.decode().strip()}")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        members = [member for member in archive.getmembers() if member.isfile() and member.name.endswith(".py")]
        return {member.name: archive.extractfile(member).read().decode("utf-8") for member in members}  # type: ignore[union-attr]


# ------------------------------------------------------------------------------------------------------------ printing
def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return rows as text, the first column to the left and the others to the right."""
    cells = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    ]
    return "\n".join(line.rstrip() for line in (lines[0], "  ".join("-" * width for width in widths), *lines[1:]))


def circle_sizes(groups: Sequence[Sequence[str]]) -> str:
    """Return "17 + 2" for a circle of 17 files and one of 2, "0" for none."""
    return " + ".join(str(len(group)) for group in groups) or "0"


def report(trees: Sequence[Structure], files: bool = False) -> str:
    """Return all tables; of two trees the first is before and the second after."""
    ends = [""] if len(trees) == 1 else [" before", " after"]

    def head(*names: str) -> list[str]:
        return [f"{name}{end}" for name in names for end in ends]

    def of_each(values: Sequence[Sequence[object]]) -> list[object]:
        return [one for column in zip(*values, strict=True) for one in column]

    rooms = sorted({room for tree in trees for room in tree.rooms})
    rows = [[room, *of_each([tree.sizes(room) for tree in trees])] for room in rooms]
    sums = [tuple(sum(tree.sizes(room)[i] for room in rooms) for i in range(3)) for tree in trees]
    rows.append(["all", *of_each(sums)])
    parts = [table(["room", *head("files", "lines", "code")], rows)]
    if files:
        sizes = [{file.path: (file.lines, len(file.code)) for file in tree.files} for tree in trees]
        paths = sorted({path for one in sizes for path in one})
        rows = [[path, *of_each([one.get(path, ("-", "-")) for one in sizes])] for path in paths]
        parts.append(table(["file", *head("lines", "code")], rows))
    ways = ((TOP,), (TOP, INSIDE), (TOP, TYPES), (TOP, INSIDE, TYPES))
    names = ("top-level", "+ in functions", "+ type-only", "+ both")
    rows = [
        [room, *of_each([[circle_sizes(tree.circles(room, way)) for way in ways] for tree in trees])]
        for room in rooms
        if any(tree.circles(room, ways[-1]) for tree in trees)
    ]
    parts.append("Files in import circles, by the imports that count\n" + table(["room", *head(*names)], rows))
    rows = [[name, *of_each([[tree.counts[name]] for tree in trees])] for name in trees[0].counts]
    parts.append(table(["to become few", *head("count")], rows))
    rows = [
        [f"built-in {kind}: {name}", *of_each([[len(tree.users(name))] for tree in trees])]
        for kind, name in BUILT_IN.items()
    ]
    parts.append(table(["known to or written in", *head("files")], rows))
    for tree, end in zip(trees, ends, strict=True):
        title = f"Log-determinants beside residuals{end}: {len(tree.densities)}"
        parts.append("\n".join([title, *(f"  {name}" for name in tree.densities)]))
    for tree, end in zip(trees, ends, strict=True):
        walk = Walk(tree)
        start = next((one for one in STARTS if tuple(one.split(":")) in walk.functions), None)
        if start is not None:
            stays = walk.from_(start, "surrogate")
            visits = Counter(stays).most_common()
            often = ", ".join(f"{module.removeprefix('uqms.')} {n} times" for module, n in visits[:4])
            parts.append(
                f"The surrogate's way from {start.partition(':')[2]}{end}: {len(stays)} stays in {len(visits)} files, "
                f"{len(stays) - len(visits)} returns; {often}"
            )
    last = trees[-1]
    details = [f"Op classes: {', '.join(last.operations)}"]
    details += [f"{name}: {', '.join(paths)}" for name, paths in last.duplicates.items()]
    owners = Counter(one.partition(": ")[2].rpartition(".")[0] for one in last.leaks)
    details += [f"{name}: {', '.join(last.users(name))}" for name in BUILT_IN.values()]
    details += [f"{count} x {owner}" for owner, count in owners.most_common()] if files else []
    details += last.leaks if files else []
    parts.append("\n".join(details))
    return "\n\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", action="store_true", help="a row a file, and every name that leaks")
    parser.add_argument("--against", metavar="REVISION", help="print a git revision before the working tree")
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parent.parent, help="of the project")
    given = parser.parse_args(arguments)
    trees = [Structure(working_tree(given.root))]
    if given.against:
        trees.insert(0, Structure(at_revision(given.root, given.against)))
    print(report(trees, given.files))
    return 0


if __name__ == "__main__":
    sys.exit(main())
