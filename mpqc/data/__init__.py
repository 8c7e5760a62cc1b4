"""Every kind of data as batches."""
