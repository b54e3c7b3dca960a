"""The loss terms of the paper (equations 1–6), and the contrast of one clip with its own other moments.

Pure functions of tensors: no networks, no state. Every function returns a scalar, in float32 whatever the
autocast precision around it, since a cross-entropy in half precision loses the differences that training lives on.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

PUBLISHED_SYNC_WEIGHT = 0.03
"""s_w of equation 6."""
PUBLISHED_ADVERSARIAL_WEIGHT = 0.07
"""s_g of equation 6."""


def reconstruction_loss(generated: Tensor, target: Tensor) -> Tensor:
    """Equation 2: mean absolute difference of two tensors of equal shape, colours 0 to 1."""
    if generated.shape != target.shape:
        # l1_loss would broadcast, and a broadcast mean is a plausible wrong number.
        raise ValueError(
            f"generated is {tuple(generated.shape)}, target is {tuple(target.shape)}: shapes must be equal"
        )
    return F.l1_loss(generated.float(), target.float())


def cosine_bce_loss(first: Tensor, second: Tensor, in_sync: Tensor | float = 1.0) -> Tensor:
    """Binary cross-entropy of the cosine of two embeddings, read as the probability P_sync of equation 1.

    Args:
        first, second: (…, D); the cosine normalises them, so their length does not matter.
        in_sync: labels 0 to 1 that broadcast to (…): 1 in sync, 0 off sync. A number labels all pairs alike.

    The embeddings of the published expert end in a ReLU, hence their cosine is never negative. For embeddings
    without one, a negative cosine counts as 0: the loss is then at its largest, 100, and has no gradient.
    """
    cosine = F.cosine_similarity(first.float(), second.float(), dim=-1).clamp(0.0, 1.0)
    labels = torch.as_tensor(in_sync, dtype=cosine.dtype, device=cosine.device).expand_as(cosine)
    return _binary_cross_entropy(cosine, labels)


def expert_sync_loss(sound: Tensor, lip: Tensor) -> Tensor:
    """Equation 3: how far the frozen expert is from calling the generated windows in sync.

    Args:
        sound, lip: the expert's embeddings (…, D) of the sound and of the generated lower halves.
    """
    return cosine_bce_loss(sound, lip, 1.0)


def adversarial_loss(generated_scores: Tensor) -> Tensor:
    """Equation 4: the generator's term, cross-entropy of the critic's probabilities (…) to "real".

    The paper prints log(1 − D), the published code minimises −log D: the same optimum, with gradient where
    the critic is sure, which is where the generator starts.
    """
    return _binary_cross_entropy(generated_scores, torch.ones_like(generated_scores))


def discriminator_real_loss(real_scores: Tensor) -> Tensor:
    """First half of equation 5: cross-entropy of the critic's probabilities (…) on real faces to "real"."""
    return _binary_cross_entropy(real_scores, torch.ones_like(real_scores))


def discriminator_fake_loss(generated_scores: Tensor) -> Tensor:
    """Second half of equation 5: cross-entropy of its probabilities (…) on generated faces to "generated".

    Detach the faces from the generator first: this term trains the critic alone.
    """
    return _binary_cross_entropy(generated_scores, torch.zeros_like(generated_scores))


def contrastive_distance_loss(distances: Tensor, *, in_sync: bool, margin: float = 1.0) -> Tensor:
    """LipGAN's loss of distances (…) between embeddings: squared in sync, (margin − distance)₊ squared off sync."""
    short = distances.float() if in_sync else torch.relu(margin - distances.float())
    return short.square().mean()


