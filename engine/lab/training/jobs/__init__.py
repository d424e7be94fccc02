"""What changes an existing checkpoint: adapting it, converting it, training a drafter for it."""
