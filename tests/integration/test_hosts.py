"""Every way in which a project may say where its Redis is, and what is said when it cannot be used."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import ssl
import subprocess
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from django.conf import LazySettings

from ops.store.connection import shards
from ops.store.connection.addresses import is_direct
from ops.store.connection.shards import open_layer
from project.embedded_redis import EmbeddedRedis, available_redis_servers
from project.owned_process import OwnedProcess, delete_folder, free_port, make_folder
from tests.conftest import CommandResult, StartRedis
from tests.in_process_commands import run_beside
from tests.layer_builders import PROBE, StartProcess, layer_of, members_of, run_reap, suspect_everybody
from tests.waiting import until

SECRET = "hunter2-is-secret"
BASE = "channels_redis.core.RedisChannelLayer"


async def works(start_process: StartProcess, address: str) -> None:
    """A live process is seen live, a dead one is reaped, and nothing that is said holds the secret."""
    live = await start_process("room", live=True)
    await start_process("room", count=2)
    await suspect_everybody()
    report = await run_reap()
    assert (report.removed, report.complete, report.stopped) == (2, True, None)
    result = await run_beside("channels_groups", *PROBE, "--format", "json")
    assert (result.returncode, result.err) == (0, "")
    found = json.loads(result.out)
    assert [(process["process"], process["state"]) for process in found["processes"]] == [(live.name, "live")]
    assert [shard["address"] for shard in found["shards"]] == [address]
    assert SECRET not in result.out + repr(report)


async def fails_with_one_line(*argv: str) -> str:
    """Both commands end with 1, and with one line that is returned."""
    said = set()
    for command in ("channels_groups", "reap_stale"):
        result: CommandResult = await run_beside(command, *PROBE, *argv)
        assert result.returncode == 1
        assert result.err.count("\n") == 1, result.err
        assert "Traceback" not in result.err
        assert SECRET not in result.err + result.out
        said.add(result.err.removeprefix("CommandError: ").removeprefix("nothing was removed: "))
    assert len(said) == 1, said
    return said.pop().strip()


# Addresses


@pytest.mark.parametrize("form", ["url", "dict", "tuple", "list", "address dict", "db", "url with db", "localhost"])
async def test_hosts_in_every_form(
    redis_server: EmbeddedRedis, settings: LazySettings, start_process: StartProcess, form: str
) -> None:
    port = redis_server.port
    host: Any = {
        "url": f"redis://127.0.0.1:{port}",
        "dict": {"host": "127.0.0.1", "port": port},
        "tuple": ("127.0.0.1", port),
        "list": ["127.0.0.1", port],
        "address dict": {"address": f"redis://127.0.0.1:{port}", "socket_timeout": None},
        "db": {"host": "127.0.0.1", "port": port, "db": 3},
        "url with db": f"redis://127.0.0.1:{port}/3",
        "localhost": f"redis://localhost:{port}",
    }[form]
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": BASE, "CONFIG": {"hosts": [host]}}}
    name = "localhost" if form == "localhost" else "127.0.0.1"
    await works(start_process, f"redis://{name}:{port}/{3 if 'db' in form else 0}")


@pytest.mark.parametrize("form", ["url", "dict"])
async def test_a_unix_socket(
    redis_server: EmbeddedRedis, settings: LazySettings, start_process: StartProcess, form: str
) -> None:
    path = str(redis_server.unix_socket)
    host: Any = f"unix://{path}?db=2" if form == "url" else {"address": f"unix://{path}", "db": 2}
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": BASE, "CONFIG": {"hosts": [host]}}}
    await works(start_process, f"unix://{path}?db=2")


async def test_a_proxy_behind_a_unix_socket_is_not_the_server_itself(
    redis_server: EmbeddedRedis, settings: LazySettings, tmp_path: Path
) -> None:
    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection("127.0.0.1", redis_server.port)
        await asyncio.wait([asyncio.create_task(copy(reader, forth)), asyncio.create_task(copy(back, writer))])

    async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            target.write(data)
        target.close()

    path = tmp_path / "proxy.sock"
    async with await asyncio.start_unix_server(pass_on, path):
        for socket, direct in ((redis_server.unix_socket, True), (path, False)):
            settings.CHANNEL_LAYERS = layer_of(f"unix://{socket}")
            async with open_layer("default") as opened:
                assert await is_direct(opened.home) is direct


async def test_a_prefix_of_ones_own(
    redis_server: EmbeddedRedis, settings: LazySettings, start_process: StartProcess
) -> None:
    settings.CHANNEL_LAYERS = layer_of(redis_server.url, prefix="my-app:v2")
    await works(start_process, f"{redis_server.url}/0")


async def test_a_layer_of_another_alias(
    redis_server: EmbeddedRedis, settings: LazySettings, start_process: StartProcess
) -> None:
    settings.CHANNEL_LAYERS = {**settings.CHANNEL_LAYERS, "chat": layer_of(redis_server.url, prefix="chat")["default"]}
    await start_process("room", count=3, alias="chat")
    found = json.loads((await run_beside("channels_groups", "--layer", "chat", "--no-probe", "--format", "json")).out)
    assert (found["layer"], found["totals"]["members"]) == ("chat", 3)
    assert json.loads((await run_beside("channels_groups", "--format", "json")).out)["totals"]["members"] == 0


async def test_a_subclass_of_the_layer(
    redis_server: EmbeddedRedis, settings: LazySettings, start_process: StartProcess
) -> None:
    settings.CHANNEL_LAYERS = layer_of(redis_server.url, backend="tests.layer_builders.SlowLayer")
    await start_process("room", count=3)
    found = json.loads((await run_beside("channels_groups", "--no-probe", "--format", "json")).out)
    assert (found["backend"], found["totals"]["members"]) == ("tests.layer_builders.SlowLayer", 3)


# Passwords


@pytest.mark.parametrize("form", ["url", "dict"])
async def test_a_password(
    start_redis: StartRedis, settings: LazySettings, start_process: StartProcess, form: str
) -> None:
    server = start_redis(requirepass=SECRET)
    host: Any = server.url if form == "url" else {"host": "127.0.0.1", "port": server.port, "password": SECRET}
    settings.CHANNEL_LAYERS = layer_of(host)
    await works(start_process, f"redis://127.0.0.1:{server.port}/0")


async def test_a_wrong_or_missing_password_is_one_line_without_it(
    start_redis: StartRedis, settings: LazySettings
) -> None:
    server = start_redis(requirepass="another")
    where = f"shard 0 (redis://127.0.0.1:{server.port}/0) cannot be used: "
    for host in (f"redis://:{SECRET}@127.0.0.1:{server.port}", f"redis://{SECRET}:{SECRET}@127.0.0.1:{server.port}"):
        settings.CHANNEL_LAYERS = layer_of(host)
        assert (await fails_with_one_line()).startswith(f"{where}invalid username-password pair")
    settings.CHANNEL_LAYERS = layer_of(f"redis://127.0.0.1:{server.port}")
    said = await fails_with_one_line()
    assert said.startswith(where)
    assert "Authentication required" in said


async def test_a_redis_user_with_the_rights_that_reaping_needs(
    start_redis: StartRedis, settings: LazySettings, start_process: StartProcess
) -> None:
    server = start_redis(
        **{"user app": f"on >{SECRET} ~asgi* resetchannels +@all -@dangerous -@admin +info", "user default": "off"}
    )
    settings.CHANNEL_LAYERS = layer_of(f"redis://app:{SECRET}@127.0.0.1:{server.port}")
    await works(start_process, f"redis://127.0.0.1:{server.port}/0")


async def test_a_redis_user_without_the_right_keys_is_told_so(start_redis: StartRedis, settings: LazySettings) -> None:
    server = start_redis(**{"user app": f"on >{SECRET} ~other* +@all -@dangerous +info"})
    settings.CHANNEL_LAYERS = layer_of(f"redis://app:{SECRET}@127.0.0.1:{server.port}")
    assert "refused what this Redis user has no permission for; add to its ACL: " in await fails_with_one_line()


# TLS


def supports_tls(binary: str) -> bool:
    """A server that knows the directive complains of the next one only."""
    said = subprocess.run([binary, "-"], input="tls-port 0\nno-such-directive 1\n", capture_output=True, text=True)
    return "no-such-directive" in said.stdout + said.stderr


class Authority:
    """A certificate authority, and a certificate of it for 127.0.0.1."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.ca, self.certificate, self.key = folder / "ca.pem", folder / "server.pem", folder / "server.key"
        ca_key, server_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        authority = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"tests {folder.name}")])
        server = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
        is_ca = x509.BasicConstraints(ca=True, path_length=0)
        ca_usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        key_id = x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key())
        root = (
            self._builder(authority, authority, ca_key.public_key())
            .add_extension(is_ca, critical=True)
            .add_extension(ca_usage, critical=True)
            .add_extension(key_id, critical=False)
            .sign(ca_key, hashes.SHA256())
        )
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        issuer_id = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key_id)
        leaf = (
            self._builder(server, authority, server_key.public_key())
            .add_extension(names, critical=False)
            .add_extension(issuer_id, critical=False)
            .sign(ca_key, hashes.SHA256())
        )
        pem = serialization.Encoding.PEM
        self.ca.write_bytes(root.public_bytes(pem))
        self.certificate.write_bytes(leaf.public_bytes(pem))
        no_password = serialization.NoEncryption()
        key_format = serialization.PrivateFormat.TraditionalOpenSSL
        self.key.write_bytes(server_key.private_bytes(pem, key_format, no_password))

    @staticmethod
    def _builder(subject: x509.Name, issuer: x509.Name, key: Any) -> x509.CertificateBuilder:
        now = datetime.now(timezone.utc)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
        )