def contrast_with_moments(lip: Tensor, sound: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of lips finding their own sound among other moments of it.

    Args:
        lip: (B, N, D) embeddings of N successive windows, of unit length.
        sound: (B, M, D), M ≥ N: the first N are the windows' own; the neighbours of a window's own count neither way.
        temperature: divides the cosines.
    """
    count = lip.shape[1]
    with torch.autocast(device_type=lip.device.type, enabled=False):
        similarity = torch.einsum("bid,bjd->bij", lip.float(), sound.float()) / temperature
    own = torch.arange(count, device=lip.device)
    near = (own[:, None] - torch.arange(sound.shape[1], device=lip.device)[None, :]).abs() == 1
    near[:, count:] = False
    similarity = similarity.masked_fill(near, float("-inf"))
    return F.cross_entropy(similarity.flatten(0, 1), own.repeat(lip.shape[0]))


def hinge_discriminator_loss(real_scores: Tensor, generated_scores: Tensor, importance: Tensor) -> Tensor:
    """Hinge loss of a discriminator by patches: mean of (1 − real)₊ and (1 + generated)₊, weighted by `importance`."""
    lost = torch.relu(1 - real_scores.float()) + torch.relu(1 + generated_scores.float())
    return (lost * importance).mean() / importance.mean() / 2


def generator_loss(
    reconstruction: Tensor,
    sync: Tensor | float = 0.0,
    adversarial: Tensor | float = 0.0,
    *,
    sync_weight: float = PUBLISHED_SYNC_WEIGHT,
    adversarial_weight: float = PUBLISHED_ADVERSARIAL_WEIGHT,
) -> Tensor:
    """Equation 6: (1 − s_w − s_g) · reconstruction + s_w · sync + s_g · adversarial."""
    if sync_weight < 0 or adversarial_weight < 0 or sync_weight + adversarial_weight > 1:
        raise ValueError(
            f"weights s_w = {sync_weight} and s_g = {adversarial_weight} must not be negative "
            "or exceed 1 together"
        )
    return (
        (1.0 - sync_weight - adversarial_weight) * reconstruction
        + sync_weight * sync
        + adversarial_weight * adversarial
    )


def contrastive_sync_loss(
    lip: Tensor, sound: Tensor, temperature: Tensor | float = 0.07, ignore_within: int = 1
) -> Tensor:
    """Symmetric cross-entropy over all moments of a clip: lips find their own sound, and sound its own lips.

    The positive of position i is the sound of position i; its negatives are the sounds of all other positions
    of the same clip, except the neighbours i ± 1 … i ± `ignore_within`, which count neither way: people
    tolerate a shift of one frame, and footage has such shifts. Other clips are no negatives, so the speaker,
    the room and the loudness tell nothing: only what changes within the clip does.

    Args:
        lip, sound: (B, N, D) embeddings of N successive frames of B clips, of unit length.
        temperature: divides the cosines; a number or a (learnable) scalar tensor, > 0.
        ignore_within: neighbours left out on each side, in frames.

    Returns:
        The mean over both directions, all positions and all clips; an expert that answers the same to
        everything scores the mean of ln(number of candidates), about ln(N − 2 · ignore_within).
    """
    if lip.shape != sound.shape or lip.ndim != 3:
        raise ValueError(
            f"lip {tuple(lip.shape)} and sound {tuple(sound.shape)} must be of one shape "
            "(clips, frames, dimensions)"
        )
    num_frames = lip.shape[1]
    if num_frames < ignore_within + 2:
        raise ValueError(
            f"{num_frames} frames a clip leave no negative when neighbours within {ignore_within} are ignored"
        )
    with torch.autocast(device_type=lip.device.type, enabled=False):
        similarity = torch.einsum("bid,bjd->bij", lip.float(), sound.float()) / temperature
    position = torch.arange(num_frames, device=lip.device)
    distance = (position[:, None] - position[None, :]).abs()
    ignored = (distance > 0) & (distance <= ignore_within)
    # A position in the middle of a very short clip may have no negative left: it then has one candidate and loss 0.
    similarity = similarity.masked_fill(ignored, float("-inf"))
    labels = position.expand(lip.shape[0], -1)
    to_sound = F.cross_entropy(similarity.transpose(1, 2), labels)  # classes on dim 1: over sounds
    to_lip = F.cross_entropy(similarity, labels)  # over lips
    return (to_sound + to_lip) / 2


def _binary_cross_entropy(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of probabilities, logarithms held at −100 as torch does; legal under autocast."""
    with torch.autocast(device_type=probabilities.device.type, enabled=False):
        return F.binary_cross_entropy(probabilities.float(), labels.float())
