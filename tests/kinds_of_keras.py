"""Kinds of Keras models, as `kinds_of_state.py` has those of loops."""

import numpy as np

import keras
import peakhold
import peakhold.keras
from kinds_of_state import Kind

OF = "Models of Keras"
X = np.linspace(-1, 1, 32).reshape(8, 4).astype("float32")
Y = X[:, :1]


class KerasModel:
    """A model that is trained a batch an epoch."""

    suffix = ".weights.h5"

    def __init__(self, build, *, x=X, y=Y, ready=True):
        self.model, self.x, self.y = build(), x, y
        if ready and not self.model.built:
            self.model.train_on_batch(self.x, self.y)
            self.model, model = build(), self.model
            del model
        # What it holds is looked at, not how a step is compiled; JAX compiles it, for there a
        # compiled step takes the memory of what was before it.
        self.model.run_eagerly = keras.backend.backend() == "tensorflow"

    def callbacks(self, callbacks, **params):
        return peakhold.keras.CallbackList(callbacks, model=self.model, **params)

    def epoch(self, number):
        self.model.train_on_batch(self.x + number if self.x.dtype.kind == "f" else self.x, self.y)

    def parts(self):
        host = peakhold.keras.host_for(self.model)
        parts = host.snapshot(["weights", "optimizer"])
        # Names of optimizers' variables count what a process has built.
        return {"weights": parts["weights"], "optimizer": list(parts["optimizer"].values())}

    def give_back(self, parts):
        optimizer = dict(enumerate(parts["optimizer"]))
        host = peakhold.keras.host_for(self.model)
        host.restore({"weights": parts["weights"], "optimizer": optimizer})

    def read(self, path):
        kept = self.parts()
        for variable in self.model.weights:
            variable.assign(keras.ops.zeros(variable.shape, variable.dtype))
        self.model.load_weights(path)
        for one, other in zip(self.parts()["weights"], kept["weights"], strict=True):
            np.testing.assert_array_equal(one, other)


def compiled(model, optimizer="adam", **kwargs):
    model.compile(optimizer, "mse", **kwargs)
    return model


def dense(**kwargs):
    return compiled(
        keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(1)]),
        **kwargs,
    )


def quantized():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(1)])
    model.quantize("int8")
    return compiled(model)


def with_policy(policy, **kwargs):
    layers = [keras.layers.Dense(3, dtype=policy), keras.layers.Dense(1, dtype="float32")]
    return compiled(keras.Sequential([keras.Input((4,)), *layers]), **kwargs)


class Masked(keras.layers.Layer):
    """Adds a mask of minus infinity, as attention does; it never changes."""

    def build(self, shape):
        mask = np.triu(np.full((3, 3), -np.inf, "float32"), 1)
        self.mask = self.add_weight(shape=(3, 3), trainable=False, name="mask")
        self.mask.assign(mask)

    def call(self, x):
        return x + keras.ops.sum(keras.ops.softmax(self.mask), 0)


class Quiet(keras.layers.Layer):
    """A head that nobody calls: it never says that it is built."""

    def call(self, x):
        return x


class Headed(keras.Model):
    def __init__(self):
        super().__init__()
        self.used = keras.layers.Dense(1)
        self.unused = Quiet()
        self.head = keras.layers.Dense(2)

    def build(self, shape):
        self.used.build((None, 4))
        self.built = True

    def call(self, x):
        return self.used(x)


class Gan(keras.Model):
    """Two optimizers, each for a part of the model, in a dict and an attribute."""

    def __init__(self):
        super().__init__()
        self.discriminator = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        self.generator = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])

    def compile(self):
        super().compile(loss="mse")
        self.first = keras.optimizers.Adam(0.01)
        self.others = {"second": keras.optimizers.RMSprop(0.01)}

    def train_on_batch(self, x, y):
        pairs = ((self.first, self.discriminator), (self.others["second"], self.generator))
        for number, (optimizer, part) in enumerate(pairs):
            variables = part.trainable_variables
            gradients = [
                keras.ops.ones(v.shape, v.dtype) * (float(x[0, 0]) + number) for v in variables
            ]
            optimizer.apply(gradients, variables)

    def call(self, x):
        return self.discriminator(self.generator(x))


def gan():
    model = Gan()
    model.compile()
    return model


def text_model():
    words = keras.layers.TextVectorization(output_sequence_length=4, vocabulary=["a", "b"])
    model = keras.Sequential(
        [words, keras.layers.Embedding(5, 2), keras.layers.Flatten(), keras.layers.Dense(1)]
    )
    return compiled(model)


class Reader(keras.Model):
    """Holds the layer that made numbers of its words: that one's table never says it is built."""

    def __init__(self):
        super().__init__()
        self.words = keras.layers.TextVectorization(output_sequence_length=4, vocabulary=["a", "b"])
        self.embedding = keras.layers.Embedding(5, 2)
        self.head = keras.layers.Dense(1)

    def build(self, shape):
        self.embedding.build((None, 4))
        self.head.build((None, 8))
        self.built = True

    def call(self, x):
        return self.head(keras.ops.reshape(self.embedding(x), (-1, 8)))


def reader():
    return compiled(Reader())


def built_reader():
    model = Reader()
    model.build((None, 4))
    return compiled(model)


def headed():
    model = Headed()
    model.build((None, 4))
    return compiled(model)


MODELS = {
    "dense layers, Adam": lambda: KerasModel(dense),
    "bfloat16 weights": lambda: KerasModel(lambda: with_policy("bfloat16")),
    "mixed_bfloat16": lambda: KerasModel(lambda: with_policy("mixed_bfloat16")),
    "float16 with a LossScaleOptimizer": lambda: KerasModel(
        lambda: with_policy(
            "mixed_float16", optimizer=keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam())
        )
    ),
    "layers quantized to int8": lambda: KerasModel(quantized),
    "a mask of -inf": lambda: KerasModel(
        lambda: compiled(
            keras.Sequential(
                [keras.Input((4,)), keras.layers.Dense(3), Masked(), keras.layers.Dense(1)]
            )
        )
    ),
    "BatchNormalization and Dropout": lambda: KerasModel(
        lambda: compiled(
            keras.Sequential(
                [
                    keras.Input((4,)),
                    keras.layers.Dense(3),
                    keras.layers.BatchNormalization(),
                    keras.layers.Dropout(0.5, seed=1),
                    keras.layers.Dense(1),
                ]
            )
        )
    ),
    "several optimizers, as a GAN": lambda: KerasModel(gan, ready=False),
    "a head that is never built": lambda: KerasModel(headed),
    "a TextVectorization, never built": lambda: KerasModel(
        built_reader, x=np.array([[2, 3, 0, 0], [3, 0, 0, 0]]), y=Y[:2]
    ),
    "gradients accumulated over 2 batches": lambda: KerasModel(
        lambda: dense(optimizer=keras.optimizers.Adam(gradient_accumulation_steps=2))
    ),
    "moving averages (use_ema)": lambda: KerasModel(
        lambda: dense(optimizer=keras.optimizers.SGD(0.1, momentum=0.9, use_ema=True))
    ),
}

KERAS_KINDS = [Kind(name, start, OF, "gan") for name, start in MODELS.items()]
