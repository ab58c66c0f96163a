"""Cost as work grows: time and memory of the tunnel against what there is to do."""