@pytest.fixture
def tls_server(start_redis: StartRedis, tmp_path: Path) -> tuple[EmbeddedRedis, int, Authority]:
    binaries = [binary for binary in available_redis_servers() if supports_tls(binary)]
    if not binaries:
        pytest.skip("no Redis server of this machine was built with TLS")
    authority, port = Authority(tmp_path / "good"), free_port()
    server = start_redis(
        binary=binaries[0],
        tls_port=str(port),
        tls_cert_file=f'"{authority.certificate}"',
        tls_key_file=f'"{authority.key}"',
        tls_ca_cert_file=f'"{authority.ca}"',
        tls_auth_clients="no",
    )
    return server, port, authority


async def test_tls(
    tls_server: tuple[EmbeddedRedis, int, Authority], settings: LazySettings, start_process: StartProcess
) -> None:
    _, port, authority = tls_server
    settings.CHANNEL_LAYERS = layer_of({"address": f"rediss://127.0.0.1:{port}", "ssl_ca_certs": str(authority.ca)})
    await works(start_process, f"rediss://127.0.0.1:{port}/0")


async def test_tls_with_a_certificate_that_nobody_vouches_for_is_refused_in_one_line(
    tls_server: tuple[EmbeddedRedis, int, Authority], settings: LazySettings, tmp_path: Path
) -> None:
    _, port, _ = tls_server
    other = Authority(tmp_path / "other")
    for options in ({"ssl_ca_certs": str(other.ca)}, {}):
        settings.CHANNEL_LAYERS = layer_of({"address": f"rediss://:{SECRET}@127.0.0.1:{port}", **options})
        said = await fails_with_one_line()
        assert said.startswith(f"shard 0 (rediss://127.0.0.1:{port}/0) cannot be used: ")
        assert "certificate verify failed" in said


