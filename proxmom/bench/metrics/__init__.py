"""What a step costs in each metric, in tensors and in seconds: `proxmom bench --metrics`.

`contenders` says who takes part, `steps` measures torch, `vector` NumPy, `page` writes the tables. torch is imported by
`steps` only.
"""
