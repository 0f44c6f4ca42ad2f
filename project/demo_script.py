"""The story that `manage.py demo` tells: what is shown, in which order, and why."""

from project.demo import Demo, Step
from project.demo_fleet import CONFIRM_AFTER_SECONDS

PROBE = ("--probe-timeout", "2")

SCRIPT = (
    Step(
        "A fleet",
        "A real Redis, two Daphne and three uvicorn processes with the same Channels chat, and real websockets. "
        "One worker's settings name the drop-in layer; all others have the layer that comes with channels_redis.",
        action=Demo.start_fleet,
    ),
    Step(
        "A send while all is well",
        "Each group_send costs time for every member that Redis lists.",
        action=lambda demo: demo.measure_group_send("all alive"),
    ),
    Step(
        "Two workers end",
        "One is killed, as when memory runs out; one Daphne is stopped, as in any deploy. Neither runs its consumers' "
        "disconnect, so their members stay in their groups, for up to a day.",
        action=Demo.end_two_workers,
    ),
    Step(
        "A send with the dead members",
        "Nobody reads what is sent to them, but every send still goes to them.",
        action=lambda demo: demo.measure_group_send("with the dead members"),
    ),
    Step(
        "Who is in which group?",
        "The command asks each process for a sign of life. Two give none: they are suspects, which is not yet proof. "
        "The worker with the drop-in layer need not be asked: it holds a lease, with its host and pid.",
        ("channels_groups", *PROBE),
    ),
    Step(
        "First round of the reaper",
        "It removes nothing from a process that was silent once, which a blocked event loop is too. It remembers.",
        ("reap_stale", *PROBE),
    ),
    Step(
        "The confirm time",
        "The silence must last: 60 s by default, since a worker that is blocked or swapped out is silent for a while, "
        f"too. Here it is {CONFIRM_AFTER_SECONDS} s (OPS_CONFIRM_AFTER_SECONDS={CONFIRM_AFTER_SECONDS}), to be brief.",
        action=Demo.await_confirm_time,
    ),
    Step(
        "Still silent: orphans",
        "The evidence is now enough, and it is listed: what was asked, when, and what did not come back.",
        ("channels_groups", *PROBE),
    ),
    Step(
        "A dry run",
        "The same way as a real one, to the last check; it changes nothing.",
        ("reap_stale", "--dry-run", *PROBE),
        exit_code=3,
    ),
    Step(
        "The reap",
        "Removes the members of the dead processes and no others; each removal goes into a journal in the same step.",
        ("reap_stale", *PROBE),
    ),
    Step("Nothing left", "The same question as before.", ("channels_groups", *PROBE)),
    Step(
        "Every surviving socket still receives",
        "One broadcast to each room, counted at the sockets; and the members, counted in Redis without the toolkit.",
        action=Demo.check_survivors,
    ),
    Step(
        "What a send costs now",
        "Read the members first: the times of so small a fleet are mostly noise of this machine. In a large one the "
        "dead add up, process by process, until a send takes several times as long.",
        action=Demo.compare_sends,
    ),
    Step(
        "The receipts",
        "What was removed, and the run id with which `reap_stale --undo` would put it back.",
        ("reap_stale", "--history"),
    ),
    Step(
        "Clients leave while they are sent to",
        "Two more uvicorn workers serve a busy room each; one has the line OpsMiddleware(…) in its asgi.py. In the "
        "other, the send to a client that has just left raises, the consumer ends and disconnect() never runs. Its "
        "process lives, so Redis shows no difference: only the process itself can know.",
        action=Demo.leave_busy_rooms,
    ),
    Step(
        "Redis restarts, and has lost everything",
        "With the stock layer, each consumer dies of the lost connection. The drop-in layer waits for Redis, and puts "
        "back what it lost.",
        action=Demo.restart_redis,
        restarts_redis=True,
    ),
    Step(
        "Who is left?",
        "All members that there are, of one process. The stock workers still run, but have no sockets: the demo's "
        "clients do not connect again.",
        ("channels_groups", "--summary", *PROBE),
        restarts_redis=True,
    ),
)