async def test_tls_to_a_server_that_speaks_none_is_refused_in_one_line(
    redis_server: EmbeddedRedis, settings: LazySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "ANSWER_TIMEOUT_SECONDS", 0.3)
    settings.CHANNEL_LAYERS = layer_of(f"rediss://:{SECRET}@127.0.0.1:{redis_server.port}")
    assert (await fails_with_one_line()).startswith(f"shard 0 (rediss://127.0.0.1:{redis_server.port}/0) ")


def test_the_certificates_of_these_tests_are_good(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "good")
    context = ssl.create_default_context(cafile=str(authority.ca))
    assert context.verify_mode is ssl.CERT_REQUIRED
    context.load_verify_locations(str(authority.ca))


# Sentinel


@pytest.fixture
def sentinel(redis_server: EmbeddedRedis) -> Iterator[int]:
    """The port of a Sentinel that watches `redis_server` under the name `chat`."""
    folder, port = make_folder("sentinel-"), free_port()
    config = folder / "sentinel.conf"
    config.write_text(
        f'port {port}\nbind 127.0.0.1\ndir "{folder}"\nsentinel monitor chat 127.0.0.1 {redis_server.port} 1\n'
    )
    process = OwnedProcess([redis_server.binary, str(config), "--sentinel"], log_path=folder / "sentinel.log")
    with redis.Redis(port=port) as client:
        for _ in range(500):
            try:
                if client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "chat"):
                    break
            except redis.ConnectionError:
                assert process.running, process.output()
    yield port
    if process.running:
        process.kill()
    delete_folder(folder)


