r"""
A campaign on a Slurm cluster
=============================

One line of a script changes when its runs go to a cluster: ``workers=client``. The rest of this file makes that client.
Start it on a login node, in ``tmux`` or as a small job of its own; it asks Slurm for jobs while there is work, gives
them back afterwards, and keeps every run in a store as it ends. Stop it whenever you like: the same call goes on where
it was.

    python examples/cluster/slurm_campaign.py            # on a cluster, after a look at `slurm_cluster`
    python examples/cluster/slurm_campaign.py --local    # the same on this machine, with the same encryption

It needs ``pip install "uqms[dask]" dask-jobqueue cryptography``, in an environment that all nodes see.
"""

import argparse
from pathlib import Path

import dask
import xarray as xr
from dask_jobqueue import SLURMCluster
from distributed import Client, LocalCluster
from distributed.security import Security

import uqms as uq

WORK = Path("results/slurm_campaign")


# %%
# The cluster
# -----------
#
# One job is one Dask worker on one node. It runs 16 points at a time, each in a process of its own, so that a run which
# crashes or hangs costs itself only. ``print(cluster.job_script())`` shows what Slurm gets::
#
#     #!/usr/bin/env bash
#
#     #SBATCH -J uqms
#     #SBATCH -p compute
#     #SBATCH -A my-project
#     #SBATCH -n 1
#     #SBATCH --cpus-per-task=16
#     #SBATCH --mem=60G
#     #SBATCH -t 04:00:00
#     export OMP_NUM_THREADS=1
#     PYTHON -m distributed.cli.dask_worker tls://ADDRESS --name dummy-name --nthreads 16 --memory-limit 59.60GiB
#         --nanny --death-timeout 120 --local-directory /tmp --lifetime 225m --lifetime-stagger 5m --protocol tls://
#         --tls-ca-file CERTIFICATES --tls-cert CERTIFICATES --tls-key CERTIFICATES
#
# - TLS, because a Dask port runs any code that reaches it: whoever shares the network with you could run theirs under
#   your name. ``Security.temporary()`` makes certificates for this campaign; nodes read them in a folder that only you
#   can read. Without them `uqms.run` refuses the cluster.
# - ``--lifetime`` lets a worker leave in good order before Slurm ends its job. What ran on it goes out again, and it
#   is not held against the points.
# - ``default-task-durations`` tells the scheduler, which decides how many jobs to ask for, how long a run takes before
#   the first one has ended. Without it a campaign of long runs grows slowly.
# - The memory is for all 16 processes together. Slurm ends the whole job when they take more: choose `cores` so that
#   the largest runs fit.


def slurm_cluster(certificates: Path) -> SLURMCluster:
    """Return a cluster without jobs. Adapt queue, account, cores, memory and walltime."""
    certificates.mkdir(mode=0o700, parents=True, exist_ok=True)
    dask.config.set(
        {"distributed.scheduler.default-task-durations": {"uqms": "10 minutes"}}
    )
    return SLURMCluster(
        job_name="uqms",
        queue="compute",
        account="my-project",
        cores=16,
        processes=1,
        memory="64GB",
        walltime="04:00:00",
        protocol="tls://",
        security=Security.temporary(),
        shared_temp_directory=str(certificates.resolve()),
        local_directory="/tmp",
        death_timeout=120,
        job_script_prologue=["export OMP_NUM_THREADS=1"],
        worker_extra_args=["--lifetime", "225m", "--lifetime-stagger", "5m"],
        scheduler_options={"dashboard_address": "127.0.0.1:0"},
    )


def local_cluster() -> LocalCluster:
    """Return a cluster of two processes on this machine."""
    security = Security.temporary()
    return LocalCluster(
        2,
        threads_per_worker=1,
        protocol="tls://",
        security=security,
        dashboard_address="127.0.0.1:0",
        memory_limit=0,
    )


# %%
# The campaign
# ------------
#
# Nothing here knows of the cluster. A simulator that is a program is started the same way, with
# `uqms.ExecutableSimulator`; its run directories are then best on a disk of the node.


def windkessel(resistance: float, compliance: float) -> float:
    """Return the time (s) in which the pressure in an artery falls by half."""
    return 0.693 * resistance * compliance


def campaign(client: Client, store: Path) -> xr.Dataset:
    """Run 64 points on a cluster, each at most an hour, those that fail twice."""
    space = uq.ParameterSpace(
        resistance=uq.LogNormal(median=1.0, sigma=0.2, unit="mmHg s/ml"),
        compliance=uq.LogNormal(median=1.5, sigma=0.2, unit="ml/mmHg"),
    )
    simulator = uq.FunctionSimulator(
        windkessel, outputs={"half_time": ()}, units={"half_time": "s"}, version="1"
    )
    design = uq.sobol(space, 64, rng=1)
    return uq.run(
        simulator,
        design,
        store,
        workers=client,
        timeout=3600.0,
        failures=uq.FailurePolicy(attempts=2),
    )


def main() -> None:
    """Make the cluster, and run."""
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--local", action="store_true", help="on this machine instead of Slurm"
    )
    local = parser.parse_args().local
    WORK.mkdir(parents=True, exist_ok=True)
    with (
        local_cluster() if local else slurm_cluster(WORK / "certificates") as cluster,
        Client(cluster) as client,
    ):
        if not local:
            cluster.adapt(minimum_jobs=1, maximum_jobs=20)
        ensemble = campaign(client, WORK / "runs.db")
    print(ensemble["half_time"].mean().item())


if __name__ == "__main__":
    main()
