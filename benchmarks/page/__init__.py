"""What the documentation shows of measurements: docs/measured/, made from their JSON."""
