"""Losses against what they are defined as, against open_clip's, in chunks, and on two ranks against one."""

import os
from pathlib import Path

import open_clip
import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor
from torch.nn import functional as F

from mobileclip.losses import TEACHER_SCALE, Features, Objective, objective

OBJECTIVES = {
    "clip": Objective(chunk=1000),
    "clip chunked": Objective(chunk=3),
    "joint": Objective(joint=True, chunk=4),
    "siglip": Objective(kind="siglip", chunk=5),
    "siglip joint": Objective(kind="siglip", joint=True, chunk=5),
    "half distilled": Objective(distill=0.5, chunk=5),
    "distilled": Objective(distill=1.0, chunk=1000),
}


def unit(*shape: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


def features(n: int = 12, m: int = 2, *, dups: bool = True) -> Features:
    """A batch with, if asked, two equal captions, two equal images and an absent caption."""
    hashes = torch.arange(n * m).view(n, m)
    ids = torch.arange(n) + 1000
    weight = torch.rand(n, m, generator=torch.Generator().manual_seed(9), dtype=torch.float64) + 0.5
    if dups:
        hashes[7, 0] = hashes[2, 0]
        ids[10] = ids[1]
        weight[5, m - 1] = 0
    teachers = [unit(n, 8, seed=3), unit(n, 8, seed=4)], [unit(n, m, 8, seed=5), unit(n, m, 8, seed=6)]
    return Features(
        image=unit(n, 16, seed=1),
        text=unit(n, m, 16, seed=2),
        weight=weight if dups else torch.ones(n, m, dtype=torch.float64),
        text_hash=hashes,
        image_id=ids,
        teacher_image=torch.cat(teachers[0], -1),
        teacher_text=torch.cat(teachers[1], -1),
    )


SCALE, BIAS = torch.tensor(14.0, dtype=torch.float64), torch.tensor(-3.0, dtype=torch.float64)


def value_and_grads(what: Objective, f: Features) -> tuple[Tensor, list[Tensor]]:
    leaves = [x.clone().requires_grad_() for x in (f.image, f.text, SCALE, BIAS)]
    batch = Features(**{**vars(f), "image": leaves[0], "text": leaves[1]})
    loss, _ = objective(what, batch, leaves[2], leaves[3])
    loss.backward()
    return loss.detach(), [x.grad if x.grad is not None else torch.zeros_like(x) for x in leaves]


def test_clip_is_open_clips() -> None:
    f = features(m=1, dups=False)
    loss, _ = objective(Objective(), f, SCALE)
    theirs = open_clip.ClipLoss()(f.image.float(), f.text[:, 0].float(), SCALE.float())
    assert abs(float(loss) - float(theirs)) < 1e-5


def test_siglip_is_open_clips() -> None:
    f = features(m=1, dups=False)
    loss, _ = objective(Objective(kind="siglip"), f, SCALE, BIAS)
    theirs = open_clip.loss.SigLipLoss()(f.image.float(), f.text[:, 0].float(), SCALE.float(), BIAS.float())
    assert abs(float(loss) - float(theirs)) < 1e-5


def test_several_captions_are_summed() -> None:
    f = features()
    both, _ = objective(Objective(), f, SCALE)
    alone = sum(float(objective(Objective(), f.caption(m), SCALE)[0]) for m in range(2))
    assert abs(float(both) - alone) < 1e-12


def test_duplicates_are_no_negatives_and_absent_captions_do_not_count() -> None:
    f = features().caption(0)
    logits = SCALE * f.image @ f.text[:, 0].T
    mask = torch.zeros_like(logits, dtype=torch.bool)
    for i, j in ((2, 7), (1, 10)):
        mask[i, j] = mask[j, i] = True
    logits = logits.masked_fill(mask, float("-inf"))
    target = torch.arange(12)
    rows = [F.cross_entropy(x, target, reduction="none") for x in (logits, logits.T)]
    expected = sum((r * f.weight[:, 0]).sum() / f.weight[:, 0].sum() for r in rows) / 2
    assert abs(float(objective(Objective(), f, SCALE)[0]) - float(expected)) < 1e-12
    absent = features().caption(1)
    noise = absent.text.clone()
    noise[5] = unit(1, 16, seed=77)
    changed = Features(**{**vars(absent), "text": noise})
    assert float(objective(Objective(), absent, SCALE)[0]) == pytest.approx(
        float(objective(Objective(), changed, SCALE)[0]), abs=1e-12
    )


def test_joint_is_cross_entropy_to_the_weights_of_ones_own_captions() -> None:
    f = features(dups=False)
    f = Features(**{**vars(f), "weight": features().weight.clamp_min(0.1)})
    texts = f.text.flatten(0, 1)
    log_p = (SCALE * f.image @ texts.T).log_softmax(1).view(12, 12, 2)
    own = torch.stack([log_p[i, i] for i in range(12)])
    to_text = -(own * f.weight).sum(1) / f.weight.sum(1)
    row = f.weight.amax(1)
    to_image = F.cross_entropy(SCALE * texts @ f.image.T, torch.arange(12).repeat_interleave(2), reduction="none")
    expected = (to_text * row).sum() / row.sum() + (to_image * f.weight.flatten()).sum() / f.weight.sum()
    assert abs(float(objective(Objective(joint=True), f, SCALE)[0]) - float(expected) / 2) < 1e-12


def test_distillation_is_the_mean_divergence_from_each_teacher() -> None:
    f = features(m=1, dups=False)
    assert f.teacher_image is not None
    assert f.teacher_text is not None
    expected = torch.zeros((), dtype=torch.float64)
    student = SCALE * f.image @ f.text[:, 0].T
    for part in (slice(0, 8), slice(8, 16)):
        teacher = TEACHER_SCALE * f.teacher_image[:, part] @ f.teacher_text[:, 0, part].T
        for s, t in ((student, teacher), (student.T, teacher.T)):
            expected += F.kl_div(s.log_softmax(1), t.softmax(1), reduction="batchmean") / 4
    assert abs(float(objective(Objective(distill=1.0), f, SCALE)[0]) - float(expected)) < 1e-5


def test_a_student_that_equals_its_teachers_has_no_distillation_loss() -> None:
    f = features(m=1, dups=False)
    same = Features(
        **{**vars(f), "teacher_image": f.image.repeat(1, 2), "teacher_text": f.text.repeat(1, 1, 2)},
    )
    loss, _ = objective(Objective(distill=1.0), same, torch.tensor(TEACHER_SCALE, dtype=torch.float64))
    assert abs(float(loss)) < 1e-6


@pytest.mark.parametrize("name", OBJECTIVES)
def test_chunks_change_nothing(name: str) -> None:
    what = OBJECTIVES[name]
    whole = Objective(**{**vars(what), "chunk": 10_000})
    (a, grads), (b, others) = value_and_grads(what, features()), value_and_grads(whole, features())
    torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
    for x, y in zip(grads, others, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-7)


def test_a_chunked_loss_never_holds_the_whole_matrix() -> None:
    n = 2048
    image, text = (F.normalize(torch.randn(n, 8), dim=-1).requires_grad_() for _ in range(2))
    f = Features(
        image=image,
        text=text[:, None],
        weight=torch.ones(n, 1),
        text_hash=torch.arange(n)[:, None],
        image_id=torch.arange(n),
    )
    largest = 0

    def pack(x: Tensor) -> Tensor:
        nonlocal largest
        largest = max(largest, x.untyped_storage().nbytes())
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss, _ = objective(Objective(chunk=64), f, torch.tensor(10.0))
    assert largest <= 4 * n * 64
    loss.backward()
    assert image.grad is not None


def run_rank(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank))
    store = torch.distributed.FileStore(f"{folder}/store", world)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=world)
    out = {}
    for name, what in OBJECTIVES.items():
        f = features()
        part = slice(rank * 6, rank * 6 + 6)
        mine = Features(**{key: None if value is None else value[part] for key, value in vars(f).items()})
        value, grads = value_and_grads(what, mine)
        out[name] = (value, grads)
    torch.save(out, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, tuple[Tensor, list[Tensor]]]]:
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(run_rank, args=(2, str(folder)), nprocs=2)
    return [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_two_ranks_equal_one(name: str, ranks: list[dict[str, tuple[Tensor, list[Tensor]]]]) -> None:
    value, grads = value_and_grads(OBJECTIVES[name], features())
    mean = sum(part[name][0] for part in ranks) / 2
    torch.testing.assert_close(mean, value, rtol=1e-6, atol=1e-6)
    for index in range(4):
        parts = [part[name][1][index] for part in ranks]
        # DDP averages the ranks' gradients; those of a sample are on the rank that has it
        got = (torch.cat(parts) if index < 2 else parts[0] + parts[1]) / 2
        torch.testing.assert_close(got, grads[index], rtol=1e-5, atol=1e-6)
