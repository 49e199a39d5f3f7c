"""`gptlab lm-eval`."""

from typing import Any

LM_EVAL_HELP = """usage: gptlab lm-eval [-h] ARGS ...

Hand arguments to lm-evaluation-harness's own command line, which then knows the model `gptlab`.

  gptlab lm-eval --model gptlab --model_args path=runs/x,dtype=float32 --tasks arc_easy,piqa

`gptlab lm-eval run --help` tells them. A model argument is path, a run, a checkpoint or a Hugging Face folder;
dtype, float32, bfloat16 or float16; and device, cpu or cuda. Sizes of batches are chosen by gptlab."""


def run(*words: str) -> dict[str, Any]:
    """Hand arguments to lm-evaluation-harness's own command line, which then knows the model `gptlab`.

    Args:
        words: as `gptlab lm-eval run --help` tells them, with `--model gptlab --model_args path=MODEL,dtype=float32`.
    """
    if words[:1] in (("-h",), ("--help",)):
        print(LM_EVAL_HELP)
        return {}
    from gptlab.evaluate import lm_eval

    return lm_eval(words)
