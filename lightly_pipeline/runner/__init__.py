"""Run a command on an EC2 instance that is switched on only while it works.

Instance, lease, pool and SSM command as plain objects over boto3 clients; nothing here imports Dagster.
"""
