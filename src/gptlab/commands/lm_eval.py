"""`gptlab lm-eval`."""

from typing import Any

LM_EVAL_HELP = """usage: gptlab lm-eval [-h] ARGS ...

Run lm-evaluation-harness's own command line, with the model `gptlab` available.

  gptlab lm-eval --model gptlab --model_args path=runs/x,dtype=float32 --tasks arc_easy,piqa

`gptlab lm-eval run --help` lists them. The model arguments are path, a run (its best checkpoint), a checkpoint or
a Hugging Face folder; dtype, float32, bfloat16 or float16; and device, cpu, cuda or mps. gptlab chooses the batch
size."""


def run(*words: str) -> dict[str, Any]:
    """Run lm-evaluation-harness's own command line, with the model `gptlab` available.

    Args:
        words: as `gptlab lm-eval run --help` lists them, with `--model gptlab --model_args path=MODEL,dtype=float32`.
    """
    if words[:1] in (("-h",), ("--help",)):
        print(LM_EVAL_HELP)
        return {}
    from gptlab.actions.lm_eval import lm_eval

    return lm_eval(words)
