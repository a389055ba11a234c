"""The layers of a Keras model as a graph that TensorBoard draws.

TensorBoard opens its page of graphs on the graph of a run, which TensorFlow writes while it traces;
without one the page says that it failed. This one is made from the model's configuration, on every
backend: a node for each layer, nested models as scopes, an edge for each tensor between layers.

Numbers of fields are those of TensorFlow's `graph.proto`, `node_def.proto` and `attr_value.proto`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from peakhold.tensorboard.proto import delimited
from peakhold.trees import leaf_list

__all__ = ["layer_graph"]


def layer_graph(config: str) -> bytes:
    """A serialized `GraphDef` of a functional or sequential model.

    Args:
        config: The JSON of `model.to_json()`.
    """
    return b"".join(_nodes(json.loads(config), "", []))


def _nodes(model: Mapping[str, Any], scope: str, feeds: list[str]) -> Iterator[bytes]:
    """Each layer of a model as a `GraphDef.node`; `feeds`: nodes that feed the model's inputs."""
    name = _name(model, scope)
    layers = _layers(model)
    outputs = {layer["config"]["name"]: _outputs(layer, name) for layer in layers}
    inputs = _listed(model["config"].get("input_layers"))
    before: list[str] = []
    for index, layer in enumerate(layers):
        of = layer["config"]["name"]
        sources = [node for source in _sources(layer) for node in outputs.get(source, ())]
        if of in inputs:
            at = inputs.index(of)
            sources += feeds[at : at + 1] if len(inputs) == len(feeds) else feeds
        elif "inbound_nodes" not in layer:  # of a sequential model
            sources = before if index else feeds
        before = outputs[of]
        if _layers(layer):
            yield from _nodes(layer, name, sources)
        else:
            yield _node(_name(layer, name), str(layer.get("class_name")), sources)


def _node(name: str, kind: str, sources: list[str]) -> bytes:
    node = delimited(1, name.encode()) + delimited(2, kind.encode())
    node += b"".join(delimited(3, source.encode()) for source in dict.fromkeys(sources))
    attribute = delimited(1, b"keras_class") + delimited(2, delimited(2, kind.encode()))
    return delimited(1, node + delimited(5, attribute))


def _layers(layer: Mapping[str, Any]) -> list[Any]:
    """The layers of a model; nothing for any other layer."""
    layers = layer["config"].get("layers")
    return layers if isinstance(layers, list) and all(map(_is_layer, layers)) else []


def _is_layer(one: Any) -> bool:
    """A layer of a user's own may call its numbers "layers"."""
    config = one.get("config") if isinstance(one, Mapping) else None
    return isinstance(config, Mapping) and "name" in config


def _name(layer: Mapping[str, Any], scope: str) -> str:
    name = str(layer["config"]["name"])
    return f"{scope}/{name}" if scope else name


def _outputs(layer: Mapping[str, Any], scope: str) -> list[str]:
    """The nodes that a layer's results come from: in a model, those of its last layers."""
    layers = _layers(layer)
    if not layers:
        return [_name(layer, scope)]
    last = _listed(layer["config"].get("output_layers")) or [layers[-1]["config"]["name"]]
    inner = {one["config"]["name"]: one for one in layers}
    return [
        node
        for name in last
        if name in inner
        for node in _outputs(inner[name], _name(layer, scope))
    ]


def _listed(ends: Any) -> list[str]:
    """Names in `[name, 0, 0]`, in a list or dict of such, nested or not."""
    return [end[0] for end in leaf_list(ends, _is_end) if _is_end(end)]


def _is_end(tree: Any) -> bool:
    return isinstance(tree, list) and tree != [] and isinstance(tree[0], str)


def _sources(layer: Mapping[str, Any]) -> list[str]:
    """Names of the layers whose results a layer is called with, in order."""
    found = leaf_list(layer.get("inbound_nodes"), _is_tensor)
    return [str(tensor["keras_history"][0]) for tensor in found if _is_tensor(tensor)]


def _is_tensor(tree: Any) -> bool:
    history = tree.get("keras_history") if isinstance(tree, Mapping) else None
    return isinstance(history, list) and history != []
