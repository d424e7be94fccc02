"""What makes and judges models. The server never imports any of it."""
