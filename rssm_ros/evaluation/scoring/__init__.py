"""From ticks to figures: measures with intervals, and the scorecard that holds them."""
