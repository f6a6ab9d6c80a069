"""What those who run the service watch: metrics and readiness."""
