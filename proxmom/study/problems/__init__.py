"""What is minimised: functions with gradient, start, smoothness constant and certified optimum, and their data."""
