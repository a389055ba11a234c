"""Digits in a PyTorch loop: stop by itself, keep the best, load it again.

pip install peakhold torch scikit-learn, then python torch_digits.py. Kill it and start it again: it
goes on. When it has ended, remove the folder digits/torch to train anew.
"""

import torch
from safetensors.torch import load_file
from sklearn.datasets import load_digits

from peakhold import Run

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
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(*train), batch_size=64, shuffle=True
    )

    with Run(
        "digits/torch", model=model, optimizer=optimizer, monitor="val_accuracy", patience=10
    ) as run:
        for _ in run.epochs(EPOCHS):
            for x, y in run.batches(loader):
                loss = torch.nn.functional.cross_entropy(model(x), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                run.log(loss=loss)
            run.log(**{f"val_{name}": one for name, one in measure(model, *validation).items()})

    restored = measure(model, *test)["accuracy"]
    model.load_state_dict(load_file(run.best.path))
    loaded = measure(model, *test)["accuracy"]
    print(f"test accuracy of the restored model {restored:.4f}, of the loaded file {loaded:.4f}")
    if restored != loaded:
        raise SystemExit("they should be equal")


if __name__ == "__main__":
    main()
