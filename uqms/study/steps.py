"""The results of a study in files: what exists, what it was made from, what is stale and why; and the run that resumes.

Each step has *ingredients*: hashes of the sections that it reads, of the functions and files that they name, and of the
results of earlier steps. They are kept in ``record.json`` beside the results. A step whose ingredients are no longer
those of the study file is stale, and `run_study` repeats it.
"""

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import xarray as xr

import uqms
from uqms import ensemble as tables
from uqms.calibration import Posterior, load_posterior
from uqms.diagnostics.correction import Correction
from uqms.ensemble.netcdf import atomic_path, checksum
from uqms.errors import InputError, MissingFileError, SamplingInterrupted, StorageError, UqmsError
from uqms.runs import RunStore
from uqms.simulators import FunctionSimulator
from uqms.study.folder import sha256_of
from uqms.surrogates import load_surrogate

if TYPE_CHECKING:
    from types import FunctionType

    from uqms.calibration.predict import PosteriorPrediction
    from uqms.diagnostics.verification import Verification
    from uqms.planning.measurements import NextExperiment
    from uqms.planning.runs import RunPlan
    from uqms.study.study import Study

__all__ = ["Results", "State", "finished_runs", "run_study", "status_of", "write_report"]

RECORD = "record.json"
SPACE = ("parameters", "conditions", "blocks")
CALIBRATION = (
    "chain",
    "superposition",
    "data",
    "subjects",
    "population",
    "noise",
    "discrepancy",
    "calibration",
    "sample",
)
HOW = ("store", "workers", "timeout", "retry_failed", "failures")  # settings of runs that do not change the results
ENDED = "%Y-%m-%dT%H:%M:%S%z"


@final
@dataclass(frozen=True)
class State:
    """A step of a study: whether its result exists and belongs to the study file.

    Attributes
    ----------
    step
        "runs", "surrogate", "posterior", "verification", "correction", "prediction", "next_experiment" or "next_runs",
        with the name of the member or prediction, and the number of the round.
    state
        "up to date", "missing", "stale" or "damaged".
    reason
        Why it is not up to date.
    file
        The file of the result.
    ended
        When it was made, in ISO 8601; empty where it was not.
    """

    step: str
    state: str
    reason: str
    file: Path
    ended: str = ""

    @property
    def current(self) -> bool:
        """Whether the result can be used."""
        return self.state == "up to date"


@final
@dataclass(frozen=True)
class _Step:
    """A step: its name, its file, its ingredients, and how its result is made and written."""

    name: str
    file: Path
    ingredients: Mapping[str, str]
    make: Callable[[], Any]
    write: Callable[[Any, Path], None]
    content: Callable[[Any], str] | None = None  # a hash of what later steps read, where it is not the ingredients


