"""P8: TensorBoard in front of the other callbacks, with everything that it can show of weights."""

import keras
from event_reader import opened, steps, tags
from keras_helpers import fit, model
from peakhold.keras import CSVLogger, EarlyStopping, ModelCheckpoint, ReduceLROnPlateau, TensorBoard


def test_p8_the_stack_with_tensorboard_in_front(tmp_path):
    log_dir = str(tmp_path / "logs")
    net = model("adam")
    history = fit(
        net,
        [
            TensorBoard(
                log_dir=log_dir, histogram_freq=1, write_graph=True, write_images=True,
                update_freq="epoch",
            ),
            ReduceLROnPlateau(monitor="val_loss", factor=0.5, patience=1, min_delta=10),
            EarlyStopping(monitor="val_loss", patience=3, min_delta=10, restore_best_weights=True),
            ModelCheckpoint(tmp_path / "best.keras", monitor="val_loss", save_best_only=True),
            CSVLogger(tmp_path / "log.csv"),
        ],
        20,
    )  # fmt: skip
    train, validation = opened(f"{log_dir}/train"), opened(f"{log_dir}/validation")
    epochs = list(range(len(history.epoch)))

    assert len(epochs) < 20
    assert steps(train, "epoch_loss") == steps(validation, "epoch_loss") == epochs
    assert {f"{w.path}/histogram" for w in net.weights} <= tags(train)
    assert {f"{w.path}/image" for w in net.weights if w.shape != (1,)} <= tags(train)
    assert "keras" in tags(train)
    assert keras.models.load_model(tmp_path / "best.keras").count_params() == net.count_params()
