#!/bin/bash
# Switch this instance off when no job has held the busy lock for a while.
#
# The last of three ways in which an instance is stopped, and the one that needs nothing else to be alive: no network,
# no credentials, no AWS call, no agreement about the time of day. A systemd timer runs it once a minute
# (lightly-watchdog.timer); `watchdog.sh --every SECONDS` repeats it where there is no systemd.
# The instance must be one whose own shutdown stops it (InstanceInitiatedShutdownBehavior=stop, EC2's default).
#
#   LIGHTLY_BUSY_LOCK             lock that jobs hold while they run: /run/lightly.busy
#   LIGHTLY_WATCHDOG_STATE        what is remembered between two runs: /run/lightly.watchdog (gone after a reboot)
#   LIGHTLY_IDLE_GRACE_SECONDS    idle seconds after which the instance is switched off: 600
#   LIGHTLY_MAX_UPTIME_SECONDS    seconds after which it is switched off even when busy: 180000 (SSM ends a command
#                                 after 172800 at the latest, so only a hung instance or a long queue gets there,
#                                 and a job that is cut short is sent again)
#   LIGHTLY_SHUTDOWN              what switches it off: `shutdown -h now`
set -euo pipefail

lock=${LIGHTLY_BUSY_LOCK:-/run/lightly.busy}
state=${LIGHTLY_WATCHDOG_STATE:-/run/lightly.watchdog}
grace=${LIGHTLY_IDLE_GRACE_SECONDS:-600}
max_uptime=${LIGHTLY_MAX_UPTIME_SECONDS:-180000}
read -r -a shutdown_command <<<"${LIGHTLY_SHUTDOWN:-shutdown -h now}"

# Seconds since the kernel started: unlike the time of day it never jumps.
uptime_seconds() {
    local seconds _
    read -r seconds _ </proc/uptime
    echo "${seconds%%.*}"
}

# Two numbers in one file: when this instance was first looked at, and when it was last seen busy.
remember() {
    printf '%s %s\n' "$1" "$2" >"$state.new"
    mv -f "$state.new" "$state"
}

look() {
    local now first last reason=""
    now=$(uptime_seconds)
    first=$now
    last=$now
    if [ -r "$state" ]; then
        read -r first last <"$state" || { first=$now; last=$now; }
    fi
    exec 9>>"$lock"
    if flock -n -x 9; then
        if [ $((now - last)) -ge "$grace" ]; then
            reason="no job for $((now - last)) s"
        fi
    else
        last=$now
    fi
    if [ $((now - first)) -ge "$max_uptime" ]; then
        reason="up for $((now - first)) s"
    fi
    remember "$first" "$last"
    if [ -n "$reason" ]; then
        echo "lightly-watchdog: switching off: $reason"
        # The lock stays with this process: a job that arrives now waits, is lost with the instance, and is sent
        # again, instead of starting work that would be cut off.
        "${shutdown_command[@]}" || echo "lightly-watchdog: shutdown was refused, will try again" >&2
    fi
    exec 9>&-
}

case "${1:-}" in
"")
    look
    ;;
--every)
    while :; do
        look
        # Not a child that could outlive this loop: wait for a byte that nobody ever writes.
        read -r -t "${2:?seconds}" <> <(:) || true
    done
    ;;
*)
    echo "usage: watchdog.sh [--every SECONDS]" >&2
    exit 64
    ;;
esac
