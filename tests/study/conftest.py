"""Studies whose runs are forked rather than started, which is quicker."""

from types import SimpleNamespace

import pytest
from forked import Forked

from gptlab.study import runner


@pytest.fixture(scope="module")
def forked_runs():
    """Fork the runs of a study that is conducted here; where a test starts the study, its runs are started too."""

    def start(words, env, **streams):
        # A forked run has no standard input whose end would tell it that the study has gone.
        return Forked(words[3:], {key: value for key, value in env.items() if key != runner.CHILD})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "subprocess", SimpleNamespace(Popen=start, PIPE=None, STDOUT=None))
        yield
