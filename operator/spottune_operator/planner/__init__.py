"""The decisions of the operator: pure and total, without I/O and without a clock."""
