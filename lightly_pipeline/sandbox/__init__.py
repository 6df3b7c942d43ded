"""The embedded world: S3, EC2 and SSM by moto's server with commands that really run, and a Pexels stand-in."""
