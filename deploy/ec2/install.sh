#!/bin/bash
# Prepare this instance, once: the worker in /opt/lightly, run.sh where the pipeline looks for it, and the watchdog.
#
# As root, from this folder (user-data.sh does both for a new instance):  ./install.sh
#   LIGHTLY_PACKAGE      what pip installs: lightly-pipeline[worker]
#   LIGHTLY_RUN_SCRIPT   where run.sh is linked, as in the pipeline's own setting: /home/ubuntu/run.sh
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
run_script=${LIGHTLY_RUN_SCRIPT:-/home/ubuntu/run.sh}

install -d /opt/lightly/ec2 /etc/lightly "$(dirname -- "$run_script")"
for file in run.sh watchdog.sh lightly_engine.py; do
    install -m 755 "$here/$file" "/opt/lightly/ec2/$file"
done
# Not a link: run.sh finds what lies beside it by its own path.
printf '#!/bin/bash\nexec /opt/lightly/ec2/run.sh "$@"\n' >"$run_script"
chmod 755 "$run_script"

install -m 644 "$here/lightly-watchdog.service" "$here/lightly-watchdog.timer" /etc/systemd/system/
systemctl daemon-reload
systemctl enable --now lightly-watchdog.timer

[ -x /opt/lightly/bin/python ] || python3 -m venv /opt/lightly
/opt/lightly/bin/pip install --quiet --upgrade "${LIGHTLY_PACKAGE:-lightly-pipeline[worker]}"
# Compiles what is compiled once per machine, too, so that the first job need not wait for it.
/opt/lightly/bin/lightly-worker sanity_check=True >/dev/null
echo "installed: $run_script, $(/opt/lightly/bin/lightly-worker --version), lightly-watchdog.timer"
