"""Time to fit and to predict, beside BoTorch and GPyTorch on the same data in the same run.

    python benchmarks/surrogate_speed.py [--quick] [--threads N]

Outputs are smooth functions of d inputs, runs are uniform in the unit cube. Both libraries fit a constant mean and the
Matérn-5/2 kernel with one length scale an input to the same data, one model an output in ours, one batched model in
BoTorch (its `fit_gpytorch_mll` with default options, which trains a noise too). Each pair of fits is compared by the
log marginal likelihood that its hyperparameters reach under one formula; ours may fall short by 1 nat an output at
most, since it has priors. Times are medians of five fits (three from 500 runs on, one of BoTorch there) after one that
is not counted.
Aims, with the threads that both take by default (ours limits itself to one; ``--threads`` limits both):

- 8 outputs, 200 runs, 6 inputs: BoTorch takes at least 5 times as long as one start of ours, 3 times as long as the
  default rule (2 starts, 8 when they differ), for point estimates;
- 8 outputs, 500 runs, 8 inputs and 1 output, 2 000 runs, 8 inputs: at least 10 times;
- mean and variance of one output at 100 000 points after 500 runs: GPyTorch takes at least 5 times as long, and ours
  reaches half of the rate of matrix products in one thread (2 n² operations a point).

The times of the default, which averages hyperparameters where runs are few, and those with one thread are printed
without an aim. ``--quick`` makes the smallest case with medians of three.
"""

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from _report import Aim, aim, finish
from botorch.fit import fit_gpytorch_mll
from botorch.models import SingleTaskGP
from gpytorch.kernels import MaternKernel, ScaleKernel
from gpytorch.mlls import ExactMarginalLogLikelihood
from threadpoolctl import threadpool_limits

import uqms as uq
from uqms._typing import Array
from uqms.surrogates import training
from uqms.surrogates.kernels import Matern52

CASES = ((200, 6, 8), (500, 8, 8), (2000, 8, 1))
POINTS = 100_000
DEFAULT_THREADS = torch.get_num_threads()


def data(n: int, d: int, q: int) -> tuple[Any, Array, Array]:
    """Return an ensemble, its inputs (n, d) and standardised outputs (n, q)."""
    rng = np.random.default_rng(1)
    names = [f"x{j}" for j in range(d)]
    x, w = rng.random((n, d)), rng.standard_normal((q, d))
    parts = [np.sin(2.0 * x @ w[k]) + 2.0 * (x[:, k % d] - 0.5) ** 2 + np.exp(-x @ np.abs(w[k])) for k in range(q)]
    y = np.column_stack(parts)
    y = (y - y.mean(axis=0)) / y.std(axis=0)
    space = uq.ParameterSpace(**{name: uq.Uniform(0.0, 1.0) for name in names})
    at = {name: x[:, j] for j, name in enumerate(names)}
    return uq.ensemble.build(at, {f"y{k}": y[:, k] for k in range(q)}, space=space), x, y


def timed(work: Callable[[], Any], repeats: int, first: bool = True) -> tuple[float, Any]:
    """Return the median seconds and the last result."""
    seconds, result = [], None
    for i in range(repeats + first):
        begin = time.perf_counter()
        result = work()
        if i or not first:
            seconds.append(time.perf_counter() - begin)
    return float(np.median(seconds)), result


def theirs(x: Array, y: Array) -> SingleTaskGP:
    """Fit BoTorch's model."""
    d = x.shape[1]
    batch = torch.Size([y.shape[1]]) if y.shape[1] > 1 else torch.Size([])
    kernel = ScaleKernel(MaternKernel(2.5, ard_num_dims=d, batch_shape=batch), batch_shape=batch)
    model = SingleTaskGP(torch.from_numpy(x), torch.from_numpy(y), covar_module=kernel, outcome_transform=None)
    fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
    return model


def likelihood_of_theirs(model: SingleTaskGP, x: Array, y: Array) -> float:
    """Return the log marginal likelihood of all outputs at their hyperparameters."""
    q, d = y.shape[1], x.shape[1]
    ell = model.covar_module.base_kernel.lengthscale.detach().numpy().reshape(q, d)
    scale = model.covar_module.outputscale.detach().numpy().reshape(q)
    noise = model.likelihood.noise.detach().numpy().reshape(q)
    mean = model.mean_module.constant.detach().numpy().reshape(q)
    one = training.marginal_log_likelihood
    ones = np.ones(len(x))
    return sum(one(x, y[:, k], Matern52(), ell[k], scale[k], noise[k], mean[k] * ones) for k in range(q))


