"""The situations of the battery: small federations, each with one thing that could go wrong."""

from support import (
    AMOUNTS,
    DP_SGD,
    GRADES,
    JOINT,
    TIMES,
)

OPTIMIZERS = {
    "sgd": {"optimizer": "sgd", "learning_rate": 0.1},
    "momentum": {"optimizer": "momentum", "learning_rate": 0.03},
    "adam": {"optimizer": "adam", "learning_rate": 0.02},
}
FILES = {
    "ragged": {},
    "alone": {"sizes": [61]},
    "uneven": {"sizes": [6, 90]},
    "three classes": {"sizes": [40, 25, 33], "classes": 3},
    "one-sided": {"sizes": [20, 30, 24]},
}
SITUATIONS = {
    "two local epochs": ("ragged", {"local_epochs": 2}),
    "adam, two local epochs": ("ragged", {**OPTIMIZERS["adam"], "local_epochs": 2}),
    "one clinic, adam": ("alone", OPTIMIZERS["adam"]),
    "fewer records than a batch": ("ragged", {"batch_size": 30, "learning_rate": 0.3}),
    "uneven sizes": ("uneven", {}),
    "half of the clinics, adam": ("ragged", {"participation": 0.5, "rounds": 4, **OPTIMIZERS["adam"]}),
    "a clinic of one class": ("one-sided", {}),
    "two classes by softmax": ("ragged", {"model": {"head": "softmax"}}),
    "three weighted classes": ("three classes", {"class_weights": [0.5, 1.0, 4.0]}),
    "dp-sgd": ("ragged", {"privacy": DP_SGD}),
    "dp-sgd, weight decay, cosine": ("ragged", {"privacy": DP_SGD, "weight_decay": 0.4, "schedule": "cosine"}),
    "dp-sgd, clipped jointly, weight decay": ("ragged", {"privacy": JOINT, "weight_decay": 0.4}),
    "dp-sgd, clipped jointly": ("ragged", {"privacy": JOINT}),
    "dp-sgd, half of the clinics, momentum, two local epochs": (
        "ragged",
        {"privacy": DP_SGD, "participation": 0.5, "local_epochs": 2, **OPTIMIZERS["momentum"]},
    ),
    "dp-sgd, a clinic of one class, weighted classes": (
        "one-sided",
        {"privacy": DP_SGD, "class_weights": [1.0, 4.0]},
    ),
}
SITUATIONS |= {
    "times": ("times", {"records": TIMES}),
    "times, adam": ("times", {"records": TIMES, **OPTIMIZERS["adam"]}),
    "dp-sgd, times": ("times", {"records": TIMES, "privacy": DP_SGD}),
    "dp-sgd, times, clipped jointly": ("times", {"records": TIMES, "privacy": JOINT}),
}
SITUATIONS |= {
    "amounts": ("amounts", {"records": AMOUNTS}),
    "amounts, huber": ("amounts", {"records": AMOUNTS, "loss": "huber", "huber_delta": 0.8}),
    "amounts, quantile": ("amounts", {"records": AMOUNTS, "loss": "quantile", "quantile": 0.7, "learning_rate": 0.3}),
    "dp-sgd, amounts": ("amounts", {"records": AMOUNTS, "privacy": DP_SGD}),
    "dp-sgd, amounts, clipped jointly": ("amounts", {"records": AMOUNTS, "privacy": JOINT}),
}
SITUATIONS |= {
    "grades": ("three classes", {"records": GRADES}),
    "dp-sgd, grades, clipped jointly": ("three classes", {"records": GRADES, "privacy": JOINT}),
}
SITUATIONS |= {
    "sparse rows": ("ragged", {"smashed_top_k": 0.4}),
    "dp-sgd, sparse rows, clipped jointly": ("ragged", {"smashed_top_k": 0.4, "privacy": JOINT}),
}
