"""The mixin on each of Channels' four websocket consumers. What they are told, they note in Redis.

`/ws/beat/<consumer>/` greets, echoes what it got, and notes each `disconnect` in the list `disconnects`.
"""

import asyncio
import json
import os
from typing import Any

import redis
from asgiref.sync import async_to_sync
from channels.generic.websocket import (
    AsyncJsonWebsocketConsumer,
    AsyncWebsocketConsumer,
    JsonWebsocketConsumer,
    WebsocketConsumer,
)
from channels.routing import URLRouter
from django.urls import path

from ops.consumers import HeartbeatMixin
from ops.middleware import OpsMiddleware
from project.asgi import logged_application as demo

INTERVAL_SECONDS = float(os.environ.get("HEARTBEAT_INTERVAL", "0.4"))
TIMEOUT_SECONDS = float(os.environ.get("HEARTBEAT_TIMEOUT", "3"))
DISCONNECTS = "disconnects"
DECLARED, JOINED = "declared", "joined"

client = redis.Redis.from_url(os.environ["REDIS_URL"].split()[0])


class Told(HeartbeatMixin):
    heartbeat_interval = INTERVAL_SECONDS
    heartbeat_timeout = TIMEOUT_SECONDS
    groups = (DECLARED,)
    channel_name: str

    def note(self, code: int) -> None:
        client.rpush(DISCONNECTS, json.dumps([type(self).__name__, self.channel_name, code]))

    @property
    def welcome(self) -> str:
        return json.dumps({"type": "welcome", "channel": self.channel_name, "pid": os.getpid()})

    def flood(self, event: dict[str, Any]) -> str:
        return "x" * event["size"]


class AsyncConsumer(Told, AsyncWebsocketConsumer):
    async def connect(self) -> None:
        await self.channel_layer.group_add(JOINED, self.channel_name)
        await self.accept()
        await self.send(text_data=self.welcome)

    async def disconnect(self, code: int) -> None:
        self.note(code)
        await self.channel_layer.group_discard(JOINED, self.channel_name)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        if text_data == "busy":
            await asyncio.sleep(2 * (INTERVAL_SECONDS + TIMEOUT_SECONDS))
        elif text_data == "wait":
            await asyncio.to_thread(client.blpop, "go on")
        elif text_data == "close":
            await self.close(4001)
        if text_data is not None:
            await self.send(text_data=json.dumps({"type": "echo", "text": text_data}))
        else:
            await self.send(bytes_data=bytes_data)

    async def send_flood(self, event: dict[str, Any]) -> None:
        await self.send(text_data=self.flood(event))


class AsyncJsonConsumer(Told, AsyncJsonWebsocketConsumer):
    async def connect(self) -> None:
        await self.channel_layer.group_add(JOINED, self.channel_name)
        await self.accept()
        await self.send_json(json.loads(self.welcome))

    async def disconnect(self, code: int) -> None:
        self.note(code)
        await self.channel_layer.group_discard(JOINED, self.channel_name)

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        await self.send_json({"type": "echo", "text": content["text"]})

    async def send_flood(self, event: dict[str, Any]) -> None:
        await self.send(text_data=self.flood(event))


class SyncConsumer(Told, WebsocketConsumer):
    def connect(self) -> None:
        async_to_sync(self.channel_layer.group_add)(JOINED, self.channel_name)
        self.accept()
        self.send(text_data=self.welcome)

    def disconnect(self, code: int) -> None:
        self.note(code)
        async_to_sync(self.channel_layer.group_discard)(JOINED, self.channel_name)

    def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        if text_data is not None:
            self.send(text_data=json.dumps({"type": "echo", "text": text_data}))
        else:
            self.send(bytes_data=bytes_data)

    def send_flood(self, event: dict[str, Any]) -> None:
        self.send(text_data=self.flood(event))


class SyncJsonConsumer(Told, JsonWebsocketConsumer):
    def connect(self) -> None:
        async_to_sync(self.channel_layer.group_add)(JOINED, self.channel_name)
        self.accept()
        self.send_json(json.loads(self.welcome))

    def disconnect(self, code: int) -> None:
        self.note(code)
        async_to_sync(self.channel_layer.group_discard)(JOINED, self.channel_name)

    def receive_json(self, content: Any, **kwargs: Any) -> None:
        self.send_json({"type": "echo", "text": content["text"]})

    def send_flood(self, event: dict[str, Any]) -> None:
        self.send(text_data=self.flood(event))


class LegacyConsumer(AsyncConsumer):
    """For clients that were there before: they answer `ping` with `pong`, and cannot say to which."""

    def encode_heartbeat(self, token: str) -> str:
        self.asked = token
        return "ping"

    def decode_heartbeat(self, frame: str | bytes) -> str | None:
        return self.asked if frame == "pong" else None


class LonelyConsumer(HeartbeatMixin, AsyncWebsocketConsumer):
    """Of a site without channel layers."""

    channel_layer_alias = "there is none"
    heartbeat_interval = INTERVAL_SECONDS
    heartbeat_timeout = TIMEOUT_SECONDS

    async def disconnect(self, code: int) -> None:
        client.rpush(DISCONNECTS, json.dumps(["LonelyConsumer", "", code]))


CONSUMERS = {
    "async": AsyncConsumer,
    "async-json": AsyncJsonConsumer,
    "sync": SyncConsumer,
    "sync-json": SyncJsonConsumer,
    "legacy": LegacyConsumer,
    "lonely": LonelyConsumer,
}
websockets = URLRouter([path(f"ws/beat/{name}/", consumer.as_asgi()) for name, consumer in CONSUMERS.items()])


async def either(scope: Any, receive: Any, send: Any) -> None:
    served = websockets if scope["path"].startswith("/ws/beat/") else demo
    await served(scope, receive, send)


application = OpsMiddleware(either)
