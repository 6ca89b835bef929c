"""The machinery of fair comparisons: studies, their runs, and what is read from them."""
