"""The drop-in layer on each pair of redis-py and channels_redis that it supports: `make matrix`.

The last session runs channels_redis' own tests with the drop-in layer in place of the stock one.

`make matrix ARGS=--list` names them, `make matrix ARGS="-s \"layer(channels_redis='4.2', redis_py='5')\""` runs one.
"""

import nox

REDIS_PY = {"5": "5.3.1", "6": "6.4.0", "7": "7.4.1", "8": "8.1.0"}
CHANNELS_REDIS = {"4.2": "4.2.1", "4.3": "4.3.0"}
TESTS = (
    "tests/unit/test_memberships.py",
    "tests/integration/test_watched_connections.py",
    "tests/integration/test_layer_answers_heartbeats.py",
    "tests/integration/test_drop_in_is_a_drop_in.py",
    "tests/integration/test_drop_in_keeps_members.py",
    "tests/acceptance/test_drop_in_delivers.py",
    "tests/acceptance/test_drop_in_leaves_no_orphans.py",
    "tests/acceptance/test_drop_in_stops_under_broadcasts.py",
    "tests/acceptance/test_drop_in_outlives_redis.py",
)

nox.options.reuse_existing_virtualenvs = True
nox.options.envdir = ".venv-matrix"


@nox.session
@nox.parametrize("redis_py", list(REDIS_PY))
@nox.parametrize("channels_redis", list(CHANNELS_REDIS))
def layer(session: nox.Session, channels_redis: str, redis_py: str) -> None:
    """Everything else is as `make test` has it."""
    session.install("--quiet", "-r", "requirements-dev.txt")
    session.install(
        "--quiet", f"redis[hiredis]=={REDIS_PY[redis_py]}", f"channels-redis=={CHANNELS_REDIS[channels_redis]}"
    )
    # channels_redis 4.2 uses what channels 4.3 calls deprecated.
    options = ("-q", "-n", "4", "--dist", "loadfile", "-W", "ignore:valid_:DeprecationWarning")
    session.run("python", "-m", "pytest", *options, *(session.posargs or TESTS))


@nox.session
def stock_suite(session: nox.Session) -> None:
    """channels_redis' own tests: none may fail that does not fail with the stock layer."""
    version, folder = CHANNELS_REDIS["4.3"], session.create_tmp()
    session.install("--quiet", "-r", "requirements-dev.txt", "async-timeout", f"channels-redis=={version}")
    download = ("-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "channels-redis", "--dest", folder)
    session.run("python", *download, f"channels-redis=={version}")
    session.run("python", "-m", "tests.stock_suite", f"{folder}/channels_redis-{version}.tar.gz")
