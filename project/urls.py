from django.urls import path, re_path
from django.views.generic import TemplateView

from project.consumers import AnnouncementsConsumer, CarefulConsumer, ChatConsumer, GroupsConsumer, RoomConsumer
from project.views import static_file, who

urlpatterns = [
    path("", TemplateView.as_view(template_name="project/chat.html"), name="chat"),
    path("who/", who, name="who"),
    path("static/<path:path>", static_file),
]

# Channels allows these characters in the name of a group, and fewer than 100 of them.
ROOM = r"(?P<room>[A-Za-z0-9_.-]{1,80})"

websocket_urlpatterns = [
    re_path(rf"^ws/room/{ROOM}/$", RoomConsumer.as_asgi()),
    re_path(rf"^ws/chat/{ROOM}/$", ChatConsumer.as_asgi()),
    re_path(rf"^ws/careful/{ROOM}/$", CarefulConsumer.as_asgi()),
    path("ws/announcements/", AnnouncementsConsumer.as_asgi()),
    path("ws/groups/", GroupsConsumer.as_asgi()),
]
