"""The unconstrained problems of the literature: published formulas, customary starts, the minima these lead to."""
