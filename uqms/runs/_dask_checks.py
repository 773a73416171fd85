"""What must hold before a Dask cluster gets a point: nobody else can reach it, and all run the same versions."""

import ipaddress
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from uqms.errors import InputError

__all__ = ["check_connection", "check_versions"]


def check_connection(client: Any) -> None:
    """Refuse a cluster that others on the network could reach: Dask unpickles what it gets, which can be any code.

    Raises
    ------
    InputError
        Names the address, and says how to switch on TLS.
    """
    # A port that is open to the network may be reached through this machine's own address, or through a tunnel.
    for address in (client.scheduler.address, client.scheduler_info()["address"], *client.nthreads()):
        if not _safe(address):
            raise InputError(
                f"the Dask cluster uses {address}, a connection between machines without encryption: whoever reaches "
                "that port can run any code under your name. Switch on TLS: from distributed.security import Security; "
                "security = Security.temporary(); LocalCluster(security=security, protocol='tls://'), or "
                "SLURMCluster(security=security, protocol='tls://', shared_temp_directory=...); then "
                "Client(cluster, security=security). On a network that keeps strangers out: "
                "workers=uqms.Dask(client, unencrypted=True)."
            )


def _safe(address: str) -> bool:
    parts = urlsplit(address)
    if parts.scheme in ("inproc", "tls", "wss"):
        return True
    try:
        return ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return parts.hostname == "localhost"


def check_versions(client: Any) -> None:
    """Refuse a cluster whose processes have another Python, cloudpickle or uqms than this one.

    Raises
    ------
    InputError
        Names who has what.
    """
    # Dask first says what it knows of itself: what we ask below could not even be read by another Python.
    told = client.get_versions(packages=["cloudpickle"])
    everyone = {"the scheduler": told["scheduler"], **told["workers"]}
    _compare("Python", _python(told["client"]), {who: _python(versions) for who, versions in everyone.items()})
    here = told["client"]["packages"]["cloudpickle"]
    _compare("cloudpickle", here, {who: versions["packages"]["cloudpickle"] for who, versions in everyone.items()})
    answers = client.run(_ours, on_error="return")  # an exception where uqms is missing
    try:
        answers["the scheduler"] = client.run_on_scheduler(_ours)
    except Exception as error:  # or where the scheduler is told to run nothing
        answers["the scheduler"] = error
    _compare("uqms", _ours(), {who: _version(told) for who, told in answers.items()})


def _python(versions: Mapping[str, Any]) -> str:
    return ".".join(str(versions["host"]["python"]).split(".")[:2])


def _version(told: object) -> str:
    return told if isinstance(told, str) else f"none, {' '.join(str(told).split())[:120]}"


def _ours() -> str:
    import uqms

    return uqms.__version__


def _compare(what: str, here: str | None, there: Mapping[str, str | None]) -> None:
    others = [f"{who}: {version or 'none'}" for who, version in there.items() if version != here]
    if others:
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        raise InputError(
            f"this process has {what} {here}, but not all of the Dask cluster ({', '.join(others[:3])}{more}); "
            "install the same environment everywhere."
        )
