"""Running what is missing of a study, on this computer, on a cluster, or by all processes of torchrun."""
