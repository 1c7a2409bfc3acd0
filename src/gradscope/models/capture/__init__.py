"""A user's module, run as it is: the recurrences inside are seen working and come out as chains."""
