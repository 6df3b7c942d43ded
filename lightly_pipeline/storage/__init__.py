"""The bucket: what is stored where, and transfers that are idempotent and never half-visible."""
