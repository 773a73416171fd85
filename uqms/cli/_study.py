"""The commands ``uqms study ...``, which work on a study file. Each imports other modules only when it is called."""

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from uqms.errors import StudyError

if TYPE_CHECKING:
    from argparse import _SubParsersAction

__all__ = ["add"]


def add(rooms: "_SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands to the parser."""
    room = rooms.add_parser(
        "study",
        help="commands for studies in one file",
        description="Make, check, run and report a study that is described in one file.",
    )
    commands = room.add_subparsers(metavar="COMMAND", required=True)
    new = commands.add_parser("new", help="write a study that runs as it is", description="Write a study that runs.")
    new.add_argument("folder", metavar="FOLDER", help="a new folder")
    new.set_defaults(do=_new)
    checked = _command(commands, "check", _check, "list every mistake; the exit status is 1 if there is one")
    checked.add_argument("--json", action="store_true", help="print one JSON list")
    run = _command(commands, "run", _run, "do what is missing or stale, and keep each result")
    run.add_argument("--workers", metavar="N", type=int, help="run N points at a time; 0 uses this process")
    status = _command(commands, "status", _status, "show what exists, what is stale, and why")
    status.add_argument("--json", action="store_true", help="print one JSON list")
    report = _command(commands, "report", _report, "write the report of a study whose results are up to date")
    report.add_argument("--output", metavar="FILE", help="path of the report; by default report.html among the results")


def _command(commands: Any, name: str, do: Any, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.add_argument("file", metavar="STUDY", help="path of the study file, such as study.toml")
    parser.set_defaults(do=do)
    return parser


def _new(given: argparse.Namespace) -> int:
    from uqms.study.template import new_study

    path = new_study(given.folder)
    print(f"written: {path}, with model.py and data.csv. Next: uqms study check {path}")
    return 0


def _check(given: argparse.Namespace) -> int:
    from uqms.study import mistakes_of

    mistakes = mistakes_of(given.file)
    if given.json:
        print(json.dumps([one._asdict() for one in mistakes]))
    else:
        _mistakes(given.file, mistakes)
        if not mistakes:
            print(f"{given.file}: no mistakes")
    return 1 if mistakes else 0


def _mistakes(file: str, mistakes: Any) -> None:
    for one in mistakes:
        where = f" {one.where}:" if one.where else ""
        print(_plain(f"{file}:{one.line}:{where} {one.message}"))


def _study(file: str) -> Any:
    from uqms.study import Study

    try:
        return Study.from_toml(file)
    except StudyError as error:
        _mistakes(file, error.mistakes)
        return None


def _run(given: argparse.Namespace) -> int:
    study = _study(given.file)
    if study is None:
        return 1
    settings = {} if given.workers is None else {"workers": given.workers}
    try:
        results = study.run(_say, **settings)
    except KeyboardInterrupt:
        print(f"interrupted; what was finished is kept. Go on with: uqms study run {given.file}", file=sys.stderr)
        return 130
    if study.calibrates:
        print(_plain(str(results.posterior.summary())))
        print(_plain(str(results.posterior.verdict)))
    return 0


def _say(line: str) -> None:
    print(_plain(line), flush=True)


def _status(given: argparse.Namespace) -> int:
    study = _study(given.file)
    if study is None:
        return 1
    from uqms.study import finished_runs

    states = study.status()
    if given.json:
        keys = ("step", "state", "reason", "ended")
        print(json.dumps([{**{key: getattr(one, key) for key in keys}, "file": str(one.file)} for one in states]))
        return 0
    width = max((len(one.step) for one in states), default=0)
    for one in states:
        words = [one.reason, f"made {one.ended}" if one.ended else ""]
        print(_plain(f"{one.step:{width}}  {one.state:10}  {'; '.join(filter(None, words))}").rstrip())
    if any(one.step.startswith("runs") and not one.current for one in states):
        print(f"{finished_runs(study)} runs are in the run store {study.store}")
    return 0


def _report(given: argparse.Namespace) -> int:
    study = _study(given.file)
    if study is None:
        return 1
    from uqms.study import write_report

    print(f"written: {write_report(study, given.output)}")
    return 0


def _plain(text: str) -> str:
    """Return text without characters that a terminal would obey."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)
