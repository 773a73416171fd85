"""Small members of chains, with hyperparameters that are given, and the graphs that they form."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import xarray as xr

import uqms as uq
from uqms._typing import Array
from uqms.parameters import Box
from uqms.surrogates import GaussianProcessSurrogate, Layout, Matern52
from uqms.surrogates.outputs import OutputBasis
from uqms.surrogates.process import ScoreProcess, average, condition, local_size
from uqms.surrogates.sampled_chain import SampledChain
from uqms.surrogates.training import Hyperparameters
from uqms.surrogates.transforms import IDENTITY, Transform

TIMES = np.linspace(0.0, 1.0, 5)
LONG, FAR = 1e9, 1e13  # of the unit cube: an error that does not change, and a run so far away that it says nothing


def given(x: Array, y: Array, *, ell: float, variance: float, draws: int = 1) -> ScoreProcess:
    """Return processes of scores y (n, q) at x (n, d), whose length scales differ between draws."""
    n, d = x.shape
    each = []
    for h in range(draws):
        one = Hyperparameters(np.full(d, ell * (1.0 + 0.2 * h)), 0.0, 1e-10, 0.0, 1, False)
        each.append(condition(Matern52(), x, y, 1, [one] * y.shape[1], [variance * (1.0 + 0.3 * h)] * y.shape[1]))
    return average(each)


def space_of(box: Box, conditions: tuple[str, ...] = (), units: Mapping[str, str] | None = None) -> uq.ParameterSpace:
    """Return uniform priors over a box, and conditions."""
    units, priors, known = units or {}, {}, {}
    for name, low, high, scale in zip(box.names, box.lower, box.upper, box.scale, strict=True):
        unit = units.get(name, "")
        if name in conditions:
            known[name] = uq.Condition(low, high, unit=unit)
        else:
            priors[name] = (uq.LogUniform if scale == "log" else uq.Uniform)(low, high, unit=unit)
    return uq.ParameterSpace(conditions=known, **priors)


def member(
    box: Mapping[str, tuple[float, float]],
    outputs: Mapping[str, Callable[..., Array]],
    *,
    log: tuple[str, ...] = (),
    transforms: Mapping[str, Transform] | None = None,
    conditions: tuple[str, ...] = (),
    units: Mapping[str, str] | None = None,
    n: int = 10,
    draws: int = 1,
    ell: float = 0.8,
    variance: float = 0.3,
    seed: int = 1,
) -> GaussianProcessSurrogate:
    """Return a surrogate of functions of the inputs' columns: numbers, and curves (n, 5) over "t" with a truncation."""
    names = tuple(box)
    lower, upper = zip(*box.values(), strict=True)
    scale = tuple("log" if name in log else "identity" for name in names)
    domain = Box(names, lower, upper, scale, ((True, True),) * len(names))
    u = np.random.default_rng(seed).random((n, len(names)))
    x, transforms, units = domain.from_unit(u), transforms or {}, units or {}
    bases, scores = [], []
    for name, function in outputs.items():
        transform = transforms.get(name, IDENTITY)
        y = transform.forward(np.asarray(function(*x.T)))
        if y.ndim == 1:
            offset, spread = y.mean(), y.std()
            layout = Layout(unit=units.get(name, ""), transform=transform)
            parts = np.array([offset]), np.array([[spread]]), np.zeros((1, 0)), np.zeros(0), np.zeros((n, 0))
            bases.append(OutputBasis(name, layout, *parts))
            scores.append((y - offset)[:, None] / spread)
            continue
        offset = y.mean(axis=0)
        left, sizes, right = np.linalg.svd(y - offset, full_matrices=False)
        root = np.sqrt(n)
        basis = np.ascontiguousarray((right[:2] * sizes[:2, None] / root).T)
        truncation = 0.05 * np.linspace(1.0, 0.5, 5)[:, None]
        layout = Layout(("t",), {"t": TIMES}, transform=transform)
        bases.append(OutputBasis(name, layout, offset, basis, truncation, np.zeros(4), np.zeros((n, 1))))
        scores.append(left[:, :2] * root)
    process = given(u, np.hstack(scores), ell=ell, variance=variance, draws=draws)
    space = space_of(domain, conditions, units)
    return GaussianProcessSurrogate(domain, process, tuple(bases), {"space": space.to_json()})