def likelihood_of_ours(fitted: uq.surrogates.GaussianProcessSurrogate, x: Array, y: Array) -> float:
    """Return the same of ours; the data are standardised alike, so that scores are outputs."""
    p, ones, one = fitted.process, np.ones(len(x)), training.marginal_log_likelihood
    diagonal = p.variance[0] * (p.nugget[0] + p.jitter[0])
    beta = p.beta[0, :, 0]
    parts = [
        one(p.x, p.y[:, k], Matern52(), p.ell[0, k], p.variance[0, k], diagonal[k], beta[k] * ones) for k in range(p.q)
    ]
    scale = np.array([b.basis.item() for b in fitted.bases])
    return float(sum(parts) - len(x) * np.log(scale).sum())


def fits(n: int, d: int, q: int, quick: bool, threads: int | None) -> list[Aim]:
    """Compare fits of one size."""
    runs, x, y = data(n, d, q)
    label = f"{q} outputs x {n} runs x {d} inputs"
    repeats = 3 if quick or n > 200 else 5
    point = uq.GaussianProcess(hyperparameters="point", scalars="independent")  # one model an output, as theirs
    found = []
    with threadpool_limits(threads):
        torch.set_num_threads(threads or DEFAULT_THREADS)
        seconds, model = timed(lambda: theirs(x, y), repeats if n <= 200 else 1, n <= 200)
        default, fitted = timed(lambda: point.fit(runs), repeats)
        averaged, _ = timed(lambda: uq.GaussianProcess().fit(runs), 1, False)
        kept = training.STARTS, training.STARTS_MORE
        training.STARTS = training.STARTS_MORE = 1
        try:
            single, _ = timed(lambda: point.fit(runs), repeats)
        finally:
            training.STARTS, training.STARTS_MORE = kept
    short = (likelihood_of_theirs(model, x, y) - likelihood_of_ours(fitted, x, y)) / q
    low = (5.0, 3.0) if n <= 200 else (10.0, 10.0)
    found.append(aim(f"{label}: BoTorch's fit [s]", seconds, n=repeats))
    found.append(aim(f"{label}: BoTorch / ours, one start", seconds / single, low[0], n=repeats))
    found.append(aim(f"{label}: BoTorch / ours, default starts", seconds / default, low[1], n=repeats))
    found.append(aim(f"{label}: BoTorch / ours, auto hyperparameters", seconds / averaged, n=1))
    found.append(aim(f"{label}: log likelihood that ours falls short by, nats an output", short, None, 1.0))
    with threadpool_limits(1):
        torch.set_num_threads(1)
        alone, _ = timed(lambda: point.fit(runs), repeats)
        if n <= 200:
            peer, _ = timed(lambda: theirs(x, y), 1, False)
            found.append(aim(f"{label}: BoTorch / ours, one thread", peer / alone, n=repeats))
        found.append(aim(f"{label}: ours, one thread [s]", alone, n=repeats))
    return found


def predictions(quick: bool, threads: int | None) -> list[Aim]:
    """Compare mean and variance at many points."""
    runs, x, y = data(500, 8, 1)
    fitted = uq.GaussianProcess(hyperparameters="point").fit(runs)
    rng = np.random.default_rng(2)
    points = rng.random((POINTS, 8))
    at = {f"x{j}": points[:, j] for j in range(8)}
    model = theirs(x[:100], y[:100])
    model.set_train_data(torch.from_numpy(x), torch.from_numpy(y[:, 0]), strict=False)

    def ours() -> Any:
        prediction = fitted.predict(at)
        return prediction.mean["y0"].values, prediction.variance["y0"].values

    def peer() -> Any:
        with torch.no_grad():
            law = [model(part) for part in torch.split(torch.from_numpy(points), 2000)]
            return [each.mean for each in law], [each.variance for each in law]

    a, b = rng.random((2000, 500)), rng.random((500, 500))
    repeats = 3 if quick else 5
    with threadpool_limits(1):
        product, _ = timed(lambda: a @ b, 20)
    with threadpool_limits(threads):
        torch.set_num_threads(threads or DEFAULT_THREADS)
        own, _ = timed(ours, repeats)
        model.eval()
        other, _ = timed(peer, 1 if quick else 3)
    share = (product * POINTS / 2000) / own
    return [
        aim("100 000 predictions after 500 runs [s]", own, n=repeats),
        aim("100 000 predictions: GPyTorch / ours", other / own, 5.0, n=repeats),
        aim("100 000 predictions: share of the rate of matrix products", share, 0.5, n=repeats),
    ]


def main() -> int:
    """Measure all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int, help="BLAS threads of both; by default those of the libraries")
    given = parser.parse_args()
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found += predictions(given.quick, given.threads)
        for case in CASES[:1] if given.quick else CASES:
            found += fits(*case, given.quick, given.threads)
    return finish(found)


if __name__ == "__main__":
    sys.exit(main())
