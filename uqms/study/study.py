"""`Study`: one file, and the objects that a script would make of the same settings."""

import os
import tomllib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from uqms import _checks as check
from uqms._teaching import taught
from uqms.calibration import Calibration, Observations, Posterior
from uqms.diagnostics import verify
from uqms.ensemble import combine, inside
from uqms.errors import InputError, StudyError
from uqms.parameters import ParameterSpace
from uqms.runs import run
from uqms.study.checking import check_together
from uqms.study.describing import plain
from uqms.study.folder import Folder
from uqms.study.positions import Path as Key
from uqms.study.positions import lines_of
from uqms.study.sections import Contents, Member, Request, read_sections
from uqms.study.steps import Results, State, run_study, status_of
from uqms.study.toml_text import text_of
from uqms.study.values import Mistake, Reading
from uqms.surrogates import Chain, Superposition

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from uqms.calibration.predict import PosteriorPrediction
    from uqms.diagnostics.correction import Correction
    from uqms.diagnostics.verification import Verification
    from uqms.planning.measurements import NextExperiment
    from uqms.planning.runs import RunPlan

__all__ = ["Study", "mistakes_of"]

LARGEST = 10_000_000  # bytes of a study file


@taught
@final
class Study:
    r"""A study in one file: parameters, simulator, design, data, noise, sampler, predictions and report.

    Use it to hand a study to somebody else, to run it from the command line (``uqms study run study.toml``) and to
    repeat it. Every section of the file is a call of the library, and every key an argument of that call, under the
    same name. The objects are those of a script, so that the posterior is the same to the last bit.

    Parameters
    ----------
    folder
        The study's folder. Functions and files come from there only.
    **sections
        Sections by name, as in the file: tables, or the objects themselves, such as ``sampler=uq.NUTS()`` in the
        section `sample`.

    Raises
    ------
    StudyError
        When there are mistakes; the message has all of them, `mistakes` one by one.
    InputError
        When a section has an object that no file can hold, such as a lambda or a fitted surrogate.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import uqms as uq
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "decay.py").write_text("def amount(k):\n    return 3.0 - k\n")
    ...     _ = Path(folder, "data.csv").write_text("y\n2.1\n")
    ...     study = uq.Study(
    ...         folder,
    ...         parameters={"k": uq.Uniform(0.0, 2.0)},
    ...         simulator={"kind": "FunctionSimulator", "function": "decay:amount", "outputs": {"y": []}},
    ...         design={"n": 8, "rng": 1},
    ...         surrogate=uq.GaussianProcess(),
    ...         data={"file": "data.csv", "output": "y", "value": "y"},
    ...         noise=uq.GaussianNoise(sd=0.1),
    ...         sample={"sampler": uq.Laplace(), "rng": 1},
    ...     )
    ...     print(study.to_toml().splitlines()[1])
    k = { kind = "Uniform", low = 0.0, high = 2.0 }
    """

    def __init__(self, folder: str | os.PathLike[str], **sections: Any) -> None:
        place = Folder(check.path("Study", folder))
        document: dict[str, Any] = {}
        for key, value in sections.items():
            if isinstance(value, ParameterSpace):
                document |= _space(value, place)
            elif value is not None:
                document[key] = plain(value, place, key)
        self._make(place, document, {}, place.path / "study.toml")

    def _make(self, folder: Folder, document: Mapping[str, Any], lines: Mapping[Key, int], path: Path) -> None:
        found, reading = _read(folder, document, lines)
        if reading.mistakes:
            raise StudyError(_told(path, reading.mistakes), reading.mistakes)
        self._folder, self._document, self._found, self._reading = folder, document, found, reading
        self._path = path

    @classmethod
    def from_toml(cls, path: str | os.PathLike[str]) -> "Study":
        """Read a study file.

        Parameters
        ----------
        path
            The file; its folder is the study's folder.

        Raises
        ------
        StudyError
            When there are mistakes: unknown names, values of a wrong type, missing columns, functions that are not
            found, units that differ. `mistakes` has each with its line. The simulator is not started.
        MissingFileError
            When there is no such file.
        """
        source = check.existing_file("Study.from_toml", path)
        document, lines, broken = _parsed(source)
        if broken:
            raise StudyError(_told(source, broken), broken)
        study = cls.__new__(cls)
        study._make(Folder(source.parent), document, lines, source.resolve())
        return study

    def to_toml(self, path: str | os.PathLike[str] | None = None) -> str:
        """Return the study as a study file, and write it where a path is given.

        Parameters
        ----------
        path
            A file in the study's folder that does not exist yet.

        Raises
        ------
        InputError
            When the file exists, or lies outside of the study's folder.
        """
        text = text_of(self._document)
        if path is not None:
            target = check.path("to_toml", path)
            target = target if target.is_absolute() else Path.cwd() / target
            if target.resolve().parent != self._folder.path:
                raise InputError(f"to_toml: {target} is not in the study's folder {self._folder.path}.")
            if target.exists():
                raise InputError(f"to_toml: {target} exists; give the name of a new file.")
            target.write_text(text, encoding="utf-8")
        return text

    def __repr__(self) -> str:
        name = self._found.title or self._path.stem
        sections = ", ".join(self._document)
        return f"<Study {name!r} in {self._folder.path}: {sections}>"

    # --------------------------------------------------------------------------------------------------------- objects
    @property
    def title(self) -> str:
        """The title."""
        return self._found.title

    @property
    def description(self) -> str:
        """What the study is about."""
        return self._found.description

    @property
    def folder(self) -> Path:
        """The study's folder."""
        return self._folder.path

    @property
    def path(self) -> Path:
        """The study file."""
        return self._path

    @property
    def document(self) -> Mapping[str, Any]:
        """The sections as plain values."""
        return self._document

    @property
    def reading(self) -> Reading:
        """Functions and files that the sections name."""
        return self._reading

    @property
    def calibrates(self) -> bool:
        """Whether the study has data to calibrate to."""
        return self._found.sample is not None

    def enter(self) -> None:
        """Let Python find the functions of this study's folder, and not those of another study."""
        self._folder.enter()

    @property
    def members(self) -> Mapping[str, Member]:
        """Simulator, space, design and surrogate of each member; of a study of one simulator, under the name ""."""
        return self._found.members

    def _member(self, name: str | None) -> Member:
        members = self._found.members
        if name is None and len(members) > 1:
            raise InputError(
                f"the study has the members {', '.join(members)}; name one: member={next(iter(members))!r}."
            )
        key = next(iter(members)) if name is None else name
        if key not in members and "" in members:
            raise InputError(f"the study has one simulator and no member {name!r}; leave `member` out.")
        if key not in members:
            raise InputError(f"the study has no member {name!r}; it has {', '.join(map(repr, members))}.")
        return members[key]

    @property
    def space(self) -> ParameterSpace:
        """Parameters and conditions of the only member.

        Raises
        ------
        InputError
            When there are several: take ``study.members[name].space``.
        """
        return self._member(None).space

    @property
    def simulator(self) -> Any:
        """The simulator of the only member.

        Raises
        ------
        InputError
            When there are several: take ``study.members[name].simulator``.
        """
        return self._member(None).simulator

    @property
    def population(self) -> Any:
        """The population, None where there is none."""
        return self._found.population

    @property
    def noise(self) -> Any:
        """The noise model, or one for each output."""
        return self._found.noise

    @property
    def discrepancy(self) -> Any:
        """The discrepancy, None where there is none."""
        return self._found.discrepancy

    @property
    def sampler(self) -> Any:
        """The sampler, None for the default."""
        return None if self._found.sample is None else self._found.sample.settings.get("sampler")

    @property
    def report_settings(self) -> Mapping[str, Any]:
        """Question, influence and consequence, as the report takes them."""
        return self._found.report

    @cached_property
    def observations(self) -> Observations:
        """The measurements.

        Raises
        ------
        InputError
            When the study has none.
        """
        return self._observations(self._found.data)

    @staticmethod
    def _observations(data: Sequence[Any]) -> Observations:
        if not data:
            raise InputError("the study has no [data].")
        every = [one.observations for one in data]
        return every[0] if len(every) == 1 else Observations.concat(every)

    @property
    def subjects(self) -> "pd.DataFrame | None":
        """Covariates of the subjects of a population: of the section [subjects], or of a table of events."""
        if self._found.subjects is not None or self._found.population is None or not self._found.data:
            return self._found.subjects
        return self.observations.covariates

    # ----------------------------------------------------------------------------------------------------------- steps
    def design(self, member: str | None = None) -> "xr.Dataset":
        """Return the points to run.

        Parameters
        ----------
        member
            Name of the member, of a study with several.

        Raises
        ------
        InputError
            When a `DirectSimulator` needs no design.
        """
        one = self._member(member)
        if one.design is None:
            raise InputError("a DirectSimulator stands in the place of the surrogate, so that the study has no design.")
        if one.over is None:
            return self._runs(one.design(one.space))
        population = self._found.population
        box = one.space.box(**one.over) if population is None else population.box(self.subjects, **one.over)
        return self._runs(one.design(one.space, over=box))

    @staticmethod
    def _runs(design: Any) -> "xr.Dataset":
        return design  # type: ignore[no-any-return]

    def ensemble(self, member: str | None = None, **settings: Any) -> "xr.Dataset":
        """Run the simulator at the design; runs that the run store has are not repeated.

        Parameters
        ----------
        member
            Name of the member, of a study with several.
        **settings
            Settings of `uqms.run` in the place of those of the file: ``workers=0``, ``store=None``, ``progress=True``.

        Raises
        ------
        CampaignError, SimulatorError, StorageError
            As `uqms.run`.
        """
        one = self._member(member)
        store: dict[str, Any] = {"store": self.store}
        design = self.design(member)
        self._folder.enter()
        how = {**store, **one.runs.settings, **settings}
        if isinstance(how["store"], Path):
            how["store"].parent.mkdir(parents=True, exist_ok=True)
        return run(one.simulator, design, **how)

    @property
    def store(self) -> Path:
        """The run store of members that name none."""
        return self.results / "runs.db"

    @property
    def results(self) -> Path:
        """The folder of the results."""
        return self._found.results

    def fitted(self, ensemble: "xr.Dataset", member: str | None = None) -> Any:
        """Return the surrogate of one member, trained on its runs."""
        return self._member(member).surrogate.fit(ensemble)

    @property
    def rounds(self) -> Sequence[Request]:
        """Further runs where the posterior is, one call of `uqms.refine` for each [[rounds]]."""
        return self._found.rounds

    def member_of(self, number: int) -> str:
        """Return the name of the member that a round, from 1, runs again."""
        return str(self.rounds[number - 1].settings.get("member", next(iter(self._found.members))))

    def round_runs(self, posterior: Posterior, number: int, **settings: Any) -> "xr.Dataset":
        """Run the simulator near the posterior, as a round says.

        Parameters
        ----------
        posterior
            The posterior before this round.
        number
            Of the round, from 1.
        **settings
            Settings of `uqms.run` in the place of those of the file.
        """
        one = self._found.members[self.member_of(number)]
        how = {"store": self.store, **one.runs.settings, **settings}
        self._folder.enter()
        return run(one.simulator, self.rounds[number - 1](posterior), **how)

    def refitted(self, ensembles: Sequence["xr.Dataset"], member: str) -> Any:
        """Return the surrogate of a member after a round: trained on all runs within the box of the last ones."""
        return self.fitted(inside(combine(*ensembles)), member)

    def surrogate(self, ensemble: "xr.Dataset | Mapping[str, xr.Dataset] | None" = None) -> Any:
        """Return the surrogate that the calibration takes: fitted, linked to a chain, superposed over regimens.

        Parameters
        ----------
        ensemble
            The runs, by member where there are several; by default they are made.

        Returns
        -------
        Surrogate
            Or one for each member, by name, where members are parts of one calibration.
        """
        members = self._found.members
        given: dict[str, Any]
        if ensemble is None:
            given = {name: None if one.direct else self.ensemble(name) for name, one in members.items()}
        elif hasattr(ensemble, "data_vars"):
            given = {next(iter(members)): ensemble}
        else:
            given = {str(name): one for name, one in ensemble.items()}
        lost = [name for name, one in members.items() if name not in given and not one.direct]
        if lost:
            raise InputError(f"surrogate: there are no runs of {', '.join(lost)}; give runs for each member by name.")
        return self.combined(
            {n: one.simulator if one.direct else self.fitted(given[n], n) for n, one in members.items()}
        )

    def combined(self, surrogates: Mapping[str, Any]) -> Any:
        """Return the members' surrogates as the calibration takes them."""
        found = self._found
        if found.parts:
            return dict(surrogates)
        whole = Chain(links=found.links, **surrogates) if found.links is not None else next(iter(surrogates.values()))
        if found.superposition is not None:
            whole = Superposition(whole, self.observations.regimens, **found.superposition)
        return whole

    def calibration(self, surrogate: Any = None, **settings: Any) -> Any:
        """Return the calibration.

        Parameters
        ----------
        surrogate
            What `surrogate` returns; by default it is made.
        **settings
            Settings of `uqms.Calibration` in the place of those of the file: ``outside="refined"`` after a round.

        Raises
        ------
        InputError
            When the study has no data.
        """
        found = self._found
        calibrate: Any = Calibration
        surrogate = self.surrogate() if surrogate is None else surrogate
        settings = {**found.calibration, **settings}
        if found.parts:
            parts = {name: (surrogate[name], self._observations(one.data)) for name, one in found.members.items()}
            settings["noise"] = {name: one.noise for name, one in found.members.items()}
            discrepancy = {name: one.discrepancy for name, one in found.members.items() if one.discrepancy is not None}
            return calibrate(parts, **settings, **({"discrepancy": discrepancy} if discrepancy else {}))
        if found.discrepancy is not None:
            settings["discrepancy"] = found.discrepancy
        if found.population is not None:
            settings |= {"population": found.population, "subjects": self.subjects}
        return calibrate(surrogate, self.observations, noise=found.noise, **settings)

    def posterior(self, calibration: Any = None) -> Posterior:
        """Return draws of the posterior.

        Parameters
        ----------
        calibration
            What `calibration` returns; by default it is made.

        Raises
        ------
        InputError
            When the study has no data.
        SamplingError
            As `Calibration.sample`.
        """
        if self._found.sample is None:
            raise InputError("the study has no calibration: it needs the sections [data], [noise] and [sample].")
        problem = self.calibration() if calibration is None else calibration
        return problem.sample(**self._found.sample.settings)  # type: ignore[no-any-return]

    def verification_runs(self, posterior: Posterior, **settings: Any) -> "xr.Dataset":
        """Run the simulator at draws of the posterior, as the section [verify] says.

        Parameters
        ----------
        posterior
            What `posterior` returns.
        **settings
            Settings of `uqms.run` in the place of those of the file.

        Raises
        ------
        InputError
            When the study has no section [verify].
        """
        if self._found.verify is None:
            raise InputError("the study has no section [verify], such as n = 50 and rng = 1.")
        members = self._found.members
        first = next(iter(members.values()))
        simulator = first.simulator
        if self._found.links is not None:
            chain = self._chain(posterior)
            simulator = chain.simulator(**{name: _called(one.simulator) for name, one in members.items()})
        settings = {"store": self.store, **first.runs.settings, **settings}
        self._folder.enter()
        return run(simulator, self._found.verify(posterior), **settings)

    @staticmethod
    def _chain(posterior: Posterior) -> Any:
        surrogate: Any = getattr(posterior.problem, "surrogate", None)
        return getattr(surrogate, "chain", surrogate)

    def verification(self, posterior: Posterior, runs: "xr.Dataset | None" = None) -> "Verification":
        """Return the verification of the surrogate at draws of the posterior.

        Parameters
        ----------
        posterior
            What `posterior` returns.
        runs
            What `verification_runs` returns; by default they are made.
        """
        return verify(posterior, self.verification_runs(posterior) if runs is None else runs)

    def predictions(self, posterior: Posterior, name: str | None = None) -> "dict[str, PosteriorPrediction]":
        """Return the predictions of the sections [predictions.NAME].

        Parameters
        ----------
        posterior
            What `posterior` returns.
        name
            Of one prediction, by default all.
        """
        return {key: one(posterior) for key, one in self._found.predictions.items() if name in (None, key)}

    def correction(self, posterior: Posterior, runs: "xr.Dataset") -> "Correction":
        """Return the posterior corrected by runs of the simulator at its draws, as the section [correct] says.

        Parameters
        ----------
        posterior
            The posterior that was verified.
        runs
            What `verification_runs` returns.

        Raises
        ------
        InputError
            When the study has no section [correct], or as `uqms.correct`.
        """
        if self._found.correct is None:
            raise InputError("the study has no section [correct], such as rng = 1.")
        return self._found.correct(posterior, runs)  # type: ignore[no-any-return]

    def next_experiment(self, posterior: Posterior) -> "NextExperiment":
        """Return the measurements to make next, as the section [next_experiment] says.

        Parameters
        ----------
        posterior
            The posterior.

        Raises
        ------
        InputError
            When the study has no such section.
        """
        ideas, choose = self._found.candidates, self._found.next_experiment
        if ideas is None or choose is None:
            raise InputError("the study has no section [next_experiment], such as candidates = { outputs = ... }.")
        return choose(posterior, ideas())  # type: ignore[no-any-return]

    def next_runs(self, posterior: Posterior) -> "RunPlan":
        """Return the runs to make next, as the section [next_runs] says.

        Parameters
        ----------
        posterior
            The posterior.

        Raises
        ------
        InputError
            When the study has no such section.
        """
        if self._found.next_runs is None:
            raise InputError("the study has no section [next_runs], such as n = 24 and rng = 1.")
        return self._found.next_runs(posterior)  # type: ignore[no-any-return]

    # ------------------------------------------------------------------------------------------------------------ files
    def run(self, tell: Callable[[str], None] | None = None, **settings: Any) -> Results:
        """Do all steps whose results are missing or stale, and keep each result in a file.

        Parameters
        ----------
        tell
            Called with a line of text for each step, such as `print`.
        **settings
            Settings of `uqms.run` in the place of those of the file, such as ``workers=2``.

        Returns
        -------
        Results
            Its `posterior`, `verification`, `correction`, `predictions`, `next_experiment`, `next_runs`, `ensemble()`
            and `surrogate()`.

        Raises
        ------
        UqmsError
            As the steps themselves.
        """
        return run_study(self, tell or (lambda line: None), **settings)

    def status(self) -> tuple[State, ...]:
        """Return the state of each step: up to date, missing, stale or damaged, and why.

        Raises
        ------
        StorageError
            When the record of the results cannot be read.
        """
        return status_of(self)


