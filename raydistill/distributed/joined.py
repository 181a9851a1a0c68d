"""A cluster that somebody else started: asked for an answer before it is joined, since Ray waits for minutes."""

from __future__ import annotations

import os
import time

import grpc
from ray._private import services
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray._private.authentication.authentication_utils import is_token_auth_enabled
from ray._private.grpc_utils import init_grpc_channel
from ray._raylet import AuthenticationTokenLoader, GcsClient
from ray.exceptions import AuthenticationError, RayError

from raydistill.distributed.private import read_authentication
from raydistill.errors import BadInput, one_line

ANSWER_S = 10.0  # a head that is there answers within milliseconds
TOKEN = (
    "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN=... to that of its head (`ray get-auth-token` there prints it), "
    "and run the same command again"
)


def check(address: str) -> str:
    """HOST:PORT of the head, as Ray dials it.

    Raises BadInput, within seconds, for a cluster that cannot be joined: no head, no HOST:PORT, another token."""
    name = named(address)
    read_authentication()
    gcs = _gcs(address, name)
    if is_token_auth_enabled() and not AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True):
        raise BadInput(f"{name}: RAY_AUTH_MODE=token, but there is no token; {TOKEN}")
    if not _answers(gcs):
        where = "" if gcs == address else f" (Ray looks for it at {gcs})"
        raise BadInput(
            f"{name}: no Ray head answers there{where}; give the HOST:PORT that `ray start --head` prints, see that "
            "this machine reaches it, or leave the address out for a cluster of this machine"
        )
    try:
        GcsClient(address=gcs)
    except AuthenticationError:
        raise BadInput(
            f"{name}: the cluster asks for its token, and this process has none or another; {TOKEN}"
        ) from None
    except RayError as e:
        raise BadInput(f"{name}: what answers there is no Ray head of this version: {one_line(e)}") from None
    if not _has_node():
        raise BadInput(
            f"{name}: no node of that cluster runs on this machine, and only from a node it can be joined; run the "
            "command on one, make this machine one (`ray start --address=HOST:PORT`), or submit the job: `ray job "
            "submit --address http://HOST:8265 --working-dir . -- python jobs/...`"
        )
    return gcs


def named(address: str) -> str:
    """The address together with the place it comes from."""
    return f"{'RAY_ADDRESS' if address == os.environ.get('RAY_ADDRESS') else 'ray.address'}={address}"


def _gcs(address: str, name: str) -> str:
    """HOST:PORT as Ray will dial it."""
    if address == "auto":
        maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
        try:
            return services.canonicalize_bootstrap_address_or_die("auto")
        except ConnectionError:
            raise BadInput(
                f"{name}: no cluster runs on this machine; start one (`ray start --head`), or leave the address out"
            ) from None
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise BadInput(
            f"{name}: not the HOST:PORT of a head (Ray Client and HTTP addresses are not supported); give the one that "
            "`ray start --head` prints, usually HOST:6379, or submit the job: `ray job submit --address http://HOST:8265`"
        )
    return str(services.canonicalize_bootstrap_address(address))


def _has_node() -> bool:
    """Whether a node runs on this machine, or comes up while it is waited for: Ray itself would look for a minute."""
    until = time.monotonic() + ANSWER_S
    while not services.find_node_ids():
        if time.monotonic() > until:
            return False
        time.sleep(0.5)
    return True


def _answers(gcs: str) -> bool:
    channel = init_grpc_channel(gcs, options=[("grpc.enable_http_proxy", 0)])
    try:
        grpc.channel_ready_future(channel).result(timeout=ANSWER_S)
    except grpc.FutureTimeoutError:
        return False
    finally:
        channel.close()
    return True
