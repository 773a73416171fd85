"""What a report is made of: the posterior, the evidence beside it, and tables of what their objects do not tabulate."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from functools import cached_property
from typing import Any, final

import numpy as np
import pandas as pd

from uqms.calibration.base import Problem
from uqms.calibration.posterior import Posterior
from uqms.ensemble import failures, input_names
from uqms.errors import UqmsError
from uqms.report.contents import Block, Cell, Paragraph, Picture, Table
from uqms.report.hashes import hash_of_code, hash_of_data, hash_of_model, hash_of_runs
from uqms.report.numbers import Number, Sources, Words, row_keys
from uqms.surrogates import leave_one_out

__all__ = ["MOST_ROWS", "Material", "conjoined", "heading_of"]

MOST_ROWS = 60  # of a table; the rest is in the object
STATEMENT = "The verdict is FAIL: do not use these intervals."
COLUMNS = {
    "mean": "mean",
    "sd": "standard deviation",
    "mcse_mean": "Monte Carlo error of the mean",
    "r_hat": "R-hat",
    "ess_bulk": "ESS (bulk)",
    "ess_tail": "ESS (tail)",
    "q2": "Q²",
    "rmse": "RMSE",
    "crps": "CRPS",
    "mcse": "Monte Carlo error",
    "k_hat": "Pareto k-hat",
    "error_surrogate": "error from the surrogate",
    "error_monte_carlo": "Monte Carlo error",
    "p": "p-value",
    "surrogate_sd": "sd from the surrogate",
    "monte_carlo_sd": "Monte Carlo sd",
    "share": "largest fraction of a variance that is due to the surrogate's error",
    "moved": "largest change of a mean, in sds",
    "needed": "another round is needed",
    "chosen": "chosen amount",
}


def heading_of(column: str) -> str:
    """Return the words above a column."""
    if column.startswith("fraction from "):
        return f"fraction of the variance: {column.removeprefix('fraction from ')}"
    return COLUMNS.get(column, column.replace("_", " "))


def conjoined(cells: Iterable[Cell], between: str = ", ") -> tuple[Cell, ...]:
    """Return cells with text between."""
    found: list[Cell] = []
    for cell in cells:
        found += [between, cell] if found else [cell]
    return tuple(found)


@final
@dataclass(frozen=True, eq=False)
class Material:
    """A posterior with the evidence that was given beside it.

    Attributes
    ----------
    posterior
        Whose report it is.
    given
        The other arguments of `credibility_report` by name; None where they were left out.
    """

    posterior: Posterior
    given: Mapping[str, Any]

    @property
    def problem(self) -> Problem:
        """The calibration."""
        return self.posterior.problem

    @property
    def parts(self) -> Mapping[str, Any]:
        """The data by part, of a calibration with one simulator one called ""."""
        return self.problem.named_parts

    @cached_property
    def sources(self) -> Sources:
        """All objects by the name in a source."""
        made = {
            "priors": self.priors,
            "data": self.data,
            "runs": self.runs,
            "box": self.box,
            "coverage": self.coverage,
            "hashes": self.hashes,
            "surrogate_fraction": self.surrogate_fraction,
            "ranges": self.ranges,
            "regimens": self.regimens,
            "states": self.states,
            "validations": self.validations,
        }
        given = {name: value for name, value in self.given.items() if value is not None}
        return Sources({"posterior": self.posterior, **given, **made})

    @property
    def verification(self) -> Any:
        """The verification; of a correction, the one that it was made by."""
        found = self.given.get("verification")
        return getattr(found, "verification", found)

    @cached_property
    def failed(self) -> bool:
        """Whether intervals must not be used: the verdict of the posterior, or of runs at its draws, is FAIL."""
        verdicts = [self.posterior.verdict, getattr(self.verification, "verdict", None)]
        return any(one is not None and one.status == "fail" for one in verdicts)

    @property
    def statement(self) -> str:
        """What stands beside intervals; empty unless the verdict is FAIL."""
        return STATEMENT if self.failed else ""

    # -------------------------------------------------------------------------- tables that no object has by itself
    @cached_property
    def priors(self) -> pd.DataFrame:
        """By inferred quantity: prior, unit, description and the interval that the prior is conditioned on."""
        rows = {}
        for name, prior in self.problem.priors.items():
            low, high = self.problem.limits(name)
            about = getattr(prior, "description", "")
            rows[name] = {
                "prior": _plain(prior),
                "unit": self.problem.unit_of(name),
                "description": about,
                "lower": float(low),
                "upper": float(high),
            }
        return pd.DataFrame.from_dict(rows, orient="index")

    @cached_property
    def data(self) -> pd.DataFrame:
        """By part and output: counts, range of the measured values and unit."""
        rows = {}
        for part, problem in self.parts.items():
            found = problem.observations
            for output in found.outputs:
                these = found.output == output
                censored = 0 if found.censored is None else int(np.sum(found.censored[these] != ""))
                rows[f"{part}: {output}" if part else str(output)] = {
                    "measurements": int(these.sum()),
                    "subjects": len(set(found.subject[these].tolist())),
                    "experiments": len(set(found.experiment[these].tolist())),
                    "censored": censored,
                    "smallest": float(found.value[these].min()),
                    "largest": float(found.value[these].max()),
                    "unit": found.units.get(str(output), ""),
                }
        return pd.DataFrame.from_dict(rows, orient="index")

    @cached_property
    def ranges(self) -> pd.DataFrame:
        """By part and coordinate, condition or covariate: the range that was measured."""
        rows = {}
        for part, problem in self.parts.items():
            found, head = problem.observations, f"{part}: " if part else ""
            columns = {f"{head}coordinate {name}": values for name, values in found.coords.items() if name != "regimen"}
            columns |= {f"{head}condition {name}": values for name, values in found.conditions.items()}
            if found.covariates is not None:
                numeric = found.covariates.select_dtypes("number")
                columns |= {f"{head}covariate {name}": numeric[name].to_numpy() for name in numeric}
            for name, values in columns.items():
                known = np.asarray(values, dtype=np.float64)
                known = known[np.isfinite(known)]
                if len(known):
                    rows[name] = {
                        "smallest": float(known.min()),
                        "largest": float(known.max()),
                        "different values": len(np.unique(known)),
                    }
        return pd.DataFrame.from_dict(rows, orient="index")

    @cached_property
    def surrogates(self) -> dict[str, Any]:
        """Every surrogate by name: of parts and members of chains each."""
        found: dict[str, Any] = {}
        for part, problem in self.parts.items():
            members = getattr(problem.surrogate, "members", None)
            if isinstance(members, Mapping):
                found |= {f"{part}: {name}" if part else str(name): one for name, one in members.items()}
            else:
                found[part or "surrogate"] = problem.surrogate
        return found

    @cached_property
    def runs(self) -> pd.DataFrame:
        """By surrogate: number of runs, those left out, and what it is in words."""
        rows = {}
        for name, surrogate in self.surrogates.items():
            attrs = getattr(surrogate, "attrs", {})
            exact = bool(getattr(surrogate, "exact", False))
            count = getattr(surrogate, "runs", None)
            left = attrs.get("runs_left_out")
            rows[name] = {
                "kind": "the simulator itself, without a surrogate" if exact else type(surrogate).__name__,
                "runs": float("nan") if exact or not isinstance(count, int) else count,
                "left out": float("nan") if left is None else int(left),
                "design": attrs.get("design", "not known"),
                "simulator": attrs.get("simulator", "not known"),
                "sha256": hash_of_runs(surrogate),
            }
        return pd.DataFrame.from_dict(rows, orient="index")

    @cached_property
    def box(self) -> pd.DataFrame:
        """By surrogate and input: ends of the design box, and the scale of the input."""
        rows = {}
        for name, surrogate in self.surrogates.items():
            if getattr(surrogate, "exact", False):
                continue
            box = surrogate.domain
            for i, key in enumerate(box.names):
                label = f"{name}: {key}" if len(self.surrogates) > 1 else key
                rows[label] = {"lower": box.lower[i], "upper": box.upper[i], "scale": box.scale[i]}
        return pd.DataFrame.from_dict(rows, orient="index")

    @cached_property
    def coverage(self) -> pd.DataFrame:
        """By output: how many measurements lie inside of the central 95 % of replicated measurements."""
        tree = self.posterior.tree
        replicated = tree["posterior_predictive"]["value"]
        low, high = replicated.quantile([0.025, 0.975], dim=("chain", "draw")).values
        observed = tree["observed_data"]["value"]
        inside = (observed.values >= low) & (observed.values <= high)
        output = observed["output"].values if "output" in observed.coords else np.full(len(inside), "all")
        if "part" in observed.coords:
            output = np.array([f"{a}: {b}" for a, b in zip(observed["part"].values, output, strict=True)])
        known = np.isfinite(low) & np.isfinite(high)
        rows = {
            str(name): {
                "measurements": int(np.sum(known & (output == name))),
                "inside": int(np.sum(inside & known & (output == name))),
            }
            for name in dict.fromkeys(output.tolist())
        }
        return pd.DataFrame.from_dict(rows, orient="index")

    @cached_property
    def surrogate_fraction(self) -> pd.DataFrame:
        """By quantity: the fraction of its variance that is due to the surrogate's error."""
        values = {str(name): float(value) for name, value in self.posterior.surrogate_share.data_vars.items()}
        return pd.DataFrame({"fraction of the variance": values})

    @cached_property
    def hashes(self) -> dict[str, str]:
        """SHA-256 by what it is of."""
        found = {"data": hash_of_data(self.problem), "model": hash_of_model(self.problem), "code": hash_of_code()}
        return found | {f"runs of {name}": hash_of_runs(one) for name, one in self.surrogates.items()}

    @cached_property
    def regimens(self) -> dict[str, Any]:
        """Regimen by subject, where the observations have them."""
        found: dict[str, Any] = {}
        for part, problem in self.parts.items():
            for name, regimen in problem.observations.regimens.items():
                found[f"{part}: {name}" if part else str(name)] = regimen
        return found

    @property
    def chain(self) -> bool:
        """Whether a surrogate is a chain of several scales."""
        return any(isinstance(getattr(one.surrogate, "members", None), Mapping) for one in self.parts.values())

    @property
    def outputs(self) -> tuple[str, ...]:
        """Outputs that were measured."""
        found = (str(name) for problem in self.parts.values() for name in problem.observations.outputs)
        return tuple(dict.fromkeys(found))

    @property
    def measured(self) -> list[str]:
        """Subjects that have measurements."""
        found = {str(one) for problem in self.parts.values() for one in problem.observations.subject.tolist()}
        return [name for name in self.posterior.subjects if name in found]

    @cached_property
    def input_names(self) -> tuple[str, ...]:
        """Inputs of the table of runs."""
        return tuple(input_names(self.given["ensemble"]))

    @cached_property
    def states(self) -> dict[str, int]:
        """Number of runs by state, where the table of runs was given."""
        if self.given.get("ensemble") is None:
            return {}
        return {str(state): int(count) for state, count in failures(self.given["ensemble"]).counts.items()}

    @cached_property
    def validations(self) -> dict[str, Any]:
        """Validation by surrogate: what was given, else of left-out runs; the reason where there is none."""
        given = self.given.get("validation")
        if given is not None:
            return dict(given) if isinstance(given, Mapping) else {next(iter(self.surrogates)): given}
        found: dict[str, Any] = {}
        for name, surrogate in self.surrogates.items():
            if getattr(surrogate, "exact", False):
                continue
            try:
                found[name] = leave_one_out(getattr(surrogate, "response", surrogate))  # of a superposition
            except UqmsError as error:
                found[name] = str(error)
        return found

    def made_of(self, *names: str) -> tuple[str, ...]:
        """Return the posterior and those of these arguments that were given."""
        failing = ("verification",) if self.verification is not None else ()
        return ("posterior", *dict.fromkeys(name for name in (*failing, *names) if self.given.get(name) is not None))

    def checks(self, *names: str) -> list[int]:
        """Return the places of the checks of these names in the verdict, those of parts too."""
        found = self.posterior.verdict.checks
        return [i for i, check in enumerate(found) if any(check.name.split(" (")[0] == name for name in names)]

    def check_text(self, name: str) -> str:
        """Return the messages of a check in words."""
        found = self.posterior.verdict.checks
        return " ".join(f"{found[i].name}: {found[i].message}." for i in self.checks(name))

    # --------------------------------------------------------------------------------------------------------- blocks
    def table(
        self,
        caption: str,
        path: str,
        *keys: object,
        columns: Mapping[str, str] | Sequence[str] | None = None,
        head: str = "",
        labels: Callable[[tuple[str, ...]], Cell] | None = None,
        texts: Callable[[str, str], str | None] = lambda row, column: None,
        statement: str = "",
    ) -> list[Block]:
        """Return the table at a source as blocks; with a remark where it has more rows than are shown."""
        frame: pd.DataFrame = self.sources.at(path, *keys)
        names = [str(column) for column in frame.columns if columns is None or str(column) in columns]
        if isinstance(columns, Mapping):
            heads = [columns[name] for name in names]
        else:
            heads = [heading_of(name) for name in names]
        rows: list[tuple[Cell, ...]] = []
        for row in row_keys(frame)[:MOST_ROWS]:
            label: Cell = ", ".join(row) if labels is None else labels(row)
            label = _label(label) if isinstance(label, str) else label
            cells = [self._cell((path, *keys, *row, name), texts(row[0], name)) for name in names]
            rows.append((label, *cells))
        if not rows:
            return [Paragraph((f"{caption}: none.",))]
        found: list[Block] = [Table(caption, (head or _head(frame), *heads), tuple(rows), statement)]
        if len(frame) > MOST_ROWS:
            found.append(Paragraph((f"The first {MOST_ROWS} of {len(frame)} rows are shown.",), "note"))
        return found

    def _cell(self, at: tuple[object, ...], text: str | None) -> Cell:
        path, *keys = at
        value = self.sources.at(str(path), *keys)
        if isinstance(value, tuple) and len(value) == 2:
            return conjoined((self.sources.number(str(path), *keys, i) for i in (0, 1)), " to ")
        found = self.sources.value(str(path), *keys)
        if isinstance(found, Number) and text is not None:
            return Number(found.value, found.source, text)
        return found

    def picture(
        self, caption: str, alternative: str, draw: Callable[[], Any], statement: str = "", call: str = ""
    ) -> list[Block]:
        """Return a figure, or a remark why there is none; nothing where the calibration rules out the `call`."""
        if call in self.problem.limitations:
            return []
        try:
            figure = draw()
        except UqmsError as error:
            return [Paragraph((f"{caption} No figure: {error}",), "missing")]
        return [Picture(caption, alternative, figure, statement)]

    def words(self, path: str, *keys: object) -> Words:
        """Return text of an object with its source."""
        return self.sources.words(path, *keys)

    def number(self, path: str, *keys: object, text: str | None = None) -> Number:
        """Return a number of an object with its source."""
        return self.sources.number(path, *keys, text=text)

    def replicated_inside(self) -> str:
        """Return in words how many measurements lie in the predictive intervals."""
        total, inside = int(self.coverage["measurements"].sum()), int(self.coverage["inside"].sum())
        return f"{inside} of {total} measurements lie inside of the central 95 % of replicated measurements"


def _label(key: str) -> str:
    """Return the name of a row as it is printed: places from 1, numbers without digits that say nothing."""
    if key.startswith("#") and key[1:].isdigit():
        return str(int(key[1:]) + 1)
    try:
        return f"{float(key):g}"
    except ValueError:
        return key


def _head(frame: pd.DataFrame) -> str:
    """Return what stands above the names of the rows."""
    named = [str(name) for name in frame.index.names if name is not None]
    return ", ".join(named) or ("row" if row_keys(frame)[0][0].startswith("#") else "quantity")


def _plain(prior: Any) -> Any:
    """Return a prior without unit and description, which have columns of their own."""
    own = {name: "" for name in ("unit", "description") if getattr(prior, name, "")}
    return replace(prior, **own) if own and is_dataclass(prior) and not isinstance(prior, type) else prior
