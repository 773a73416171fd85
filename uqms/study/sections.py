"""The sections of a study file, read into the objects of each step."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any, final

import pandas as pd

from uqms import designs
from uqms.calibration import Observations, Population, Posterior
from uqms.calibration.discrepancy import Discrepancies
from uqms.calibration.noise import NoiseModel
from uqms.calibration.parts import JointCalibration
from uqms.calibration.population.calibration import PopulationCalibration
from uqms.calibration.refinement import refine
from uqms.calibration.single import SingleCalibration
from uqms.diagnostics import correct, verification_design
from uqms.errors import InputError
from uqms.parameters import Condition, MultivariateNormal, NormalMixture, ParameterSpace, Prior
from uqms.planning import candidates, next_experiment, next_runs
from uqms.runs import run
from uqms.study.positions import Path
from uqms.study.values import LOST, Reading, checked_name, near
from uqms.surrogates import Link, Superposition

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Contents", "Data", "Member", "Request", "read_sections"]

FORMAT = 1
MEMBER = ("parameters", "conditions", "blocks", "simulator", "design", "runs", "surrogate")
PART = ("data", "noise", "discrepancy")  # of a member, where members are parts of one calibration
STUDY = (
    "format", "title", "description", "results", *MEMBER, "members", "chain", "superposition", "data", "subjects",
    "population", "noise", "discrepancy", "calibration", "sample", "rounds", "verify", "correct", "predictions",
    "next_experiment", "next_runs", "report",
)  # fmt: skip
AFTER = (  # sections that need a posterior
    "rounds", "verify", "correct", "predictions", "next_experiment", "next_runs", "report", "population", "discrepancy",
)  # fmt: skip
DESIGNS = ("sobol", "halton", "latin_hypercube")
READERS = ("from_table", "from_events", "from_xarray")
NOT_COLUMNS = {
    "from_table": ("output", "unit", "missing"),
    "from_events": ("output", "dim", "unit", "routes", "varying"),
}
GIVEN = (
    "surrogate",
    "observations",
    "noise",
    "discrepancy",
    "population",
    "subjects",
    "space",
    "success",
)  # by sections
type NoiseSection = NoiseModel | Mapping[str, NoiseModel]


@final
@dataclass(frozen=True)
class Request:
    """Settings of a call that needs what earlier steps return: a design, runs, a prediction.

    Attributes
    ----------
    function
        What will be called.
    settings
        Its keyword arguments.
    """

    function: Callable[..., Any]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, *arguments: Any, **more: Any) -> Any:
        """Call it."""
        return self.function(*arguments, **{**self.settings, **more})


@final
@dataclass(frozen=True)
class Data:
    """Measurements in a file of the study's folder.

    Attributes
    ----------
    file
        The file.
    read
        What turns its table into observations.
    table
        What the file holds, after `prepare`.
    observations
        The measurements.
    """

    file: FilePath
    read: Request
    table: Any
    observations: Observations


@final
@dataclass(frozen=True)
class Member:
    """A simulator with its parameters, design and surrogate; a study has one, or several by name.

    Attributes
    ----------
    space
        Parameters and conditions.
    simulator
        The simulator; a `DirectSimulator` stands in the place of a surrogate too.
    design
        Points to run, None for a `DirectSimulator`.
    over
        Settings of the box of the design, None for the default.
    runs
        Settings of `uqms.run`.
    surrogate
        Settings of the surrogate.
    data, noise, discrepancy
        Of a part of a calibration of several simulators.
    """

    space: ParameterSpace
    simulator: Any
    design: Request | None
    over: Mapping[str, Any] | None
    runs: Request
    surrogate: Any
    data: Sequence[Data] = ()
    noise: Any = None
    discrepancy: Any = None

    @property
    def direct(self) -> bool:
        """Whether the simulator itself is in the surrogate's place."""
        return not hasattr(self.simulator, "identity")


