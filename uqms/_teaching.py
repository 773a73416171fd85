"""Calls that cannot be meant: an argument of another library's name, one too many, one that is missing; names too.

`taught` marks what users call. Where Python itself would raise a TypeError about the call, an InputError says what the
argument is called here and how the call goes. Errors from inside of a function pass as they are.
"""

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

from uqms.errors import InputError, UnknownNameError

__all__ = ["missing", "renamed", "taught", "taught_construction", "unknown_name"]

# What users of PyMC, SciPy, scikit-learn and NumPy write, and what it may be called here: the first that a call has.
WORDS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "mu": (("mean",), ("median",)),
    "loc": (("mean",), ("median",)),
    "mean": (("mean",), ("median",)),
    "sigma": (("sd",), ("sigma",), ("noise",), ("additive",)),
    **dict.fromkeys(("add", "absolute", "sigma_add", "sd_add"), (("additive",),)),
    **dict.fromkeys(("prop", "relative", "cv", "sigma_prop", "sd_prop"), (("proportional",), ("sigma",))),
    "std": (("sd",), ("sigma",)),
    "sd": (("sd",), ("sigma",), ("additive",)),
    "stddev": (("sd",), ("sigma",)),
    "scale": (("sd",), ("beta",), ("sigma",)),
    "rate": (("beta",),),
    "shape": (("alpha",),),
    "a": (("alpha",), ("low",), ("shape",)),
    "b": (("beta",), ("high",)),
    "lower": (("low",), ("lower",)),
    "upper": (("high",), ("upper",)),
    "min": (("low",), ("lower",)),
    "max": (("high",), ("upper",)),
    "bounds": (("low", "high"), ("lower", "upper")),
    "lam": (("mean",), ("rate",)),
    "nu": (("df",),),
    "seed": (("rng",),),
    "random_state": (("rng",),),
    "random_seed": (("rng",),),
    "rng": (("rng",),),
    "generator": (("rng",),),
    "n_samples": (("n",), ("draws",), ("particles",)),
    "samples": (("draws",), ("n",), ("particles",)),
    "size": (("n",), ("draws",)),
    "n": (("draws",), ("n",), ("doses",)),
    **dict.fromkeys(("n_runs", "num_runs", "n_points", "num_points", "batch_size"), (("n",), ("size",))),
    "n_measurements": (("size",),),
    "num_samples": (("draws",), ("n",)),
    "draws": (("particles",), ("draws",), ("n",)),
    "n_draws": (("draws",),),
    "warmup": (("tune",),),
    "num_warmup": (("tune",),),
    "burn": (("tune",),),
    "burn_in": (("tune",),),
    "n_chains": (("chains",),),
    "num_chains": (("chains",),),
    "n_jobs": (("workers",), ("cores",)),
    "processes": (("workers",), ("cores",)),
    "n_workers": (("workers",),),
    "cores": (("workers",), ("cores",)),
    "prior": (("space",),),
    "priors": (("space",),),
    "parameters": (("space",),),
    "likelihood": (("noise",),),
    "error": (("noise",), ("sd",)),
    "data": (("observations",), ("value",)),
    "obs": (("observations",),),
    "observed": (("observations",),),
    "y": (("value",), ("outputs",), ("observations",)),
    "x": (("coords",), ("points",), ("inputs",)),
    "X": (("points",), ("inputs",)),
    "model": (("surrogate",), ("simulator",)),
    "emulator": (("surrogate",),),
    "func": (("function",), ("simulator",)),
    "f": (("function",), ("simulator",)),
    "db": (("store",),),
    "path": (("store",),),
    "filename": (("path",),),
    "alpha": (("shape",), ("prob",)),
    "beta": (("rate",), ("scale",)),
    "level": (("prob",),),
    "ci": (("prob",),),
    "hdi_prob": (("prob",),),
    "cov": (("covariance",),),
    "names": (("parameters",), ("names",)),
    "n_restarts_optimizer": (("hyperparameters",),),
    "time": (("times",), ("coords",), ("at",)),
    "name": (("title",),),
    # columns of NONMEM
    "dv": (("value",),),
    "amt": (("amount",),),
    "dose": (("amount",),),
    "evid": (("event",),),
    "mdv": (("missing",),),
    "addl": (("additional",),),
    "ii": (("interval",), ("every",)),
    "interval": (("every",),),
    "ss": (("steady_state",),),
    "cmt": (("route",),),
    "cens": (("censored",),),
    "subject": (("id",),),
    # plots of other libraries
    "var_names": (("names",), ("parameters",)),
    **dict.fromkeys(("threshold", "cutoff"), (("level",), ("threshold",))),
    **dict.fromkeys(("omega", "random_effects_sd", "iiv"), (("spread",),)),
    **dict.fromkeys(("random_effects", "varying"), (("individual",),)),
    "target": (("above", "below"), ("targets",)),
}

