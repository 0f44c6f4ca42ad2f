"""Writing what a command was asked to leave in a file."""

import contextlib
import os
import tempfile
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

    try:
        if path.exists() and not path.is_file():
            raise OpsError(f"cannot write metrics to {path}: not a regular file; give --metrics-file another path")
        _replace_file(path, reap_metrics(report, _read_text(path)))
    except OSError as problem:
        raise OpsError(
            f"cannot write metrics to {path}: {problem.strerror or problem}; the directory must exist and be writable "
            f"for the user that runs this, or give --metrics-file another path"
        ) from problem


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path``. Raises OpsError if that is not possible."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as problem:
        raise OpsError(f"{visible(str(path))} cannot be written: {problem.strerror}") from None


def _read_text(path: Path) -> str:
    """The text of the file that is to be replaced; empty if there is none that can be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def _replace_file(path: Path, content: bytes) -> None:
    """As prometheus_client's ``write_to_textfile``, but readable for everybody whatever the umask of the caller is.

    The temporary file lies beside ``path``, because only a rename within one file system is atomic.
    """
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with open(descriptor, "wb") as file:
            os.fchmod(file.fileno(), WORLD_READABLE)
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
