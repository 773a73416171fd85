import numpy as np
import pytest
from planning.known import drawn, known_process, space_of
from scipy.stats import binom, norm

import uqms as uq
from uqms.errors import InputError
from uqms.planning import level_sets
from uqms.planning.level_sets import expected_misclassified, gained_by, given_run


def waved(design):
    """Return runs of a smooth output of two inputs."""
    a, b = design["a"].values, design["b"].values
    return uq.ensemble.build(design, {"y": np.sin(4.0 * a) + np.cos(3.0 * b) + a * b})


def test_the_probability_of_the_wrong_side_against_draws():
    rng = np.random.default_rng(1)
    for mean, sd, gained in ((0.4, 1.0, 0.6), (-1.2, 2.0, 3.5), (0.1, 0.3, 0.01)):
        later = mean + np.sqrt(gained) * rng.standard_normal(400_000)  # the mean once the runs are there
        truth = later + np.sqrt(sd**2 - gained) * rng.standard_normal(400_000)
        wrong = np.mean((later > 0) != (truth > 0))
        error = np.sqrt(wrong * (1 - wrong) / 400_000)
        assert abs(expected_misclassified(*map(np.array, (mean, sd, gained))) - wrong) < 4 * error
    mean, sd = np.array([0.5, -2.0]), np.array([1.0, 1.0])
    np.testing.assert_allclose(expected_misclassified(mean, sd, np.zeros(2)), norm.cdf(-np.abs(mean) / sd))
    np.testing.assert_allclose(expected_misclassified(mean, sd, sd**2), 0.0, atol=1e-15)


def test_rank_one_updates_are_the_process_with_the_runs():
    rng = np.random.default_rng(2)
    x, y = drawn(rng, 7, 0, 2, 0.4, 1)
    points, choices = rng.random((40, 2)), rng.random((3, 2))
    together = np.vstack([points, choices])
    C = known_process(x, y, [0.4]).scores(together).covariance[0, 0][40:]
    gained = np.zeros(40)
    for step in range(3):
        gained += gained_by(C, 40, 0.0)[step]
        C = given_run(C, 40, step, 0.0)
        more = known_process(np.vstack([x, choices[: step + 1]]), np.vstack([y, np.zeros((step + 1, 1))]), [0.4])
        before = known_process(x, y, [0.4]).scores(points).covariance[0, 0]
        after = more.scores(points).covariance[0, 0]
        np.testing.assert_allclose(np.diagonal(before) - np.diagonal(after), gained, atol=1e-8)


def test_a_run_is_worth_what_refitting_with_its_possible_values_says():
    """The expected volume on the wrong side, over the values that a run may have, by brute force."""
    rng = np.random.default_rng(3)
    x, y = drawn(rng, 6, 0, 2, 0.5, 1)
    surrogate = known_process(x, y, [0.5])
    points = rng.random((200, 2))
    first = surrogate.scores(points[:, None])
    at = points[[np.argmin(np.abs(first.mean[0, :, 0, 0]) / np.sqrt(first.covariance[0, :, 0, 0, 0]))]] + 0.01
    found = surrogate.scores(np.vstack([points, at]))
    mean, C = found.mean[0, :, 0], found.covariance[0, 0]
    sd = np.sqrt(np.diagonal(C))
    said = expected_misclassified(mean[:200], sd[:200], gained_by(C[200:], 200, 0.0)[0]).mean()
    volumes = []
    for value in mean[200] + sd[200] * norm.ppf((np.arange(60) + 0.5) / 60):
        later = known_process(np.vstack([x, at]), np.vstack([y, [[value]]]), [0.5]).scores(points)
        s = np.sqrt(np.diagonal(later.covariance[0, 0]))
        volumes.append(norm.cdf(-np.abs(later.mean[0, :, 0]) / s).mean())
    now = norm.cdf(-np.abs(mean[:200]) / sd[:200]).mean()
    assert said < 0.97 * now
    assert said == pytest.approx(np.mean(volumes), rel=0.01)