# By call and argument: what the argument belongs to.
ELSEWHERE: Mapping[tuple[str, str], str] = {
    **{
        ("sample", word): f"{word} is a setting of the sampler: sample(uq.NUTS({right}=1000), rng=1)"
        for word, right in {
            "draws": "draws",
            "tune": "tune",
            "chains": "chains",
            "warmup": "tune",
            "samples": "draws",
            "n": "draws",
            "cores": "cores",
            "target_accept": "target_accept",
        }.items()
    },
    ("next_experiment", "n"): "there is no argument 'n', it is called 'size'",
    ("rare_event", "above"): "there is no argument 'above', it is called 'threshold'",
    ("rare_event", "level"): "there is no argument 'level', it is called 'threshold'",
    ("HistoryMatching", "threshold"): "there is no argument 'threshold'; the cut-off follows from level=0.005, the "
    "probability that any wave rules out the truth",
    ("HistoryMatching", "cutoff"): "there is no argument 'cutoff'; the cut-off follows from level=0.005, the "
    "probability that any wave rules out the truth",
    ("single", "rate"): "there is no argument 'rate'; give 'duration', which is amount / rate",
    ("repeated", "rate"): "there is no argument 'rate'; give 'duration', which is amount / rate",
    ("LogNormal", "mu"): "there is no argument 'mu'; give 'median', which is exp(mu)",
    ("LogNormal", "mean"): "there is no argument 'mean'; give 'median', which is mean / exp(sigma**2 / 2)",
    ("LogNormal", "sd"): "there is no argument 'sd'; give 'sigma', the sd of the logarithm",
    ("LogNormal", "scale"): "there is no argument 'scale', it is called 'median'",
    ("LogNormal", "s"): "there is no argument 's', it is called 'sigma'",
    ("LogitNormal", "mu"): "there is no argument 'mu'; give 'median', which is 1 / (1 + exp(-mu))",
    ("LogitNormal", "mean"): "there is no argument 'mean'; give 'median'",
    ("LogitNormal", "sd"): "there is no argument 'sd'; give 'sigma', the sd of the logit",
    ("LogNormalNoise", "sd"): "there is no argument 'sd'; give 'sigma', the sd of the logarithm",
    ("HalfCauchy", "sd"): "there is no argument 'sd', since its standard deviation is infinite; give the scale 'beta'",
    ("HalfCauchy", "sigma"): "there is no argument 'sigma', it is called 'beta'",
    ("HalfStudentT", "df"): "there is no argument 'df', it is called 'nu'",
    ("Exponential", "scale"): "there is no argument 'scale'; its inverse is 'rate' (rate = 1 / scale)",
    ("Exponential", "mean"): "there is no argument 'mean'; its inverse is 'rate' (rate = 1 / mean)",
    ("Exponential", "sd"): "there is no argument 'sd'; its inverse is 'rate' (rate = 1 / sd)",
    ("Gamma", "scale"): "there is no argument 'scale'; its inverse is 'rate' (rate = 1 / scale)",
    ("GaussianProcess", "n_restarts_optimizer"): "starting points of the optimiser are chosen by uqms",
    ("GaussianProcess", "alpha"): "noise of the runs is noise=, a word",
    ("GaussianProcess", "normalize_y"): "outputs are always standardised",
}


# Arguments of other libraries' figures.
FIGURES = "figures of uqms have their own axes; change them afterwards: figure = {called}(...); figure.axes[0]"
OF_FIGURES = ("ax", "axes", "fig", "figure", "figsize")

