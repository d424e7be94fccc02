"""Examines part by part whether a checkpoint is what it claims and computes what it should."""
