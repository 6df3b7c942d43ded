"""The embedded AWS: moto's server with EC2 instances that take time and SSM commands that really run.

`cloud.py` composes it. One instance is `power.py` (its states), `machine.py` (disk and processes), `agent.py` (its SSM
agent), `execution.py` (a command's process), `output.py` (where output goes) and `jobs.py` with `reaper.py` (no process
outlives the sandbox); `commands.py` is Run Command's records. `ec2.py` and `ssm.py` graft these onto moto's classes,
`grafts.py` takes them off again. `server.py` serves it over HTTP; `front.py` stands before moto, with `protocol.py`,
`faults.py`, `calls.py` and `control.py`. `bucket_store.py` and `objects.py` keep what S3 stores in files, also over a
restart.
"""
