"""DeepSpeed's ZeRO: the flat partitions that it hands to an optimizer, and the processes that hold the others.

Nothing leads from a partition of stage 1 or 2 to ZeRO's own wrapper of the optimizer, which knows the processes, so
that is looked for among living objects. Stage 3 pads its partitions with memory that nobody has written to, and no sum
over them means anything.
"""

from __future__ import annotations

import sys
from typing import Any

from torch import Tensor, distributed

from proxmom.torch.flattened import alive

# where the wrappers are, and what they call their partitions
_WRAPPERS = {
    "deepspeed.runtime.zero.stage_1_and_2": ("DeepSpeedZeroOptimizer", "single_partition_of_fp32_groups"),
    "deepspeed.runtime.bf16_optimizer": ("BF16_Optimizer", "fp32_groups_flat_partition"),
}


def group_of(tensor: Tensor) -> Any:
    """The processes among which ZeRO cut what this is a partition of; None where it is none.

    Raises:
        RuntimeError: for a partition of stage 3.
    """
    if not several():
        return None
    if hasattr(tensor, "ds_id"):
        raise RuntimeError(
            "parameters must not be partitions of DeepSpeed's ZeRO-3, got one: it has padding that was never written "
            "to, and would enter the inner products. Use ZeRO stage 1 or 2, or fully_shard (FSDP2)."
        )
    if type(tensor) is not Tensor:  # partitions are no Parameters
        return None
    for module, (kind, partitions) in _WRAPPERS.items():
        if module in sys.modules:
            for wrapper in alive(getattr(sys.modules[module], kind)):
                for partition, group in zip(getattr(wrapper, partitions), wrapper.real_dp_process_group, strict=False):
                    if partition is tensor:
                        return group
    return None


def several() -> bool:
    """Whether there are several processes."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
