"""What `rssm bench` measures, each time beside the least that this machine could need for it."""
