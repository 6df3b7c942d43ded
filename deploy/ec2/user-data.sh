#!/bin/bash
# User data of a new instance (Ubuntu): fetch this folder from the bucket and install it. Runs once, at the first boot.
# The instance profile needs AmazonSSMManagedInstanceCore and the bucket; shutdown behaviour must be "stop".
set -euo pipefail

bucket=${LIGHTLY_BUCKET:-@BUCKET@}
# Before anything that can fail: an instance whose installation hangs switches itself off all the same.
systemd-run --on-active=3600 --unit=lightly-first-boot shutdown -h now

export DEBIAN_FRONTEND=noninteractive
apt-get update -q
apt-get install -q -y python3-venv awscli
install -d /opt/lightly/source
aws s3 cp --recursive --only-show-errors "s3://$bucket/.lightly/ec2/" /opt/lightly/source/
chmod +x /opt/lightly/source/*.sh
/opt/lightly/source/install.sh
systemctl stop lightly-first-boot.timer