async def test_sentinel(sentinel: int, settings: LazySettings, start_process: StartProcess) -> None:
    settings.CHANNEL_LAYERS = layer_of({"sentinels": [("127.0.0.1", sentinel)], "master_name": "chat"})
    await works(start_process, "sentinel://chat")


async def test_a_master_that_sentinel_does_not_know_is_one_line(sentinel: int, settings: LazySettings) -> None:
    settings.CHANNEL_LAYERS = layer_of(
        {"sentinels": [("127.0.0.1", sentinel)], "master_name": "absent", "password": SECRET}
    )
    said = await fails_with_one_line()
    assert said.startswith("shard 0 (sentinel://absent) cannot be used: No master found for 'absent'")


# Other layers


@pytest.fixture
def pubsub(redis_server: EmbeddedRedis, settings: LazySettings) -> None:
    settings.CHANNEL_LAYERS = layer_of(redis_server.url, backend="channels_redis.pubsub.RedisPubSubChannelLayer")


@pytest.mark.usefixtures("pubsub")
async def test_groups_of_a_publish_subscribe_layer_are_counted(redis_client: redis.Redis) -> None:
    from channels.layers import channel_layers

    layers = [channel_layers.make_backend("default") for _ in range(2)]
    for layer in layers:
        channel = await layer.new_channel()
        await layer.group_add("lobby", channel)
    await layers[0].group_add("only\u00e9".encode().decode("ascii", "ignore"), await layers[0].new_channel())
    await until(lambda: dict(redis_client.pubsub_numsub("asgi__group__lobby"))[b"asgi__group__lobby"] == 2)

    result = await run_beside("channels_groups", "--format", "json")

    assert (result.returncode, result.err) == (0, "")
    found = json.loads(result.out)
    assert {group["group"]: (group["members"], group["live"]) for group in found["groups"]} == {
        "lobby": (2, 2),
        "only": (1, 1),
    }
    assert (found["totals"]["groups"], found["totals"]["members"]) == (2, 3)
    assert "publish/subscribe" in found["notes"][0]
    assert (await run_beside("channels_groups", "lobby")).returncode == 0
    matching = json.loads((await run_beside("channels_groups", "--match", "o*", "--format", "json")).out)
    assert [group["group"] for group in matching["groups"]] == ["only"]
    for layer in layers:
        await layer.flush()


@pytest.mark.usefixtures("pubsub")
async def test_there_is_nothing_to_reap_with_publish_subscribe(redis_client: redis.Redis) -> None:
    for argv in ((), ("--dry-run",)):
        result = await run_beside("reap_stale", *argv)
        assert (result.returncode, result.err) == (0, "")
        assert "there is nothing to reap" in result.out
        found = json.loads((await run_beside("reap_stale", "--format", "json", *argv)).out)
        assert (found["schema_version"], found["removed"], found["complete"]) == (1, 0, True)
        assert found["dry_run"] == ("--dry-run" in argv)
        assert "nothing to reap" in found["notes"][0]
    assert redis_client.keys("*") == []


class HomemadeLayer:
    """A layer that is not built on channels_redis."""


