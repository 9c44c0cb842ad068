"""Triton kernels and the operators that launch them, registered with torch as `xlt::...`.

Loaded at the first call that needs them, never where triton is missing. Each file holds the kernels of one operation,
the registered operator (schema, fake, autograd) and what launches it; the public function in the room above checks its
arguments, chooses the path, and holds the reference that these kernels must equal.
"""
