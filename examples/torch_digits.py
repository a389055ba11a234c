"""Digits in a PyTorch loop: stop by itself, keep the best, load it again.

pip install peakhold torch scikit-learn, then python torch_digits.py
"""

import torch
from safetensors.torch import load_file
from sklearn.datasets import load_digits

from peakhold import CallbackList, CSVLogger, EarlyStopping, ModelCheckpoint, ReduceLROnPlateau

EPOCHS = 100


def parts():
    """Training, validation and test images, shuffled."""
    x, y = load_digits(return_X_y=True)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = torch.tensor(x / 16, dtype=torch.float32)[order], torch.tensor(y)[order]
    return (x[:1149], y[:1149]), (x[1149:1437], y[1149:1437]), (x[1437:], y[1437:])


@torch.no_grad()
def measure(model, x, y):
    """Loss and accuracy."""
    model.eval()
    scores = model(x)
    model.train()
    return {
        "loss": torch.nn.functional.cross_entropy(scores, y),
        "accuracy": (scores.argmax(1) == y).float().mean(),
    }


def main():
    torch.manual_seed(0)
    train, validation, test = parts()
    model = torch.nn.Sequential(
        torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Dropout(0.3), torch.nn.Linear(64, 10)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    saver = ModelCheckpoint("digits/best.safetensors", monitor="val_accuracy", save_best_only=True)
    callbacks = CallbackList(
        [
            ReduceLROnPlateau("val_accuracy", factor=0.3, patience=4),
            EarlyStopping("val_accuracy", patience=10, restore_best_weights=True),
            saver,
            CSVLogger("digits/log.csv"),
        ],
        model=model,
        optimizer=optimizer,
        epochs=EPOCHS,
    )

    callbacks.on_train_begin()
    for epoch in range(EPOCHS):
        callbacks.on_epoch_begin(epoch)
        for rows in torch.randperm(len(train[0])).split(64):
            loss = torch.nn.functional.cross_entropy(model(train[0][rows]), train[1][rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        validated = {f"val_{name}": value for name, value in measure(model, *validation).items()}
        callbacks.on_epoch_end(epoch, {"loss": loss, **validated})
        if callbacks.stop_training:
            break
    callbacks.on_train_end()

    restored = measure(model, *test)["accuracy"]
    model.load_state_dict(load_file(saver.best_path))
    loaded = measure(model, *test)["accuracy"]
    print(f"test accuracy of the restored model {restored:.4f}, of the loaded file {loaded:.4f}")
    if restored != loaded:
        raise SystemExit("they should be equal")


if __name__ == "__main__":
    main()
