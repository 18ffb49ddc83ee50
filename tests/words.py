"""Overrides that several test modules share."""

# A classic run of a second on a few hundred rows, with four clusters and without pictures.
SMALL_RUN = (
    *("model.hidden=[16]", "recipe=classic", "pretrain.epochs=2", "joint.epochs=2", "joint.tolerance=0"),
    *("clustering.n_clusters=4", "clustering.n_init=2"),
    *("log.progress=off", "log.figures=false", "log.report=false", "log.tensorboard=false"),
)
