"""track: brings what a run directory keeps for MLflow to a store, now or once more."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import ValidationError

from raydistill.config.tracking import TrackingConfig
from raydistill.errors import BadInput, StageFailed, one_line
from raydistill.progress import say
from raydistill.store import claims
from raydistill.store.location import Location
from raydistill.tracking import destination
from raydistill.tracking.destination import Destination, reason
from raydistill.tracking.journal import FOLDER, Entry, Journal, journals
from raydistill.tracking.server import NotYet, Server

WORKING = ("", ".train")  # where drivers of a run, and of a training, say that they are at work


def track(folder: str, uri: str | None, experiment: str | None) -> str:
    """Uploads all journals, to where their runs told of themselves last unless `uri` says otherwise.

    Returns where to look. Raises BadInput for a folder without records, StageFailed for a store that fails.
    """
    root = Location.of(folder)
    try:
        root.infos()
        runs = [j for j in journals(root) if any(e["kind"] == "begin" for e in j.known)]
    except (OSError, ValueError, StageFailed) as e:  # no right to read it, a name that no store can have
        raise BadInput(
            f"track: {root} cannot be listed: {one_line(e)}; give the directory that distill printed"
        ) from None
    if not runs:
        raise BadInput(
            f"track: {root} keeps no records of a tracked run ({root / FOLDER}); give the run's own command again with "
            "tracking.uri=..., which computes nothing that is finished"
        )
    where = _destination(runs, uri, experiment)
    fault = destination.check(where, new=False)
    if fault:
        raise StageFailed(f"track: {where.uri}: {fault}; run the same command again when it does")
    server, at_work = Server(where), any(claims.at_work(root / name if name else root) for name in WORKING)
    for journal in runs:
        _upload(server, journal, at_work)
    say("track", f"{len(runs)} run{'s' * (len(runs) > 1)} in {where.uri}, experiment {where.experiment}")
    return server.page(runs[0])


def _upload(server: Server, journal: Journal, at_work: bool) -> None:
    try:
        server.push(journal, ended(journal.known, at_work))
    except NotYet as e:
        raise StageFailed(
            f"track: {journal.folder}: {e}; bring the run that it belongs to there first, or its folder back"
        ) from None
    except Exception as e:  # whatever a client, a driver of a database or a store of artifacts raises
        raise StageFailed(
            f"track: {server.destination.uri} takes nothing now ({reason(e)}); run the same command again"
        ) from e


def ended(entries: Sequence[Entry], at_work: bool) -> list[Entry]:
    """The entries, with the end that a driver could not write any more if none is at work."""
    states = [e for e in entries if e["kind"] in ("begin", "end")]
    if at_work or not states or states[-1]["kind"] == "end":
        return list(entries)
    return [*entries, {"kind": "end", "time": entries[-1]["time"], "status": "KILLED"}]


def _destination(runs: Sequence[Journal], uri: str | None, experiment: str | None) -> Destination:
    """Where the runs, all of which have begun, told of themselves last, or what is given. Raises BadInput."""
    last = max((e for j in runs for e in j.known if e["kind"] == "begin"), key=lambda e: e["time"])
    try:
        requested = TrackingConfig(uri=uri or last["uri"], experiment=experiment or last["experiment"])
    except ValidationError as e:
        what = one_line(e.errors()[0]["msg"])
        raise BadInput(f"track: tracking.experiment={(experiment or '')[:60]}...: {what}; give a shorter one") from None
    where = destination.find(requested)
    if where is None:
        raise BadInput(f"track: tracking.uri={uri} is nowhere; give local, sqlite:///FILE or http://HOST:PORT")
    return where
