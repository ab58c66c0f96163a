"""Programs that measure and strain the tunnel: ``python -m benchmarks NAME``. Not installed."""
