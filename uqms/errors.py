"""Everything that uqms raises or warns about, in one tree.

Catch the broad class, recover by the narrow one. Every error also is the builtin it resembles, so that code which knows
nothing of uqms still catches it::

    UqmsError
    ├── InputError (ValueError)            an argument, a prior or a name that cannot be meant
    │   ├── UnknownNameError, UnknownKeyError   an attribute or key that does not exist
    │   ├── UnitError                      units that are missing or do not agree
    │   ├── ConformanceError               a part of the user's own that does not do what its protocol says
    │   ├── TemplateError                  an input template that does not fit the inputs
    │   └── StudyError                     a study file with mistakes
    ├── DataError (ValueError)             numbers that were handed over: training data, observations, draws
    ├── DesignError (ValueError)           too few or unusable design points
    ├── ExtrapolationError (ValueError)    asked for outside of what was simulated
    ├── FitError (RuntimeError)            a surrogate that could not be trained
    ├── SimulatorError (RuntimeError)      a run that did not give its outputs
    │   ├── SimulatorFailed, SimulatorTimeout, SimulatorNotFound
    │   └── OutputError                    the run ended, its outputs are wrong
    ├── CampaignError (RuntimeError)       a set of runs that cannot go on
    │   └── CampaignLocked, CampaignMismatch, CampaignStopped
    ├── SamplingError (RuntimeError)       no posterior that could be believed
    │   └── InitError, SamplingInterrupted
    └── FileError (OSError)                what lies on disk
        └── MissingFileError, FormatError, FormatVersionError, UnsafeFileError, PathError,
            IntegrityError, StorageError

    UqmsWarning (UserWarning)
    └── DesignWarning, DataWarning, ConstantOutputWarning, NumericalWarning, ExtrapolationWarning,
        PriorConflictWarning, ConvergenceWarning, RegimeWarning
"""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from uqms._typing import Array

__all__ = [
    "CampaignError",
    "CampaignLocked",
    "CampaignMismatch",
    "CampaignStopped",
    "ConformanceError",
    "ConstantOutputWarning",
    "ConvergenceWarning",
    "DataError",
    "DataWarning",
    "DesignError",
    "DesignWarning",
    "ExtrapolationError",
    "ExtrapolationWarning",
    "FileError",
    "FitError",
    "FormatError",
    "FormatVersionError",
    "InitError",
    "InputError",
    "IntegrityError",
    "MissingFileError",
    "NumericalWarning",
    "OutputError",
    "PathError",
    "PriorConflictWarning",
    "RegimeWarning",
    "SamplingError",
    "SamplingInterrupted",
    "SimulatorError",
    "SimulatorFailed",
    "SimulatorNotFound",
    "SimulatorTimeout",
    "StorageError",
    "StudyError",
    "TemplateError",
    "UnitError",
    "UnknownKeyError",
    "UnknownNameError",
    "UnsafeFileError",
    "UqmsError",
    "UqmsWarning",
]

PACKAGE = (os.path.dirname(__file__) + os.sep,)  # frames that a warning skips: it names the line of the user's own code


class UqmsError(Exception):
    """Base of every error that uqms raises."""


class InputError(UqmsError, ValueError):
    """An argument that makes no sense: a prior with low >= high, an empty name, a negative standard deviation."""


class UnknownNameError(InputError, AttributeError):
    """An attribute that does not exist, such as `posterior.mean`; the text lists those that do."""


class UnknownKeyError(InputError, KeyError):
    """A key that does not exist, such as a check that a verdict does not have."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class UnitError(InputError):
    """Units that are missing on one side or differ."""


class ConformanceError(InputError):
    """A user's own part, such as a surrogate, that does not follow its protocol or cannot do what is required."""


class TemplateError(InputError):
    """An input template with a name without a value, an input that no template uses, or a syntax error."""


