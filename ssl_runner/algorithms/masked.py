"""A student that predicts what is hidden from it: MAE, SimMIM, I-JEPA, data2vec, iBOT, DINOv2 and what lies between."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ssl_runner.algorithms.algorithm import Algorithm, Step
from ssl_runner.algorithms.patch_targets import PatchTarget, Whole
from ssl_runner.algorithms.precision import at_least_float32
from ssl_runner.algorithms.teacher import follow, freeze_prototypes, refuse_freeze, refuse_momentum, teacher_of
from ssl_runner.algorithms.views import embed_views
from ssl_runner.config.targets import locate
from ssl_runner.data.batches import Views
from ssl_runner.data.masking.masking import Masks
from ssl_runner.errors import InvalidValue
from ssl_runner.losses.loss import Embeddings, Loss, Patches, gathered
from ssl_runner.models.depths import depths
from ssl_runner.models.network import Encoder, Network
from ssl_runner.models.patches import Grid, take
from ssl_runner.models.predictors import Predictor
from ssl_runner.models.vit import Tokens, ViT, vit_of
from ssl_runner.optim.rates import layer_factors, with_factors
from ssl_runner.optim.schedules import half_cosine, straight
from ssl_runner.runtime.step_context import StepContext

PredictorFactory = Callable[[int, int, Grid], Predictor]


class Masked(Algorithm):
    """Masked prediction, the arrangement of several methods: what is hidden (`masking`), what is predicted (`target`),
    by what (`predictor`) and how it is told (`loss`) are chosen one by one.

    - MAE (He et al. 2021, arXiv:2111.06377): random masks, dropped; normalised pixels; a transformer; MSE.
    - SimMIM (Xie et al. 2021, arXiv:2111.09886): random squares, replaced; pixels; a linear layer; absolute difference.
    - I-JEPA (Assran et al. 2023, arXiv:2301.08243): multi-block masks, dropped; the teacher's patches; a narrow
      transformer; smooth L1.
    - data2vec (Baevski et al. 2022, arXiv:2202.03555; 2.0: arXiv:2212.07525): block masks; the mean of the teacher's
      blocks.
    - iBOT (Zhou et al. 2021, arXiv:2111.07832) and DINOv2 (Oquab et al. 2023, arXiv:2304.07193): block masks, replaced;
      prototypes; no predictor but the head; cross-entropy; with DINO's loss between views.

    The teacher, if the target or a loss between views needs one, sees the global views with nothing hidden. It is the
    moving average of the student's encoder and head, without drop-path.

    Args:
        target: What is predicted.
        predictor: Predicts it from the student's tokens; null where the head gives the scores of prototypes.
        hidden: ``dropped`` patches are not computed at all; ``replaced`` ones by a learned token.
        image_loss: A loss between the head's outputs for the class tokens of all views, such as DINO's, or null. Local
            views are not masked.
        image_weight: Its factor, at least 0.
        feature_loss: A loss of the class tokens of the global views before the head, such as KoLeo's, or null.
        feature_weight: Its factor, at least 0.
        momentum: The teacher's momentum at the first step, in [0, 1].
        final_momentum: At the last step.
        momentum_schedule: In between: half a ``cosine`` (iBOT, DINOv2), or ``linear`` (I-JEPA; data2vec 2.0 for a part
            of the run, after which it stays).
        freeze_share: Share of the run, from its start, during which the head's prototypes keep their initial values.
        product: ``student`` or ``teacher``: whose encoder is exported and evaluated.
        layer_decay: Factor of the learning rate with each layer of the encoder from its output down, in (0, 1]
            (`ssl_runner.optim.rates.layer_factors`). Predictor and head have the whole rate.
        patch_embed_lr: A further factor for the embedding of patches, above 0.
    """

    batch_type = Views
    supports_accumulation = False

    def __init__(
        self,
        network: Network,
        loss: Loss,
        target: PatchTarget,
        predictor: PredictorFactory | None,
        hidden: Literal["dropped", "replaced"],
        image_loss: Loss | None,
        image_weight: float,
        feature_loss: Loss | None,
        feature_weight: float,
        momentum: float,
        final_momentum: float,
        freeze_share: float,
        product: Literal["student", "teacher"],
        momentum_schedule: Literal["cosine", "linear"],
        layer_decay: float,
        patch_embed_lr: float,
    ) -> None:
        super().__init__(network)
        encoder = self.encoder
        if hidden not in ("dropped", "replaced") or product not in ("student", "teacher"):
            raise InvalidValue(f"hidden={hidden!r}, product={product!r}; give dropped or replaced, student or teacher")
        refuse_momentum(momentum, final_momentum)
        refuse_freeze(freeze_share, network)
        if momentum_schedule not in ("cosine", "linear"):
            raise InvalidValue(f"momentum_schedule={momentum_schedule!r} is not one of cosine, linear")
        if min(image_weight, feature_weight) < 0:
            raise InvalidValue(f"image_weight={image_weight}, feature_weight={feature_weight}; give at least 0")
        self.loss, self.target, self.hidden = loss, target, hidden
        self.image_loss, self.image_weight = image_loss, image_weight
        self.feature_loss, self.feature_weight = feature_loss, feature_weight
        width = target.width(network, encoder, network.encoder.input_shape[0])
        self.predictor = None if predictor is None else predictor(encoder.width, width, encoder.grid)
        self._refuse_misfits()
        self.mask_token = nn.Parameter(torch.empty(encoder.width).normal_(std=0.02)) if hidden == "replaced" else None
        needed = target.needs_teacher or (image_loss is not None and "target" in image_loss.needs)
        self.teacher = teacher_of(network) if needed else None
        self.momentum, self.final_momentum = momentum, final_momentum
        self.freeze_share, self.product = freeze_share, product
        self.schedule = straight if momentum_schedule == "linear" else half_cosine
        self.layer_decay, self.patch_embed_lr = layer_decay, patch_embed_lr
        self._layer_factors()  # refuses numbers out of range

    @classmethod
    def provided(cls, arguments: Mapping[str, Any]) -> frozenset[str]:
        target = arguments["target"]
        scores = isinstance(target, Mapping) and getattr(locate(target["_target_"]), "of_prototypes", False)
        return frozenset({"patches", "patch_scores"} if scores else {"patches"})

    @property
    def encoder(self) -> ViT:
        """The student's transformer."""
        return vit_of(self.network.encoder.backbone)

    def training_step(self, batch: Views, context: StepContext) -> Step:
        masks, views = batch.masks, batch.crops[0]
        freeze_prototypes(self.network, self.freeze_share, context)
        student, whole = self._branches(views, masks)
        loss, metrics, carry = whole.images.new_zeros(()), {}, {}
        if masks is not None:
            patches = self._patches(student, whole, masks)
            loss, metrics = self.loss(Embeddings(student.prefix[None, :, 0], patches=patches), context)
            metrics = metrics | {"patch_loss": loss.detach()}
            carry = self._scores(patches, masks)
        if self.image_loss is not None:
            image, told, target = self._between_views(student, whole, batch, context)
            loss = loss + self.image_weight * image
            metrics |= {"image_loss": image.detach()} | {f"image/{name}": value for name, value in told.items()}
            if target is not None and self.image_loss.remembers:
                carry["target"] = target.transpose(0, 1)
        if self.feature_loss is not None:
            cls = student.prefix[:, 0].unflatten(0, (len(views), -1, views.shape[1]))[:, 0]
            spread, told = self.feature_loss(gathered(Embeddings(cls)), context)
            loss = loss + self.feature_weight * spread
            metrics |= {"feature_loss": spread.detach()} | {f"feature/{name}": value for name, value in told.items()}
        return Step(loss, metrics, carry)

    @torch.no_grad()
    def after_step(self, context: StepContext, carry: dict[str, Tensor]) -> None:
        if self.teacher is not None:
            follow(self.teacher, self.network, self.momentum_at(context))
        if "total" in carry:
            count = carry["count"].sum()
            mean = carry["total"].sum(dim=0) / count.clamp_min(1)
            # where no mask of the batch hides anything, the center stays where it is
            self.loss.after_step(context, torch.where(count > 0, mean, getattr(self.loss, "center", 0.0))[None, None])
        if "target" in carry and self.image_loss is not None:
            self.image_loss.after_step(context, carry["target"].transpose(0, 1))

    def less_memory(self, accumulate: int) -> str:
        return "lower batching.batch_size, or masking.masks where there are several"

    def momentum_at(self, context: StepContext) -> float:
        """The teacher's momentum after this step."""
        return self.schedule(self.momentum, self.final_momentum, context.progress)

    def parameter_groups(self) -> list[dict[str, Any]]:
        groups = super().parameter_groups()
        if self.layer_decay == self.patch_embed_lr == 1:
            return groups
        factors = self._layer_factors()
        if self.mask_token is not None:  # it stands where patches do
            factors[id(self.mask_token)] = factors[id(self.encoder.body.cls_token)]
        return with_factors(groups, factors)

    def _layer_factors(self) -> dict[int, float]:
        """The factor of the learning rate of each of the encoder's parameters, by ``id``."""
        encoder = self.network.encoder
        by_name = layer_factors(*depths(encoder), self.layer_decay, self.patch_embed_lr)
        return {id(parameter): by_name[name] for name, parameter in encoder.named_parameters()}

    def eval_encoder(self) -> Encoder:
        return self._product().encoder

    def embedding(self, images: Tensor) -> Tensor:
        return self._product()(images)

    def branches(self) -> dict[str, nn.Module]:
        return {} if self.teacher is None else {"student": self.network, "teacher": self.teacher}

    def hidden_patches(self, views: Tensor, masks: Masks) -> Embeddings:
        """What the loss sees of the hidden patches of views (V, B, C, H, W), one row for each of (V, M, B) masks."""
        student, whole = self._branches(views, masks)
        return Embeddings(student.prefix[None, :, 0], patches=self._patches(student, whole, masks))

    def _branches(self, views: Tensor, masks: Masks | None) -> tuple[Tokens, Whole]:
        """The student's tokens of views (V, B, C, H, W), and what nothing hides."""
        images = self.network.encoder.prepare(views.flatten(0, 1))  # (V * B, C, H, W)
        with torch.no_grad():
            whole = Whole(images, self._teacher_tokens(images), self.teacher)
        return self._student(images.unflatten(0, views.shape[:2]), masks), whole

    def _pooled(self, tokens: Tokens) -> Tensor:
        """What the encoder makes of an image's tokens."""
        return self.encoder.pooled(torch.cat([tokens.prefix, tokens.patches], dim=1))

    def _refuse_misfits(self) -> None:
        """Raises ValueError for a predictor that cannot predict the target, or a head that cannot take the features."""
        if self.predictor is None and not self.target.of_prototypes:
            raise InvalidValue(
                f"predictor=null, but the head gives no {type(self.target).__name__} of a patch; choose "
                "algorithm/predictor=transformer or linear"
            )
        if self.predictor is not None and self.target.of_prototypes:
            raise InvalidValue("the head gives the scores of prototypes; set algorithm.predictor=null")
        if self.target.of_prototypes and not hasattr(self.network.head, "prototypes"):
            raise InvalidValue(
                f"the target is scores of prototypes, but {type(self.network.head).__name__} has none; choose "
                "model/head=dino"
            )
        if self.image_loss is not None and self.encoder.n_layers > 1:
            raise InvalidValue(
                f"model.encoder.layers={self.encoder.n_layers}, but a loss between views sees the last one; set it to "
                "1, or algorithm.image_loss=null"
            )
        if self.predictor is None and self.encoder.out_features != self.encoder.width:
            raise InvalidValue(
                f"the head reads an image's features ({self.encoder.out_features}) and a patch's "
                f"({self.encoder.width}); set model.encoder.features=cls or mean, and layers=1"
            )
        reads = self.predictor is None or self.predictor.reads_hidden
        if reads and self.hidden == "dropped":
            reader = "the head" if self.predictor is None else type(self.predictor).__name__
            raise InvalidValue(
                f"hidden=dropped, but {reader} reads the tokens at hidden places, which are not computed then; set "
                "algorithm.hidden=replaced, or choose algorithm/predictor=transformer"
            )

    def _product(self) -> Network:
        return self.teacher if self.product == "teacher" and self.teacher is not None else self.network

    def _student(self, images: Tensor, masks: Masks | None) -> Tokens:
        """Tokens of images (V, B, C, H, W), one row for each of (V, M, B) masks, or for each image without masks."""
        if masks is None:
            return self.encoder.tokens(images.flatten(0, 1))
        repeated = images[:, None].expand(-1, masks.hidden.shape[1], *images.shape[1:]).flatten(0, 2)
        if self.hidden == "replaced":
            return self.encoder.tokens(repeated, hidden=masks.hidden.flatten(0, 2), mask_token=self.mask_token)
        assert masks.visible is not None
        return self.encoder.tokens(repeated, visible=masks.visible.flatten(0, 2))

    def _teacher_tokens(self, images: Tensor) -> Tokens | None:
        if self.teacher is None:
            return None
        return vit_of(self.teacher.encoder.backbone).tokens(images, layers=self.target.layers)

    def _patches(self, student: Tokens, whole: Whole, masks: Masks) -> Patches:
        """Predictions and targets, one row for each of (V, M, B) masks."""
        n_masks, groups = masks.targets.shape[1], masks.targets.flatten(0, 2)  # (V * M * B, Q, P)
        visible = masks.visible.flatten(0, 2) if self.hidden == "dropped" and masks.visible is not None else None
        if self.predictor is None:
            read = take(student.patches, groups.flatten(1))
            predicted = self.network.head(read.flatten(0, 1)).unflatten(0, read.shape[:2])
        else:
            predicted = self.predictor(student, visible, groups).flatten(1, 2)
        with torch.no_grad():  # (V, M, B, Q * P) -> (V * B, M * Q * P): the teacher sees an image once for all masks
            places = masks.targets.flatten(3).transpose(1, 2).flatten(0, 1).flatten(1)
            target = self.target(whole, places, self.encoder)
            split = target.unflatten(1, (n_masks, -1)).unflatten(0, (len(masks.targets), -1))
            target = split.transpose(1, 2).flatten(0, 2)
        return Patches(predicted, target, masks.weights.flatten(0, 2).flatten(1))

    def _scores(self, patches: Patches, masks: Masks) -> dict[str, Tensor]:
        """What `after_step` needs for a center of patches: sums (B, K) and counts (B, 1) of each image's targets."""
        if not (self.target.of_prototypes and self.loss.remembers):
            return {}
        target = patches.target.to(torch.promote_types(patches.target.dtype, torch.float32))
        counted = (patches.weights > 0).to(target.dtype)
        rows = masks.hidden.shape[:3]
        with at_least_float32(target.device):  # autocast would round the sums to half precision
            total = torch.einsum("rp,rpk->rk", counted, target).unflatten(0, rows).sum(dim=(0, 1))
        return {"total": total, "count": counted.sum(dim=1, keepdim=True).unflatten(0, rows).sum(dim=(0, 1))}

    def _between_views(
        self, student: Tokens, whole: Whole, batch: Views, context: StepContext
    ) -> tuple[Tensor, dict[str, Tensor], Tensor | None]:
        """The loss between views, its metrics, and the teacher's outputs (V, B, K)."""
        assert self.image_loss is not None
        n_global, n_images = batch.crops[0].shape[:2]
        online = self.network.head(self._pooled(student)).unflatten(0, (n_global, n_images))
        if len(batch.crops) > 1:
            online = torch.cat([online, embed_views(self.network, batch.crops[1:])])
        target = None
        if "target" in self.image_loss.needs and whole.tokens is not None and whole.teacher is not None:
            with torch.no_grad():
                target = whole.teacher.head(self._pooled(whole.tokens)).unflatten(0, (n_global, n_images))
        seen = Embeddings(online, target=target, labels=batch.labels, global_views=n_global)
        loss, metrics = self.image_loss(gathered(seen), context)
        return loss, metrics, target