# By call, what it takes where another library takes something else; it is said behind what is wrong.
HINTS: Mapping[str, str] = {
    "GaussianProcess.fit": "Inputs X and outputs y are one ensemble: uq.ensemble.build({'a': X[:, 0]}, {'y': y}).",
    "surrogate.predict": "Points are one mapping: predict({'a': 1.0, 'b': [2.0]}), or a table.",
    "posterior.predict": "Parameters are those of the posterior; give conditions={...} or coords={...}.",
    "compare_models": "Posteriors are given by name: compare_models({'first': one, 'second': other}).",
    "verify": "It takes runs at draws: uq.run(simulator, uq.verification_design(posterior, 50, rng=1)).",
    "correct": "It takes runs at draws: uq.run(simulator, uq.verification_design(posterior, 20, rng=1)).",
    "HistoryMatching.told": "It takes runs: waves.told(uq.run(simulator, waves.propose(30, rng=1))).",
    "MultiFidelity.fit": "Runs of all levels are one ensemble: fit(uq.ensemble.combine(coarse, fine)).",
    "NonlinearMultiFidelity.fit": "Runs of all levels are one ensemble: fit(uq.ensemble.combine(coarse, fine)).",
    "Superposition.predict": "Times and regimens are those of the surrogate; select them: .mean['conc'].sel(time=...).",
    "run": "A design is uq.sobol(space, 64, rng=1).",
    "next_experiment": "Ideas are uq.candidates(outputs='conc', coords={'time': [1.0, 2.0, 4.0]}).",
}

# By call, how it goes where not all that is needed has no default.
HOW: Mapping[str, str] = {
    "Calibration": "The call is uq.Calibration(surrogate, observations, noise=uq.GaussianNoise(sd=...))",
    "Chain": "The call is uq.Chain(cell=..., tissue=..., links={'tissue.apd': 'cell.apd'})",
    "Regimen": "Usual regimens are uq.Regimen.single(25.0) and uq.Regimen.repeated(4.0, every=12.0, doses=9); "
    "the call is uq.Regimen(times, amounts)",
}

# By class, names that other libraries have, and what is meant here.
NAMES: Mapping[str, Mapping[str, str]] = {
    "CredibilityReport": {
        **dict.fromkeys(("save", "write", "to_file", "html"), "it is report.to_html(path)"),
        "to_pdf": "it is report.to_html(path); a browser prints the page as PDF",
    },
    "HistoryMatching": {
        **dict.fromkeys(("sample", "posterior", "calibrate"), "it is waves.calibration().sample(rng=1)"),
        **dict.fromkeys(
            ("run", "next", "step", "iterate"),
            "the next wave is waves.told(uq.run(simulator, waves.propose(30, rng=1)))",
        ),
        **dict.fromkeys(("nroy", "region", "space"), "the fraction that is not ruled out is in waves.table"),
    },
    "Posterior": {"load": "it is uq.load_posterior(path)"},
    "Prior": {
        **dict.fromkeys(("sample", "rvs", "random"), "draws are prior.draw(rng=1, size=1000)"),
        **dict.fromkeys(("pdf", "logpdf", "log_prob", "logp", "density"), "the log density is prior.log_density(x)"),
        **dict.fromkeys(("ppf", "icdf", "quantiles"), "quantiles are prior.quantile(p)"),
        **dict.fromkeys(("mean", "sd", "std", "var"), "moments are prior.moments()"),
    },
    "Observations": {
        "doses": "doses are in data.regimens, by subject",
        "regimen": "doses are in data.regimens, by subject",
        **dict.fromkeys(("to_dataframe", "to_pandas", "df", "data"), "it is data.table"),
    },
    "Regimen": dict.fromkeys(("dose", "total", "amount"), "each dose is in regimen.doses, amounts in regimen.amounts"),
    "MultiFidelitySurrogate": dict.fromkeys(
        ("lower", "coarse", "predict_level"), "it predicts the last of its levels, surrogate.levels[-1]"
    ),
    "NextExperiment": dict.fromkeys(("chosen", "design", "x"), "the chosen measurements are in best"),
    "RunPlan": dict.fromkeys(("points", "best"), "the proposed points are plan.design, or plan.designs by label"),
    "Study": {
        "sample": "it is study.posterior(), or study.run() for all steps",
        "fit": "it is study.surrogate(ensemble), or study.run() for all steps",
        "calibrate": "it is study.calibration(surrogate), or study.run() for all steps",
        "load": "it is uq.Study.from_toml(path)",
        "save": "it is study.to_toml(path)",
        "report": "it is `uqms study report study.toml`, or uq.credibility_report(posterior)",
    },
}
MOST_NAMES = 15  # of a class, that an error lists

