"""Whether a checkpoint is what it says and computes what it should, examined part by part."""
