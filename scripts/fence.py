"""The contract type `fence` for import-linter: who may import a room or a package, also while some rooms do not exist.

It is import-linter's own `protected` contract (only the `allowed_importers` may import the `protected_modules`), with
names that are not there left out: a room that nobody has written yet, a package that nobody imports. Together with the
layers, which keep lower rooms from reaching what is above them, a check of direct imports is enough.
"""

from typing import Any

from grimp import ImportGraph
from importlinter import ContractCheck
from importlinter.contracts.protected import ProtectedContract


class Fence(ProtectedContract):
    """A `protected` contract that copes with modules that do not exist."""

    type_name = "fence"

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        """Check the modules that exist."""

        def existing(expressions: list[Any]) -> list[Any]:
            return [each for each in expressions if each.expression in graph.modules]

        self.protected_modules = existing(self.protected_modules)
        self.allowed_importers = existing(self.allowed_importers)
        return super().check(graph, verbose)
