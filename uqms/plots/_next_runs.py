"""What proposed runs are predicted to be worth: the sd of each target against the cost."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from uqms.errors import InputError
from uqms.planning import RunPlan
from uqms.plots._style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PAGE,
    PURPLE,
    SKY,
    VERMILION,
    add_legend,
    collected,
    new_figure,
    pick,
    styled,
)

__all__ = ["next_runs"]

MOST = 6
COLOURS = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY)
MARKERS = ("o", "s", "^", "D", "v", "P")


@styled
def next_runs(plan: RunPlan, *, names: Sequence[str] | None = None, labels: Mapping[str, str] | None = None) -> Figure:
    """Draw the predicted posterior sd of each target against the cost of the proposed runs.

    Use it to see how many of the runs are worth their cost: where the curves are flat, more runs do not help. The
    dashed lines are the sds without any error of the surrogate, below which no run leads. Marks say what is run.

    Parameters
    ----------
    plan
        What `uqms.next_runs` returned.
    names
        Which targets; the first six by default.
    labels
        Other names for the legend.

    Raises
    ------
    InputError
        When the plan has no run, or a name is none of its targets.
    """
    if not isinstance(plan, RunPlan):
        raise InputError(
            f"plots.next_runs: got a {type(plan).__name__}; give what uq.next_runs(posterior, n) returned."
        )
    if not plan:
        raise InputError(f"plots.next_runs: no run is proposed ({plan.stopped}).")
    shown = pick(names, list(plan.now), list(plan.now), MOST, "plots.next_runs")
    figure, axes = new_figure(1, 1, (0.75 * PAGE, 0.45 * PAGE), "Predicted posterior sd against the cost of runs.")
    ax = axes[0, 0]
    cost = np.concatenate([[0.0], plan.table["total_cost"].to_numpy()])
    for name, colour in zip(shown, COLOURS, strict=False):
        sd = np.concatenate([[plan.now[name]], plan.table[f"sd_{name}"].to_numpy()]) / plan.now[name]
        ax.plot(cost, sd, color=colour, label=(labels or {}).get(name, name))
        ax.axhline(plan.floor[name] / plan.now[name], color=colour, linestyle="--", linewidth=0.8)
    first = np.concatenate([[plan.now[shown[0]]], plan.table[f"sd_{shown[0]}"].to_numpy()])[1:] / plan.now[shown[0]]
    kinds = list(dict.fromkeys(plan.table["run"]))
    for kind, marker in zip(kinds if len(kinds) > 1 else [], MARKERS, strict=False):
        rows = (plan.table["run"] == kind).to_numpy()
        ax.plot(cost[1:][rows], first[rows], marker, color=GREY, markersize=4.0, label=f"run of {kind}")
    ax.set_xlabel("cost of the runs")
    ax.set_ylabel("predicted posterior sd / sd now")
    lowest = min(plan.floor[name] / plan.now[name] for name in shown)
    ax.set_ylim(bottom=max(0.0, lowest - 0.2 * (1.0 - lowest)))
    ax.set_xlim(left=0.0)
    add_legend(figure, collected([ax]), "outside right upper")
    return figure
