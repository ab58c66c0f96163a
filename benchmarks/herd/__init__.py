"""A fleet that loses its server: how the clients of various policies come back, simulated."""
