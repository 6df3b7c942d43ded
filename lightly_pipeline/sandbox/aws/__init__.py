"""The embedded AWS: moto's server with EC2 instances that take time and SSM commands that really run.

`cloud.py` composes it. `power.py`, `machine.py` and `agent.py` are one instance: its states, its disk and processes,
its SSM agent. `commands.py` is Run Command's records. `ec2.py` and `ssm.py` graft these onto moto's two classes;
`server.py` serves it all over HTTP, `faults.py` and `calls.py` stand in front of it, `bucket_store.py` keeps what S3
stores over a restart.
"""
