"""What people watch: beliefs drawn into pictures, frame by frame."""
