"""Torch's compiler stays out of a process until something needs it."""

import subprocess
import sys

PROGRAM = """
import sys, torch
from ssl_runner.runtime.compiler_aside import leave_compiler_out
leave_compiler_out()
weight = torch.nn.Parameter(torch.ones(2))
for kind in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW):
    optimizer = kind([weight], lr=0.1)
    weight.grad = torch.ones(2)
    optimizer.step()
    optimizer.zero_grad()
    optimizer.load_state_dict(optimizer.state_dict())
print("torch._dynamo.eval_frame" in sys.modules, torch.is_grad_enabled())
slope = torch.func.vmap(torch.func.grad(lambda x: (weight.sum() * x**2).sin()))(torch.arange(3.0))
(second,) = torch.autograd.grad(slope.sum(), weight)
print(slope.shape, second.shape, "torch._dynamo.eval_frame" in sys.modules)
compiled = torch.compile(lambda x: x.sin() + 1, backend="eager")
print(torch.allclose(compiled(weight), weight.sin() + 1), "torch._dynamo.eval_frame" in sys.modules)
optimizer.step()
optimizer.zero_grad()
print(type(sys.modules["torch._dynamo"]).__name__, torch._dynamo is sys.modules["torch._dynamo"])
import torch._dynamo.config
print(torch._dynamo.config.verbose)
print(torch.allclose(torch.func.grad(torch.sin)(torch.tensor(1.0)), torch.cos(torch.tensor(1.0))))
"""


def test_optimizers_and_inner_gradients_work_without_the_compiler_and_compiling_brings_it():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    inner = "torch.Size([3]) torch.Size([2]) False"
    assert done.stdout.splitlines() == ["False True", inner, "True True", "module True", "False", "True"]


def test_asking_more_of_compiled_autograd_brings_the_compiler():
    program = """
import sys, torch
from ssl_runner.runtime.compiler_aside import leave_compiler_out
leave_compiler_out()
aside = torch._dynamo.compiled_autograd
print("torch._dynamo.eval_frame" in sys.modules, aside.in_compiled_autograd_region)
print(torch._dynamo.compiled_autograd is sys.modules["torch._dynamo.compiled_autograd"] is not aside)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["False False", "True"]
