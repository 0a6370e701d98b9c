"""The names and call forms of the method's research code, on this engine.

A script written for that code runs here when its imports are changed to this module. What differs
on purpose: everything is reproducible; the clustering that is scored is the one that is used; where
that code fails (a curve without a knee, filters in place of weights) there is a documented result;
boxes are compared in the coordinates of the network's input; and a channel that is zeroed puts out
0, its BatchNorm included.
"""

from .clustering import (
    calc_mss_value,
    find_optimal_weighted_medoids,
    get_knee,
    kmedoids_fasterpam,
    select_optimal_components,
)
from .detection import (
    DetectionMatch,
    aggregate_activations_from_matches,
    process_sample_for_layer_idx_v8,
)
from .layers import (
    extract_bn_gamma,
    extract_conv_weights_norm,
    prune_conv2d_in_block_with_activations,
)
from .space import YoloLayerPruner, bhattacharyya_distance, jm_distance

__all__ = [
    "DetectionMatch",
    "YoloLayerPruner",
    "aggregate_activations_from_matches",
    "bhattacharyya_distance",
    "calc_mss_value",
    "extract_bn_gamma",
    "extract_conv_weights_norm",
    "find_optimal_weighted_medoids",
    "get_knee",
    "jm_distance",
    "kmedoids_fasterpam",
    "process_sample_for_layer_idx_v8",
    "prune_conv2d_in_block_with_activations",
    "select_optimal_components",
]