# What a class is called where a user meets it: the constructor, and the object whose method is called.
SHOWN: Mapping[str, tuple[str, str]] = {
    "SingleCalibration": ("Calibration", "problem"),
    "JointCalibration": ("Calibration", "problem"),
    "PopulationCalibration": ("Calibration", "problem"),
    "Problem": ("Calibration", "problem"),
    "NamedSurrogate": ("surrogate", "surrogate"),
    "GaussianProcessSurrogate": ("surrogate", "surrogate"),
    "Posterior": ("Posterior", "posterior"),
    "Prediction": ("Prediction", "prediction"),
    "PosteriorPrediction": ("Prediction", "prediction"),
    "ParameterSpace": ("ParameterSpace", "space"),
}


class TaughtClass(type):
    """Metaclass whose classes answer an attribute that they do not have with an error that says where it is."""

    def __getattr__(cls, name: str) -> Any:
        """Raise the error of an attribute that does not exist, with what is meant."""
        raise missing(type(cls), cls.__name__, name, NAMES.get(cls.__name__, {}), dir(cls))


def taught[T](target: T, room: str = "") -> T:
    """Mark a function, or a class with its public methods, whose wrong calls are answered by an InputError.

    A function of a module of its own is called by the name of this `room` too, as in "plots.pairs".
    """
    if not isinstance(target, type):
        function = cast("Callable[..., Any]", target)
        return cast("T", _taught(function, f"{room}{'.' if room else ''}{function.__name__}", method=False))
    for name, member in list(vars(target).items()):
        if name.startswith("_") and name != "__init__":
            continue
        constructor, value = SHOWN.get(target.__name__, (target.__name__, target.__name__))
        called = constructor if name == "__init__" else f"{value}.{name}"
        if isinstance(member, classmethod):
            setattr(target, name, classmethod(_taught(member.__func__, f"{constructor}.{name}", method=True)))
        elif isinstance(member, staticmethod):
            setattr(target, name, staticmethod(_taught(member.__func__, called, method=False)))
        elif inspect.isfunction(member):
            setattr(target, name, _taught(member, called, method=True))
    if not hasattr(target, "__getattr__"):
        setattr(target, "__getattr__", _unknown)  # noqa: B010
    return target


def _unknown(self: object, name: str) -> Any:
    """Raise the error of an attribute that does not exist, with what is meant."""
    kind, text = _unknown_text(cast("Any", type(self)), name, tuple(getattr(self, "__dict__", ())))
    raise kind(text)


@functools.lru_cache(maxsize=4096)  # also asked by hasattr, many times
def _unknown_text(cls: type, name: str, own: tuple[str, ...]) -> tuple[type[AttributeError], str]:
    public = [one for one in {*dir(cls), *own} if not one.startswith("_")]
    advice = next((NAMES[one.__name__] for one in cls.__mro__ if one.__name__ in NAMES), {})
    error = missing(cls, cls.__name__, name, advice, public)
    text = str(error)
    if isinstance(error, UnknownNameError) and text.endswith(f"has no {name!r}.") and len(public) <= MOST_NAMES:
        text = f"{cls.__name__} has no {name!r}; it has {', '.join(sorted(public))}."
    return type(error), text


def taught_construction[T: type](target: T) -> T:
    """Mark a class whose wrong construction is answered by an InputError, and leave its methods as they are.

    For kernels, whose methods are compiled.
    """
    constructor = cast("Any", target).__init__
    setattr(target, "__init__", _taught(constructor, target.__name__, method=True))  # noqa: B010
    return target


def _taught(function: Callable[..., Any], called: str, *, method: bool) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*arguments: Any, **settings: Any) -> Any:
        try:
            return function(*arguments, **settings)
        except TypeError:
            message = _explained(function, called, arguments, settings, method)
            if message is None:
                raise
        raise InputError(message)

    return call


def _explained(
    function: Callable[..., Any], called: str, arguments: Sequence[Any], settings: Mapping[str, Any], method: bool
) -> str | None:
    """Return what is wrong with a call, and how it goes; None where nothing is."""
    signature = inspect.signature(function)
    try:
        signature.bind(*arguments, **settings)
    except TypeError:
        name, _, last = called.rpartition(".")
        if method and name and (not arguments or ("self" in signature.parameters and _on_class(name, arguments[0]))):
            return f"{last} is called on an object, not on the class: {name}(...).{last}(...)."
        message = _wrong(signature, called, arguments, settings, method)
        return f"{message} {HINTS[called]}" if called in HINTS else message
    return None


