"""What is recorded and shown of a training."""
