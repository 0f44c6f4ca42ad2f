from django.apps import AppConfig


class OpsConfig(AppConfig):
    """Registers the commands, the django-extensions jobs and the system checks."""

    name = "ops"
    verbose_name = "Channels operations"

    def ready(self) -> None:
        from ops import checks  # noqa: F401  (importing registers the checks)
