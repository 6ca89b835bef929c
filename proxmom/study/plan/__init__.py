"""What a study file asks for, checked: problems, methods, points, and the runs that they make."""
