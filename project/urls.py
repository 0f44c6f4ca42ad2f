from django.urls import path, re_path
from django.views.generic import TemplateView

from project.consumers import GroupsConsumer, RoomConsumer

urlpatterns = [path("", TemplateView.as_view(template_name="project/chat.html"), name="chat")]

websocket_urlpatterns = [
    # Channels allows these characters in the name of a group, and fewer than 100 of them.
    re_path(r"^ws/room/(?P<room>[A-Za-z0-9_.-]{1,80})/$", RoomConsumer.as_asgi()),
    path("ws/groups/", GroupsConsumer.as_asgi()),
]
