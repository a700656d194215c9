"""The model as arrays: reading, compiling, rates, and fits of whole batches of data sets."""
