"""A Redis with a replica, and a Sentinel that lets the replica take over when the master is gone."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType

import redis

from project.embedded_redis import EmbeddedRedis, find_redis_server
from project.owned_process import OwnedProcess, delete_folder, free_port, make_folder
from project.polling import came_true

MASTER_NAME = "led"
DOWN_AFTER_MS = 4000  # longer than a restart, and than Redis is frozen for
FAIL_OVER_WITHIN_SECONDS = 60.0
LOG_LINES = 15


class LedBySentinel:
    """`master` is whichever of the two is the master now."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.sentinel_port = free_port()

    def __enter__(self) -> LedBySentinel:
        with ExitStack() as stack:
            self.master = stack.enter_context(EmbeddedRedis(config={"maxmemory-policy": "noeviction"}))
            self.replica = stack.enter_context(EmbeddedRedis(config=self._following(self.master)))
            folder = make_folder("sentinel-")
            stack.callback(delete_folder, folder)
            config = folder / "sentinel.conf"
            config.write_text(
                f"port {self.sentinel_port}\nbind 127.0.0.1\ndir {folder}\n"
                f"sentinel monitor {MASTER_NAME} 127.0.0.1 {self.master.port} 1\n"
                f"sentinel down-after-milliseconds {MASTER_NAME} {DOWN_AFTER_MS}\n"
                f"sentinel failover-timeout {MASTER_NAME} 3000\n"
            )
            command = [find_redis_server(), str(config), "--sentinel"]
            self._log = folder / "sentinel.log"
            process = OwnedProcess(command, log_path=self._log)
            stack.callback(process.kill)
            self._await_replica()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def host(self) -> dict[str, object]:
        """An entry of `hosts` for those who ask Sentinel."""
        return {"sentinels": [["127.0.0.1", self.sentinel_port]], "master_name": MASTER_NAME, "socket_timeout": None}

    def fail_over(self) -> bool:
        """SIGKILL the master, let the replica take over, and start the old master again as its replica.

        Returns False and does nothing if no replica can take over: Sentinel can take long to accept one again.
        """
        try:
            self._await_replica()
        except TimeoutError:
            return False
        self.master.kill()
        self._await(lambda: self._master_port() == self.replica.port and self._role(self.replica) == "master")
        self.master, self.replica = self.replica, self.master
        del self.master.config["replicaof"]
        self.replica.config = self._following(self.master)
        self.replica.start()
        return True

    def _following(self, master: EmbeddedRedis) -> dict[str, str]:
        return {
            "maxmemory-policy": "noeviction",
            "replicaof": f"127.0.0.1 {master.port}",
            "repl-diskless-sync-delay": "0",
        }

    def _await_replica(self) -> None:
        """Until Sentinel has a replica that could take over."""
        self._await(lambda: self._link_of_replica() == "ok")

    def _await(self, condition: Callable[[], bool]) -> None:
        def is_so() -> bool:
            try:
                return condition()
            except redis.RedisError:  # It closes connections when roles change.
                return False

        if not came_true(is_so, FAIL_OVER_WITHIN_SECONDS):
            lines = self._log.read_text().splitlines()[-LOG_LINES:]
            raise TimeoutError("\n".join(["Sentinel did not do its part in time; its log ends with", *lines]))

    def _link_of_replica(self) -> str | None:
        with redis.Redis(port=self.sentinel_port) as sentinel:
            links = {known["port"]: known["master-link-status"] for known in sentinel.sentinel_slaves(MASTER_NAME)}
        return links.get(self.replica.port)

    def _master_port(self) -> int:
        with redis.Redis(port=self.sentinel_port) as sentinel:
            return int(sentinel.sentinel_get_master_addr_by_name(MASTER_NAME)[1])

    def _role(self, server: EmbeddedRedis) -> str:
        with redis.Redis.from_url(server.url) as client:
            return str(client.info("replication")["role"])
