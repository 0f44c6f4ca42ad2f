"""What reap runs remember of processes between one another, on the first shard: who was silent, who was live."""

import json
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any

from ops.model.keys import decode_name, encode_name
from ops.model.liveness.moments import LatestLook, Moment
from ops.model.liveness.stops import Absence
from ops.model.liveness.suspicion import Suspicion
from ops.store.connection.shards import OpenLayer

MEMORY_SECONDS = 7 * 86400
FIELDS_AT_ONCE = 1000
_NUMBER = re.compile(rb"\d+(\.\d+)?")


async def read_suspicions(opened: OpenLayer) -> dict[str, Suspicion]:
    """Process -> the suspicion of earlier runs. An entry that cannot be read counts as none."""
    stored = await _read_hash(opened, opened.keyspace.suspects)
    suspicions = (_parse(decode_name(process), raw) for process, raw in stored)
    return {suspicion.process: suspicion for suspicion in suspicions if suspicion}


def _parse(process: str, raw: bytes) -> Suspicion | None:
    stored = _json_object(raw)
    since, renewed = _moment(stored, "since"), _moment(stored, "renewed_at")
    newest, epoch = stored.get("newest_joined_at"), stored.get("epoch")
    if since is None or renewed is None or not isinstance(epoch, str):
        return None
    # A score can be infinite, a clock cannot.
    if not isinstance(newest, (int, float)) or isinstance(newest, bool) or math.isnan(newest):
        return None
    return Suspicion(
        process,
        since,
        renewed,
        epoch,
        float(newest),
        looks=max(1, _whole(stored.get("looks"))),
        marks=_whole(stored.get("marks")),
        inboxes=_names(stored.get("inboxes")),
        evicted_keys=_whole(stored.get("evicted_keys")),
        vanished=_whole(stored.get("vanished")),
    )


async def record_suspicions(opened: OpenLayer, suspicions: Collection[Suspicion]) -> None:
    """Remember exactly ``suspicions``, in place of all earlier ones."""
    values = {suspicion.process: _format(suspicion) for suspicion in suspicions}
    await _replace_hash(opened, opened.keyspace.suspects, values)


async def forget_suspicions(opened: OpenLayer) -> None:
    await opened.home.execute("UNLINK", opened.keyspace.suspects)


def _format(suspicion: Suspicion) -> str:
    values = asdict(suspicion)
    del values["process"], values["since"], values["renewed"]
    moments = _moment_fields("since", suspicion.since) | _moment_fields("renewed_at", suspicion.renewed)
    return json.dumps(moments | values)


def _moment_fields(name: str, moment: Moment) -> dict[str, Any]:
    return {name: moment.redis, f"{name}_boot": [moment.boot_id, moment.boot_seconds]}


def _moment(stored: Mapping[str, Any], name: str) -> Moment | None:
    """A moment as ``_moment_fields`` writes it; None if there is none that can be used."""
    boot = stored.get(f"{name}_boot")
    boot_id, boot_seconds = boot if isinstance(boot, list) and len(boot) == 2 else ("", 0.0)
    at = _seconds(stored.get(name))
    if at is None:
        return None
    usable = isinstance(boot_id, str) and _seconds(boot_seconds) is not None
    return Moment(at, boot_id, float(boot_seconds)) if usable else Moment(at)


def _seconds(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e15:
        return None
    return float(value)


def _names(value: object) -> tuple[str, ...]:
    return tuple(name for name in value if isinstance(name, str)) if isinstance(value, list) else ()


def _whole(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62 else 0


def _json_object(raw: bytes | None) -> dict[str, Any]:
    try:
        stored = json.loads(raw or b"")
    except (ValueError, RecursionError):
        return {}
    return stored if isinstance(stored, dict) else {}


# What the latest look knows of clocks and connections

_ABSENCE = b"absence"


async def read_latest_looks(opened: OpenLayer) -> tuple[dict[str, LatestLook], Absence | None]:
    """The latest look of each host, by its boot id; and since when no connection of a silent process has been idle."""
    stored = {field: _json_object(raw) for field, raw in await _read_hash(opened, opened.keyspace.looks)}
    found = stored.pop(_ABSENCE, {})
    since, epoch = _moment(found, "since"), found.get("epoch")
    seen = Absence(since, epoch) if since is not None and isinstance(epoch, str) else None
    looks = (_latest_look(fields) for fields in stored.values())
    return {look.at.boot_id: look for look in looks if look is not None}, seen


def _latest_look(stored: Mapping[str, Any]) -> LatestLook | None:
    at, epoch_at, epoch = _moment(stored, "at"), _moment(stored, "epoch_at"), stored.get("epoch")
    if at is None:
        return None
    known = isinstance(epoch, str) and epoch_at is not None
    others = stored.get("others")
    clocks = [clock for clock in map(_seconds, others if isinstance(others, list) else ()) if clock is not None]
    return LatestLook(
        at,
        str(epoch) if known else "",
        epoch_at or at,
        tuple(clocks),
        _moment(stored, "stepped_at"),
        _moment(stored, "new_at"),
    )


async def record_latest_look(opened: OpenLayer, look: LatestLook, absence: Absence | None) -> None:
    key = opened.keyspace.looks
    pipe = opened.home.client.pipeline(transaction=True)
    if look.at.boot_id:
        stored = _moment_fields("at", look.at) | _moment_fields("epoch_at", look.epoch_at) | {"epoch": look.epoch}
        stored["others"] = look.others
        for name, moment in (("stepped_at", look.stepped_at), ("new_at", look.new_at)):
            if moment is not None:
                stored |= _moment_fields(name, moment)
        pipe.hset(key, _clock_field(look.at.boot_id), json.dumps(stored))
    seen = {} if absence is None else _moment_fields("since", absence.since) | {"epoch": absence.epoch}
    pipe.hset(key, _ABSENCE, json.dumps(seen))
    pipe.expire(key, MEMORY_SECONDS)
    await opened.home.ask(pipe.execute())


def _clock_field(boot_id: str) -> bytes:
    return encode_name(f"clock:{boot_id}")


# Which processes were seen live


async def read_seen_live(opened: OpenLayer) -> dict[str, float]:
    """Process -> when a run last saw it live (unix seconds of the first shard)."""
    stored = await _read_hash(opened, opened.keyspace.seen)
    seen = {decode_name(process): float(raw) for process, raw in stored if _NUMBER.fullmatch(raw)}
    return {process: when for process, when in seen.items() if math.isfinite(when)}


async def record_seen_live(opened: OpenLayer, seen: Mapping[str, float]) -> None:
    """Remember exactly ``seen``, in place of what was remembered."""
    await _replace_hash(opened, opened.keyspace.seen, {process: repr(when) for process, when in seen.items()})


async def _replace_hash(opened: OpenLayer, key: bytes, values: Mapping[str, str]) -> None:
    """Delete and write in one transaction, so that a run that dies here leaves the old or the new, nothing between."""
    pipe = opened.home.client.pipeline(transaction=True)
    pipe.delete(key)
    names = sorted(values)
    for start in range(0, len(names), FIELDS_AT_ONCE):
        pipe.hset(key, mapping={encode_name(name): values[name] for name in names[start : start + FIELDS_AT_ONCE]})
    if names:
        pipe.expire(key, MEMORY_SECONDS)
    await opened.home.ask(pipe.execute())


async def _read_hash(opened: OpenLayer, key: bytes) -> list[tuple[bytes, bytes]]:
    client: Any = opened.home.client
    stored: dict[bytes, bytes] = await opened.home.ask(client.hgetall(key))
    return list(stored.items())
