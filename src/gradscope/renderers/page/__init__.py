"""The page: one file that holds everything, and asks the network for nothing."""