@final
@dataclass
class Contents:
    """What a study file describes; `LOST` or missing where there is a mistake."""

    title: str = ""
    description: str = ""
    results: FilePath = FilePath("results")
    members: dict[str, Member] = field(default_factory=dict)
    links: Mapping[str, Any] | None = None
    superposition: Mapping[str, Any] | None = None
    data: Sequence[Data] = ()
    subjects: pd.DataFrame | None = None
    population: Population | None = None
    noise: Any = None
    discrepancy: Any = None
    calibration: Mapping[str, Any] = field(default_factory=dict)
    sample: Request | None = None
    rounds: tuple[Request, ...] = ()
    verify: Request | None = None
    correct: Request | None = None
    predictions: dict[str, Request] = field(default_factory=dict)
    candidates: Request | None = None
    next_experiment: Request | None = None
    next_runs: Request | None = None
    report: Mapping[str, Any] = field(default_factory=dict)

    @property
    def parts(self) -> bool:
        """Whether the members are parts of one calibration, each with its own data."""
        return len(self.members) > 1 and self.links is None


def _report(
    question: str = "",
    influence: str = "",
    consequence: str = "",
    factors: Mapping[str, str] | None = None,
    limitations: str | Sequence[str] = (),
) -> None:
    """Take what the section [report] has: the words of the report, which no other section has."""


def read_sections(document: Mapping[str, Any], reading: Reading) -> Contents:
    """Return the objects of all sections; mistakes are in `reading`."""
    return _Sections(document, reading).contents()


