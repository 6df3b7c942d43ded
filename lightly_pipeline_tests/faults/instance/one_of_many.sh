#!/bin/bash
# one_of_many.sh FOLDER NAME SECONDS: a job whose work is to make FOLDER/done/NAME, once; it tells what it did in FOLDER.
set -euo pipefail
exec 9>>"$LIGHTLY_BUSY_LOCK"
flock -s 9
note() { printf '%s %s %s\n' "$1" "$2" "$SSM_COMMAND_ID" >>"$3/ledger"; }
note begin "$2" "$1"
if [ ! -e "$1/done/$2" ]; then
    sleep "$3"
    # Fails where it is there already: two at once do not both count.
    (set -o noclobber && : >"$1/done/$2")
    note work "$2" "$1"
fi
note end "$2" "$1"
