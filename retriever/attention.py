"""Self-attention as one step of ONNX Runtime instead of the many that a trace has."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import onnx_ir as ir

DOMAIN = "com.microsoft"  # of the steps that only ONNX Runtime has


class Projection(NamedTuple):
    """How queries, keys or values of all heads are made of what an attention is given."""

    source: "ir.Value"
    weights: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]


def pack_attention(model: "ir.Model", padding: str) -> bool:
    """Puts ONNX Runtime's Attention in the place of every self-attention that projects by three matrices; returns
    whether there were only such ones; if not, the model is of no further use.

    It multiplies with the three side by side, which reads its input once, and splits and joins heads without a copy.
    `padding` names the input (texts × tokens) that is 0 where nothing is to be seen, which takes the place of the mask
    that was traced. Whether that hid more than padding, what the model computes has to show.
    """
    import onnx_ir as ir
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    graph = model.graph
    (mask,) = (value for value in graph.inputs if value.name == padding)
    seen = ir.node("Cast", [mask], {"to": ir.DataType.INT32})
    graph.insert_before(graph[0], seen)
    graph.opset_imports[DOMAIN] = 1
    attentions = [node for node in graph if node.op_type == "Attention"]
    for traced in attentions:
        query, key, value = (_projection(heads) for heads in traced.inputs[:3])
        joined, shape = _next(_next(traced, "Transpose"), "Reshape"), traced.outputs[0].shape
        if query is None or key is None or value is None or joined is None or shape is None:
            return False
        if not query.source is key.source is value.source or not isinstance(shape[1], int):
            return False
        weights = np.concatenate([query.weights, key.weights, value.weights], axis=1)
        bias = np.concatenate([query.bias, key.bias, value.bias])
        if weights.shape[1] != 3 * query.weights.shape[1]:
            return False
        constants = [
            ir.Value(name=f"{traced.name}.weights", const_value=ir.tensor(weights)),
            ir.Value(name=f"{traced.name}.bias", const_value=ir.tensor(bias)),
        ]
        for constant in constants:
            graph.register_initializer(constant)
        packed = ir.node(
            "Attention",
            [query.source, *constants, seen.outputs[0]],
            {"num_heads": shape[1], "scale": traced.attributes.get_float("scale", 0.0)},  # 0 is the usual one
            domain=DOMAIN,
        )
        graph.insert_before(traced, packed)
        joined.outputs[0].replace_all_uses_with(packed.outputs[0])
    RemoveUnusedNodesPass()(model)
    return bool(attentions)


def _projection(heads: "ir.Value | None") -> Projection | None:
    """What was traced as source · weights + bias, reshaped to heads and transposed."""
    value, others = heads, []
    for step in ("Transpose", "Reshape", "Add", "MatMul"):
        node = None if value is None else value.producer()
        if node is None or node.op_type != step:
            return None
        value, *rest = node.inputs
        others += rest
    _, bias, weights = (None if other is None else other.const_value for other in others)
    if value is None or bias is None or weights is None:
        return None
    return Projection(value, weights.numpy(), bias.numpy())


def _next(node: "ir.Node | None", step: str) -> "ir.Node | None":
    """The only one that takes what this one gives, if it is such a step."""
    users = [] if node is None else list(node.outputs[0].consumers())
    return users[0] if len(users) == 1 and users[0].op_type == step else None