def linear(
    box: Mapping[str, tuple[float, float]],
    output: str,
    slopes: Mapping[str, float],
    sd: float,
    *,
    ell: Mapping[str, float] | None = None,
    conditions: tuple[str, ...] = (),
) -> GaussianProcessSurrogate:
    """Return sum of slopes * inputs + error, of fixed sd; it changes along the inputs that have a length scale only."""
    names = tuple(box)
    lower, upper = (np.array(one) for one in zip(*box.values(), strict=True))
    slope, ell = np.array([slopes.get(name, 0.0) for name in names]), ell or {}
    domain = Box(names, tuple(lower), tuple(upper), ("identity",) * len(names), ((True, True),) * len(names))
    process = ScoreProcess(
        kernel=Matern52(),
        x=np.full((1, len(names)), FAR),
        y=np.zeros((1, 1)),
        ell=np.array([[[ell.get(name, LONG) for name in names]]]),
        variance=np.array([[sd**2]]),
        nugget=np.zeros((1, 1)),
        jitter=np.zeros((1, 1)),
        beta=np.array([[[slope @ lower, *(slope * (upper - lower))]]]),
        target=np.zeros((1, 1, 1)),
        inverse_factor=np.full((1, 1, 1, 1), 1.0 / sd),
        trend_factor=np.zeros((1, 1, 1, 1 + len(names))),
        trend_root=np.zeros((1, 1, 1 + len(names), 1 + len(names))),
        log_weights=np.zeros(1),
    )
    basis = OutputBasis(output, Layout(), np.zeros(1), np.ones((1, 1)), np.zeros((1, 0)))
    return GaussianProcessSurrogate(domain, process, (basis,), {"space": space_of(domain, conditions).to_json()})


def apd(g: Array, h: Array) -> Array:
    """Return a duration between 1 and 4."""
    return 1.6 + 1.2 * np.exp(-g) * (1.0 + h)


def cell(**settings: object) -> GaussianProcessSurrogate:
    return member({"g": (0.0, 1.0), "h": (0.0, 1.0)}, {"apd": apd}, **settings)  # type: ignore[arg-type]


def bent(a: Array, x: Array) -> Array:
    """Return a speed that bends with the duration."""
    return np.sin(0.8 * a + x)


def tissue(
    *,
    log: tuple[str, ...] = (),
    upper: float = 5.0,
    function: Callable[..., Array] = bent,
    **settings: object,
) -> GaussianProcessSurrogate:
    return member(
        {"apd": (1.0, upper), "x": (0.0, 1.0)},
        {"speed": function},
        conditions=("x",),
        log=log,
        **({"n": 14, "seed": 2} | settings),  # type: ignore[arg-type]
    )


def two() -> uq.Chain:
    return uq.Chain(cell=cell(draws=2), tissue=tissue(draws=2), links={"tissue.apd": "cell.apd"})


def locally_scaled(one: GaussianProcessSurrogate, seed: int) -> GaussianProcessSurrogate:
    """Return a surrogate whose errors have local scales drawn at random."""
    process = one.process
    size = (process.draws, process.q, local_size(process.x.shape[1]))
    c = 0.7 * np.random.default_rng(seed).standard_normal(size)
    c[..., -1] = 0.01 * np.abs(c[..., -1])  # the limit
    return replace(one, process=process.with_local(c))


def of_local_scales() -> uq.Chain:
    parent, child = locally_scaled(cell(draws=2), 1), locally_scaled(tissue(draws=2), 2)
    return uq.Chain(cell=parent, tissue=child, links={"tissue.apd": "cell.apd"})


def of_different_draws() -> uq.Chain:
    return uq.Chain(cell=cell(draws=1), tissue=tissue(draws=3), links={"tissue.apd": "cell.apd"})


def through_a_logarithm() -> uq.Chain:
    parent = cell(transforms={"apd": uq.Log()}, draws=2)
    return uq.Chain(cell=parent, tissue=tissue(log=("apd",)), links={"tissue.apd": "cell.apd"})


def through_a_logit() -> uq.Chain:
    parent = cell(transforms={"apd": uq.Logit(0.5, 6.0)})
    return uq.Chain(cell=parent, tissue=tissue(), links={"tissue.apd": "cell.apd"})


def two_links() -> uq.Chain:
    parent = member(
        {"g": (0.0, 1.0), "h": (0.0, 1.0)}, {"apd": apd, "peak": lambda g, h: g * h + 0.3 * g}, draws=2, n=9
    )
    child = member(
        {"peak": (-1.0, 2.0), "x": (0.0, 1.0), "apd": (1.0, 5.0)},
        {"speed": lambda p, x, a: np.sin(0.8 * a + x) + p * a / 4.0},
        conditions=("x",),
        n=16,
    )
    return uq.Chain(cell=parent, tissue=child, links={"tissue.apd": "cell.apd", "tissue.peak": "cell.peak"})


def diamond() -> uq.Chain:
    """Two members take the output of one, and a fourth takes theirs."""
    left = member({"apd": (1.0, 5.0), "k": (0.0, 1.0)}, {"y": lambda a, k: np.cos(a) + k}, seed=3)
    right = member({"apd": (1.0, 5.0)}, {"y": lambda a: a**2 / 10.0}, seed=4, n=6, draws=2)
    last = member(
        {"one": (-2.0, 3.0), "two": (-1.0, 3.0), "k": (0.0, 1.0)},
        {"z": lambda a, b, k: np.tanh(a * b) + k * a},
        seed=5,
        n=16,
    )
    links = {"left.apd": "cell.apd", "right.apd": "cell.apd", "last.one": "left.y", "last.two": "right.y"}
    return uq.Chain(last=last, left=left, right=right, cell=cell(), links=links)


