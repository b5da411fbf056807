"""MLPerf LoadGen as the pace-maker of a run: `performance` and `accuracy` are its two modes, `harness` answers its
queries, `session` and `logs` are about its test settings and logs. MLPerf's rules are in `unet3d.planning.mlperf`."""