def _called(simulator: Any) -> Any:
    """Return a simulator as a function of its inputs that returns outputs by name."""

    def evaluate(**point: float) -> Any:
        return simulator.evaluate(point)

    return evaluate


def _space(space: ParameterSpace, folder: Folder) -> dict[str, Any]:
    """Return a space as the sections of a study file."""
    joint = {name for block in space.blocks for name in block.names}
    sections = {
        "parameters": {name: plain(one, folder, name) for name, one in space.priors.items() if name not in joint},
        "conditions": {name: plain(one, folder, name) for name, one in space.conditions.items()},
        "blocks": [plain(one, folder, "blocks") for one in space.blocks],
    }
    return {key: one for key, one in sections.items() if one}


def _read(folder: Folder, document: Mapping[str, Any], lines: Mapping[Key, int]) -> tuple[Contents, Reading]:
    reading = Reading(folder, lines)
    try:
        found = read_sections(document, reading)
        check_together(found, reading)
    except RecursionError:
        found = Contents()
        reading.wrong((), "tables or arrays are nested too deep.")
    return found, reading


def _parsed(source: Path) -> tuple[dict[str, Any], dict[Key, int], list[Mistake]]:
    """Return what a file holds, the line of each key, and what is no TOML."""
    if source.stat().st_size > LARGEST:
        return {}, {}, [Mistake(1, "", f"the file has more than {LARGEST} bytes, which no study file has.")]
    try:
        text = source.read_text(encoding="utf-8")
        return tomllib.loads(text), lines_of(text), []
    except UnicodeDecodeError as error:
        return {}, {}, [Mistake(1, "", f"the file is not UTF-8 text ({error.reason} at byte {error.start}).")]
    except tomllib.TOMLDecodeError as error:
        words = str(error)
        line = words.partition("at line ")[2].partition(",")[0]
        return {}, {}, [Mistake(int(line) if line.isdigit() else 1, "", f"this is not valid TOML: {words}.")]
    except RecursionError:
        return {}, {}, [Mistake(1, "", "tables or arrays are nested too deep.")]


def _told(path: Path, mistakes: Sequence[Mistake]) -> str:
    count = len(mistakes)
    head = f"{path.name} has {count} mistake{'s' * (count != 1)}:"
    return "\n".join([head, *(f"  {one}" for one in _sorted(mistakes))])


def _sorted(mistakes: Sequence[Mistake]) -> list[Mistake]:
    return sorted(mistakes, key=lambda one: one.line)


def mistakes_of(path: str | os.PathLike[str]) -> list[Mistake]:
    """Return every mistake of a study file, by line; the simulator is not started.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    MissingFileError
        When there is no such file.
    """
    source = check.existing_file("check", path)
    document, lines, broken = _parsed(source)
    if broken:
        return broken
    return _sorted(_read(Folder(source.parent), document, lines)[1].mistakes)