class StudyError(InputError):
    """A study file with mistakes; `mistakes` has each with its line, its key and a message."""

    def __init__(self, message: str, mistakes: "Sequence[object]" = ()) -> None:
        super().__init__(message)
        self.mistakes = tuple(mistakes)


class DataError(UqmsError, ValueError):
    """Training data or observations with NaN, mismatched rows, unknown outputs or conflicting duplicates."""


class DesignError(UqmsError, ValueError):
    """Too few design points for their purpose, or points that do not fit the space."""


class ExtrapolationError(UqmsError, ValueError):
    """A value outside of the design box or of the simulated coordinates."""


class FitError(UqmsError, RuntimeError):
    """A surrogate that could not be trained."""


class SimulatorError(UqmsError, RuntimeError):
    """A run that did not give its outputs."""


class SimulatorFailed(SimulatorError):
    """The simulator raised or ended with an error."""


class SimulatorTimeout(SimulatorError, TimeoutError):
    """The simulator did not end before its deadline."""


class SimulatorNotFound(SimulatorError, FileNotFoundError):
    """The simulator that was to be started does not exist."""


class OutputError(SimulatorError):
    """A run ended, but its outputs are missing, not finite or of the wrong shape.

    `partial` holds the outputs that can be used, output -> float64 array with NaN for what is missing, or None.
    """

    def __init__(self, message: str, partial: "Mapping[str, Array] | None" = None) -> None:
        super().__init__(message)
        self.partial = partial


class CampaignError(UqmsError, RuntimeError):
    """A campaign of runs that cannot continue."""


class CampaignLocked(CampaignError):
    """Another process is writing to the run store."""


class CampaignMismatch(CampaignError):
    """The run store belongs to another simulator, or to other outputs."""


class CampaignStopped(CampaignError):
    """More runs failed than the failure policy allows; `ensemble` holds what was run until then."""

    def __init__(self, message: str, ensemble: object = None) -> None:
        super().__init__(message)
        self.ensemble = ensemble


class SamplingError(UqmsError, RuntimeError):
    """The sampler did not return draws that could be used."""


class InitError(SamplingError):
    """No starting point has a finite log-density."""


class SamplingInterrupted(SamplingError):
    """Sampling stopped early; `partial` holds the draws so far, kept apart from a posterior."""

    def __init__(self, message: str, partial: object = None) -> None:
        super().__init__(message)
        self.partial = partial


class FileError(UqmsError, OSError):
    """Base of errors with files."""


class MissingFileError(FileError, FileNotFoundError):
    """A file or folder that does not exist."""


class FormatError(FileError):
    """A file that is truncated or does not have its declared format."""


class FormatVersionError(FormatError):
    """A file that a newer uqms wrote."""


class UnsafeFileError(FileError):
    """A file that would run code, read other files or fill the memory."""


class PathError(FileError):
    """A path that leads out of the folder in which it has to stay."""


class IntegrityError(FileError):
    """Stored content that does not match its checksum."""


class StorageError(FileError):
    """The run store cannot be written; what was committed before is safe."""


class UqmsWarning(UserWarning):
    """Base of every warning that uqms gives."""


class DesignWarning(UqmsWarning):
    """A column that is constant or collinear."""


class DataWarning(UqmsWarning):
    """Data that can be used, but that are probably not what was intended."""


class ConstantOutputWarning(DataWarning):
    """An output that is the same in every run."""


class NumericalWarning(UqmsWarning):
    """Numbers that needed help, such as a large jitter or an optimum at a bound."""


class ExtrapolationWarning(UqmsWarning):
    """A prediction outside of the design box."""


class PriorConflictWarning(UqmsWarning):
    """Observations that are nearly impossible under the prior."""


class CapabilityWarning(UqmsWarning):
    """Something that the posterior of a calibration will not offer."""


class RegimeWarning(UqmsWarning):
    """An output that jumps between regimes, which one smooth surrogate cannot follow."""


class ConvergenceWarning(UqmsWarning):
    """Too few chains or draws to judge whether the sampler converged."""
