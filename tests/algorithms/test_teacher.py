"""A teacher that is a moving average."""

import pytest
import torch
from torch import nn

from ssl_runner.algorithms.teacher import follow, teacher_of
from ssl_runner.models.network import Encoder, Network
from ssl_runner.models.vit import ViT


def transformer() -> Network:
    torch.manual_seed(0)
    return Network(Encoder(ViT(1, 8, "tiny", 4, drop_path=0.5), (1, 8, 8), [0.5], [0.5]), nn.Identity())


def test_a_teacher_computes_all_blocks_while_its_student_drops_some():
    student = transformer().train()
    teacher, images = teacher_of(student), torch.rand(16, 1, 8, 8)
    assert torch.equal(teacher(images), teacher(images))
    assert not torch.equal(student(images), student(images))
    torch.testing.assert_close(teacher(images), student.eval()(images))
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_a_teacher_follows_parameters_by_its_momentum_and_leaves_buffers_alone():
    student = Network(Encoder(nn.BatchNorm2d(3), (3, 2, 2), [0.0] * 3, [1.0] * 3), nn.Identity())
    teacher = teacher_of(student)
    with torch.no_grad():
        for value in student.parameters():
            value.add_(1)
    student(torch.rand(4, 3, 2, 2))
    before = [value.clone() for value in teacher.parameters()]
    follow(teacher, student, 0.75)
    for mean, old, value in zip(teacher.parameters(), before, student.parameters(), strict=True):
        torch.testing.assert_close(mean, 0.75 * old + 0.25 * value)
    assert teacher.encoder.backbone.running_mean.tolist() == pytest.approx([0.0] * 3)
