#!/bin/bash
# Run one frame selection on this instance: run.sh INPUT OUTPUT [key=value ...]
#
# INPUT and OUTPUT are directories or s3:// prefixes, key=value are the worker's options under Lightly's names.
# The process that works holds a shared lock on LIGHTLY_BUSY_LOCK; the kernel drops it however that process ends,
# and watchdog.sh switches the instance off when nobody has held it for a while. It is the same process that SSM
# started (exec), so that signals and exit codes are the worker's own.
#
#   ENGINE=open (default)     the open worker, `lightly-worker` (LIGHTLY_WORKER names another path)
#   ENGINE=lightly            Lightly's closed docker image; see lightly_engine.py beside this file
#   LIGHTLY_BUSY_LOCK         the lock file, /run/lightly.busy
set -euo pipefail

if [ "$#" -lt 2 ]; then
    echo "usage: run.sh INPUT OUTPUT [key=value ...]" >&2
    exit 64
fi

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
lock=${LIGHTLY_BUSY_LOCK:-/run/lightly.busy}
if ! exec 9>>"$lock"; then
    echo "run.sh: cannot open the busy lock $lock: run as root, or set LIGHTLY_BUSY_LOCK to a writable path" >&2
    exit 73
fi
# Waits only while the watchdog, which tries the lock exclusively, is deciding or is already shutting down.
flock -s 9

# SSM starts commands without HOME, and tools write their caches there.
export HOME=${HOME:-/root}

case "${ENGINE:-open}" in
open)
    worker=${LIGHTLY_WORKER:-lightly-worker}
    for place in /opt/lightly/bin "$here"; do
        if ! command -v -- "$worker" >/dev/null && [ -x "$place/$worker" ]; then
            worker=$place/$worker
        fi
    done
    if ! command -v -- "$worker" >/dev/null; then
        echo "run.sh: $worker is not installed on this instance: pip install 'lightly-pipeline[worker]'," \
            "or set LIGHTLY_WORKER to its path" >&2
        exit 69
    fi
    exec "$worker" "$@"
    ;;
lightly)
    python=${LIGHTLY_PYTHON:-/opt/lightly/bin/python}
    [ -x "$python" ] || python=python3
    exec "$python" "$here/lightly_engine.py" "$@"
    ;;
*)
    echo "run.sh: ENGINE=$ENGINE is unknown: use open or lightly" >&2
    exit 64
    ;;
esac
