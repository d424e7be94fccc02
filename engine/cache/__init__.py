"""The K/V cache: a page table in pure Python, and the stores in torch and numpy that use it."""
