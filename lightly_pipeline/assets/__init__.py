"""The three assets, each in its module with its checks: pexels_video, s3_video_object, lightly_frames."""
