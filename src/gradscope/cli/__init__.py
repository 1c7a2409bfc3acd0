"""The command line: one file per command, sharing options, output and progress. Nothing here imports tensors."""
