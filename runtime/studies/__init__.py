"""Many runs, one answer: schedulers compared, scaling, calibration, and what this installation has."""
