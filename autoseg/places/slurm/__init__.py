"""Slurm as a place: tasks are jobs that submitit submits, of which squeue and their own marks tell the state."""