@pytest.mark.slow
def test_bands_cover_the_boundary_jointly():
    rng, problems, right, pointwise, inside = np.random.default_rng(4), 25, 0, 0, 0
    for seed in range(problems):
        x, y = drawn(rng, 10, 400, 2, 0.25, 1)
        edge = uq.level_set(known_process(x[:10], y[:10], [0.25]), 0.2, rng=seed)
        points = {"a": x[10:, 0], "b": x[10:, 1]}
        truth = np.where(y[10:, 0] > 0.2, 1, -1)
        right += not np.any(edge.side(points) * truth < 0)
        t = norm.ppf(np.clip(edge.probability(points), 1e-15, 1 - 1e-15))
        pointwise += not np.any(np.sign(t) * (np.abs(t) > 1.645) * truth < 0)
        low, high = edge.interval
        half = 1.0 / np.sqrt(400)  # of the points that stand for the box
        inside += low - half <= np.mean(truth > 0) <= high + half
    assert right >= binom.ppf(0.001, problems, 0.95)
    assert inside >= binom.ppf(0.001, problems, 0.95)
    assert pointwise < binom.ppf(0.001, problems, 0.95)  # planted: 95 % of each point alone


def test_volume_and_probability_of_a_known_boundary():
    design = uq.sobol(space_of(2), 32, rng=1)
    runs = uq.ensemble.build(design, {"y": design["a"].values + design["b"].values ** 2})
    surrogate = uq.GaussianProcess(hyperparameters="point").fit(runs)
    edge = uq.level_set(surrogate, 1.0)
    assert edge.volume == pytest.approx(1.0 / 3.0, abs=0.01)
    low, high = edge.interval
    assert low <= edge.volume <= high
    assert high - low < 0.01
    opposite = uq.level_set(surrogate, 1.0, below=True)
    assert opposite.volume == pytest.approx(1.0 - edge.volume, abs=0.005)
    points = {"a": [0.3, 0.9], "b": [0.2, 0.9]}
    np.testing.assert_allclose(opposite.probability(points), 1.0 - edge.probability(points), atol=1e-9)
    assert edge.side(points).tolist() == [-1, 1]
    line = uq.level_set(surrogate, 1.0, conditions={"b": 0.5})  # above where a > 0.75
    assert line.volume == pytest.approx(0.25, abs=0.01)
    assert line.side({"a": [0.6, 0.9]}).tolist() == [-1, 1]
    assert np.all(line.propose(3, rng=1)["b"] == 0.5)
    scaled = uq.ensemble.build(design, {"y": np.exp(design["a"].values + design["b"].values ** 2)})
    log = uq.GaussianProcess(outputs={"y": uq.Scalar(transform="log")}, hyperparameters="point").fit(scaled)
    assert uq.level_set(log, np.e).volume == pytest.approx(edge.volume, abs=0.005)
    with pytest.raises(InputError, match="cannot have"):
        uq.level_set(log, -1.0)


@pytest.mark.slow
def test_proposals_lie_at_the_boundary_and_the_loop_stops():
    space = space_of(2)
    runs = waved(uq.sobol(space, 10, rng=1))
    # Without main effects: of a sum, runs anywhere in the box show where the boundary is.
    settings = uq.GaussianProcess(kernel=uq.Adapted(uq.Matern52()))
    edge = uq.level_set(settings.fit(runs), 1.2, runs=runs, settings=settings)
    fill = uq.level_set(settings.fit(waved(uq.sobol(space, 22, rng=1))), 1.2)
    rounds = 0
    while edge.worthwhile(0.004):
        design = edge.propose(4, rng=rounds)
        edge = edge.told(waved(design))
        rounds += 1
        assert rounds <= 3
    assert edge.misclassified < fill.misclassified
    grid = uq.sobol(space, 2048, rng=7)
    truth = waved(grid)["y"].values > 1.2
    assert np.mean((edge.probability(grid) > 0.5) != truth) < 0.01
    assert not np.any((edge.side(grid) != 0) & ((edge.side(grid) > 0) != truth))
    near = np.abs(waved(design)["y"].values - 1.2)
    assert np.median(near) < 0.3 * np.median(np.abs(waved(grid)["y"].values - 1.2))
    free = edge.propose(4, rng=1)
    priced = edge.propose(4, rng=1, cost=lambda points: np.where(points["a"] > 0.5, 1000.0, 1.0))
    assert (free["a"] > 0.5).any()
    assert (priced["a"] <= 0.5).all()


