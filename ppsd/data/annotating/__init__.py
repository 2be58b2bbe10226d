"""Writing data sets anew with a column of pictures that annotators make: what tools/annotate.py does."""
