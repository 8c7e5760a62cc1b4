"""All operators that the importer knows; importing this module fills the table."""

from mpqc.frontend import ops_compare, ops_conv, ops_elementwise, ops_index, ops_norm, ops_pool, ops_recurrent, ops_reduce, ops_resize, ops_shape
from mpqc.frontend.registry import OPS, check_complete

check_complete()
__all__ = [
    "OPS",
    "ops_compare",
    "ops_conv",
    "ops_elementwise",
    "ops_index",
    "ops_norm",
    "ops_pool",
    "ops_recurrent",
    "ops_reduce",
    "ops_resize",
    "ops_shape",
]