def _wrong(
    signature: inspect.Signature, called: str, arguments: Sequence[Any], settings: Mapping[str, Any], method: bool
) -> str:
    every = list(signature.parameters.values())
    if method:
        every, arguments = every[1:], arguments[1:]
    places = [one for one in every if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    names = [one.name for one in every if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
    wrong = [name for name in settings if name not in names]
    if wrong and not any(one.kind == one.VAR_KEYWORD for one in every):
        return f"{called}: {'; '.join(renamed(called, name, names) for name in wrong)}. {_how(called, every)}"
    filled = {one.name for one in places[: len(arguments)]}
    twice = [name for name in settings if name in filled]
    if twice:
        return f"{called}: {_list(twice)} is given twice, by position and by name. {_how(called, every)}"
    lost = [one.name for one in every if one.default is one.empty and one.name in names]
    lost = [name for name in lost if name not in filled and name not in settings]
    if lost:
        return f"{called}: {_list(lost)} {'is' if len(lost) == 1 else 'are'} missing. {_how(called, every)}"
    more = f"{len(arguments)} argument{'s' if len(arguments) > 1 else ''} by position"
    takes = f"it takes {len(places)}" if places else "it takes them by name"
    return f"{called}: got {more}, {takes}. {_how(called, every)}"


def _on_class(name: str, first: object) -> bool:
    """Return whether a method was called on its class: its first argument is no object of that class."""
    return all(name not in (cls.__name__, *SHOWN.get(cls.__name__, ())) for cls in type(first).__mro__)


def renamed(called: str, name: str, names: Sequence[str]) -> str:
    """Return what an unknown argument is called here."""
    if called.startswith("plots.") and name in OF_FIGURES:
        return f"there is no argument {name!r}: {FIGURES.format(called=f'uq.{called}')}"
    elsewhere = ELSEWHERE.get((called.rpartition(".")[2], name))
    if elsewhere is not None:
        return elsewhere
    candidates = [words for words in WORDS.get(name, ()) if set(words) <= set(names)]
    found: Iterable[str] = candidates[0] if candidates else difflib.get_close_matches(name, names, 1, 0.6)
    right = " and ".join(repr(word) for word in found)
    return f"there is no argument {name!r}" + (f", it is called {right}" if right else "")


def _how(called: str, parameters: Sequence[inspect.Parameter]) -> str:
    """Return how a call goes: what it needs, then the names of what it takes beside."""
    required: list[str] = []
    optional: list[str] = []
    for one in parameters:
        if one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD):
            required.append(f"{'*' if one.kind == one.VAR_POSITIONAL else '**'}{one.name}")
        elif one.default is one.empty:
            required.append(one.name if one.kind != one.KEYWORD_ONLY else f"{one.name}=...")
        else:
            optional.append(f"{one.name}=" if one.kind == one.KEYWORD_ONLY else one.name)
    beside = f"; it also takes {', '.join(optional)}" if optional else ""
    return f"{HOW.get(called, f'The call is {called}({", ".join(required)})')}{beside}."


def _list(names: Sequence[str]) -> str:
    *first, last = map(repr, names)
    return f"{', '.join(first)} and {last}" if first else last


def spelled(kind: type) -> str:
    """Name of a class as the user writes it: only the library's own are under `uq`."""
    return f"uq.{kind.__name__}" if kind.__module__.startswith("uqms.") else kind.__name__


def missing(cls: type, owner: str, name: str, advice: Mapping[str, str], names: Iterable[str] = ()) -> AttributeError:
    """Return the error for `__getattr__`: with advice, but not of private names, nor where a property failed inside."""
    if name.startswith("_"):
        return AttributeError(f"{cls.__name__!r} object has no attribute {name!r}")
    if hasattr(cls, name):
        return AttributeError(f"{cls.__name__}.{name} reads an attribute that does not exist")
    return unknown_name(owner, name, advice, names or dir(cls))


def unknown_name(owner: str, name: str, advice: Mapping[str, str], names: Iterable[str]) -> UnknownNameError:
    """Return the error of an attribute that does not exist, with what is meant."""
    if name in advice:
        return UnknownNameError(f"{owner} has no {name!r}: {advice[name]}.")
    public = [one for one in names if not one.startswith("_")]
    lower = {one.lower(): one for one in public}
    if name.lower() in lower:
        return UnknownNameError(f"{owner} has no {name!r}, it is called {lower[name.lower()]}.")
    near = [lower[one] for one in difflib.get_close_matches(name.lower(), lower, 3, 0.6)]
    return UnknownNameError(f"{owner} has no {name!r}" + (f"; did you mean {' or '.join(near)}?" if near else "."))
