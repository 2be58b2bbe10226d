"""What the exit code of a training process means. 0: finished; 2: wrong flags; 128 + signal: ended by that signal."""

from __future__ import annotations

ERROR = 1  # its last line says what was wrong
STOPPED = 75  # by SIGTERM or Ctrl-C, after saving: the same command continues (EX_TEMPFAIL of sysexits.h)
HANG = 76  # a watchdog ended it: no data, or no progress
