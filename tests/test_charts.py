"""The charts: ticks that enclose their numbers, and a name for those who do not see them."""

import numpy as np
import pytest

from nuclei_kit.report.charts import line_chart, nice_ticks


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.3, 0.7), (0.565, 0.577), (0, 480), (5, 5), (0, 0), (-2, 3)])
def test_ticks_enclose_what_they_are_for(low, high):
    ticks = nice_ticks(low, high, 4)
    assert ticks[0] <= low and ticks[-1] >= high
    assert 2 <= len(ticks) <= 7
    np.testing.assert_allclose(np.diff(ticks), ticks[1] - ticks[0])


def test_a_chart_names_itself():
    chart = line_chart([(1, 2.0), (3, 4.0)], "loss <at> the end", "minutes", "loss", dots=True)
    assert 'aria-label="loss &lt;at&gt; the end"' in chart
    assert chart.count("<circle") == 2
