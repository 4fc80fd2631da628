"""What people read: the scorecard as a page, its words, tables and plots, and comparisons."""
