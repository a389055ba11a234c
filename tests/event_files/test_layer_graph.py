"""The graph of a model's layers, read by TensorBoard's own protobuf classes."""

import json

from tensorboard.compat.proto.graph_pb2 import GraphDef

from peakhold.tensorboard.layer_graph import layer_graph


def layer(name, kind, *sources, **config):
    """A layer as Keras puts it into `to_json()`, called with the results of others."""
    tensors = [
        {"class_name": "__keras_tensor__", "config": {"keras_history": [source, 0, 0]}}
        for source in sources
    ]
    calls = [{"args": tensors if len(tensors) == 1 else [tensors], "kwargs": {}}]
    return {
        "class_name": kind,
        "config": {"name": name, **config},
        "inbound_nodes": calls if sources else [],
    }


def functional(name, layers, ins, outs, *sources):
    return layer(name, "Functional", *sources, layers=layers, input_layers=ins, output_layers=outs)


def sequential(name, *layers):
    plain = [{k: v for k, v in one.items() if k != "inbound_nodes"} for one in layers]
    return {"class_name": "Sequential", "config": {"name": name, "layers": plain}}


def edges(config):
    graph = GraphDef.FromString(layer_graph(json.dumps(config)))
    assert all(node.op == node.attr["keras_class"].s.decode() for node in graph.node)
    return {node.name: (node.op, list(node.input)) for node in graph.node}


def test_layers_of_a_sequential_model_follow_one_another():
    net = sequential("s", layer("in", "InputLayer"), layer("a", "Dense"), layer("b", "Dense"))

    assert edges(net) == {
        "s/in": ("InputLayer", []),
        "s/a": ("Dense", ["s/in"]),
        "s/b": ("Dense", ["s/a"]),
    }


def test_branches_meet_and_a_shared_layer_has_both_of_its_sources():
    net = functional(
        "f",
        [
            layer("x", "InputLayer"),
            layer("y", "InputLayer"),
            layer("a", "Dense", "x"),
            layer("b", "Dense", "y"),
            layer("sum", "Add", "a", "b"),
        ],
        [["x", 0, 0], ["y", 0, 0]],
        ["sum", 0, 0],
    )
    net["config"]["layers"][2]["inbound_nodes"] *= 2  # called twice

    assert edges(net) == {
        "f/x": ("InputLayer", []),
        "f/y": ("InputLayer", []),
        "f/a": ("Dense", ["f/x"]),
        "f/b": ("Dense", ["f/y"]),
        "f/sum": ("Add", ["f/a", "f/b"]),
    }


def test_edges_go_into_models_and_out_of_them():
    inner = functional(
        "inner",
        [
            layer("p", "InputLayer"),
            layer("q", "InputLayer"),
            layer("join", "Concatenate", "p", "q"),
            layer("other", "Dense", "q"),
        ],
        {"first": ["p", 0, 0], "second": ["q", 0, 0]},
        [["join", 0, 0], ["other", 0, 0]],
        "x", "y",
    )  # fmt: skip
    tail = sequential("tail", layer("d", "Dense"))
    tail["inbound_nodes"] = layer("", "", "inner")["inbound_nodes"]
    net = functional(
        "outer",
        [
            layer("x", "InputLayer"),
            layer("y", "InputLayer"),
            inner,
            tail,
            layer("z", "Dense", "tail"),
        ],
        [["x", 0, 0], ["y", 0, 0]],
        [["z", 0, 0]],
    )
    found = edges(net)

    assert found["outer/inner/p"] == ("InputLayer", ["outer/x"])
    assert found["outer/inner/q"] == ("InputLayer", ["outer/y"])
    assert found["outer/tail/d"] == ("Dense", ["outer/inner/join", "outer/inner/other"])
    assert found["outer/z"] == ("Dense", ["outer/tail/d"])


def test_a_users_layer_may_call_anything_layers():
    net = sequential("s", layer("mine", "Mine", layers=[64, 32]), layer("b", "Dense"))

    assert edges(net) == {"s/mine": ("Mine", []), "s/b": ("Dense", ["s/mine"])}
