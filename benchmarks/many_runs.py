"""Many runs: 2 000, 20 000 and 100 000, beside the exact process where it exists and a variational one.

    python benchmarks/many_runs.py [--quick] [--peers]

`LocalGaussianProcess` learns four functions of 3 to 8 inputs (borehole, Ishigami, OTL circuit, and one with a kink)
from Sobol designs; 2 000 new inputs judge it. Beside it `GaussianProcess` at 2 000 runs; with ``--peers``, up to
20 000 runs, also GPyTorch's variational process (512 inducing inputs, 20 epochs), and 128 neighbours instead of 64.
Figures: time of a fit, time of 100 000 predictions (measured on 2 000), root mean squared error over the sd of the
output, coverage of 95 % intervals, mean log score (nats, outputs of unit variance). One thread. Aims, set after a
first run and then frozen:

- 95 % intervals hold 0.92 to 0.98 of the new outputs (mean of the functions, each size), and 0.88 to 0.99 of each;
- printed without an aim, since it depends on the function: log score below the exact process of 2 000 runs, and the
  error over its (above 1: of a very smooth function of many inputs 2 000 runs in one process tell as much);
- a fit of 100 000 runs takes at most 4 times as long as one of 20 000, and 100 000 predictions of a number at most 60 s
  of CPU.

``--quick`` leaves 100 000 runs out.
"""

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from _report import Aim, aim, finish, line
from scipy.stats import norm

import uqms as uq
from uqms._typing import Array

TESTED, EXACT = 2000, 2000


def borehole(u: Array) -> Array:
    """Water flow through a borehole (Harper & Gupta 1983): 8 inputs."""
    low = np.array([0.05, 100.0, 63070.0, 990.0, 63.1, 700.0, 1120.0, 9855.0])
    high = np.array([0.15, 50000.0, 115600.0, 1110.0, 116.0, 820.0, 1680.0, 12045.0])
    rw, r, tu, hu, tl, hl, length, kw = (low + u * (high - low)).T
    log = np.log(r / rw)
    return 2.0 * np.pi * tu * (hu - hl) / (log * (1.0 + 2.0 * length * tu / (log * rw**2 * kw) + tu / tl))


def ishigami(u: Array) -> Array:
    """Ishigami & Homma (1990): 3 inputs."""
    x = np.pi * (2.0 * u - 1.0)
    return np.sin(x[:, 0]) + 7.0 * np.sin(x[:, 1]) ** 2 + 0.1 * x[:, 2] ** 4 * np.sin(x[:, 0])


def circuit(u: Array) -> Array:
    """Mid-point voltage of a push-pull circuit without transformer (Ben-Ari & Steinberg 2007): 6 inputs."""
    low = np.array([50.0, 25.0, 0.5, 1.2, 0.25, 50.0])
    high = np.array([150.0, 70.0, 3.0, 2.5, 1.2, 300.0])
    b1, b2, f, c1, c2, beta = (low + u * (high - low)).T
    vb1, scaled = 12.0 * b2 / (b1 + b2), beta * (c2 + 9.0)
    return (vb1 + 0.74) * scaled / (scaled + f) + 11.35 * f / (scaled + f) + 0.74 * f * scaled / ((scaled + f) * c1)


def kinked(u: Array) -> Array:
    """Waves and a kink: 3 inputs."""
    return np.sin(6.0 * u[:, 0] + 3.0 * u[:, 1] ** 2) * np.cos(5.0 * u[:, 1] * u[:, 2]) + 0.5 * np.abs(u[:, 2] - 0.4)


FUNCTIONS: dict[str, tuple[Callable[[Array], Array], int]] = {
    "borehole": (borehole, 8),
    "Ishigami": (ishigami, 3),
    "circuit": (circuit, 6),
    "kink": (kinked, 3),
}

SETTINGS = {
    "local": uq.LocalGaussianProcess(),
    "128 neighbours": uq.LocalGaussianProcess(neighbours=128),
    "exact": uq.GaussianProcess(),
}
PEERS = ("128 neighbours", "variational")
MOST = 20_000  # runs that peers learn from: more take GPyTorch minutes


class Measured(NamedTuple):
    """CPU seconds of a fit and of 100 000 predictions, error over the sd, coverage, log score."""

    fit: float
    predict: float
    rmse: float
    covered: float
    score: float


def judged(mean: Array, sd: Array, y: Array, fit: float, predict: float) -> Measured:
    """Return what is measured of a prediction of y."""
    scale = float(y.std())
    error = y - mean
    return Measured(
        fit,
        predict * 100_000 / len(y),
        float(np.sqrt(np.mean(error**2))) / scale,
        float(np.mean(np.abs(error) < 1.959964 * sd)),
        float(np.mean(norm.logpdf(y, mean, sd))) + float(np.log(scale)),
    )


def ours(settings: Any, x: Array, y: Array, new: Array, wanted: Array) -> Measured:
    """Fit and predict with a surrogate of the library."""
    names = [f"x{i}" for i in range(x.shape[1])]
    space = uq.ParameterSpace(**{name: uq.Uniform(0.0, 1.0) for name in names})
    table = uq.sobol(space, len(x), rng=1)
    runs = uq.ensemble.build(table.assign({n: ("run", c) for n, c in zip(names, x.T, strict=True)}), {"y": y})
    begin = time.process_time()
    fitted = settings.fit(runs)
    fit = time.process_time() - begin
    points = dict(zip(names, new.T, strict=True))
    fitted.predict({name: values[:2] for name, values in points.items()})
    begin = time.process_time()
    law = fitted.predict(points)
    mean, sd = law.mean["y"].values, law.sd["y"].values
    return judged(mean, sd, wanted, fit, time.process_time() - begin)


