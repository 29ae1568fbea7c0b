"""How fast back-propagation is here, operation by operation, checked before it is timed."""
