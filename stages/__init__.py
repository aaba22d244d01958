"""Stages of the pipeline, one script each: `python -m stages.NAME`."""

import sys

from wscore.interrupt import leave_on_interrupt, stage_name

if sys.argv[0] == "-m":  # what `python -m` says while it imports this package, and nobody else
    leave_on_interrupt(stage_name())
