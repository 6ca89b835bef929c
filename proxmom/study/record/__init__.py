"""What a run leaves behind: its directory, why it ended, where it was made, and which of several is the best."""
