"""Check a Dask cluster before a campaign uses it: its connections are safe, and its versions are those used here."""

import ipaddress
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from uqms.errors import InputError

__all__ = ["check_connection", "check_versions"]


def check_connection(client: Any) -> None:
    """Raise an InputError for a cluster that others on the network could reach.

    Dask unpickles the messages that it receives, and unpickling can run any code.

    Raises
    ------
    InputError
        When a connection is not encrypted; the message names its address, and shows how to use TLS.
    """
    # The client may reach the scheduler by a local address or a tunnel although the port is open to the network. So the
    # scheduler's own address and the addresses of the workers are checked too.
    for address in (client.scheduler.address, client.scheduler_info()["address"], *client.nthreads()):
        if not _safe(address):
            raise InputError(
                f"the Dask cluster uses {address}, a connection between machines without encryption. Anyone who can "
                "reach that port can run any code under your name. Use TLS: from distributed.security import Security; "
                "security = Security.temporary(); cluster = LocalCluster(security=security, protocol='tls://'), or "
                "SLURMCluster(security=security, protocol='tls://', shared_temp_directory=...); then "
                "client = Client(cluster, security=security). If no stranger can reach your network, declare it: "
                "uq.run(..., workers=uq.Dask(client, unencrypted=True))."
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
    """Raise an InputError unless all processes of a cluster have the versions of this process.

    Compared are the versions of Python, cloudpickle and uqms.

    Raises
    ------
    InputError
        When versions differ; the message lists the versions by process.
    """
    # Python and cloudpickle are compared first, by Dask's own query: other versions could not unpickle `_ours` below.
    told = client.get_versions(packages=["cloudpickle"])
    everyone = {"the scheduler": told["scheduler"], **told["workers"]}
    _compare("Python", _python(told["client"]), {who: _python(versions) for who, versions in everyone.items()})
    here = told["client"]["packages"]["cloudpickle"]
    _compare("cloudpickle", here, {who: versions["packages"]["cloudpickle"] for who, versions in everyone.items()})
    answers = client.run(_ours, on_error="return")  # an exception where uqms is missing
    try:
        answers["the scheduler"] = client.run_on_scheduler(_ours)
    except Exception as error:  # uqms is missing, or the scheduler is configured to run no functions
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
            f"this process has {what} {here}, but some processes of the Dask cluster have other versions "
            f"({', '.join(others[:3])}{more}); install the same environment on all machines."
        )
