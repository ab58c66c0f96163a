"""The figures: the tunnel and its peers, measured side by side in the same run."""
