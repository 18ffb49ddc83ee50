"""Settings: one dataclass per section or group option, their checks, and the composition from the command line."""