@final
class Results:
    """The results of a study, read from their files when they are first used.

    Parameters
    ----------
    study
        The study.
    """

    def __init__(self, study: "Study") -> None:
        self.study = study
        self._made: dict[str, Any] = {}

    def __repr__(self) -> str:
        return "\n".join(f"{one.step:24} {one.state}{f': {one.reason}' if one.reason else ''}" for one in self.states)

    @property
    def states(self) -> "tuple[State, ...]":
        """The state of each step."""
        return status_of(self.study)

    def _file(self, name: str, suffix: str) -> Path:
        return self.study.results / f"{name}{suffix}"

    def _have[T](self, key: str, read: Callable[[], T]) -> T:
        if key not in self._made:
            self.study.enter()
            self._made[key] = read()
        return self._made[key]  # type: ignore[no-any-return]

    def remember(self, name: str, made: Any) -> None:
        """Let later steps of this process take the result of a step as it is."""
        self._made[name] = made

    def _runs(self, step: str) -> xr.Dataset:
        return self._have(step, lambda: tables.from_netcdf(self._file(step, ".nc")))

    def ensembles(self, member: str = "", rounds: int | None = None) -> list[xr.Dataset]:
        """Return the runs of a member: those of the design, and those of each round until `rounds`."""
        return [self._runs(step) for step in self._steps("runs", member, rounds)]

    def _steps(self, kind: str, member: str, rounds: int | None) -> list[str]:
        last = len(self.study.rounds) if rounds is None else rounds
        further = [k for k in range(1, last + 1) if self.study.member_of(k) == member]
        return [_named(kind, member), *(_of_round(_named(kind, member), k) for k in further)]

    def ensemble(self, member: str = "") -> xr.Dataset:
        """Return all runs of a member; of a study of one simulator without its name."""
        runs = self.ensembles(member)
        return tables.combine(*runs) if len(runs) > 1 else runs[0]

    def surrogate(self, member: str = "", rounds: int | None = None) -> Any:
        """Return the fitted surrogate of a member, after all rounds or the first of them."""
        one = self.study.members[member]
        if one.direct:
            return one.simulator
        step = self._steps("surrogate", member, rounds)[-1]

        def read() -> Any:
            file = self._file(step, ".npz")
            if file.exists():
                return load_surrogate(file)
            runs = self.ensembles(member, rounds)
            return self.study.refitted(runs, member) if len(runs) > 1 else self.study.fitted(runs[0], member)

        return self._have(step, read)

    def combined(self, rounds: int | None = None) -> Any:
        """Return the surrogate that the calibration takes, after all rounds or the first of them."""
        return self.study.combined({name: self.surrogate(name, rounds) for name in self.study.members})

    def posterior_after(self, rounds: int) -> Posterior:
        """Return the posterior after the first rounds, before it is corrected.

        Raises
        ------
        MissingFileError
            When it was not sampled yet.
        """
        step = _of_round("posterior", rounds)
        file = self._file(step, ".nc")
        if step not in self._made and not file.exists():
            raise MissingFileError(f"the study has no posterior yet: `uqms study run {self.study.path.name}`.")
        return self._have(step, lambda: load_posterior(file))

    @property
    def posterior(self) -> Posterior:
        """The posterior, after all rounds, and corrected where the study has a section [correct].

        Raises
        ------
        MissingFileError
            When it was not sampled, or not corrected yet.
        """
        if "correct" not in self.study.document:
            return self.posterior_after(len(self.study.rounds))
        if (correction := self.correction) is None:
            raise MissingFileError(f"the posterior is not corrected yet: `uqms study run {self.study.path.name}`.")
        return correction.posterior

    @property
    def verification(self) -> "Verification | None":
        """The verification on the simulator, None where the study has none."""
        if "verification" not in self._made and not self._file("verification", ".nc").exists():
            return None
        before = self.posterior_after(len(self.study.rounds))
        return self._have("verified", lambda: self.study.verification(before, self._runs("verification")))

    @property
    def correction(self) -> "Correction | None":
        """The correction by the runs of the verification, None where the study has none."""
        file = self._file("correction", ".nc")
        if "correct" not in self.study.document or ("correction" not in self._made and not file.exists()):
            return None

        def read() -> Correction:
            verification = self.verification
            if verification is None:
                raise MissingFileError(f"the study has no runs of [verify]: `uqms study run {self.study.path.name}`.")
            return Correction.between(self.posterior_after(len(self.study.rounds)), load_posterior(file), verification)

        return self._have("correction", read)

    @property
    def predictions(self) -> "dict[str, PosteriorPrediction]":
        """The predictions, by name."""
        return self._have("predictions", lambda: self.study.predictions(self.posterior))

    @property
    def next_experiment(self) -> "NextExperiment | None":
        """The measurements to make next, None where the study does not ask for them."""
        if "next_experiment" not in self.study.document:
            return None
        return self._have("next_experiment", lambda: self.study.next_experiment(self.posterior))

    @property
    def next_runs(self) -> "RunPlan | None":
        """The runs to make next, None where the study does not ask for them."""
        if "next_runs" not in self.study.document:
            return None
        return self._have("next_runs", lambda: self.study.next_runs(self.posterior))


# ------------------------------------------------------------------------------------------------------- ingredients
def _named(step: str, member: str) -> str:
    return f"{step}_{member}" if member else step


def _of_round(step: str, number: int) -> str:
    return f"{step}_round{number}" if number else step


def _sha(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=repr).encode()).hexdigest()


