"""Waiting for the machine where the ranks of a run meet, and saying so: it may come late, be misspelt or out of reach."""

import socket
import sys
import time

from launch.environment import LaunchError

# A name may take a while to be known, as a pod's is to a cluster's resolver; a misspelt one never is.
_NAME_PATIENCE = 30.0
_BETWEEN_NOTES = 30.0
_TRY = 5.0


def check_name(address: str) -> None:
    """Raises LaunchError, after some patience, for a host name that this machine cannot resolve."""
    give_up = time.monotonic() + _NAME_PATIENCE
    while True:
        try:
            socket.getaddrinfo(address.strip("[]"), None)
            return
        except socket.gaierror as error:
            if time.monotonic() >= give_up:
                raise LaunchError(
                    f"{address}, where the ranks are to meet, cannot be resolved on {socket.gethostname()} "
                    f"({error.strerror}): set MASTER_ADDR to a name or address of the first node that all nodes know"
                ) from None
            time.sleep(0.5)


def wait_for_listener(address: str, port: int, speaks: bool = True) -> None:
    """Returns once somebody listens there, however long that takes; the launcher ends all ranks when one fails.

    Every half minute a line says what is waited for, if this process `speaks`. Raises LaunchError for an unknown name.
    """
    check_name(address)
    began = noted = time.monotonic()
    while True:
        try:
            socket.create_connection((address.strip("[]"), port), timeout=_TRY).close()
            return
        except OSError as error:
            reason = error.strerror or "no answer"
        now = time.monotonic()
        if speaks and now - noted >= _BETWEEN_NOTES:
            noted = now
            print(
                f"{socket.gethostname()} has waited {now - began:.0f} s for the first rank at {address}:{port} ({reason}); it "
                "may still be starting, or index its dataset",
                file=sys.stderr,
                flush=True,
            )
        time.sleep(0.2)
