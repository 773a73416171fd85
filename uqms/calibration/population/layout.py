"""Subjects, their units, and the map from a population and standardised effects to individual parameters.

==========  ===================================================================  ===========
symbol      meaning                                                              shape
==========  ===================================================================  ===========
J           subjects                                                             ()
U           units: a subject on one occasion; J without occasions                ()
P           individual parameters                                                ()
m           typical values on the natural scale (log, logit, identity)           (P,)
omega       sd of the random effects on the natural scale                        (P,)
beta, c     covariate effects and the covariates of each subject                 (C,), (J, C)
x, L        standardised random effects; root of their correlation               (J, P), (P, P)
gamma, y    sd between occasions of one subject; standardised effects            (O,), (U, O)
==========  ===================================================================  ===========

On the natural scale, parameter p of subject j on an occasion u is m_p + sum_c beta_c c_jc + omega_p (L x_j)_p +
gamma_p y_up. Populations have heavier tails when x_p is Student-t instead of normal.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np
import pandas as pd
from scipy.special import ndtr, ndtri
from scipy.stats import t as student

from uqms._typing import Array, Ints, ScaleName
from uqms.errors import DataError, InputError
from uqms.parameters.functions import NumPyFunctions
from uqms.parameters.scale import SCALES

if TYPE_CHECKING:
    from uqms.calibration.population.population import Population

__all__ = ["WALL", "Layout", "Subjects", "correlation_root", "from_natural", "read_subjects", "to_natural"]

WALL = 0.01  # of the design box's width


def from_natural(v: Any, scale: ScaleName, xp: Any = NumPyFunctions) -> Any:
    """Return parameters in their own unit for values on the natural scale."""
    return SCALES[scale].inverse(v, xp)


def to_natural(x: Any, scale: ScaleName, xp: Any = NumPyFunctions) -> Any:
    """Return values on the natural scale of parameters in their own unit."""
    return SCALES[scale].forward(x, xp)


def correlation_root(levels: Sequence[Any], size: int, xp: Any = NumPyFunctions) -> list[list[Any]]:
    """Return the lower root L of a correlation matrix, by rows, from (1 + partial correlation) / 2 of each pair."""
    given = iter(levels)
    rows: list[list[Any]] = []
    for i in range(size):
        row: list[Any] = []
        left: Any = 1.0
        for _ in range(i):
            entry = (2.0 * next(given) - 1.0) * xp.sqrt(left)
            row.append(entry)
            left = left - entry**2
        rows.append([*row, xp.sqrt(left)])
    return rows


@final
@dataclass(frozen=True, eq=False)
class Subjects:
    """The subjects of a calibration, their covariates, and the occasions on which they were measured.

    Attributes
    ----------
    labels
        Of the J subjects.
    covariates
        Of each subject, one column a covariate effect, shape (J, C).
    subject, occasion
        Of each unit: its subject (place among the labels), and the occasion's label, shape (U,).
    measured
        Whether a subject has data, shape (J,).
    """

    labels: tuple[str, ...]
    covariates: Array
    subject: Ints
    occasion: np.ndarray
    measured: np.ndarray
    table: pd.DataFrame

    def __len__(self) -> int:
        return len(self.labels)


def read_subjects(population: "Population", table: pd.DataFrame | None, labels: Sequence[str] = ()) -> Subjects:
    """Return the subjects with their covariates; `labels` are those that have data.

    Raises
    ------
    InputError
        When columns are missing, or the table is none.
    DataError
        A subject that appears twice or has no covariates, a covariate that is not finite.
    """
    columns = list(dict.fromkeys(name for one in population.effects for name in one.expression.names))
    if table is None:
        if columns:
            raise InputError(
                f"The population has the covariates {columns}: give them by subject, Calibration(..., subjects=table) "
                "with one row per subject, e.g. table = df.groupby('id')[['weight']].first()."
            )
        table = pd.DataFrame(index=pd.Index(list(labels)))
    if not isinstance(table, pd.DataFrame):
        raise InputError(f"subjects is a {type(table).__name__}; give a pandas DataFrame with one row per subject.")
    if isinstance(table.index, pd.MultiIndex):
        raise InputError(
            f"subjects: the index has the levels {list(table.index.names)}; one "
            "label per row is required: df.groupby('id').first()."
        )
    several = [name for name in columns if list(table.columns).count(name) > 1]
    if several:
        raise InputError(f"subjects: the table has more than one column {several[0]!r}. Rename or drop one.")
    table = table.set_axis(table.index.astype(str), axis=0)
    twice = table.index[table.index.duplicated()]
    if len(twice):
        raise DataError(f"subjects: {twice[0]!r} has two rows; give each subject one: df.groupby('id').first().")
    absent = [name for name in columns if name not in table.columns]
    if absent:
        raise InputError(f"subjects: columns {absent} are missing; the table has {list(table.columns)}.")
    unknown = [label for label in labels if label not in table.index]
    if unknown:
        raise DataError(
            f"subjects: no row for {unknown[:5]} ({len(unknown)} in all), which have data. The index of the table has "
            f"to hold the labels of the observations, such as {list(table.index[:3])}."
        )
    values = {name: _numeric(table, name) for name in columns}
    covariates = np.zeros((len(table), len(population.effects)))
    for j, one in enumerate(population.effects):
        with np.errstate(all="ignore"):
            covariates[:, j] = one.expression.value(values)
        bad = np.flatnonzero(~np.isfinite(covariates[:, j]))
        if len(bad):
            raise DataError(
                f"subjects: {one.expression.text!r} of subject {table.index[bad[0]]!r} is {covariates[bad[0], j]}. "
                "Covariates are never imputed: fill it in, or leave the subject out."
            )
    every = tuple(str(label) for label in table.index)
    return Subjects(
        every,
        covariates,
        np.arange(len(every)),
        np.full(len(every), ""),
        np.isin(every, list(labels)),
        table[columns],
    )


def _numeric(table: pd.DataFrame, name: str) -> Array:
    column = pd.to_numeric(table[name], errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    bad = np.flatnonzero(~np.isfinite(column))
    if len(bad):
        raise DataError(
            f"subjects: {name!r} of subject {table.index[bad[0]]!r} is {table[name].iloc[bad[0]]!r}; a finite number "
            "is required. Covariates are never imputed: fill it in, code categories as 0 and 1, or leave the subject "
            "out."
        )
    return column


@final
@dataclass(frozen=True, eq=False)
class Layout:
    """From what is known of the population and standardised effects to the parameters of its units."""

    population: "Population"
    covariates: Array  # (J, C)
    subject: Ints  # (U,)

    @classmethod
    def of(cls, population: "Population", subjects: Subjects | None) -> "Layout":
        """Return the layout of given subjects; of one whose covariates are zero when there are none."""
        if subjects is None:
            return cls(population, np.zeros((1, len(population.effects))), np.zeros(1, dtype=np.int64))
        return cls(population, subjects.covariates, subjects.subject)

    @property
    def sizes(self) -> tuple[int, int]:
        """Number of effects between subjects (J P), and between occasions (U O)."""
        p = self.population
        return len(self.covariates) * len(p.individual), len(self.subject) * len(p.occasions)

    @property
    def size(self) -> int:
        """Number of standard normal effects."""
        return sum(self.sizes)

    def centre(self, theta: Mapping[str, Any], xp: Any = NumPyFunctions) -> list[Any]:
        """Return by parameter the natural value (..., J) that is expected of each subject, given draws (..., 1)."""
        p, known = self.population, self.population.known
        out = []
        for name, scale in zip(p.individual, p.scales, strict=True):
            value: Any = to_natural(theta[name], scale, xp)
            for j, one in enumerate(p.effects):
                if one.parameter == name:
                    size: Any = theta[one.name] if one.name in theta else known[one.name]
                    value = value + size * self.covariates[:, j]
            out.append(value)
        return out

    def spreads(self, theta: Mapping[str, Any]) -> list[Any]:
        """Return omega of each individual parameter."""
        known = self.population.known
        names = [f"omega_{name}" for name in self.population.individual]
        return [theta[name] if name in theta else known[name] for name in names]

    def root(self, theta: Mapping[str, Any], xp: Any = NumPyFunctions) -> list[list[Any]]:
        """Return L (P, P) by rows, lower, with zeros left out as None."""
        p = self.population
        names = [f"lkj_{one}_{other}" for one, other in p.pairs]
        inner = correlation_root([theta[name] for name in names], len(p.together), xp)
        out: list[list[Any]] = []
        for i, name in enumerate(p.individual):
            row: list[Any] = [None] * i + [1.0]
            if name in p.together:
                at = p.together.index(name)
                for k, other in enumerate(p.together[: at + 1]):
                    row[p.individual.index(other)] = inner[at][k]
            out.append(row)
        return out

    def standardised(self, z: Array) -> tuple[Array, Array]:
        """Return x (S, J, P) and y (S, U, O) of standard normals z (S, size)."""
        p, (first, _) = self.population, self.sizes
        x = z[:, :first].reshape(len(z), len(self.covariates), len(p.individual)).copy()
        for name, freedom in p.tails.items():
            at = p.individual.index(name)
            x[..., at] = -np.sign(x[..., at]) * student.ppf(ndtr(-abs(x[..., at])), freedom)
        return x, z[:, first:].reshape(len(z), len(self.subject), len(p.occasions))

    def standard_normals(self, x: Array, y: Array) -> Array:
        """Return z (S, size) of x and y, the inverse of `standardised`."""
        p, x = self.population, x.copy()
        for name, freedom in p.tails.items():
            at = p.individual.index(name)
            x[..., at] = -np.sign(x[..., at]) * ndtri(student.sf(abs(x[..., at]), freedom))
        return np.concatenate([x.reshape(len(x), -1), y.reshape(len(y), -1)], axis=1)

    def natural(self, theta: Mapping[str, Array], z: Array) -> tuple[Array, Array]:
        """Return natural values of subjects (S, J, P), and of units (S, U, P), for draws (S,) and z (S, size)."""
        p = self.population
        x, y = self.standardised(z)
        columns = {name: np.asarray(values)[:, None] for name, values in theta.items()}
        centre, omega = self.centre(columns), self.spreads(columns)
        out = np.empty((len(z), len(self.covariates), len(p.individual)))
        for i, row in enumerate(self.root(columns)):
            effect = sum(entry * x[..., k] for k, entry in enumerate(row) if entry is not None)
            out[..., i] = centre[i] + omega[i] * effect
        units = out[:, self.subject]
        for k, name in enumerate(p.occasions):
            key = f"omega_{name}_occasion"
            gamma = columns[key] if key in columns else p.known[key]
            units[..., p.individual.index(name)] += gamma * y[..., k]
        return out, units

    def parameters(self, theta: Mapping[str, Array], z: Array) -> dict[str, Array]:
        """Return the individual parameters (S, U) in their own units, by name."""
        _, units = self.natural(theta, z)
        p = self.population
        return {n: from_natural(units[..., i], s) for i, (n, s) in enumerate(zip(p.individual, p.scales, strict=True))}

    def one(self, theta: Mapping[str, Array], z: Array, subject: Ints) -> Array:
        """Return natural values (S, P) of one unit a draw, that of `subject` (S,), for z (S, P + O)."""
        p = self.population
        columns = dict(theta)
        own = Layout(p, self.covariates[subject], np.arange(len(subject)))
        centre, omega = own.centre(columns), own.spreads(columns)
        x = z[:, : len(p.individual)].copy()
        for name, freedom in p.tails.items():
            at = p.individual.index(name)
            x[:, at] = -np.sign(x[:, at]) * student.ppf(ndtr(-abs(x[:, at])), freedom)
        out = np.empty(x.shape)
        for i, row in enumerate(self.root(columns)):
            out[:, i] = centre[i] + omega[i] * sum(e * x[:, k] for k, e in enumerate(row) if e is not None)
        for k, name in enumerate(p.occasions):
            key = f"omega_{name}_occasion"
            out[:, p.individual.index(name)] += (columns[key] if key in columns else p.known[key]) * z[
                :, len(p.individual) + k
            ]
        return out

    def correlations(self, theta: Mapping[str, Array]) -> dict[str, Array]:
        """Return the correlations of random effects, by "corr_a_b", for draws of any shape."""
        p = self.population
        if not p.pairs:
            return {}
        root = correlation_root([theta[f"lkj_{a}_{b}"] for a, b in p.pairs], len(p.together))
        out = {}
        for i, a in enumerate(p.together):
            for j, b in enumerate(p.together[:i]):
                out[f"corr_{a}_{b}"] = sum(root[i][k] * root[j][k] for k in range(j + 1))
        return out
