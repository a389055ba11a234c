"""What the rigs of loops by hand have in common: the loop."""

import peakhold


class LoopRig:
    """A rig gives `prepare(callbacks, **params)`, `step(epoch, batch)`, `explode()` and its weights."""

    lib, suffix = peakhold, ".safetensors"
    first_epoch = 0
    """How the hooks are told of epochs; what a rig is asked for and tells counts from 0."""

    def __init__(self):
        self.rebuild()

    def saver(self, path, **arguments):
        return peakhold.ModelCheckpoint(path, **arguments)

    def rate_setter(self, rates):
        rig = self

        class SetsRate(peakhold.Callback):
            def on_epoch_begin(self, epoch, logs=None):
                if epoch in rates:
                    rig.set_rate(rates[epoch])

        return SetsRate()

    def run(
        self,
        callbacks,
        curves,
        epochs,
        *,
        start=0,
        verbose=0,
        explode_at=None,
        raise_at=None,
        loss_nan_at=None,
    ):
        self.at, self.epochs_run, self.logs, self.batches_run = {}, [], [], 0
        run = self.prepare(callbacks, epochs=epochs, verbose=verbose, first_epoch=self.first_epoch)
        run.on_train_begin()
        for epoch in range(start, epochs):
            run.on_epoch_begin(epoch + self.first_epoch)
            for batch in range(4):
                if epoch == raise_at:
                    raise ZeroDivisionError
                run.on_train_batch_begin(batch)
                loss = self.step(batch)
                if epoch == explode_at and batch == 3:
                    self.explode()
                if epoch == loss_nan_at:
                    loss = loss * float("nan")
                self.batches_run += 1
                run.on_train_batch_end(batch, {"loss": loss})
                if run.stop_training:
                    break
            logs = {"loss": loss}
            for name, values in curves.items():
                if epoch < len(values) and values[epoch] is not None:
                    logs[name] = values[epoch]
            self.epochs_run.append(epoch)
            self.at[epoch] = self.weights()
            run.on_epoch_end(epoch + self.first_epoch, logs)
            self.logs.append(logs)
            if run.stop_training:
                break
        run.on_train_end()

    @staticmethod
    def fingerprint(weights):
        return tuple(w.tobytes() for w in weights)

    def file_fingerprint(self, path):
        with open(path, "rb") as file:
            return file.read()
