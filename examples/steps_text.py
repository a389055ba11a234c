"""A small language model, trained in steps instead of epochs: it learns to write Python's Zen.

pip install peakhold torch, then python steps_text.py. Kill it and start it again: it goes on behind
the last batch that a checkpoint has. When it has ended, remove the folder text/steps to train anew.
"""

import codecs
import contextlib
import io

import torch

from peakhold import Every, Run

STEPS, CHECK_EVERY = 400, 50
CONTEXT, WIDTH = 24, 48


def text():
    """A text that each Python has."""
    with contextlib.redirect_stdout(io.StringIO()):
        import this
    return codecs.decode(this.s, "rot13")


class Rows(torch.utils.data.Dataset):
    """Each place of a text, with what comes next."""

    def __init__(self, tokens):
        self.tokens = tokens

    def __len__(self):
        return len(self.tokens) - CONTEXT

    def __getitem__(self, place):
        row = self.tokens[place : place + CONTEXT + 1]
        return row[:-1], row[1:]

    def all(self):
        """All of them, as one batch."""
        return (
            torch.stack(one) for one in zip(*map(self.__getitem__, range(len(self))), strict=True)
        )


class Model(torch.nn.Module):
    """Reads from left to right."""

    def __init__(self, n_letters):
        super().__init__()
        self.letters = torch.nn.Embedding(n_letters, WIDTH)
        self.reads = torch.nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.rest = torch.nn.Sequential(torch.nn.Dropout(0.1), torch.nn.Linear(WIDTH, n_letters))

    def forward(self, rows):
        return self.rest(self.reads(self.letters(rows))[0])


def loss_of(model, rows, following):
    return torch.nn.functional.cross_entropy(model(rows).flatten(0, 1), following.flatten())


@torch.no_grad()
def evaluate(model, rows):
    """The loss on text that is not trained on."""
    model.eval()
    loss = loss_of(model, *rows.all())
    model.train()
    return loss


def main():
    torch.manual_seed(0)
    letters = sorted(set(text()))
    tokens = torch.tensor([letters.index(one) for one in text()])
    train, held_out = Rows(tokens[:700]), Rows(tokens[700:])
    model = Model(len(letters))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=STEPS)
    loader = torch.utils.data.DataLoader(train, batch_size=32, shuffle=True)

    with Run(
        "text/steps",
        model=model,
        optimizer=optimizer,
        extra={"schedule": schedule},
        monitor="val_loss",
        patience=2,
        save_every=Every(batches=100),
    ) as run:
        for rows, following in run.steps(loader, STEPS):
            loss = loss_of(model, rows, following)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            run.log(loss=loss)
            if run.every(steps=CHECK_EVERY):
                run.check(val_loss=evaluate(model, held_out))

    print(f"best check {run.best.epoch + 1}, val_loss {run.best.value:.3f}; {run.stopped_because}")
    if evaluate(model, held_out).item() != run.best.value:
        raise SystemExit("the model should have its best weights")


if __name__ == "__main__":
    main()
