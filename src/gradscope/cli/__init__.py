"""The command line: commands by topic, sharing options, output and progress. Nothing here imports tensors."""
