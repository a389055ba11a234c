"""Digits with a Keras model in a loop with `GradientTape`.

pip install 'peakhold[keras]' tensorflow scikit-learn, then python tape_digits.py. Kill it and start
it again: it goes on. When it has ended, remove the folder digits/tape to train anew.
"""

import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

import keras
from peakhold import Run

EPOCHS = 60


def main():
    keras.utils.set_random_seed(0)
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order].astype("float32") / 16, y[order]
    batches = tf.data.Dataset.from_tensor_slices((x[:1152], y[:1152])).batch(64)
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(10),
        ]
    )
    optimizer = keras.optimizers.Adam(3e-3)
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    @tf.function
    def step(xs, ys):
        with tf.GradientTape() as tape:
            loss = loss_of(ys, model(xs, training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss

    def accuracy(rows):
        return float(np.mean(np.argmax(model(x[rows]), 1) == y[rows]))

    with Run(
        "digits/tape", model=model, optimizer=optimizer, monitor="val_accuracy", patience=8
    ) as run:
        for _ in run.epochs(EPOCHS):
            for xs, ys in run.batches(batches):
                run.log(loss=step(xs, ys))
            run.log(val_accuracy=accuracy(slice(1152, 1440)))

    restored = accuracy(slice(1152, 1440))
    print(f"restored: val_accuracy {restored:.5f}, test accuracy {accuracy(slice(1440, None)):.5f}")
    if restored != run.best.value:
        raise SystemExit(f"the best epoch had val_accuracy {run.best.value:.5f}")


if __name__ == "__main__":
    main()
