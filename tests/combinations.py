"""Every loss and every arrangement of views, and which of them fit together."""

from pathlib import Path

CONF = Path(__file__).parents[1] / "conf"

ARRANGEMENTS = {
    "contrastive": ["algorithm=contrastive"],
    "predictive": ["algorithm=stop_gradient"],
    "predictive, queue": ["algorithm=stop_gradient", "algorithm.queue_size=64"],
    "momentum": ["algorithm=momentum"],
    "momentum, queue": ["algorithm=momentum", "algorithm.queue_size=64"],
    "prototypes": ["algorithm=prototypes", "algorithm.prototypes=20"],
    "prototypes, queue": ["algorithm=prototypes", "algorithm.prototypes=20", "algorithm.queue_size=64"],
    "supervised": ["algorithm=supervised", "batching=labelled", "model/head=linear"],
}
PAIRS = {"contrastive"}
BRANCHES = {"predictive", "momentum"}
WITH_QUEUE = {"predictive, queue", "momentum, queue"}

# loss: the arrangements that it learns in, and whether it takes more than two views
FITS: dict[str, tuple[set[str], bool]] = {
    "nt_xent": (PAIRS, False),
    "debiased": (PAIRS, False),
    "hard_negative": (PAIRS, False),
    "ring": (PAIRS, False),
    "dcl": (PAIRS, False),
    "dclw": (PAIRS, False),
    "supcon": (PAIRS, True),
    "triplet": (PAIRS, True),
    "pairwise": (PAIRS, True),
    "multi_similarity": (PAIRS, True),
    "barlow_twins": (PAIRS, False),
    "vicreg": (PAIRS, False),
    "w_mse": (PAIRS, False),
    "sigreg": (PAIRS, True),
    "alignment_uniformity": (PAIRS, True),
    "info_nce": (BRANCHES | WITH_QUEUE, True),
    "negative_cosine": (BRANCHES, True),
    "dino": (BRANCHES, True),
    "nnclr": (WITH_QUEUE, True),
    "mochi": (WITH_QUEUE, True),
    "psco": (WITH_QUEUE, True),
    "swav": ({"prototypes", "prototypes, queue"}, True),
    "cross_entropy": ({"supervised"}, False),
    "relation_mse": ({"supervised"}, False),
    "koleo": (PAIRS, True),
    "mse": (set(), False),
    "smooth_l1": (set(), False),
    "patch_cross_entropy": (set(), False),
}
OF_LOGITS = {"cross_entropy", "relation_mse"}
OF_PATCHES = {"mse", "smooth_l1", "patch_cross_entropy"}  # of algorithm=masked, whose methods are in small_vits

SMALL = [
    "model.encoder.width=4",
    "dataset=digits",
    "dataset.size=16",
    "batching.batch_size=32",
    "eval=[]",
    "baselines=[]",
    "trainer.max_epochs=null",
    "trainer.max_steps=2",
    "trainer.precision=float32",
]
