"""What a user names becomes a model."""
