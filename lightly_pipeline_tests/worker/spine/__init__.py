"""The worker as a whole: options, input, output tree, interrupts, S3, Pipes."""
