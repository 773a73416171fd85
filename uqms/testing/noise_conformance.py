"""Whether a noise model of your own is right: every promise of `uqms.calibration.NoiseModel`, measured.

==========  ======================================================================  ======
symbol      meaning                                                                 shape
==========  ======================================================================  ======
y           outputs, on the scale of the model's link                               (R,)
z           measured values, on the same scale                                      (R,)
nodes       quantiles of draws, and y: ends of intervals on the y axis              (n,)
masses      integral (sum) of the density over each piece                           (n+1,)
==========  ======================================================================  ======

Integrals are those of `scipy.integrate.quad` in pieces; those of counts are sums.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, final

import numpy as np
from scipy import integrate, stats

from uqms._typing import Array
from uqms.calibration.noise import NoiseModel, Rows
from uqms.errors import InputError
from uqms.parameters import Prior
from uqms.parameters.functions import NumPyFunctions
from uqms.testing.prior_conformance import judged
from uqms.testing.surrogates import Conformance

__all__ = ["check_noise"]

DRAWS = 20_000
LEVELS = np.linspace(0.01, 0.99, 15)
SETTINGS = (0.3, 0.7)  # quantiles of the priors of unknown parameters
SD, TRIALS = 0.7, 12.0  # of rows that a model reads
STEPS = (1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6)
MASS, TAIL, SAME, SLOPE, STANDARD_ERRORS = 1e-6, 1e-6, 1e-12, 1e-6, 5.0


def check_noise(model: NoiseModel, outputs: Sequence[float] | None = None) -> Conformance:
    """Check that a noise model of your own does what calibration and simulation rely on.

    Use it in a test of your class, with priors for the parameters: each is tried at two of its quantiles. It finds a
    density without its normalising constant, draws of another distribution, a tail on the wrong side, a density that
    differs between arrays and expressions or has no derivative, and wrong shapes.

    Parameters
    ----------
    model
        An instance of a subclass of `uqms.calibration.NoiseModel`.
    outputs
        Outputs to try, on the scale of the model's link; without them three between the model's limits. Give some where
        noise is of another size than 1.

    Returns
    -------
    Conformance
        `print` it, ask it for `ok`, `failed` or `table`, or let it `raise_failed`. Errors that the model raises are
        failed checks that quote them.

    Raises
    ------
    InputError
        When it is no noise model, or an output is not between its limits.

    Examples
    --------
    >>> import uqms as uq
    >>> uq.testing.check_noise(uq.StudentTNoise(scale=uq.HalfNormal(0.5))).ok
    True
    """
    if not isinstance(model, NoiseModel):
        raise InputError(
            f"check_noise: got {model!r} ({type(model).__name__}); give an instance of a subclass of "
            "uqms.calibration.NoiseModel."
        )
    low, high = model.limits
    y = np.asarray(_between(low, high) if outputs is None else outputs, dtype=np.float64)
    if y.ndim != 1 or len(y) == 0 or not np.all(np.isfinite(y) & (y >= low) & (y <= high)):
        raise InputError(f"check_noise: outputs is {outputs!r}; give finite numbers between {low:g} and {high:g}.")
    probe = _Probe(model, y)
    return Conformance(tuple(judged(*one, probe) for one in CHECKS), "noise model")


def _between(low: float, high: float) -> Array:
    if np.isfinite(low) and np.isfinite(high):
        return low + (high - low) * np.array([0.1, 0.4, 0.85])
    sizes = np.array([0.3, 2.0, 25.0])
    if np.isfinite(low):
        return low + sizes
    return high - sizes if np.isfinite(high) else np.array([-1.3, 0.4, 2.5])


class _Case(NamedTuple):
    """Pieces of the real line at one output and one setting."""

    y: float
    parameters: dict[str, float]
    nodes: Array
    masses: Array  # one more than nodes: with both tails


@final
class _Probe:
    """A noise model with its settings, integrals and draws."""

    def __init__(self, model: NoiseModel, y: Array) -> None:
        self.model, self.y = model, y
        self._cases: list[_Case] | None = None

    def rows(self, z: Any) -> Rows:
        """Rows of measured values, with the columns that the model reads."""
        size, columns = np.shape(z)[-1], self.model.columns
        sd = np.full(size, SD if "sd" in columns else np.nan)
        return Rows(np.asarray(z, dtype=np.float64), sd, np.full(size, TRIALS if "trials" in columns else 0.0))

    @property
    def settings(self) -> list[dict[str, float]]:
        """Values of the parameters to try."""
        return [
            {
                role: float(one.quantile(level)) if isinstance(one, Prior) else float(one)
                for role, one in self.model.parameters.items()
            }
            for level in SETTINGS
        ]

    def log_density(self, z: Any, y: Any, parameters: Mapping[str, Any]) -> Array:
        """Log-density of rows z (R,) given y (..., R)."""
        return np.asarray(self.model.log_density(np.asarray(y), self.rows(z), parameters, NumPyFunctions))

    def density(self, z: float, y: float, parameters: Mapping[str, Any]) -> float:
        """Density of one value."""
        value = float(np.exp(self.log_density([z], [y], parameters)).sum())
        return np.inf if np.isnan(value) else value

    def draw(self, y: Array, parameters: Mapping[str, float], rng: np.random.Generator) -> Array:
        """Draws at y (S, R)."""
        shaped = {role: np.full((len(y), 1), value) for role, value in parameters.items()}
        return np.asarray(self.model.draw(y, self.rows(np.zeros(y.shape[-1])), shaped, rng))

    def sample(self, y: float, parameters: Mapping[str, float], seed: int) -> Array:
        """Many draws (S,) at one output."""
        return self.draw(np.full((DRAWS, 1), y), parameters, np.random.default_rng(seed))[:, 0]

    @property
    def by_row(self) -> bool:
        """Whether the density is one a row."""
        z = self.sample(float(self.y[0]), self.settings[0], 1)[:3]
        return self.log_density(z, np.full(3, self.y[0]), self.settings[0]).shape == (3,)

    def values(self) -> tuple[Array, Array]:
        """Return some outputs and measured values, both (R,)."""
        y = np.repeat(self.y, 4)
        return y, self.draw(y[None], self.settings[0], np.random.default_rng(2))[0]

    @property
    def cases(self) -> list[_Case]:
        """Outputs and settings, with the mass of every piece."""
        if self._cases is None:
            self._cases = [self._case(float(y), one) for y in self.y for one in self.settings]
        return self._cases

    def _case(self, y: float, parameters: dict[str, float]) -> _Case:
        drawn = self.sample(y, parameters, 1)
        if self.model.counts:
            nodes = np.unique(np.round(np.quantile(drawn, LEVELS)))
            z = np.arange(10.0 * drawn.max() + 100.0)
            if self.by_row:
                each = np.exp(self.log_density(z, np.full(len(z), y), parameters))
            else:
                each = np.array([self.density(one, y, parameters) for one in z])
            place = np.searchsorted(nodes, z, side="left")  # a piece holds its upper end
            return _Case(y, parameters, nodes, np.bincount(place, each, minlength=len(nodes) + 1))
        nodes = np.unique([*np.quantile(drawn, LEVELS), y])
        first, last = nodes[1] - nodes[0], nodes[-1] - nodes[-2]

        def at(z: float) -> float:
            return self.density(z, y, parameters)

        below = integrate.quad(lambda t: first * at(nodes[0] - first * t), 0.0, np.inf, limit=200)[0]
        above = integrate.quad(lambda t: last * at(nodes[-1] + last * t), 0.0, np.inf, limit=200)[0]
        inner = [
            integrate.quad(at, a, b, epsabs=1e-10, epsrel=1e-10, limit=100)[0]
            for a, b in zip(nodes, nodes[1:], strict=False)
        ]
        return _Case(y, parameters, nodes, np.array([below, *inner, above]))


def _parameters(probe: _Probe) -> float:
    given = probe.model.parameters
    wrong = [not isinstance(one, Prior | int | float | np.integer | np.floating) for one in given.values()]
    unknown = set(probe.model.scaled) - set(given)
    return float(sum(wrong) + len(unknown) + len(set(probe.model.columns) - {"sd", "trials"}))


def _shapes(probe: _Probe) -> float:
    rng, wrong = np.random.default_rng(0), 0
    y = np.tile(probe.y, (4, 1))
    one = probe.settings[0]
    z = probe.draw(y, one, rng)
    wrong += z.shape != y.shape
    shaped = {role: np.full((4, 1), value) for role, value in one.items()}
    found = probe.log_density(z[0], y, shaped)
    wrong += found.shape not in (y.shape, y.shape[:1])
    flat = {role: np.full(1, value) for role, value in one.items()}
    wrong += probe.log_density(z[0], y[0], flat).shape not in (y.shape[1:], ())
    if probe.model.broadcasts:
        together = probe.log_density(z, y, shaped)
        apart = np.stack([probe.log_density(z[s], y[s], flat) for s in range(4)])
        wrong += together.shape != apart.shape or not np.allclose(together, apart, rtol=1e-10, atol=1e-10)
    return float(wrong)


def _mass(probe: _Probe) -> float:
    return float(max(abs(case.masses.sum() - 1.0) for case in probe.cases))


def _draws(probe: _Probe) -> float:
    worst = 0.0
    for k, case in enumerate(probe.cases):
        drawn = probe.sample(case.y, case.parameters, 10 + k)
        if not np.isfinite(drawn).all() or (probe.model.counts and np.any((drawn < 0) | (drawn != np.round(drawn)))):
            return np.inf
        found = np.bincount(np.searchsorted(case.nodes, drawn, side="left"), minlength=len(case.masses))
        share = case.masses / case.masses.sum()  # the constant is another check's
        # One count more keeps pieces of nearly no mass from saying anything.
        error = np.sqrt(DRAWS * share * (1.0 - share) + 1.0)
        worst = max(worst, float(np.max(np.abs(found - DRAWS * share) / error)))
    return worst


def _independent(probe: _Probe) -> float:
    if not probe.by_row:
        return 0.0
    drawn = probe.draw(np.full((DRAWS, 2), probe.y[0]), probe.settings[0], np.random.default_rng(3))
    if np.ptp(drawn, axis=0).min() == 0.0:
        return np.inf
    return float(abs(stats.spearmanr(drawn[:, 0], drawn[:, 1]).statistic) * np.sqrt(DRAWS))


def _tails(probe: _Probe) -> float:
    tail = getattr(probe.model, "log_tail", None)
    if tail is None:
        return 0.0
    worst = 0.0
    for case in probe.cases:
        below, above = np.cumsum(case.masses)[:-1], np.cumsum(case.masses[::-1])[-2::-1]
        y, rows = np.full(len(case.nodes), case.y), probe.rows(case.nodes)
        for side, wanted in ((1, below), (-1, above)):
            sides = np.full(len(y), side)
            found = np.exp(np.asarray(tail(y, rows, case.parameters, sides, NumPyFunctions)))
            worst = max(worst, float(np.max(np.abs(found - wanted))))
    return worst if np.isfinite(worst) else np.inf


def _gaussian(probe: _Probe) -> float:
    model = probe.model
    if not model.gaussian:
        return 0.0
    y, z = probe.values()
    worst = 0.0
    for one in probe.settings:
        sd: Any = one["sigma"] * (SD if "sd" in model.columns else 1.0)
        if model.growth is not None:
            sd = np.hypot(sd, one[model.growth.factor] * np.abs(y) ** one[model.growth.power])
        wanted = stats.norm.logpdf(z, y, sd)
        worst = max(worst, float(np.max(np.abs(probe.log_density(z, y, one) - wanted) / (1.0 + np.abs(wanted)))))
    return worst


def _limits(probe: _Probe) -> float:
    low, high = probe.model.limits
    _, z = probe.values()
    worst = 0
    for outside in (low - 0.5, high + 0.5):
        if np.isfinite(outside):
            y = np.full(len(z), outside)
            worst += not np.all(np.isneginf(probe.log_density(z, y, probe.settings[0])))
            worst += bool(np.any(probe.model.possible(y)))
    return float(worst)


def _function(probe: _Probe, slopes: bool) -> tuple[Any, Array, Array]:
    """Return the compiled density of y (R,) and parameters (P,), with its slopes, and y and z."""
    import pytensor
    import pytensor.tensor as pt

    from uqms.calibration.bridge import PyTensorFunctions

    y, z = probe.values()
    at, theta = pt.dvector("y"), pt.dvector("theta")
    measured = pt.constant(z)  # values are expressions too, for which == is no comparison of numbers
    parameters = {role: theta[i, None] for i, role in enumerate(probe.model.parameters)}
    value = probe.model.log_density(at, probe.rows(z)._replace(z=measured), parameters, PyTensorFunctions)
    outputs = [value]
    if slopes:
        outputs += pytensor.grad(value.sum(), [at, theta], disconnected_inputs="ignore")
    with pytensor.config.change_flags(mode="FAST_COMPILE"):
        return pytensor.function([at, theta], outputs, on_unused_input="ignore"), y, z


def _same(probe: _Probe) -> float:
    function, y, z = _function(probe, slopes=False)
    worst = 0.0
    for one in probe.settings:
        wanted = probe.log_density(z, y, {role: np.full(1, value) for role, value in one.items()})
        (found,) = function(y, np.array(list(one.values())))
        if np.shape(found) != wanted.shape:
            return np.inf
        off = np.abs(found - wanted) / (1.0 + np.abs(wanted))
        worst = max(worst, float(np.max(np.where(found == wanted, 0.0, np.nan_to_num(off, nan=np.inf)))))
    return worst


def _slope(probe: _Probe) -> float:
    function, y, _ = _function(probe, slopes=True)
    unknown = [isinstance(one, Prior) for one in probe.model.parameters.values()]
    worst = 0.0
    for one in probe.settings:
        theta = np.array(list(one.values()))
        value, by_y, by_theta = function(y, theta)
        by_y = np.asarray(by_y)
        size = 1.0 + np.abs(np.sum(value)) / len(y)
        columns = [(by_y[i], np.eye(len(y))[i], np.zeros(len(theta))) for i in range(len(y))]
        columns += [(by_theta[i], np.zeros(len(y)), np.eye(len(theta))[i]) for i in np.flatnonzero(unknown)]
        for slope, move, turn in columns:
            ends = [
                (np.sum(function(y + h * move, theta + h * turn)[0] - function(y - h * move, theta - h * turn)[0]), h)
                for h in STEPS
            ]
            off = [abs(slope - rise / (2.0 * h)) / (size + abs(slope)) for rise, h in ends]
            worst = max(worst, float(np.min(np.nan_to_num(off, nan=np.inf))))
    return worst


CHECKS: tuple[tuple[str, float, str, Callable[[_Probe], float]], ...] = (
    (
        "parameters are numbers or priors",
        0.0,
        "parameters maps roles to numbers or priors; scaled names some of them; columns names 'sd' and 'trials' only.",
        _parameters,
    ),
    (
        "shapes",
        0.0,
        "log_density returns (..., R), or (...) for rows that depend on each other, and draw the shape of y. If it "
        "takes measured values (R,) only, set broadcasts = False.",
        _shapes,
    ),
    (
        "the density integrates to one",
        MASS,
        "Its parameters are inferred wrongly, and models cannot be compared: add the constant to log_density, and "
        "set counts = True for whole numbers.",
        _mass,
    ),
    (
        "draws follow the density",
        STANDARD_ERRORS,
        "Simulated data and predictions have another distribution than what is inferred. Is a variance, or a rate, "
        "used in the place of a standard deviation, or a scale?",
        _draws,
    ),
    (
        "draws of rows are independent",
        STANDARD_ERRORS,
        "The density is one a row, so draw needs new random numbers for every row: size=y.shape.",
        _independent,
    ),
    (
        "tail probabilities are integrals of the density",
        TAIL,
        "log_tail is the log-probability of a value below z for side 1, above z for side -1.",
        _tails,
    ),
    (
        "Gaussian noise is normal with its sd",
        SAME * 100,
        "gaussian = True means that noise is normal with the standard deviation 'sigma'. Leave it out for other noise.",
        _gaussian,
    ),
    (
        "outputs beyond the limits are impossible",
        0.0,
        "The density has to be -inf there, and possible False: xp.where(y >= low, ..., -np.inf).",
        _limits,
    ),
    (
        "expressions equal arrays",
        SAME,
        "log_density has to use the functions of xp for everything that depends on y, rows.z or the parameters. All "
        "three may be expressions, of which == is always False: write xp.where(rows.z > 0.0, ..., ...).",
        _same,
    ),
    (
        "the derivative is that of the density",
        SLOPE,
        "NUTS follows the derivative by y and the unknown parameters: use the functions of xp, and nothing that steps.",
        _slope,
    ),
)
