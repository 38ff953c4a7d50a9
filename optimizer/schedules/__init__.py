"""The schedules that innerstep brings, by family. Importing this registers them all."""

import optimizer.schedules.basic
import optimizer.schedules.composition
import optimizer.schedules.cycles
import optimizer.schedules.decays
import optimizer.schedules.hugging_face
import optimizer.schedules.lerobot
import optimizer.schedules.lightning
import optimizer.schedules.plateau
import optimizer.schedules.pytorch
import optimizer.schedules.transformers  # noqa: F401
