"""Densities and gradients of a problem at given points, through the public interface alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytensor

VALUES = Path(__file__).parent / "values.json"


def log_likelihood(problem: Any, point: Mapping[str, Any]) -> float:
    """Return log p(observations | theta, latents) at a stored point."""
    latents = point.get("latents")
    return float(problem.log_likelihood(point["theta"], None if latents is None else np.array(latents)))


class Target:
    """Log-density of the PyMC model of a problem, and its gradient, where its variables are unconstrained."""

    def __init__(self, problem: Any) -> None:
        with pytensor.config.change_flags(mode="FAST_COMPILE"):  # a graph that is evaluated a few times
            model = problem.model()
            self.names = [variable.name for variable in model.value_vars]
            self.start = model.initial_point()
            density = model.logp()
            self.smooth = bool(getattr(getattr(problem, "surrogate", None), "differentiable", True))
            slopes = pytensor.grad(density, model.value_vars) if self.smooth else []
            self._function = pytensor.function(model.value_vars, [density, *slopes], on_unused_input="ignore")

    def __call__(self, point: Mapping[str, Any]) -> tuple[float, dict[str, np.ndarray]]:
        """Return the log-density, and the gradient by the name of the variable's value."""
        value, *slopes = self._function(*(np.asarray(point[name], dtype=float) for name in self.names))
        return float(value), dict(zip(self.names, slopes, strict=False))
