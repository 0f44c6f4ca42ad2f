"""channels_redis' own tests of its layer, with the drop-in layer in place of the stock one: `make matrix` runs them.

    python -m tests.stock_suite channels_redis-4.3.0.tar.gz

The archive is the source distribution of channels_redis, of which the tests are a part. They run twice, on a Redis and
a Sentinel that are started for them. It fails if any test fails with the drop-in layer alone, or if none has run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from xml.etree import ElementTree

from project.embedded_redis import EmbeddedRedis
from project.owned_process import OwnedProcess, free_port
from project.polling import came_true
from project.workers import REPOSITORY

TESTS = ("test_core.py", "test_sentinel.py")
"""The others are of the publish/subscribe layer and of what both layers share."""
MASTER = "sentinel"
OPTIONS = "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\naddopts = -p no:django\n"
DROP_IN = """
from channels_redis import core

from ops.layers import RedisChannelLayer

core.RedisChannelLayer = RedisChannelLayer
"""
WITHIN_SECONDS = 600.0


def main(archive: str) -> int:
    with tempfile.TemporaryDirectory() as name, EmbeddedRedis() as server:
        folder = Path(name)
        sentinel_port = free_port()
        sentinel = _start_sentinel(folder, server, sentinel_port)
        try:
            for test, text in _read_tests(archive).items():
                (folder / test).write_text(_on_servers(text, server.port, sentinel_port))
            (folder / "pytest.ini").write_text(OPTIONS)
            (folder / "drop_in.py").write_text(DROP_IN)
            stock, drop_in = _run(folder), _run(folder, "-p", "drop_in")
        finally:
            sentinel.terminate()
    worse = sorted(test for test, passed in drop_in.items() if not passed and stock.get(test, True))
    for layer, outcomes in (("stock", stock), ("drop-in", drop_in)):
        print(f"{layer}: {sum(outcomes.values())} of {len(outcomes)} passed")
    for test in worse:
        print(f"fails with the drop-in layer alone: {test}")
    return 1 if worse or not drop_in or drop_in.keys() != stock.keys() else 0


def _read_tests(archive: str) -> dict[str, str]:
    found = {}
    with tarfile.open(archive) as files:
        for member in files:
            path = Path(member.name)
            if path.parent.name == "tests" and path.name in TESTS and (file := files.extractfile(member)):
                found[path.name] = file.read().decode()
    return found


def _on_servers(text: str, redis_port: int, sentinel_port: int) -> str:
    replaced = {
        "localhost:6379": f"127.0.0.1:{redis_port}",
        '("localhost", 26379)': f'("127.0.0.1", {sentinel_port})',
        "RedisChannelLayer(expiry=": "RedisChannelLayer(hosts=TEST_HOSTS, expiry=",  # by default localhost:6379
    }
    for address, own in replaced.items():
        text = text.replace(address, own)
    return text


def _start_sentinel(folder: Path, server: EmbeddedRedis, port: int) -> OwnedProcess:
    config, log = folder / "sentinel.conf", folder / "sentinel.log"
    config.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {folder}\nrequirepass channels_redis\n"
        f"sentinel monitor {MASTER} 127.0.0.1 {server.port} 1\n"
    )
    process = OwnedProcess([server.binary, str(config), "--sentinel"], log_path=log)
    if not came_true(lambda: "+monitor master" in process.output(), 30):
        process.kill()
        raise RuntimeError(f"no Sentinel:\n{process.output()}")
    return process


def _run(folder: Path, *options: str) -> dict[str, bool]:
    """Test -> whether it passed; those that were skipped are left out."""
    report = folder / "report.xml"
    report.unlink(missing_ok=True)
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(folder), str(REPOSITORY), os.environ.get("PYTHONPATH", "")]),
    }
    argv = [sys.executable, "-m", "pytest", "-q", *options, f"--junit-xml={report}", *TESTS]
    subprocess.run(argv, cwd=folder, env=env, timeout=WITHIN_SECONDS)
    outcomes = {}
    for case in ElementTree.parse(report).iter("testcase"):
        kinds = {child.tag for child in case}
        if "skipped" not in kinds:
            name = f"{case.get('classname')}.{case.get('name')}"
            outcomes[name] = outcomes.get(name, True) and not kinds & {"failure", "error"}
    return outcomes


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
