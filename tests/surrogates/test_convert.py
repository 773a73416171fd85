"""Converted GPyTorch and BoTorch models against those models' own posteriors."""

import warnings
from pathlib import Path
from typing import Any

import botorch
import gpytorch
import numpy as np
import pytest
import torch
from botorch.models import SingleTaskGP
from botorch.models.transforms.input import ChainedInputTransform, Log10, Normalize, Warp
from botorch.models.transforms.outcome import Log, Standardize

import uqms as uq
from uqms._typing import Array
from uqms.errors import InputError
from uqms.surrogates import GaussianProcessSurrogate, from_gpytorch

BOX = uq.Box(("k", "g"), lower=(1.0, -3.0), upper=(3.0, 5.0))
KERNELS = gpytorch.kernels
AT = {"k": np.linspace(0.9, 3.1, 12), "g": np.linspace(5.0, -3.5, 12)}
X_AT = torch.tensor(np.column_stack([AT["k"], AT["g"]]))


def data(n: int = 25) -> tuple[torch.Tensor, torch.Tensor]:
    x = BOX.from_unit(np.random.default_rng(1).random((n, 2)))
    return torch.tensor(x), torch.tensor(np.sin(2.0 * x[:, 0]) + 0.1 * x[:, 1] ** 2 + 4.0)


class Exact(gpytorch.models.ExactGP):
    def __init__(self, kernel: Any, mean: Any = None, likelihood: Any = None, xy: Any = None) -> None:
        super().__init__(*(xy or data()), likelihood or gpytorch.likelihoods.GaussianLikelihood())
        self.mean_module = mean or gpytorch.means.ConstantMean()
        self.covar_module = kernel
        self.double()

    def forward(self, x: torch.Tensor) -> gpytorch.distributions.MultivariateNormal:
        return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))


