"""`rssm faults`: streams disturbed on purpose, and what the filter makes of them."""
