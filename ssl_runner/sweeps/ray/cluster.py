"""Connects to a Ray cluster, without the messages that Ray prints."""

import contextlib
import logging
import os
import socket
import sys
from collections.abc import Iterator
from typing import Any

from ssl_runner.errors import InvalidValue
from ssl_runner.sweeps import resources

ANSWER = 5.0  # seconds that a cluster has to answer
_REMEDY = (
    "start a cluster with `ray start --head`, or use this machine alone with hydra.launcher.address=null or "
    "hydra/launcher=local"
)


def connect(address: str | None, runtime_env: dict[str, Any] | None) -> list[dict[str, float]]:
    """Connect to a cluster, or start one on this machine if there is no address.

    Returns:
        What each of its nodes has: ``CPU``, ``GPU``, ``memory`` (bytes).

    Raises:
        InvalidValue: Ray is not installed, no cluster answers, or Ray refuses the runtime_env.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray._private.worker
    except ImportError:
        raise InvalidValue("hydra/launcher=ray needs Ray, an extra: pip install 'ssl-runner[ray]'") from None
    # messages about lost nodes and workers, in a thread that no public setting stops
    ray._private.worker._worker_logs_enabled = False
    own: dict[str, Any] = {"num_cpus": resources.cores(), "include_dashboard": False}
    where = "local" if address is None else _answering(address)
    try:
        with _silence():
            ray.init(
                address=where,
                log_to_driver=False,
                logging_level=logging.CRITICAL,
                runtime_env=runtime_env,
                **(own if address is None else {}),
            )
    except (ConnectionError, RuntimeError) as error:
        raise InvalidValue(f"hydra.launcher.address={address}: {last_line(error)}; {_REMEDY}") from None
    except (ValueError, TypeError) as error:
        raise InvalidValue(f"hydra.launcher.runtime_env={runtime_env}: {last_line(error)}") from None
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Inside, nothing reaches the console, not even from Ray's C++ parts; its logs are in /tmp/ray."""
    sys.stderr.flush()
    before = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)


def _answering(address: str) -> str:
    """``HOST:PORT`` of a head that answers. Ray itself would try for minutes, and print each try.

    Relies on ``canonicalize_bootstrap_address``, which finds the cluster of this machine as `ray.init` does.
    """
    from ray._private.services import canonicalize_bootstrap_address

    if "://" in address:
        raise InvalidValue(
            f"hydra.launcher.address={address}: a sweep runs on a machine of the cluster; give the command there, with "
            "hydra.launcher.address=auto"
        )
    try:
        found = canonicalize_bootstrap_address(address) or ""
        host, _, port = found.rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), ANSWER).close()
    except (OSError, ValueError):
        raise InvalidValue(f"hydra.launcher.address={address}: no Ray cluster answers; {_REMEDY}") from None
    return found


def last_line(error: Exception) -> str:
    """Of an error's message, where Ray puts the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else type(error).__name__
