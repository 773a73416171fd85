"""Models of the same data side by side: arviz's LOO and stacking, and Bayes factors in closed form."""

import arviz_stats
import numpy as np
import pytest
from calibration.problems import linear_surrogate, replicates
from scipy.stats import multivariate_normal

import uqms as uq
from uqms.errors import InputError

DATA = np.array([[1.9, 2.3, 1.6, 2.1, 2.6, 1.7, 2.0, 2.4]])


def sampled(slope: float, data: np.ndarray = DATA) -> uq.Posterior:
    problem = uq.Calibration(linear_surrogate(slope, 0.2), replicates(data, np.array([0.5])), uq.GaussianNoise(sd=0.3))
    return problem.sample(uq.SMC(particles=500), rng=1)


@pytest.fixture(scope="module")
def models() -> dict[str, uq.Posterior]:
    return {"steep": sampled(2.0), "flat": sampled(0.8)}


def test_bayes_factor_is_that_of_the_formula(models: dict[str, uq.Posterior]) -> None:
    table = uq.compare_models(models)
    assert list(table.index) == ["steep", "flat"]
    exact = [
        multivariate_normal(np.zeros(8), 0.3**2 * np.eye(8) + 0.2**2 + slope**2).logpdf(DATA[0]) for slope in (2.0, 0.8)
    ]
    error = np.maximum(table["mcse"], 0.03)
    assert np.all(np.abs(table["log_evidence"] - exact) < 4.0 * error)
    assert table.loc["steep", "bayes_factor"] == 1.0
    assert np.log(table.loc["flat", "bayes_factor"]) == pytest.approx(exact[1] - exact[0], abs=4.0 * np.hypot(*error))


def test_scores_and_weights_are_arviz_own(models: dict[str, uq.Posterior]) -> None:
    table = uq.compare_models(models)
    for name, posterior in models.items():
        assert table.loc[name, "elpd"] == pytest.approx(arviz_stats.loo(posterior.tree).elpd)
    assert table["weight"].sum() == pytest.approx(1.0)
    assert table["elpd_diff"].iloc[0] == 0.0


def test_models_without_evidence_have_none(models: dict[str, uq.Posterior]) -> None:
    chains = models["steep"].problem.sample(uq.Metropolis(draws=100, tune=20, thin=1, particles=100), rng=1)
    table = uq.compare_models({"chains": chains, "flat": models["flat"]})
    assert np.isnan(table.loc["chains", "log_evidence"])
    assert np.all(np.isnan(table["bayes_factor"]))


def test_what_cannot_be_compared(models: dict[str, uq.Posterior]) -> None:
    with pytest.raises(InputError, match="give at least two"):
        uq.compare_models({"steep": models["steep"]})
    with pytest.raises(InputError, match=r"\['flat'\] are no posteriors"):
        uq.compare_models({"steep": models["steep"], "flat": models["flat"].tree})
    with pytest.raises(InputError, match=r"observations of \['other'\] are not those of 'steep'"):
        uq.compare_models({"steep": models["steep"], "other": sampled(2.0, DATA + 0.1)})
