#!/bin/bash
# Stands for run.sh on the instance: holds the busy lock as that does, and becomes a job that does as it is told.
set -euo pipefail
exec 9>>"$LIGHTLY_BUSY_LOCK"
flock -s 9
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
exec python "$here/job.py" "$here" "$@"
