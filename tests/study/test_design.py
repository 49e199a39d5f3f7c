from dataclasses import replace

import pytest

from gptlab.errors import ConfigError
from gptlab.model.position import RoPE
from gptlab.model.size import measure
from gptlab.study.design import design, marks, match_parameters
from gptlab.study.study_file import read_study


@pytest.fixture
def made(tiny_recipe, tmp_path):
    def make(variants, head="", step_s=1.0, checked=True):
        file = tmp_path / "study.toml"
        file.write_text(
            f'base = "{tiny_recipe}"\nseeds = [1, 2]\n{head}\n[[variant]]\nname = "GPT-2"\n{variants}'
        )
        return design(read_study(file), lambda name, config: step_s, checked=checked)

    return make


ROPE = '[[variant]]\nname = "RoPE"\nmodel.position = "rope"\n'


def test_variants_differ_in_their_keys_alone_and_share_seeds(made):
    gpt2, rope = made(ROPE, "[budget]\ntokens = 5000")
    assert gpt2.steps == rope.steps == 19  # of 256 tokens
    assert gpt2.tokens == 19 * 256
    one, other = gpt2.run_config(7), rope.run_config(7)
    assert (one.train.seed, one.data.seed, one.order_seed) == (7, 7, 7)
    assert other == replace(one, model=replace(one.model, position="rope"))
    assert rope.run_config(7, lr=1e-5).optim.lr == 1e-5


def test_a_budget_in_flops_or_hours_is_rounded_down(made):
    gpt2, _ = made(ROPE, "[budget]\nflops = 1e9")
    step = 256 * measure(gpt2.config.model).flops_per_token
    assert gpt2.steps == int(1e9 // step)
    assert made(ROPE, "[budget]\nhours = 0.01", step_s=1.7)[0].steps == 21  # 36 s of 1.7 s
    assert made(ROPE)[0].steps == 12, "without a budget, the recipe's own"
    with pytest.raises(ConfigError, match="pays for no step"):
        made(ROPE, "[budget]\ntokens = 100")
    with pytest.raises(
        ConfigError, match=r"variant GPT-2: schedule.warmup_steps = 2 is longer than train.steps = 1"
    ):
        made(ROPE, "[budget]\ntokens = 300")


@pytest.mark.parametrize("mlp", ["gelu", "swiglu", "relu2"])
@pytest.mark.parametrize("n_kv_head", [1, 4])
def test_matched_parameters_are_the_closest_there_are(mlp, n_kv_head, made):
    (gpt2,) = made("")
    model = replace(gpt2.config.model, n_embd=64, mlp=mlp, n_kv_head=n_kv_head, n_hidden=40)
    wanted = 90_000
    matched, said = match_parameters(replace(gpt2.config, model=model), wanted)

    def off(hidden):
        return abs(measure(replace(model, n_hidden=hidden)).parameters - wanted)

    assert off(matched.model.mlp_width) == min(map(off, range(8, 1024, 8)))
    assert f"{measure(matched.model).parameters:,}" in said


def test_variants_of_other_text_are_refused(made, tiny_data):
    with pytest.raises(ConfigError, match=r"variant B: eval.limit is 3, the baseline's is 7"):
        made('[[variant]]\nname = "B"\neval.limit = 3\n')
    with pytest.raises(ConfigError, match=r"variant B: data.path"):
        made('[[variant]]\nname = "B"\ndata.path = "elsewhere"\n')
    arms = made('[[variant]]\nname = "B"\nmodel.context = 16\n')
    assert marks(arms) == ["model.context differs: GPT-2 32, B 16"]


def test_variants_of_another_size_are_marked(made):
    small, large = made('[[variant]]\nname = "B"\nmodel.n_hidden = 400\n')
    assert marks([small]) == marks([small, small]) == []
    (said,) = marks([small, large])
    assert said.startswith("parameters differ: GPT-2 ")
    assert ", B " in said


def test_a_key_that_is_wrong_is_named_with_its_variant(made):
    with pytest.raises(ConfigError, match=r"variant RoPE: model.position"):
        made(ROPE.replace('"rope"', '"ropes"'))


def test_rotating_by_head_is_refused_before_anything_runs(made, monkeypatch):
    rotate = RoPE.rotate
    # The published mistake: heads in the place of time.
    by_head = lambda self, x, start: rotate(self, x.transpose(1, 2), 0).transpose(1, 2)  # noqa: E731
    monkeypatch.setattr(RoPE, "rotate", by_head)
    with pytest.raises(ConfigError, match=r"variant RoPE: fails gptlab check"):
        made(ROPE, checked=False)


@pytest.mark.parametrize(
    ("head", "complaint"),
    [
        ('tune = ["0x", "1x"]', "variant GPT-2: .*lr = 0"),
        ('tune = ["1x", 0.01]', "two of these are the same rate"),
        ("tune = [1e-3]\n[budget]\ntune = 0.1", "a run of the search has 1 steps at 0.001"),
    ],
)
def test_a_search_that_cannot_be_trained_is_refused(head, complaint, made):
    with pytest.raises(ConfigError, match=complaint):
        made(ROPE, head)
