"""The bucket: transfers that are idempotent and never half-visible."""

from lightly_pipeline.storage.bucket import StorageError, StoredObject, Upload, VideoBucket

__all__ = ["StorageError", "StoredObject", "Upload", "VideoBucket"]
