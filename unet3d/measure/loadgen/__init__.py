"""MLPerf LoadGen as the pace-maker of a run: `rules` are MLPerf's settings, `run` carries a run out."""