@final
class _Ingredients:
    """Hashes of what the steps of a study read."""

    def __init__(self, study: "Study") -> None:
        self.study = study

    def sections(self, names: tuple[str, ...], member: str = "") -> Iterator[tuple[str, str]]:
        """Yield the hash of each section, and of the functions, classes and files that it names."""
        prefix: tuple[str, ...] = ("members", member) if member else ()
        table: Any = self.study.document
        for key in prefix:
            table = table[key]
        for name in names:
            if name in table:
                given = table[name]
                if name == "runs":
                    given = {key: one for key, one in given.items() if key not in HOW}
                yield f"section [{'.'.join((*prefix, name))}]", _sha(given)
                yield from self._used((*prefix, name))

    def _used(self, prefix: tuple[str, ...]) -> Iterator[tuple[str, str]]:
        reading = self.study.reading
        for path, code in reading.code.items():
            if path[: len(prefix)] == prefix:
                yield f"code {code.__module__}:{code.__qualname__}", _code(code)
        for path, file in reading.files.items():
            if path[: len(prefix)] == prefix:
                yield f"file {file.relative_to(self.study.folder)}", sha256_of(file)


def _code(code: "FunctionType | type") -> str:
    """Return a hash of what a function computes; of a class, and where that cannot be said, of its module's text."""
    if not isinstance(code, type):
        with suppress(InputError):
            return str(FunctionSimulator(code, outputs={"_": ()}).identity["code"])
    return sha256_of(Path(str(sys.modules[code.__module__].__file__)))


def _steps(study: "Study", results: Results, record: Mapping[str, Any], settings: Mapping[str, Any]) -> list[_Step]:
    """Return the steps of a study, in their order."""
    read = _Ingredients(study)
    steps: list[_Step] = []
    folder = study.results
    content = {name: str(one.get("content", "")) for name, one in record.items()}
    population = ("population", "subjects", "data") if study.population is not None else ()
    for member, one in study.members.items():
        if one.direct:
            continue
        runs = _named("runs", member)
        own = dict(read.sections((*SPACE, "simulator", "design", "runs"), member)) | (
            dict(read.sections(population)) if one.over is not None else {}
        )
        steps.append(
            _Step(
                runs,
                folder / f"{runs}.nc",
                own,
                lambda member=member: study.ensemble(member, **settings),  # type: ignore[misc]
                lambda made, path: _write(tables.to_netcdf, made, path),
                checksum,
            )
        )
        fitted = _named("surrogate", member)
        steps.append(
            _Step(
                fitted,
                folder / f"{fitted}.npz",
                {f"the {runs}": content.get(runs, ""), **dict(read.sections(("surrogate",), member))},
                lambda member=member: study.fitted(results.ensembles(member, 0)[0], member),  # type: ignore[misc]
                _write_surrogate,
            )
        )
    if not study.calibrates:
        return steps
    surrogates = {one.name: one.ingredients for one in steps if one.name.startswith("surrogate")}
    latest = {member: _named("surrogate", member) for member in study.members}
    parts = [
        pair for member in study.members if member for pair in read.sections(("data", "noise", "discrepancy"), member)
    ]
    direct = [
        pair for m, one in study.members.items() if one.direct for pair in read.sections((*SPACE, "simulator"), m)
    ]
    told = {**dict(read.sections(CALIBRATION)), **dict(parts), **dict(direct)}

    def sampled(rounds: int) -> _Step:
        step, how = _of_round("posterior", rounds), {"outside": "refined"} if rounds else {}
        return _Step(
            step,
            folder / f"{step}.nc",
            {**{f"the {name}": _sha(dict(surrogates[name])) for name in latest.values() if name in surrogates}, **told},
            lambda: study.posterior(study.calibration(results.combined(rounds), **how)),
            lambda made, path: _write(type(made).save, made, path),
        )

    steps.append(sampled(0))
    for k in range(1, len(study.rounds) + 1):
        member, before = study.member_of(k), steps[-1]
        runs, fitted = (_of_round(_named(kind, member), k) for kind in ("runs", "surrogate"))
        own = {f"the {before.name}": _sha(dict(before.ingredients)), f"section [rounds], {k}": _round(study, k)}
        steps.append(
            _Step(
                runs,
                folder / f"{runs}.nc",
                own | dict(read.sections(("simulator", "runs"), member)),
                lambda k=k: study.round_runs(results.posterior_after(k - 1), k, **settings),  # type: ignore[misc]
                lambda made, path: _write(tables.to_netcdf, made, path),
                checksum,
            )
        )
        earlier = latest[member]
        refit = {f"the {earlier}": _sha(dict(surrogates[earlier])), f"the {runs}": content.get(runs, "")}
        surrogates[fitted] = refit | dict(read.sections(("surrogate",), member))
        latest[member] = fitted
        steps.append(
            _Step(
                fitted,
                folder / f"{fitted}.npz",
                surrogates[fitted],
                lambda k=k, m=member: study.refitted(results.ensembles(m, k), m),  # type: ignore[misc]
                _write_surrogate,
            )
        )
        steps.append(sampled(k))
    last = steps[-1]
    from_posterior = {f"the {last.name}": _sha(dict(last.ingredients))}
    if "verify" in study.document:
        simulators = [pair for member in study.members for pair in read.sections(("simulator", "runs"), member)]
        steps.append(
            _Step(
                "verification",
                folder / "verification.nc",
                {**from_posterior, **dict(read.sections(("verify",))), **dict(simulators)},
                lambda: study.verification_runs(results.posterior_after(len(study.rounds)), **settings),
                lambda made, path: _write(tables.to_netcdf, made, path),
                checksum,
            )
        )
    if "correct" in study.document and "verify" in study.document:
        corrected = {
            **from_posterior,
            "the verification": content.get("verification", ""),
            **dict(read.sections(("correct",))),
        }
        steps.append(
            _Step(
                "correction",
                folder / "correction.nc",
                corrected,
                lambda: study.correction(results.posterior_after(len(study.rounds)), results._runs("verification")),
                lambda made, path: _write(type(made.posterior).save, made.posterior, path),
            )
        )
        from_posterior = {"the correction": _sha(corrected)}
    for name in study.document.get("predictions", {}):
        steps.append(
            _Step(
                f"prediction {name}",
                folder / f"prediction_{name}.nc",
                {**from_posterior, **_prediction(study, name)},
                lambda name=name: study.predictions(results.posterior, name)[name],  # type: ignore[misc]
                _write_prediction,
            )
        )
    plans: tuple[tuple[str, Callable[[], Any]], ...] = (
        ("next_experiment", lambda: results.next_experiment),
        ("next_runs", lambda: results.next_runs),
    )
    for name, plan in plans:
        if name in study.document:
            own = {**from_posterior, **dict(read.sections((name,)))}
            steps.append(_Step(name, folder / f"{name}.csv", own, plan, _write_table))
    return steps


