"""The K/V cache: a page table in pure Python and the tensors behind it."""
