"""Client side: one learner per method, in plain torch; only `app` knows Flower."""
