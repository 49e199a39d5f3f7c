"""The loop, the optimizers, the schedules, and what several processes share."""
