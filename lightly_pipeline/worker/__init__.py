"""The open frame-selection worker: every frame of a folder of videos in, a clean and diverse few of them out.

It runs on the instance and stands alone: nothing here imports Dagster or the rest of the package.
"""
