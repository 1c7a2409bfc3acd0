"""What one token has to do with another."""
