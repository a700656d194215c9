"""The program ``hepdask-ml``, whose toys take as long as HEPDASK_ML_TOY_S says, in seconds.

So a campaign of its command ``run`` lasts for several walltimes on any machine.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from batch.slow_limit import Slow

from hepdask_ml.limits import campaign as limits
from hepdask_ml.ui.cli import main

if TYPE_CHECKING:
    from hepdask_ml import Campaign, Limit

quick_limit = limits.toy_limit


def slow_limit(*arguments: Any, **options: Any) -> Campaign[Limit]:
    campaign = quick_limit(*arguments, **options)
    campaign.runner = Slow(campaign.runner, float(os.environ["HEPDASK_ML_TOY_S"]))
    return campaign


if __name__ == "__main__":
    limits.toy_limit = slow_limit
    main()
