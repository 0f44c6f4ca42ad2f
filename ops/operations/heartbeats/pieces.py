"""Asking the members of many groups in pieces: at a rate, several pieces at once, each group told when it is whole."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType

from ops.model.heartbeats.tally import GroupTally, ProcessTally
from ops.model.keys import Inbox
from ops.operations.heartbeats.pace import Pace
from ops.store.connection.waiting import end
from ops.store.heartbeats import Answers, Asker

LARGEST_PIECE = 1000
PIECES_A_SECOND = 20


@dataclass(slots=True, eq=False)
class OpenGroup:
    """A group that is being asked. ``read``: no members follow; ``pieces``: how many are under way."""

    found: GroupTally
    read: bool = False
    pieces: int = 0


@dataclass(slots=True)
class _Piece:
    """Channels that are asked together. One that is in several groups is asked once, and counts in each."""

    inboxes: dict[Inbox, list[str]] = field(default_factory=dict)
    groups_of: dict[str, list[OpenGroup]] = field(default_factory=dict)
    groups: dict[OpenGroup, None] = field(default_factory=dict)

    def add(self, group: OpenGroup, channel: str, inbox: Inbox) -> None:
        if group not in self.groups:
            self.groups[group] = None
            group.pieces += 1
        if channel not in self.groups_of:
            self.inboxes.setdefault(inbox, []).append(channel)
        self.groups_of.setdefault(channel, []).append(group)


class Pieces:
    """``async with``, ``add()`` members, ``close()`` each group; groups come out of ``done``, then None."""

    def __init__(self, asker: Asker, depth: str, rate: int, process_of: Callable[[str], ProcessTally]) -> None:
        self.done: asyncio.Queue[OpenGroup | None] = asyncio.Queue()
        self._asker = asker
        self._depth = depth
        self._process_of = process_of
        self._most = min(LARGEST_PIECE, max(1, rate // PIECES_A_SECOND))
        self._pace = Pace(rate)
        self._slots = asyncio.Semaphore(asker.most_at_once)
        self._tasks: set[asyncio.Task[None]] = set()
        self._piece = _Piece()

    async def __aenter__(self) -> "Pieces":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                await self._start_piece()
                await asyncio.gather(*self._tasks)
        finally:
            await end(*self._tasks)
            self.done.put_nowait(None)

    async def add(self, group: OpenGroup, channel: str, inbox: Inbox) -> None:
        """Have ``channel`` asked with the next piece. Waits where that would be too fast, or too much at once."""
        if channel not in self._piece.groups_of and len(self._piece.groups_of) >= self._most:
            await self._start_piece()
        self._piece.add(group, channel, inbox)

    def close(self, group: OpenGroup) -> None:
        """All members of the group have been added."""
        if not group.pieces:
            self.done.put_nowait(group)

    async def _start_piece(self) -> None:
        piece, self._piece = self._piece, _Piece()
        if not piece.groups_of:
            return
        await self._slots.acquire()
        await self._pace.keep(len(piece.groups_of))
        self._tasks = {task for task in self._tasks if not task.done() or task.exception() is not None}
        self._tasks.add(asyncio.create_task(self._ask(piece)))

    async def _ask(self, piece: _Piece) -> None:
        try:
            answers = await self._asker.ask(
                self._depth, {inbox.name: channels for inbox, channels in piece.inboxes.items()}
            )
        finally:
            self._slots.release()
        self._note(piece, answers)
        for group in piece.groups:
            group.pieces -= 1
            if group.read and not group.pieces:
                self.done.put_nowait(group)

    def _note(self, piece: _Piece, answers: Answers) -> None:
        silent, not_capable = set(answers.silent), set(answers.not_capable)
        for inbox, channels in piece.inboxes.items():
            process = self._process_of(inbox.process)
            for channel in channels:
                for group in piece.groups_of[channel]:
                    if channel in answers.answered:
                        process.counts.note_answer(answers.answered[channel])
                        group.found.counts.note_answer(answers.answered[channel])
                    elif channel in silent:
                        process.counts.note_silence()
                        group.found.note_silence(channel)
                    elif channel in not_capable:
                        process.counts.not_capable += 1
                        group.found.counts.not_capable += 1
                    else:
                        process.skip(answers.skipped.get(inbox.name, ""))
                        group.found.skip(inbox.name)