@final
class _Sections:
    def __init__(self, document: Mapping[str, Any], reading: Reading) -> None:
        self.document, self.reading = document, reading
        self.found = Contents()

    def contents(self) -> Contents:
        """Read every section, in the order of the steps."""
        self._unknown(self.document, STUDY, ())
        found, document = self.found, self.document
        version = document.get("format", FORMAT)
        if version != FORMAT:
            self.reading.wrong(("format",), f"the format is {version!r}; this uqms reads {FORMAT}. Update uqms.")
        found.title = self._text("title")
        found.description = self._text("description")
        place = self.reading.trying(("results",), lambda: self.reading.folder.place(document.get("results", "results")))
        found.results = place if place is not LOST else self.reading.folder.path / "results"
        self._data()
        self._members()
        self._population()
        self._errors()
        self._combined()
        self._calibration()
        self._after()
        return found

    def _text(self, key: str) -> str:
        text = self.reading.value(self.document.get(key, ""), str, (key,))
        return "" if text is LOST else str(text)

    def _unknown(self, table: Any, known: Sequence[str], path: Path) -> bool:
        """Note keys that are not known; return whether it is a table."""
        if not isinstance(table, dict):
            self.reading.wrong(path, "expected a table.")
            return False
        for key in table:
            if key not in known:
                meant = {"priors": "parameters", "likelihood": "noise", "observations": "data"}.get(key)
                advice = f"; it is called {meant!r}." if meant in known else near(key, known)
                self.reading.wrong((*path, key), f"there is no section {key!r} here{advice}")
        return True

    # --------------------------------------------------------------------------------------------------------- members
    def _members(self) -> None:
        several = self.document.get("members")
        if several is None:
            self._member("", self.document, ())
            return
        if not isinstance(several, dict) or not several:
            self.reading.wrong(("members",), "expected a table for each member: [members.cell.parameters], ...")
            return
        for key in MEMBER:
            if key in self.document:
                self.reading.wrong((key,), f"a study with members has this section in each: [members.NAME.{key}].")
        for name, table in several.items():
            path = ("members", name)
            if self.reading.trying(path, partial(checked_name, name)) is not LOST and self._unknown(
                table, (*MEMBER, *PART), path
            ):
                self._member(name, table, path)

    def _member(self, name: str, table: Mapping[str, Any], path: Path) -> None:
        reading = self.reading
        space = self._space(table, path)
        simulator = self._section(
            table,
            "simulator",
            path,
            lambda given, at: reading.object(
                given, object, at, {"space": space} if _kind(given) == "DirectSimulator" else None, offers="evaluate"
            ),
            required=True,
        )
        direct = _kind(table.get("simulator")) == "DirectSimulator"
        design, over = (None, None) if direct else self._design(table, path)
        for key in ("design", "surrogate") if direct else ():
            if key in table:
                reading.wrong(
                    (*path, key), "a DirectSimulator needs no design and no surrogate; leave the section out."
                )
        usual = ("simulator", "design", "fidelity", "progress", "collect")
        runs = self._section(
            table,
            "runs",
            path,
            lambda given, at: reading.arguments(run, given, at, without=usual, overrides={"store": str}),
        )
        if isinstance(runs, dict) and "store" in runs:
            runs["store"] = reading.trying((*path, "runs", "store"), lambda: reading.folder.place(runs["store"]))
        surrogate = self._section(
            table,
            "surrogate",
            path,
            lambda given, at: reading.object(given, object, at, offers="fit"),
            required=not direct,
        )
        data = self._read_data(table["data"], (*path, "data")) if path and "data" in table else ()
        noise, discrepancy = self._noise(table, path) if path else (None, None)
        if not any(one is LOST for one in (space, simulator, design, over, runs, surrogate)):
            self.found.members[name] = Member(
                space, simulator, design, over, Request(run, runs or {}), surrogate, data, noise, discrepancy
            )

    def _section(
        self,
        table: Mapping[str, Any],
        key: str,
        path: Path,
        read: Callable[[Any, Path], Any],
        *,
        required: bool = False,
    ) -> Any:
        if key in table:
            return read(table[key], (*path, key))
        if required:
            return self.reading.wrong(path, f"the section [{'.'.join(map(str, (*path, key)))}] is missing.")
        return None

    def _space(self, table: Mapping[str, Any], path: Path) -> Any:
        reading = self.reading
        given = table.get("parameters", {})
        at = (*path, "parameters")
        if not isinstance(given, dict):
            return reading.wrong(at, "expected a table: a name and a prior for each parameter.")
        priors = {name: self._prior(one, (*at, name)) for name, one in given.items()}
        conditions = reading.value(table.get("conditions", {}), Mapping[str, Condition], (*path, "conditions"))
        blocks = reading.value(table.get("blocks", []), Sequence[MultivariateNormal | NormalMixture], (*path, "blocks"))
        if not priors and not blocks:
            return reading.wrong(path, f"the section [{'.'.join(map(str, at))}] is missing.")
        if LOST in (conditions, blocks) or any(one is LOST for one in priors.values()):
            return LOST
        return reading.trying(at, lambda: ParameterSpace(*blocks, conditions=conditions, **priors), tuple(given))

    def _prior(self, value: Any, path: Path) -> Any:
        if isinstance(value, dict) and "kind" not in value:
            return self.reading.wrong(path, 'has no prior: `kind` is missing, such as kind = "LogNormal".')
        return self.reading.value(value, Prior, path)

    def _design(self, table: Mapping[str, Any], path: Path) -> tuple[Any, Any]:
        reading = self.reading
        at = (*path, "design")
        if "design" not in table:
            return self._section(table, "design", path, lambda given, at: given, required=True), None
        given = table["design"]
        if not isinstance(given, dict):
            return reading.wrong(at, 'expected a table such as { kind = "sobol", n = 64, rng = 1 }.'), None
        kind = given.get("kind", "sobol")
        if kind not in DESIGNS:
            return reading.wrong((*at, "kind"), f"there is no design {kind!r}{near(kind, DESIGNS)}"), None
        function = getattr(designs, kind)
        rest = {key: one for key, one in given.items() if key not in ("kind", "over")}
        settings = reading.arguments(function, rest, at, without=("space", "over"))
        over = None
        if "over" in given:
            box = Population.box if "population" in self.document else ParameterSpace.box
            over = reading.arguments(box, given["over"], (*at, "over"), without=("subjects",))
        if settings is not LOST and "rng" not in settings:
            settings = reading.wrong(at, "`rng` is missing: without a seed the study cannot be repeated, rng = 1.")
        return (LOST if settings is LOST else Request(function, settings)), over

    # ------------------------------------------------------------------------------------------------------------ data
    def _data(self) -> None:
        if "data" in self.document:
            self.found.data = self._read_data(self.document["data"], ("data",))
        if "subjects" in self.document:
            self.found.subjects = self._subjects(self.document["subjects"])

    def _read_data(self, given: Any, path: Path) -> Sequence[Data]:
        tables = [(given, path)] if isinstance(given, dict) else [(one, (*path, i)) for i, one in enumerate(given)]
        read = [self._one_table(one, at) for one, at in tables]
        return () if any(one is LOST for one in read) else tuple(read)

    def _one_table(self, given: Any, path: Path) -> Any:
        reading = self.reading
        if not isinstance(given, dict):
            return reading.wrong(path, 'expected a table such as { file = "data.csv", output = ..., value = ... }.')
        kind = given.get("kind", "from_table")
        if kind not in READERS:
            return reading.wrong((*path, "kind"), f"there is no {kind!r} here{near(kind, READERS)}")
        first = {"from_xarray": "data"}.get(kind, "table")
        own = ("kind", "file", "prepare", "variable") if kind == "from_xarray" else ("kind", *FILE)
        table = self._table({key: one for key, one in given.items() if key in own}, path)
        rest = {key: one for key, one in given.items() if key not in own}
        settings = reading.arguments(getattr(Observations, kind), rest, path, without=(first,))
        if settings is LOST or table is LOST:
            return LOST
        start = len(reading.mistakes)
        self._columns(kind, rest, table, path)
        if len(reading.mistakes) > start:
            return LOST
        request = Request(getattr(Observations, kind), settings)
        observations = reading.trying(path, lambda: request(table), tuple(rest))
        return LOST if observations is LOST else Data(reading.files[(*path, "file")], request, table, observations)

    def _table(self, given: Mapping[str, Any], path: Path) -> Any:
        """Return the table of a file, after `prepare`."""
        reading = self.reading
        if "file" not in given:
            return reading.wrong(path, "`file` is missing: a CSV or netCDF file in the study's folder.")
        file = reading.file(given["file"], (*path, "file"))
        options = {
            FILE[key]: reading.value(given[key], str, (*path, key)) for key in FILE if key in given and FILE[key]
        }
        prepare = reading.function(given["prepare"], (*path, "prepare")) if "prepare" in given else None
        if LOST in (file, prepare, *options.values()):
            return LOST
        if given.get("kind") == "from_xarray":
            variable = reading.value(given.get("variable", ""), str, (*path, "variable"))
            table = LOST if variable is LOST else reading.trying((*path, "file"), lambda: _netcdf(file, variable))
        else:
            table = reading.trying((*path, "file"), lambda: pd.read_csv(file, **options))
        if table is LOST or prepare is None:
            return table
        return reading.trying((*path, "prepare"), lambda: prepare(table))

    def _columns(self, kind: str, given: Mapping[str, Any], table: Any, path: Path) -> None:
        """Note columns that are named and not in the table."""
        if kind not in NOT_COLUMNS or not isinstance(table, pd.DataFrame):
            return
        columns = [str(name) for name in table.columns]

        def walk(value: Any, at: Path) -> None:
            if isinstance(value, str) and value not in columns:
                self.reading.wrong(at, f"the table has no column {value!r}{near(value, columns)}")
            elif isinstance(value, dict):
                for key, one in value.items():
                    walk(one, (*at, key))
            elif isinstance(value, list):
                for i, one in enumerate(value):
                    walk(one, (*at, i))

        for key, value in given.items():
            if key not in NOT_COLUMNS[kind]:
                walk(value, (*path, key))

    def _subjects(self, given: Any) -> Any:
        path = ("subjects",)
        if not self._unknown(given, (*FILE, "index"), path):
            return None
        table = self._table({key: one for key, one in given.items() if key in FILE}, path)
        index = self.reading.value(given.get("index", ""), str, (*path, "index"))
        if table is LOST or index is LOST:
            return None
        columns = [str(name) for name in table.columns]
        if not index:
            return table
        if index not in columns:
            return self.reading.wrong((*path, "index"), f"the table has no column {index!r}{near(index, columns)}")
        return table.set_index(index)

    # ------------------------------------------------------------------------------------------------ population, noise
    def _population(self) -> None:
        if "population" not in self.document:
            return
        space = next((one.space for one in self.found.members.values()), None)
        at = ("population",)
        if space is None:  # a mistake that was noted
            self.reading.arguments(Population, self.document["population"], at, without=("space",))
            return
        table = self.document["population"]
        found = self.reading.called(Population, table, at, {"space": space})
        self.found.population = None if found is LOST else found

    def _errors(self) -> None:
        self.found.noise, self.found.discrepancy = self._noise(self.document, ())

    def _noise(self, table: Mapping[str, Any], path: Path) -> tuple[Any, Any]:
        noise = self._section(table, "noise", path, lambda given, at: self.reading.value(given, NoiseSection, at))
        return noise, self._section(
            table, "discrepancy", path, lambda given, at: self.reading.value(given, Discrepancies, at)
        )

    def _combined(self) -> None:
        reading = self.reading
        if "chain" in self.document and self._unknown(self.document["chain"], ("links",), ("chain",)):
            links = self.document["chain"].get("links")
            if links is None:
                reading.wrong(("chain",), '`links` is missing: links = { "tissue.apd" = "cell.apd" }.')
            else:
                links = reading.value(links, Mapping[str, str | Link], ("chain", "links"))
                self.found.links = None if links is LOST else links
            if "members" not in self.document:
                reading.wrong(
                    ("chain",), "a chain links members: [members.cell.simulator], [members.tissue.simulator], ..."
                )
        if "superposition" in self.document:
            settings = reading.arguments(
                Superposition, self.document["superposition"], ("superposition",), without=("response", "regimens")
            )
            self.found.superposition = None if settings is LOST else settings

    # ----------------------------------------------------------------------------------------------------- calibration
    def _calibration(self) -> None:
        reading, document = self.reading, self.document
        parts = "members" in document and "chain" not in document
        target: Any = SingleCalibration
        if parts:
            target = JointCalibration
        elif "population" in document:
            target = PopulationCalibration
        given = reading.arguments(target, document.get("calibration", {}), ("calibration",), without=GIVEN)
        self.found.calibration = {} if given is LOST else given
        calibrates = any(key in document for key in ("data", "noise", "sample", "calibration")) or parts
        if calibrates:
            for key in () if parts else ("data", "noise"):
                if key not in document:
                    reading.wrong((), f"the section [{key}] is missing: a calibration needs it.")
            sample = reading.arguments(target.sample, document.get("sample", {}), ("sample",))
            if sample is not LOST and "rng" not in sample:
                reading.wrong(("sample",), "`rng` is missing: without a seed the study cannot be repeated, rng = 1.")
            self.found.sample = None if sample is LOST else Request(target.sample, sample)
        for key in () if calibrates else AFTER:
            if key in document:
                reading.wrong((key,), "this section needs a calibration: [data], [noise] and [sample].")

    def _after(self) -> None:
        reading, document = self.reading, self.document
        self._rounds()
        self.found.verify = self._seeded("verify", verification_design, "posterior")
        self.found.correct = self._seeded("correct", correct, "posterior", "ensemble")
        if "correct" in document and "verify" not in document:
            reading.wrong(("correct",), "a correction takes the runs of [verify]: n = 20, rng = 1.")
        self._next()
        for name, table in self._tables("predictions"):
            at = ("predictions", name)
            given = reading.arguments(Posterior.predict, table, at, without=("self",))
            if reading.trying(at, partial(checked_name, name)) is not LOST and given is not LOST:
                self.found.predictions[name] = Request(Posterior.predict, given)
        if "report" in document:
            given = reading.arguments(_report, document["report"], ("report",))
            if given is not LOST and not given.get("question", "").strip():
                given = reading.wrong(("report",), "`question` is missing: the question that the study answers.")
            self.found.report = {} if given is LOST else given

    def _seeded(self, key: str, function: Callable[..., Any], *without: str) -> Request | None:
        """Return the call of a section that has a seed."""
        given = self.document.get(key)
        return None if given is None else self._request(given, (key,), function, without)

    def _request(self, given: Any, at: Path, function: Callable[..., Any], without: Sequence[str]) -> Request | None:
        settings = self.reading.arguments(function, given, at, without=without)
        if settings is not LOST and "rng" not in settings:
            settings = self.reading.wrong(at, "`rng` is missing: without a seed the study cannot be repeated, rng = 1.")
        return None if settings is LOST else Request(function, settings)

    def _rounds(self) -> None:
        given = self.document.get("rounds", [])
        if not isinstance(given, list):
            self.reading.wrong(("rounds",), "expected a table for each round: [[rounds]], n = 60, rng = 2.")
            return
        members = self.found.members
        fitted = [name for name, one in members.items() if not one.direct]
        read = []
        for i, table in enumerate(given):
            at = ("rounds", i)
            one = self._request(table, at, refine, ("posterior",))
            named = one.settings.get("member") if one is not None else None
            if named is not None and named not in fitted:
                self.reading.wrong((*at, "member"), f"there are no runs of a member {named!r}{near(named, fitted)}")
            elif named is None and one is not None and len(members) > 1:
                self.reading.wrong(at, f"`member` is missing: the one that is run again, of {', '.join(fitted)}.")
            elif not fitted and members:
                self.reading.wrong(at, "a DirectSimulator has no surrogate to refine; leave the rounds out.")
            read.append(one)
        self.found.rounds = tuple(one for one in read if one is not None)

    def _next(self) -> None:
        """Read what is to be measured and run next."""
        at = ("next_experiment",)
        given = self.document.get("next_experiment")
        if isinstance(given, dict) and "candidates" in given:
            ideas = self.reading.arguments(candidates, given["candidates"], (*at, "candidates"), without=("table",))
            self.found.candidates = None if ideas is LOST else Request(candidates, ideas)
            rest = {key: one for key, one in given.items() if key != "candidates"}
            self.found.next_experiment = self._request(rest, at, next_experiment, ("posterior", "ideas"))
        elif given is not None:
            self.reading.wrong(at, "`candidates` is missing: what can be measured, { outputs = ..., times = [...] }.")
        self.found.next_runs = self._seeded("next_runs", next_runs, "posterior", "success")

    def _tables(self, key: str) -> list[tuple[str, Any]]:
        given = self.document.get(key, {})
        if not isinstance(given, dict):
            self.reading.wrong((key,), f"expected a table for each: [{key}.NAME].")
            return []
        return list(given.items())


FILE = {"file": "", "prepare": "", "separator": "sep", "decimal": "decimal", "comment": "comment"}


def _kind(given: Any) -> str:
    return str(given.get("kind", "")) if isinstance(given, dict) else type(given).__name__


def _netcdf(file: FilePath, variable: str) -> "xr.DataArray":
    import xarray as xr

    from uqms.ensemble.netcdf import refuse_unsafe

    refuse_unsafe(file)
    with xr.open_dataset(file, engine="h5netcdf") as opened:
        dataset = opened.load()
    names = [str(name) for name in dataset.data_vars]
    if not variable and len(names) == 1:
        variable = names[0]
    if variable not in names:
        raise InputError(f"the file has no variable {variable!r}{near(variable, names)}")
    return dataset[variable]
