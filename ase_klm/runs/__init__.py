"""What all tools that move spins share: the state on the device, observers, checked input."""