def _round(study: "Study", number: int) -> str:
    return _sha(study.document["rounds"][number - 1])


def _prediction(study: "Study", name: str) -> dict[str, str]:
    return {f"section [predictions.{name}]": _sha(study.document["predictions"][name])}


# ---------------------------------------------------------------------------------------------------------- the record
def _record(study: "Study") -> dict[str, Any]:
    """Return the record of the steps that were done; empty where there is none that can be read."""
    try:
        held = json.loads((study.results / RECORD).read_text(encoding="utf-8"))
        steps = held["steps"]
        return {str(name): dict(one) for name, one in steps.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StorageError(
            f"{study.results / RECORD} cannot be read ({type(error).__name__}); remove it, and all steps are done "
            "again. Runs are in the run store."
        ) from error


def _keep(study: "Study", record: Mapping[str, Any]) -> None:
    with atomic_path(study.results / RECORD) as part:
        part.write_text(
            json.dumps({"format": 1, "uqms": uqms.__version__, "steps": record}, indent=1), encoding="utf-8"
        )


def _state(step: _Step, record: Mapping[str, Any], stale: Mapping[str, str]) -> State:
    kept = record.get(step.name)
    if kept is None:
        return State(step.name, "missing", "", step.file)
    ended = str(kept.get("ended", ""))
    was = kept.get("ingredients", {})
    changed = [name for name, one in step.ingredients.items() if was.get(name) != one]
    changed += [name for name in was if name not in step.ingredients]
    earlier = [name for name in changed if name.removeprefix("the ") in stale]
    if earlier or changed:
        words = [f"{name} {'is stale' if name in earlier else _how(name, was, step.ingredients)}" for name in changed]
        return State(step.name, "stale", ", ".join(words), step.file, ended)
    sha = kept.get("sha256")
    if sha and not step.file.is_file():
        return State(step.name, "missing", f"the file {step.file.name} was removed", step.file, ended)
    if sha and sha256_of(step.file) != sha:
        return State(
            step.name,
            "damaged",
            f"the file {step.file.name} is not what uqms wrote (its hash differs)",
            step.file,
            ended,
        )
    return State(step.name, "up to date", str(kept.get("note", "")), step.file, ended)


def _how(name: str, before: Mapping[str, str], now: Mapping[str, str]) -> str:
    if name not in now:
        return "was removed"
    return "changed" if name in before else "is new"


def status_of(study: "Study") -> tuple[State, ...]:
    """Return the state of each step of a study: whether its result exists, and why it is stale.

    Parameters
    ----------
    study
        The study.

    Raises
    ------
    StorageError
        When the record of the results cannot be read.
    """
    record = _record(study)
    states: list[State] = []
    stale: dict[str, str] = {}
    for step in _steps(study, Results(study), record, {}):
        waits = [name for name in step.ingredients if name.removeprefix("the ") in stale]
        state = _state(step, record, stale)
        if waits and state.state == "up to date":
            state = State(
                step.name, "stale", f"{waits[0]} {_verb(waits[0])} {stale[waits[0].removeprefix('the ')]}", step.file
            )
        if not state.current:
            stale[step.name] = state.state
        states.append(state)
    return tuple(states)


def _verb(name: str) -> str:
    return "are" if name.endswith("runs") or "runs_" in name else "is"


def finished_runs(study: "Study") -> int:
    """Return the number of runs in the run store of a study."""
    if not study.store.is_file():
        return 0
    with RunStore(study.store, readonly=True) as store:
        return len(store)


# ------------------------------------------------------------------------------------------------------------- running
def run_study(study: "Study", tell: Callable[[str], None] = lambda line: None, **settings: Any) -> Results:
    """Do the steps of a study whose results are missing or stale, and write each result as soon as it exists.

    Runs are stored one by one. An interruption loses the runs in progress, or the step in progress; draws of a sampler
    that was stopped are kept in a file of their own.

    Parameters
    ----------
    study
        The study.
    tell
        Called with a line for each step.
    **settings
        Settings of `uqms.run` in the place of those of the file, such as ``workers=2``.

    Returns
    -------
    Results
        All results.

    Raises
    ------
    UqmsError
        As the steps themselves.
    """
    results = Results(study)
    record = _record(study)
    done: set[str] = set()
    while True:
        # Ingredients of a step have hashes of the steps before it, so that they are computed anew after each.
        states = status_of(study)
        steps = _steps(study, results, record, settings)
        for state in states:
            if state.current and state.step not in done:
                done.add(state.step)
                tell(f"{state.step}: up to date{f' ({state.reason})' if state.reason else ''}")
            elif not state.current:
                break
        else:
            return results
        step = next(one for one in steps if one.name == state.step)
        tell(f"{step.name}: {state.state}{f', {state.reason}' if state.reason else ''}; working")
        start = time.perf_counter()
        try:
            made = step.make()
        except SamplingInterrupted as error:
            if (kept := _draws_kept(error.partial, _interrupted(step.file))) is None:
                raise
            raise SamplingInterrupted(
                f"Sampling stopped early: {kept}; they are no posterior. Sample again: "
                f"`uqms study run {study.path.name}`.",
                error.partial,
            ) from error
        _interrupted(step.file).unlink(missing_ok=True)
        record = _record(study) | {step.name: _written(step, made, study)}
        _keep(study, record)
        results.remember(step.name, made)
        done.add(step.name)
        note = record[step.name].get("note", "")
        tell(f"{step.name}: done in {time.perf_counter() - start:.1f} s{f' ({note})' if note else ''}")


def _interrupted(file: Path) -> Path:
    """Return where the draws of a sampler that was stopped are kept."""
    return file.with_name(f"{file.stem}_interrupted{file.suffix}")


def _draws_kept(partial: object, path: Path) -> str | None:
    """Write the draws of a sampler that was stopped, and return how many and where; None if there are none."""
    if not isinstance(partial, xr.DataTree) or "posterior" not in partial.children:
        return None
    draws = partial["posterior"].dataset
    draws = draws[[name for name in draws.data_vars if not str(name).startswith("__")]]  # the sampler's own coordinates
    if not draws.data_vars or not all(draws.sizes.values()):
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    tree = xr.DataTree.from_dict({"posterior": draws.drop_attrs().drop_encoding()})
    with atomic_path(path) as part:
        tree.to_netcdf(part, engine="h5netcdf")
    chains, count = draws.sizes["chain"], draws.sizes["draw"]
    return f"{count} draws of {chains} chains. The draws so far are in {path}, xarray.open_datatree({path.name!r})"


def _written(step: _Step, made: Any, study: "Study") -> dict[str, Any]:
    """Write the result of a step, and return its entry in the record."""
    study.results.mkdir(parents=True, exist_ok=True)
    entry: dict[str, Any] = {"ingredients": dict(step.ingredients), "ended": time.strftime(ENDED)}
    if step.content is not None:
        entry["content"] = step.content(made)
    try:
        step.write(made, step.file)
        entry |= {"file": step.file.name, "sha256": sha256_of(step.file)}
    except InputError as error:
        if not step.name.startswith("surrogate"):
            raise
        step.file.unlink(missing_ok=True)
        entry["note"] = f"not kept in a file: {error}"
    return entry


def _write(save: Callable[[Any, Path], Any], made: Any, path: Path) -> None:
    save(made, path)


def _write_surrogate(made: Any, path: Path) -> None:
    save = getattr(made, "save", None)
    if save is None:
        raise InputError("this surrogate has no file")
    save(path)
    try:
        load_surrogate(path)
    except UqmsError as error:
        raise InputError(f"its file cannot be read back ({error})") from error


def _write_table(made: Any, path: Path) -> None:
    """Write the table of a plan: a row for each candidate or run."""
    with atomic_path(path) as part:
        made.table.to_csv(part, index=False)


def _write_prediction(made: "PosteriorPrediction", path: Path) -> None:
    """Write mean, standard deviation and 95 % interval of a prediction."""
    tree = xr.DataTree.from_dict({"mean": made.mean, "sd": made.sd, "interval": made.interval()})
    tree.attrs["holds"] = ", ".join(made.holds)
    for node in tree.subtree:
        for variable in node.variables.values():
            variable.encoding.clear()
    with atomic_path(path) as part:
        tree.to_netcdf(part, engine="h5netcdf")


# -------------------------------------------------------------------------------------------------------------- report
def write_report(study: "Study", path: str | os.PathLike[str] | None = None, *, report: Any = None) -> Path:
    """Write the report of a study whose results are up to date.

    Parameters
    ----------
    study
        The study.
    path
        Where to write it; by default ``report.html`` among the results.
    report
        What makes a report of a posterior and its verification; by default `uqms.credibility_report`.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    InputError
        When a result is missing or stale, or there is no question.
    """
    late = [one for one in status_of(study) if not one.current]
    if late:
        words = "; ".join(f"{one.step} is {one.state}{f' ({one.reason})' if one.reason else ''}" for one in late)
        raise InputError(
            f"the report would not be that of the study file: {words}. Do `uqms study run {study.path.name}`."
        )
    if not study.calibrates:
        raise InputError("a report needs a posterior: the sections [data], [noise] and [sample].")
    if report is None:  # figures take a second to import, and other steps have none
        from uqms.report import credibility_report as report
    if "question" not in study.report_settings:
        raise InputError('the study has no question to report on: [report] question = "...".')
    results = Results(study)
    target = study.results / "report.html" if path is None else Path(path).absolute()
    plans = {"measurements": results.next_experiment, "runs": results.next_runs}
    more: dict[str, Any] = {
        "title": study.title,
        "predictions": results.predictions or None,
        "next_experiment": {name: one for name, one in plans.items() if one is not None} or None,
    }
    if len(study.members) == 1 and not next(iter(study.members.values())).direct:
        more["ensemble"] = results.ensemble()
    judged = results.correction or results.verification
    made = report(results.posterior, judged, **study.report_settings, **more)
    return Path(made.to_html(target) or target)
