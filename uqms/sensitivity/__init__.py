"""Which inputs drive an output: indices with the surrogate's own error in every number."""