def variational(x: Array, y: Array, new: Array, wanted: Array, inducing: int = 512, epochs: int = 20) -> Measured:
    """Fit and predict with GPyTorch's stochastic variational process."""
    import gpytorch
    import torch

    torch.manual_seed(1)
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    centre, scale = y.mean(), y.std()
    tx, ty = torch.from_numpy(x), torch.from_numpy((y - centre) / scale)

    class Model(gpytorch.models.ApproximateGP):
        def __init__(self) -> None:
            law = gpytorch.variational.CholeskyVariationalDistribution(inducing)
            super().__init__(gpytorch.variational.VariationalStrategy(self, tx[:inducing].clone(), law))
            self.mean_module = gpytorch.means.ConstantMean()
            self.covar_module = gpytorch.kernels.ScaleKernel(
                gpytorch.kernels.MaternKernel(2.5, ard_num_dims=x.shape[1])
            )

        def forward(self, at: Any) -> Any:
            return gpytorch.distributions.MultivariateNormal(self.mean_module(at), self.covar_module(at))

    begin = time.process_time()
    model, likelihood = (
        Model(),
        gpytorch.likelihoods.GaussianLikelihood(noise_constraint=gpytorch.constraints.GreaterThan(1e-8)),
    )
    likelihood.noise = 1e-2
    loss = gpytorch.mlls.VariationalELBO(likelihood, model, num_data=len(y))
    optimiser = torch.optim.Adam([*model.parameters(), *likelihood.parameters()], lr=0.02)
    for _ in range(epochs):
        for rows in torch.randperm(len(y)).split(1024):
            optimiser.zero_grad()
            value = -loss(model(tx[rows]), ty[rows])
            value.backward()
            optimiser.step()
    fit = time.process_time() - begin
    model.eval()
    begin = time.process_time()
    with torch.no_grad():
        law = model(torch.from_numpy(new))
        mean, sd = law.mean.numpy(), law.stddev.numpy()
    return judged(centre + scale * mean, scale * sd, wanted, fit, time.process_time() - begin)


def main() -> int:
    """Measure all sizes."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="without 100 000 runs")
    parser.add_argument("--peers", action="store_true", help="GPyTorch's variational process too")
    given = parser.parse_args()
    sizes = (2000, 20_000) if given.quick else (2000, 20_000, 100_000)
    found: dict[tuple[str, str, int], Measured] = {}
    aims: list[Aim] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", uq.errors.NumericalWarning)
        for name, (function, d) in FUNCTIONS.items():
            space = uq.ParameterSpace(**{f"x{i}": uq.Uniform(0.0, 1.0) for i in range(d)})
            new = np.random.default_rng(5).random((TESTED, d))
            new = 0.001 + 0.998 * new  # inside of the range of the runs
            wanted = function(new)
            for n in sizes:
                x = np.column_stack([uq.sobol(space, n, rng=1)[f"x{i}"].values for i in range(d)])
                y = function(x)
                kinds = ["local", *(["exact"] if n == EXACT else []), *(PEERS if given.peers and n <= MOST else ())]
                for kind in kinds:
                    if kind == "variational":
                        one = variational(x, y, new, wanted)
                    else:
                        one = ours(SETTINGS[kind], x, y, new, wanted)
                    found[name, kind, n] = one
                    print(
                        f"# {name}, {kind}, {n} runs: fit {one.fit:.1f} s, 100 000 predictions {one.predict:.0f} s, "
                        f"error {one.rmse:.2e} sd, coverage {one.covered:.3f}, log score {one.score:.2f}",
                        flush=True,
                    )
    for n in sizes:
        covered = [found[name, "local", n].covered for name in FUNCTIONS]
        aims.append(aim(f"{n} runs: 95% intervals cover", float(np.mean(covered)), 0.92, 0.98, n=TESTED))
        aims.append(aim(f"{n} runs: worst coverage", min(covered), 0.88, 0.99, n=TESTED))
        aims.append(aim(f"{n} runs: largest coverage", max(covered), 0.88, 0.99, n=TESTED))
        if n > EXACT:
            ratio = max(found[f, "local", n].rmse / found[f, "exact", EXACT].rmse for f in FUNCTIONS)
            aims.append(aim(f"{n} runs: worst error over that of the exact process of {EXACT}", ratio))
    worse = [found[f, "exact", EXACT].score - found[f, "local", EXACT].score for f in FUNCTIONS]
    aims.append(aim(f"{EXACT} runs: log score below the exact process [nats]", float(np.mean(worse))))
    last = [found[f, "local", sizes[-1]] for f in FUNCTIONS]
    aims.append(aim("100 000 predictions [CPU s]", max(one.predict for one in last), None, 60.0))
    reason = "asked for without 100 000 runs" if given.quick else None
    grown = None
    if not given.quick:
        grown = max(found[f, "local", 100_000].fit / found[f, "local", 20_000].fit for f in FUNCTIONS)
    aims.append(aim("fit of 100 000 runs over one of 20 000", grown, None, 4.0, reason=reason))
    print(*(line(one) for one in aims), sep="\n")
    return finish(aims)


if __name__ == "__main__":
    sys.exit(main())
