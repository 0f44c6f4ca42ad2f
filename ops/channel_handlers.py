"""What the project says of the consumers that read its general channels (``runworker``)."""

from collections.abc import Callable

from channels.routing import get_default_application

from ops import compat
from ops.model.disconnects.emitting import HANDLER


def handles_disconnects() -> Callable[[str], bool]:
    """Whether ``ASGI_APPLICATION`` gives a channel to a consumer that has a method ``ops_disconnect``.

    Of a websocket's channel nothing says whose it is: the answer is no.
    """
    try:
        consumers = compat.channel_consumers(get_default_application())
    except Exception:  # It is the project's own, and may have no such router.
        consumers = {}
    able = {name for name, consumer in consumers.items() if hasattr(consumer, HANDLER)}
    return able.__contains__
