"""OpenTelemetry traces of batches, an optional extra; nothing is imported unless they are on."""
