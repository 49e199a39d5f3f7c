import itertools
import subprocess
import sys

import pytest
import torch

from gptlab.model.gpt import GPT, NORM_ORDERS, ModelConfig
from gptlab.model.mlp import MLPS
from gptlab.model.norm import NORMS
from gptlab.model.position import POSITIONS
from gptlab.model.unset import ShapesOnly, Unset

SMALL = {"n_layer": 2, "n_head": 2, "n_embd": 16, "context": 8, "vocab_size": 11}


def configs():
    for norm, order, position, mlp in itertools.product(NORMS, NORM_ORDERS, POSITIONS, MLPS):
        yield ModelConfig(**SMALL, norm=norm, norm_order=order, position=position, mlp=mlp)


def shapes(model):
    tensors = [*model.state_dict().items(), *model.named_buffers()]
    return {name: (tensor.shape, tensor.dtype, tensor.device.type) for name, tensor in tensors}


@pytest.mark.parametrize("tied", [True, False])
def test_shapes_are_those_of_torchs_own_meta_device(tied):
    for config in configs():
        config = ModelConfig(**{**vars(config), "tie_embeddings": tied})
        with ShapesOnly():
            found = GPT(config)
        with torch.device("meta"):
            right = GPT(config)
        assert shapes(found) == shapes(right)


def test_an_unset_model_is_the_one_that_it_is_loaded_with():
    for config in configs():
        right = GPT(config)
        before = torch.random.get_rng_state()
        with Unset():
            found = GPT(config)
        assert torch.equal(torch.random.get_rng_state(), before)
        found.load_state_dict(right.state_dict())
        for (_, ours), (_, theirs) in zip(found.named_buffers(), right.named_buffers(), strict=True):
            assert torch.equal(ours, theirs)


def test_counting_a_model_does_not_import_the_compiler():
    script = "from gptlab.model.size import measure; from gptlab.model.gpt import ModelConfig; import sys\n"
    script += "measure(ModelConfig(position='rope')); measure(ModelConfig()); assert 'torch._dynamo' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