def test_the_probability_of_an_event_has_a_level_set():
    runs = waved(uq.sobol(space_of(2), 40, rng=1))
    event = uq.EventProbability(lambda table: table["y"] > 1.2, hyperparameters="point")
    edge = uq.level_set(event.fit(runs), 0.5, runs=runs, settings=event)
    grid = uq.sobol(space_of(2), 2048, rng=7)
    truth = waved(grid)["y"].values > 1.2
    low, high = edge.interval
    assert low < truth.mean() < high
    assert not np.any((edge.side(grid) != 0) & ((edge.side(grid) > 0) != truth))
    later = edge.told(waved(edge.propose(12, rng=1)))
    assert later.misclassified < edge.misclassified
    assert "probability of the event" in repr(later)


def test_words_for_what_is_wrong():
    runs = waved(uq.sobol(space_of(2), 10, rng=1))
    surrogate = uq.GaussianProcess(hyperparameters="point").fit(runs)
    with pytest.raises(InputError, match="give one of"):
        uq.level_set(surrogate, 1.0, output="z")
    with pytest.raises(InputError, match="finite number"):
        uq.level_set(surrogate, np.nan)
    with pytest.raises(InputError, match="fitted surrogate"):
        uq.level_set(runs, 1.0)
    with pytest.raises(InputError, match="hold some"):
        uq.level_set(surrogate, 1.0, conditions={"c": 1.0})
    with pytest.raises(InputError, match="from 0 to 1"):
        uq.level_set(surrogate, 1.0, conditions={"a": 2.0})
    edge = uq.level_set(surrogate, 1.0)
    with pytest.raises(InputError, match="runs so far"):
        edge.told(runs)
    with pytest.raises(InputError, match="b is missing"):
        edge.probability({"a": 0.5})
    with pytest.raises(InputError, match="tolerance is 0"):
        edge.worthwhile(0)
    with pytest.raises(InputError, match="positive number"):
        edge.propose(2, cost=lambda points: -points["a"])
    with pytest.raises(InputError, match="n is 0"):
        edge.propose(0)


def test_figure():
    design = uq.sobol(space_of(3), 20, rng=1)
    runs = uq.ensemble.build(design, {"y": design["a"].values + design["b"].values ** 2 - design["c"].values})
    edge = uq.level_set(uq.GaussianProcess(hyperparameters="point").fit(runs), 0.3, runs=runs)
    figure = uq.plots.level_set(edge, names=["a", "b"], at={"c": 0.2}, proposed=edge.propose(3, rng=1))
    figure.canvas.draw()
    assert len(figure.axes) == 2
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["boundary", "band, 95 %", "run", "proposed"]
    with pytest.raises(InputError, match="give two of"):
        uq.plots.level_set(edge, names=["a"])
    with pytest.raises(InputError, match="what uq.level_set"):
        uq.plots.level_set(runs)


@pytest.mark.parametrize("rank", [0, 3, 40])
def test_root_of_a_covariance_that_may_be_singular(rank: int) -> None:
    some = np.random.default_rng(1).standard_normal((40, rank)) * np.geomspace(1.0, 1e-4, rank)
    covariance = some @ some.T
    root = level_sets._root(covariance)
    assert root.shape == (40, rank)
    np.testing.assert_allclose(root @ root.T, covariance, atol=1e-11 * max(covariance.max(), 1.0))
