"""What starts the assets: jobs, the schedule and the sensors."""
