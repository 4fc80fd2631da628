"""Closed loops: what nodes leave behind of a run, what it was worth, and learned policies without ROS."""
