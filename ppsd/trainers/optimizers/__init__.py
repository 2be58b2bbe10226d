"""Optimizers that paddle lacks, and the choice among all of them by the names of the public recipes."""
