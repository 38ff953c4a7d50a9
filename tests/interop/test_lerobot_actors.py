"""Actors beside LeRobot's own."""

import pytest
import torch
from conftest import needs

from trainer.policies.actors import TemporalEnsemble


@needs("lerobot")
@pytest.mark.parametrize("coefficient", [0.01, 0.0, -0.5])
def test_a_temporal_ensemble_equals_lerobots(coefficient):
    from lerobot.policies.act.modeling_act import ACTTemporalEnsembler

    predictions = torch.randn(25, 2, 10, 3, dtype=torch.float64)

    class Predicting:
        def reset(self):
            pass

        def act(self, observation):
            return predictions[int(observation["step"][0])]

    actor, theirs = TemporalEnsemble(Predicting(), coefficient), ACTTemporalEnsembler(coefficient, 10)
    for step in range(25):
        action = actor.act({"step": torch.full((2,), step)})
        torch.testing.assert_close(action, theirs.update(predictions[step]), rtol=1e-6, atol=1e-6)
