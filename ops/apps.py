from importlib import import_module

from django.apps import AppConfig


class OpsConfig(AppConfig):
    """Registers the commands, the django-extensions jobs and the system checks."""

    name = "ops"
    verbose_name = "Channels operations"

    def ready(self) -> None:
        # To import it is to register the checks. Not above: they need the settings, which are not ready then.
        import_module("ops.checks")