def shake(model: Any) -> Any:
    """Set parameters as a training might leave them: none at its default, no two alike."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "noise" not in name:
                values = torch.rand(parameter.shape, generator=generator, dtype=parameter.dtype)
                parameter.copy_(0.3 + values)
    if isinstance(model.likelihood, gpytorch.likelihoods.GaussianLikelihood):
        noise = model.likelihood.noise
        model.likelihood.noise = 0.002 + 0.01 * torch.rand(noise.shape, generator=generator, dtype=noise.dtype)
    return model


def own(model: Any, x: torch.Tensor = X_AT) -> tuple[Array, Array]:
    """Return mean (k, q) and joint covariance (q, k, k) of the latent function, by the model itself."""
    model.eval()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        law = model(x)
    mean, covariance = law.mean.numpy(), law.covariance_matrix.numpy()
    return (mean[:, None], covariance[None]) if mean.ndim == 1 else (mean.T, covariance)


def predicted(surrogate: GaussianProcessSurrogate, at: dict[str, Array] = AT) -> tuple[Array, Array]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some points lie outside of the box on purpose
        prediction = surrogate.predict(at)
    names = list(surrogate.layouts)
    covariance = np.stack([prediction.covariance(name)[:, 0, :, 0] for name in names])
    return np.column_stack([prediction.mean[name].values for name in names]), covariance


def assert_same(surrogate: GaussianProcessSurrogate, model: Any) -> None:
    ours, theirs = predicted(surrogate), own(model)
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("dims", [None, 2])
@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("base", ["rbf", 1.5, 2.5])
def test_kernels_convert(base: str | float, scaled: bool, dims: int | None) -> None:
    options = {"ard_num_dims": dims}
    kernel = KERNELS.RBFKernel(**options) if base == "rbf" else KERNELS.MaternKernel(nu=base, **options)
    model = shake(Exact(KERNELS.ScaleKernel(kernel) if scaled else kernel))
    assert_same(from_gpytorch(model, box=BOX), model)


@pytest.mark.parametrize("mean", ["zero", "linear", "linear without bias"])
def test_means_convert(mean: str) -> None:
    means = {
        "zero": gpytorch.means.ZeroMean(),
        "linear": gpytorch.means.LinearMean(2),
        "linear without bias": gpytorch.means.LinearMean(2, bias=False),
    }
    model = shake(Exact(KERNELS.ScaleKernel(KERNELS.MaternKernel(nu=2.5)), means[mean]))
    surrogate = from_gpytorch(model, box=BOX)
    assert_same(surrogate, model)
    assert not surrogate.process.trend_root.any()


def test_fixed_noise_of_one_size_converts_and_goes_to_the_nugget() -> None:
    likelihood = gpytorch.likelihoods.FixedNoiseGaussianLikelihood(torch.full((25,), 0.01, dtype=torch.float64))
    model = shake(Exact(KERNELS.ScaleKernel(KERNELS.RBFKernel(ard_num_dims=2)), likelihood=likelihood))
    surrogate = from_gpytorch(model, box=BOX)
    assert_same(surrogate, model)
    assert (surrogate.process.nugget * surrogate.process.variance).item() == pytest.approx(0.01, rel=1e-12)


def test_a_trained_model_converts_without_noise_in_its_variance() -> None:
    model = Exact(KERNELS.ScaleKernel(KERNELS.MaternKernel(nu=2.5, ard_num_dims=2)))
    law = gpytorch.mlls.ExactMarginalLogLikelihood(model.likelihood, model.train())
    optimiser = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(60):
        optimiser.zero_grad()
        loss = -law(model(*model.train_inputs), model.train_targets)
        loss.backward()
        optimiser.step()
    surrogate = from_gpytorch(model, box=BOX, outputs="peak", units={"peak": "mm"})
    assert surrogate.layouts["peak"].unit == "mm"
    assert_same(surrogate, model)
    noise = model.likelihood.noise.item()
    assert surrogate.process.nugget.item() == pytest.approx(noise / model.covar_module.outputscale.item(), rel=1e-12)


def test_a_batch_of_outputs_converts() -> None:
    x, y = data()
    batch = torch.Size([2])
    kernel = KERNELS.ScaleKernel(KERNELS.RBFKernel(ard_num_dims=2, batch_shape=batch), batch_shape=batch)
    mean, likelihood = (
        gpytorch.means.ConstantMean(batch_shape=batch),
        gpytorch.likelihoods.GaussianLikelihood(batch_shape=batch),
    )
    model = shake(Exact(kernel, mean, likelihood, (x.expand(2, -1, -1), torch.stack([y, y**2]))))
    surrogate = from_gpytorch(model, box=BOX, outputs=("a", "b"))
    ours, theirs = predicted(surrogate), own(model, X_AT.expand(2, -1, -1))
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-8)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-8, atol=1e-8)
    assert surrogate.process.ell[0, 0] != pytest.approx(surrogate.process.ell[0, 1])


def test_a_model_of_the_unit_cube_converts_with_any_box() -> None:
    box = uq.Box(("k", "g"), lower=(1.0, 0.1), upper=(3.0, 0.9), scale=("log", "logit"))
    u = torch.tensor(np.random.default_rng(1).random((25, 2)))
    model = shake(Exact(KERNELS.ScaleKernel(KERNELS.MaternKernel(nu=1.5)), xy=(u, torch.sin(4.0 * u[:, 0]) + u[:, 1])))
    surrogate = from_gpytorch(model, box=box, inputs="unit")
    at = np.random.default_rng(2).random((6, 2))
    x = box.from_unit(at)
    ours, theirs = predicted(surrogate, {"k": x[:, 0], "g": x[:, 1]}), own(model, torch.tensor(at))
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-8, atol=1e-8)
    with pytest.raises(InputError, match=r"box has the scales \('log', 'logit'\).*inputs='unit'"):
        from_gpytorch(model, box=box)


# -------------------------------------------------------------------------------------------------------------- BoTorch
def botorch_own(model: Any) -> tuple[Array, Array]:
    with torch.no_grad():
        posterior = model.posterior(X_AT)
    return posterior.mean.numpy(), posterior.variance.numpy()


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("standardised", [True, False])
@pytest.mark.parametrize("evaluated", [True, False])
def test_single_task_models_convert(outputs: int, normalised: bool, standardised: bool, evaluated: bool) -> None:
    x, y = data()
    targets = torch.stack([y, 100.0 * y**2, torch.exp(-y)], dim=-1)[:, :outputs]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # BoTorch says when inputs or outputs are not scaled
        model = SingleTaskGP(
            x,
            targets,
            input_transform=Normalize(2) if normalised else None,
            outcome_transform=Standardize(outputs) if standardised else None,
        )
        shake(model)
        if evaluated:
            model.posterior(X_AT)
        else:
            model.train()
        names = tuple(f"y{j}" for j in range(outputs))
        surrogate = from_gpytorch(model, box=BOX, outputs=names)
        assert model.training is not evaluated
        mean, variance = botorch_own(model)
    ours = predicted(surrogate)
    np.testing.assert_allclose(ours[0], mean, rtol=1e-8, atol=1e-8 * np.abs(mean).max())
    diagonal = np.diagonal(ours[1], axis1=1, axis2=2).T
    np.testing.assert_allclose(diagonal, variance, rtol=1e-7, atol=1e-8 * variance.max())


def test_a_trained_single_task_model_with_known_noise_converts() -> None:
    x, y = data()
    model = SingleTaskGP(x, y[:, None], torch.full((25, 1), 1e-4, dtype=torch.float64), input_transform=Normalize(2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        botorch.fit_gpytorch_mll(gpytorch.mlls.ExactMarginalLogLikelihood(model.likelihood, model))
        mean, variance = botorch_own(model)
        surrogate = from_gpytorch(model, box=BOX)
    ours = predicted(surrogate)
    np.testing.assert_allclose(ours[0], mean, rtol=1e-8)
    np.testing.assert_allclose(np.diagonal(ours[1][0]), variance[:, 0], rtol=1e-6, atol=1e-8 * variance.max())


# ------------------------------------------------------------------------------------------------- what comes out of it
def test_a_converted_model_is_a_surrogate_like_any_other(tmp_path: Path) -> None:
    surrogate = from_gpytorch(shake(Exact(KERNELS.ScaleKernel(KERNELS.MaternKernel(nu=2.5)))), box=BOX)
    surrogate.save(tmp_path / "x.npz")
    at = {"k": [1.5, 2.0], "g": [0.0, 1.0]}
    assert uq.load_surrogate(tmp_path / "x.npz").predict(at).mean.identical(surrogate.predict(at).mean)
    assert surrogate.predict(at).draws(3, rng=1)["y"].shape == (3, 2)
    assert isinstance(surrogate, uq.Surrogate)
    u = np.array([[0.3, 0.4], [0.6, 0.5]])
    bars = np.ones((1, 2, 1)), np.ones((1, 1, 2, 2))
    e = np.array([[1e-6, 0.0], [0.0, 0.0]])
    high, low = surrogate.scores(u + e), surrogate.scores(u - e)
    numeric = (high.mean.sum() + high.covariance.sum() - low.mean.sum() - low.covariance.sum()) / 2e-6
    assert surrogate.scores_reverse(u, *bars)[0, 0] == pytest.approx(numeric, rel=1e-6)


def test_leaving_one_run_out_keeps_the_trained_mean() -> None:
    model = shake(Exact(KERNELS.ScaleKernel(KERNELS.MaternKernel(nu=2.5))))
    validation = uq.leave_one_out(from_gpytorch(model, box=BOX))
    x, y = data()
    rest = shake(Exact(KERNELS.ScaleKernel(KERNELS.MaternKernel(nu=2.5)), xy=(x[1:], y[1:])))
    mean, covariance = own(rest, x[:1])
    assert validation.mean["y"].values[0] == pytest.approx(mean.item(), rel=1e-8)
    assert validation.sd["y"].values[0] == pytest.approx(
        np.sqrt(covariance.item() + rest.likelihood.noise.item()), rel=1e-6
    )


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(training: bool) -> None:
    model = shake(Exact(KERNELS.ScaleKernel(KERNELS.RBFKernel())))
    before = own(model)
    model.train(training)
    size = gpytorch.settings.max_cholesky_size.value()
    state, cache = {name: value.clone() for name, value in model.state_dict().items()}, model.prediction_strategy
    from_gpytorch(model, box=BOX)
    assert model.training is training
    assert model.likelihood.training is training
    assert model.prediction_strategy is cache
    assert all((value == state[name]).all() for name, value in model.state_dict().items())
    np.testing.assert_allclose(own(model)[0], before[0], rtol=1e-12)
    assert gpytorch.settings.max_cholesky_size.value() == size


def test_hyperparameters_that_changed_after_a_prediction_are_the_ones_that_count() -> None:
    model = shake(Exact(KERNELS.ScaleKernel(KERNELS.RBFKernel())))
    own(model)  # fills the model's cache
    model.covar_module.base_kernel.lengthscale = 3.0
    surrogate = from_gpytorch(model, box=BOX)
    assert_same(surrogate, model.train())


# ------------------------------------------------------------------------------------------------ what does not convert
def scaled(kernel: Any) -> Any:
    return KERNELS.ScaleKernel(kernel)


UNEVEN = torch.linspace(0.01, 0.02, 25, dtype=torch.float64)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"kernel": scaled(KERNELS.PeriodicKernel())}, "the kernel PeriodicKernel"),
        ({"kernel": KERNELS.RBFKernel() + KERNELS.MaternKernel()}, "the kernel AdditiveKernel"),
        ({"kernel": scaled(KERNELS.MaternKernel(nu=0.5))}, "the kernel MaternKernel with nu = 0.5"),
        ({"kernel": scaled(KERNELS.RBFKernelGrad())}, "the kernel RBFKernelGrad"),
        ({"kernel": scaled(KERNELS.RBFKernel(active_dims=(1,)))}, r"acts on the inputs \[1\] alone"),
        ({"kernel": KERNELS.RBFKernel(), "mean": gpytorch.means.ConstantMeanGrad()}, "the mean ConstantMeanGrad"),
        (
            {"kernel": KERNELS.RBFKernel(), "likelihood": gpytorch.likelihoods.StudentTLikelihood()},
            "the likelihood StudentTLikelihood",
        ),
        (
            {"kernel": KERNELS.RBFKernel(), "likelihood": gpytorch.likelihoods.FixedNoiseGaussianLikelihood(UNEVEN)},
            "noise differs between runs",
        ),
    ],
)
def test_unsupported_parts_are_named(parts: dict[str, Any], message: str) -> None:
    if isinstance(parts.get("likelihood"), gpytorch.likelihoods.StudentTLikelihood):
        model = Exact(parts["kernel"])
        model.likelihood = parts["likelihood"].double()
    else:
        model = Exact(**parts)
    with pytest.raises(InputError, match=f"{message}.*What converts: an ExactGP"):
        from_gpytorch(model, box=BOX)


def batch_of(x: torch.Tensor, y: torch.Tensor) -> Exact:
    return Exact(KERNELS.RBFKernel(), xy=(x, y))


def odd_models() -> dict[str, tuple[Any, str]]:
    x, y = data()
    three = torch.Size([3])
    unnamed = Exact(KERNELS.RBFKernel())
    unnamed.kernel = unnamed.covar_module
    del unnamed.covar_module
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        apart = SingleTaskGP(
            torch.stack([x, x]),
            torch.stack([y, y])[..., None],
            input_transform=Normalize(2, batch_shape=torch.Size([2])),
        )
    apart.input_transform._offset.copy_(apart.input_transform.offset + torch.arange(2.0)[:, None, None])
    return {
        "no kernel": (unnamed, "has no covar_module"),
        "two inputs": (Exact(KERNELS.RBFKernel(), xy=([x, x], y)), "has 2 input tensors"),
        "tasks": (
            batch_of(x, torch.stack([y, y], dim=-1)),
            r"inputs of shape \(25, 2\) and targets of shape \(25, 2\)",
        ),
        "other inputs": (batch_of(torch.stack([x, x + 1.0]), torch.stack([y, y])), "different training inputs"),
        "constants": (Exact(KERNELS.RBFKernel(), gpytorch.means.ConstantMean(batch_shape=three)), "3 constants for 1"),
        "slopes": (Exact(KERNELS.RBFKernel(), gpytorch.means.LinearMean(2, batch_shape=three)), "3 linear means for 1"),
        "scales": (Exact(KERNELS.RBFKernel(batch_shape=three)), r"length scales of shape \(3, 1\) for 1 outputs"),
        "transforms": (apart, "different input transforms"),
    }


@pytest.mark.parametrize("name", odd_models())
def test_models_of_another_shape_are_refused(name: str) -> None:
    model, message = odd_models()[name]
    with pytest.raises(InputError, match=f"{message}.*What converts"):
        from_gpytorch(model, box=BOX, outputs=("a", "b") if name in ("transforms", "other inputs") else "y")


class Deep(Exact):
    def forward(self, x: torch.Tensor) -> gpytorch.distributions.MultivariateNormal:
        x = torch.tanh(x)
        return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))


class Doubled(Exact):
    def forward(self, x: torch.Tensor) -> gpytorch.distributions.MultivariateNormal:
        return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x) * 1.001)


@pytest.mark.parametrize("kind", [Deep, Doubled])
def test_a_forward_that_does_more_is_noticed(kind: type[Exact]) -> None:
    with pytest.raises(InputError, match=r"own posterior differs .* forward\(\) does more"):
        from_gpytorch(shake(kind(KERNELS.ScaleKernel(KERNELS.RBFKernel()))), box=BOX)


def test_single_precision_is_refused_with_the_remedy() -> None:
    model = Exact(KERNELS.RBFKernel()).float()
    with pytest.raises(InputError, match=r"in torch.float32.*model.double\(\)"):
        from_gpytorch(model, box=BOX)
    half = Exact(KERNELS.RBFKernel())
    half.train_inputs = (half.train_inputs[0].float(),)  # its parameters alone are double
    with pytest.raises(InputError, match=r"in torch.float32"):
        from_gpytorch(half, box=BOX)


@pytest.mark.parametrize("transform", [Log10(indices=[0]), Warp(2, indices=[0]), ChainedInputTransform(n=Normalize(2))])
def test_other_input_transforms_are_named(transform: Any) -> None:
    x, y = data()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = SingleTaskGP(x, y[:, None], input_transform=transform.double())
    with pytest.raises(InputError, match=f"the input transform {type(transform).__name__}"):
        from_gpytorch(model, box=BOX)


def test_other_outcome_transforms_are_named() -> None:
    x, y = data()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = SingleTaskGP(x, y[:, None], outcome_transform=Log())
    with pytest.raises(InputError, match="the outcome transform Log"):
        from_gpytorch(model, box=BOX)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"box": BOX.select(("k",))}, r"has 2 inputs, the box 1 \(k\)"),
        ({"outputs": ("a", "b")}, r"outputs is \['a', 'b'\]; the model has 1 outputs"),
        ({"units": {"z": "mm"}}, r"units are given for \['z'\]"),
        ({"inputs": "log"}, "inputs is 'log'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_gpytorch(Exact(KERNELS.RBFKernel()), **({"box": BOX} | options))


@pytest.mark.parametrize("model", [None, torch.nn.Linear(2, 1), "model"])
def test_something_else_is_refused(model: object) -> None:
    with pytest.raises(InputError, match="not an ExactGP"):
        from_gpytorch(model, box=BOX)


def test_training_data_that_are_not_finite_are_refused() -> None:
    x, y = data()
    y[3] = torch.nan
    with pytest.raises(InputError, match="not finite"):
        from_gpytorch(Exact(KERNELS.RBFKernel(), xy=(x, y)), box=BOX)
