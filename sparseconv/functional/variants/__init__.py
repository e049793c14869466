"""Convolution variants on sparse tensors, one family a file: the twins of the dense ones in ``dense_ops``."""
