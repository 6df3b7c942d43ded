"""The bucket: transfers that are idempotent and never half-visible, and the folders of videos in it."""

from lightly_pipeline.storage.bucket import StorageError, StoredObject, Upload, VideoBucket
from lightly_pipeline.storage.folder import FolderPage, VideoFolder, read_folder, read_folders

__all__ = [
    "FolderPage",
    "StorageError",
    "StoredObject",
    "Upload",
    "VideoBucket",
    "VideoFolder",
    "read_folder",
    "read_folders",
]
