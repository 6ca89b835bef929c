"""One method on one problem, every gradient counted: rules, SciPy's methods, and baselines of the literature."""
