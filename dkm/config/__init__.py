"""Settings: one dataclass per section or group option, their checks, and the way from the command line to them."""
