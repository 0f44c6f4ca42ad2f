"""Writing what a command was asked to leave in a file."""

import contextlib
import os
import secrets
import stat
from pathlib import Path

from ops.exceptions import OpsError
from ops.model.runs import ReapReport
from ops.model.text import visible

# node_exporter runs as a user of its own, and reads the file without asking.
WORLD_READABLE = 0o644


def write_reap_metrics(path: Path, report: ReapReport) -> None:
    """Replace the file at ``path`` with the figures of ``report``, in one step: a reader sees the old or the new file.

    The time of the latest success is kept from the file that is replaced, when this run was none. node_exporter reads
    only files whose names end in ``.prom``, and each layer needs a file of its own.

    Do not call it for a dry run: nothing was removed, and an alert would take it for a reaper at work.

    Raises OpsError when the file cannot be written.
    """
    from ops.output.metrics import reap_metrics

    _write(path, reap_metrics(report, _read_text(path)), WORLD_READABLE, what="metrics", option="--metrics-file")


def write_page(path: Path, page: str) -> None:
    """Replace the file at ``path`` with ``page``, in one step. A file that is replaced hands on its permissions.

    Raises OpsError when the file cannot be written.
    """
    _write(path, page.encode("utf-8"), None, what="the page", option="--html")


def _write(path: Path, content: bytes, mode: int | None, *, what: str, option: str) -> None:
    """``mode``: the permissions; None for those of the file that is replaced, if there is one."""
    shown = visible(str(path))
    try:
        if path.exists() and not path.is_file():
            raise OpsError(f"cannot write {what} to {shown}: not a regular file; give {option} another path")
        if mode is None and path.exists():
            mode = stat.S_IMODE(path.stat().st_mode)
        _replace_file(path, content, mode)
    except OSError as problem:
        raise OpsError(
            f"cannot write {what} to {shown}: {problem.strerror or problem}; the directory must exist and be writable "
            f"for the user that runs this, or give {option} another path"
        ) from problem


def _read_text(path: Path) -> str:
    """The text of the file that is to be replaced; empty if there is none that can be read."""
    try:
        return path.read_text(encoding="utf-8") if path.is_file() else ""
    except (OSError, ValueError):
        return ""


def _replace_file(path: Path, content: bytes, mode: int | None) -> None:
    """As prometheus_client's ``write_to_textfile``. ``mode``: its permissions; None for those that the umask leaves.

    The temporary file lies beside ``path``, because only a rename within one file system is atomic.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