def used_twice() -> uq.Chain:
    """One function that takes its own output: two steps of a recursion."""
    step = member(
        {"s": (-1.0, 2.0), "k": (0.0, 1.0)}, {"s": lambda s, k: 0.7 * np.sin(s) + 0.5 * k}, n=12, draws=2, variance=0.05
    )
    return uq.Chain(first=step, second=step, links={"second.s": "first.s"})


def trace(**settings: object) -> GaussianProcessSurrogate:
    return member(
        {"g": (0.0, 1.0), "h": (0.0, 1.0)},
        {"trace": lambda g, h: np.exp(-g[:, None] * TIMES) * (1.0 + h[:, None] * TIMES) + 1.5},
        **settings,  # type: ignore[arg-type]
    )


def of_a_curve(**settings: object) -> uq.Chain:
    """Its value at a time, and its mean: two links that share a truncation."""
    child = member(
        {"mean": (1.0, 5.0), "end": (1.0, 5.0), "x": (0.0, 1.0)},
        {"speed": lambda a, b, x: np.sin(a + x) + b * x},
        conditions=("x",),
        n=16,
    )
    weights = xr.DataArray(np.full(5, 0.2), dims="t")
    links = {
        "tissue.end": uq.Link("cell.trace", at={"t": 0.9}),
        "tissue.mean": uq.Link("cell.trace", weights=weights),
    }
    return uq.Chain(cell=trace(draws=2, **settings), tissue=child, links=links)


def of_a_positive_curve() -> uq.Chain:
    parent = trace(transforms={"trace": uq.Log()})
    return uq.Chain(cell=parent, tissue=tissue(), links={"tissue.apd": uq.Link("cell.trace", at={"t": 0.25})})


def through_a_shifted_logarithm() -> uq.Chain:
    parent = cell(transforms={"apd": uq.Log(0.5)}, draws=2)
    return uq.Chain(cell=parent, tissue=tissue(), links={"tissue.apd": "cell.apd"})


def of_different_boxes() -> uq.Chain:
    """A parameter and its scale differ between the boxes of two members, and it enters at both."""
    parent = member({"g": (0.5, 2.0), "h": (0.0, 1.0)}, {"apd": apd}, log=("g",))
    child = member(
        {"apd": (1.0, 5.0), "g": (0.4, 1.5), "x": (0.0, 1.0)},
        {"speed": lambda a, g, x: np.sin(0.8 * a + x) * g},
        conditions=("x",),
        n=16,
    )
    # The priors are the same, the boxes not.
    space = uq.ParameterSpace(
        apd=uq.Uniform(1.0, 5.0), g=uq.LogUniform(0.5, 2.0), conditions={"x": uq.Condition(0.0, 1.0)}
    )
    child = replace(child, attrs={"space": space.to_json()})
    return uq.Chain(cell=parent, tissue=child, links={"tissue.apd": "cell.apd"})


GRAPHS: dict[str, Callable[[], uq.Chain]] = {
    "two members": two,
    "local scales": of_local_scales,
    "different numbers of draws": of_different_draws,
    "log": through_a_logarithm,
    "shifted log": through_a_shifted_logarithm,
    "logit": through_a_logit,
    "two links": two_links,
    "diamond": diamond,
    "used twice": used_twice,
    "curve": of_a_curve,
    "positive curve": of_a_positive_curve,
    "different boxes": of_different_boxes,
}


def given_errors(kind: str) -> tuple[SampledChain, Array]:
    """Return a chain whose links' errors are inputs, and rows (k, d) of it with one set of parameters and errors."""
    if kind == "two members":
        model, known = uq.Chain(cell=cell(n=6), tissue=tissue(), links={"tissue.apd": "cell.apd"}), {"x": [0.2, 0.8]}
    elif kind == "a curve":
        links = {"tissue.apd": uq.Link("cell.trace", at={"t": 0.25})}
        model, known = uq.Chain(cell=trace(), tissue=tissue(), links=links), {"x": [0.2, 0.8]}
    else:
        final = member(
            {"speed": (-2.0, 4.0), "g": (0.0, 1.0)}, {"load": lambda speed, g: np.sin(speed) + g * speed}, n=16
        )
        links = {"tissue.apd": "cell.apd", "heart.speed": "tissue.speed"}
        model = uq.Chain(cell=cell(n=6), tissue=tissue(), heart=final, links=links)
        known = {"x": [0.2, 0.8]}
    sampled = model.sampled(known)
    rng = np.random.default_rng(3)
    row = np.tile(rng.uniform(0.45, 0.55, size=sampled.domain.d), (2, 1))
    row[:, sampled.domain.names.index("x")] = [0.2, 0.8]
    return sampled, row