async def test_layers_that_are_not_understood_end_with_1_and_the_reason(settings: LazySettings) -> None:
    for backend, reason in {
        "channels.layers.InMemoryChannelLayer": "its groups live inside each process and cannot be seen from here",
        f"{__name__}.HomemadeLayer": "HomemadeLayer, which is not built on channels_redis",
        "no.such.module.Layer": "cannot be made",
        f"{__name__}.NoSuchLayer": "cannot be made",
    }.items():
        settings.CHANNEL_LAYERS = {"default": {"BACKEND": backend}}
        assert reason in await fails_with_one_line()
    settings.CHANNEL_LAYERS = {}
    assert "there is no channel layer 'default' in CHANNEL_LAYERS; configured: none" in await fails_with_one_line()


async def test_an_unknown_alias_ends_with_1_and_names_the_known_ones(redis_server: EmbeddedRedis) -> None:
    for alias in ("absent", "", "red\x1b[31m"):
        said = await fails_with_one_line("--layer", alias)
        assert "configured: 'default'" in said
        assert "\x1b" not in said


@pytest.mark.parametrize(
    "config",
    [
        {"hosts": [f"redis://:{SECRET}@127.0.0.1:port"]},
        {"hosts": [f"http://:{SECRET}@127.0.0.1"]},
        {"hosts": f"redis://:{SECRET}@127.0.0.1"},
        {"hosts": [{"host": "127.0.0.1", "no_such_option": SECRET}]},
        {"hosts": [("127.0.0.1",)]},
        {"no_such_option": SECRET},
        {"prefix": 5},
        {"serializer_format": SECRET},
        {"symmetric_encryption_keys": SECRET},
    ],
    ids=str,
)
async def test_a_config_that_cannot_be_used_is_one_line_without_secrets(
    settings: LazySettings, config: dict[str, Any]
) -> None:
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": BASE, "CONFIG": config}}
    assert "'default'" in await fails_with_one_line()


async def test_what_a_server_answers_is_shown_and_never_obeyed(redis_server: EmbeddedRedis) -> None:
    async with open_layer("default") as opened:
        said = str(opened.home.failure(redis.ResponseError("\x1b]0;owned\x07\x1b[31m")))
    assert said.endswith("cannot be used: \\x1b]0;owned\\x07\\x1b[31m")


# Two names of one server


def two_names_of(server: EmbeddedRedis, **options: Any) -> dict[str, Any]:
    return layer_of(server.url, server.url.replace("127.0.0.1", "localhost"), **options)


@pytest.mark.parametrize("backend", [BASE, "ops.layers.RedisChannelLayer"])
async def test_a_server_with_two_names_is_counted_once_and_told_of(
    redis_server: EmbeddedRedis, settings: LazySettings, start_process: StartProcess, backend: str
) -> None:
    settings.CHANNEL_LAYERS = two_names_of(redis_server, backend=backend)
    await start_process("one", "two", "three", "four", count=3, live=True)
    shown = json.loads((await run_beside("channels_groups", "--format", "json")).out)
    assert (shown["totals"]["groups"], shown["totals"]["members"], shown["totals"]["live"]) == (4, 12, 12)
    done = await run_beside("channels_doctor", "--format", "json")
    [finding] = json.loads(done.out)["findings"]
    assert (finding["id"], done.returncode) == ("ops.W311", 3)
    assert finding["evidence"] == [
        f"shard 1 (redis://localhost:{redis_server.port}/0) is the same database of the same server as shard 0 "
        f"(redis://127.0.0.1:{redis_server.port}/0)"
    ]


async def test_of_a_server_with_two_names_the_dead_go_once_and_come_back_once(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, settings: LazySettings, start_process: StartProcess
) -> None:
    settings.CHANNEL_LAYERS = two_names_of(redis_server)
    live = await start_process("one", "two", live=True)
    await start_process("one", "two", "three")
    await suspect_everybody()
    report = await run_reap()
    assert (report.removed, report.members_scanned, report.stopped) == (3, 5, None)
    assert [name.partition("!")[0] for name in members_of(redis_client, "one")] == [live.inbox.rstrip("!")]
    undone = json.loads((await run_beside("reap_stale", "--undo", report.run_id, "--format", "json")).out)
    assert (undone["restored"], undone["already_present"]) == (3, 0)
