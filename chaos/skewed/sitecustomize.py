"""On the PYTHONPATH of one worker, it sets that worker's clock wrong by CHAOS_SKEW_SECONDS."""

import os
import time

_right = time.time
_skew = float(os.environ.get("CHAOS_SKEW_SECONDS") or 0)


def _wrong() -> float:
    return _right() + _skew


time.time = _wrong
