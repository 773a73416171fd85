"""A fitted surrogate for BoTorch's acquisition functions; `botorch_model` has the model, and imports BoTorch."""

from typing import TYPE_CHECKING, Literal

from uqms._teaching import taught
from uqms.errors import InputError
from uqms.surrogates.protocol import Surrogate
from uqms.surrogates.scalar_output import scalar_output
from uqms.surrogates.transforms import Identity

if TYPE_CHECKING:
    from uqms.surrogates.botorch_model import BoTorchModel

__all__ = ["to_botorch"]


@taught
def to_botorch(
    surrogate: Surrogate,
    output: str | None = None,
    *,
    inputs: Literal["unit", "own"] = "unit",
    transformed: bool = False,
) -> "BoTorchModel":
    """Return a fitted surrogate as a model for BoTorch's acquisition functions.

    Use it for goals that the library has no criterion for, such as the largest value of an output. Parameters of a
    calibration are the business of `next_runs`, boundaries that of `level_set`.

    Parameters
    ----------
    surrogate
        Of any kind, with the output as one number.
    output
        May be left out when there is only one.
    inputs
        In what the model takes the inputs: "unit", the unit cube of the design box, or their "own" units.
    transformed
        Of an output that was modelled through a transform: whether its values are meant on the transform's scale, where
        they are normal.

    Returns
    -------
    BoTorchModel
        A `botorch.models.model.Model` of one output, with `bounds` for `optimize_acqf` and `design` for `uqms.run`.

    Raises
    ------
    InputError
        When BoTorch is not installed; an output that is unknown, a curve, or not normal on its own scale.
    ConformanceError
        A surrogate whose rows depend on the input.

    Notes
    -----
    A surrogate with several draws of its hyperparameters is a mixture of normal distributions. BoTorch sees the normal
    distribution with its mean and covariance. Gradients by the inputs are those of the surrogate. Noise of a stochastic
    simulator is that in the mean over the box.

    Examples
    --------
    >>> import numpy as np, torch, uqms as uq
    >>> from botorch.acquisition import LogExpectedImprovement
    >>> design = uq.sobol(uq.ParameterSpace(a=uq.Uniform(0.0, 1.0)), 8, rng=1)
    >>> runs = uq.ensemble.build(design, {"y": np.sin(5.0 * design["a"].values)})
    >>> model = to_botorch(uq.GaussianProcess().fit(runs))
    >>> better = LogExpectedImprovement(model, best_f=float(runs["y"].max()))
    >>> bool(better(torch.tensor([[[0.31]]], dtype=torch.float64)) > better(torch.tensor([[[0.9]]]).double()))
    True
    """
    if inputs not in ("unit", "own"):
        raise InputError(
            f"to_botorch: inputs is {inputs!r}; give 'unit' (the unit cube) or 'own' (the inputs' own units)."
        )
    if not (hasattr(surrogate, "scores") and hasattr(surrogate, "layouts")):
        raise InputError(
            f"to_botorch: got a {type(surrogate).__name__}; give a fitted surrogate, uq.GaussianProcess().fit(runs)."
        )
    number, name = scalar_output(surrogate, output, "to_botorch")
    transform = surrogate.layouts[name].transform
    if not isinstance(transform, Identity) and not transformed:
        raise InputError(
            f"to_botorch: {name!r} is modelled through {transform.name}, so that it is not normal in its own unit. "
            "Pass transformed=True and give values such as best_f on that scale, or fit it without a transform."
        )
    try:
        from uqms.surrogates.botorch_model import BoTorchModel
    except ModuleNotFoundError as error:
        raise InputError("to_botorch needs the package botorch: pip install 'uqms[botorch]'.") from error
    return BoTorchModel(number, inputs == "own")
