"""Searches: the settings, the spaces, the study that Optuna keeps, and the trials as a queue of jobs."""
